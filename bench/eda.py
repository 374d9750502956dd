"""What makes a photograph Good or Bad, in DRIMDB and in EyeQ's sample? And what does looking cost?

    python bench/eda.py sets FOLDER
    python bench/eda.py scale

`sets` looks at FOLDER/drimdb and FOLDER/eyeq_sample as `fundus eda` does (of DRIMDB, near-identical photographs count as one patient, since patients are not known)
and writes numbers, never photographs: bench/results/eda_numbers.csv (the factors of each photograph, without its name), eda_separation.csv, eda_trees.csv,
eda_cameras.csv, eda_levels.csv (colours, class by class) and eda.json (counts, scores, sentences).
`scale` looks at 1,000, 3,000 and 10,000 photographs: twenty drawn ones in five sizes from 500 to 1,000 px, and links to them; each number in a process of its own.
Writes bench/results/eda_scale.csv: processor seconds, seconds by the clock (in all, for measuring, for the pass over pixels), and peak memory in MB. Shown by nbs/experiments/07_eda.ipynb."""
from pathlib import Path
from tempfile import TemporaryDirectory
import json
import os
import resource
import subprocess
import sys
import time

import pandas as pd
from PIL import Image

from fundus_nbdev.core.files import write_whole
from fundus_nbdev.data.duplicates import group_near_duplicates
from fundus_nbdev.synth.degradations import degrade
from fundus_nbdev.synth.retina import draw_retina
from fundus_nbdev.data.table import read_table
from fundus_nbdev.audit.cameras import count_cameras, describe_cameras
from fundus_nbdev.audit.decision_tree import describe_rules
from fundus_nbdev.audit.eda import describe_answer, describe_counts, look_at_data, summarise_eda

RESULTS, SIZES = Path(__file__).parent/'results', (1_000, 3_000, 10_000)


def look(folder): # Eda
    "One set, as `fundus eda` sees it."
    if Path(folder).name != 'drimdb': return look_at_data(read_table(folder))
    return look_at_data(group_near_duplicates(read_table(folder, classes=['Good', 'Bad'])))


def words(eda): # dict
    "What is said about a set, and the scores of its tree."
    return dict(headline=summarise_eda(eda), counts=describe_counts(eda), cameras=describe_cameras(eda.measures, eda.cameras), answers=describe_answer(eda), rules=describe_rules(eda.tree.nodes),
                classes=eda.counts.reset_index().to_dict('records'), scores=eda.tree.scores.round(4).to_dict('index'), chosen=eda.tree.chosen, most_frequent=eda.tree.most_frequent)


def levels(eda): # DataFrame: label, channel, and 64 levels, per cent of the pixels
    "The colours of each class."
    rows = [[label, channel, *(each.levels[k] / 1e4 / each.n).round(4)] for label, each in eda.sums.items() for k, channel in enumerate(['red', 'green', 'blue', 'brightness'])]
    return pd.DataFrame(rows, columns=['label', 'channel', *map(str, range(64))])


def look_at_sets(data):
    names = {'drimdb': 'DRIMDB', 'eyeq_sample': 'EyeQ'}
    found = {name: look(Path(data)/folder) for folder, name in names.items()}
    def together(frame_of): return pd.concat([frame_of(eda).assign(set=name) for name, eda in found.items()], ignore_index=True).set_index('set').to_csv()
    tables = {'numbers': lambda eda: eda.values.round(5).assign(label=eda.table.label.to_numpy(), patient=pd.factorize(eda.table.patient)[0]), 'separation': lambda eda: eda.separation.round(5),
              'trees': lambda eda: eda.tree.nodes, 'cameras': lambda eda: count_cameras(eda.cameras, eda.table, 10**6).rename_axis('camera').reset_index(), 'levels': levels}
    for name, frame_of in tables.items(): write_whole(RESULTS/f'eda_{name}.csv', together(frame_of))
    write_whole(RESULTS/'eda.json', json.dumps({name: words(eda) for name, eda in found.items()}, indent=1, ensure_ascii=False, default=float))


def draw_many(folder, n): # folder of a set
    "A set of n photographs: drawn, resized, linked."
    for k in range(20):
        photo = draw_retina(k, 1000)
        rgb = photo.rgb if k % 2 else degrade(photo.rgb, 'defocus', .5, fov=photo.fov).rgb
        for size in (500, 620, 750, 880, 1000):
            file = folder/('Good' if k % 2 else 'Bad')/f'{k}_{size}_0.jpg'
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rgb).resize((size * rgb.shape[1] // rgb.shape[0], size)).save(file, quality=90)
    for i, file in enumerate(sorted(folder.rglob('*.jpg')) * (n // 100)):
        if i >= 100: os.link(file, file.with_name(f'{file.stem[:-1]}{i}.jpg'))
    return folder


def measure_scale():
    rows = []
    with TemporaryDirectory() as scratch:
        for n in SIZES:
            folder = draw_many(Path(scratch)/str(n), n)
            ran = subprocess.run([sys.executable, __file__, 'one', folder, Path(scratch)/f'out{n}'], capture_output=True, text=True, check=True)
            rows.append(dict(photographs=n, **json.loads(ran.stdout.splitlines()[-1])))
            print(rows[-1], flush=True)
    write_whole(RESULTS/'eda_scale.csv', pd.DataFrame(rows).to_csv(index=False))


def look_once(folder, out):
    start, ends = time.perf_counter(), {}
    def progress(done, n):
        if done in (n // 2, n): ends[done] = time.perf_counter() - start
    look_at_data(folder, out, progress=progress)
    measuring, pixels = ends[min(ends)], ends[max(ends)]
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps(dict(cpu_seconds=round(used.ru_utime + used.ru_stime), seconds=round(time.perf_counter() - start), measuring=round(measuring), pixels=round(pixels - measuring), megabytes=round(used.ru_maxrss / 1024), cores=os.cpu_count())))


if __name__ == '__main__':
    match sys.argv[1:]:
        case ['sets', data]: look_at_sets(data)
        case ['scale']: measure_scale()
        case ['one', folder, out]: look_once(folder, out)
        case _: sys.exit(__doc__)
