"""grad_cam against captum, pytorch-grad-cam and torchcam: equal where they follow the paper, and where they do not, by how much and why.

pytorch-grad-cam stretches every map to 0…1 and to the picture's size before it returns it. `peer_maps` takes the maps before that, and before its ReLU."""
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
import copy
import os

import numpy as np
from PIL import Image
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from fundus_nbdev.explain.cam import CAM_METHODS
from fundus_nbdev.explain.gradcam import grad_cam
from fundus_nbdev.explain.layers import find_layer
from fundus_nbdev.models.resnet import resnet

cams = pytest.importorskip('pytorch_grad_cam', reason='pytorch-grad-cam (pip install grad-cam) is not installed: nothing to compare with')
captum_attr = pytest.importorskip('captum.attr', reason='captum is not installed: nothing to compare with')
torchcam = pytest.importorskip('torchcam.methods', reason='torchcam is not installed: nothing to compare with')
timm = pytest.importorskip('timm', reason='timm is not installed: its networks are part of the comparison')

ClassifierOutputTarget = cams.utils.model_targets.ClassifierOutputTarget
PEER = {'gradcam': 'GradCAM', 'gradcam++': 'GradCAMPlusPlus', 'hirescam': 'HiResCAM', 'layercam': 'LayerCAM', 'xgradcam': 'XGradCAM', 'scorecam': 'ScoreCAM', 'eigencam': 'EigenCAM'}
GRADIENTS = ['gradcam', 'gradcam++', 'hirescam', 'layercam', 'xgradcam'] # methods of activations and gradients
SIGNED = {'densenet121', 'mobilenet_v3_small', 'efficientnet_v2_s', 'convnext_tiny', 'vit', 'timm mobilenetv3_small_050'} # layers with negative activations
TOLERANCE = 1e-5


# networks

def token_maps(tokens): # (B,1+h·w,K) → (B,K,h,w); pytorch-grad-cam's reshape_transform
    "A ViT's patch tokens, without the class token, as square maps."
    side = round((tokens.shape[1] - 1)**.5)
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def small_vit():
    "Three transformer layers. Behind the last one only the class token is read, so the tokens before it are explained."
    model = torchvision.models.VisionTransformer(image_size=64, patch_size=16, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5)
    nn.init.normal_(model.heads.head.weight, std=.1) # zero at first: no class would have a gradient
    return model


def tv(name, **kwargs): return partial(torchvision.models.get_model, name, weights=None, num_classes=5, **kwargs)
def of_timm(name): return partial(timm.create_model, name, num_classes=5)


def narrow_vgg():
    "VGG-11's three linear layers have 124 million parameters: here they are narrower."
    model = torchvision.models.vgg11_bn()
    for i, (n_in, n_out) in {0: (512 * 49, 64), 3: (64, 64), 6: (64, 5)}.items(): model.classifier[i] = nn.Linear(n_in, n_out)
    return model


NETWORKS = { # name: how to build it, the layer with the last maps, the linear layer where the head is pooling and one such layer
    'resnet': (partial(resnet, 18, n_classes=5, width=32), 'stages', None),
    'resnet18': (tv('resnet18'), 'layer4', 'fc'),
    'vgg11_bn': (narrow_vgg, 'features', None),
    'googlenet': (tv('googlenet', aux_logits=False, init_weights=False), 'inception5b', 'fc'),
    'densenet121': (tv('densenet121'), 'features.denseblock4', None),
    'mobilenet_v3_small': (tv('mobilenet_v3_small'), 'features', None),
    'efficientnet_v2_s': (tv('efficientnet_v2_s'), 'features', 'classifier.1'),
    'squeezenet1_1': (tv('squeezenet1_1'), 'features', None),
    'convnext_tiny': (tv('convnext_tiny'), 'features', None),
    'vit': (small_vit, 'encoder.layers.encoder_layer_0', None),
    'timm regnetx_002': (of_timm('regnetx_002'), 's4', 'head.fc'),
    'timm mobilenetv3_small_050': (of_timm('mobilenetv3_small_050'), 'blocks', None),
}


def blotches(n, seed, size=64): # pictures (n,3,size,size), classes (n,)
    "Smooth blotches, brighter and coarser with the class."
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 5
    coarse = [torch.randn(1, 3, 3 + int(c), 3 + int(c), generator=random) + c / 3 for c in labels]
    return torch.cat([F.interpolate(picture, (size, size), mode='bicubic') for picture in coarse]), labels


def settle(model):
    "Batch norm's running statistics become those of a batch; in a deep network with random weights the signal would die."
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d): module.momentum = None # the average of all batches, here of one
    with torch.no_grad(): model.train()(blotches(10, 0)[0])


def train(model, steps=3):
    "Some steps: weights and biases are no longer those of a new network."
    x, y = blotches(10, 0)
    optimizer = torch.optim.Adam(model.parameters(), 5e-4, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), y).backward()
        optimizer.step()


@cache
def network(name, weights): # in eval mode
    "A network with random weights, or the same one trained for some steps."
    torch.manual_seed(0)
    model = NETWORKS[name][0]()
    settle(model)
    if weights == 'trained': train(model)
    return model.eval()


@cache
def photos(size=64): return blotches(2, 1, size)[0]


each_network = pytest.mark.parametrize('name', NETWORKS)
each_weights = pytest.mark.parametrize('weights', ['random', pytest.param('trained', marks=pytest.mark.slow)])


# peers

def peer_maps(method, model, layer, x, classes, scale=1., grad_scale=1.): # (B,C,h,w), before ReLU and rescaling
    "pytorch-grad-cam's own maps, of activations times `scale` and gradients times `grad_scale`."
    class Unscaled(getattr(cams, PEER[method])):
        def compute_cam_per_layer(self, x, targets, eigen_smooth):
            kept = self.activations_and_grads
            gradients = kept.gradients[0].numpy() * grad_scale if self.uses_gradients else None
            return self.get_cam_image(x, self.target_layers[0], targets, kept.activations[0].numpy() * scale, gradients, eigen_smooth)
        def aggregate_multi_layers(self, maps): return torch.as_tensor(maps)
    tokens = isinstance(model, torchvision.models.VisionTransformer)
    with Unscaled(model, [model.get_submodule(layer)], reshape_transform=token_maps if tokens else None) as cam:
        return torch.stack([cam(x, [ClassifierOutputTarget(int(c)) for c in column]) for column in classes.T], 1)


def peer_maps_without_eps(method, *args): # (B,C,h,w)
    "The same of a formula in which pytorch-grad-cam adds a small number to a denominator: units are changed so that it is small indeed, and back."
    if method == 'gradcam++': return peer_maps(method, *args, scale=1e-6, grad_scale=1e6) # A·g stays, g² grows
    if method == 'xgradcam': return peer_maps(method, *args, scale=1e12) / 1e12 # the weights stay, the sum of A grows
    return peer_maps(method, *args)


def captum_maps(model, layer, x, classes): # (B,C,h,w), before ReLU
    method = captum_attr.LayerGradCam(model, model.get_submodule(layer))
    return torch.cat([method.attribute(x, column) for column in classes.T], 1).detach()


def torchcam_maps(name, model, layer, x, classes, **kwargs): # (B,C,h,w); after its ReLU where it has one, not normalised
    def one(column):
        with getattr(torchcam, name)(model, layer, **kwargs) as cam: return cam(column.tolist(), model(x), normalized=False)[0]
    return torch.stack([one(column) for column in classes.T], 1)


# comparing

def test_every_method_of_the_peer_is_here(): assert set(PEER) <= set(CAM_METHODS)


def distance(ours, theirs): # the largest of all maps
    "max|a − b| / max|b| of each map. `theirs` may have negative places: where `ours` has none, its ReLU is taken first, but max|b| is that of the whole map."
    assert ours.shape == theirs.shape and (theirs > 0).any(), 'nothing to compare'
    size = theirs.abs().amax((-2, -1))
    if not (ours < 0).any(): theirs = theirs.relu()
    gap = (ours - theirs).abs().amax((-2, -1))
    return float(torch.where(gap > 0, gap / size, 0).max()) # an empty map must be matched by an empty map


def setting(name, weights, dtype=torch.float32): # model, layer, photos, and for each the likeliest and the least likely class
    model, x = network(name, weights), photos()
    if dtype != torch.float32: model, x = copy.deepcopy(model).to(dtype), x.to(dtype)
    return model, NETWORKS[name][1], x, model(x).argsort(1)[:, [-1, 0]]


@each_weights
@pytest.mark.parametrize('name', [name for name in NETWORKS if name != 'vit']) # captum takes the mean over all dimensions behind the second: of tokens, the wrong ones
def test_grad_cam_equals_captum(name, weights):
    model, layer, x, classes = setting(name, weights)
    assert distance(grad_cam(model, x, layer, classes), captum_maps(model, layer, x, classes)) <= TOLERANCE


@pytest.mark.parametrize('name, layer', [*((name, layer) for name, (_, layer, _) in NETWORKS.items() if name != 'vit'), ('resnet18', 'layer1'), ('resnet18', 'layer2'), ('vgg11_bn', 'features.14')])
def test_batches_equal_captum(name, layer):
    "Eight photographs and more are read in another layout, and gradients are those of the photographs as they came. Where captum itself, photo by photo, is farther from itself than TOLERANCE, that is the rounding of a deep network with random weights."
    model, x = copy.deepcopy(network(name, 'random')), blotches(10, 2)[0]
    classes = model(x).argsort(1)[:, [-1, 0]]
    expected = captum_maps(model, layer, x, classes)
    alone = torch.cat([captum_maps(model, layer, x[i:i + 1], classes[i:i + 1]) for i in range(len(x))])
    rounding = distance(alone.relu(), expected)
    for call in ('first', 'next'): assert distance(grad_cam(model, x, layer, classes), expected) <= max(TOLERANCE, 4 * rounding), call


@pytest.mark.parametrize('method', GRADIENTS)
@each_weights
@each_network
def test_equals_pytorch_grad_cam(name, weights, method):
    dtype = torch.float64 if method == 'xgradcam' and name in SIGNED else torch.float32 # ΣA may nearly cancel; its rounding is divided by what is left
    model, layer, x, classes = setting(name, weights, dtype)
    assert distance(grad_cam(model, x, layer, classes, method), peer_maps_without_eps(method, model, layer, x, classes)) <= TOLERANCE


@pytest.mark.parametrize('name', ['resnet', 'mobilenet_v3_small', 'squeezenet1_1', 'vit'])
def test_the_rest_is_rounding(name):
    "In double precision the distance shrinks by as much as the numbers get longer."
    model, layer, x, classes = setting(name, 'trained', torch.float64)
    for method in GRADIENTS: assert distance(grad_cam(model, x, layer, classes, method), peer_maps_without_eps(method, model, layer, x, classes)) <= 1e-10, method


@each_weights
@pytest.mark.parametrize('name', [name for name, (_, _, linear) in NETWORKS.items() if linear])
def test_cam_equals_torchcam(name, weights):
    model, layer, x, classes = setting(name, weights)
    theirs = torchcam_maps('CAM', model, layer, x, classes, fc_layer=NETWORKS[name][2])
    assert distance(grad_cam(model, x, layer, classes, 'cam'), theirs) <= TOLERANCE


@pytest.mark.parametrize('method, theirs', [('gradcam', 'GradCAM'), ('layercam', 'LayerCAM'), ('xgradcam', 'XGradCAM')])
@pytest.mark.parametrize('name', ['resnet', 'vgg11_bn', 'googlenet', 'timm regnetx_002'])
def test_torchcam_agrees(name, method, theirs):
    model, layer, x, classes = setting(name, 'trained')
    assert distance(grad_cam(model, x, layer, classes, method), torchcam_maps(theirs, model, layer, x, classes)) <= TOLERANCE


# Score-CAM costs a forward pass for each map: early layers, which have few

FEW_MAPS = {'resnet': 'stages.0', 'resnet18': 'layer1', 'googlenet': 'maxpool1', 'densenet121': 'features.pool0', 'mobilenet_v3_small': 'features.1',
            'squeezenet1_1': 'features.2', 'timm regnetx_002': 'stem'}


@pytest.fixture
def quiet(monkeypatch): monkeypatch.setattr('tqdm.tqdm', lambda items, **kwargs: items) # Score-CAM's progress bar


@pytest.fixture
def places_are_areas(monkeypatch): # pytorch-grad-cam puts the outermost places on the outermost pixels
    monkeypatch.setattr(nn, 'UpsamplingBilinear2d', partial(nn.Upsample, mode='bilinear', align_corners=False))


@each_weights
@pytest.mark.parametrize('name', FEW_MAPS)
def test_scorecam_equals_pytorch_grad_cam(name, weights, quiet, places_are_areas):
    model, _, x, classes = setting(name, weights)
    layer, photo, likeliest = FEW_MAPS[name], x[:1], classes[:1, :1]
    assert distance(grad_cam(model, photo, layer, likeliest, 'scorecam'), peer_maps('scorecam', model, layer, photo, likeliest)) <= TOLERANCE


# Eigen-CAM: no class, no gradients

def eigen_maps(model, layer, x, centred=False): # (B,1,h,w), of either sign
    "pytorch-grad-cam's Eigen-CAM. It centres the activations; with their own negatives below them they are centred already, and keep their singular vectors."
    class Uncentred(cams.EigenCAM):
        def compute_cam_per_layer(self, x, targets, eigen_smooth):
            A = self.activations_and_grads.activations[0].numpy()
            both = A if centred else np.concatenate([A, -A], 2)
            return self.get_cam_image(x, None, targets, both, None, eigen_smooth)[:, :A.shape[2]]
        def aggregate_multi_layers(self, maps): return torch.as_tensor(maps)[:, None]
    tokens = isinstance(model, torchvision.models.VisionTransformer)
    with Uncentred(model, [model.get_submodule(layer)], token_maps if tokens else None) as cam: return cam(x, None)


@each_weights
@each_network
def test_eigencam_equals_pytorch_grad_cam(name, weights):
    "The paper leaves the sign of a singular vector open, and so does the peer; here most of a map is positive."
    model, layer, x, _ = setting(name, weights)
    ours, theirs = grad_cam(model, x, layer, method='eigencam'), eigen_maps(model, layer, x)
    assert (ours.sum((-2, -1)) >= 0).all()
    assert distance(ours, theirs * torch.where(theirs.sum((-2, -1), keepdim=True) < 0, -1, 1)) <= TOLERANCE


# no layer named: the same maps by another way

@each_weights
@each_network
def test_the_layer_found_has_the_maps_of_its_name(name, weights):
    model, _, x, classes = setting(name, weights)
    found = find_layer(model, x)
    assert distance(grad_cam(model, x, None, classes), grad_cam(model, x, found, classes)) <= TOLERANCE
    if name != 'vit': assert distance(grad_cam(model, x, None, classes), captum_maps(model, found, x, classes)) <= TOLERANCE


# ImageNet weights

@pytest.fixture
def imagenet(monkeypatch): # model, layer, a photograph, its two likeliest classes
    if 'FUNDUS_DATA' not in os.environ: pytest.skip('FUNDUS_DATA is unset: no ImageNet weights of SqueezeNet 1.1')
    data = Path(os.environ['FUNDUS_DATA'])
    monkeypatch.setenv('TORCH_HOME', str(data/'weights'))
    model = torchvision.models.squeezenet1_1(weights='IMAGENET1K_V1', progress=False).eval()
    photo = torch.from_numpy(np.array(Image.open(data/'samples'/'retina_cc0.jpg'))).permute(2, 0, 1)[None].float() / 255
    x = (F.interpolate(photo, (96, 96), mode='area') - .45) / .225
    return model, 'features', x, model(x).topk(2).indices


@pytest.mark.parametrize('method', GRADIENTS)
def test_imagenet_weights(imagenet, method):
    model, layer, x, classes = imagenet
    ours = grad_cam(model, x, layer, classes, method)
    assert distance(ours, peer_maps_without_eps(method, model, layer, x, classes)) <= TOLERANCE
    if method == 'gradcam': assert distance(ours, captum_maps(model, layer, x, classes)) <= TOLERANCE


def test_imagenet_weights_without_gradients(imagenet, quiet, places_are_areas):
    model, _, x, classes = imagenet
    assert distance(grad_cam(model, x, 'features.2', classes[:, :1], 'scorecam'), peer_maps('scorecam', model, 'features.2', x, classes[:, :1])) <= TOLERANCE
    assert distance(grad_cam(model, x, 'features', method='eigencam'), eigen_maps(model, 'features', x).abs()) <= TOLERANCE


# where a peer does something else

def test_pytorch_grad_cam_adds_to_denominators():
    """Grad-CAM++: 1e-6 beside 2·g² + g³·ΣA. A gradient of a mean over h·w places is small, and its square smaller still: here the number added decides the map.
    XGrad-CAM: 1e-7 beside ΣA, which hardly shows with ReLU. Ours divide by what the papers divide by, and are 0 where that is 0."""
    model, layer, x, classes = setting('resnet18', 'trained')
    for method, least, most in (('gradcam++', 1e-2, np.inf), ('xgradcam', 0, 1e-4)):
        assert least <= distance(grad_cam(model, x, layer, classes, method), peer_maps(method, model, layer, x, classes)) <= most


def test_grad_cam_plus_plus_leaves_out_exp():
    "The paper takes the gradient of exp(S). That is one factor exp(S) for each whole map, large enough to overflow; pytorch-grad-cam and ours leave it out."
    model, layer, x, classes = setting('resnet18', 'trained', torch.float64)
    with captured(model.get_submodule(layer)) as kept: scores = model(x).gather(1, classes)
    A, Y = kept[0].detach(), scores.exp().detach()
    for c in range(classes.shape[1]):
        g, y = torch.autograd.grad(scores[:, c].sum(), kept[0], retain_graph=True)[0], Y[:, c, None, None, None]
        alpha = (y * g**2) / (2 * y * g**2 + (A * y * g**3).sum((-2, -1), keepdim=True)) # second and third derivatives of exp(S), equation 10
        paper = ((alpha * (y * g).relu()).sum((-2, -1), keepdim=True) * A).sum(1).relu()
        assert distance(grad_cam(model, x, layer, classes[:, c:c + 1], 'gradcam++') * Y[:, c:c + 1, None, None], paper[:, None]) <= 1e-10


@contextmanager
def captured(module): # a list that gets what the module returns
    kept = []
    handle = module.register_forward_hook(lambda m, args, output: kept.append(output))
    try: yield kept
    finally: handle.remove()


def test_torchcam_never_divides_in_grad_cam_plus_plus():
    "It divides a copy, `alpha[idx][mask].div_(…)`, and drops it: what remains is Σ g²·relu(g) in place of Σ α·relu(g)."
    model, layer, x, classes = setting('resnet18', 'trained')
    with captured(model.get_submodule(layer)) as kept: scores = model(x).gather(1, classes)
    g = torch.stack([torch.autograd.grad(scores[:, c].sum(), kept[0], retain_graph=True)[0] for c in range(2)])
    undivided = torch.einsum('cbk,bkhw->bchw', (g**2 * g.relu()).sum((-2, -1)), kept[0].detach())
    theirs = torchcam_maps('GradCAMpp', model, layer, x, classes)
    assert distance(theirs, undivided) <= TOLERANCE
    assert distance(grad_cam(model, x, layer, classes, 'gradcam++'), theirs) > .5


def test_pytorch_grad_cam_centres_in_eigen_cam():
    "The paper projects the activations on their first singular vector; the peer subtracts each channel's mean first, so its maps have a mean of 0."
    model, layer, x, _ = setting('resnet18', 'trained')
    centred = eigen_maps(model, layer, x, centred=True)
    assert centred.mean((-2, -1)).abs().max() <= 1e-5 * centred.abs().max()
    assert distance(grad_cam(model, x, layer, method='eigencam'), centred.abs()) > .1


def test_masks_of_score_cam_differ_at_the_border(quiet):
    "pytorch-grad-cam's mask puts the outermost places on the outermost pixels (align_corners); the network's places are areas. The maps differ by the weights."
    model, _, x, classes = setting('resnet18', 'trained')
    photo, likeliest = x[:1], classes[:1, :1]
    assert distance(grad_cam(model, photo, 'layer1', likeliest, 'scorecam'), peer_maps('scorecam', model, 'layer1', photo, likeliest)) > 1e-3


def test_torchcam_stretches_before_it_enlarges():
    "The paper enlarges a map, then stretches it to 0…1 (section 3.2): s(Up(A)). Enlarging tempers the extremes, so the other order gives darker masks, and other weights."
    model, _, x, classes = setting('resnet18', 'trained')
    photo, likeliest = x[:1], classes[:1, :1]
    assert distance(grad_cam(model, photo, 'layer1', likeliest, 'scorecam'), torchcam_maps('ScoreCAM', model, 'layer1', photo, likeliest)) > 1e-3


def test_pytorch_grad_cam_reads_what_an_inplace_relu_left():
    "DenseNet applies an in-place ReLU to the output of `features`. The peer's activations are in the same memory, and lose their negative values; its gradients belong to the values before."
    model, _, x, classes = setting('densenet121', 'trained')
    ours = grad_cam(model, x, 'features', classes)
    assert distance(ours, captum_maps(model, 'features', x, classes)) <= TOLERANCE
    assert distance(ours, peer_maps('gradcam', model, 'features', x, classes)) > 1e-2
