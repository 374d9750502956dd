"""Does spoiling photographs in training help? The recipe `eyeq` with and without it, cross-validated, over seeds.

    python bench/spoil.py --data FOLDER --seeds 100 101 102

For each seed two runs in runs/: as shipped (that of experiments.py, where it is there), and with
data.degrade=defocus,motion (nothing was tuned: share and severities are the defaults). Asked of both: the metrics of the photographs as they are, and what the networks say to
the Good photographs when each is degraded, out of fold.
The figures go to bench/results/eyeq_spoil.csv, shown by nbs/experiments/02_eyeq.ipynb: a row for each seed and arm."""
from argparse import ArgumentParser
from pathlib import Path

import pandas as pd

from fundus_nbdev.synth.degradations import DEGRADATIONS
from fundus_nbdev.evaluation.metrics import evaluate
from fundus_nbdev.errors.robustness import answer_variants, degraded
from fundus_nbdev.training.fit import fit
from fundus_nbdev.core.progress import Progress
from fundus_nbdev.training.recipe import find_recipe, override, read_recipe

METRICS = ['accuracy', 'balanced_accuracy', 'macro_f1', 'macro_auc', 'quadratic_kappa',
           'recall_Good', 'recall_Usable', 'recall_Reject']
ARMS = {'as shipped': (), 'spoilt': ('defocus', 'motion')}
SEVERITIES = (.5, 1.) # from 0.5 on, drawn photographs are Reject


def trained(recipe, folder):
    "The run of this recipe; one that was begun goes on, one that is finished is read."
    begun = (folder/'recipe.toml').exists() and read_recipe(folder/'recipe.toml') == recipe
    return fit(recipe, folder, resume=begun, progress=Progress('auto'))


def still_good(fitted):
    "Share of the Good photographs that are called Good: as they are, and degraded."
    good = fitted.predictions[fitted.predictions.label == 'Good']
    def vary(path, size): return degraded(path, size, severities=SEVERITIES)
    answers = answer_variants(good, dict(enumerate(fitted.bundles)), vary)
    called = (answers.pred == 'Good').groupby([answers.kind, answers.level.astype(float)]).mean()
    shares = {f'{kind} {level:g}': called[kind, level] for kind in DEGRADATIONS for level in SEVERITIES}
    return {'as they are': called['', 0.]} | shares


def main():
    arguments = ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('--data', required=True)
    arguments.add_argument('--folds', type=int, default=5)
    arguments.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    a, rows, file = arguments.parse_args(), [], Path(__file__).parent/'results'/'eyeq_spoil.csv'
    for seed in a.seeds:
        for arm, kinds in ARMS.items():
            recipe = override(find_recipe('eyeq'), {'data.source': str(Path(a.data).absolute()), 'data.folds': a.folds,
                                                    'seed': seed, 'data.degrade': list(kinds)})
            fitted = trained(recipe, Path('runs')/(f'eyeq-spoilt-s{seed}' if kinds else f'eyeq-s{seed}'))
            metrics = evaluate(fitted.predictions, 0)['value'].reindex(METRICS)
            shares = {name: round(share, 4) for name, share in still_good(fitted).items()}
            row = {'seed': seed, 'arm': arm, 'photographs': len(fitted.predictions)}
            rows.append(row | metrics.round(4).to_dict() | shares)
            pd.DataFrame(rows).to_csv(file, index=False)
            print(rows[-1], flush=True)


if __name__ == '__main__': main()
