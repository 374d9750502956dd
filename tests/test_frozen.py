"The recipe photographs: frozen features, fitted without a network connection, from the command line to the report."
import socket

import numpy as np
import pandas as pd
import pytest

from commands import folder_of
from fundus_nbdev.evaluation.metrics import evaluate
from fundus_nbdev.models.bundle import load_bundle
from fundus_nbdev.synth.sets import make_set

ANSWERS = ['p_Good', 'p_Usable', 'p_Reject']


@pytest.fixture(scope='module')
def photographs(tmp_path_factory): # a set of 16 patients
    return make_set(tmp_path_factory.mktemp('photographs'), n_patients=16, size=100)


@pytest.fixture
def offline(monkeypatch, tmp_path): # no connection, and nothing that was downloaded before
    def refuse(*args): raise OSError('there is no network')
    for name in ('connect', 'connect_ex'): monkeypatch.setattr(socket.socket, name, refuse)
    for name in ('TORCH_HOME', 'HF_HOME', 'XDG_CACHE_HOME'): monkeypatch.setenv(name, str(tmp_path/'empty'))


@pytest.fixture
def run(fundus, here, offline, photographs): # run('--folds', …) → run folder, what was printed
    def call(*words):
        code, text = fundus('run', '--data', photographs/'labels.csv', '--size', '96', '--n-examples', '1', *words)
        assert code == 0, text
        return folder_of(text, here), text
    return call


def test_photographs_of_ones_own_need_no_network(run, fundus, here, photographs):
    folder, _ = run('--set', 'data.test=.3')
    info = load_bundle(folder/'bundle').info
    assert info.architecture == 'frozen_features' and info.mean == [127 / 255] * 3
    assert (folder/'bundle'/'weights.safetensors').stat().st_size < 100_000 # without the trunk
    report = (folder/'report.html').read_text(encoding='utf-8')
    assert 'Two logistic regressions on mean and maximum of the maps' in report and 'Learning curves' not in report
    photo = next(iter(sorted((photographs/'photos').glob('*.jpg'))))
    code, text = fundus('explain', photo, '--bundle', folder, '--out', here/'explained', '--methods', 'hirescam')
    assert code == 0 and (here/'explained'/'explanations.csv').exists(), text


@pytest.mark.slow
def test_validation_photographs_are_answered_by_regressions_that_have_not_seen_them(run):
    folder, _ = run('--set', 'data.valid=.4')
    table = pd.read_csv(folder/'predictions.csv')
    bundle = load_bundle(folder/'bundle')
    def loss(part): return evaluate(table[table.split == part].drop(columns='split'), n_boot=0).value['log_loss']
    assert loss('train') < .5 * loss('valid') # the final ones have seen both parts
    assert np.allclose(table[ANSWERS].sum(axis=1), 1)
    assert bundle.info.data['photographs'] == table.split.value_counts().to_dict()


@pytest.mark.slow
def test_an_ended_run_is_taken_up_again(run, fundus):
    folder, _ = run('--folds', '3')
    before = pd.read_csv(folder/'predictions.csv')
    assert before.path.is_unique and set(before.fold) == {0, 1, 2}
    (folder/'report.html').unlink()
    (folder/'fold2'/'bundle'/'weights.safetensors').unlink() # as if it had been killed there
    code, text = fundus('run', '--resume', folder, '--n-examples', '1')
    assert code == 0 and (folder/'report.html').exists(), text
    pd.testing.assert_frame_equal(pd.read_csv(folder/'predictions.csv'), before)


@pytest.mark.slow
def test_orientations_and_single_experts(run):
    folder, _ = run('--set', 'data.orientations=8', '--set', 'model.experts=features')
    table, bundle = pd.read_csv(folder/'predictions.csv'), load_bundle(folder/'bundle')
    assert bundle.info.orientations == 8 and list(bundle.model.experts) == ['features']
    assert np.allclose(table[ANSWERS].sum(axis=1), 1)


@pytest.mark.slow
def test_from_scratch_is_one_setting_away(run):
    folder, text = run('--set', 'model.name=resnet', '--set', 'model.width=4', '--set', 'model.depth=10', '--epochs', '1')
    assert load_bundle(folder/'bundle').info.architecture == 'resnet'
    baselines = pd.read_csv(folder/'baselines.csv', index_col='rule')
    assert 'frozen features and quality factors, fitted in seconds' in baselines.index


def test_settings_of_epochs_are_refused(fundus, here, photographs):
    code, text = fundus('run', '--data', photographs/'labels.csv', '--epochs', '3')
    assert code and 'training.epochs = 3: frozen features are fitted in one step' in text and 'model.name=resnet' in text
