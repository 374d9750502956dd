"""Every setting of a recipe and every option of `fundus run`, alone and in pairs, as a person asks for them.

Each run is small; what it writes is read back. All pairs are slow; a few runs stand for them otherwise."""
from dataclasses import fields
from inspect import signature
import sys

from allpairspy import AllPairs
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fundus_nbdev import cli
from fundus_nbdev.evaluation.predictions import check_predictions
from fundus_nbdev.explain.cam import CAM_METHODS
from fundus_nbdev.models.bundle import load_bundle
from fundus_nbdev.models.layers import ACTIVATIONS, POOLS, STEMS
from fundus_nbdev.models.resnet import resnet
from fundus_nbdev.training.recipe import DataRecipe, TrainingRecipe, find_registry, read_recipe, recipe_settings

SETTINGS = { # each with the values that are tried; the first ones are those of the plainest run
    'seed': [0, 7],
    'data.crop': [*find_registry('data.crop')],
    'data.size': [40, 48],
    'data.test': [.25, .4],
    'data.valid': [.25, .4, 0],
    'data.folds': [0, 3],
    'data.group': ['patient', 'near_duplicates'],
    'data.augment': [*find_registry('data.augment')],
    'data.degrade': ['', 'defocus,haze'],
    'data.degrade_share': [.2, 1],
    'data.degrade_as': ['', 'Bad'],
    'data.order': [*find_registry('data.order')],
    'data.orientations': [1, 8],
    'model.depth': [10, 18],
    'model.stem': [*STEMS],
    'model.norm': ['batch', 'layer', 'group', 'instance'],
    'model.width': [4, 8],
    'model.activation': [*ACTIVATIONS],
    'model.zero_init': [True, False],
    'model.dropout': [0, .5],
    'model.pool': [*POOLS],
    'training.epochs': [1, 2],
    'training.bs': [8, 2],
    'training.lr': [1e-3, 1e-2],
    'training.lr_lowest': [0, 1e-5],
    'training.schedule': ['onecycle', 'constant', 'plateau'],
    'training.plateau': [3, 1],
    'training.weight_decay': [.05, 0],
    'training.accumulate': [1, 2],
    'training.clip': [0, .1],
    'training.loss': [*find_registry('training.loss')],
    'training.class_weights': [.5, 0],
    'training.effective_number': [0, .9],
    'training.logit_adjustment': [0, .5],
    'training.label_smoothing': [.1, 0],
    'training.focal': [0, 2],
    'training.mixup': [0, .4],
    'training.cutmix': [0, 1],
    'training.cutout': [0, .3],
    'training.ema': [0, .9],
    'training.keep': ['last', 'best'],
    'training.monitor': ['valid_loss', 'macro_auc', 'ece'], # the others are read in the same way
    'training.patience': [0, 1],
    'training.precision': ['auto', 'fp32', 'bf16'],
    'training.checkpoint': [60, 0],
    'training.log': ['', 'csv', 'tensorboard', 'csv,tensorboard,wandb'],
    'training.log_every': [20, 1],
    '--n-examples': [0, 2],
    '--cam': ['hirescam', *(name for name in CAM_METHODS if name not in ('hirescam', 'cam'))], # cam wants a plain head
    '--shared-scale': [False, True],
    '--stability': [0, 2],
}
ELSEWHERE = { # settings with tests of their own, and why
    'data.source', 'data.columns', 'data.labels', 'data.corrections', 'data.classes', # they are what is read: test_hostile, test_cli
    'training.compile'} # takes half a minute each time: its page has a slow test
NOT_TO_SET = {'n_classes', 'n_channels'} # the data decide
NAMES = list(SETTINGS)


def goes_together(row): # bool
    "Tell whether a recipe takes these values together."
    asked = dict(zip(NAMES, row))
    watched = asked.get('training.keep') == 'best' or asked.get('training.patience') or asked.get('training.schedule') == 'plateau'
    if asked.get('data.valid') == 0 and watched: return False # there is nothing to watch
    if asked.get('training.loss') == 'ordinal' and asked.get('training.focal'): return False # it has no focal factor
    if asked.get('training.effective_number') and asked.get('training.class_weights') == 0: return False # all the same
    return not (asked.get('training.logit_adjustment') and asked.get('data.order', 'shuffle') != 'shuffle') # other shares


def test_every_setting_is_here():
    ours = {name for name in NAMES if not name.startswith('--')} | ELSEWHERE
    there = {f'{part}.{field.name}' for part, kind in (('data', DataRecipe), ('training', TrainingRecipe)) for field in fields(kind)}
    there |= {'seed'} | {f'model.{name}' for name in signature(resnet).parameters if name not in NOT_TO_SET}
    assert ours == there


@pytest.fixture(scope='module')
def data(tmp_path_factory): # a CSV with weights, and 24 small drawings
    folder, rng = tmp_path_factory.mktemp('pairs'), np.random.default_rng(0)
    y, x = np.mgrid[:48, :48] / 48 - .5
    rows = []
    for i in range(24):
        rgb = rng.normal(90 + 60 * (i % 2), 25, (48, 48, 3))
        rgb[np.hypot(x, y) > .47] = 0
        Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(folder/f'{i}.png')
        rows.append({'path': f'{i}.png', 'label': ('Good', 'Bad')[i % 2], 'patient': i // 4 * 2 + i % 2, 'weight': 1 + i % 3})
    pd.DataFrame(rows).to_csv(folder/'labels.csv', index=False)
    return folder/'labels.csv'


def follow(monkeypatch, capsys, place, data, row): # run folder
    "Ask for a run on the command line."
    asked = dict(zip(NAMES, row))
    words = ['run', '--data', data, '--out', place/'run', '--set', 'model.name=resnet', '--set', 'data.classes=Good,Bad'] # the ordinal loss needs the order
    for name, value in asked.items():
        if name.startswith('--'): words += [name] if value is True else [] if value is False else [name, value]
        else: words += ['--set', f'{name}={str(value).lower() if isinstance(value, bool) else value}']
    monkeypatch.setenv('FUNDUS_CACHE', str(place.parent/'cache'))
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setattr(sys, 'argv', ['fundus', *map(str, words)])
    try: cli.main()
    except SystemExit as end: assert not end.code, f'{end.code}\n{asked}'
    assert capsys.readouterr().out.strip().endswith('report.html')
    return place/'run', asked


def check_run(folder, asked):
    "Read back what a run wrote."
    said = recipe_settings(read_recipe(folder/'recipe.toml'))
    for name, value in asked.items():
        if name.startswith('--'): continue
        wanted = [word for word in value.split(',') if word] if isinstance(said[name], list) else value
        assert said[name] == wanted, name
    predictions = check_predictions(pd.read_csv(folder/'predictions.csv', dtype={'patient': str}))
    assert len(predictions) == 24 and predictions.path.is_unique
    folds = [folder/f'fold{k}' for k in range(asked['data.folds'])] or [folder]
    assert len(pd.read_csv(folder/'history.csv')) <= asked['training.epochs'] * len(folds)
    for place in folds:
        info = load_bundle(place/'bundle').info
        assert info.size == asked['data.size'] and info.orientations == asked['data.orientations'] and info.metrics
        if 'csv' in asked['training.log']: assert pd.read_csv(place/'batches.csv').loss.notna().all()
        if 'tensorboard' in asked['training.log']: check_events(place/'tensorboard', asked)
        if 'wandb' in asked['training.log']: assert list(place.rglob('*.wandb'))
    metrics = pd.read_csv(folder/'metrics.csv', index_col=0)
    assert metrics.value.drop([name for name in metrics.index if name.startswith('precision')]).notna().mean() > .8
    page = (folder/'report.html').read_text(encoding='utf-8')
    assert page.count('</section>') >= 4 and '>nan' not in page and 'nan–' not in page


def check_events(folder, asked):
    "Read TensorBoard's file back: the losses of the batches are numbers."
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()['scalars']
    assert 'train_loss' in tags or asked['training.log_every'] == 20, tags
    assert all(np.isfinite(each.value) for tag in tags for each in events.Scalars(tag) if 'loss' in tag)


def pairs_in(rows): # {(name, value, name, value), …}
    "Every pair of values that is tried together."
    return {(NAMES[a], row[a], NAMES[b], row[b]) for row in rows for a in range(len(NAMES)) for b in range(a)}


def with_pair(first, value, second, other): # a row
    "The plainest run with two values changed."
    return list(({name: values[0] for name, values in SETTINGS.items()} | {first: value, second: other}).values())


EVERY = {(first, value, second, other) for a, first in enumerate(NAMES) for second in NAMES[:a]
         for value in SETTINGS[first] for other in SETTINGS[second]}
ROWS = [list(row) for row in AllPairs(list(SETTINGS.values()), filter_func=goes_together)]
REFUSED = {pair for pair in EVERY if not goes_together(with_pair(*pair))}
ROWS += [with_pair(*pair) for pair in sorted(EVERY - REFUSED - pairs_in(ROWS), key=str)] # that the library has missed


@pytest.mark.slow
@pytest.mark.parametrize('row', ROWS, ids=range(len(ROWS)))
def test_all_pairs(monkeypatch, capsys, tmp_path, data, row): check_run(*follow(monkeypatch, capsys, tmp_path, data, row))


def test_pairs_are_all_there(): assert EVERY - pairs_in(ROWS) == REFUSED and len(REFUSED) < 10
