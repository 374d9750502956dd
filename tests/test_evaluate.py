"Predictions made anywhere: how they are read, what is refused and in which words, and `fundus evaluate`."
from pathlib import Path
import re
import subprocess
import sys

from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner
import numpy as np
import pandas as pd
import pytest

from fundus_nbdev.core.output_folder import entries
from fundus_nbdev.cli import app
from fundus_nbdev.core.errors import PredictionError
from fundus_nbdev.data.photo_table import near_equal
from fundus_nbdev.data.table import NOBODY
from fundus_nbdev.evaluation.compare import compare, compare_models, rank_models
from fundus_nbdev.evaluation.metrics import METRICS, evaluate, metric, metric_names
from fundus_nbdev.evaluation.multi_run import evaluate_runs
from fundus_nbdev.evaluation.predictions import fitting_part, probabilities, save_predictions
from fundus_nbdev.evaluation.reading import read_predictions
from fundus_nbdev.evaluation.simulate import draw_predictions

TABLE = draw_predictions(80, split={'train': .2, 'valid': .3, 'test': .5})
TWO = draw_predictions(60, classes=('Good', 'Bad'), prior=(.6, .4))
HEAVY = {'torch', 'torchvision', 'fastai', 'pandas', 'numpy', 'cv2', 'matplotlib', 'sklearn', 'scipy', 'PIL'}


def fundus_evaluate(*words): # exit code, what it printed
    "The command, without intervals unless they are asked for."
    words = [*map(str, words)]
    ran = CliRunner().invoke(app, ['evaluate', *words, *['--n-boot', '0'] * ('--n-boot' not in words)], env={'COLUMNS': '200'})
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran.exit_code, ran.output


def write(folder, table, **options): # path of a CSV file
    file = Path(folder)/'predictions.csv'
    table.to_csv(file, index=False, **options)
    return file


def change(table, row, column, value): # copy
    "The table with one value changed; a row is counted in the test part."
    table = table.astype({column: object})
    table.loc[table.index[table['split'] == 'test'][row], column] = value
    return table


# bad input: the row and the column are named, by the library and by the command

i, j = TABLE.index[TABLE['split'] == 'test'][[0, 3]]
BAD = {
    'no path': (TABLE.drop(columns='path'), ['column path: missing', 'the table has patient, split']),
    'no label': (TABLE.drop(columns='label'), ['column label: missing']),
    'no probabilities': (TABLE[['path', 'label', 'split', 'pred', 'patient']], ['columns p_<class>: found 0 (none)']),
    'one class': (TABLE.drop(columns=['p_Usable', 'p_Reject']), ['columns p_<class>: found 1 (Good)']),
    'sum': (change(TABLE, 0, 'p_Good', 1 - TABLE.p_Good[i] / 2), [f'row {i} ({i}.jpg), p_Good + p_Usable + p_Reject: found', 'expected a sum of 1']),
    'NaN': (change(TABLE, 3, 'p_Usable', np.nan), [f'row {j} ({j}.jpg), p_Usable: found', 'expected a number from 0 to 1']),
    'infinite': (change(TABLE, 3, 'p_Usable', np.inf), [f'row {j} ({j}.jpg), p_Usable: found inf']),
    'text': (change(TABLE, 0, 'p_Reject', 'high'), [f'row {i} ({i}.jpg), p_Reject: found high']),
    'unknown label': (change(TABLE, 0, 'label', 'good'), [f'row {i} ({i}.jpg), label: found good; expected one of the classes Good, Usable, Reject']),
    'no label in a row': (change(TABLE, 3, 'label', None), [f'row {j} ({j}.jpg), label: found']),
    'unknown answer': (change(TABLE, 3, 'pred', 'Bad'), [f'row {j} ({j}.jpg), pred: found Bad']),
    'other answer': (change(TABLE, 0, 'pred', 'Reject' if TABLE.pred[i] != 'Reject' else 'Good'), [f'row {i} ({i}.jpg), pred:', 'expected the class of highest probability']),
    'one class in the labels': (TABLE.assign(label='Good'), ['column label: every row is Good']),
    'the same photograph twice': (change(TABLE, 3, 'path', f'{i}.jpg'), [f'row {j} ({i}.jpg), path: found {i}.jpg', 'each photo once']),
    'no patient in a row': (change(TABLE, 0, 'patient', ''), [f"row {i} ({i}.jpg), patient: found ''"]),
    'no test part': (TABLE[TABLE['split'] != 'test'], ['no rows of split test', "'train'", "'valid'"]),
    'empty': (TABLE[:0], []),
}


@pytest.mark.parametrize('table, said', BAD.values(), ids=BAD)
def test_bad_tables(table, said):
    with pytest.raises(PredictionError) as caught: evaluate(table, n_boot=0)
    assert not [part for part in said if part not in str(caught.value)], str(caught.value)


READ = {'no patient in a row'} # from a file it is read: a patient of its own


@pytest.mark.parametrize('table, said', [bad for name, bad in BAD.items() if name not in READ], ids=[name for name in BAD if name not in READ])
def test_bad_files(table, said, tmp_path):
    code, text = fundus_evaluate(write(tmp_path, table), '--out', tmp_path/'out')
    assert code == 2 and text.startswith('fundus: ') and 'Traceback' not in text
    assert not [part for part in said if part not in text], text
    assert not (tmp_path/'out').exists()


@pytest.mark.parametrize('split', [['train', 'test'], ['test', 'train', 'valid']])
def test_training_rows_are_not_mixed_in(split, tmp_path):
    with pytest.raises(PredictionError, match='never scored together'): evaluate(TABLE, n_boot=0, split=split)
    code, text = fundus_evaluate(write(tmp_path, TABLE), *[word for part in split for word in ('--split', part)])
    assert code == 2 and 'never scored together' in text


@pytest.mark.parametrize('split', ['train', 'test', ['valid', 'test'], 'all', None])
def test_only_the_validation_part_is_fitted_on(split):
    with pytest.raises(PredictionError, match='fit on split'): fitting_part(TABLE, split)
    assert set(fitting_part(TABLE)['split']) == {'valid'}
    assert len(fitting_part(TABLE.drop(columns='split'))) == len(TABLE)


FILES = {
    'nothing': (b'', 'not a CSV table'),
    'Latin-1': ('path,label,p_Gut,p_Unschön\n'.encode('latin-1'), 'not a CSV table in UTF-8'),
    'a picture': (b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0', 'not a CSV table'),
    'an open quote': (b'path,label,p_a,p_b\n"1,a,.5,.5\n', 'not a CSV table'),
    'a shifted row': (b'path,label,p_a,p_b\n1,right.png,a,.9,.1\n2.png,b,.2,.8\n', "row 0 (1) has 5 values for 4 columns; put quotes around text that contains ','"),
    'a short row': (b'path,label,p_a,p_b\n1.png,a,.9,.1\n2.png,b,.2\n', 'row 1 (2.png) has 3 values for 4 columns'),
    'a column twice': (b'path,label,label,p_a,p_b\n1,a,b,.9,.1\n', 'column label there more than once'),
    'another separator': (b'path|label|p_a|p_b\n1|a|.9|.1\n', 'the table has path|label|p_a|p_b'),
}


@pytest.mark.parametrize('content, said', FILES.values(), ids=FILES)
def test_bad_text(content, said, tmp_path):
    file = tmp_path/'predictions.csv'
    file.write_bytes(content)
    with pytest.raises(PredictionError, match=re.escape(said)): read_predictions(file)
    code, text = fundus_evaluate(file)
    assert code == 2 and said in text


# anyone's file

def logits(table): return table.assign(**{c: np.log(table[c]) + 3 for c in table if c.startswith('p_')})
def percent(table): return table.assign(**{c: 100 * table[c] for c in table if c.startswith('p_')})


THREE = TABLE.drop(columns='pred')
NAMES = {'path': 'image', 'label': 'truth', 'p_Good': 'prob good', 'p_Usable': 'prob_usable', 'p_Reject': 'prob=reject'}
NUMBERS = {'Good': '0', 'Usable': '1', 'Reject': '2'}
NUMBERED = TABLE.replace({'label': NUMBERS, 'pred': NUMBERS}).rename(columns={f'p_{name}': f'p_{n}' for name, n in NUMBERS.items()})
ELSEWHERE = { # table it stands for, table in the file, how it is written, how it is read, the same for the command
    'our own': (TABLE, TABLE, {}, {}, []),
    'other names': (TABLE, TABLE.rename(columns=NAMES), {}, dict(columns={b: a for a, b in NAMES.items()}), [w for a, b in NAMES.items() for w in ('--column', f'{a}={b}')]),
    'numbered classes': (TABLE, NUMBERED, {}, dict(labels={n: name for name, n in NUMBERS.items()}), [w for name, n in NUMBERS.items() for w in ('--label', f'{n}={name}')]),
    'numbered labels': (THREE, THREE.replace({'label': NUMBERS}), {}, dict(labels={int(n): name for name, n in NUMBERS.items()}), [w for name, n in NUMBERS.items() for w in ('--label', f'{n}={name}')]),
    'Excel': (THREE, THREE, dict(sep=';', decimal=',', encoding='utf-8-sig'), dict(decimal=','), ['--decimal', ',']),
    'tabs': (TABLE, TABLE, dict(sep='\t', lineterminator='\r\n'), {}, []),
    'per-cents': (THREE, percent(THREE), {}, dict(values='percent'), ['--values', 'percent']),
    'per-cent signs': (THREE, percent(THREE).assign(**{c: percent(THREE)[c].astype(str) + ' %' for c in THREE if c.startswith('p_')}), {}, dict(values='percent'), ['--values', 'percent']),
    'logits': (THREE, logits(THREE), {}, dict(values='logits'), ['--values', 'logits']),
    'names of parts': (TABLE, TABLE.replace({'split': {'train': 'Training', 'valid': 'val', 'test': 'TEST'}}), {}, {}, []),
    'further columns': (TABLE, TABLE.assign(p_value=.3, note='a; "b"').rename(columns={'pred': 'answer'}), {}, dict(columns={'p_value': 'value', 'answer': 'pred'}), ['--column', 'value=p_value', '--column', 'pred=answer']),
    'one column': (TWO, TWO.drop(columns=['p_Good', 'pred']), {}, dict(negative='Good'), ['--negative', 'Good']),
    'one score': (TWO, TWO.assign(score=100 * TWO['p_Bad']).replace({'label': {'Good': '0', 'Bad': '1'}})[['path', 'patient', 'label', 'score']], {},
                  dict(columns={'score': 'p_1'}, labels={0: 'Good', 1: 'Bad'}, negative='Good', values='percent'),
                  ['--column', 'p_1=score', '--label', '0=Good', '--label', '1=Bad', '--negative', 'Good', '--values', 'percent']),
    'one logit': (TWO, TWO.assign(p_Bad=np.log(TWO['p_Bad'] / TWO['p_Good'])).drop(columns=['p_Good', 'pred']), {}, dict(values='logits', negative='Good'), ['--values', 'logits', '--negative', 'Good']),
}


@pytest.mark.parametrize('meant, table, form, options, words', ELSEWHERE.values(), ids=ELSEWHERE)
def test_files_from_elsewhere(meant, table, form, options, words, tmp_path):
    meant = meant if 'pred' in meant else meant.assign(pred=TABLE['pred'])
    file = write(tmp_path, table, **form)
    read = read_predictions(file, **options)
    assert set(meant) <= set(read) and [c for c in read if c.startswith('p_')] == [c for c in meant if c.startswith('p_')]
    pd.testing.assert_frame_equal(read[list(meant)].astype({'pred': object}), meant.astype({'pred': object}), check_dtype=False, rtol=0, atol=1e-12)
    code, text = fundus_evaluate(file, *words)
    assert code == 0 and text == fundus_evaluate(save_predictions(meant, tmp_path/'meant.csv'))[1]


UNSAID = {
    'other names': (TABLE.rename(columns=NAMES), "columns={'image': 'path'", '--column path=image'),
    'numbered labels': (THREE.replace({'label': NUMBERS}), "labels={'0': …, '1': …, '2': …}", '--label 0=Good'),
    'decimal commas': (THREE.assign(p_Good=THREE['p_Good'].astype(str).str.replace('.', ',')), "decimal=','", ''),
    'per-cents': (percent(THREE), "values='percent'", ''),
    'logits': (logits(THREE), "values='logits'", ''),
    'one column': (TWO[['path', 'label', 'p_Bad']], "negative='Good'", ''),
}


@pytest.mark.parametrize('table, hint, words', UNSAID.values(), ids=UNSAID)
def test_nothing_is_guessed_but_the_option_is_named(table, hint, words, tmp_path):
    file = write(tmp_path, table)
    with pytest.raises(PredictionError) as caught: read_predictions(file)
    assert f'Read it with {hint}' in str(caught.value), str(caught.value)
    code, text = fundus_evaluate(file)
    assert code == 2 and hint in text and words in text



# columns that nobody named, spellings, scores

def upper(table): return table.rename(columns={c: f'P_{c[2:]}' if c.startswith('p_') else c.capitalize() for c in table})


USUAL = { # how the file differs, what is said of it
    'any case': (upper(TABLE), {}, 'Path is the path, Label the label, Patient the patient, Split the split, Pred the pred, P_Good p_Good, P_Usable p_Usable, P_Reject p_Reject.'),
    'usual names': (TABLE.rename(columns={'path': 'Image', 'label': 'quality', 'patient': 'Subject', 'split': 'subset'}), {}, 'Image is the path, quality the label, Subject the patient, subset the split.'),
    'a German spreadsheet': (TABLE.rename(columns={'path': 'filename', 'split': 'Set'}), dict(sep=';', decimal=',', encoding='utf-8-sig', lineterminator='\r\n'), 'filename is the path, Set the split.'),
    'the name of the contract comes first': (TABLE.assign(image='x', grade='1', Set='A'), {}, ''),
}


@pytest.mark.parametrize('table, form, said', USUAL.values(), ids=USUAL)
def test_columns_have_the_names_of_photo_tables(table, form, said, tmp_path):
    told, file = [], write(tmp_path, table, **form)
    read = read_predictions(file, decimal=form.get('decimal', '.'), say=told.append)
    pd.testing.assert_frame_equal(read[list(TABLE)].astype({'pred': object}), TABLE.astype({'pred': object}), check_dtype=False, rtol=0, atol=1e-12)
    assert said in ' '.join(told) and bool(told) == bool(said)
    code, text = fundus_evaluate(file, *(['--decimal', ','] if form else []))
    assert code == 0 and text.endswith(fundus_evaluate(write(tmp_path, TABLE))[1]) and said in text


REFUSED = { # table, what is said, the option that mends it
    'two columns that could be meant': (TABLE.rename(columns={'path': 'Image'}).assign(File='x'), ['Image and File could each be the path'], ['--column', 'path=Image']),
    'another set': (TABLE.drop(columns='split').assign(set='DRIMDB'), ['split: found DRIMDB', "columns={'set': 'their_set'} if set is not what is called split"], ['--column', 'their_set=set']),
    'a part is missing': (change(TABLE, 0, 'split', ''), ["split: found ''; expected one of train, valid, test"], None),
    'a label is missing': (change(TABLE, 0, 'label', ''), ["label: found ''"], None),
    'a label says so': (change(TABLE, 0, 'label', 'NA'), ['label: found NA'], None),
    'spellings': (change(change(TABLE, 0, 'label', 'GOOD'), 1, 'label', 'good '), ["labels={'GOOD': 'Good', 'good ': 'Good'}"], ['--label', 'GOOD=Good', '--label', 'good =Good']),
    'numbers': (NUMBERED.assign(label=NUMBERED.label + '.0'), ["labels={'0.0': '0', '1.0': '1', '2.0': '2'}"], ['--label', '0.0=0', '--label', '1.0=1', '--label', '2.0=2']),
    'two columns of one class': (TABLE.assign(p_good=0.), ['columns p_Good and p_good: classes that differ in their spelling only'], None),
}


@pytest.mark.parametrize('table, said, words', REFUSED.values(), ids=REFUSED)
def test_what_is_unclear_is_asked(table, said, words, tmp_path):
    code, text = fundus_evaluate(write(tmp_path, table))
    assert code == 2 and not [part for part in said if part not in text], text
    if words: assert fundus_evaluate(write(tmp_path, table), *words)[0] == 0


@pytest.mark.parametrize('word', ['', 'NA', 'nan', '-', 'None', 'unknown'])
def test_nobody_is_no_patient(word, tmp_path):
    told = []
    read = read_predictions(write(tmp_path, TABLE.assign(patient=[word] * 5 + list(TABLE.patient[5:]))), say=told.append)
    assert read.patient[:5].tolist() == TABLE.path[:5].tolist() and read.patient[5:].tolist() == TABLE.patient[5:].tolist()
    assert told == ['predictions.csv: without a patient: 5 (0.jpg, 1.jpg, 2.jpg and 2 more); each counts as a patient of its own.']


def test_scores_are_divided_by_their_sum(tmp_path):
    columns = [c for c in THREE if c.startswith('p_')]
    sigmoids = THREE.assign(**{c: THREE[c] * np.linspace(.5, 1, len(THREE)) for c in columns})
    code, text = fundus_evaluate(write(tmp_path, sigmoids))
    assert code == 2 and "values='scores'" in text and 'logits' not in text.partition('Options of')[0]
    read, told = read_predictions(write(tmp_path, sigmoids), values='scores', say=(told := []).append), told
    np.testing.assert_allclose(probabilities(read), probabilities(THREE))
    assert told == ['predictions.csv: 79 rows of 80 did not sum to 1 (sums from 0.5 to 1), and each was divided by its sum.']
    assert 'did not sum to 1' in fundus_evaluate(write(tmp_path, sigmoids), '--values', 'scores')[1]


@pytest.mark.parametrize('digits, logits_refused', [(2, True), (3, True), (8, True), (1, False)])
def test_rounded_probabilities(digits, logits_refused, tmp_path):
    "Two digits or more are read as they are; fewer are no probabilities, and the advice keeps what they mean."
    file = write(tmp_path, THREE.round(digits))
    code, text = fundus_evaluate(file)
    assert code == (0 if digits > 1 else 2), text
    if digits == 1: assert "values='scores'" in text and fundus_evaluate(file, '--values', 'scores')[0] == 0
    code, text = fundus_evaluate(file, '--values', 'logits')
    assert ('probabilities already' in text) == logits_refused


names = st.text(st.characters(exclude_categories=['Cs', 'Cc']), min_size=1, max_size=12).filter(lambda name: name.strip().lower() not in NOBODY)
shares = st.lists(st.floats(0, 1), min_size=2, max_size=2).map(lambda two: (min(two), max(two) - min(two), 1 - max(two)))


@settings(max_examples=60, deadline=None)
@given(classes=st.lists(names, min_size=3, max_size=3, unique=True).filter(lambda found: not near_equal(found)), rows=st.lists(st.tuples(names, names, shares), min_size=2, max_size=5, unique_by=lambda row: row[0]))
def test_what_is_saved_comes_back_bit_for_bit(classes, rows, tmp_path_factory):
    values = np.array([row[2] for row in rows])
    table = pd.DataFrame({'path': [row[0] for row in rows], 'patient': [row[1] for row in rows], 'fold': range(len(rows)), 'label': [classes[k % 2] for k in range(len(rows))],
                          'pred': np.array(classes, dtype=object)[values.argmax(1)], **{f'p_{c}': values[:, k] for k, c in enumerate(classes)}})
    read = read_predictions(save_predictions(table, tmp_path_factory.mktemp('saved')/'predictions.csv'))
    assert read.columns.tolist() == table.columns.tolist()
    assert probabilities(read).tobytes() == values.tobytes()
    for column in ('path', 'patient', 'fold', 'label', 'pred'): assert read[column].tolist() == table[column].tolist()


# the command

def test_help_answers_at_once():
    code = f'import sys\nfrom fundus_nbdev.cli import main\nsys.argv = ["fundus", "evaluate", "--help"]\ntry: main()\nexcept SystemExit: print("loaded:", *({HEAVY!r} & set(sys.modules)))'
    ran = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert ran.stdout.rstrip().endswith('loaded:')
    options = ('--column', '--label', '--negative', '--values', '--decimal', '--split', '--group', '--n-boot', '--seed', '--metric', '--out', '--overwrite')
    assert not [option for option in options if option not in ran.stdout]


def test_it_says_what_was_scored_and_how_sure_it_is(tmp_path):
    code, text = fundus_evaluate(write(tmp_path, TABLE), '--n-boot', 100, '--seed', 3)
    part = TABLE[TABLE['split'] == 'test']
    assert code == 0 and text.startswith(f'Scored: the test part, {len(part)} photographs of {part.patient.nunique()} patients.\n')
    metrics = evaluate(TABLE, n_boot=100, seed=3)
    for name in metric_names([]): assert re.search(rf'^ *{name} +{metrics.value[name]:.3f} \({metrics.low[name]:.3f}–{metrics.high[name]:.3f}\)', text, re.M), name
    for name in ('Good', 'Usable', 'Reject'): assert re.search(rf'^ *{name} +{metrics.value[f"precision_{name}"]:.2f} ', text, re.M), name
    assert 'Intervals: BCa bootstrap over patients, 100 resamples; that of ece is only indicative.' in text


@pytest.mark.parametrize('words, said', [
    (['--split', 'valid'], 'Scored: the valid part, '),
    (['--split', 'valid', '--split', 'test'], 'Scored: the valid and test part, '),
    (['--group', 'none'], 'photographs.\n'),
    (['--group', 'camera'], 'in 2 groups (camera).'),
    (['--group', 'none', '--n-boot', '100'], 'BCa bootstrap over photographs, 100 resamples'),
    (['--group', 'camera', '--n-boot', '100'], 'BCa bootstrap over values of camera, 100 resamples'),
    (['--n-boot', '0'], 'There are no intervals, so nothing says how far off a number may be: no resamples'),
])
def test_options_of_scoring(words, said, tmp_path):
    code, text = fundus_evaluate(write(tmp_path, TABLE.assign(camera=['A', 'B'] * (len(TABLE) // 2))), *words)
    assert code == 0 and said in text, text


def test_unknown_patients_are_mentioned(tmp_path):
    code, text = fundus_evaluate(write(tmp_path, TABLE[['path', 'label', 'p_Good', 'p_Usable', 'p_Reject']]))
    assert code == 0 and 'Scored: every row of the file, 80 photographs.\nNo patients are known: each photograph counts as a patient of its own.' in text


@pytest.mark.parametrize('words, said', [
    (['none.csv'], 'does not exist'), ([], 'Missing argument'),
    (['FILE', '--column', 'image'], 'both sides of ='), (['FILE', '--label', '=Good'], 'both sides of ='), (['FILE', '--label', '0=a', '--label', '0=b'], 'there twice'),
    (['FILE', '--column', 'path=img'], 'no column img to rename'), (['FILE', '--values', 'odds'], 'expected one of probabilities, percent, logits'),
    (['FILE', '--decimal', ';'], "expected '.' or ','"), (['FILE', '--negative', 'Good'], 'the one without a column'),
    (['FILE', '--split', 'dev'], 'no rows of split dev'), (['FILE', '--group', 'eye'], "no column 'eye'"), (['FILE', '--n-boot', '-1'], '--n-boot'),
    (['FILE', '--out', 'FILE'], 'is a file'), (['FILE', 'FILE'], 'must differ'),
])
def test_mistakes_are_explained(words, said, tmp_path):
    file = write(tmp_path, TABLE)
    code, text = fundus_evaluate(*[file if word == 'FILE' else word for word in words])
    assert code == 2 and said in re.sub(r'[\s│]+', ' ', text), text


def test_out_is_written_once(tmp_path):
    file, out = write(tmp_path, TABLE), tmp_path/'a'/'out'
    code, text = fundus_evaluate(file, '--out', out, '--n-boot', 100)
    assert code == 0 and text.endswith(f'Written: {out}\n')
    assert entries(out) == ['figures', 'metrics.csv']
    assert entries(out/'figures') == [f'{name}.png' for name in ('confusion', 'precision_recall', 'reliability', 'risk_coverage', 'roc')]
    assert all(f.read_bytes().startswith(b'\x89PNG') for f in (out/'figures').iterdir())
    before = (out/'metrics.csv').read_bytes()
    pd.testing.assert_frame_equal(pd.read_csv(out/'metrics.csv', index_col=0), evaluate(TABLE, n_boot=100), rtol=1e-12)
    code, text = fundus_evaluate(file, '--out', out)
    assert code == 2 and '--overwrite' in text and (out/'metrics.csv').read_bytes() == before
    code, text = fundus_evaluate(file, '--out', out, '--overwrite')
    assert code == 0 and (out/'metrics.csv').read_bytes() != before


def worse(table): # copy
    "Another network, surer of what it says and now and then of the wrong class."
    classes = ['Good', 'Usable', 'Reject']
    values = (probabilities(table)**.5 + np.random.default_rng(0).random((len(table), 3)))
    values /= values.sum(1, keepdims=True)
    return table.assign(pred=np.array(classes, dtype=object)[values.argmax(1)], **{f'p_{c}': values[:, k] for k, c in enumerate(classes)})


def test_several_files_are_compared(tmp_path):
    for name, table in dict(a=TABLE, b=worse(TABLE)).items():
        (tmp_path/name).mkdir()
        write(tmp_path/name, table)
    files = [tmp_path/name/'predictions.csv' for name in 'ab'] # both have one name, so their folders' names tell them apart
    code, text = fundus_evaluate(*files, '--n-boot', 100, '--metric', 'accuracy', '--out', tmp_path/'out')
    assert code == 0, text
    assert text.count('Scored: the test part') == 2 and text.index(f'a ({files[0]})') < text.index(f'b ({files[1]})') < text.index('a − b')
    assert entries(tmp_path/'out') == ['a', 'b', 'comparison.csv'] and (tmp_path/'out'/'b'/'metrics.csv').is_file()
    pair = pd.read_csv(tmp_path/'out'/'comparison.csv').iloc[0]
    values = [evaluate(read_predictions(file), n_boot=0).value['accuracy'] for file in files]
    assert (pair.a, pair.b) == ('a', 'b') and np.allclose([pair.value_a, pair.value_b, pair.difference], [*values, values[0] - values[1]], atol=1e-9)
    assert f'{pair.difference:+.3f} ({pair.low:+.3f} to {pair.high:+.3f})' in text
    code, text = fundus_evaluate(*files, '--out', tmp_path/'out')
    assert code == 2 and '--overwrite' in text


def test_only_the_same_photographs_are_compared(tmp_path):
    files = [tmp_path/'a.csv', tmp_path/'b.csv']
    TABLE.to_csv(files[0], index=False)
    TABLE[TABLE['path'] != f'{i}.jpg'].to_csv(files[1], index=False)
    code, text = fundus_evaluate(*files)
    assert code == 2 and f'{i}.jpg' in text and 'Scored' not in text and '--common' in text
    code, text = fundus_evaluate(*files, '--common')
    assert code == 0 and text.startswith(f'comparing only the {(TABLE["split"] == "test").sum() - 1} photographs that all tables have: a has 1')
    TABLE.to_csv(files[1], index=False)
    code, text = fundus_evaluate(*files, '--metric', 'acuracy')
    assert code == 2 and "no metric 'acuracy'; expected one of accuracy, " in text


def test_few_photographs_are_said_to_be_few(tmp_path):
    two = pd.DataFrame(dict(path=['a', 'b'], label=['Good', 'Bad'], p_Good=[.8, .2], p_Bad=[.2, .8]))
    code, text = fundus_evaluate(write(tmp_path, two), '--n-boot', 100)
    assert code == 0 and '1.000 (1.000–1.000)' in text
    assert 'Few photographs were judged of Good (1) and Bad (1)' in text and 'An interval of a single value is no certainty (accuracy' in text
    assert 'error rate of up to 95.0 %' in text and not re.search(r'\bnan\b', text)


@pytest.mark.parametrize('metric, said', [('ece', 'noise makes ece larger'), ('macro_auc', 'p is corrected'), ('one patient', 'nothing says whether a difference')])
def test_comparisons_show_no_nan(metric, said, tmp_path):
    for name, table in dict(a=TABLE, b=worse(TABLE)).items():
        table.assign(patient='one' if metric == 'one patient' else TABLE.patient).to_csv(tmp_path/f'{name}.csv', index=False)
    code, text = fundus_evaluate(tmp_path/'a.csv', tmp_path/'b.csv', '--n-boot', 100, '--metric', metric if metric in METRICS else 'accuracy')
    assert code == 0 and said in text and not re.search(r'\bnan\b', text), text


@pytest.mark.parametrize('n', [1, 99, -1])
def test_resamples_are_none_or_enough(n):
    with pytest.raises(PredictionError, match=f'found {n}; expected at least 100 resamples, or 0'): evaluate(TABLE, n_boot=n)
    with pytest.raises(PredictionError, match='at least 100'): compare(TABLE, worse(TABLE), n_boot=n)


# a metric of one's own

@pytest.fixture
def worst(): # the name of a metric that is registered for one test
    @metric('worst_mistake', higher=False)
    def worst_mistake(truth, probabilities):
        "Share of the last class that is answered as the first; no photograph of it, no share."
        last = truth == probabilities.shape[1] - 1
        return (probabilities.argmax(1)[last] == 0).mean() if last.any() else np.nan
    yield 'worst_mistake'
    del METRICS['worst_mistake']


def test_a_new_metric_has_its_row_and_changes_no_other(worst):
    table = evaluate(TABLE, n_boot=200)
    assert list(table.index).index(worst) == 13 and table.index[14] == 'precision_Good'
    part = TABLE[TABLE['split'] == 'test']
    last = part[part['label'] == 'Reject']
    assert table.value[worst] == (last['pred'] == 'Good').mean() and table.low[worst] <= table.value[worst] <= table.high[worst]
    found = METRICS.pop(worst)
    pd.testing.assert_frame_equal(table.drop(worst), evaluate(TABLE, n_boot=200))
    METRICS[worst] = found


def test_a_new_metric_may_be_undefined(worst):
    rare = draw_predictions(60, seed=8, prior=(.6, .38, .02))
    table = evaluate(rare, n_boot=200)
    assert table.attrs['undefined'][worst] == table.attrs['undefined']['recall_Reject'] > 0
    assert np.isnan(evaluate(rare[rare['label'] != 'Reject'], n_boot=100).value[worst])


def test_a_new_metric_is_compared(worst):
    a, b = TABLE[TABLE['split'] == 'test'], worse(TABLE)[TABLE['split'] == 'test']
    values = [evaluate(table, n_boot=0).value[worst] for table in (a, b)]
    row = compare(a, b, n_boot=100).loc[worst]
    assert [row.a, row.b, row.difference] == [*values, values[0] - values[1]] and row.low <= row.difference <= row.high
    pair = compare_models({'a': a, 'b': b}, worst, n_boot=100).iloc[0]
    assert [pair.value_a, pair.value_b] == values
    assert rank_models({'b': b, 'a': a}, worst, n_boot=0).value.is_monotonic_increasing # less is better
    runs = evaluate_runs([a, b], n_boot=100)
    assert np.isclose(runs.value[worst], np.mean(values)) and runs.low[worst] >= 0 and runs.high[worst] <= 1


def test_a_new_metric_in_the_command(worst, tmp_path):
    for name, table in dict(a=TABLE, b=worse(TABLE)).items(): table.to_csv(tmp_path/f'{name}.csv', index=False)
    code, text = fundus_evaluate(tmp_path/'a.csv', tmp_path/'b.csv', '--metric', worst, '--n-boot', 100, '--out', tmp_path/'out')
    assert code == 0 and f'{worst} of a' in text, text
    assert worst in pd.read_csv(tmp_path/'out'/'a'/'metrics.csv', index_col=0).index


def test_names_of_metrics_are_taken_once():
    with pytest.raises(PredictionError, match="metric 'kappa' is there already"): metric('kappa')(np.mean)
    with pytest.raises(PredictionError, match="Did you mean 'brier'"): METRICS.find('brire')
    assert [name for name, found in METRICS.items() if found.log] == ['accuracy', 'macro_f1']
    assert [name for name, found in METRICS.items() if not found.higher] == ['log_loss', 'brier', 'ece']
