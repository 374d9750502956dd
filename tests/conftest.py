"Slow tests run where FUNDUS_SLOW is set; where several processes test at once, each computes with one thread."
import os
import sys

if 'PYTEST_XDIST_WORKER' in os.environ: os.environ.setdefault('OMP_NUM_THREADS', '1') # before torch is imported

import cv2 # noqa: E402
import pytest # noqa: E402

from fundus_nbdev import cli # noqa: E402
from fundus_nbdev.synth.degradations import degrade # noqa: E402
from fundus_nbdev.synth.retina import draw_retina # noqa: E402


# networks whose tests are slow: smaller ones of their kind are always tested
LARGE = {'vgg11', 'vgg11_bn', 'densenet121', 'googlenet', 'efficientnet_v2_s', 'convnext_tiny'}
LONGEST = 'test_resume', 'test_peers', 'test_cli', 'test_audit', 'test_saliency' # first, so that no process waits for the other


def is_large(item): # of a parametrised test
    "Whether a test is of a large network."
    return hasattr(item, 'callspec') and item.callspec.params.get('name') in LARGE


@pytest.hookimpl(tryfirst=True) # before pytest chooses by marks
def pytest_collection_modifyitems(items):
    for item in filter(is_large, items): item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    if os.environ.get('FUNDUS_SLOW'): return
    for item in items:
        if 'slow' in item.keywords: item.add_marker(pytest.mark.skip(reason='slow: set FUNDUS_SLOW=1 to run it'))


@pytest.fixture
def fundus(monkeypatch, capsys): # fundus('run', …) → exit code, what it printed
    def call(*words):
        monkeypatch.setattr(sys, 'argv', ['fundus', *map(str, words)])
        code = 0
        try: cli.main()
        except SystemExit as stop: code = stop.code or 0
        printed = capsys.readouterr()
        if isinstance(code, str): return 1, f'{printed.out}{printed.err}{code}\n' # sys.exit prints a text and leaves with 1
        return code, printed.out + printed.err
    return call


@pytest.fixture
def here(monkeypatch, tmp_path): # the current folder
    monkeypatch.setenv('FUNDUS_CACHE', str(tmp_path/'cache'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope='module')
def own_cache(tmp_path_factory): # of photographs, for the tests of a file
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('FUNDUS_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='session')
def photos(tmp_path_factory): # a folder per class, 12 photographs and one that is broken
    folder = tmp_path_factory.mktemp('data')/'photos'
    for label in ('Good', 'Reject'): (folder/label).mkdir(parents=True)
    for i in range(6):
        rgb = draw_retina(i, size=200).rgb
        cv2.imwrite(str(folder/'Good'/f'{i}.jpg'), rgb[..., ::-1])
        cv2.imwrite(str(folder/'Reject'/f'{i + 6}.jpg'), degrade(draw_retina(i + 6, size=200).rgb, 'defocus', .9).rgb[..., ::-1])
    (folder/'Good'/'broken.jpg').write_bytes(b'\xff\xd8 not a photograph')
    return folder
