"Explanations from several threads, of compiled and exported networks, with layers and maps that are none."
import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fundus_nbdev.core.errors import ExplainError
from fundus_nbdev.explain.cam import CAM_METHODS
from fundus_nbdev.explain.filters import layer_activations
from fundus_nbdev.explain.gradcam import explaining, grad_cam
from fundus_nbdev.explain.insertion_deletion import insertion_deletion
from fundus_nbdev.explain.layers import spatial_layers
from fundus_nbdev.explain.overlay import overlay
from fundus_nbdev.explain.saliency import saliency
from fundus_nbdev.models.resnet import resnet

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return resnet(10, stem='cifar', width=4, n_classes=3)


def state(net): # flags, weights and buffers, hooks
    tensors = {name: value.clone() for name, value in net.state_dict().items()}
    return [part.training for part in net.modules()], tensors, [len(part._forward_hooks) for part in net.modules()]


@pytest.mark.parametrize('training', [False, True])
def test_threads_look_one_after_the_other(training):
    "A server answers several people at once, with one network."
    net = network().train(training)
    before, expected = state(net), {'grad_cam': grad_cam(net, X), 'saliency': saliency(net, X), 'layers': spatial_layers(net, X)}
    ways = {'grad_cam': grad_cam, 'saliency': saliency, 'layers': spatial_layers}
    with ThreadPoolExecutor(6) as pool:
        found = [(name, pool.submit(ways[name], net, X)) for _ in range(12) for name in ways]
        for name, answer in found:
            same = answer.result() == expected[name] if name == 'layers' else torch.equal(answer.result(), expected[name])
            assert same, name
    after = state(net)
    assert after[0] == before[0] and after[2] == before[2]
    assert all(torch.equal(value, after[1][name]) for name, value in before[1].items())


def test_threads_within_explaining():
    "Whoever holds the loop open does not keep others from it."
    net = network()
    expected = grad_cam(net, X)
    with explaining(net) as explain, ThreadPoolExecutor(3) as pool:
        for maps in pool.map(lambda _: explain(X), range(6)): assert torch.equal(maps, expected)
    assert net.training


def test_a_network_compiled_in_place():
    net = network().eval()
    expected = grad_cam(net, X), saliency(net, X), spatial_layers(net, X), layer_activations(net, X)
    net.compile(backend='eager')
    compiled = net._compiled_call_impl
    found = grad_cam(net, X), saliency(net, X), spatial_layers(net, X), layer_activations(net, X)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]) and found[2] == expected[2]
    assert net._compiled_call_impl is compiled


@pytest.mark.parametrize('way', [grad_cam, saliency, spatial_layers])
def test_a_network_in_torchscript_is_named(way):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    for script in (torch.jit.script(net), torch.jit.trace(net, X)):
        with pytest.raises(ExplainError, match='TorchScript'): way(script, X)


class NoGradients(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.pool, self.head = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

    def forward(self, x):
        maps = self.body(x).relu()
        return self.head(self.pool(maps).flatten(1).detach() ** 2)


@pytest.mark.parametrize('method', CAM_METHODS)
def test_gradients_that_are_cut_off(method):
    "Also where another part still records some, as in a network that was quantised."
    if method in ('eigencam', 'scorecam', 'sidu'): assert grad_cam(NoGradients(), X, method=method).shape[:2] == (2, 1)
    else:
        with pytest.raises(ExplainError, match='gradients|linear layer'): grad_cam(NoGradients(), X, method=method)


@pytest.mark.parametrize('layer', [-1, -2])
def test_a_layer_is_not_counted_from_the_end(layer):
    with pytest.raises(ExplainError, match=f'found {layer}'): grad_cam(network(), X, layer=layer)


RGB = np.zeros((32, 32, 3), np.uint8)


@pytest.mark.parametrize('photo, map, said', [
    (RGB, torch.rand(2, 1, 4, 4), r'\(2, 1, 4, 4\).*cams\[0, 0\]'), (RGB, torch.rand(0, 0), r'map: found shape \(0, 0\)'),
    ('a.png', torch.rand(4, 4), 'photo: found str'), (Image.fromarray(RGB), torch.rand(4, 4), 'photo: found Image'),
    (RGB, [[1, 2], [3, 4]], 'map: found list'),
])
def test_overlay_of_what_is_no_photograph_or_map(photo, map, said):
    with pytest.raises(ExplainError, match=said): overlay(photo, map)


@pytest.mark.parametrize('change, said', [
    (dict(maps=torch.full((2, 1, 4, 4), float('nan'))), 'NaN'), (dict(maps='maps'), 'maps: found str'),
    (dict(steps=0), 'steps = 0'), (dict(steps=-1), 'steps = -1'), (dict(steps=2.5), 'steps = 2.5'),
])
def test_curves_of_what_are_no_maps(change, said):
    with pytest.raises(ExplainError, match=said): insertion_deletion(**dict(model=network(), x=X, maps=torch.rand(2, 1, 4, 4)) | change)


def test_explaining_changes_no_copy():
    net = network()
    other = copy.deepcopy(net)
    grad_cam(net, X), saliency(net, X)
    for a, b in zip(net.state_dict().values(), other.state_dict().values()): assert torch.equal(a, b)
