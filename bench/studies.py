"""Study many ways of training on the same photographs: each is done once and kept, so that what was ended goes on."""
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
import time

import pandas as pd

from fundus_nbdev.core.progress import Progress
from fundus_nbdev.data.split import add_folds, fold_split
from fundus_nbdev.evaluation.compare import compare_models
from fundus_nbdev.evaluation.metrics import evaluate
from fundus_nbdev.evaluation.reading import read_predictions
from fundus_nbdev.training.fit import fit_split

RESULTS = Path(__file__).parent/'results'
FACTS = ['way', 'n', 'seed'] # of trainings that are scored together; n: photographs to learn from, 0 for all


def folds_of(table, seed, valid=0.):
    "Five tables with `split`."
    folded = add_folds(table, 5, seed)
    return [fold_split(folded, fold, valid=valid, seed=seed) for fold in range(5)]


def train_once(folder, recipe, table, pixels, numbers=None, **facts):
    "Train on a split, and keep what is answered to the validation and test part; unless it was done before."
    file = folder/(', '.join(f'{name} {value}' for name, value in facts.items()) + '.csv')
    if file.is_file(): return
    start = time.perf_counter()
    with TemporaryDirectory() as place:
        got = fit_split(recipe, table, pixels, Path(place), Progress(), numbers=numbers).predictions
    seconds, counts = round(time.perf_counter() - start, 1), table[table.split == 'train'].label.value_counts()
    facts |= {'seconds': seconds} | {f'trained_{name}': n for name, n in counts.items()}
    got = got[got.split != 'train'].drop(columns='fold', errors='ignore').assign(**facts)
    folder.mkdir(parents=True, exist_ok=True)
    got.to_csv(file, index=False)
    print(f'{file.stem}: {seconds} s, accuracy {(got.label == got.pred)[got.split == "test"].mean():.3f}', flush=True)


def kept_answers(folder):
    "What was answered: a prediction table with the facts of each training."
    return pd.concat(map(read_predictions, sorted(folder.glob('*.csv'))), ignore_index=True)


def score_runs(answers):
    "A row for each way and seed: its metrics, out of fold where there are folds."
    rows = []
    for facts, one in answers.groupby(FACTS):
        values = evaluate(one.drop(columns='split'), n_boot=0).value.round(4).to_dict()
        rows.append(dict(zip(FACTS, facts)) | {'seconds': one.groupby('part').seconds.first().sum().round(1)} | values)
    return pd.DataFrame(rows)


def compare_ways(answers, reference, metrics, group):
    "How each way differs from one of them: paired over patients, with the answers of all seeds; p values after Holm."
    answers = answers.assign(path=answers.seed.astype(str) + ' ' + answers.path).drop(columns='split') # once for each seed
    pairs = []
    for n, metric in product(sorted(answers.n.unique()), metrics):
        tables = {way: one.reset_index(drop=True) for way, one in answers[answers.n == n].groupby('way')}
        pairs.append(compare_models(tables, metric, reference, group=group).assign(n=n, metric=metric))
    return pd.concat(pairs, ignore_index=True).round(4)
