"""Saliency against captum: equal within 1e-5 of the largest value in float32; and where captum does something else, what it does.

captum's GuidedBackprop sees modules that are an `nn.ReLU`, and nothing else. `relu_modules` rewrites a network so that every ReLU and ReLU6 is such a module: captum on the rewritten network is the oracle, captum on the original one the documented deviation."""
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
import os

import pytest
import torch
import torchvision
from torch import fx, nn
from torch.nn import functional as F

from fundus_nbdev.photos.photo import cc0_photo, open_photo
from fundus_nbdev.photos.field_of_view import crop_fov
from fundus_nbdev.core.errors import ExplainError
from fundus_nbdev.explain.averaged_gradients import RULES, integrated_gradients
from fundus_nbdev.explain.guided_backprop import guided_backprop, guided_grad_cam
from fundus_nbdev.explain.gradients import SALIENCY_METHODS, input_gradients
from fundus_nbdev.explain.occlusion import occlusion
from fundus_nbdev.explain.saliency import saliency
from fundus_nbdev.models.resnet import resnet

captum = pytest.importorskip('captum.attr', reason='captum is not installed: nothing to compare with')
pytestmark = [pytest.mark.filterwarnings('ignore:Setting backward hooks'), pytest.mark.filterwarnings('ignore:Input Tensor 0'), pytest.mark.filterwarnings('ignore:.*torch.jit'), pytest.mark.filterwarnings('ignore:.*deprecated')]
TOLERANCE = 1e-5


# networks

def tv(name, **kwargs): return partial(torchvision.models.get_model, name, weights=None, num_classes=5, **kwargs)


def of_timm(name):
    timm = pytest.importorskip('timm', reason='timm is not installed: its networks are part of the comparison')
    return timm.create_model(name, num_classes=5)


def trained_squeezenet():
    "ImageNet weights, if the data are at hand."
    folder = os.environ.get('FUNDUS_DATA')
    if not folder: pytest.skip('FUNDUS_DATA is not set: no trained weights')
    model = torchvision.models.squeezenet1_1(weights=None)
    model.load_state_dict(torch.load(next((Path(folder)/'weights').rglob('squeezenet1_1*.pth')), weights_only=True))
    return model


NETWORKS = { # name: how to build it, the layer for Grad-CAM
    'resnet': (partial(resnet, 18, n_classes=5, width=16), 'stages'),
    'resnet18': (tv('resnet18'), 'layer4'),
    'vgg11': (tv('vgg11'), 'features.18'),
    'densenet121': (tv('densenet121'), 'features.denseblock4'),
    'googlenet': (tv('googlenet', aux_logits=False, init_weights=False), 'inception5b'),
    'mobilenet_v2': (tv('mobilenet_v2'), 'features'),
    'mobilenet_v3_small': (tv('mobilenet_v3_small'), 'features'),
    'squeezenet1_1': (tv('squeezenet1_1'), 'features'),
    'timm resnet10t': (partial(of_timm, 'resnet10t'), 'layer4'),
    'trained squeezenet1_1': (trained_squeezenet, 'features'),
}
FUNCTIONAL = ['densenet121', 'googlenet', 'mobilenet_v2'] # they call F.relu, or have ReLU6
networks = pytest.mark.parametrize('name', NETWORKS)


def shake(model):
    "Random weights that keep signals alive through any depth, and batch norms that have seen something."
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None: nn.init.normal_(module.bias, std=.1)
        elif isinstance(module, nn.BatchNorm2d):
            for value, low, high in [(module.weight, .8, 1.2), (module.bias, -.1, .1), (module.running_mean, -.1, .1), (module.running_var, .8, 1.2)]: nn.init.uniform_(value, low, high)
    return model


@cache
def network(name):
    torch.manual_seed(0)
    return (NETWORKS[name][0]() if name.startswith('trained') else shake(NETWORKS[name][0]())).eval()


@cache
def photos(): # (2,3,64,64), normalised
    "A retina, and the same turned over."
    rgb = torch.tensor(crop_fov(open_photo(cc0_photo()), 64)).permute(2, 0, 1)[None] / 255
    return torch.cat([(rgb - .45) / .25, (rgb.flip(3) - .5) / .25])


class ReLU6Module(nn.ReLU):
    "A ReLU6 that captum takes for a ReLU."
    def forward(self, x): return F.relu6(x)


def relu_modules(model):
    "The same network, each of its ReLUs a module of its own."
    graph = fx.symbolic_trace(model)
    parts = dict(graph.named_modules())
    def replacement(node):
        if node.op == 'call_function' and node.target is F.relu or node.op == 'call_module' and isinstance(parts[node.target], nn.ReLU): return nn.ReLU()
        if node.op == 'call_module' and isinstance(parts[node.target], nn.ReLU6): return ReLU6Module()
    for number, node in enumerate([*graph.graph.nodes]):
        if (module := replacement(node)) is None: continue
        graph.add_submodule(f'as_module_{number}', module)
        with graph.graph.inserting_after(node): new = graph.graph.call_module(f'as_module_{number}', (node.args[0],))
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph.eval()


@cache
def oracle(name): return relu_modules(network(name)) if name in FUNCTIONAL else network(name)


def error(ours, theirs): # of the largest value
    assert ours.shape == theirs.shape and ours.dtype == torch.float32 and theirs.abs().max() > 0
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def wanted(model, x): # (B,2), (B,2)
    "The two best classes of each photo."
    return model(x).topk(2, dim=1).indices.detach()


# equal

def agree(ours, theirs, classes):
    "Both classes at once, against captum class by class."
    for k in range(classes.shape[1]): assert error(ours[:, k], theirs(classes[:, k]).detach()) <= TOLERANCE


@networks
def test_input_gradients(name):
    model, x = network(name), photos()
    classes = wanted(model, x)
    agree(input_gradients(model, x, classes), lambda c: captum.Saliency(model).attribute(x.clone(), target=c, abs=False), classes)


@networks
def test_integrated_gradients(name):
    model, x = network(name), photos()
    classes = wanted(model, x)[:, :1]
    agree(integrated_gradients(model, x, baseline=-.3, steps=12, bs=24), lambda c: captum.IntegratedGradients(model).attribute(x.clone(), baselines=-.3, target=c, n_steps=12), classes)


def test_integrated_gradients_as_they_come():
    "Neither side is told anything."
    model, x = network('squeezenet1_1'), photos()
    agree(integrated_gradients(model, x), lambda c: captum.IntegratedGradients(model).attribute(x.clone(), target=c), wanted(model, x)[:, :1])


@pytest.mark.parametrize('rule', RULES)
def test_rules_of_integration(rule):
    "captum's trapezoid has n weights of 1/n, half at the ends: their sum is 1 - 1/n. Ours are 1/(n - 1), and their sum is 1."
    model, x = network('resnet'), photos()
    baseline = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64).expand(2, -1, -1, -1)
    theirs = captum.IntegratedGradients(model).attribute(x.clone(), baselines=baseline, target=1, n_steps=9, method=rule)
    if rule == 'riemann_trapezoid': theirs = theirs * 9 / 8
    assert error(integrated_gradients(model, x, 1, baseline, 9, rule)[:, 0], theirs) <= TOLERANCE


@networks
def test_guided_backprop(name):
    model, x = network(name), photos()
    classes = wanted(model, x)
    agree(guided_backprop(model, x, classes), lambda c: captum.GuidedBackprop(oracle(name)).attribute(x.clone(), target=c), classes)


@networks
def test_occlusion(name):
    "Windows that the edge cuts off, and as many copies at once as do not fit. A value is the difference of two scores: in single precision it can be no more exact than these, in double precision it is."
    for kind, exact in ((torch.float32, False), (torch.float64, True)):
        model, x = deepcopy(network(name)).to(kind), photos().to(kind)
        best = wanted(model, x)[:, 0]
        ours = occlusion(model, x, window=(24, 20), stride=(18, 20), baseline=.2, bs=7)
        theirs = captum.Occlusion(model).attribute(x.clone(), (3, 24, 20), (3, 18, 20), baselines=.2, target=best).detach()
        scale = theirs.abs().max() if exact else max(theirs.abs().max(), model(x).abs().max())
        assert theirs.abs().max() > 0 and (ours[:, 0, None] - theirs).abs().max() <= TOLERANCE * scale


def captum_guided_grad_cam(name, x, target):
    "With bilinear interpolation as in the paper, where captum's default is the nearest neighbour."
    layer = network(name).get_submodule(NETWORKS[name][1])
    if name not in FUNCTIONAL: return captum.GuidedGradCam(network(name), layer).attribute(x.clone(), target=target, interpolate_mode='bilinear')
    cams = captum.LayerGradCam(network(name), layer).attribute(x.clone(), target=target, relu_attributions=True)
    return captum.GuidedBackprop(oracle(name)).attribute(x.clone(), target=target) * captum.LayerAttribution.interpolate(cams, x.shape[2:], 'bilinear')


@networks
def test_guided_grad_cam(name):
    "For some classes there is nothing, so several are compared as one."
    ours = guided_grad_cam(network(name), photos(), NETWORKS[name][1], range(4))
    assert error(ours, torch.stack([captum_guided_grad_cam(name, photos(), c).detach() for c in range(4)], 1)) <= TOLERANCE


# not equal, and why

@pytest.mark.parametrize('name', FUNCTIONAL)
def test_captum_misses_relus_that_are_no_relu_module(name):
    model, x = network(name), photos()
    theirs = captum.GuidedBackprop(model).attribute(x.clone(), target=1)
    assert error(guided_backprop(model, x, 1)[:, 0], theirs) > .01
    assert error(theirs, captum.GuidedBackprop(oracle(name)).attribute(x.clone(), target=1)) > .01


# harmless, and the same however it is run

SETTINGS = { # to be quick
    'smoothgrad': {'n': 3},
    'integrated_gradients': {'steps': 3},
    'occlusion': {'window': 32},
}
each_method = pytest.mark.parametrize('method', SALIENCY_METHODS)


def explain(method, model, x, classes): return saliency(model, x, classes, method, **SETTINGS.get(method, {}))


def state(model, x):
    "What a method could disturb; versions grow with every write."
    hooks = [len(h) for m in model.modules() for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
    tensors = [(id(t), t._version, t.requires_grad, t.grad is None) for t in (*model.parameters(), *model.buffers(), x)]
    return [(id(m), m.training) for m in model.modules()], tensors, hooks, torch.is_grad_enabled(), torch.random.get_rng_state().tolist()


class Fails(nn.Module):
    "Works for a while."
    def __init__(self, times): super().__init__(); self.times = times
    def forward(self, x):
        self.times -= 1
        if self.times < 0: raise KeyError('a fault of the network')
        return x


@each_method
@pytest.mark.parametrize('name', ['resnet', 'googlenet', 'mobilenet_v3_small', 'squeezenet1_1'])
def test_nothing_is_left_behind(name, method):
    model, x = network(name), photos().clone().requires_grad_()
    before = state(model, x)
    assert not explain(method, model, x, [0, 1]).requires_grad
    assert state(model, x) == before


@each_method
@pytest.mark.parametrize('times', [0, 1, 2])
def test_nothing_is_left_behind_by_a_failure(method, times):
    model, x = nn.Sequential(network('resnet'), Fails(times)).train(), photos().clone().requires_grad_()
    before = state(model, x)
    try: explain(method, model, x, 0)
    except KeyError: pass
    assert state(model, x) == before
    model.eval()


@each_method
def test_a_photo_alone_and_in_a_batch(method):
    model, x = network('squeezenet1_1'), photos()
    assert error(explain(method, model, x[1:], 2), explain(method, model, x, 2)[1:]) <= TOLERANCE


def test_recomputed_layers_are_guided_too():
    "Gradient checkpointing calls the ReLUs again in the backward pass."
    saving = tv('densenet121', memory_efficient=True)().eval()
    saving.load_state_dict(network('densenet121').state_dict())
    assert torch.equal(guided_backprop(saving, photos(), 1), guided_backprop(network('densenet121'), photos(), 1))


def test_compiled_networks_are_guided_too():
    compiled = torch.compile(network('resnet'), backend='eager')
    plain = input_gradients(compiled, photos(), 1)
    assert error(guided_backprop(compiled, photos(), 1), guided_backprop(network('resnet'), photos(), 1)) <= TOLERANCE
    assert torch.equal(input_gradients(compiled, photos(), 1), plain)


def test_refusals():
    silu = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    for method in (guided_backprop, guided_grad_cam):
        with pytest.raises(ExplainError, match='called none; found SiLU'): method(silu, photos())
        with pytest.raises(ExplainError, match='TorchScript'): method(nn.Sequential(torch.jit.script(nn.ReLU()), *silu), photos())


def alike(a, b): # (B,…) each
    "Mean Spearman correlation of two sets of maps."
    ranks = [m.flatten(1).argsort(1).argsort(1).double() for m in (a, b)]
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*ranks)]).mean().item()


@each_method
def test_wrong_photos_and_classes_are_refused(method):
    model, x = network('squeezenet1_1'), photos().clone().requires_grad_()
    before = state(model, x)
    for wrong in (x[0, 0], x.byte(), x[:, :1], x * float('nan')):
        with pytest.raises(ExplainError): explain(method, model, wrong, 0)
    with pytest.raises(ExplainError, match='expected 0 to 4'): explain(method, model, x, 5)
    assert state(model, x) == before


@each_method
def test_the_same_maps_in_every_situation(method):
    "Frozen weights, gradients switched off outside, inference mode, labels as a tensor, autocast, bfloat16."
    model, x = deepcopy(network('squeezenet1_1')), photos()
    expected = explain(method, model, x, [0, 1])
    model.requires_grad_(False)
    with torch.no_grad(): assert torch.equal(explain(method, model, x, [0, 1]), expected)
    with torch.inference_mode(): assert error(explain(method, model, x + 0, torch.tensor([[0, 1]] * 2)), expected) <= TOLERANCE
    with torch.autocast('cpu', torch.bfloat16): rough = explain(method, model, x, [0, 1])
    assert rough.dtype == torch.float32 and rough.shape == expected.shape and not rough.requires_grad
    assert alike(rough.flatten(0, 1).abs(), expected.flatten(0, 1).abs()) > .7
    half = explain(method, model.bfloat16(), x.bfloat16(), 1)
    assert half.dtype == torch.float32 and half.isfinite().all()
