"""The audit, measured: what it raises on clean sets, which planted faults it finds, and what it costs.

    python bench/audit.py alarms plants   # half an hour; of DRIMDB and EyeQ's sample, too, where FUNDUS_DATA says where they are
    python bench/audit.py searches        # minutes: the searches alone, of photographs that are all different
    python bench/audit.py 1000            # so many small photographs (copies, resized, moved and saved again): seconds of each step, and memory
    python bench/audit.py 10000           # in a process of its own, since memory is the greatest that the process had

alarms: 40 clean drawn sets, split by patients; how many have a serious finding. plants: five planted shortcuts and three planted twins in 10 drawn sets each; how often each is found.
Each part adds to bench/results/audit.json, shown by nbs/09_audit/11_audit.ipynb."""
from pathlib import Path
from tempfile import TemporaryDirectory
import json
import os
import resource
import sys
import time

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from fundus_nbdev.photos.photo import open_photo
from fundus_nbdev.data.vessels import partners
from fundus_nbdev.data.split import split_table
from fundus_nbdev.synth.retina import draw_retina
from fundus_nbdev.synth.sets import make_set
from fundus_nbdev.data.table import read_table
from fundus_nbdev.audit.audit import audit, audit_data, worst_pairs
from fundus_nbdev.data.copies import SIZES, likely_pairs
from fundus_nbdev.models.bundle import versions

RESULTS = Path(__file__).parent/'results'/'audit.json'


def keep(**parts):
    "Add parts to the results."
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(before | parts | dict(versions=versions(), cores=os.cpu_count()), indent=2) + '\n')
    print(json.dumps(parts, indent=2))


def draw_set(folder, seed, n_patients=40, size=150):
    "A drawn set without the one real photograph, which is there four times; split by patients."
    table = read_table(make_set(folder, n_patients, size, seed=seed))
    return split_table(table[table.camera != 'cc0'].reset_index(drop=True))


def alarms(n=40):
    "Clean drawn sets: serious findings, by subject."
    found = {}
    for seed in range(n):
        with TemporaryDirectory() as folder: done = audit(draw_set(folder, 3000 + seed), n_boot=1000)
        if len(done.serious): found[3000 + seed] = done.serious.finding.tolist()
        print(f'{seed + 1}/{n}: {len(found)} with an alarm', flush=True)
    keep(alarms=dict(sets=n, with_an_alarm=len(found), findings=found))


# plants

def stamp(rgb):
    rgb, (height, width) = rgb.copy(), rgb.shape[:2]
    cv2.putText(rgb, '2014-05-12', (round(.02 * width), round(.97 * height)), cv2.FONT_HERSHEY_SIMPLEX, width / 700, (255,) * 3, max(1, width // 300))
    return rgb


def smaller(rgb, share): return cv2.resize(rgb, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)


PLANTS = { # name → change of the worst class, how it is saved, properties of which one must be found
    'JPEG quality 80 instead of 90': (lambda rgb: rgb, dict(quality=80), {'jpeg_quality'}), 'three quarters of the size': (lambda rgb: smaller(rgb, .75), {}, {'width', 'height'}),
    'writing on the border': (stamp, {}, {'burnt_in'}), 'wider border': (lambda rgb: cv2.copyMakeBorder(rgb, 0, 0, rgb.shape[1] // 8, rgb.shape[1] // 8, cv2.BORDER_CONSTANT), {}, {'aspect', 'width', 'field_width', 'field_share'}),
    'another camera (nine in ten)': (lambda rgb: rgb, dict(camera=True), {'camera'})}


def spoil(table, folder, change, quality=90, camera=False, longest=800):
    "The same photographs, those of the last class changed."
    rng, last, folder = np.random.default_rng(0), 'Reject' if 'Reject' in set(table.label) else 'Bad', Path(folder)
    for number, row in enumerate(table.itertuples()):
        rgb, worst, exif = open_photo(row.path), row.label == last, Image.Exif()
        rgb = smaller(rgb, longest / max(rgb.shape)) if max(rgb.shape) > longest else rgb
        if camera: exif[271], exif[272] = 'Maker', 'Two' if worst != (rng.random() < .1) else 'One'
        Image.fromarray(change(rgb) if worst else rgb).save(folder/f'{number}.jpg', quality=quality if worst else 90, exif=exif)
    return table.assign(path=[str(folder/f'{number}.jpg') for number in range(len(table))])


def twin_faults(table, folder):
    "Three twins in the test part: a patient again, a copy saved again, and one with another label; and whom they must be found with."
    folder, own = Path(folder), table[(table.split == 'train') & (table.kind == 'none') & (table.camera != 'cc0')]
    eye, copy, other = (own.iloc[k] for k in (0, 1, 2))
    Image.fromarray(draw_retina(70_000, int(eye.diameter), eye.eye, eye.camera, patient=int(eye.person)).rgb).save(folder/'eye.jpg', quality=92)
    for name, row in (('copy', copy), ('other', other)): Image.fromarray(smaller(open_photo(row.path), .8)).save(folder/f'{name}.jpg', quality=80)
    new = pd.DataFrame(dict(path=[str(folder/f'{name}.jpg') for name in ('eye', 'copy', 'other')], label=['Good', 'Good', 'Reject'], patient=['x', 'y', 'z'], split='test'))
    return pd.concat([table, new], ignore_index=True)


def plants(n=10):
    "How often each planted fault is found."
    found = dict.fromkeys([*PLANTS, 'an eye under another name', 'a copy saved anew', 'a copy with another label'], 0)
    for seed in range(n):
        with TemporaryDirectory() as folder:
            table = draw_set(f'{folder}/set', 2000 + seed, size=200)
            for name, (change, given, properties) in PLANTS.items():
                with TemporaryDirectory() as place: done = audit(spoil(table, place, change, **given), n_boot=1000)
                found[name] += bool(properties & set(done.shortcuts.property[done.shortcuts.verdict == 'shortcut']))
            done = audit(twin_faults(table, folder), n_boot=200)
            said = {subject: ' '.join(part.finding) for subject, part in done.serious.groupby('subject')}
            for name, fault, subjects in (('eye', 'an eye under another name', ('eyes', 'copies')), ('copy', 'a copy saved anew', ('copies',)), ('other', 'a copy with another label', ('labels',))):
                found[fault] += any(f'{name}.jpg' in said.get(subject, '') for subject in subjects)
        print(f'{seed + 1}/{n}', found, flush=True)
    keep(plants=dict(sets=n, found=found, real=real_plants() if 'FUNDUS_DATA' in os.environ else {}))


def real_plants():
    "The planted shortcuts in DRIMDB and EyeQ's sample, and the sets as they are."
    found = {}
    for source, classes in {'drimdb': ['Good', 'Bad'], 'eyeq_sample': None}.items():
        table = read_table(Path(os.environ['FUNDUS_DATA'])/source, classes)
        as_it_is = audit(table)
        found[source] = {'as it is': {row.property: [row.verdict, round(row.auc, 4)] for row in worst_pairs(as_it_is.shortcuts).itertuples() if row.verdict != 'no'}, 'pairs': as_it_is.pairs.kind.value_counts().to_dict()}
        for name, (change, given, properties) in PLANTS.items():
            with TemporaryDirectory() as place: done = audit(spoil(table, place, change, **given), n_boot=1000)
            found[source][name] = bool(properties & set(done.shortcuts.property[done.shortcuts.verdict == 'shortcut']))
        print(source, found[source], flush=True)
    return found


# many photographs

def make_many(folder, n, originals=250):
    "Copies of drawn photographs, each moved, resized and saved again; a tenth stay as they are."
    rng, folder = np.random.default_rng(0), Path(folder)
    photos = [draw_retina(k, 200).rgb for k in range(originals)]
    for i in range(n):
        rgb, share = photos[i % originals], rng.uniform(.7, 1)
        if i % 10: rgb = np.roll(smaller(rgb, share), rng.integers(-3, 4, 2), (0, 1))
        Image.fromarray(rgb).save(folder/f'{i:05d}.jpg', quality=int(rng.integers(70, 96)) if i % 10 else 90)
    return pd.DataFrame(dict(path=[str(folder/f'{i:05d}.jpg') for i in range(n)], label=np.where(rng.random(n) < .6, 'Good', 'Bad'), patient=[f'p{i % (n // 2)}' for i in range(n)]))


def many(n):
    "One size, in a process of its own: seconds, and the memory that it took beyond the imports."
    with TemporaryDirectory() as folder:
        table, before = make_many(folder, n), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        done = audit_data(table, f'{folder}/audit', network=False, n_boot=1000)
        keep(**{f'many_{n}': dict(photographs=n, seconds=round(time.perf_counter() - start, 1), steps={name: round(seconds, 1) for name, seconds in done.seconds.items()}, pairs=done.pairs.kind.value_counts().to_dict(),
                                  peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3), peak_before_mb=round(before / 1e3), html_kb=round((Path(folder)/'audit'/'audit.html').stat().st_size / 1e3))})


def searches(numbers=(2500, 5000, 10000)):
    "The two searches alone, of photographs that are all different: seconds. (The copies above leave little to search for eyes.)"
    rng, found = np.random.default_rng(0), {}
    for n in numbers:
        looks, coarse = rng.normal(size=(n, len(SIZES), 256)).astype(np.float16), rng.normal(size=(n, 24, 24)).astype(np.float32)
        start = time.perf_counter()
        likely_pairs(looks)
        middle = time.perf_counter()
        partners(coarse)
        found[n] = dict(copies=round(middle - start, 1), eyes=round(time.perf_counter() - middle, 1))
    keep(searches=found)


if __name__ == '__main__':
    for part in sys.argv[1:]: many(int(part)) if part.isdigit() else dict(alarms=alarms, plants=plants, searches=searches)[part]()
