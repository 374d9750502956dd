"""What to do about rare classes: losses, weights, samplers and moved thresholds, with one budget.

    python bench/imbalance.py eyeq --data FOLDER --work FOLDER     # 187 photographs, five folds, five seeds
    python bench/imbalance.py visibility --work FOLDER             # the drawn exercise, five seeds; first the recipe itself
    python bench/imbalance.py tables --work FOLDER                 # what was answered, with paired intervals

FOLDER holds eyeq_sample/labels.csv. Every way trains the same network for the same number of photographs; what is done to
the answers afterwards is chosen on the validation part. Each answer is kept in the work folder: a study that was ended goes
on where it was. Writes bench/results/imbalance_*.csv, shown by nbs/experiments/09_imbalance.ipynb."""
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from fundus_nbdev.core.progress import Progress
from fundus_nbdev.data.split import add_folds, split_table
from fundus_nbdev.evaluation.answer_weights import adjust_for_shares, fit_answer_weights
from fundus_nbdev.evaluation.predictions import probability_columns
from fundus_nbdev.training.fit import frozen_numbers
from fundus_nbdev.training.prepare import prepare_photos
from fundus_nbdev.training.recipe import find_recipe, override

from studies import RESULTS, compare_ways, folds_of, kept_answers, score_runs, train_once

PLAIN = {'training.class_weights': 0., 'data.order': 'shuffle'}
WAYS = { # way → settings
    'nothing': PLAIN,
    'class weights, square root': PLAIN | {'training.class_weights': .5},
    'class weights': PLAIN | {'training.class_weights': 1.},
    'effective number, β = .99': PLAIN | {'training.class_weights': 1., 'training.effective_number': .99},
    'focal loss, γ = 2': PLAIN | {'training.focal': 2.},
    'balanced sampler': PLAIN | {'data.order': 'balanced'},
    'logit adjustment, τ = 1': PLAIN | {'training.logit_adjustment': 1.},
    'ordinal loss': PLAIN | {'training.loss': 'ordinal'}}
FOLDED = 'four folds, averaged' # four networks, each on three quarters of the photographs for a quarter of the epochs
MOVED = ('thresholds moved', 'shares divided out') # of the answers of 'nothing'
TRUNK = 'frozen features' # of the pretrained trunk: another network, fitted at once
EYEQ = {'data.size': 128, 'training.epochs': 24, 'data.classes': 'Good,Usable,Reject'}
METRICS = ['macro_f1', 'macro_auc', 'log_loss']


def train_ways(folder, recipe, pixels, splits, ways):
    "Train on each split in some ways."
    for (seed, k), table in splits.items():
        for way in ways:
            asked = replace(override(recipe, WAYS[way]), seed=seed)
            train_once(folder, asked, table, pixels, way=way, n=0, seed=seed, part=k)


def train_folds(folder, recipe, pixels, splits):
    "Train four networks on each split, each without a quarter of what it could learn from."
    quarter = override(recipe, PLAIN | {'training.epochs': round(recipe.training.epochs / 4)})
    for (seed, k), table in splits.items():
        learning = add_folds(table[table.split != 'test'].drop(columns=['split', 'fold'], errors='ignore'), 4, seed)
        for j in range(4):
            left_out = table.path.isin(learning.path[learning.fold == j])
            part = table.assign(split=np.select([table.split == 'test', left_out], ['test', 'valid'], 'train'))
            train_once(folder, replace(quarter, seed=seed), part, pixels, way=FOLDED, n=0, seed=seed, part=k, quarter=j)


def fit_trunk(folder, recipe, prepared, splits):
    "Fit frozen features on each split."
    asked = {'data.source': recipe.data.source, 'data.classes': ','.join(recipe.data.classes), 'data.crop': recipe.data.crop,
             'data.size': recipe.data.size, 'model.experts': 'features'}
    trunk = override(find_recipe('photographs'), asked)
    numbers = frozen_numbers(trunk, prepared, Progress())
    for (seed, k), table in splits.items():
        train_once(folder, replace(trunk, seed=seed), table, prepared.pixels, numbers, way=TRUNK, n=0, seed=seed, part=k)


def study(folder, recipe, split_by, first):
    "Train in all ways on the splits that a table is given; first the trunk, and one way on all of them."
    prepared = prepare_photos(recipe, Progress())
    splits = split_by(prepared.tables[0].drop(columns='split'))
    fit_trunk(folder, recipe, prepared, splits)
    for ways in ([first], WAYS): train_ways(folder, recipe, prepared.pixels, splits, ways)
    train_folds(folder, recipe, prepared.pixels, splits)


def eyeq(data, folder, seeds):
    "Five folds of each seed."
    recipe = override(find_recipe('eyeq'), EYEQ | {'data.source': str(Path(data).absolute()/'eyeq_sample')})
    def split_by(table): return {(seed, k): split for seed in seeds for k, split in enumerate(folds_of(table, seed, .15))}
    study(folder, recipe, split_by, 'nothing')


def visibility(folder, seeds):
    "One split of each seed, as `fundus run visibility --seed SEED` makes it; first what the recipe does."
    recipe = find_recipe('visibility')
    def split_by(table): return {(seed, 0): split_table(table, recipe.data.test, recipe.data.valid, seed) for seed in seeds}
    study(folder, recipe, split_by, 'balanced sampler')


def averaged(parts):
    "The mean answer of the four networks to each tested photograph."
    keys = ['seed', 'part', 'path']
    columns, tested = probability_columns(parts), parts[parts.split == 'test']
    means = tested.groupby(keys, sort=False)[columns].mean()
    first = tested.drop_duplicates(keys).set_index(keys).assign(seconds=tested.groupby(keys).seconds.sum())
    first[columns] = means
    return first.assign(pred=means.idxmax(axis=1).str.removeprefix('p_')).reset_index()


def moved(answers):
    "What becomes of the answers of 'nothing' by weights that are chosen on each validation part, or by the shares of the classes."
    found = []
    for _, one in answers.groupby(['seed', 'part']):
        test, valid = (one[one.split == part].reset_index(drop=True) for part in ('test', 'valid'))
        whole = valid.label.nunique() == len(probability_columns(one)) # weights need some photographs of every class
        found.append((fit_answer_weights(valid.drop(columns='split')).apply(test) if whole else test).assign(way=MOVED[0]))
        shares = {name.removeprefix('trained_'): one[name].iloc[0] for name in one if name.startswith('trained_')}
        found.append(adjust_for_shares(test, shares).assign(way=MOVED[1]))
    return pd.concat(found, ignore_index=True)


def write_tables(name, work, group):
    "Write the metrics of each seed, the paired differences, and the recalls of the seeds' test parts pooled."
    answers = kept_answers(work/name)
    tested, folded = answers[answers.split == 'test'], answers.way == FOLDED
    told = pd.concat([tested[tested.way != FOLDED], averaged(answers[folded]), moved(answers[answers.way == 'nothing'])], ignore_index=True)
    score_runs(told).to_csv(RESULTS/f'imbalance_{name}.csv', index=False)
    compare_ways(told[told.way != TRUNK], 'nothing', METRICS, group).to_csv(RESULTS/f'imbalance_{name}_pairs.csv', index=False)
    right = told.assign(right=told.label == told.pred).groupby(['way', 'label'], sort=False).right.agg(['mean', 'sum', 'size'])
    right.round(4).to_csv(RESULTS/f'imbalance_{name}_recalls.csv')


if __name__ == '__main__':
    arguments = ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('what', choices=['eyeq', 'visibility', 'tables'])
    arguments.add_argument('--data', type=Path)
    arguments.add_argument('--work', type=Path, required=True)
    a = arguments.parse_args()
    if a.what == 'eyeq': eyeq(a.data, a.work/'eyeq', range(200, 205))
    if a.what == 'visibility': visibility(a.work/'visibility', range(100, 105))
    if a.what == 'tables':
        for name, group in {'eyeq': 'patient', 'visibility': None}.items(): write_tables(name, a.work, group)
