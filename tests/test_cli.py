"The command line: what it answers, what it says when something is wrong, and whole small runs."
from pathlib import Path
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from fundus_nbdev import cli
from commands import folder_of, in_shell
from pages import ROOT

SMALL = ['--epochs', '1', '--size', '48', '--set', 'model.name=resnet', '--set', 'model.width=4', '--set', 'model.depth=10', '--set', 'training.bs=4']
FILES = ['recipe.toml', 'split.csv', 'history.csv', 'predictions.csv', 'metrics.csv', 'report.html', 'log.txt']


@pytest.fixture(scope='module')
def place(tmp_path_factory): return tmp_path_factory.mktemp('place') # where the runs of this file are written


@pytest.fixture
def here(monkeypatch, place): # the current folder of a run
    monkeypatch.setenv('FUNDUS_CACHE', str(place/'cache'))
    monkeypatch.chdir(place)
    return place


# answers

def test_help(fundus):
    code, text = fundus('--help')
    assert code == 0 and 'run' in text and 'recipes' in text


def test_help_of_run_names_every_option(fundus):
    code, text = fundus('run', '--help')
    assert code == 0
    assert not [option for option in ('--data', '--folds', '--seed', '--epochs', '--size', '--set', '--out', '--overwrite', '--n-examples', '--shared-scale') if option not in text]


def test_recipes(fundus):
    code, text = fundus('recipes')
    assert code == 0 and {line.split()[0] for line in text.splitlines()} >= {'synthetic', 'photographs', 'visibility', 'drimdb', 'eyeq'}


# mistakes

@pytest.mark.parametrize('words, said', [
    (['run', 'dirmdb'], "did you mean 'drimdb'"),
    (['run', 'none.toml'], 'none.toml'),
    (['run', '--data', 'no/such/folder'], 'no/such/folder'),
    (['run', 'drimdb'], '--data'), # a recipe for photographs that don't ship
    (['run', '--set', 'model.widht=4'], 'did you mean model.width'),
    (['run', '--set', 'training.epochs=many'], 'whole number'),
    (['run', '--set', 'training.epochs'], 'training.epochs=5'),
    (['run', '--set', 'data.size=1'], 'from 16 to 4096'),
    (['run', '--folds', '2'], 'at least 3'),
])
def test_mistakes_are_explained(fundus, here, words, said):
    code, text = fundus(*words)
    assert code == 1 and said in text
    assert text.startswith('fundus: ') and not (here/'runs').exists()


def test_a_mistake_shows_no_traceback(tmp_path):
    ran = in_shell(tmp_path, 'run', 'dirmdb')
    assert ran.returncode == 1 and ran.stdout == ''
    assert ran.stderr.startswith('fundus: ') and 'Traceback' not in ran.stderr


def test_an_unknown_option_is_refused(fundus):
    assert fundus('run', '--epoch', '3')[0] == 2


@pytest.mark.parametrize('n', ['-1', '2.5', 'many'])
def test_a_gallery_has_a_whole_number_of_photographs(fundus, here, n):
    code, text = fundus('run', '--n-examples', n)
    assert code == 2 and '--n-examples' in text and not (here/'runs').exists()


# whole runs

@pytest.fixture(scope='module')
def first(photos, place): # a run and what it printed
    ran = in_shell(place, 'run', '--data', photos, *SMALL)
    assert ran.returncode == 0, ran.stderr
    return folder_of(ran.stdout, place), ran.stdout + ran.stderr


def test_run_writes_its_folder(first):
    folder = first[0]
    assert folder.parent.name == 'runs'
    assert not [name for name in FILES if not (folder/name).is_file()]
    assert sorted(f.name for f in (folder/'bundle').iterdir()) == ['bundle.json', 'weights.safetensors']
    assert list((folder/'figures').glob('*.png'))


def test_run_tests_what_it_did_not_train_on(first):
    predictions, split = pd.read_csv(first[0]/'predictions.csv'), pd.read_csv(first[0]/'split.csv')
    assert len(predictions) == 12 and set(predictions.split) == {'train', 'valid', 'test'}
    assert {'path', 'patient', 'label', 'pred', 'p_Good', 'p_Reject'} <= set(predictions)
    assert predictions[['p_Good', 'p_Reject']].sum(axis=1).sub(1).abs().max() < 1e-6
    parts = [{Path(path).name: part for path, part in zip(t.path, t.split)} for t in (predictions, split)]
    assert parts[1].items() >= parts[0].items() # split.csv also has the broken one
    metrics = pd.read_csv(first[0]/'metrics.csv', index_col=0)
    assert {'accuracy', 'macro_f1', 'recall_Good', 'auc_Reject'} <= set(metrics.index) and list(metrics) == ['value', 'low', 'high']
    assert len(pd.read_csv(first[0]/'history.csv')) == 1


def test_a_broken_photograph_is_named_and_left_out(first):
    assert 'broken.jpg' in (first[0]/'log.txt').read_text(encoding='utf-8') + first[1]
    assert not pd.read_csv(first[0]/'predictions.csv').path.str.contains('broken').any()


def test_report_is_one_file(first):
    html = (first[0]/'report.html').read_text(encoding='utf-8')
    assert re.search(r'<meta[^>]+viewport', html)
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"[^>]*(?=>)', re.sub(r'<a\b[^>]*>', '', html)) # nothing is fetched
    assert 'src="data:image/' in html


@pytest.mark.slow
def test_the_same_again_is_the_same_in_a_new_folder(first, fundus, here, photos):
    before = {f: f.read_bytes() for f in first[0].rglob('*') if f.is_file()}
    code, text = fundus('run', '--data', photos, *SMALL)
    second = folder_of(text, here)
    assert code == 0 and second != first[0] and second.parent == first[0].parent
    assert {f: f.read_bytes() for f in first[0].rglob('*') if f.is_file()} == before
    for name in ('recipe.toml', 'split.csv', 'predictions.csv', 'metrics.csv', 'bundle/weights.safetensors'):
        assert hashlib.sha256((second/name).read_bytes()).digest() == hashlib.sha256((first[0]/name).read_bytes()).digest(), name


def test_a_run_folder_is_only_replaced_when_asked(first, fundus, here, photos):
    code, text = fundus('run', '--data', photos, '--out', first[0], *SMALL)
    assert code == 1 and '--overwrite' in text
    assert (first[0]/'report.html').is_file()
    copy = shutil.copytree(first[0], here/'replaced')
    assert fundus('review', copy, '--no-second-opinion')[0] == 0
    (copy/'figures'/'mine.psd').write_text('mine')
    code, text = fundus('run', '--data', photos, '--out', copy, '--overwrite', *SMALL)
    assert code == 0 and (copy/'report.html').stat().st_mtime > (first[0]/'report.html').stat().st_mtime, text
    assert 'since no run wrote it: figures/mine.psd' in text and (copy/'figures'/'mine.psd').is_file() and (copy/'review'/'review.csv').is_file()


def test_what_a_person_made_is_never_replaced(fundus, here, photos):
    mine = here/'mine'
    (mine/'figures').mkdir(parents=True)
    for name in ('log.txt', 'figures/face.png'): (mine/name).write_text('years of work')
    for command in (['run', '--data', photos, *SMALL], ['eda', photos], ['audit', photos, '--no-network']):
        code, text = fundus(*command, '--out', mine, '--overwrite')
        assert code == 1 and 'nothing in it is touched' in text, text
    assert {path.relative_to(mine).as_posix() for path in mine.rglob('*')} == {'log.txt', 'figures', 'figures/face.png'}


def test_resume_of_a_finished_run_only_writes_the_report_again(first, fundus, here):
    copy = here/'copy'
    shutil.copytree(first[0], copy)
    (copy/'report.html').unlink()
    weights = (copy/'bundle'/'weights.safetensors').read_bytes()
    code, text = fundus('run', '--resume', copy)
    assert code == 0 and folder_of(text, here) == copy, text
    assert (copy/'report.html').stat().st_size > 50_000
    assert (copy/'bundle'/'weights.safetensors').read_bytes() == weights
    for name in ('predictions.csv', 'history.csv', 'metrics.csv'): assert (copy/name).read_bytes() == (first[0]/name).read_bytes()


@pytest.mark.parametrize('n', [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 50))])
def test_a_finished_run_gets_galleries_of_any_size(first, fundus, here, n):
    copy = here/f'gallery{n}'
    shutil.copytree(first[0], copy)
    code, text = fundus('run', '--resume', copy, '--n-examples', n, '--shared-scale', *(['--stability', 3] if n == 1 else []))
    html = (copy/'report.html').read_text(encoding='utf-8')
    tested = pd.read_csv(copy/'predictions.csv').query('split == "test"')
    kinds = tested.label.eq(tested.pred).groupby([tested.label.eq(tested.pred), tested.pred.eq('Good') & tested.label.ne(tested.pred)]).size() # right, called Good, called Reject
    assert code == 0 and html.count('<article class="card">') == kinds.clip(upper=n).sum() + min(n, len(tested)) # and the least sure
    assert f'--n-examples {n} --shared-scale' in html
    assert (copy/'stability.csv').exists() == ('Changes that should not matter' in html or 'should not matter' in html) == (n == 1)
    assert 'Why it fails' in html and (copy/'causes.csv').exists()
    assert ('one scale holds for all photographs of a gallery' in html) == (n > 0)


def test_run_says_what_rests_on_few_photographs(first):
    html = (first[0]/'report.html').read_text(encoding='utf-8')
    said = re.search(r'^Few photographs were judged of .*$', first[1], re.M)[0]
    assert said in html and said in (first[0]/'log.txt').read_text(encoding='utf-8')
    assert not re.search(r'\bnan\b', re.sub(r'base64,[\w+/=]+', '', html)) and not re.search(r'\bnan\b', first[1])


def test_run_measures_where_the_network_looks(first):
    looks = pd.read_csv(first[0]/'saliency_location.csv')
    tested = pd.read_csv(first[0]/'predictions.csv').query('split == "test"')
    assert looks[looks.answer.eq('all') & looks.measure.eq('inside')].n.sum() == len(tested)
    assert 'Where it looks' in (first[0]/'report.html').read_text(encoding='utf-8')


def test_review_and_corrections(first, fundus, here, photos):
    code, text = fundus('review', first[0], '--out', here/'review', '--no-second-opinion')
    assert code == 0 and 'contradicted' in text, text
    order = pd.read_csv(here/'review'/'review.csv', keep_default_na=False)
    tested = pd.read_csv(first[0]/'predictions.csv').query('split == "test"')
    assert sorted(order.path) == sorted(tested.path) and set(order.corrected) == {''}
    order.loc[0, 'corrected'] = next(c for c in ('Good', 'Reject') if c != order.label[0])
    order.loc[1, 'corrected'] = 'remove'
    order.to_csv(here/'review'/'review.csv', index=False)
    code, text = fundus('review', first[0], '--out', here/'review', '--no-second-opinion') # again: nothing is lost
    assert code == 0 and (pd.read_csv(here/'review'/'review.csv', keep_default_na=False).corrected != '').sum() == 2
    code, text = fundus('run', '--data', photos, '--corrections', here/'review'/'review.csv', *SMALL)
    assert code == 0, text
    new = pd.read_csv(folder_of(text, here)/'split.csv').set_index('path')
    assert new.label[order.path[0]] == order.corrected[0] and order.path[1] not in new.index
    assert '1 label was corrected and 1 photograph was taken out' in (folder_of(text, here)/'report.html').read_text(encoding='utf-8')


def test_eda(fundus, here, photos):
    code, text = fundus('eda', photos, '--out', here/'look', '--n-boot', '100')
    assert code == 0 and 'sharpness' in text and 'broken.jpg' in text, text
    assert '<html' in (here/'look'/'eda.html').read_text(encoding='utf-8') and len(pd.read_csv(here/'look'/'measures.csv')) == 12
    code, text = fundus('eda', photos, '--out', here/'look')
    assert code == 1 and '--overwrite' in text
    code, text = fundus('eda', here/'nowhere')
    assert code == 1 and 'nowhere' in text


def test_audit(fundus, here, photos):
    table = pd.DataFrame([dict(path=path, label=path.parent.name, clinic='north' if path.parent.name == 'Good' else 'south') for path in sorted(photos.rglob('*.jpg'))])
    shutil.copy(table.path[0], here/'again.jpg')
    table = pd.concat([table, pd.DataFrame([dict(path=here/'again.jpg', label=table.label.unique()[-1], clinic='north')])])
    table.to_csv(here/'labels.csv', index=False)
    code, text = fundus('audit', here/'labels.csv', '--out', here/'audit', '--no-network', '--suspect', 'clinic', '--n-boot', '100')
    assert code == 0 and 'SERIOUS, labels' in text and 'again.jpg' in text and 'broken.jpg' in text, text
    assert '<html' in (here/'audit'/'audit.html').read_text(encoding='utf-8') and 'serious' in set(pd.read_csv(here/'audit'/'findings.csv').severity)
    code, text = fundus('audit', here/'labels.csv', '--out', here/'audit')
    assert code == 1 and '--overwrite' in text
    code, text = fundus('audit', here/'labels.csv', '--out', here/'other', '--suspect', 'year', '--no-network')
    assert code == 1 and 'no column year' in text


def test_an_audit_without_resamples_acquits_nobody(fundus, here, photos):
    code, text = fundus('audit', photos, '--out', here/'unjudged', '--no-network', '--n-boot', '0')
    html = (here/'unjudged'/'audit.html').read_text(encoding='utf-8')
    assert code == 0 and "can't be judged, because" in text and 'CAUTION, shortcuts: Whether the label is given away by' in text, text
    assert 'does not predict</td>' not in html and not re.search(r'\bnan\b', re.sub(r'base64,[\w+/=]+', '', html) + text)


def test_review_needs_a_run(fundus, here):
    code, text = fundus('review', here/'nowhere')
    assert code == 1 and 'folder of a finished run' in text


@pytest.mark.parametrize('words, said', [(['drimdb', '--resume', 'x'], 'no other option'), (['--resume', 'x', '--seed', '1'], 'no other option'), (['--skip-damaged'], 'belongs to --resume')])
def test_resume_stands_alone(fundus, here, words, said):
    code, text = fundus('run', *words)
    assert code == 2 and said in re.sub(r'[\s│]+', ' ', text)


def test_resume_needs_a_run(fundus, here):
    code, text = fundus('run', '--resume', here)
    assert code == 1 and 'is no run: recipe.toml is missing' in text


def test_photographs_that_changed_are_not_trained_on(first, fundus, here, photos):
    copy = here/'changed'
    shutil.copytree(first[0], copy)
    shutil.rmtree(copy/'bundle')
    split = (copy/'split.csv').read_text().replace('train', 'valid', 1)
    (copy/'split.csv').write_text(split)
    code, text = fundus('run', '--resume', copy)
    assert code == 1 and 'split.csv lists other photographs' in text
    assert (copy/'split.csv').read_text() == split


@pytest.mark.slow
def test_folds(fundus, here, photos):
    code, text = fundus('run', '--data', photos, '--folds', '3', '--out', 'folds', *SMALL)
    assert code == 0, text
    folds = sorted(f for f in (here/'folds').iterdir() if re.fullmatch(r'fold\d', f.name))
    assert len(folds) == 3
    for fold in folds: assert (fold/'bundle'/'weights.safetensors').is_file() and (fold/'history.csv').is_file()
    assert not [name for name in ('recipe.toml', 'predictions.csv', 'metrics.csv', 'report.html') if not (here/'folds'/name).is_file()]
    predictions = pd.read_csv(here/'folds'/'predictions.csv')
    assert len(predictions) == 12 and predictions.path.is_unique and predictions.fold.nunique() == 3


def test_the_python_of_the_readme_runs(here, photos):
    code = re.search(r'^```python\n(.*?)^```', (ROOT/'README.md').read_text(encoding='utf-8'), re.M | re.S)[1]
    shutil.copytree(photos, here/'photographs', dirs_exist_ok=True)
    names = {}
    exec(code, names)
    assert names['maps'].shape[:2] == (1, 1) and min(names['maps'].shape[2:]) > 7


# consoles, pipes, widths

HERE = [sys.executable, '-m', 'fundus_nbdev.cli']
SCORES = 'path,label,p_Good,p_Bad\n' + ''.join(f'{i}{name}.jpg,{"Good" if i % 3 else "Bad"},{.1 + .01 * i:.3f},{.9 - .01 * i:.3f}\n' for i in range(30) for name in ('', 'café'))


@pytest.fixture(scope='module')
def written(tmp_path_factory): # two files of predictions
    folder = tmp_path_factory.mktemp('written')
    for name, text in dict(one=SCORES, two=SCORES.replace('0.40', '0.20').replace('0.60', '0.80')).items():
        (folder/f'{name}.csv').write_text(text, encoding='utf-8')
    return folder


def shown(folder, *words, **env): # what it printed; None: it did not end well
    "Run a command, and return what arrives in a pipe, as bytes."
    ran = subprocess.run([*HERE, *map(str, words)], cwd=folder, env=os.environ | {'PYTHONPATH': str(ROOT), **env}, capture_output=True)
    assert ran.returncode == 0 and b'Traceback' not in ran.stderr, ran.stderr.decode('latin-1')
    return ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize('encoding', ['cp1252', 'ascii'])
def test_a_console_without_utf8(written, encoding):
    plain = shown(written, 'evaluate', 'one.csv', 'two.csv', '--n-boot', 0, '--out', encoding, PYTHONIOENCODING=encoding).decode(encoding)
    full = shown(written, 'evaluate', 'one.csv', 'two.csv', '--n-boot', 0, PYTHONIOENCODING='utf-8').decode()
    assert 'a − b' in full and 'a - b' in plain and '?' not in plain
    assert re.findall(r'\d+\.\d+', plain) == re.findall(r'\d+\.\d+', full)
    assert 'metric' in (written/encoding/'one'/'metrics.csv').read_text(encoding='utf-8')
    for words in (['--help'], ['recipes'], ['run', '--help'], ['evaluate', '--help']): shown(written, *words, PYTHONIOENCODING=encoding)


def test_what_no_console_has_is_replaced(fundus, monkeypatch):
    for encoding, meant in ('ascii', "a-b?'"), ('utf-8', 'a–b?’'):
        monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        cli.make_console_plain()
        print('a–b\udce9’', end='', flush=True)
        assert sys.stdout.buffer.getvalue().decode(encoding) == meant


@pytest.mark.skipif(sys.platform != 'linux', reason='names are bytes there')
def test_a_folder_whose_name_is_no_text(fundus, tmp_path):
    folder = tmp_path/os.fsdecode(b'caf\xe9')
    folder.mkdir()
    (folder/'one.csv').write_text(SCORES, encoding='utf-8')
    code, text = fundus('evaluate', folder/'one.csv', '--n-boot', 0, '--out', folder/'out')
    assert code == 0 and 'Written:' in text and (folder/'out'/'metrics.csv').is_file()
    for command in (['eda', folder], ['audit', folder], ['run', '--data', folder]):
        code, text = fundus(*command)
        assert code == 1 and 'a name in this path is no UTF-8. Rename it.' in text


@pytest.mark.parametrize('width', ['40', '200'])
def test_no_number_is_shortened(written, width):
    long = 'p_a_class_with_a_very_long_name_indeed'
    (written/'long.csv').write_text(SCORES.replace('p_Good', long).replace(',Good,', f',{long[2:]},'), encoding='utf-8')
    text = shown(written, 'evaluate', 'long.csv', '--n-boot', 100, COLUMNS=width).decode()
    metrics = text.partition('class')[0]
    assert '…' not in text and len(re.findall(r'^ *\w+ +-?\d\.\d{3} \(-?\d\.\d{3}–-?\d\.\d{3}\)', metrics, re.M)) == 13, text
    assert len(re.findall(r'\(\d\.\d\d–\d\.\d\d\)', text.partition('class')[2])) == 10 and long[2:] in text
    for command in ('run', 'eda', 'audit', 'review', 'evaluate', 'explain'):
        said = shown(written, command, '--help', COLUMNS=width).decode()
        assert not re.findall(r'--[\w-]*…', said)


@pytest.mark.skipif(os.name != 'posix', reason='pipes end otherwise there')
@pytest.mark.parametrize('words', [['--help'], ['recipes'], ['evaluate', 'one.csv', '--n-boot', '0']], ids=str)
def test_a_closed_pipe_ends_quietly(written, words):
    reads, writes = os.pipe()
    os.close(reads)
    ran = subprocess.run([*HERE, *words], cwd=written, env=os.environ | {'PYTHONPATH': str(ROOT)}, stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert ran.returncode in (0, 141) and not ran.stderr, ran.stderr


@pytest.mark.parametrize('command', [['evaluate', 'one.csv'], ['eda', '.'], ['audit', '.']], ids=str)
@pytest.mark.parametrize('n', [1, 99, -1])
def test_resamples_are_none_or_enough(fundus, written, monkeypatch, command, n):
    monkeypatch.chdir(written)
    code, text = fundus(*command, '--n-boot', n)
    assert code == 2 and '--n-boot' in text and 'at least 100' in re.sub(r'[\s│]+', ' ', text), text
