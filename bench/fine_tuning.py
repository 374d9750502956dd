"""Fine-tune a pretrained network in several ways, beside frozen features and training from scratch, with one budget.

    python bench/fine_tuning.py rates --data FOLDER --work FOLDER    # learning rates, on another fold seed
    python bench/fine_tuning.py eyeq --data FOLDER --work FOLDER     # five folds, five seeds
    python bench/fine_tuning.py curves --data FOLDER --work FOLDER   # from 25, 50 and 100 photographs, three seeds
    python bench/fine_tuning.py cifar --data FOLDER --work FOLDER    # 5,000 pictures, three seeds
    python bench/fine_tuning.py tables --work FOLDER                 # what was answered, with paired intervals

FOLDER holds eyeq_sample/labels.csv and cifar10/train.npz. Every network looks at the same number of photographs, whatever
it learns from and whatever is frozen. Each answer is kept in the work folder: a study that was ended goes on where it was.
Writes bench/results/fine_tuning_*.csv, shown by nbs/experiments/09_fine_tuning.ipynb."""
from argparse import ArgumentParser
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
import time

import numpy as np
import pandas as pd

from fundus_nbdev.core.progress import Progress
from fundus_nbdev.data.split import add_folds, fold_split
from fundus_nbdev.evaluation.compare import compare_models
from fundus_nbdev.evaluation.metrics import evaluate
from fundus_nbdev.evaluation.predictions import read_predictions
from fundus_nbdev.training.fit import fit_split, frozen_numbers
from fundus_nbdev.training.prepare import prepare_photos
from fundus_nbdev.training.recipe import find_recipe, override

RESULTS = Path(__file__).parent/'results'
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
TRIED = [.001, .003, .01] # rates
RATES: dict[str, float] = {} # way → rate, chosen by `rates`
FROZEN = tuple(way for way, own in WAYS.items() if own['model.name'] == 'frozen_features')
SETS: dict[str, tuple] = { # set → settings, photographs that a network looks at, folds
    'eyeq': ({'data.size': 128, 'data.classes': 'Good,Usable,Reject'}, 1200, 5),
    'cifar': ({'data.size': 64, 'data.crop': 'whole'}, 20_000, 0)}
METRICS = ['accuracy', 'macro_f1', 'quadratic_kappa', 'macro_auc', 'log_loss']


def recipe_of(way, lr, data, settings):
    "The recipe of a way, without its number of epochs."
    own = {'data.source': str(Path(data).absolute())} | settings | WAYS[way]
    if way in FROZEN: return override(find_recipe('photographs'), own)
    own['training.lr'] = lr
    if 'training.lr_lowest' in own: own['training.lr_lowest'] *= lr
    return override(find_recipe('photographs'), own | {'training.label_smoothing': .1})


def fewer(table, n, seed):
    "The photographs that are tested, and n others: whole patients, drawn by chance, all classes among them."
    rng, others = np.random.default_rng(seed), table[table.split != 'test']
    while n:
        patients = rng.permutation(others.patient.unique())
        sizes = others.groupby('patient').size()[patients].cumsum()
        chosen = others[others.patient.isin(patients[(sizes <= n).to_numpy()])]
        if chosen[chosen.split == 'train'].label.nunique() == table.label.nunique(): break
    else: chosen = others
    return np.sort(np.r_[chosen.index, table.index[table.split == 'test']])


def answer(file, recipe, table, pixels, numbers, seen):
    "Train once and keep what was answered to the tested photographs."
    if file.is_file(): return
    trained = int((table.split == 'train').sum())
    epochs = {} if numbers else {'training.epochs': max(2, round(seen / trained)), 'training.bs': min(16, trained)}
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        got = fit_split(override(recipe, epochs), table, pixels, Path(folder), Progress(), numbers=numbers).predictions
    got = got[got.split == 'test'].assign(seconds=round(time.perf_counter() - start, 1), trained=trained)
    file.parent.mkdir(parents=True, exist_ok=True)
    got.to_csv(file, index=False)
    print(f'{file.stem}: {got.seconds.iloc[0]} s, accuracy {(got.label == got.pred).mean():.3f}', flush=True)


def cifar_table(data, work, n=5000, n_test=2000):
    "A table of pictures of CIFAR-10: 500 of each class to learn from, 200 to be tested on."
    file, rows = work/'cifar'/'labels.csv', []
    for part, share, many in (('train', .15, n), ('test', 0, n_test)):
        source = Path(data).absolute()/'cifar10'/f'cifar10_{part}.npz'
        arrays, rng = np.load(source), np.random.default_rng(0)
        for k, name in enumerate(arrays['classes'].astype(str)):
            chosen = rng.permutation(np.flatnonzero(arrays['y'] == k))[:many // 10]
            parts = np.where(np.arange(len(chosen)) < share * len(chosen), 'valid', part)
            rows += [{'path': f'{source}#{i}', 'label': name, 'split': where} for i, where in zip(chosen, parts)]
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def study(name, data, work, seeds, sizes=(0,), ways=tuple(WAYS), rates=(None,), folds=None):
    "Answer by all ways, one after the other, on each fold of each seed."
    settings, seen, n_folds = SETS[name]
    base = recipe_of('everything', .001, data, settings)
    prepared, numbers = prepare_photos(override(base, {'data.folds': n_folds})), {}
    table = prepared.tables[0].drop(columns=['split', 'fold'], errors='ignore')
    for seed in seeds:
        tables = [fold_split(add_folds(table, n_folds, seed), k, .15, seed) for k in range(n_folds)] or prepared.tables
        for k, n, way, lr in product(range(len(tables[:folds])), sizes, ways, rates):
            recipe = replace(recipe_of(way, lr or RATES.get(way, .003), data, settings), seed=seed)
            if way in FROZEN and way not in numbers: numbers[way] = frozen_numbers(recipe, prepared, Progress())
            rows = fewer(tables[k], n, seed)
            file = work/name/f'{way}_n{n}_lr{lr or 0}_s{seed}_f{k}.csv'
            own = {part: x[rows] for part, x in numbers[way].items()} if way in FROZEN else None
            pixels = replace(prepared.pixels, rows=prepared.pixels.rows[rows], paths=())
            answer(file, recipe, tables[k].iloc[rows].reset_index(drop=True), pixels, own, seen)


def answers_of(work, name):
    "All that was answered: way, n, lr, seed, and the columns of a prediction table."
    kept = []
    for file in sorted((work/name).glob('*_f*.csv')):
        way, n, lr, seed, fold = file.stem.split('_')
        facts = {'way': way, 'n': int(n[1:]), 'lr': float(lr[2:]), 'seed': int(seed[1:]), 'fold': int(fold[1:])}
        kept.append(read_predictions(file).assign(**facts))
    return pd.concat(kept, ignore_index=True)


def scores(answers):
    "The metrics of the answers of one seed."
    values = evaluate(answers, n_boot=0).value
    return values[[name for name in METRICS if name in values]].round(4).to_dict()


def tables_of(name, work):
    "Write each seed's metrics, and how each way differs from 'everything': paired, over patients, seeds pooled."
    all_answers = answers_of(work, name)
    rows, pairs = [], []
    for (way, n, lr, seed), one in all_answers.groupby(['way', 'n', 'lr', 'seed']):
        rows.append({'way': way, 'n': n, 'lr': lr, 'seed': seed, 'folds': one.fold.nunique(), 'seconds': one.groupby('fold').seconds.first().sum()} | scores(one))
    pd.DataFrame(rows).to_csv(RESULTS/f'fine_tuning_{name}.csv', index=False)
    told = all_answers[all_answers.lr == 0]
    told = told.assign(path=told.seed.astype(str) + ' ' + told.path) # a photograph counts once for each seed
    for (n, metric) in product(sorted(told.n.unique()), ['macro_f1', 'macro_auc']):
        tables = {way: one for way, one in told[told.n == n].groupby('way')}
        pairs.append(compare_models(tables, metric, 'frozen features and factors', group='patient' if name == 'eyeq' else None).assign(n=n, metric=metric))
    pd.concat(pairs).round(4).to_csv(RESULTS/f'fine_tuning_{name}_pairs.csv', index=False)


if __name__ == '__main__':
    arguments = ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('what', choices=['rates', 'eyeq', 'curves', 'cifar', 'tables'])
    arguments.add_argument('--data', type=Path)
    arguments.add_argument('--work', type=Path, required=True)
    a = arguments.parse_args()
    networks = [way for way in WAYS if way not in FROZEN]
    if a.what == 'rates': study('eyeq', a.data/'eyeq_sample', a.work, [0], ways=networks, rates=TRIED, folds=2)
    if a.what == 'eyeq': study('eyeq', a.data/'eyeq_sample', a.work, range(100, 105))
    if a.what == 'curves': study('eyeq', a.data/'eyeq_sample', a.work, range(100, 103), sizes=(25, 50, 100))
    if a.what == 'cifar': study('cifar', cifar_table(a.data, a.work), a.work, range(3))
    if a.what == 'tables':
        for name in SETS: tables_of(name, a.work)
