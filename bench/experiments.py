"""Repeat a recipe over seeds and keep its figures.

    python bench/experiments.py eyeq --data FOLDER --folds 5 --seeds 100 101 102
    python bench/experiments.py drimdb --data FOLDER --seeds 100 101 102 103 104

Each seed is a `fundus run` of its own in runs/<recipe>-s<seed>; a seed whose run is finished is not run again,
unless the recipe has changed since, and one whose run was ended goes on.
The figures go to bench/results/, shown by nbs/experiments/:

    <recipe>.csv             one row for each seed and rule
    <recipe>_confidence.csv  how far the probabilities can be trusted, for each seed
    <recipe>_runs.csv        all seeds in one table (with folds: the seeds have answered the same photographs)"""
from argparse import ArgumentParser
from pathlib import Path
import re
import subprocess
import sys

import pandas as pd

from fundus_nbdev.evaluation.reading import read_predictions
from fundus_nbdev.evaluation.multi_run import evaluate_runs
from fundus_nbdev.training.recipe import find_recipe, override, read_recipe

METRICS = ['accuracy', 'balanced_accuracy', 'macro_f1', 'macro_auc', 'quadratic_kappa']


def run_seed(recipe, seed, data, folds):
    "The run folder of a seed, made if it is not there."
    folder = Path('runs')/f'{recipe}-s{seed}'
    wanted = override(find_recipe(recipe), {'data.source': str(Path(data).absolute()), 'seed': seed, 'data.folds': folds})
    begun = (folder/'recipe.toml').exists() and read_recipe(folder/'recipe.toml') == wanted
    if begun and not (folder/'report.html').exists(): subprocess.run(['fundus', 'run', '--resume', str(folder)], check=True)
    if not begun:
        command = ['fundus', 'run', recipe, '--data', data, '--seed', str(seed), '--out', str(folder), '--overwrite']
        subprocess.run(command + (['--folds', str(folds)] if folds else []), check=True)
    return folder


def rows_of(folder, seed):
    "The figures of a run: the network, and the rules beside it."
    table = pd.read_csv(folder/'metrics.csv', index_col=0)
    metrics, ends = table['value'], {f'{name}_{end}': round(table.loc[name, end], 4) for name in METRICS for end in ('low', 'high')}
    seconds = max(map(float, re.findall(r', (\d+) s$', (folder/'log.txt').read_text(), flags=re.M))) # of the training, not of a report that was written again
    predictions = pd.read_csv(folder/'predictions.csv')
    tested = int((predictions.split == 'test').sum())
    recalls = {name: round(value, 4) for name, value in metrics.items() if name.startswith('recall_')}
    yield {'rule': 'network', 'seed': seed, 'tested': tested, 'seconds': seconds} | metrics[METRICS].round(4).to_dict() | recalls | ends
    for rule, values in pd.read_csv(folder/'baselines.csv', index_col=0).iterrows(): yield {'rule': rule.split(' (')[0], 'seed': seed, 'tested': tested, 'factor': rule.partition(' (')[2].rstrip(')')} | values.round(4).to_dict()


def main():
    arguments = ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('recipe')
    arguments.add_argument('--data', required=True)
    arguments.add_argument('--folds', type=int, default=0)
    arguments.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    a = arguments.parse_args()
    folders, results = {seed: run_seed(a.recipe, seed, a.data, a.folds) for seed in a.seeds}, Path(__file__).parent/'results'
    tables = {'': pd.DataFrame([row for seed, folder in folders.items() for row in rows_of(folder, seed)]),
              '_confidence': pd.concat([pd.read_csv(folder/'confidence.csv').assign(seed=seed).round(5) for seed, folder in folders.items()])}
    if a.folds: tables['_runs'] = evaluate_runs([read_predictions(folder/'predictions.csv') for folder in folders.values()]).round(5).reset_index()
    results.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_csv(results/f'{a.recipe}{name}.csv', index=False)
        print(f'{results/f"{a.recipe}{name}.csv"}: {len(table)} rows')


if __name__ == '__main__': sys.exit(main())
