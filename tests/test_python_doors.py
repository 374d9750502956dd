"What people give from Python by mistake is named, and never answered with a number that looks right."
import os
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import CategoryBlock, ColReader, CutMix, DataBlock, Learner, MixUp, RandomSplitter
from PIL import Image

from fundus_nbdev.core.errors import PhotoError, TableError, TrainingError
from fundus_nbdev.data.datablock import PhotoBlock, dataloaders
from fundus_nbdev.data.pixels import cache_pixels
from fundus_nbdev.models.resnet import resnet
from fundus_nbdev.photos.field_of_view import load_crop
from fundus_nbdev.photos.photo import open_photo
from fundus_nbdev.training.cutmix import CutMixCB
from fundus_nbdev.training.mix import MixUpCB

SIZE, CLASSES = 24, ['Good', 'Usable', 'Reject']


@pytest.fixture(scope='module')
def table(tmp_path_factory, own_cache): # 18 pictures of noise, each of its own colour
    folder = tmp_path_factory.mktemp('doors')
    random, rows = np.random.default_rng(0), []
    for i in range(18):
        picture = random.integers(60, 200, (40, 40, 3)) // 2 + random.integers(0, 100, 3)
        path = folder/f'{i}.png'
        Image.fromarray(picture.astype(np.uint8)).save(path)
        part = ('train', 'train', 'train', 'valid', 'valid', 'test')[i // 3]
        rows.append(dict(path=str(path), label=CLASSES[i % 3], patient=str(i), split=part))
    return pd.DataFrame(rows)


@pytest.fixture(scope='module')
def pixels(table): return cache_pixels(list(table.path), SIZE)


def small(n_classes=3):
    torch.manual_seed(0)
    return resnet(10, stem='cifar', width=4, n_classes=n_classes)


def learner(table, pixels, **options):
    learn = Learner(dataloaders(table, pixels, CLASSES, bs=4), small(), **options)
    learn.logger = lambda *_: None
    return learn


# tables and their pixels

def test_a_sorted_table_is_not_that_of_its_pixels(table, pixels):
    "Each photograph would be trained with the label of another."
    for other in (table.sample(frac=1, random_state=0), table.sort_values('label')):
        with pytest.raises(TableError, match='cache_pixels'): dataloaders(other, pixels)
        dls = dataloaders(other, cache_pixels(list(other.path), SIZE))
        row = other[other.split == 'train'].iloc[0]
        assert dls.train_ds[0][0].permute(1, 2, 0).tolist() == load_crop(row.path, SIZE).tolist()
    paths = [*table.path[:3], 'nowhere.png', *table.path[4:]]
    dataloaders(table.drop(index=3), cache_pixels(paths, SIZE).readable())


@pytest.mark.parametrize('change', [
    lambda table: table.set_index(np.zeros(len(table), int)),
    lambda table: table.astype({'label': 'category', 'split': 'category'}),
    lambda table: table.astype('string'),
    lambda table: table.assign(path=[*map(os.fspath, table.path)], label=[np.str_(label) for label in table.label]),
])
def test_tables_as_pandas_makes_them(table, pixels, change):
    plain, other = (list(dataloaders(each, pixels, bs=4).train) for each in (table, change(table)))
    for (x0, y0), (x1, y1) in zip(plain, other): assert x0.tolist() == x1.tolist() and y0.tolist() == y1.tolist()


@pytest.mark.parametrize('change, said', [
    (lambda table: table.assign(label=table.label.map(CLASSES.index)), 'no words.*astype.str.'),
    (lambda table: table.drop(columns='split'), 'No column split.*split_table'),
    (lambda table: table.drop(columns='label'), 'No column label'),
    (lambda table: table.assign(split=table.split.replace('valid', 'validation')), 'validation; expected train'),
    (lambda table: str(table.path[0]), 'found str.*read_table'),
])
def test_what_is_no_table_of_parts(table, pixels, change, said):
    with pytest.raises(TableError, match=said): dataloaders(change(table), pixels)


@pytest.mark.parametrize('options, said', [
    (dict(bs=0), 'bs = 0'), (dict(bs='8'), "bs = '8'"), (dict(seed=-1), 'seed = -1'),
    (dict(degrade='motion', degrade_as='Bad'), 'degrade_as = .Bad.'), (dict(degrade='motion', degrade_share=2), 'degrade_share = 2'),
    (dict(classes=[0, 1, 2]), r'classes = \[0, 1, 2\]'), (dict(classes='Good'), 'among the classes Good'),
    (dict(pixels=[1, 2, 3]), 'found list.*cache_pixels'),
])
def test_options_of_loaders(table, pixels, options, said):
    with pytest.raises(TableError, match=said): dataloaders(**dict(table=table, pixels=pixels) | options)


def test_classes_of_any_kind(table, pixels):
    dls = dataloaders(table, pixels, np.array(CLASSES), degrade='motion')
    assert list(dataloaders(table, pixels, dls.vocab).vocab) == CLASSES


@pytest.mark.parametrize('paths, size, said', [('photos', 24, 'photos'), (['a.png'], 0, 'size = 0'), (['a.png'], '24', "size = '24'")])
def test_options_of_a_cache(paths, size, said):
    with pytest.raises(TableError, match=said): cache_pixels(paths, size)


def test_a_block_and_pixels_of_another_size(table, pixels):
    with pytest.raises(TableError, match='cropped to 24'): PhotoBlock(48, pixels=pixels, paths=table.path)
    with pytest.raises(TableError, match='size = 0'): PhotoBlock(0)


def test_loaders_are_pickled(table, pixels):
    "torch.save(dls, …) is a habit of fastai users."
    dls = dataloaders(table, pixels, augment='none', order='balanced')
    for loader, again in zip(dls.loaders, pickle.loads(pickle.dumps(dls)).loaders):
        for (x0, y0), (x1, y1) in zip(loader, again): assert x0.tolist() == x1.tolist() and y0.tolist() == y1.tolist()


@pytest.mark.parametrize('change, said', [
    (lambda table: list(table.path), 'labels'), (lambda table: table.drop(columns='label'), 'column label'),
    (lambda table: table.assign(label='Bad'), 'Bad.*Good, Usable, Reject'),
    (lambda table: table.assign(label=None), 'None.*Good, Usable, Reject'),
    (lambda table: table.rename(columns={'path': 'file'}), 'column path'),
])
def test_photographs_to_test_without_labels(table, pixels, change, said):
    dls = dataloaders(table, pixels, CLASSES)
    with pytest.raises(TableError, match=said): dls.test_dl(change(table[:3]), with_labels=True).one_batch()


def test_two_that_mix_the_same_batches(table, pixels):
    for ours in (MixUpCB, CutMixCB):
        for theirs in (MixUp, CutMix):
            learn = learner(table, pixels, cbs=[ours()])
            with pytest.raises(TrainingError, match='leave out'), learn.no_bar(): learn.fit(1, cbs=[theirs()])


# pictures in memory

def picture(**change): # a ramp of grey
    return np.linspace(0, 1, 64 * 48).reshape(48, 64)


@pytest.mark.parametrize('kind', ['F', 'I;16', 'I'])
def test_deep_pictures_in_memory_as_from_their_file(kind, tmp_path):
    numbers = {'F': np.float32(picture()), 'I;16': np.uint16(picture() * 65535), 'I': np.int32(picture() * 65535)}[kind]
    image = Image.fromarray(numbers)
    expected = np.uint8(np.round(picture() * 255))
    if kind == 'I': # nothing says what white is
        with pytest.raises(PhotoError, match='int32 values from 0 to 65535'): open_photo(image)
    else: assert abs(open_photo(image)[..., 0].astype(int) - expected).max() <= 1
    Image.fromarray(numbers.astype(np.uint16) if kind == 'I' else numbers).save(tmp_path/'deep.tif')
    with Image.open(tmp_path/'deep.tif') as opened: assert open_photo(opened).tolist() == open_photo(tmp_path/'deep.tif').tolist()


RGB = np.random.default_rng(0).integers(0, 255, (30, 30, 3), np.uint8)


@pytest.mark.parametrize('given, said', [
    (np.dstack([RGB, RGB[..., :1]]), r'\[\.\.\., :3\]'), (RGB.transpose(2, 0, 1), r'transpose\(1, 2, 0\)'),
    (RGB[:0], 'no pixels'), (None, 'NoneType'), (b'\xff\xd8', 'bytes'), ([RGB], 'list'), (7, 'int'),
])
def test_what_is_no_photograph(given, said):
    with pytest.raises(PhotoError, match=said): open_photo(given)


def test_predict_names_what_is_no_photograph(table, pixels):
    learn = learner(table, pixels)
    with learn.no_bar():
        for given in (None, 7, [table.path[0]], b'', {'path': table.path[0]}, torch.rand(3, 30, 30)):
            with pytest.raises(PhotoError, match='expected'): learn.predict(given)
        expected = learn.predict(RGB)[2]
        for tensor in (torch.from_numpy(RGB).permute(2, 0, 1), torch.from_numpy(RGB)):
            assert torch.allclose(learn.predict(tensor)[2], expected, atol=1e-5)


def test_a_block_with_fastais_own_parts(table):
    block = DataBlock((PhotoBlock(SIZE), CategoryBlock), get_x=ColReader('path'), get_y=ColReader('label'), splitter=RandomSplitter(seed=0))
    dls = block.dataloaders(table.astype({'label': 'category'}), bs=4, num_workers=0)
    assert dls.one_batch()[0].shape == (4, 3, SIZE, SIZE)
