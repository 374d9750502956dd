"Tables and folders as people, spreadsheets and other systems leave them: read as they are meant, or asked about."
import os
import unicodedata

import pandas as pd
import pytest

from test_hostile import draw, draw_set
from fundus_nbdev.core.errors import TableError
from fundus_nbdev.data.photo_table import check_table
from fundus_nbdev.data.table import read_table

QUICK = ['--n-boot', '0', '--n-examples', '1']
LABELS = ['Good', 'Bad']


def photos(folder, n=8): # paths from `folder`
    "Draw photographs into a folder img."
    for i in range(n): draw(folder/'img'/f'{i:03}.png', i, 40)
    return [f'img/{i:03}.png' for i in range(n)]


def table(folder, columns, n=8): # its file
    "Draw photographs, and write a table of them: name of column → function of a row's number."
    rows = [[path, *(value(i) for value in columns.values())] for i, path in enumerate(photos(folder, n))]
    pd.DataFrame(rows).to_csv(folder/'set.csv', index=False, header=['path', *columns])
    return folder/'set.csv'


def label(i): return LABELS[i % 2]
def nfd(text): return unicodedata.normalize('NFD', text)


# columns

def test_a_column_there_twice_is_asked_about(fundus, here):
    pd.DataFrame({'path': photos(here), 'label': map(label, range(8)), 'x': 'Good'}).to_csv(here/'set.csv', index=False, header=['path', 'label', 'label'])
    code, text = fundus('eda', 'set.csv', *QUICK)
    assert code == 1 and 'column label is there more than once' in text and text.count('\n') == 1, text


def test_two_columns_that_could_be_the_label_are_asked_about(here):
    file = table(here, {'quality': label, 'diagnosis': lambda i: 'DR'})
    with pytest.raises(TableError, match='quality and diagnosis could each be the label; say which, for example --column label=quality'): read_table(file)
    assert set(read_table(file, columns={'quality': 'label'}).label) == set(LABELS)


def test_what_was_understood_of_columns_is_said(here):
    assert 'quality is the label, eye_id the patient' in read_table(table(here, {'quality': label, 'eye_id': str})).attrs['notes']


def test_separators_at_the_ends_of_lines_move_no_column(fundus, here):
    (here/'set.csv').write_text('path,label\n' + ''.join(f'{path},{label(i)},\n' for i, path in enumerate(photos(here))))
    assert read_table('set.csv').label.tolist() == [label(i) for i in range(8)]
    (here/'set.csv').write_text('path,label\n' + ''.join(f'{path},{label(i)},x\n' for i, path in enumerate(photos(here))))
    code, text = fundus('eda', 'set.csv', *QUICK)
    assert code == 1 and 'set.csv, line 2 has 3 values for 2 columns' in text and text.count('\n') == 1, text


def test_a_line_that_says_the_separator(fundus, here):
    rows = 'path;label\n' + ''.join(f'{path};{label(i)}\n' for i, path in enumerate(photos(here)))
    (here/'set.csv').write_text('\ufeffsep=;\n' + rows, encoding='utf-8')
    assert read_table('set.csv').label.tolist() == [label(i) for i in range(8)]
    (here/'p.csv').write_text('sep=;\npath;label;p_Good;p_Bad\na.png;Good;.9;.1\nb.png;Bad;.2;.8\n')
    code, text = fundus('evaluate', 'p.csv', '--n-boot', '0')
    assert code == 0 and '2 photographs' in text, text


def test_nobody_has_a_label(fundus, here):
    code, text = fundus('eda', table(here, {'label': lambda i: ''}), *QUICK)
    assert code == 1 and 'none of 8 photographs has a label' in text and text.count('\n') == 1, text


# letters that can be written in two ways, as a Mac and others do

def test_names_of_files_and_classes_in_two_forms_of_unicode(here):
    for i in range(4): draw(here/'img'/f'{nfd("Müller")}{i}.png', i, 40)
    rows = [(f'img/Müller{i}.png', ['Schärfe', nfd('Schärfe'), 'Bad'][i % 3]) for i in range(4)]
    pd.DataFrame(rows, columns=['path', 'label']).to_csv(here/'set.csv', index=False)
    read = check_table(read_table(here/'set.csv'))
    assert set(read.label) == {'Schärfe', 'Bad'}


def test_predictions_in_two_forms_of_unicode(fundus, here):
    rows = [(f'{i}.png', nfd('Schärfe') if i % 2 else 'Bad', i % 2, 1 - i % 2) for i in range(8)]
    pd.DataFrame(rows, columns=['path', 'label', 'p_Schärfe', 'p_Bad']).to_csv(here/'p.csv', index=False)
    code, text = fundus('evaluate', 'p.csv', '--n-boot', '0')
    assert code == 0, text


# photographs and patients

def test_photographs_that_no_table_names_are_counted(here):
    pd.DataFrame({'path': photos(here)[:6], 'label': [label(i) for i in range(6)]}).to_csv(here/'labels.csv', index=False)
    assert 'left out, not in labels.csv: 2 (006.png, 007.png)' in read_table(here).attrs['notes']


def test_one_file_under_two_paths_is_refused(fundus, here):
    rows = [(path, label(i)) for i, path in enumerate(photos(here))] + [('img/../img/000.png', 'Bad')]
    pd.DataFrame(rows, columns=['path', 'label']).to_csv(here/'set.csv', index=False)
    code, text = fundus('eda', 'set.csv', *QUICK)
    assert code == 1 and '1 file more than once in the table, under several paths' in text, text
    draw_set(here/'data', 2)
    os.symlink('Good', here/'data'/'Best')
    with pytest.raises(TableError, match='2 files more than once in the table, under several paths'): check_table(read_table(here/'data'))


def test_one_patient_in_several_spellings_is_one(fundus, here):
    names = ['P7', 'p7', '7', '007', '7.0', 'x 1', 'X_1', '1.10']
    file = table(here, {'label': lambda i: LABELS[i // 4], 'patient': lambda i: names[i], 'split': lambda i: ['train', 'test'][i % 2]})
    read = read_table(file)
    assert read.patient.nunique() == 4 and any('one patient: 007 = 7 = 7.0' in note for note in read.attrs['notes']), read
    code, text = fundus('run', '--data', file)
    assert code == 1 and 'patients on more than one side' in text, text


def test_words_for_nobody_are_no_patient(here):
    words = ['unknown', '-', 'None', '?', 'UNKNOWN', 'n.a.']
    read = read_table(table(here, {'label': label, 'patient': lambda i: words[i] if i < 6 else 'p'}))
    assert read.patient.nunique() == 7 and 'without a patient: 6' in ' '.join(read.attrs['notes'])


# folders

def test_folders_of_a_split_and_another_one(fundus, here):
    for part in ('train', 'Validierung', 'test'): draw_set(here/'data'/part, 2)
    code, text = fundus('run', '--data', 'data')
    assert code == 1 and 'test and train are parts of a split, but not Validierung (4 photographs)' in text and text.count('\n') == 1, text


def test_folders_that_repeat_in_each_class_are_said(here):
    for clinic in ('A', 'B'): draw_set(here/'data'/clinic, 2)
    note = 'the classes are A and B, the first folders; each of them has the folders Bad and Good'
    assert any(note in said for said in read_table(here/'data').attrs['notes'])
    assert not read_table(draw_set(here/'plain', 2)).attrs['notes']


def test_what_was_taken_for_labels_by_its_name_is_said(fundus, here):
    draw_set(here/'data', 2)
    (here/'data'/'training_log.csv').write_text('epoch,loss\n1,2\n')
    code, text = fundus('eda', 'data', *QUICK)
    assert code == 1 and 'are taken for labels' in text and text.count('\n') == 1, text
