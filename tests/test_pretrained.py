"Networks of torchvision and timm: explained, counted, trained, saved and opened again, all without a network or weights."
import json
import tomllib

from safetensors.torch import save_file
import pytest
import torch

from fundus_nbdev.core.errors import ModelError
from fundus_nbdev.explain.gradcam import grad_cam
from fundus_nbdev.models.bundle import BundleInfo, load_bundle, save_bundle
from fundus_nbdev.models.pretrained import pretrained_model
from fundus_nbdev.models.summary import count_parameters, summary
from commands import folder_of, in_shell, several_in_shell

SMALL = {'torchvision:squeezenet1_1': 64, 'torchvision:mobilenet_v3_small': 64, 'timm:resnet10t': 64} # name → side of a photograph
LARGE = {'torchvision:alexnet': 64, 'torchvision:convnext_tiny': 64, 'torchvision:densenet121': 64, 'torchvision:efficientnet_b0': 64,
         'torchvision:efficientnet_v2_s': 64, 'torchvision:googlenet': 64, 'torchvision:inception_v3': 96, 'torchvision:maxvit_t': 224,
         'torchvision:regnet_x_400mf': 64, 'torchvision:resnet18': 64, 'torchvision:resnet50': 64,
         'torchvision:shufflenet_v2_x0_5': 64, 'torchvision:swin_t': 64, 'torchvision:vgg11_bn': 64, 'torchvision:vit_b_32': 224,
         'timm:convnext_atto': 64, 'timm:efficientnet_lite0': 64, 'timm:mobilenetv3_small_050': 64, 'timm:regnetx_002': 64,
         'timm:swin_tiny_patch4_window7_224': 224, 'timm:vit_tiny_patch16_224': 224}
NAMES = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


@pytest.mark.parametrize('name', NAMES)
def test_a_frozen_network_is_explained_and_counted(name):
    size = (SMALL | LARGE)[name]
    torch.manual_seed(0)
    model, x = pretrained_model(name, 3, freeze='head', weights=''), torch.randn(2, 3, size, size)
    assert model.train()(x).shape == (2, 3) # one tensor, also while training
    before = [(p.requires_grad, p.clone()) for p in model.parameters()]
    maps = grad_cam(model, x)
    assert maps.shape[:2] == (2, 1) and maps.shape[2] * maps.shape[3] > 1 and torch.isfinite(maps).all()
    counted = summary(model, x)
    assert counted.parameters == count_parameters(model) and counted.macs > 10**6
    assert counted.trainable == count_parameters(model, trainable_only=True) == sum(p.numel() for needed, p in before if needed)
    assert all(p.requires_grad == needed and torch.equal(p, old) for p, (needed, old) in zip(model.parameters(), before))


@pytest.mark.parametrize('name', NAMES)
def test_a_bundle_is_opened_without_the_first_weights(name, tmp_path):
    size = (SMALL | LARGE)[name]
    first = pretrained_model(name, 1000 if name.startswith('timm') else 5, weights='')
    save_file(first.state_dict(), tmp_path/'first.safetensors')
    arguments = {'n_classes': 2, 'weights': str(tmp_path/'first.safetensors'), 'dropout': .2}
    model = pretrained_model(name, **arguments).eval()
    info = BundleInfo(name, arguments, ['Good', 'Bad'], 'fov', size, [.5] * 3, [.2] * 3)
    (tmp_path/'first.safetensors').unlink()
    loaded = load_bundle(save_bundle(tmp_path/'bundle', model, info))
    assert loaded.info.arguments == arguments
    x = torch.randn(1, 3, size, size)
    with torch.inference_mode(): assert torch.equal(loaded.model(x), model(x))
    with pytest.raises(ModelError, match='no such file'): pretrained_model(name, **arguments)


@pytest.mark.slow
def test_a_run_freezes_and_opens_blocks(tmp_path, photos):
    asked = ['model.name=torchvision:squeezenet1_1', 'model.weights=', 'model.freeze=gradual', 'training.bs=4', 'training.lr_lowest=1e-4']
    ran = in_shell(tmp_path, 'run', '--data', photos, '--epochs', '3', '--size', '64', '--n-examples', '2', *(word for each in asked for word in ('--set', each)))
    assert ran.returncode == 0, ran.stderr
    folder = folder_of(ran.stdout, tmp_path)
    model = tomllib.loads((folder/'recipe.toml').read_text())['model']
    assert model == {'name': 'torchvision:squeezenet1_1', 'freeze': 'gradual', 'freeze_norm': True, 'weights': '', 'dropout': 0.}
    assert json.loads((folder/'bundle'/'bundle.json').read_text())['arguments'] == {'n_classes': 2, 'weights': '', 'dropout': 0.}
    log = (folder/'log.txt').read_text()
    assert 'epoch 1: 1,026 of 723,522 parameters learn, in classifier.1' in log
    assert 'epoch 3: all 723,522 parameters learn' in log
    assert 'At first only its head was trained' in (folder/'report.html').read_text()


@pytest.mark.slow
def test_what_can_not_be_done_is_said_before_anything_is_read(tmp_path, photos):
    expected = {
        ('model.name=torchvision:resnet19',): "Did you mean 'torchvision:resnet18'?",
        ('model.name=timm:resnet18.a1_in2k',): "Did you mean 'timm:resnet18.a1_in1k'?",
        ('model.name=torchvison:resnet18',): "Did you mean 'torchvision'?",
        ('model.name=torchvision:squeezenet1_1', 'model.depth=18'): 'There is no setting model.depth',
        ('model.name=torchvision:squeezenet1_1', 'model.weights=lost.pth'): "weights = 'lost.pth': there is no such file",
        ('model.name=resnet', 'model.freeze=blocks:9'): "freeze = 'blocks:9': the network has 5 blocks before its head",
        ('model.freeze=heads',): "model.freeze = 'heads': expected 'none', 'head'",
        ('model.freeze=head',): "model.freeze = 'head': frozen features are fitted in one step",
        ('model.name=timm:vit_tiny_patch16_224', 'model.weights=', 'data.size=64'): 'It was made for 224 pixels: choose --size 224'}
    heard = several_in_shell(tmp_path, *[['run', '--data', photos, *(word for each in changes for word in ('--set', each))] for changes in expected])
    for said, words in zip(heard, expected.values(), strict=True): assert words in said, said
    assert not (tmp_path/'runs').exists()
