"""Two processes over gloo against one.

This file holds the tests, and is itself the script that torchrun starts, once for all of them."""
from pathlib import Path
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings

import pytest

pytest.importorskip('accelerate', reason="needs accelerate: pip install 'fundus_nbdev[distributed]'")
warnings.filterwarnings('ignore', category=FutureWarning)
pytestmark = pytest.mark.slow

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientClip
from fastai.metrics import F1Score, accuracy
from rich.console import Console

from fundus_nbdev.data.datablock import dataloaders
from fundus_nbdev.data.pixels import Pixels
from fundus_nbdev.models.resnet import resnet
from fundus_nbdev.training.loggers import BatchLogCB
from fundus_nbdev.training.finite_loss import FiniteLossCB
from fundus_nbdev.training.callbacks import HistoryCB, ProgressCB
from fundus_nbdev.core.errors import TrainingError
from fundus_nbdev.training.checkpoint import CheckpointCB, ResumableLearner, Stopped, newest_checkpoint
from fundus_nbdev.training.processes import (
    check_processes,
    end_processes,
    main_process_first,
    main_process,
    broadcast,
    start_processes,
)
from fundus_nbdev.training.distributed import together
from fundus_nbdev.training.precision import MixedPrecisionCB
from fundus_nbdev.training.losses import ClassificationLoss
from fundus_nbdev.training.cutmix import mix_callbacks
from fundus_nbdev.training.onecycle import OneCycleCB
from fundus_nbdev.training.optimizer import AccumulateCB, FreezeCB, adamw
from fundus_nbdev.training.tracker import KeepBestCB
from fundus_nbdev.training.ema import EMACB
from fundus_nbdev.training.tiny import DieCB

TRAIN, VALID, BS = 29, 11, 6 # 29 can be divided neither by 6 nor by 2
CLASSES = ['Good', 'Usable', 'Reject']


def make_learner(norm='layer', cbs=(), bs=BS, augment='none', dropout=0.): # the same in each process
    n, random = TRAIN + VALID, np.random.default_rng(0)
    labels = random.choice(CLASSES, n, p=[.6, .25, .15])
    lighter = np.array([40 * CLASSES.index(label) for label in labels], np.uint8)[:, None, None, None]
    photos = random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) // 2 + lighter
    parts = ['train'] * TRAIN + ['valid'] * VALID
    table = pd.DataFrame(dict(path=[f'{i}.png' for i in range(n)], label=labels, split=parts))
    torch.manual_seed(1)
    dls = dataloaders(table, Pixels(photos, {}, np.arange(n)), CLASSES, bs=bs, augment=augment, seed=2)
    model = resnet(depth=10, width=4, norm=norm, n_classes=3, dropout=dropout)
    loss = ClassificationLoss(torch.tensor([.5, 1.2, 2.]), label_smoothing=.1, gamma=1.)
    metrics = [accuracy, F1Score(average='macro')]
    return ResumableLearner(dls, model, loss_func=loss, opt_func=adamw, metrics=metrics, cbs=list(cbs))


def train(learner, epochs=1, cbs=()):
    with together(learner), learner.no_bar(), learner.no_logging():
        learner.fit(epochs, 3e-3, cbs=[FiniteLossCB(), *cbs])
    model, recorder = learner.model, learner.recorder
    weights, buffers = [p.tolist() for p in model.parameters()], [b.tolist() for b in model.buffers()]
    losses, values = [float(loss) for loss in recorder.losses], [list(map(float, row)) for row in recorder.values]
    return dict(weights=weights, buffers=buffers, losses=losses, values=values)


class AtBatch(Callback):
    "Do something after a training batch."
    order, run_valid = 80, False
    def __init__(self, step, act): self.step, self.act = step, act
    def after_batch(self):
        if self.train_iter == self.step: self.act()


# What each process does; the names of the checks are those of their results.

def check_rows(folder): # rows of each epoch that this process read
    learner, epochs = make_learner(), []
    def noting(dl):
        read = dl.read
        def note(indices):
            epochs[-1].extend(dl.dataset.items.index[indices].tolist())
            return read(indices)
        dl.read = note
    class NewEpochCB(Callback):
        def before_train(self): epochs.append([])
    for dl in learner.dls.loaders: noting(dl)
    train(learner, 2, [NewEpochCB()])
    return epochs # training and validation together


def check_validation(folder):
    learner = make_learner('batch')
    with learner.no_bar(), learner.no_logging():
        learner.fit(4, 1e-2) # each process by itself, all of it
        with together(learner): return list(map(float, learner.validate()))


def check_layer(folder): return train(make_learner('layer'))
def check_batch(folder): return train(make_learner('batch'))
def check_accumulated(folder): return train(make_learner('layer', [AccumulateCB(2)]), 2)
def check_frozen(folder): return train(make_learner('batch', [FreezeCB('head')]), 2) # batch norm rests, so it is the same too
def check_gradual(folder): return train(make_learner('layer', [FreezeCB('gradual')]), 3)
def check_everything(folder):
    mixing = mix_callbacks(mixup=.4, cutmix=1., cutout=.25, seed=3)
    cbs = [MixedPrecisionCB('bf16', say=None), GradientClip(1.), EMACB(.9), KeepBestCB('f1_score'), OneCycleCB(3e-3)]
    return train(make_learner('batch', [*cbs, *mixing], augment='dihedral_light', dropout=.2), 2)['values']


def check_files(folder): # what this process wrote and said
    place, said = folder/f'by{os.environ.get("RANK", "alone")}', io.StringIO()
    logs = [HistoryCB(place/'history.csv'), BatchLogCB(place/'batches.csv', every=1)]
    progress, checkpoint = ProgressCB('lines', Console(file=said)), CheckpointCB(place/'checkpoints', every=0)
    learner = make_learner(cbs=[*logs, progress, checkpoint])
    with together(learner): learner.fit(1, 3e-3)
    if not place.exists(): return dict(files=[], said=said.getvalue(), batches=[])
    files, batches = sorted(f.name for f in place.rglob('*')), pd.read_csv(place/'batches.csv').loss.tolist()
    return dict(files=files, said=said.getvalue(), batches=batches)


def check_resumed(folder): # undisturbed, and died in the second epoch and resumed
    def run(name, state=None, cbs=()):
        own = [EMACB(.9), KeepBestCB('f1_score'), OneCycleCB(3e-3), HistoryCB(folder/name/'history.csv'),
               CheckpointCB(folder/name/'checkpoints', every=0, state=state),
               *mix_callbacks(mixup=.4, cutmix=1., cutout=.25, seed=3)]
        done = train(make_learner('batch', own, augment='dihedral_light', dropout=.2), 3, cbs)
        return done if main_process() else done | {'buffers': []} # batch norm's averages are those of process 0
    whole = run('whole')
    try: run('died', cbs=[DieCB(RuntimeError('died'), 'after_batch', 8, order=80)])
    except RuntimeError: pass
    with main_process_first(): state = newest_checkpoint(folder/'died'/'checkpoints')
    resumed = run('died', state)
    histories = [(folder/name/'history.csv').read_text() for name in ('whole', 'died')]
    return dict(same=whole == resumed, place=[state['epoch'], state['batch']], histories=histories)


def check_stop(folder): # the last process is asked to stop; all do, after the same batch
    def ask():
        if not main_process() or 'RANK' not in os.environ: os.kill(os.getpid(), signal.SIGTERM)
    learner = make_learner(cbs=[CheckpointCB(folder/'stopped', every=1e9), AtBatch(3, ask)])
    try: train(learner, 2)
    except Stopped as stop: message = str(stop)
    with main_process_first(): state = newest_checkpoint(folder/'stopped')
    return dict(message=message, seen=learner.train_iter, place=[state['epoch'], state['batch']])


def check_error(folder): # not finite in one process only; afterwards the learner is as it was
    class BadPhoto(Callback):
        def before_batch(self):
            if not main_process() or 'RANK' not in os.environ: self.learn.xb = (self.learn.xb[0] * float('nan'),)
    learner = make_learner()
    def parts(): return [learner.model, learner.dls.loaders, learner.logger, *learner.cbs]
    before = parts()
    try: train(learner, 1, [BadPhoto()])
    except TrainingError as error: message = str(error)
    same = len(before) == len(parts()) and all(a is b for a, b in zip(before, parts()))
    kept = same and learner.loss_func.across is None
    return dict(message=message, kept=kept, again=train(learner)['losses'])


def check_words(folder):
    with main_process_first():
        if main_process(): time.sleep(.3)
        found = (folder/'cache').exists()
        if main_process(): (folder/'cache').touch()
    try:
        with main_process_first():
            if main_process(): raise OSError('no room')
    except (OSError, TrainingError) as error: failed = type(error).__name__
    return dict(found=found, failed=failed, name=broadcast(f'runs/{os.environ.get("RANK", "0")}'))


def check_small(folder):
    try: train(make_learner(bs=1))
    except TrainingError as error: return str(error)
    return 'trained'


CHECKS = {name.removeprefix('check_'): check for name, check in list(globals().items())
          if name.startswith('check_') and check.__module__ == __name__}


def run_checks(folder): # name → result
    folder.mkdir(exist_ok=True)
    return {name: check(folder) for name, check in CHECKS.items()}


def work(folder): # in each process that torchrun started
    start_processes()
    try: (folder/f'rank{os.environ["RANK"]}.json').write_text(json.dumps(run_checks(folder/'together')))
    finally: end_processes()


# What pytest does.

@pytest.fixture(scope='module')
def results(tmp_path_factory): # of process 0, process 1, and of one process alone
    folder, place = tmp_path_factory.mktemp('processes'), socket.socket()
    place.bind(('127.0.0.1', 0))
    port = place.getsockname()[1]
    place.close()
    where = ['--nproc-per-node', '2', '--master-addr', '127.0.0.1', '--master-port', str(port)]
    command = [sys.executable, '-m', 'torch.distributed.run', *where, __file__, str(folder)]
    env = os.environ | {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    assert ran.returncode == 0, ran.stderr[-4000:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1) # as the others: sums in the same order
    try: alone = run_checks(folder/'alone')
    finally: torch.set_num_threads(threads)
    return *[json.loads((folder/f'rank{rank}.json').read_text()) for rank in range(2)], json.loads(json.dumps(alone))


def flat(weights): return np.concatenate([np.ravel(w) for w in weights])
def distance(a, b): return np.abs(flat(a['weights']) - flat(b['weights'])).max()


def test_every_photograph_once_an_epoch(results):
    for first, second, alone in zip(*(r['rows'] for r in results)):
        assert sorted(first + second) == sorted(alone) == list(range(TRAIN + VALID))
        assert first and second


def test_validation_is_that_of_one_process(results):
    first, second, alone = (r['validation'] for r in results)
    assert first == second
    assert first[1:] == alone[1:] and alone[2] > .3 # accuracy and macro-F1; several classes are predicted
    assert first[0] == pytest.approx(alone[0], abs=1e-6)


@pytest.mark.parametrize('name', ['layer', 'accumulated', 'frozen', 'gradual'])
def test_weights_and_losses_are_those_of_one_process(results, name):
    first, second, alone = (r[name] for r in results)
    assert first == second
    assert distance(first, alone) < 1e-5
    assert np.allclose(first['losses'], alone['losses'], atol=1e-6)
    assert np.allclose(first['values'], alone['values'], atol=1e-5)


def test_batch_norm_differs(results):
    first, _, alone = (r['batch'] for r in results)
    assert distance(first, alone) > 1e-3


def test_all_see_the_same_metrics_with_everything_on(results):
    assert results[0]['everything'] == results[1]['everything']


def test_one_writer(results):
    first, second, alone = (r['files'] for r in results)
    assert second == {'files': [], 'said': '', 'batches': []}
    assert first['files'] == alone['files'] and 'history.csv' in first['files']
    assert first['said'].startswith('epoch 1/1')
    assert np.allclose(first['batches'], alone['batches'], atol=1e-6)


def test_resumed_is_undisturbed(results):
    assert all(r['resumed']['same'] and r['resumed']['place'] == [1, 2] for r in results)
    for writer in (results[0], results[2]):
        whole, died = writer['resumed']['histories']
        assert whole == died


def test_all_stop_together(results):
    first, second, alone = (r['stop'] for r in results)
    assert first == second
    for r in (first, alone):
        assert r['message'].startswith('Stopped in epoch 1 of 2') and r['place'] == [0, r['seen']]
    assert (alone['seen'], first['seen']) == (3, 4) # the others hear of it with the next batch


def test_all_end_with_the_same_error(results):
    first, second, _ = (r['error'] for r in results)
    for r in (first, second):
        assert 'the training loss is nan in epoch 1 of 1, batch 1' in r['message'] and r['kept']
    assert first['again'] == second['again']


def test_the_first_goes_first(results):
    first, second, _ = (r['words'] for r in results)
    assert (first['found'], second['found']) == (False, True)
    assert (first['failed'], second['failed']) == ('OSError', 'TrainingError')
    assert first['name'] == second['name'] == 'runs/0'


def test_accelerate_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'accelerate', None)
    with pytest.raises(TrainingError, match=r"fundus_nbdev\[distributed\]"): check_processes(0, 0)
    code = '''
import sys
sys.modules['accelerate'] = None
from fundus_nbdev.training.processes import start_processes
print(start_processes())
'''
    ran = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert ran.stdout == 'True\n'


def test_too_few_photographs_for_the_processes(results):
    first, second, alone = (r['small'] for r in results)
    assert first == second and 'smallest batch has 1 photographs for 2 processes' in first and alone == 'trained'


def test_fundus_run_on_two_processes(tmp_path):
    from fundus_nbdev.synth.sets import make_set
    source = make_set(tmp_path/'photos', n_patients=10, size=80)
    (tmp_path/'recipe.toml').write_text(f"""
name = 'small'
[data]
source = '{source}'
size = 32
test = 0.25
valid = 0.25
augment = 'none'
[model]
depth = 10
width = 4
norm = 'layer'
[training]
epochs = 2
bs = 6
precision = 'fp32'
""")
    env = os.environ | {'FUNDUS_CACHE': str(tmp_path/'cache'), 'OMP_NUM_THREADS': '1'}
    words = ['-m', 'fundus_nbdev.cli', 'run', str(tmp_path/'recipe.toml'), '--out']
    for start, out in ((['-m', 'torch.distributed.run', '--nproc-per-node', '2', '--standalone'], 'two'), ([], 'one')):
        command = [sys.executable, '-W', 'ignore', *start, *words, out]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('Report: ') == 1 # one writer
    one, two = (pd.read_csv(tmp_path/out/'history.csv') for out in ('one', 'two'))
    assert list(one) == list(two) and np.abs(one - two).max().max() < 1e-5
    assert (tmp_path/'two'/'report.html').stat().st_size > 50_000

if __name__ == '__main__': work(Path(sys.argv[1]))
