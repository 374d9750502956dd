"""bf16 against fp32: the same small network trained in both, seed by seed.

    FUNDUS_DATA=FOLDER python bench/formats.py

CIFAR-10: the first 2,000 training photographs, scored on the first 2,000 test photographs; resnet(10, width=16), 6 epochs of one cycle.
The figures of the last epoch go to bench/results/formats.csv, one row for each seed and format; the two take turns.
What matters of the machine: amx and avx512_bf16, with which a CPU multiplies bf16 itself, while others imitate it, slowly and with other roundings;
a GPU, which rounds differently again; and the number of threads, which changes the order of sums. The figures in git are from 2 cores of a CPU with both features.
Shown by nbs/07_training/06_precision.ipynb."""
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
import os
import sys

from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import F1Score, accuracy
from fastai.optimizer import Adam
from fastai.torch_core import set_seed
import numpy as np
import pandas as pd

from fundus_nbdev.data.datablock import dataloaders
from fundus_nbdev.core.files import write_whole
from fundus_nbdev.data.pixels import Pixels
from fundus_nbdev.models.resnet import resnet
from fundus_nbdev.training.precision import MixedPrecisionCB
from fundus_nbdev.training.onecycle import OneCycleCB


def read_photos(folder, n):
    "The first n photographs of CIFAR-10's training and test part, as a table and its pixels."
    parts = [np.load(Path(folder)/'cifar10'/f'cifar10_{part}.npz') for part in ('train', 'test')]
    array, labels = (np.concatenate([part[key][:n] for part in parts]) for key in 'xy')
    table = pd.DataFrame({'path': [f'{split}{i}' for split in ('train', 'valid') for i in range(n)], 'label': labels.astype(str), 'split': np.repeat(['train', 'valid'], n)})
    return table, Pixels(array, {}, np.arange(2 * n))


def train(table, pixels, seed, format, epochs):
    "The figures of one training's last epoch."
    set_seed(seed, reproducible=True)
    dls = dataloaders(table, pixels, bs=64, augment='none', seed=seed)
    model = resnet(10, stem='cifar', width=16, n_classes=table.label.nunique())
    learn = Learner(dls, model, CrossEntropyLossFlat(), partial(Adam, decouple_wd=True), wd=.01, metrics=[accuracy, F1Score(average='macro')], cbs=[MixedPrecisionCB(format, say=None), OneCycleCB()])
    with learn.no_logging(): learn.fit(epochs, 3e-3)
    train_loss, valid_loss, score, f1 = learn.recorder.values[-1]
    return {'seed': seed, 'format': format, 'accuracy': round(score, 5), 'macro_f1': round(f1, 5), 'train_loss': round(train_loss, 5), 'valid_loss': round(valid_loss, 5)}


def main():
    arguments = ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('--data', default=os.environ.get('FUNDUS_DATA'), required='FUNDUS_DATA' not in os.environ)
    arguments.add_argument('--seeds', type=int, default=5)
    arguments.add_argument('--photos', type=int, default=2000)
    arguments.add_argument('--epochs', type=int, default=6)
    arguments.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'formats.csv')
    a = arguments.parse_args()
    table, pixels = read_photos(a.data, a.photos)
    rows = []
    for seed in range(a.seeds):
        for format in ('fp32', 'bf16'):
            rows.append(train(table, pixels, seed, format, a.epochs))
            print(rows[-1], flush=True)
    write_whole(a.out, pd.DataFrame(rows).to_csv(index=False))


if __name__ == '__main__': sys.exit(main())
