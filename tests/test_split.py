"Properties of splits, on tables that hypothesis makes up."
from itertools import product
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings, strategies as st
from fundus_nbdev.core.errors import TableError
from fundus_nbdev.data.split import (
    check_split,
    draw_patients,
    fold_split,
    add_folds,
    largest_remainder,
    split_table,
)

quick = settings(max_examples=25, deadline=None, derandomize=True)


@st.composite
def tables(draw, patients=st.integers(6, 60), most=5):
    "Photo tables of 2 to 4 classes; patients have 1 to `most` photographs."
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    photos = rng.integers(1, draw(st.integers(1, most)) + 1, draw(patients)) # of each patient
    patient = rng.permutation(np.repeat(np.arange(len(photos)), photos))
    classes = draw(st.integers(2, 4))
    labels = rng.choice(list('abcd')[:classes], len(patient), p=rng.dirichlet(np.full(classes, 3.)))
    assume(len(set(labels)) > 1)
    return pd.DataFrame({'path': [f'{i:04}.jpg' for i in range(len(patient))], 'label': labels, 'patient': patient.astype(str)})


def chi2(has, wanted): return ((has - wanted)**2/np.maximum(wanted, 1)).sum()


@given(st.integers(0, 10_000), st.lists(st.integers(0, 5000), min_size=1, max_size=12))
@quick
def test_largest_remainder(total, counts):
    counts = np.array(counts)
    assume(counts.sum() > 0)
    whole, exact = largest_remainder(total, counts), counts*total/counts.sum()
    assert whole.sum() == total
    assert (np.abs(whole - exact) < 1).all()


@given(tables(), st.floats(.1, .4), st.floats(.1, .4), st.integers(0, 99))
@quick
def test_every_row_in_one_part_and_no_patient_in_two(table, test, valid, seed):
    parts = split_table(table, test, valid, seed)
    assert set(parts.split) <= {'train', 'valid', 'test'} and parts.split.notna().all()
    assert parts.drop(columns='split').equals(table)
    assert parts.groupby('patient').split.nunique().max() == 1
    assert {'train', 'valid', 'test'} == set(parts.split)


@given(tables(), st.floats(.1, .4), st.integers(0, 99))
@quick
def test_shares_are_exact_without_groups(table, test, seed):
    parts = split_table(table, test, 0, seed, group=None)
    counts = table.label.value_counts().sort_index()
    has = parts.label[parts.split == 'test'].value_counts().reindex(counts.index, fill_value=0)
    assert has.tolist() == largest_remainder(round(test*len(table)), counts.to_numpy()).tolist()


@given(st.integers(0, 2**32 - 1), st.integers(3, 9), st.integers(1, 3))
@quick
def test_groups_are_nearly_as_good_as_the_best_choice(seed, patients, classes):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (patients, classes))
    counts[counts.sum(1) == 0, 0] = 1
    total = max(1, round(.3*counts.sum()))
    wanted = largest_remainder(total, counts.sum(0))
    every = np.array(list(product([0, 1], repeat=patients)))@counts
    best, found = min(chi2(has, wanted) for has in every), chi2(counts[draw_patients(counts, total, rng)].sum(0), wanted)
    assert best <= found + 1e-9 and found <= best + 1.5
    assert found <= chi2(0*wanted, wanted)


@given(tables(), st.integers(0, 99))
@quick
def test_order_of_rows_does_not_matter(table, seed):
    shuffled = table.sample(frac=1, random_state=seed)
    assert split_table(shuffled, seed=seed).split.sort_index().tolist() == split_table(table, seed=seed).split.tolist()
    assert add_folds(shuffled, 3, seed).fold.sort_index().tolist() == add_folds(table, 3, seed).fold.tolist()


@given(tables(), st.integers(2, 6), st.integers(0, 99))
@quick
def test_folds(table, n_folds, seed):
    assume(4*n_folds <= table.patient.nunique())
    folds = add_folds(table, n_folds, seed)
    assert sorted(set(folds.fold)) == list(range(n_folds))
    assert folds.groupby('patient').fold.nunique().max() == 1
    check_split(folds, column='fold', files=False)
    parts = fold_split(folds, n_folds - 1, valid=.25, seed=seed)
    assert ((parts.split == 'test') == (folds.fold == n_folds - 1)).all()


@given(tables(), st.integers(0, 99))
@quick
def test_official_parts_stay(table, seed):
    official = split_table(table, test=.3, valid=0, seed=seed)
    parts = split_table(official, test=.1, valid=.2, seed=seed + 1)
    assert ((parts.split == 'test') == (official.split == 'test')).all()
    assert 'valid' in set(parts.split)


def test_a_patient_on_two_sides_is_named():
    table = pd.DataFrame({'path': list('wxyz'), 'label': list('abab'), 'patient': ['1', '1', '2', '3'], 'split': ['train', 'test', 'train', 'valid']})
    with pytest.raises(TableError, match=r'1 patient on more than one side: 1 \(test, train\)'): check_split(table, files=False)


def test_a_big_table_is_exact():
    rng = np.random.default_rng(0)
    patient = rng.integers(0, 8000, 20_000)
    table = pd.DataFrame({'path': [f'{i:05}.jpg' for i in range(20_000)], 'label': rng.choice(list('abcde'), 20_000), 'patient': patient.astype(str)})
    parts = split_table(table)
    has = parts.label[parts.split == 'test'].value_counts().sort_index()
    assert has.tolist() == largest_remainder(4000, table.label.value_counts().sort_index().to_numpy()).tolist()
