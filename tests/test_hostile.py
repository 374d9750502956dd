"Inputs that people really have, and that once damaged something in silence. Each test is named after the kind of fault."
from pathlib import Path
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fundus_nbdev.core.errors import TableError
from fundus_nbdev.data.table import read_table
from fundus_nbdev.training.checkpoint import checkpoints

SMALL = ['--epochs', '1', '--size', '32', '--set', 'model.name=resnet', '--set', 'model.width=4', '--set', 'model.depth=10', '--set', 'training.bs=4', '--n-examples', '0']


def draw(path, seed=0, side=90):
    "A round patch with a few dark lines; the seed says how it looks."
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - .5
    lines = np.cos(rng.uniform(20, 60) * (x * np.cos(seed) + y * np.sin(seed)))
    rgb = np.stack([150 + 25 * lines, 80 + 25 * lines, 40 + 10 * lines], -1) + rng.normal(0, 4, (side, side, 3))
    rgb[np.hypot(x, y) > .47] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(path)


def draw_set(folder, n=8, names=('Good', 'Bad'), ending='.jpg'):
    "A folder per class."
    for k, name in enumerate(names):
        for i in range(n): draw(folder/name/f'{k}{i:02}{ending}', 100 * k + i)
    return folder


# what a command wrote is no data

@pytest.mark.slow
def test_own_output_is_no_data(fundus, here, monkeypatch):
    data = draw_set(here/'data')
    monkeypatch.chdir(data)
    assert fundus('eda', '.', '--n-boot', '0', '--n-examples', '2')[0] == 0
    code, text = fundus('run', '--data', '.', *SMALL)
    assert code == 0 and 'left out, written by `fundus eda`' in text, text
    code, text = fundus('eda', '.', '--n-boot', '0', '--out', 'second', '--n-examples', '2')
    assert code == 0 and '16 photographs' in text and 'written by `fundus run`' in text, text
    assert list(pd.read_csv(data/'second'/'classes.csv')['class']) == ['Good', 'Bad', 'all']
    with pytest.raises(TableError, match='what `fundus run` wrote'): read_table(data/'runs'/'photographs')


# a folder belongs to one command, and to one process

ALIVE = '''
import sys
from fundus_nbdev.core.output_folder import lock_folder
with lock_folder(sys.argv[1]):
    print('locked', flush=True)
    sys.stdin.read()
'''


@pytest.mark.slow
def test_a_folder_at_work_is_not_touched(fundus, here):
    data = draw_set(here/'data')
    words = [sys.executable, '-c', 'from fundus_nbdev.cli import main; main()', 'run', '--data', data, '--out', here/'X', *SMALL, '--epochs', '2000', '--set', 'training.checkpoint=0']
    live = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while not checkpoints(here/'X'/'checkpoints') and time.monotonic() < end: time.sleep(.1)
        for asked in (['--overwrite'], []):
            code, text = fundus('run', '--data', data, '--out', here/'X', *asked, *SMALL)
            assert code == 1 and ('Another process is at work on' in text if asked else 'holds a run' in text), text
        assert fundus('run', '--resume', here/'X')[1].startswith('fundus: Another process is at work on')
        assert checkpoints(here/'X'/'checkpoints') and live.poll() is None
    finally:
        live.send_signal(signal.SIGINT)
        live.wait(60)


@pytest.mark.parametrize('command', ['eda', 'audit'])
def test_reports_lock_their_folder(fundus, here, command):
    data, out = draw_set(here/'data', 3), here/'out'
    assert fundus(command, data, '--out', out, '--n-boot', '100', *(['--no-network'] if command == 'audit' else []))[0] == 0
    with subprocess.Popen([sys.executable, '-c', ALIVE, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == 'locked\n'
        code, text = fundus(command, data, '--out', out, '--overwrite')
        assert code == 1 and 'Another process is at work on' in text
        other.stdin.close()


def test_a_name_is_left_free_where_nothing_was_written(fundus, here):
    code, text = fundus('run', '--data', here/'nowhere', *SMALL)
    assert code == 1 and 'does not exist' in text and not (here/'runs').exists()


# what is left out is counted and named

def test_endings_folders_and_links_are_counted(here):
    data = draw_set(here/'data', 4)
    for file in sorted((data/'Bad').iterdir())[:2]:
        Image.open(file).save(file.with_suffix('.ppm'))
        file.unlink()
    for i in range(3): draw(data/'Outlier'/f'{i}.gif', i)
    (data/'Usable').mkdir()
    (data/'Good'/'notes.heic').write_bytes(b'?')
    (data/'Good'/'loop').symlink_to('..')
    for i in range(4): draw(data/'Good'/'@eaDir'/f'000{i}.jpg'/'SYNOPHOTO_THUMB_M.jpg', i, 20)
    shutil.copy(data/'Good'/'000.jpg', os.fsencode(data/'Good') + b'/caf\xe9.jpg')
    table = read_table(data)
    assert table.label.value_counts().to_dict() == {'Good': 4, 'Bad': 4, 'Outlier': 3}
    said = '\n'.join(table.attrs['notes'])
    for words in ('its ending .heic: 1 (notes.heic)', 'without a photograph: 1 (Usable)', 'link to a folder above it: 1 (Good/loop)', 'of a system: 1 (Good/@eaDir)', r'no UTF-8 (rename it): 1 (caf\xe9.jpg)'):
        assert words in said, said


@pytest.mark.skipif(os.name != 'posix', reason='permissions as POSIX has them')
def test_a_folder_that_may_not_be_read_is_named(here):
    data = draw_set(here/'data', 3, ('Good', 'Bad', 'Secret'))
    (data/'Secret').chmod(0)
    code = 'import os, sys\nfrom fundus_nbdev.data.table import read_table\nif os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\nprint(*read_table(sys.argv[1]).attrs["notes"])'
    for folder in (here, *here.parents):
        if folder.owner() == here.owner() and not folder.stat().st_mode & 1: folder.chmod(folder.stat().st_mode | 0o755)
    ran = subprocess.run([sys.executable, '-c', code, data], capture_output=True, text=True)
    (data/'Secret').chmod(0o755)
    assert 'may not be read: 1 (Secret)' in ran.stdout, ran.stderr


@pytest.mark.slow
def test_a_small_copy_stays_with_its_photograph(fundus, here):
    from fundus_nbdev.synth.retina import draw_retina
    data = here/'data'
    for name in ('Good', 'Bad'): (data/name/'previews').mkdir(parents=True)
    for i in range(16):
        picture, folder = Image.fromarray(draw_retina(i, size=300).rgb), data/('Good', 'Bad')[i % 2]
        picture.save(folder/f'{i:02}.jpg', quality=95)
        picture.reduce(2).save(folder/'previews'/f'small {i:02}.jpg', quality=95)
    code, text = fundus('run', '--data', data, *SMALL, '--size', '64')
    assert code == 0 and '16 photographs with smaller copies' in text, text
    split = pd.read_csv(here/'runs'/'photographs'/'split.csv')
    assert split.groupby(split.path.str.extract(r'(\d\d)\.jpg')[0]).split.nunique().max() == 1


# labels, patients, columns

def write_rows(here, name, rows, head=('path', 'label'), sep=',', mark=''):
    "Photographs in img/, and a CSV about them."
    for i in range(len(rows)):
        if not (here/'img'/f'{i:03}.png').exists(): draw(here/'img'/f'{i:03}.png', i, 40)
    lines = [sep.join(map(str, head)), *(sep.join(map(str, row)) for row in rows)]
    (here/name).write_text(mark + '\n'.join(lines) + '\n', encoding='utf-8')
    return here/name


def paths(n=12): return [f'img/{i:03}.png' for i in range(n)]


@pytest.mark.parametrize('twins', [('Good', 'GOOD'), ('Good', '"Good "'), ('0', '0.0'), ('not fit', 'Not-fit')])
def test_nearly_equal_labels_are_refused_and_joined(here, twins):
    file = write_rows(here, 'labels.csv', [(path, twins[i % 2] if i % 3 else 'Bad') for i, path in enumerate(paths())])
    if '"' in twins[1]: return # a CSV's spaces around a value are no part of it
    with pytest.raises(TableError, match='nearly equal.*--label') as error: read_table(file)
    joined = re.search(r"labels=\{'(.*)': '(.*)'\}", str(error.value)).groups()
    assert set(read_table(file, labels=dict([joined])).label) == {joined[1], 'Bad'}


def test_a_folder_with_a_space_is_refused(here):
    draw_set(here/'data', 3, ('Good', 'Good ', 'Bad'))
    with pytest.raises(TableError, match="'Good' .3., 'Good ' .3.|'Good ' .3., 'Good' .3."): read_table(here/'data')
    assert set(read_table(here/'data', labels={'Good ': 'Good'}).label) == {'Good', 'Bad'}


def test_missing_values_are_missing(here):
    rows = [(path, 'NA' if i % 6 == 0 else ('Good', 'Bad')[i % 2], ('NA', 'p7', '')[i % 3]) for i, path in enumerate(paths())]
    table = read_table(write_rows(here, 'labels.csv', rows, ('image', 'quality', 'patient')))
    assert set(table.label) == {'Good', 'Bad'} and len(table) == 10
    assert table.patient.nunique() == 1 + (table.patient != 'p7').sum()
    assert [note.split(':')[0] for note in table.attrs['notes']] == ['image is the path, quality the label', 'left out, without a label', 'without a patient']


def test_columns_of_other_programs(here):
    label = ['Good', 'Bad'] * 6
    kaggle = read_table(write_rows(here, 'kaggle.csv', [(f'{i:03}', label[i]) for i in range(12)], ('image', 'level')))
    assert set(kaggle.label) == {'Good', 'Bad'} and all(Path(path).is_file() for path in kaggle.path)
    valid = read_table(write_rows(here, 'valid.csv', [(path, label[i], i > 8) for i, path in enumerate(paths())], ('path', 'label', 'is_valid')))
    assert valid.split.value_counts().to_dict() == {'train': 9, 'valid': 3}
    windows = read_table(write_rows(here, 'windows.csv', [(rf'C:\set\img\{i:03}.png', label[i]) for i in range(12)], sep=';', mark='\ufeff'))
    assert all(Path(path).is_file() for path in windows.path)
    eaten = read_table(write_rows(here, 'eaten.csv', [(i, label[i]) for i in range(12)])) # a spreadsheet made 7 of 007
    assert [Path(path).stem for path in eaten.path] == [f'{i:03}' for i in range(12)]
    named = read_table(write_rows(here, 'named.csv', [(path, label[i]) for i, path in enumerate(paths())], ('bild', 'befund')), columns={'bild': 'path', 'befund': 'label'})
    assert len(named) == 12


@pytest.mark.slow
def test_names_of_columns_and_classes_through_the_command_line(fundus, here):
    rows = [(path, i % 2, i) for i, path in enumerate(paths(24))]
    file = write_rows(here, 'set.csv', rows, ('bild', 'befund', 'Patient-ID'))
    names = ['--column', 'path=bild', '--column', 'label=befund', '--label', '0=Good', '--label', '1=Bad']
    code, text = fundus('run', '--data', file, *names, '--column', 'patient=Patient-ID', *SMALL)
    assert code == 0, text
    assert set(pd.read_csv(here/'runs'/'photographs'/'predictions.csv').columns) >= {'p_Good', 'p_Bad'}
    assert fundus('eda', file, *names, '--n-boot', '0', '--n-examples', '2')[0] == 0
    assert fundus('audit', file, *names, '--n-boot', '100', '--no-network')[0] == 0
    code, text = fundus('eda', file, '--column', 'path=picture', '--out', 'other')
    assert code == 1 and 'No column picture' in text and not (here/'other').exists()


@pytest.mark.slow
def test_folds_that_came_with_the_photographs(fundus, here):
    rows = [(path, ('Good', 'Bad')[i % 2], i // 2 % 3) for i, path in enumerate(paths(24))]
    file = write_rows(here, 'set.csv', rows, ('path', 'label', 'fold'))
    code, text = fundus('run', '--data', file, *SMALL)
    assert code == 0 and 'the column fold is not used' in text and 'fold' not in pd.read_csv(here/'runs'/'photographs'/'predictions.csv')
    code, text = fundus('run', '--data', file, '--folds', '3', *SMALL)
    folds = pd.read_csv(here/'runs'/'photographs-2'/'predictions.csv')
    assert code == 0 and [int(Path(path).stem) // 2 % 3 for path in folds.path] == folds.fold.tolist()


def test_wrapping_folders(here):
    draw_set(here/'archive'/'dataset'/'images', 2)
    assert set(read_table(here/'archive').label) == {'Good', 'Bad'}


def test_nobody_else_is_a_drimdb(here):
    draw_set(here/'data', 3, ('Good', 'Bad', 'Outlier'))
    assert read_table(here/'data').label.value_counts().to_dict() == {'Good': 3, 'Bad': 3, 'Outlier': 3}


def test_corrections_of_a_spreadsheet(here):
    from fundus_nbdev.data.corrections import correct_labels
    table = read_table(draw_set(here/'data', 2))
    (here/'review.csv').write_text(f'\ufeffpath;label;corrected\n{table.path[0]};{table.label[0]};Good\n', encoding='utf-8')
    assert correct_labels(table, here/'review.csv').label[0] == 'Good'


# what can't work is said in a line, before the long work

@pytest.mark.parametrize('words, said', [
    (['--set', '='], 'expected a setting and its value'),
    (['--size', '32', '--set', 'model.norm=instance'], 'can not be trained with data.size = 32'),
    (['--out', 'file/X'], 'a part of its path is a file'),
    (['--out', 'x' * 300], 'its name is too long')])
def test_one_line_before_the_long_work(fundus, here, words, said):
    (here/'file').write_text('')
    code, text = fundus('run', *words)
    assert code == 1 and said in text and text.count('\n') == 1, text


def test_a_cache_that_can_not_be_written(fundus, here, monkeypatch):
    (here/'file').write_text('')
    monkeypatch.setenv('FUNDUS_CACHE', str(here/'file'/'cache'))
    code, text = fundus('run', '--epochs', '1')
    assert code == 1 and text.count('\n') == 1 and 'FUNDUS_CACHE' in text, text


def test_a_recipe_of_a_windows_editor(here):
    (here/'mine.toml').write_text('\ufeffname = "mine"\n', encoding='utf-8')
    from fundus_nbdev.training.recipe import read_recipe
    assert read_recipe(here/'mine.toml').name == 'mine'


@pytest.mark.slow
def test_reports_are_named_after_their_data(fundus, here, monkeypatch):
    for name in ('set.v1', 'set.v2'): draw_set(here/name, 2)
    (here/'set.v1'/'Good').mkdir(exist_ok=True)
    for name in ('set.v1', 'set.v2'): assert fundus('eda', here/name, '--n-boot', '0', '--n-examples', '1')[0] == 0
    monkeypatch.chdir(here/'set.v1'/'Good')
    assert fundus('eda', '..', '--n-boot', '0', '--n-examples', '1')[1].strip().endswith('eda/set.v1/eda.html')
    assert sorted(path.name for path in (here/'eda').iterdir() if path.is_dir()) == ['set.v1', 'set.v2']
