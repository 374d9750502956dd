"""Do the intervals hold the truth as often as they say? And what do they cost?

    python bench/intervals.py

1. Coverage. Draws studies whose truth is known (evaluation.simulate: three classes, one or two photographs a patient): 100, 500 and 2,000 photographs,
   a network that is right 77 times of 100 and one that is right 87 times. Each study is evaluated as `evaluate` does, with 2,000 resamples of its patients (BCa),
   and beside it with the plain middle 95 % of the same resamples, with their spread about the value (as evaluate does for the calibration error),
   and with photographs resampled as if no two were of one patient. The truth is the mean over
   ten tables of 100,000 photographs.
2. Cost. 16,000 photographs, 3 classes, 2,000 resamples: wall time and peak memory of a process of its own, beside scikit-learn's functions on resampled copies
   (20 resamples, taken times 100).

Studies that are done are kept in runs/intervals, so an ended run goes on where it was. All of it goes to bench/results/intervals.json,
shown by nbs/experiments/06_intervals.ipynb. About twenty minutes on two cores."""
from argparse import ArgumentParser
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import sklearn
import sklearn.metrics as sk

from fundus_nbdev.core.files import write_whole
from fundus_nbdev.evaluation.bootstrap import bca_ends, leave_out, resample, spread_ends
from fundus_nbdev.evaluation.confusion import answers_of
from fundus_nbdev.evaluation.metrics import evaluate, metric_names, metric_statistic
from fundus_nbdev.evaluation.predictions import classes_of_predictions, probabilities
from fundus_nbdev.evaluation.simulate import draw_predictions

SIZES, SKILLS, N_BOOT = {100: 2000, 500: 2000, 2000: 1000}, (1., 1.4), 2000 # photographs → studies
NAMES = metric_names(['Good', 'Usable', 'Reject'])


def true_values(skill):
    "Every metric of the network on photographs without end, nearly."
    truth = np.mean([evaluate(draw_predictions(100_000, seed=10**6 + i, skill=skill), n_boot=0).value for i in range(10)], axis=0)
    return np.where([name == 'ece' for name in NAMES], 0, truth) # they are exactly calibrated


def ends_of(predictions, seed):
    "Ends of the four kinds of interval, (4, 2, metrics)."
    ends = []
    for group in ('patient', None):
        answers = answers_of(predictions, group)
        statistic = metric_statistic(answers)
        drawn = resample(statistic, answers.n_groups, N_BOOT, seed)
        value = statistic(np.ones((1, answers.n_groups), np.int32))[0]
        ends.append(bca_ends(value, drawn, leave_out(statistic, answers.n_groups)))
        if group: ends += [np.nanquantile(drawn, [.025, .975], axis=0), spread_ends(value, drawn)]
    return np.stack(ends)


def study(job):
    n, skill, seed = job
    return ends_of(draw_predictions(n, seed=seed, skill=skill), seed)


def studies(n, skill, workers, progress):
    "All studies of one size and skill; finished ones are read back."
    place = Path('runs/intervals')/f'{n}-{skill}.npy'
    if place.exists() and len(found := np.load(place)) == SIZES[n]: return found
    jobs = [(n, skill, seed) for seed in range(SIZES[n])]
    found = []
    for done, ends in enumerate(workers.map(study, jobs, chunksize=10), 1):
        found.append(ends)
        progress(done, len(jobs))
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, lambda file: np.save(file, np.stack(found)))
    return np.stack(found)


def coverage_rows(n, skill, ends, truth):
    "How often each kind of interval held the truth, lay above it and below it."
    for kind, (low, high) in zip(('bca', 'percentile', 'spread', 'photographs'), ends.transpose(1, 2, 0, 3)):
        known = ~np.isnan(low)
        for i, name in enumerate(NAMES):
            ok, a, b = known[:, i], low[known[:, i], i], high[known[:, i], i]
            yield dict(photographs=n, skill=skill, interval=kind, metric=name, truth=round(truth[i], 5), studies=int(ok.sum()), covered=round(float(((a <= truth[i]) & (truth[i] <= b)).mean()), 5),
                       above=round(float((a > truth[i]).mean()), 5), below=round(float((b < truth[i]).mean()), 5), width=round(float((b - a).mean()), 5))


def large(): return draw_predictions(16_000, skill=1.4)


def sklearn_resample(predictions, rows):
    "The metrics of one resample, by scikit-learn on a copy."
    y, pred, p = predictions['label'].to_numpy()[rows], predictions['pred'].to_numpy()[rows], probabilities(predictions)[rows]
    classes = classes_of_predictions(predictions)
    t, a = (pd.Index(classes).get_indexer(v) for v in (y, pred))
    whole = [sk.accuracy_score(t, a), sk.balanced_accuracy_score(t, a), sk.f1_score(t, a, average='macro'), sk.precision_score(t, a, average='macro'), sk.recall_score(t, a, average='macro'),
             sk.roc_auc_score(t, p, multi_class='ovr'), sk.average_precision_score(np.eye(3)[t], p), sk.cohen_kappa_score(t, a, weights='quadratic'), sk.cohen_kappa_score(t, a),
             sk.matthews_corrcoef(t, a), sk.log_loss(t, p), sk.brier_score_loss(t, p)]
    each = [f(t == c, a == c) for c in range(3) for f in (sk.precision_score, sk.recall_score, sk.f1_score)] + [sk.recall_score(t != c, a != c) for c in range(3)]
    return whole + each + [f(t == c, p[:, c]) for c in range(3) for f in (sk.roc_auc_score, sk.average_precision_score)]


def time_once(what):
    "In a process of its own: seconds of evaluate, or of 20 resamples by scikit-learn; and its peak memory."
    predictions, start = large(), time.perf_counter()
    if what == 'evaluate': evaluate(predictions, n_boot=N_BOOT)
    else:
        rng = np.random.default_rng(0)
        for _ in range(20): sklearn_resample(predictions, rng.integers(0, len(predictions), len(predictions)))
    print(json.dumps(dict(seconds=time.perf_counter() - start, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)))


def costs(repeats=5):
    "Median time and memory, in turns."
    rows = [dict(what=what, **json.loads(subprocess.run([sys.executable, __file__, '--time', what], capture_output=True, text=True, check=True).stdout)) for _ in range(repeats) for what in ('evaluate', 'sklearn')]
    table = pd.DataFrame(rows).groupby('what').agg(['median', 'min', 'max'])
    seconds = {what: table.loc[what, 'seconds'].round(3).to_dict() for what in table.index}
    return dict(seconds=seconds, peak_mb={what: round(table.loc[what, ('peak_mb', 'max')]) for what in table.index}, sklearn_resamples=20, n_boot=N_BOOT, photographs=16_000,
                times_faster=round(seconds['sklearn']['median'] * N_BOOT / 20 / seconds['evaluate']['median']))


def main():
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--time', choices=('evaluate', 'sklearn'), help='(used by the script itself)')
    if (what := parser.parse_args().time): return time_once(what)
    cost = costs()
    from fundus_nbdev.models.bundle import versions # torch and fastai; only now, since a process begins with its parent's peak of memory
    from fundus_nbdev.core.progress import Progress
    shown, rows = Progress('auto'), []
    shown.say(f'{cost}')
    os.environ['OMP_NUM_THREADS'] = '1'
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        for skill in SKILLS:
            truth = true_values(skill)
            for n in SIZES: rows += coverage_rows(n, skill, studies(n, skill, workers, shown.counter(f'{n} photographs, skill {skill}')), truth)
    result = dict(coverage=rows, cost=cost, n_boot=N_BOOT, cores=os.cpu_count(), versions=versions() | {'sklearn': sklearn.__version__})
    write_whole(Path(__file__).parent/'results'/'intervals.json', json.dumps(result, indent=1))


if __name__ == '__main__': main()
