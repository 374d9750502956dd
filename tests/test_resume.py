"A run that is killed, at any moment, ends as if nothing had happened: real processes, ended with SIGKILL."
import os
import random
import re
import signal
import subprocess
import sys

import pytest

from fundus_nbdev.synth.sets import make_set

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
SAME = ['split.csv', 'history.csv', 'batches.csv', 'predictions.csv', 'bundle/weights.safetensors']
# Run in a process that has imported everything but computed nothing, and forks a child for each life of the run.
CHILD = '''
import json, os, signal, sys, warnings
warnings.filterwarnings('ignore')
import fundus_nbdev.core.files as files
from fastai.callback.core import Callback
from fundus_nbdev.training import checkpoint
from fundus_nbdev.training.fit import fit
from fundus_nbdev.training.run_folder import unfinished_recipe
from fundus_nbdev.training.recipe import read_recipe

count = dict(batch=0, write=0, half=0, renamed=0)
def passes(event, kind, at): # the process dies here, at the `at`-th event of its kind
    count[event] += 1
    if event == kind and count[event] == at: os.kill(os.getpid(), signal.SIGKILL)
    if kind == 'ctrl-c' and event == 'batch' and count[event] == at: os.kill(os.getpid(), signal.SIGINT)

def arm(kind, at):
    class KillCB(Callback):
        order = 20
        def after_backward(self): passes('batch', kind, at)
    replace, sync = os.replace, files._sync
    def half(path):
        if kind == 'half' and path.is_file() and count['half'] + 1 == at:
            os.truncate(path, path.stat().st_size // 2) # what a power failure leaves
        passes('half', kind, at)
        sync(path)
    def named(new, old):
        passes('write', kind, at)
        replace(new, old)
        passes('renamed', kind, at)
    files._sync, files.os.replace = half, named
    return KillCB()

for line in sys.stdin:
    folder, recipe, kind, at = json.loads(line)
    child = os.fork()
    if not child:
        resume = os.path.exists(os.path.join(folder, 'recipe.toml'))
        followed = unfinished_recipe(folder) if resume else read_recipe(recipe)
        try: fit(followed, folder, resume=resume, cbs=[arm(kind, at)])
        except checkpoint.Stopped as stop: os._exit(130 if f'--resume {folder}' in str(stop) else 1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
'''


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp('killed')
    photos = make_set(folder/'photos', n_patients=10, size=80)
    recipe = f"""
name = "small"
[data]
source = "{photos}"
size = 32
test = 0.25
valid = 0.25
order = "balanced"
[model]
depth = 10
width = 4
dropout = 0.2
[training]
epochs = 2
bs = 4
label_smoothing = 0.1
focal = 1.0
ema = 0.9
keep = "best"
monitor = "accuracy"
patience = 50
mixup = 0.4
cutmix = 1.0
cutout = 0.2
accumulate = 2
clip = 1.0
checkpoint = 0.0
log = ["csv"]
log_every = 1
"""
    (folder/'recipe.toml').write_text(recipe)
    (folder/'folds.toml').write_text(recipe.replace('test = 0.25', 'folds = 3'))
    gradual = recipe.replace('[model]', '[model]\nfreeze = "gradual"').replace('epochs = 2', 'epochs = 3')
    (folder/'gradual.toml').write_text(gradual)
    return folder


@pytest.fixture(scope='module')
def live(place): # live(folder, kind, at, recipe): the exit code of one life of the run
    import json
    env = os.environ | {'FUNDUS_CACHE': str(place/'cache'), 'OMP_NUM_THREADS': '1'}
    with subprocess.Popen([sys.executable, '-c', CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=place) as parent:
        def call(folder, kind='', at=0, recipe='recipe.toml'):
            parent.stdin.write(json.dumps([str(folder), str(place/recipe), kind, at]) + '\n')
            parent.stdin.flush()
            return int(parent.stdout.readline())
        yield call
        parent.stdin.close()


@pytest.fixture(scope='module')
def undisturbed(place, live):
    assert live(place/'undisturbed') == 0
    return place/'undisturbed'


def assert_same(folder, undisturbed, names=SAME):
    for name in names: assert (folder/name).read_bytes() == (undisturbed/name).read_bytes(), name


def test_two_undisturbed_runs_are_the_same(place, live, undisturbed):
    assert live(place/'twice') == 0
    assert_same(place/'twice', undisturbed)


EVENTS = ('batch', 9, 4), ('write', 17, 3), ('half', 28, 4), ('renamed', 17, 3) # kind, most of them, how many to try
POINTS = [(kind, at) for kind, most, n in EVENTS for at in random.Random(kind).sample(range(1, most + 1), n)]
ENDS = {} # of the killed lives: point → exit code


def killed_at(folder, live, undisturbed, kind, at): # exit code of the life that was to end there
    code = live(folder, kind, at)
    assert code in (-signal.SIGKILL, 0) # 0: the run has fewer such events
    assert live(folder) == 0
    assert_same(folder, undisturbed)
    return code


@pytest.mark.parametrize('kind', ['batch', 'half'])
def test_killed(place, live, undisturbed, kind):
    assert killed_at(place/f'killed-{kind}', live, undisturbed, kind, 3) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize('kind, at', POINTS)
def test_killed_once(place, live, undisturbed, kind, at):
    ENDS[kind, at] = killed_at(place/f'{kind}-{at}', live, undisturbed, kind, at)


@pytest.mark.slow
def test_killed_again_and_again(place, live, undisturbed):
    folder, chance, lives = place/'often', random.Random(0), 0
    while live(folder, 'batch', chance.randint(1, 3)) != 0:
        lives += 1
        assert lives < 100
    assert lives >= 4
    assert_same(folder, undisturbed)


@pytest.mark.slow
def test_killed_in_the_second_fold(place, live):
    whole, folder = place/'folds-undisturbed', place/'folds'
    assert live(whole, recipe='folds.toml') == 0
    batches = len((whole/'fold0'/'batches.csv').read_text().splitlines()) - 1
    assert live(folder, 'batch', batches + 3, recipe='folds.toml') == -signal.SIGKILL
    assert [(folder/f'fold{k}').exists() for k in range(3)] == [True, True, False]
    assert [(folder/f'fold{k}'/'bundle').exists() for k in range(2)] == [True, False]
    assert list((folder/'fold1'/'checkpoints').glob('*.json'))
    assert live(folder, recipe='folds.toml') == 0
    of_folds = [f'fold{k}/{name}' for k in range(3) for name in SAME]
    assert_same(folder, whole, ['split.csv', 'history.csv', 'predictions.csv', *of_folds])


@pytest.mark.slow
def test_killed_while_blocks_are_opened(place, live):
    whole, folder = place/'gradual-undisturbed', place/'gradual'
    assert live(whole, recipe='gradual.toml') == 0
    batches = len((whole/'batches.csv').read_text().splitlines()) - 1
    assert live(folder, 'batch', batches // 2, recipe='gradual.toml') == -signal.SIGKILL # in the second epoch of three
    assert live(folder, recipe='gradual.toml') == 0
    assert_same(folder, whole)


@pytest.mark.parametrize('at', [4, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 6))])
def test_ctrl_c_saves_and_says_how_to_go_on(place, live, undisturbed, at):
    folder = place/f'ctrl-c-{at}'
    assert live(folder, 'ctrl-c', at) == 130
    assert list((folder/'checkpoints').glob('*.json'))
    assert live(folder) == 0
    assert_same(folder, undisturbed)


@pytest.mark.slow
def test_disk_full(place, live): # a limit on the size of files stands in for a full disk
    script = f'''
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
sys.argv = ['fundus', 'run', '{place/'recipe.toml'}', '--out', 'full']
from fundus_nbdev import cli
cli.main()
'''
    env = os.environ | {'FUNDUS_CACHE': str(place/'cache'), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-W', 'ignore', '-c', script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=env)
    assert done.returncode == 1
    assert re.search(r'fundus: \S+\.safetensors could not be written: .*Go on: fundus run --resume full', done.stderr), done.stderr
    assert 'Traceback' not in done.stderr
    assert live(place/'full') == 0


def test_a_damaged_checkpoint_is_refused_and_the_last_good_one_offered(place, live, undisturbed, monkeypatch):
    from fundus_nbdev.core.errors import TrainingError
    from fundus_nbdev.training.checkpoint import checkpoints
    from fundus_nbdev.training.fit import fit
    from fundus_nbdev.training.run_folder import unfinished_recipe
    folder = place/'damaged'
    assert live(folder, 'batch', 7) == -signal.SIGKILL
    newest, older = checkpoints(folder/'checkpoints')[:2]
    weights = newest.with_suffix('.safetensors')
    weights.write_bytes(weights.read_bytes()[:-1] + b'x')
    monkeypatch.setenv('FUNDUS_CACHE', str(place/'cache'))
    with pytest.raises(TrainingError, match=f'{newest.name}.* is damaged.*{older.name}.*--skip-damaged'):
        fit(unfinished_recipe(folder), folder, resume=True)
    fit(unfinished_recipe(folder), folder, resume=True, skip_damaged=True)
    if os.environ.get('OMP_NUM_THREADS') == '1': assert_same(folder, undisturbed) # another number of threads may round differently


@pytest.mark.slow
def test_most_kill_points_killed(): # stands last: it counts what `test_killed_once` met
    if len(ENDS) < len(POINTS): pytest.skip('not all kill points were run')
    killed = [kind for (kind, _), code in ENDS.items() if code == -signal.SIGKILL]
    assert len(killed) >= 10 and set(killed) == {kind for kind, *_ in EVENTS}, ENDS
