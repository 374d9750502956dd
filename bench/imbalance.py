"""What to do about rare classes: losses, weights, samplers and moved thresholds, with one budget.

    python bench/imbalance.py eyeq --data FOLDER --work FOLDER     # 187 photographs, five folds, five seeds
    python bench/imbalance.py visibility --work FOLDER             # the drawn exercise, five seeds; first the recipe itself
    python bench/imbalance.py tables --work FOLDER                 # what was answered, with paired intervals

FOLDER holds eyeq_sample/labels.csv. Every way trains the same network for the same number of photographs; what is done to
the answers afterwards is chosen on the validation part. Each answer is kept in the work folder: a study that was ended goes
on where it was. Writes bench/results/imbalance_*.csv, shown by nbs/experiments/10_imbalance.ipynb."""
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import pandas as pd

from fundus_nbdev.core.progress import Progress
from fundus_nbdev.data.split import add_folds, fold_split, split_table
from fundus_nbdev.evaluation.answer_weights import adjust_for_shares, fit_answer_weights
from fundus_nbdev.evaluation.predictions import probability_columns
from fundus_nbdev.training.fit import frozen_numbers
from fundus_nbdev.training.prepare import prepare_photos
from fundus_nbdev.training.recipe import find_recipe, override

from studies import RESULTS, compare_ways, kept_answers, score_runs, train_once

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


def train_ways(folder, recipe, splits, pixels, seed, ways=tuple(WAYS)):
    "Train all ways on each split of one seed."
    for k, table in enumerate(splits):
        for way in ways:
            asked = replace(override(recipe, WAYS[way]), seed=seed)
            train_once(folder/f'{way}_s{seed}_f{k}.csv', asked, table, pixels, way=way, n=0, seed=seed, part=k)


def train_folds(folder, recipe, splits, pixels, seed):
    "Train four networks on each split of one seed, each without a quarter of what it could learn from."
    for k, table in enumerate(splits):
        quarter = replace(override(recipe, PLAIN | {'training.epochs': round(recipe.training.epochs / 4)}), seed=seed)
        learning = table[table.split != 'test'].reset_index(drop=True)
        groups = add_folds(learning.drop(columns='split'), 4, seed).set_index('path').fold.reindex(table.path).to_numpy()
        for j in range(4):
            part = table.assign(split=table.split.where(table.split == 'test', pd.Series(groups == j).map({True: 'valid', False: 'train'})))
            train_once(folder.parent/f'{folder.name}_parts'/f's{seed}_f{k}_{j}.csv', quarter, part, pixels, way=FOLDED, n=0, seed=seed, part=k, quarter=j)


def fit_trunk(folder, recipe, prepared, splits, seed):
    "Fit frozen features on each split of one seed."
    asked = {'data.source': recipe.data.source, 'data.classes': ','.join(recipe.data.classes), 'data.crop': recipe.data.crop,
             'data.size': recipe.data.size, 'model.experts': 'features'}
    trunk = override(find_recipe('photographs'), asked)
    numbers = frozen_numbers(trunk, prepared, Progress())
    for k, table in enumerate(splits):
        train_once(folder/f'{TRUNK}_s{seed}_f{k}.csv', replace(trunk, seed=seed), table, prepared.pixels, numbers, way=TRUNK, n=0, seed=seed, part=k)


def eyeq(data, folder, seeds):
    "Five folds of each seed."
    recipe = override(find_recipe('eyeq'), EYEQ | {'data.source': str(Path(data).absolute()/'eyeq_sample')})
    prepared = prepare_photos(recipe, Progress())
    table = prepared.tables[0].drop(columns='split')
    for seed in seeds:
        splits = [fold_split(add_folds(table, 5, seed), k, .15, seed) for k in range(5)]
        fit_trunk(folder, recipe, prepared, splits, seed)
        train_ways(folder, recipe, splits, prepared.pixels, seed)
        train_folds(folder, recipe, splits, prepared.pixels, seed)


def visibility(folder, seeds):
    "One split of each seed, as `fundus run visibility --seed SEED` makes it; first what the recipe does, on all of them."
    recipe = find_recipe('visibility')
    prepared = prepare_photos(recipe, Progress())
    table = prepared.tables[0].drop(columns='split')
    splits = {seed: [split_table(table, test=recipe.data.test, valid=recipe.data.valid, seed=seed)] for seed in seeds}
    for seed in seeds:
        fit_trunk(folder, recipe, prepared, splits[seed], seed)
        train_ways(folder, recipe, splits[seed], prepared.pixels, seed, ['balanced sampler'])
    for seed in seeds:
        train_ways(folder, recipe, splits[seed], prepared.pixels, seed)
        train_folds(folder, recipe, splits[seed], prepared.pixels, seed)


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
    answers, parts = kept_answers(work/name), kept_answers(work/f'{name}_parts')
    tested = answers[answers.split == 'test']
    told = pd.concat([tested, averaged(parts), moved(answers[answers.way == 'nothing'])], ignore_index=True)
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
