"`fundus explain`: photographs of any kind, every method, classes and layers by name, and folders that are nobody else's."
import os
import re

from PIL import Image
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.ops import Conv2dNormActivation
import numpy as np
import pandas as pd
import pytest
import torch

from fundus_nbdev.core.output_folder import entries
from fundus_nbdev.core.progress import Progress
from fundus_nbdev.explain.cam import CAM_METHODS
from fundus_nbdev.explain.gradcam import grad_cam
from fundus_nbdev.explain.saliency import SALIENCY_METHODS
from fundus_nbdev.models.architectures import ARCHITECTURES, architecture, find_architecture
from fundus_nbdev.models.bundle import BundleInfo, load_bundle, save_bundle
from fundus_nbdev.photos.field_of_view import load_crop
from fundus_nbdev.photos.photo import cc0_photo
from fundus_nbdev.synth.retina import draw_retina
from fundus_nbdev.use.explain import PhotoExplainer
from fundus_nbdev.use.explain_files import Asked, write_explanations

CLASSES = ['Good', 'Usable', 'Reject']


class OtherHead(nn.Sequential):
    "Two layers judge all places; nothing is pooled."
    def __init__(self, n_classes):
        super().__init__(Conv2dNormActivation(3, 8, stride=2, activation_layer=nn.SiLU), nn.Flatten(), nn.Linear(8 * 16 * 16, 6), nn.SiLU(), nn.Linear(6, n_classes))


NETWORKS = { # name → builds it
    'other_head': lambda n_classes=3: OtherHead(n_classes),
    'no_maps': lambda n_classes=3: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, n_classes)),
    'tokens': lambda n_classes=3: VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=n_classes),
}


@pytest.fixture(scope='module', autouse=True)
def networks(): # registered for these tests only
    for name, build in NETWORKS.items(): architecture(name)(build)
    yield
    for name in NETWORKS: del ARCHITECTURES[name]


def make_bundle(folder, name='resnet', arguments=None, **changes): # the folder
    "Write a bundle of an untrained network that takes 32 px."
    if arguments is None: arguments = dict(depth=10, width=4, stem='cifar') if name == 'resnet' else {}
    torch.manual_seed(0)
    model = find_architecture(name)(n_classes=3, **arguments)
    if name == 'tokens': nn.init.normal_(model.heads.head.weight)
    info = dict(crop='fov', size=32, mean=[.5] * 3, std=[.25] * 3) | changes
    return save_bundle(folder, model, BundleInfo(name, {'n_classes': 3, **arguments}, CLASSES, **info))


def draw(file, seed=0): # the file
    "Draw a retina into a file."
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_retina(seed, size=100).rgb).save(file)
    return file


@pytest.fixture
def place(here): # the current folder, with a bundle and photographs
    make_bundle(here/'net')
    for i, name in enumerate(['a/1.jpg', 'a/2.png', 'b/1.jpg']): draw(here/'photos'/name, i)
    (here/'photos'/'broken.jpg').write_bytes(b'\xff\xd8 not a photograph')
    return here


def table(folder): # explanations.csv, every cell as text
    return pd.read_csv(folder/'explanations.csv', dtype=str, keep_default_na=False)


# what is written

def test_a_folder_of_photographs(fundus, place):
    code, text = fundus('explain', 'photos', '--bundle', 'net')
    assert code == 0 and 'broken.jpg: text, not a photo' in text and 'left' in text, text # time left
    assert 'explained: 3 photographs' in text and 'not explained: 1 photograph (broken.jpg)' in text
    assert text.strip().endswith('Written: explain/photos/explanations.csv, explain/photos/pictures/, explain/photos/maps/')
    found = table(place/'explain'/'photos')
    assert list(found.path) == [str(place.joinpath('photos', name).relative_to(place)) for name in ('a/1.jpg', 'a/2.png', 'b/1.jpg', 'broken.jpg')]
    bad, good = found[found.problem != ''], found[found.problem == '']
    assert len(bad) == 1 and (bad[['pred', 'class', 'maps', 'picture']] == '').all(axis=None) and 'broken.jpg' in bad.problem.item()
    assert (good.method == 'hirescam').all() and good['class'].equals(good.pred) and set(good.pred) <= set(CLASSES)
    for row in good.itertuples():
        picture = Image.open(place/'explain'/'photos'/row.picture)
        assert min(picture.size) > 200
        maps = np.load(place/'explain'/'photos'/row.maps)
        assert set(maps) == {row.pred, 'crop'}
        assert maps['crop'].shape == (32, 32, 3) and maps['crop'].dtype == np.uint8
        assert row.flat in ('True', 'False')
        if row.flat == 'False': assert float(row.largest) == pytest.approx(maps[row.pred].max(), rel=1e-5) and 0 <= int(row.x) < 32 and 0 <= int(row.y) < 32
    assert len(set(good.picture)) == len(set(good.maps)) == 3 # 1.jpg is there twice


def test_maps_are_raw_and_of_what_the_network_saw(fundus, place):
    code, text = fundus('explain', place/'photos'/'a'/'1.jpg', '--bundle', 'net', '--methods', 'gradcam', '--classes', 'all', '--layer', 'stages.0', '--out', 'out')
    assert code == 0, text
    bundle, arrays = load_bundle(place/'net'), np.load(place/'out'/'maps'/'1.gradcam.npz')
    crop = load_crop(place/'photos'/'a'/'1.jpg', 32)
    assert (arrays['crop'] == crop).all() and set(arrays) == {*CLASSES, 'crop'}
    expected = grad_cam(bundle.model, bundle.normalise(crop[None]), 'stages.0', [0, 1, 2])[0]
    for name, map in zip(CLASSES, expected): assert np.allclose(arrays[name], map, rtol=1e-4, atol=1e-6)
    found = table(place/'out')
    assert list(found['class']) == CLASSES and set(found.layer) == {'stages.0'}
    assert found.probability.astype(float).to_numpy() == pytest.approx(bundle.probabilities(crop[None])[0], abs=1e-5)


@pytest.mark.parametrize('name', ['resnet', *NETWORKS])
def test_every_method_on_any_network(fundus, place, name):
    make_bundle(place/'other', name)
    code, text = fundus('explain', 'photos/a/1.jpg', '--bundle', 'other', '--methods', 'all', '--classes', 'Reject,Good', '--out', 'out')
    assert code == 0, text
    found = table(place/'out')
    assert set(found.method) == {*CAM_METHODS, *SALIENCY_METHODS}
    without = {'resnet': set(), 'other_head': {'cam', 'guided_backprop', 'guided_grad_cam'}, 'tokens': {'cam', 'guided_backprop', 'guided_grad_cam'},
               'no_maps': {*CAM_METHODS, 'guided_backprop', 'guided_grad_cam'}}[name]
    assert set(found.method[found.problem != '']) == without # and each says why
    assert all(re.search(r'\w+ \w+', problem) for problem in found.problem[found.problem != ''])
    for row in found[found.problem == ''].itertuples(): assert set(np.load(place/'out'/row.maps)) == {'Reject', 'Good', 'crop'}
    assert entries(place/'out'/'pictures') == ['1.explained.png']


def test_several_orientations_and_a_temperature(fundus, place):
    make_bundle(place/'turned', crop='whole', orientations=8, temperature=2.)
    photo = Image.open(place/'photos'/'a'/'1.jpg').resize((32, 32))
    photo.rotate(90).save(place/'x.png')
    photo.save(place/'y.png')
    code, text = fundus('explain', 'x.png', 'y.png', '--bundle', 'turned', '--methods', 'hirescam,input_gradients', '--classes', 'Good', '--out', 'out')
    assert code == 0, text
    first, second = (np.load(place/'out'/'maps'/f'{name}.hirescam.npz') for name in 'xy')
    assert (first['crop'] == np.rot90(second['crop'])).all()
    assert first['Good'].any() and np.allclose(first['Good'], np.rot90(second['Good']), rtol=1e-3, atol=1e-6)
    p = load_bundle(place/'turned').probabilities(first['crop'][None])[0, 0]
    assert float(table(place/'out').probability[0]) == pytest.approx(p, abs=1e-5)


# layers

@pytest.mark.parametrize('asked, name, size', [('stages.1', 'stages.1', 16), ('20', None, 32), ('9', None, 16), ('4', None, 4)])
def test_a_layer_by_name_and_by_size(fundus, place, asked, name, size):
    code, text = fundus('explain', 'photos/a/1.jpg', '--bundle', 'net', '--layer', asked, '--out', 'out')
    assert code == 0, text
    [row] = table(place/'out').itertuples()
    assert np.load(place/'out'/row.maps)[row.pred].shape == (size, size)
    assert (name is None or row.layer == name) and f'(at {row.layer})' in text


# what is refused, and in which words

WRONG = { # words of the command → what is said
    'method': (['--methods', 'hirescam,grandcam'], ["'grandcam' is not known", "'occlusion'", "Did you mean 'gradcam'?"]),
    'class': (['--classes', 'Gut'], ["class 'Gut' is not known: expected one of 'Good', 'Usable', 'Reject'"]),
    'class in small letters': (['--classes', 'reject'], ["Did you mean 'Reject'?"]),
    'layer': (['--layer', 'stagess.1'], ['is no part of the network', 'did you mean stages.1']),
    'layer without maps': (['--layer', 'head'], ['has no maps', 'layers with maps, last first']),
    'layer too large': (['--layer', '500'], ['no layer has maps larger than 499 × 499']),
    'layer of pixels': (['--methods', 'occlusion', '--layer', '4'], ['looks at pixels and at no layer']),
    'fold': (['--fold', '1'], ['holds one network and no folds']),
    'bundle': (['--bundle', 'photos'], ['photos holds no trained network', 'fold0']),
    'bundle that is not there': (['--bundle', 'gone'], ['gone holds no trained network']),
}


@pytest.mark.parametrize('words, said', WRONG.values(), ids=WRONG)
def test_wrong_names(fundus, place, words, said):
    code, text = fundus('explain', 'photos', *(['--bundle', 'net'] if '--bundle' not in words else []), *words)
    assert code == 1 and not [part for part in said if part not in text], text
    assert 'Traceback' not in text and not (place/'explain').exists() # nothing was begun


@pytest.mark.parametrize('photos', [['gone.jpg'], ['photos/broken.jpg', 'net/bundle.json'], ['empty']])
def test_nothing_to_explain(fundus, place, photos):
    (place/'empty').mkdir()
    code, text = fundus('explain', *photos, '--bundle', 'net')
    assert code == 1 and all(photo in text for photo in photos) and 'Traceback' not in text, text
    assert not (place/'explain').exists()


@pytest.mark.skipif(os.name != 'posix', reason='names are text elsewhere')
def test_strange_names(fundus, place):
    os.rename(os.fsencode(draw(place/'x.png')), os.fsencode(place/'x') + b'\xff.png')
    for name in ('$x_1$.png', 'é' * 100 + '.png', 'two words.png'): draw(place/name)
    np.savez(place/'set.npz', x=np.stack([draw_retina(i, size=80).rgb[:64, :64] for i in range(2)]))
    code, text = fundus('explain', '$x_1$.png', 'é' * 100 + '.png', 'two words.png', 'set.npz#0', 'set.npz#1', 'set.npz#7', os.fsdecode(b'x\xff.png'), '--bundle', 'net', '--out', 'out')
    assert code == 0 and 'explained: 5 photographs' in text, text
    found = table(place/'out')
    assert list(found.path[found.problem != '']) == ['set.npz#7', 'x\\udcff.png']


# folders

def test_nothing_of_a_person_is_lost(fundus, place):
    words = ['explain', 'photos', '--bundle', 'net', '--out', 'out']
    assert fundus(*words)[0] == 0
    mine = [place/'out'/name for name in ('notes.txt', 'pictures/1 with an arrow.png', 'maps/mine.npz')]
    for file in mine: file.write_text('mine')
    before = table(place/'out')
    code, text = fundus(*words)
    assert code == 1 and 'holds explanations.csv already' in text and '--overwrite' in text, text
    code, text = fundus('explain', 'photos/broken.jpg', *words[2:], '--overwrite') # nothing new: the old stays
    assert code == 1 and table(place/'out').equals(before)
    code, text = fundus('explain', 'photos/a/2.png', *words[2:], '--overwrite', '--methods', 'eigencam')
    assert code == 0, text
    assert entries(place/'out'/'maps') == ['2.eigencam.npz', 'mine.npz'] and len(table(place/'out')) == 1
    assert all(file.read_text() == 'mine' for file in mine)
    code, text = fundus('explain', 'photos', '--bundle', 'net', '--out', 'photos', '--overwrite')
    assert code == 1 and 'nothing in it is touched' in text, text


def test_results_are_no_photographs(fundus, place):
    assert fundus('explain', 'photos', '--bundle', 'net', '--out', 'photos/explained')[0] == 0
    code, text = fundus('explain', 'photos', '--bundle', 'net', '--out', 'again')
    assert code == 0 and 'written by `fundus explain`' in text and len(table(place/'again')) == 4, text
    code, text = fundus('explain', 'photos/explained', '--bundle', 'net')
    assert code == 1 and 'no photographs' in text, text


def test_what_was_done_until_it_was_stopped_is_written(place):
    class Stopped(PhotoExplainer):
        left = 2
        def __call__(self, crop):
            self.left -= 1
            if self.left < 0: raise KeyboardInterrupt
            return super().__call__(crop)
    asked = [Asked(str(place/'photos'/name), name[0] + name[2]) for name in ('a/1.jpg', 'a/2.png', 'b/1.jpg')]
    with pytest.raises(KeyboardInterrupt): write_explanations(asked, {None: Stopped(load_bundle(place/'net'))}, place/'out', Progress())
    assert list(table(place/'out').picture) == ['pictures/a1.explained.png', 'pictures/a2.explained.png']


def test_a_photograph_that_is_named_twice(fundus, place):
    code, text = fundus('explain', 'photos/a/1.jpg', place/'photos'/'a'/'1.jpg', 'photos/a', '--bundle', 'net', '--out', 'out')
    assert code == 0 and 'explained: 2 photographs' in text and entries(place/'out'/'pictures') == ['1.explained.png', '2.explained.png'], text


# runs

def test_a_run_with_folds(fundus, place):
    for k in range(3): make_bundle(place/'run'/f'fold{k}'/'bundle')
    own = [str(place/'photos'/name) for name in ('a/1.jpg', 'a/2.png')]
    pd.DataFrame({'path': own, 'fold': [2, 1]}).to_csv(place/'run'/'predictions.csv', index=False)
    code, text = fundus('explain', 'photos', '--bundle', 'run', '--out', 'out')
    assert code == 0, text
    assert 'of this run: 2 photographs, each explained by the network that had not seen it' in text
    assert 'not of this run: 2 photographs, explained by the network of fold 0 (--fold names another)' in text
    assert list(table(place/'out').fold) == ['2', '1', '0', '0']
    code, text = fundus('explain', 'photos', '--bundle', 'run', '--fold', '1', '--out', 'one')
    assert code == 0 and set(table(place/'one').fold) == {'1'} and 'of this run' not in text, text
    code, text = fundus('explain', 'photos', '--bundle', 'run', '--fold', '3', '--out', 'three')
    assert code == 1 and 'fold: found 3; expected one of 0, 1, 2' in text, text


@pytest.mark.slow
def test_a_run_that_was_trained(fundus, here, photos):
    code, text = fundus('run', '--data', photos, '--folds', '3', '--epochs', '1', '--size', '32', '--n-examples', '0', '--set', 'model.name=resnet', '--set', 'model.depth=10', '--set', 'model.width=4', '--out', 'run')
    assert code == 0, text
    code, text = fundus('explain', photos, '--bundle', 'run', '--out', 'out')
    assert code == 0 and 'of this run: 12 photographs' in text and 'not of this run: 1 photograph' in text, text # the broken one
    answers = pd.read_csv('run/predictions.csv', dtype=str).set_index('path')
    found = table(here/'out').query('problem == ""').set_index('path')
    assert len(found) == 12 and (found.fold == answers.fold[found.index]).all()


def test_a_run_of_one_network(fundus, place):
    make_bundle(place/'run'/'bundle')
    code, text = fundus('explain', cc0_photo(), '--bundle', 'run', '--out', 'out')
    assert code == 0 and list(table(place/'out').fold) == [''], text
