"What fastai users know works on what this library makes, and each part alone in anybody's notebook."
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import (
    CategoryBlock,
    ClassificationInterpretation,
    DataBlock,
    EarlyStoppingCallback,
    ImageDataLoaders,
    Interpretation,
    Learner,
    MixUp,
    PILImage,
    RandomSplitter,
    Resize,
    SaveModelCallback,
    accuracy,
    get_image_files,
    load_learner,
    parent_label,
    plt,
    vision_learner,
)
from PIL import Image
from torchvision.models import squeezenet1_1

from fundus_nbdev.core.errors import PhotoError, TableError
from fundus_nbdev.data.datablock import PhotoBlock, dataloaders, table_block
from fundus_nbdev.data.pixels import cache_pixels, channel_stats
from fundus_nbdev.explain.gradcam import grad_cam
from fundus_nbdev.models.resnet import resnet
from fundus_nbdev.photos.field_of_view import load_crop
from fundus_nbdev.synth.degradations import degrade
from fundus_nbdev.synth.retina import draw_retina
from fundus_nbdev.training.checkpoint import ResumableLearner
from fundus_nbdev.training.learner import make_learner, recipe_loss
from fundus_nbdev.training.mix import MixUpCB
from fundus_nbdev.training.onecycle import OneCycleCB
from fundus_nbdev.training.optimizer import adamw
from fundus_nbdev.training.recipe import make_recipe
from fundus_nbdev.training.tiny import weight_values

SIZE, CLASSES = 32, ['Good', 'Reject']


def write_photos(folder, n, first=0): # photo table
    "Drawn photographs in a folder for each class; of four, two are for training, one for validation, one is a test."
    rows = []
    for i in range(first, first + n):
        label = CLASSES[i // 2 % 2]
        rgb = draw_retina(i, size=72).rgb
        if label == 'Reject': rgb = degrade(rgb, 'defocus', .9).rgb
        path = folder/label/f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(path)
        part = ['train', 'train', 'valid', 'test', 'train', 'valid', 'train', 'test'][i % 8]
        rows.append(dict(path=str(path), label=label, patient=str(i), split=part))
    return pd.DataFrame(rows)


@pytest.fixture(scope='module')
def table(tmp_path_factory, own_cache): return write_photos(tmp_path_factory.mktemp('fastai')/'photos', 24)


@pytest.fixture(scope='module')
def pixels(table): return cache_pixels(list(table.path), SIZE)


@pytest.fixture(scope='module')
def new_photo(tmp_path_factory): # in no table and no cache
    return write_photos(tmp_path_factory.mktemp('new'), 1, first=100).path[0]


@pytest.fixture
def learner(table, pixels, tmp_path): # learner(**options of `dataloaders`)
    def make(kind=Learner, **options):
        dls = dataloaders(table, pixels, CLASSES, bs=4, seed=1, **options)
        dls.path = tmp_path
        torch.manual_seed(0)
        return kind(dls, small(), metrics=accuracy, cbs=[OneCycleCB()])
    return make


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close('all')


def small(**settings): return resnet(10, stem='cifar', width=4, n_classes=2, **settings)


def quiet(learn):
    learn.logger = lambda *_: None
    return learn.no_bar()


def fit(learn, epochs=2):
    with quiet(learn): learn.fit(epochs, 1e-2)
    return weight_values(learn.model)


# from item to batch

def test_a_batch_is_its_items(table, pixels, learner):
    for loader in learner(augment='none').dls.loaders:
        whole = loader.read(np.arange(loader.n))
        apart = loader.do_batch([loader.do_item(i) for i in range(loader.n)])
        assert whole[0].is_contiguous(memory_format=torch.channels_last) # read at once
        for one, other in zip(whole, apart):
            assert type(one) is type(other) and one.dtype == other.dtype
            assert one.tolist() == other.tolist()


def test_items_are_rows_of_the_table(table, pixels):
    block = table_block(table, pixels, CLASSES, channel_stats(pixels, np.arange(4)))
    sets = block.datasets(table)
    assert [*sets.train.items.split.unique(), *sets.valid.items.split.unique()] == ['train', 'valid']
    x, y = sets.train[2]
    row = table[table.split == 'train'].iloc[2]
    assert x.permute(1, 2, 0).tolist() == load_crop(row.path, SIZE).tolist() and CLASSES[y] == row.label


def test_unknown_labels_are_named(table, pixels):
    with pytest.raises(TableError, match='Reject'): dataloaders(table, pixels, ['Good', 'Usable'])


@pytest.mark.parametrize('form', [str, PILImage.create, Image.open, lambda path: np.asarray(Image.open(path))])
def test_predict_takes(form, learner, new_photo):
    learn = learner()
    fit(learn)
    label, number, probabilities = learn.predict(form(new_photo))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in channel_stats_of(learn))
    xb = (torch.from_numpy(load_crop(new_photo, SIZE)).permute(2, 0, 1)[None] / 255 - mean) / std
    with torch.no_grad(): expected = learn.model.eval()(xb).softmax(1)[0]
    assert torch.allclose(probabilities, expected, atol=1e-5)
    assert label == CLASSES[number] and number == expected.argmax()


def channel_stats_of(learn):
    normalise = next(f for f in learn.dls.valid.after_batch.fs if type(f).__name__ == 'Normalize')
    return normalise.mean.flatten().tolist(), normalise.std.flatten().tolist()


def test_pictures_in_memory_are_checked(learner):
    with pytest.raises(PhotoError, match='float64'): learner().predict(np.zeros((50, 50, 3)))


def test_dl_of_anything(table, learner, new_photo):
    learn = learner()
    part = table[table.split == 'test']
    labelled, _ = learn.get_preds(dl=learn.dls.test_dl(part, with_labels=True))
    _, targets = learn.get_preds(dl=learn.dls.test_dl(part, with_labels=True))
    assert [CLASSES[t] for t in targets] == list(part.label)
    for items in (list(part.path), part.path, get_image_files(os.path.dirname(new_photo)) + list(part.path), part):
        preds, _ = learn.get_preds(dl=learn.dls.test_dl(items))
        assert len(preds) == len(items) and preds[-1].tolist() == pytest.approx(labelled[-1].tolist(), abs=1e-6) # another layout in memory rounds differently


# looking

LOOKS = {
    'show_batch': lambda learn: learn.dls.show_batch(),
    'one_batch': lambda learn: [learn.dls.one_batch(), learn.dls.valid.one_batch()],
    'show_results': lambda learn: [learn.show_results(), learn.show_results(ds_idx=0)],
    'summary': lambda learn: learn.summary(),
    'predict': lambda learn: learn.predict(learn.dls.train_ds.items.path.iloc[0]),
    'get_preds': lambda learn: [learn.get_preds(), learn.get_preds(ds_idx=0), learn.validate()],
}
PASSES = { # over the loader: fastai's own learner can't tell them from epochs of a training
    'half an epoch by hand': lambda learn: next(iter(learn.dls.train)),
    'an epoch by hand': lambda learn: list(learn.dls.train),
    'lr_find': lambda learn: learn.lr_find(num_it=6, show_plot=False),
}


@pytest.mark.parametrize('kind', [Learner, ResumableLearner])
@pytest.mark.parametrize('order', [pytest.param('shuffle', marks=pytest.mark.slow), 'balanced'])
def test_looking_changes_no_later_number(kind, order, learner, capsys):
    untouched = learner(kind, order=order, degrade=('motion',))
    undisturbed = [fit(untouched), fit(untouched)]
    assert undisturbed[0] != undisturbed[1]
    looks = LOOKS | (PASSES if kind is ResumableLearner else {})
    for name, look in looks.items():
        learn = learner(kind, order=order, degrade=('motion',))
        with quiet(learn):
            before = torch.get_rng_state()
            look(learn)
            if name in ('show_batch', 'one_batch', 'half an epoch by hand', 'an epoch by hand'):
                assert torch.equal(torch.get_rng_state(), before), name
            assert fit(learn) == undisturbed[0], name
            look(learn)
            assert fit(learn) == undisturbed[1], f'{name}, before a second fit'


def test_each_look_shows_another_batch(learner):
    dls = learner(augment='none').dls
    assert dls.one_batch()[0].tolist() != dls.one_batch()[0].tolist()


def note_rows(loader): # filled while batches are read
    seen, read = [], loader.read
    def note(indices):
        seen.append(tuple(indices))
        return read(indices)
    loader.read = note
    return seen


def test_epochs_differ(learner):
    "In one fit, and from fit to fit; with one seed always the same."
    orders = {}
    for kind in (Learner, ResumableLearner):
        learn = learner(kind, augment='none')
        seen = note_rows(learn.dls.train)
        for _ in range(2): fit(learn)
        orders[kind] = [seen[i:i + 3] for i in range(0, 12, 3)]
        assert all(a != b for a, b in zip(orders[kind], orders[kind][1:]))
    assert orders[Learner] == orders[ResumableLearner]


def test_datablock_summary(table, pixels, capsys):
    table_block(table, pixels, CLASSES, channel_stats(pixels, np.arange(4))).summary(table)
    said = capsys.readouterr().out
    assert 'CropPhoto' in said and 'DihedralLight' in said and f'TensorImage of size 4x3x{SIZE}x{SIZE}' in said


# a training, and what becomes of it

def test_interpretation(learner, table):
    learn = learner()
    fit(learn)
    with quiet(learn):
        interp = ClassificationInterpretation.from_learner(learn)
        assert interp.confusion_matrix().sum() == (table.split == 'valid').sum()
        interp.plot_confusion_matrix()
        interp.plot_top_losses(3)
        interp.most_confused()
        Interpretation.from_learner(learn, ds_idx=0).plot_top_losses(2)


def test_trainings_of_fastai(learner):
    learn = learner()
    with quiet(learn):
        assert 0 < learn.lr_find(num_it=6, show_plot=False).valley < 10
        learn.fit_one_cycle(1, 1e-2)
        learn.fine_tune(1)
        learn.show_results()
        loss, share = learn.validate()
        tested, _ = learn.tta(n=2)
        weights = weight_values(learn.model)
        learn.save('here')
        learn.fit(1)
        learn.load('here')
    assert weight_values(learn.model) == weights
    assert loss > 0 and tested.shape == (6, 2)


def test_a_recipes_learner(table, pixels, tmp_path):
    "All callbacks of a recipe at once, and what fastai users call."
    recipe = make_recipe({'training': {'epochs': 2, 'bs': 4, 'mixup': .4, 'ema': .9, 'patience': 3, 'precision': 'fp32'}})
    loss = recipe_loss(recipe.training, table.label, CLASSES)
    learn = make_learner(recipe, dataloaders(table, pixels, CLASSES, bs=4), small(), loss)
    learn.path = tmp_path
    with quiet(learn):
        learn.lr_find(num_it=6, show_plot=False)
        learn.fit_one_cycle(2, 1e-2)
        learn.fine_tune(1)
        learn.show_results()
        learn.tta(n=2)
        probabilities = learn.predict(table.path[0])[2]
        learn.export()
    assert torch.allclose(load_learner(tmp_path/'export.pkl').predict(table.path[0])[2], probabilities, atol=1e-5)


def test_export_holds_no_photographs(table, pixels, tmp_path):
    def size_of(n): # bytes
        part = pd.concat([table] * n).reset_index(drop=True)
        dls = dataloaders(part, cache_pixels(list(part.path), SIZE), CLASSES, bs=4, order='balanced')
        learn = Learner(dls, small(), path=tmp_path)
        learn.export()
        data = (tmp_path/'export.pkl').read_bytes()
        for path in table.path: assert os.path.basename(os.path.dirname(path)).encode() + b'/' not in data
        return len(data)
    one, ten = size_of(1), size_of(10)
    assert one < 400_000 and abs(ten - one) < 100, (one, ten) # numbers grow by a digit; a photograph has 3,072 bytes


LOAD = '''
import sys
from fastai.learner import load_learner
print(load_learner(sys.argv[1]).predict(sys.argv[2])[2].tolist())
'''


@pytest.mark.slow
def test_load_learner_elsewhere(learner, new_photo, tmp_path, tmp_path_factory):
    learn = learner()
    fit(learn)
    with quiet(learn):
        expected = learn.predict(new_photo)[2].tolist()
        learn.export()
    elsewhere = tmp_path_factory.mktemp('elsewhere')
    ran = subprocess.run([sys.executable, '-W', 'ignore', '-c', LOAD, str(tmp_path/'export.pkl'), new_photo], cwd=elsewhere,
                         capture_output=True, text=True, env=os.environ | {'FUNDUS_CACHE': str(elsewhere/'cache')})
    assert ran.returncode == 0, ran.stderr
    assert np.allclose(eval(ran.stdout.splitlines()[-1]), expected, atol=1e-6)


# our parts with fastai's, fastai's parts with ours

def test_our_parts_in_a_learner_of_fastai(table):
    valid = table.assign(valid=table.split == 'valid')
    dls = ImageDataLoaders.from_df(valid, path='/', fn_col='path', label_col='label', valid_col='valid', bs=4,
                                   item_tfms=Resize(SIZE), num_workers=0)
    learn = Learner(dls, small(), opt_func=adamw, metrics=accuracy, cbs=[OneCycleCB(), MixUpCB()])
    fit(learn)
    xb, _ = dls.valid.one_batch()
    assert grad_cam(learn, xb).shape[:2] == (4, 1)


def test_photo_block_in_anybodys_datablock(table):
    folder = os.path.dirname(os.path.dirname(table.path[0]))
    block = DataBlock(blocks=(PhotoBlock(SIZE), CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      splitter=RandomSplitter(seed=1))
    dls = block.dataloaders(folder, bs=4, num_workers=0)
    xb, yb = dls.one_batch()
    assert xb.shape == (4, 3, SIZE, SIZE) and 0 <= xb.min() and xb.max() <= 1
    learn = Learner(dls, small())
    fit(learn)
    assert learn.predict(table.path[0])[0] in CLASSES
    dls.show_batch()


def test_parts_of_fastai_with_our_loaders(table, pixels, tmp_path):
    dls = dataloaders(table, pixels, CLASSES, bs=4)
    dls.path = tmp_path
    learn = vision_learner(dls, squeezenet1_1, pretrained=False, metrics=accuracy, cbs=MixUp())
    with quiet(learn): learn.fine_tune(1, cbs=[SaveModelCallback(), EarlyStoppingCallback(patience=1)])
    assert learn.predict(table.path[0])[0] in CLASSES


def test_a_pretrained_network_of_fastai(table, pixels, tmp_path):
    weights = os.path.join(os.environ.get('FUNDUS_DATA', ''), 'weights')
    if not os.path.isdir(weights): pytest.skip('needs the weights of squeezenet: FUNDUS_DATA')
    torch.hub.set_dir(os.path.join(weights, 'hub'))
    dls = dataloaders(table, pixels, CLASSES, bs=4)
    dls.path = tmp_path
    learn = vision_learner(dls, squeezenet1_1, metrics=accuracy)
    with quiet(learn): learn.fine_tune(1)
    assert learn.predict(table.path[0])[0] in CLASSES
