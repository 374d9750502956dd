"The checks of explainers on networks that people use: each explainer leaves them as they were, and answers in every situation."
from functools import partial

import pytest
import timm
import torch
from torch import nn
import torchvision.models as tv

from fundus_nbdev.explain.explainer_checks import CHECKS, check_explainer
from fundus_nbdev.explain.traces import changes, traces
from fundus_nbdev.explain.situations import in_training
from fundus_nbdev.explain.filters import layer_activations
from fundus_nbdev.explain.neurons import neuron_gradients, top_photos
from fundus_nbdev.explain.cam import CAM_METHODS
from fundus_nbdev.explain.gradcam import grad_cam
from fundus_nbdev.core.errors import ExplainError
from fundus_nbdev.explain.layers import spatial_layers
from fundus_nbdev.explain.guided_backprop import guided_backprop, guided_grad_cam
from fundus_nbdev.explain.gradients import input_gradients
from fundus_nbdev.explain.averaged_gradients import integrated_gradients, smoothgrad
from fundus_nbdev.explain.occlusion import occlusion
from fundus_nbdev.models.resnet import resnet


def vgg():
    "VGG-11 an eighth as wide, without its weights behind the convolutions."
    layers = tv.vgg.make_layers([8, 'M', 16, 'M', 32, 32, 'M', 64, 64, 'M', 64, 64, 'M'], batch_norm=True)
    with torch.device('meta'): net = tv.VGG(nn.Identity())
    net.features, net.avgpool, net.classifier = layers, nn.AdaptiveAvgPool2d(2), nn.Sequential(nn.Linear(256, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 3))
    return net


def efficientnet_v2():
    "EfficientNetV2 with a block of each kind: fused, fused and strided, with squeeze-and-excitation."
    fused, plain = tv.efficientnet.FusedMBConvConfig, tv.efficientnet.MBConvConfig
    blocks = [fused(1, 3, 1, 16, 16, 1), fused(4, 3, 2, 16, 32, 2), plain(4, 3, 2, 32, 48, 2), plain(6, 3, 2, 48, 64, 1)]
    return tv.EfficientNet(blocks, .2, num_classes=3, last_channel=128)


def convnext():
    blocks = [tv.convnext.CNBlockConfig(32, 64, 1), tv.convnext.CNBlockConfig(64, 128, 1), tv.convnext.CNBlockConfig(128, None, 2)]
    return tv.ConvNeXt(blocks, num_classes=3)


NETWORKS = {  # name → what makes it, pixels a side
    'resnet': (partial(resnet, 18, n_classes=3, width=16), 64),
    'resnet with layer norm': (partial(resnet, 10, norm='layer', n_classes=3, width=16), 64),
    'torchvision resnet': (partial(tv.ResNet, tv.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3), 64),
    'vgg': (vgg, 64),
    'squeezenet1_1': (partial(tv.squeezenet1_1, num_classes=3), 64),
    'convnext': (convnext, 64),
    'vision transformer': (partial(tv.VisionTransformer, 64, 8, 3, 4, 64, 128, num_classes=3), 64),
    'swin': (partial(tv.SwinTransformer, [4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=3), 64),
    'timm resnet10t': (partial(timm.create_model, 'resnet10t', num_classes=3), 64),
    'timm vit': (partial(timm.create_model, 'vit_tiny_patch16_224', num_classes=3, img_size=64, depth=3), 64),
    'mobilenet_v3_small': (partial(tv.mobilenet_v3_small, num_classes=3), 64),
    'shufflenet': (partial(tv.shufflenet_v2_x0_5, num_classes=3), 64),
    'timm efficientnet_lite0': (partial(timm.create_model, 'efficientnet_lite0', num_classes=3), 64),
    'googlenet': (partial(tv.googlenet, num_classes=3, init_weights=False), 64),
    'densenet': (partial(tv.DenseNet, 8, (2, 3, 3, 2), 16, num_classes=3), 64),
    'inception_v3': (partial(tv.inception_v3, num_classes=3, init_weights=False), 80),
    'efficientnet_v2': (efficientnet_v2, 64),
}
WITHOUT_RELU = {'convnext', 'vision transformer', 'swin', 'timm vit', 'efficientnet_v2'}
HEAVY = {'timm resnet10t', 'timm efficientnet_lite0', 'torchvision resnet', 'shufflenet', 'mobilenet_v3_small', 'googlenet', 'densenet', 'inception_v3', 'efficientnet_v2'}


def last_neurons(model, x, classes):
    "The neurons of the last layer are the classes."
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return neuron_gradients(model, x, linear[-1] if linear else model.classifier, classes)


def cams(method): return lambda model, x, classes: grad_cam(model, x, classes=classes, method=method)


EXPLAINERS = {  # name → fn(model, x, classes)
    **{method: cams(method) for method in CAM_METHODS},
    'input_gradients': input_gradients,
    'smoothgrad': partial(smoothgrad, n=2),
    'integrated_gradients': partial(integrated_gradients, steps=2),
    'guided_backprop': guided_backprop,
    'occlusion': partial(occlusion, window=32, stride=32),
    'guided_grad_cam': lambda model, x, classes: guided_grad_cam(model, x, classes=classes),
    'neuron_gradients': last_neurons,
}
ASKS_OFTEN = {'scorecam', 'sidu'}           # a forward pass for each map
NEEDS_RELU = {'guided_backprop', 'guided_grad_cam', 'neuron_gradients'}
EVERYWHERE = {'gradcam', 'input_gradients'}  # in the default run


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small run faster on one core
    yield
    torch.set_num_threads(threads)


def prepared(name): # network, photos
    "A network with random weights and statistics, so that no score is close to another."
    make, size = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(), torch.randn(2, 3, size, size)


def broken(explainer, model, x): # names of checks
    "What an explainer breaks. A ReLU or a maximum at a tie can flip by rounding when a batch becomes one photo; float64 tells that from a fault."
    table = check_explainer(EXPLAINERS[explainer], model, x, raises=False)
    found = {*table.check[~table.passed]}
    if not found or found - {'photo by photo', 'class by class', 'classes of each photo'}: return found
    table = check_explainer(EXPLAINERS[explainer], model.double(), x.double(), raises=False)
    return {*table.check[~table.passed]}


def cases():
    "Every explainer on every network that it is made for; most of them slow."
    for name in NETWORKS:
        for explainer in EXPLAINERS:
            if explainer in ASKS_OFTEN or explainer == 'cam' or (explainer in NEEDS_RELU and name in WITHOUT_RELU): continue
            fast = name == 'resnet' or explainer in EVERYWHERE and name not in HEAVY
            yield pytest.param(name, explainer, id=f'{explainer}-{name}', marks=[] if fast else pytest.mark.slow)


@pytest.mark.parametrize('explainer', EXPLAINERS)
def test_small_networks(explainer):
    fn = EXPLAINERS[explainer]
    if explainer == 'occlusion': fn = partial(occlusion, window=16, stride=16)
    assert check_explainer(fn).passed.all()


@pytest.mark.parametrize('name, explainer', list(cases()))
def test_networks(name, explainer):
    assert not broken(explainer, *prepared(name))


@pytest.mark.parametrize('name', [name for name in NETWORKS if name not in WITHOUT_RELU | HEAVY])
def test_cam_where_it_is_made_for(name):
    "A head of pooling and one linear layer; for another one CAM has no answer, and leaves no trace either."
    table = check_explainer(EXPLAINERS['cam'], *prepared(name), raises=False).set_index('check')
    assert table.passed.all() or [*table.index[~table.passed]] == ['works'] and 'pooling and one linear layer' in table.found['works']


@pytest.mark.parametrize('name', [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in sorted(WITHOUT_RELU)])
@pytest.mark.parametrize('explainer', sorted(NEEDS_RELU))
def test_networks_without_relu_are_refused(name, explainer):
    "Guided methods say why, and leave no trace."
    table = check_explainer(EXPLAINERS[explainer], *prepared(name), raises=False).set_index('check')
    assert [*table.index[~table.passed]] == ['works'] and 'ReLU' in table.found['works']


def test_the_checks_leave_no_trace_themselves():
    model, x = prepared('resnet')
    flags, state, seed = [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    check_explainer(EXPLAINERS['gradcam'], model, x)
    with pytest.raises(ExplainError, match='breaks [0-9]+ of 31'): check_explainer(lambda model, x, classes: model(x), model, x)
    assert flags == [m.training for m in model.modules()] and torch.equal(seed, torch.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize('name', ['resnet', 'squeezenet1_1', 'timm vit'])
def test_looking_at_neurons_leaves_no_trace(name):
    model, x = in_training(*prepared(name))
    layer = list(spatial_layers(model, x))[-1]
    before = traces(model, x)
    layer_activations(model, x, layer)
    top_photos(model, [x, x], layer, [0, 1])
    for wrong in ({'x': x * float('nan')}, {'x': x[0, 0]}, {'layer': 'nowhere'}):
        with pytest.raises(ExplainError): layer_activations(**{'model': model, 'x': x, 'layer': layer, **wrong})
    with pytest.raises(ExplainError): top_photos(model, [x], layer, 10**6)
    assert not changes(before, traces(model, x))


def test_every_failure_is_reported():
    def breaks_all(model, x, classes):
        model.eval().requires_grad_(False)
        model.register_forward_hook(print)
        torch.rand(1)
        raise RuntimeError('and no answer')
    table = check_explainer(breaks_all, *prepared('resnet'), raises=False)
    assert {'flags', 'requires_grad', 'hooks', 'chance', 'works'} <= {*table.check[~table.passed]} and [*table.check] == [*CHECKS]
