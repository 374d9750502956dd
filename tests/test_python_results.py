"Bundles with a wrong sidecar, answers to pixels of another scale, choices that are none, recipes by path."
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fundus_nbdev.core.errors import BundleError, PredictionError, RecipeError, ReportError
from fundus_nbdev.core.progress import Progress
from fundus_nbdev.evaluation.calibrate import fit_temperature, fit_vector
from fundus_nbdev.evaluation.conformal import fit_conformal
from fundus_nbdev.evaluation.costs import threshold_for_cost
from fundus_nbdev.evaluation.metrics import evaluate
from fundus_nbdev.evaluation.predictions import prediction_table
from fundus_nbdev.evaluation.risk_coverage import risk_coverage
from fundus_nbdev.evaluation.selective import fit_selective, score_selective
from fundus_nbdev.evaluation.simulate import draw_predictions
from fundus_nbdev.evaluation.thresholds import score_threshold, threshold_for_sensitivity
from fundus_nbdev.models.architectures import ARCHITECTURES
from fundus_nbdev.models.bundle import BundleInfo, load_bundle, save_bundle, update_bundle
from fundus_nbdev.models.resnet import resnet
from fundus_nbdev.training.recipe import find_recipe, make_recipe, override
from fundus_nbdev.use.run import run

CLASSES = ['Good', 'Usable', 'Reject']
ARGUMENTS = dict(depth=10, stem='cifar', width=4, n_classes=3)
FACTS = dict(architecture='resnet', arguments=ARGUMENTS, classes=CLASSES, crop='fov', size=16, mean=[.5] * 3, std=[.2] * 3)
PHOTOS = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)


def network(**change):
    torch.manual_seed(0)
    return resnet(**ARGUMENTS | change)


WRONG = [
    (dict(classes=CLASSES[:2]), 'classes.*3 outputs'), (dict(classes=['Good', 'Good', 'Reject']), 'classes'), (dict(classes='Good'), 'classes'),
    (dict(classes=[0, 1, 2]), 'classes'), (dict(size=0), 'size = 0'), (dict(size='16'), 'size'), (dict(mean=[.5]), 'mean'), (dict(mean='imagenet'), 'mean'),
    (dict(mean=[120, 90, 60]), 'mean'), (dict(std=[0, 0, 0]), 'std'), (dict(temperature=0), 'temperature = 0'), (dict(temperature=float('nan')), 'temperature'),
    (dict(temperature='1'), 'temperature'), (dict(orientations=0), 'orientations = 0'), (dict(orientations=9), 'orientations = 9'), (dict(arguments=[10]), 'arguments'),
    (dict(thresholds=[.5]), 'thresholds'),
]


@pytest.mark.parametrize('change, said', WRONG)
def test_a_sidecar_that_can_not_be_true(change, said, tmp_path):
    "Made by hand in a notebook, or edited later."
    with pytest.raises(BundleError, match=said): BundleInfo(**FACTS | change)
    folder = save_bundle(tmp_path/'bundle', network(), BundleInfo(**FACTS))
    sidecar = json.loads((folder/'bundle.json').read_text())
    (folder/'bundle.json').write_text(json.dumps(sidecar | change))
    with pytest.raises(BundleError, match=said): load_bundle(folder)


def test_a_sidecar_of_what_notebooks_have(tmp_path):
    from fastai.data.all import CategoryMap
    info = BundleInfo(**FACTS | dict(classes=CategoryMap(CLASSES, sort=False), mean=torch.full((3,), .5), std=np.full(3, .2)), metrics={'accuracy': np.float32(.5)})
    folder = save_bundle(tmp_path/'bundle', network(), info)
    (folder/'bundle.json').write_bytes(b'\xef\xbb\xbf' + (folder/'bundle.json').read_bytes()) # as an editor on Windows saves it
    assert load_bundle(folder).info.classes == CLASSES and load_bundle(folder).info.metrics == {'accuracy': .5}
    with pytest.raises(BundleError, match='temperature = -1'): update_bundle(folder, temperature=-1)


def test_a_bundle_is_written_only_if_it_can_be_read(tmp_path):
    info, expected = BundleInfo(**FACTS), None
    for net in (network(), torch.compile(network(), backend='eager'), nn.DataParallel(network())):
        answer = load_bundle(save_bundle(tmp_path/'bundle', net, info)).probabilities(PHOTOS).tolist()
        assert answer == (expected := expected or answer)
    for other in (network(width=8), network(n_classes=2), nn.Linear(3, 3)):
        with pytest.raises(BundleError, match='do not fit'): save_bundle(tmp_path/'other', other, info)
    assert not (tmp_path/'other').exists()


def test_what_is_no_bundle_is_not_replaced(tmp_path):
    for name, words in {'bundle.json': '{"mine": 1}', 'weights.safetensors': 'mine'}.items():
        mine = tmp_path/name.split('.')[0]/name
        mine.parent.mkdir()
        mine.write_text(words)
        with pytest.raises(BundleError, match='another folder'): save_bundle(mine.parent, network(), BundleInfo(**FACTS))
        assert mine.read_text() == words and list(mine.parent.iterdir()) == [mine]


@pytest.mark.parametrize('given, said', [
    (PHOTOS / 255, 'float64'), (np.float32(PHOTOS), 'float32'), (PHOTOS.transpose(0, 3, 1, 2), r'\(4, 3, 16, 16\)'), (PHOTOS[0], r'\(16, 3\)|\(16, 16, 3\)'),
    (PHOTOS[:, ::2, ::2], r'\(4, 8, 8, 3\)'),
])
def test_a_bundle_answers_squares_of_its_size_and_scale(given, said, tmp_path):
    bundle = load_bundle(save_bundle(tmp_path/'bundle', network(), BundleInfo(**FACTS)))
    with pytest.raises(BundleError, match=said): bundle.probabilities(given)
    for bs in (0, -1):
        with pytest.raises(BundleError, match=f'bs = {bs}'): bundle.probabilities(PHOTOS, bs=bs)


# choices, thresholds, tables

PREDICTIONS = draw_predictions(60)


def scored(choice):
    one = score_threshold(PREDICTIONS, choice, 'Reject', n_boot=0)
    return [one.value.tolist(), score_selective(PREDICTIONS, choice, n_boot=0).value.tolist()]


def test_a_choice_goes_with_its_photographs():
    called = PREDICTIONS.p_Reject > .3
    expected = scored(called)
    for same in (called.sample(frac=1, random_state=0), called.to_numpy(), list(called), called.astype(int), called.astype('boolean')):
        assert str(scored(same)) == str(expected) # some are NaN
    with pytest.raises(PredictionError, match='index'): scored(called.set_axis(called.index + 1000))


@pytest.mark.parametrize('choice', [.5, 'Reject', PREDICTIONS.p_Reject, PREDICTIONS.p_Reject.to_numpy(), None])
def test_what_is_no_choice(choice):
    "Probabilities would count as yes for every photograph."
    for score in (lambda: score_threshold(PREDICTIONS, choice, 'Reject', n_boot=0), lambda: score_selective(PREDICTIONS, choice, n_boot=0)):
        with pytest.raises(PredictionError, match='True or False'): score()


@pytest.mark.parametrize('n_boot', ['100', 100.5, -1, 7])
def test_a_number_of_resamples(n_boot):
    with pytest.raises(PredictionError, match='n_boot: found'): evaluate(PREDICTIONS, n_boot=n_boot)


def test_probabilities_as_networks_give_them():
    p = torch.tensor(PREDICTIONS[[f'p_{name}' for name in CLASSES]].to_numpy())
    expected = prediction_table([Path(path) for path in PREDICTIONS.path], CLASSES, p)
    table = PREDICTIONS[['path', 'label']].assign(path=PREDICTIONS.path.map(Path))
    for given in (p.clone().requires_grad_(), p.to(torch.bfloat16)):
        found = prediction_table(table, CLASSES, given)
        assert abs(found.p_Good - expected.p_Good).max() < .01 and found.path.map(type).eq(str).all()
    with pytest.raises(PredictionError, match='classes'): prediction_table(table, 'abc', p)


# recipes and runs

@pytest.mark.parametrize('wrong', ['photographs', None, [1]])
def test_what_are_no_settings(wrong):
    with pytest.raises(RecipeError, match='table of settings'): make_recipe(wrong)


def test_a_recipe_by_its_path(tmp_path):
    (tmp_path/'mine.toml').write_text('seed = 3')
    assert find_recipe(tmp_path/'mine.toml').seed == 3 == find_recipe(str(tmp_path/'mine.toml')).seed
    (tmp_path/'folder.toml').mkdir()
    for wrong in (None, 3, tmp_path, tmp_path/'folder.toml'):
        with pytest.raises(RecipeError): find_recipe(wrong)


def test_settings_as_notebooks_have_them(tmp_path):
    recipe = override(make_recipe({}), {'data.source': tmp_path, 'training.epochs': np.int64(3), 'training.lr': np.float32(.5), 'data.valid': torch.tensor(.25)})
    assert (recipe.data.source, recipe.training.epochs, recipe.training.lr, recipe.data.valid) == (str(tmp_path), 3, .5, .25)


@pytest.mark.parametrize('wrong', ['photographs', None, {'seed': 1}])
def test_what_is_no_recipe(wrong):
    for call in (run, lambda recipe: override(recipe, {'seed': 1})):
        with pytest.raises(RecipeError, match='find_recipe'): call(wrong)


@pytest.mark.parametrize('options', [dict(n_stability=-3), dict(n_stability='3'), dict(n_examples=-1)])
def test_numbers_of_a_run_are_checked_before_it(options, tmp_path):
    with pytest.raises(ReportError, match=next(iter(options))): run(make_recipe({}), tmp_path/'run', **options)
    assert list(tmp_path.iterdir()) == []


def test_progress_where_nothing_can_be_shown(monkeypatch, tmp_path):
    with (tmp_path/'out').open('w') as closed: monkeypatch.setattr(sys, 'stdout', closed)
    progress = Progress('auto')
    progress.say('a word')
    assert progress.style == 'none'


@pytest.mark.parametrize('call, found', [
    (lambda p: fit_temperature(p, penalty=-1), "penalty = -1"), (lambda p: fit_vector(p, penalty='10'), "penalty = '10'"),
    (lambda p: risk_coverage(p, points=0), 'points = 0'), (lambda p: fit_conformal(p, '0.1'), "alpha = '0.1'"),
    (lambda p: fit_selective(p, '.05'), "risk = '.05'"), (lambda p: fit_selective(p, sure='.95'), "sure = '.95'"),
    (lambda p: threshold_for_sensitivity(p, 'Good', '.9'), "share = '.9'"), (lambda p: threshold_for_sensitivity(p, 'Good', sure='.9'), "sure = '.9'"),
    (lambda p: threshold_for_cost(p, 'Good', '2', 1), "miss = '2'"), (lambda p: threshold_for_cost(p, 'Good', 2, 1, '.5'), "prevalence = '.5'")])
def test_numbers_that_are_none(call, found):
    predictions = draw_predictions(200, split={'valid': .5, 'test': .5})
    with pytest.raises(PredictionError, match=re.escape(found)): call(predictions)


class Tied(nn.Module):
    "A network with one tensor under two names."
    def __init__(self, n_classes=3):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, n_classes)
        self.second.weight = self.first.weight

    def forward(self, x): return self.second(self.first(x.mean((2, 3))))


def test_weights_that_are_shared(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, 'tied', Tied)
    save_bundle(tmp_path/'b', Tied(), BundleInfo(**FACTS | {'architecture': 'tied', 'arguments': {}}))
    model = load_bundle(tmp_path/'b').model
    assert (model.first.weight == model.second.weight).all()
