"""The logs of a training: killed and resumed they equal those of a training that was not.

TensorBoard and Weights & Biases are told the same numbers."""
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from torch import nn

from fundus_nbdev.data.datablock import dataloaders
from fundus_nbdev.data.pixels import Pixels
from fundus_nbdev.training.loggers import BatchLogCB, log_callbacks
from fundus_nbdev.training.callbacks import HistoryCB, ProgressCB
from fundus_nbdev.training.checkpoint import (
    CheckpointCB,
    ResumableLearner,
    checkpoints,
    newest_checkpoint,
    read_checkpoint,
)
from fundus_nbdev.training.onecycle import OneCycleCB
from fundus_nbdev.training.optimizer import adamw
from fundus_nbdev.training.tiny import DieCB

EPOCHS, PER_EPOCH = 3, 5 # 5 batches of 4 photographs


def learner(opt_func=SGD):
    "A small one; its pictures are noise with a little colour."
    random, n = np.random.default_rng(0), 28
    table = pd.DataFrame({'path': [f'{i}.png' for i in range(n)], 'split': ['train'] * 20 + ['valid'] * 8,
                          'label': ['Good' if i % 2 else 'Bad' for i in range(n)]})
    lighter = np.array([0, 50], dtype=np.uint8)[np.arange(n) % 2, None, None, None]
    array = random.integers(0, 200, (n, 8, 8, 3), dtype=np.uint8) + lighter
    dls = dataloaders(table, Pixels(array, {}, np.arange(n)), bs=4, seed=3)
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.2), nn.Linear(4, 2)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *head)
    return ResumableLearner(dls, model, nn.CrossEntropyLoss(), opt_func, metrics=accuracy)


def train(folder, logs, state=None, kill=None, opt_func=SGD):
    "One fit with a history and logs; with a checkpoint after every batch."
    learn = learner(opt_func)
    learn.logger = print
    checkpoint = CheckpointCB(folder/'checkpoints', every=0, keep=99, state=state)
    cbs = [HistoryCB(folder/'history.csv'), OneCycleCB(), checkpoint, ProgressCB('none'), *logs]
    if kill is None: learn.fit(EPOCHS, .1, cbs=cbs)
    else:
        die = DieCB(RuntimeError('killed'), 'after_batch', kill, order=95) # behind the checkpoint
        with pytest.raises(RuntimeError, match='killed'): learn.fit(EPOCHS, .1, cbs=[*cbs, die])
    return learn


def state_at(folder, step):
    "The checkpoint after a number of training batches."
    states = map(read_checkpoint, checkpoints(folder/'checkpoints'))
    return next(state for state in states if state['train_iter'] == step)


@pytest.mark.parametrize('checkpoint, kill', [(1, 1), (2, 4), (4, 7), (5, 5), (5, 8), (7, 15), (12, 14)])
@pytest.mark.parametrize('every', [2, *(pytest.param(every, marks=pytest.mark.slow) for every in (1, 4))])
def test_resumed_files_are_the_same(tmp_path, every, checkpoint, kill):
    once, twice = tmp_path/'once', tmp_path/'twice'
    train(once, [BatchLogCB(once/'batches.csv', every)])
    train(twice, [BatchLogCB(twice/'batches.csv', every)], kill=kill)
    if (twice/'batches.csv').exists():
        with (twice/'batches.csv').open('ab') as torn: torn.write(b'99,torn')
    train(twice, [BatchLogCB(twice/'batches.csv', every)], state=state_at(twice, checkpoint))
    for name in ('batches.csv', 'history.csv'):
        assert (twice/name).read_bytes() == (once/name).read_bytes()
    assert len(pd.read_csv(once/'batches.csv')) == EPOCHS * PER_EPOCH // every


def scalars(folder):
    "What TensorBoard shows: tag → list of (step, value)."
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder/'tensorboard'), size_guidance={'scalars': 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()['scalars']}


@pytest.mark.parametrize('kill', [None, 8])
def test_tensorboard_equals_history(tmp_path, kill):
    pytest.importorskip('tensorboard', reason='TensorBoard is not installed: the extra `log`')
    if kill: train(tmp_path, log_callbacks(('tensorboard',), tmp_path, every=1), kill=kill)
    state = state_at(tmp_path, 6) if kill else None
    learn = train(tmp_path, log_callbacks(('tensorboard',), tmp_path, every=1), state=state)
    shown, history = scalars(tmp_path), pd.read_csv(tmp_path/'history.csv')
    ends = [PER_EPOCH * (epoch + 1) for epoch in range(EPOCHS)]
    for name in ('valid_loss', 'accuracy'):
        assert [step for step, _ in shown[name]] == ends
        assert [value for _, value in shown[name]] == pytest.approx(history[name].tolist())
    assert [step for step, _ in shown['train_loss']] == list(range(1, EPOCHS * PER_EPOCH + 1)) # each once
    assert [dict(shown['train_loss'])[step] for step in ends] == pytest.approx(history.train_loss.tolist())
    assert [value for _, value in shown['lr_0']] == pytest.approx(learn.recorder.lrs)


@pytest.mark.parametrize('of_fastai', [False, True])
def test_tensorboard_shows_the_recipes_optimizer(tmp_path, of_fastai):
    "In our callback and in fastai's own: the hyperparameters that fastai's Adam has, and no switches of PyTorch."
    tensorboard = pytest.importorskip('fastai.callback.tensorboard', reason='TensorBoard is not installed: the extra `log`')
    plain = tensorboard.TensorBoardCallback(tmp_path/'tensorboard', trace_model=False, log_preds=False)
    logs = [plain] if of_fastai else log_callbacks(('tensorboard',), tmp_path, every=1)
    learn = train(tmp_path, logs, opt_func=adamw)
    shown = scalars(tmp_path)
    assert {tag for tag in shown if tag[-2:] == '_0'} == {'lr_0', 'mom_0', 'sqr_mom_0', 'eps_0', 'wd_0'}
    assert dict(shown['lr_0'])[5] == pytest.approx(learn.recorder.lrs[4])
    assert dict(shown['mom_0'])[5] == pytest.approx(learn.recorder.hps['mom'][4])


def test_tensorboard_every_other_batch(tmp_path):
    pytest.importorskip('tensorboard', reason='TensorBoard is not installed: the extra `log`')
    train(tmp_path, log_callbacks(('tensorboard',), tmp_path, every=4))
    assert [step for step, _ in scalars(tmp_path)['train_loss']] == [4, 8, 12]


def log_records(data):
    """The records of a LevelDB log, which is how W&B writes: blocks of 32 KiB of pieces.

    A piece is checksum (4 bytes), length (2), kind (1), content."""
    at, record = 7, b'' # behind W&B's own header
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7: # the rest of a block is empty
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4:at + 6], 'little'), data[at + 6]
        record, at = record + data[at + 7:at + 7 + length], at + 7 + length
        if kind in (1, 4): # whole, or last piece
            yield record
            record = b''


def wandb_rows(folder):
    """What is in the offline files: a list of runs, each a list of rows.

    A finished run's file is closed by W&B's service, a little later; the end of the service waits for it."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record
    wandb.teardown()
    def rows(file):
        for record in map(Record.FromString, log_records(file.read_bytes())):
            if record.WhichOneof('record_type') != 'history': continue
            yield {'.'.join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
    files = sorted(folder.glob('wandb/offline-run-*/*.wandb'), key=lambda file: file.parent.name)
    return [list(rows(file)) for file in files]


@pytest.fixture
def offline(monkeypatch):
    wandb = pytest.importorskip('wandb', reason='Weights & Biases is not installed: the extra `log`')
    for name in [name for name in os.environ if name.startswith('WANDB_')]: monkeypatch.delenv(name)
    monkeypatch.setenv('HTTPS_PROXY', 'http://127.0.0.1:1') # nothing could be reached
    yield wandb
    assert wandb.run is None


def test_wandb_offline_equals_history(tmp_path, offline, capfd):
    train(tmp_path, log_callbacks(('wandb',), tmp_path, every=1, config={'lr': .1, 'size': 8}))
    (rows,), history = wandb_rows(tmp_path), pd.read_csv(tmp_path/'history.csv')
    assert [row['_step'] for row in rows] == list(range(1, EPOCHS * PER_EPOCH + 1))
    ends = rows[PER_EPOCH - 1::PER_EPOCH]
    for name in ('train_loss', 'valid_loss', 'accuracy'):
        assert [row[name] for row in ends] == pytest.approx(history[name].tolist())
    assert [row['epoch'] for row in ends] == [1, 2, 3]
    assert not any('valid_loss' in row for row in rows if row not in ends)
    assert rows[1]['epoch'] == pytest.approx(2 / PER_EPOCH)
    printed = capfd.readouterr()
    assert printed.out == '' and 'wandb' not in printed.err.lower()


def test_wandb_shows_the_recipes_optimizer(tmp_path, offline):
    learn = train(tmp_path, log_callbacks(('wandb',), tmp_path, every=1), opt_func=adamw)
    (rows,) = wandb_rows(tmp_path)
    assert [row['lr_0'] for row in rows] == pytest.approx(learn.recorder.lrs)
    assert {name for name in rows[0] if name[-2:] == '_0'} == {'lr_0', 'mom_0', 'sqr_mom_0', 'eps_0', 'wd_0'}


def test_wandb_goes_on_after_a_kill(tmp_path, offline):
    train(tmp_path, log_callbacks(('wandb',), tmp_path, every=1), kill=8)
    assert offline.run is None # finished though the fit died
    train(tmp_path, log_callbacks(('wandb',), tmp_path, every=1), state=state_at(tmp_path, 6))
    first, second = wandb_rows(tmp_path)
    assert [row['_step'] for row in first] == list(range(1, 9))
    assert [row['_step'] for row in second] == list(range(7, 16))
    assert [row['train_loss'] for row in first[6:]] == [row['train_loss'] for row in second[:2]]
    assert len({file.name for file in tmp_path.glob('wandb/offline-run-*/*.wandb')}) == 1 # one run in two pieces


def test_logs_change_no_training(tmp_path, offline):
    pytest.importorskip('tensorboard', reason='TensorBoard is not installed: the extra `log`')
    logs = log_callbacks(('csv', 'tensorboard', 'wandb'), tmp_path/'loud', every=1)
    quiet, loud = train(tmp_path/'quiet', []), train(tmp_path/'loud', logs)
    for a, b in zip(quiet.model.parameters(), loud.model.parameters()): assert torch.equal(a, b)
    assert (tmp_path/'quiet'/'history.csv').read_bytes() == (tmp_path/'loud'/'history.csv').read_bytes()
    assert not (tmp_path/'quiet'/'wandb').exists()


def test_nothing_is_imported_unasked():
    code = '''
import sys
from fundus_nbdev.training.loggers import log_callbacks
log_callbacks(('csv',), '.')
print([name for name in ('wandb', 'tensorboard') if name in sys.modules])
'''
    ran = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == '[]'


def test_progress_of_a_resumed_training(tmp_path, capsys):
    train(tmp_path, [], kill=8)
    learn, progress = learner(), ProgressCB('none')
    learn.logger = print
    checkpoint = CheckpointCB(tmp_path/'checkpoints', state=newest_checkpoint(tmp_path/'checkpoints'))
    learn.fit(EPOCHS, .1, cbs=[HistoryCB(tmp_path/'history.csv'), OneCycleCB(), checkpoint, progress])
    assert progress.first == pytest.approx((1 + 3 / 7) / 3) # one epoch, and 3 of the 7 batches of the next
