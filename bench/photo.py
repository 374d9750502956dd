"""Photographs a second, decoded and cropped, and measured: python bench/photo.py FOLDER (a folder or CSV that read_table reads).

Wall time over all photographs, all cores, three rounds of each in turn; written to bench/results/photo.json."""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
import json
import os
import sys
import time

from fundus_nbdev.photos.field_of_view import load_crop
from fundus_nbdev.data.table import read_table
from fundus_nbdev.audit.properties import measure_factors
from fundus_nbdev.models.bundle import versions


def crop_all(paths):
    "Decode and crop at 512 px, one thread a core."
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda path: load_crop(path, 512), paths): pass


def rate(work, paths):
    "Photographs a second."
    start = time.perf_counter()
    work(paths)
    return round(len(paths) / (time.perf_counter() - start), 1)


def main(source):
    paths = list(read_table(source).path)
    rounds = [(rate(crop_all, paths), rate(measure_factors, paths)) for _ in range(3)]
    crops, factors = zip(*rounds)
    result = dict(photographs=len(paths), cores=os.cpu_count(), crops_per_second=crops, factors_per_second=factors,
                  median_crops=median(crops), median_factors=median(factors), versions=versions())
    file = Path(__file__).parent/'results'/'photo.json'
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + '\n')
    print(json.dumps(result, indent=2))


if __name__ == '__main__': main(sys.argv[1])
