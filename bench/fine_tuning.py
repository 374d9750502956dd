"""Fine-tune a pretrained network in several ways, beside frozen features and training from scratch, with one budget.

    python bench/fine_tuning.py rates --data FOLDER --work FOLDER    # learning rates, on another fold seed
    python bench/fine_tuning.py eyeq --data FOLDER --work FOLDER     # five folds, five seeds
    python bench/fine_tuning.py curves --data FOLDER --work FOLDER   # from 25, 50 and 100 photographs, three seeds
    python bench/fine_tuning.py cifar --data FOLDER --work FOLDER    # 5,000 pictures, three seeds
    python bench/fine_tuning.py tables --work FOLDER                 # what was answered, with paired intervals

FOLDER holds eyeq_sample/labels.csv and cifar10/cifar10_*.npz. Every network looks at the same number of photographs,
whatever it learns from and whatever is frozen. Each answer is kept in the work folder: a study that was ended goes on where
it was. Writes bench/results/fine_tuning_*.csv."""
from argparse import ArgumentParser
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from fundus_nbdev.core.progress import Progress
from fundus_nbdev.training.fit import frozen_numbers
from fundus_nbdev.training.prepare import prepare_photos
from fundus_nbdev.training.recipe import find_recipe, override

from studies import RESULTS, compare_ways, folds_of, kept_answers, score_runs, train_once

TRUNK = {'model.name': 'efficientnet_lite', 'model.version': 0} # the smaller one: many trainings on two cores
WAYS = { # way → settings
    'from scratch': TRUNK | {'model.weights': ''},
    'the head alone': TRUNK | {'model.freeze': 'head'},
    'the last blocks': TRUNK | {'model.freeze': 'blocks:5'},
    'block by block': TRUNK | {'model.freeze': 'gradual'},
    'everything': TRUNK,
    'everything, first layers slowly': TRUNK | {'training.lr_lowest': .1}, # times the rate
    'frozen features': {'model.name': 'frozen_features', 'model.version': 0, 'model.experts': 'features'},
    'frozen features and factors': {'model.name': 'frozen_features', 'model.version': 0}}
FROZEN = tuple(way for way, own in WAYS.items() if own['model.name'] == 'frozen_features')
TRIED = [.0003, .001, .003, .01] # rates
RATES: dict[str, float] = {} # way → rate, chosen by `rates`
SETS: dict[str, tuple] = { # set → settings, photographs that a network looks at
    'eyeq': ({'data.size': 128, 'data.classes': 'Good,Usable,Reject'}, 1200),
    'cifar': ({'data.size': 64, 'data.crop': 'whole'}, 20_000)}


def recipe_of(way, lr, data, settings, trained=0, seen=0):
    "The recipe of a way, with as many epochs as the budget gives."
    own = {'data.source': str(Path(data).absolute())} | settings | WAYS[way]
    if way in FROZEN: return override(find_recipe('photographs'), own)
    own |= {'training.lr': lr, 'training.label_smoothing': .1}
    if 'training.lr_lowest' in own: own['training.lr_lowest'] *= lr
    if trained: own |= {'training.epochs': max(2, round(seen / trained)), 'training.bs': min(16, trained)}
    return override(find_recipe('photographs'), own)


def fewer(table, n, seed):
    "Rows of the photographs that are tested, and of n others: whole patients, drawn by chance, all classes among them."
    rng, chosen = np.random.default_rng(seed), table[table.split != 'test']
    while n:
        sizes = chosen.groupby('patient').size()[rng.permutation(chosen.patient.unique())].cumsum()
        some = chosen[chosen.patient.isin(sizes.index[sizes <= n])]
        if some[some.split == 'train'].label.nunique() == table.label.nunique():
            chosen = some
            break
    return np.sort(np.r_[chosen.index, table.index[table.split == 'test']])


def cifar_table(data, work, n=5000, n_test=2000):
    "A table of pictures of CIFAR-10: 500 of each class to learn from, 200 to be tested on."
    file, rows = work/'cifar.csv', []
    for part, share, many in (('train', .15, n), ('test', 0, n_test)):
        source = Path(data).absolute()/'cifar10'/f'cifar10_{part}.npz'
        arrays, rng = np.load(source), np.random.default_rng(0)
        for k, name in enumerate(arrays['classes'].astype(str)):
            chosen = rng.permutation(np.flatnonzero(arrays['y'] == k))[:many // 10]
            parts = np.where(np.arange(len(chosen)) < share * len(chosen), 'valid', part)
            rows += [{'path': f'{source}#{i}', 'label': name, 'patient': f'{part} {i}', 'split': where} for i, where in zip(chosen, parts)]
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def study(name, data, folder, seeds, sizes=(0,), ways=tuple(WAYS), rates=(None,), folds=None):
    "Answer by all ways, one after the other, on each fold of each seed; a table that comes with a split keeps it."
    settings, seen = SETS[name]
    prepared = prepare_photos(recipe_of('everything', .001, data, settings), Progress())
    table, pixels, numbers = prepared.tables[0], prepared.pixels, {}
    for seed in seeds:
        splits = [table] if table.attrs['official_split'] else folds_of(table.drop(columns='split'), seed, .15)[:folds]
        for (k, split), n in product(enumerate(splits), sizes):
            rows = fewer(split, n, seed)
            part, seen_pixels = split.iloc[rows].reset_index(drop=True), replace(pixels, rows=pixels.rows[rows], paths=())
            trained = int((part.split == 'train').sum())
            for way, rate in product(ways, rates):
                recipe = replace(recipe_of(way, rate or RATES.get(way, .003), data, settings, trained, seen), seed=seed)
                if way in FROZEN and way not in numbers: numbers[way] = frozen_numbers(recipe, prepared, Progress())
                own = {what: x[rows] for what, x in numbers[way].items()} if way in FROZEN else None
                told = f'{way}, lr {rate:g}' if rate else way
                train_once(folder, recipe, part, seen_pixels, own, way=told, n=n, seed=seed, part=k)


def write_tables(name, folder, group, reference='frozen features and factors'):
    "Write the metrics of each seed, and the paired differences."
    answers = kept_answers(folder)
    answers = answers[answers.split == 'test']
    score_runs(answers).to_csv(RESULTS/f'fine_tuning_{name}.csv', index=False)
    if name != 'rates': compare_ways(answers, reference, ['macro_f1', 'macro_auc'], group).to_csv(RESULTS/f'fine_tuning_{name}_pairs.csv', index=False)


if __name__ == '__main__':
    arguments = ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('what', choices=['rates', 'eyeq', 'curves', 'cifar', 'tables'])
    arguments.add_argument('--data', type=Path)
    arguments.add_argument('--work', type=Path, required=True)
    a = arguments.parse_args()
    networks = [way for way in WAYS if way not in FROZEN]
    if a.what == 'rates': study('eyeq', a.data/'eyeq_sample', a.work/'rates', [0], ways=networks, rates=TRIED, folds=2)
    if a.what == 'eyeq': study('eyeq', a.data/'eyeq_sample', a.work/'eyeq', range(100, 105))
    if a.what == 'curves': study('eyeq', a.data/'eyeq_sample', a.work/'curves', range(100, 103), sizes=(25, 50, 100))
    if a.what == 'cifar': study('cifar', cifar_table(a.data, a.work), a.work/'cifar', range(3))
    if a.what == 'tables':
        for name, group in {'rates': 'patient', 'eyeq': 'patient', 'curves': 'patient', 'cifar': None}.items(): write_tables(name, a.work/name, group)
