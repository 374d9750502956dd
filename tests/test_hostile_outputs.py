"What people do to runs, reviews, caches and predictions between two commands."

import pandas as pd
import pytest

from test_hostile import draw_set
from fundus_nbdev.core.errors import ReportError, TableError
from fundus_nbdev.core.output_folder import made_by
from fundus_nbdev.data.corrections import correct_labels
from fundus_nbdev.data.pixels import cache_pixels
from fundus_nbdev.data.table import read_table
from fundus_nbdev.errors.label_issues import keep_corrections
from fundus_nbdev.training.fit import open_checkpoint


def answers(n=20, **columns): # a table of predictions
    "Answer photographs of two classes."
    p = [.2 + .03 * i for i in range(n)]
    return pd.DataFrame({'path': [f'{i}.jpg' for i in range(n)], 'label': ['Good', 'Bad'] * (n // 2), 'p_Good': p, 'p_Bad': [1 - each for each in p]}).assign(**columns)


# folders

def test_a_way_up_and_down_marks_no_folder_of_a_person(fundus, here):
    answers().to_csv('p.csv', index=False)
    code, text = fundus('evaluate', 'p.csv', '--n-boot', '0', '--out', 'new/../scored')
    assert code == 0 and (here/'scored'/'metrics.csv').exists() and not made_by(here), text
    assert fundus('evaluate', 'p.csv', '--n-boot', '0', '--out', '.')[0] == 2 # it holds p.csv


def test_a_folder_is_no_recipe(fundus, here):
    (here/'x.toml').mkdir()
    code, text = fundus('run', 'x.toml')
    assert code == 1 and 'x.toml can not be read' in text and text.count('\n') == 1, text
    draw_set(here/'mine', 1)
    code, text = fundus('run', 'mine')
    assert code == 1 and 'fundus run --data mine' in text and text.count('\n') == 1, text


# a cache that was damaged is made again

@pytest.mark.parametrize('ending, content', [('npy', b''), ('npy', b'\x93NUMPY'), ('json', b'{'), ('json', b'')])
def test_a_damaged_cache(here, ending, content):
    paths = list(map(str, sorted(draw_set(here/'data', 2).rglob('*.jpg'))))
    pixels = cache_pixels(paths, 32)
    before = pixels.array.copy()
    [file] = (here/'cache').glob(f'*.{ending}')
    file.write_bytes(content or file.read_bytes()[:-100] if ending == 'npy' else content)
    assert (cache_pixels(paths, 32).array == before).all()


def test_a_training_that_begins_again_says_so(here):
    (here/'history.csv').write_text('epoch\n0\n')
    told = []
    assert open_checkpoint(here, {}, False, told.append) is None
    assert 'begins from the beginning' in told[0] and 'checkpoints' in told[0]


# what a person wrote into a review

def write_review(here, rows, columns=('path', 'label', 'corrected'), sep=','):
    pd.DataFrame(rows, columns=columns).to_csv(here/'review.csv', index=False, sep=sep)
    return here/'review.csv'


@pytest.mark.parametrize('corrected', ['', 'Bad']) # the label was written over, and corrected as well
def test_a_label_that_was_written_over_is_no_correction_that_nobody_hears(here, corrected):
    table = read_table(draw_set(here/'data', 2))
    path = table.path[table.label == 'Good'].iloc[0]
    with pytest.raises(TableError, match='line 2: label is Bad, and Good in the data.*write Bad into the column corrected'):
        correct_labels(table, write_review(here, [(path, 'Bad', corrected)]))


def test_corrections_are_counted(here):
    table = read_table(draw_set(here/'data', 2))
    rows = [(table.path[0], table.label[0], 'remove'), (table.path[1], table.label[1], '')]
    assert correct_labels(table, write_review(here, rows)).attrs['notes'] == ['corrections of review.csv: no labels changed, 1 photograph taken out']
    file = write_review(here, rows)
    file.write_text('sep=,\n' + file.read_text().replace('remove', 'remoove'))
    with pytest.raises(TableError, match='line 3: corrected is'): correct_labels(table, file)


def test_a_second_review_keeps_what_people_added(here):
    order = pd.DataFrame({'rank': [1, 2], 'path': ['a', 'b'], 'label': ['Good', 'Bad'], 'p_label': [.1, .2]})
    columns = ('rank', 'Path', 'label', 'p_label', 'corrected', 'note', 'Second reader')
    kept = keep_corrections(order, write_review(here, [(1, 'b', 'Bad', .2, '', '', 'Dr. A')], columns, ';'))
    assert kept.set_index('path')['Second reader'].to_dict() == {'a': '', 'b': 'Dr. A'}
    for said, rows in {'labelled Good there, and Bad here': [('b', 'Good', '', '')], 'b is there twice': [('b', 'Bad', 'Good', ''), ('b', 'Bad', '', 'x')]}.items():
        with pytest.raises(ReportError, match=said): keep_corrections(order, write_review(here, rows, ('path', 'label', 'corrected', 'note')))


# predictions

@pytest.mark.parametrize('values', ['percent', 'logits'])
def test_probabilities_are_nothing_else(fundus, here, values):
    for table, options in ((answers().drop(columns='p_Good'), ['--negative', 'Good']), (answers(), [])):
        table.to_csv('p.csv', index=False)
        code, text = fundus('evaluate', 'p.csv', '--n-boot', '0', '--values', values, *options)
        assert code == 2 and f"values='{values}', but these are probabilities already" in text, text
        assert fundus('evaluate', 'p.csv', '--n-boot', '0', *options)[0] == 0


@pytest.mark.parametrize('word', ['', 'NA'])
def test_no_clinic_is_no_clinic(fundus, here, word):
    answers(clinic=['A', 'B', 'C', word] * 5).to_csv('p.csv', index=False)
    code, text = fundus('evaluate', 'p.csv', '--group', 'clinic', '--n-boot', '100')
    assert code == 2 and 'column clinic: 5 rows are empty' in text, text


# words that a person chose stand in figures as they are

def test_a_class_that_looks_like_a_formula(fundus, here):
    name = r'$\frac$'
    draw_set(here/'data', 4, (name, '5$–9$'))
    code, text = fundus('eda', 'data', '--out', 'look')
    assert code == 0 and 'Traceback' not in text, text
    table = answers().rename(columns={'p_Good': f'p_{name}'}).replace('Good', name)
    table.to_csv('p.csv', index=False)
    code, text = fundus('evaluate', 'p.csv', '--n-boot', '100', '--out', 'scored')
    assert code == 0 and list((here/'scored').rglob('*.png')), text
