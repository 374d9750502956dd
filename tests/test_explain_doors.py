"Explanations take what people have: a learner, one photograph, a network with a single score."
import copy

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from fundus_nbdev.core.errors import ExplainError
from fundus_nbdev.explain.averaged_gradients import completeness_gap
from fundus_nbdev.explain.blind_explainers import BASELINES
from fundus_nbdev.explain.cam import CAM_METHODS
from fundus_nbdev.explain.explainer_checks import check_explainer
from fundus_nbdev.explain.filters import first_filters, layer_activations, plot_activations, plot_filters
from fundus_nbdev.explain.gradcam import explaining, grad_cam
from fundus_nbdev.explain.gradients import SALIENCY_METHODS, answered_classes
from fundus_nbdev.explain.insertion_deletion import insertion_deletion
from fundus_nbdev.explain.layers import find_layer, spatial_layers
from fundus_nbdev.explain.neurons import neuron_gradients, top_photos
from fundus_nbdev.explain.randomisation import randomisation_check
from fundus_nbdev.explain.saliency import saliency
from fundus_nbdev.models.bundle import Bundle
from fundus_nbdev.models.resnet import resnet
from fundus_nbdev.training.tiny import tiny_learner

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(n_classes=2):
    torch.manual_seed(0)
    return resnet(10, stem='cifar', width=4, n_classes=n_classes).eval()


def with_explaining(model, x):
    with explaining(model) as explain: return explain(x)


WAYS = {f'grad_cam {method}': lambda model, x, method=method: grad_cam(model, x, method=method) for method in CAM_METHODS}
WAYS |= {f'saliency {method}': lambda model, x, method=method: saliency(model, x, method=method) for method in SALIENCY_METHODS}
WAYS |= SALIENCY_METHODS
WAYS |= {f'blind {name}': function for name, function in BASELINES.items()}
WAYS |= {
    'explaining': with_explaining,
    'answered_classes': answered_classes,
    'layer_activations': layer_activations,
    'neuron_gradients': neuron_gradients,
    'spatial_layers': spatial_layers,
    'find_layer': find_layer,
    'top_photos': lambda model, x: top_photos(model, [x]),
    'completeness_gap': lambda model, x: completeness_gap(model, x, torch.zeros(len(x) if x.ndim == 4 else 1, 1, 3, 32, 32)),
    'insertion_deletion': lambda model, x: insertion_deletion(model, x, torch.rand(len(x) if x.ndim == 4 else 1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), steps=2).deletion,
    'randomisation_check': lambda model, x: randomisation_check(grad_cam, model, x, seeds=(0,)),
}


def same(a, b):
    if isinstance(a, torch.Tensor): return torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))
    return a.equals(b) if hasattr(a, 'equals') else a == b


@pytest.mark.parametrize('way', WAYS)
def test_a_learner_stands_for_its_network(way):
    net = network()
    expected = WAYS[way](copy.deepcopy(net), X)
    assert same(expected, WAYS[way](tiny_learner(model=net), X))


@pytest.mark.parametrize('way', WAYS)
def test_one_photograph_is_a_batch_of_one(way):
    net = network()
    assert same(WAYS[way](net, X[:1]), WAYS[way](net, X[0]))


def test_a_bundle_too():
    net = network()
    assert same(grad_cam(net, X), grad_cam(Bundle(net, None), X))


@pytest.mark.parametrize('way', [way for way in WAYS if not way.startswith('blind')])
def test_anything_else_is_named(way):
    with pytest.raises(ExplainError, match='model: found str; expected a network'): WAYS[way]('resnet18', X)


def test_plot_filters_takes_a_network():
    net = network()
    for given in (first_filters(net), net, tiny_learner(model=net)):
        assert plot_filters(given).axes[0].images[0].get_array().shape == plot_filters(first_filters(net)).axes[0].images[0].get_array().shape
    with pytest.raises(ExplainError, match='model: found list'): plot_filters([1, 2])
    with pytest.raises(ExplainError, match='layer_activations'): plot_activations(net)


def single(logit): # a network whose one score is always of this sign
    net = network(1)
    with torch.no_grad(): net.head[-1].bias.fill_(logit)
    return net


ASKED = [way for way in WAYS if way.startswith(('grad_cam', 'saliency', 'explaining', 'answered', 'completeness', 'insertion', 'randomisation'))]


@pytest.mark.parametrize('way', [*ASKED, *SALIENCY_METHODS])
@pytest.mark.parametrize('logit', [-7., 7.])
def test_one_score_has_no_predicted_class(way, logit):
    "A network that says no must not be shown with what speaks for yes as its reason."
    with pytest.raises(ExplainError, match='classes=0'): WAYS[way](single(logit), X)


def test_one_score_as_in_torchvision():
    with pytest.raises(ExplainError, match='classes=0'): grad_cam(resnet18(num_classes=1), X)


@pytest.mark.parametrize('method', CAM_METHODS)
def test_one_score_can_be_asked_for(method):
    assert grad_cam(single(-1.), X, classes=0, method=method).shape == (2, 1, 4, 4)


def test_the_decision_can_be_asked_for():
    "As the message says: a network that answers with both classes has a predicted one."
    for logit in (-7., 7.):
        both = nn.Sequential(single(logit), BothClasses())
        assert answered_classes(both, X).tolist() == [[int(logit > 0)]] * 2
    assert torch.allclose(grad_cam(both, X), grad_cam(single(logit), X, classes=0), rtol=1e-4)


class BothClasses(nn.Module):
    def forward(self, score): return torch.cat([-score, score], 1)


def test_one_score_while_pixels_go():
    "The probability of one score is its sigmoid: a softmax of one number is always 1."
    curves = insertion_deletion(single(-1.), X, torch.rand(2, 1, 8, 8), classes=0, steps=2)
    with torch.no_grad(): expected = single(-1.)(X).sigmoid()[:, 0]
    assert torch.allclose(curves.deletion[:, 0, 0], expected, atol=1e-6)


def test_checked_explainers_may_take_one_photograph():
    assert check_explainer(grad_cam_of_classes, network(3), X).passed.all()


def grad_cam_of_classes(model, x, classes): return grad_cam(model, x, classes=classes)
