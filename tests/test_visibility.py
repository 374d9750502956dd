"The exercise on visibility: its parts, and a whole small run from a drawn set to answers of the saved network."
from functools import partial

import numpy as np
import pandas as pd
import pytest

from fundus_nbdev.data.split import split_table
from fundus_nbdev.synth.visibility import visibility_counts, make_visibility, plan_visibility
from fundus_nbdev.training.recipe import find_recipe

SMALL = ['--epochs', '1', '--size', '32', '--set', 'model.width=4', '--set', 'model.depth=10', '--n-examples', '2']


@pytest.mark.parametrize('seed', range(5))
def test_the_recipe_sets_104_pictures_apart_twice(seed):
    data, plan = find_recipe('visibility').data, plan_visibility()
    part = split_table(plan, test=data.test, valid=data.valid, seed=seed)
    counts = pd.crosstab(part.split, part.label).to_dict('index')
    assert counts['test'] == counts['valid'] == visibility_counts(104) == {'FULL': 84, 'PARTIAL': 16, 'NO_VISIBILITY': 4}
    assert counts['train'] == {'FULL': 478, 'PARTIAL': 91, 'NO_VISIBILITY': 23}


@pytest.fixture
def few(monkeypatch): # forty pictures instead of 800
    from fundus_nbdev.training.prepare import EMBEDDED_SETS
    monkeypatch.setitem(EMBEDDED_SETS, 'visibility', EMBEDDED_SETS['visibility']._replace(function=partial(make_visibility, n=40, size=80)))


@pytest.mark.slow
def test_a_run_from_nothing(fundus, here, few):
    from fundus_nbdev.data.pixels import CROPS
    from fundus_nbdev.models.bundle import load_bundle
    code, text = fundus('run', 'visibility', *SMALL)
    assert code == 0, text
    folder = here/'runs'/'visibility'
    predictions = pd.read_csv(folder/'predictions.csv')
    assert predictions.split.value_counts().to_dict() == {'train': 30, 'test': 5, 'valid': 5}
    assert list(predictions.filter(like='p_')) == ['p_FULL', 'p_PARTIAL', 'p_NO_VISIBILITY']
    report = (folder/'report.html').read_text(encoding='utf-8')
    assert 'drawn, not taken' in report and 'exercise on visibility' in report and 'the channel without noise' in report
    bundle, some = load_bundle(folder/'bundle'), predictions.head(4)
    pixels = np.stack([CROPS[bundle.info.crop](path, bundle.info.size) for path in some.path])
    np.testing.assert_allclose(bundle.probabilities(pixels, calibrated=False), some.filter(like='p_'), atol=1e-4)


@pytest.mark.slow
def test_a_pretrained_resnet18(fundus, here, few):
    "Random numbers in the shape of ImageNet's weights stand in for them: what is frozen must still be the file's afterwards."
    import torch
    from fundus_nbdev.models.bundle import load_bundle
    from torchvision.models import resnet18
    given = resnet18().state_dict()
    torch.save(given, here/'resnet18.pth')
    settings = {'model.name': 'torchvision:resnet18', 'model.weights': here/'resnet18.pth', 'model.freeze': 'head'}
    code, text = fundus('run', 'visibility', '--epochs', '1', '--size', '64', '--n-examples', '2', *(word for key, value in settings.items() for word in ('--set', f'{key}={value}')))
    assert code == 0, text
    trained = load_bundle(here/'runs'/'visibility'/'bundle').model.state_dict()
    head = [name for name in trained if name.startswith('fc.') and name.endswith('weight')]
    assert [tuple(trained[name].shape) for name in head] == [(3, 512)]
    kept = {name for name in given if not name.startswith('fc.')}
    assert kept and all(torch.equal(trained[name], given[name]) for name in kept)
