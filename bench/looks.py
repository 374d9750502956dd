"""Where do the networks of finished runs look?

    python bench/looks.py eyeq runs/eyeq-s100 runs/eyeq-s101 runs/eyeq-s102
    python bench/looks.py drimdb runs/drimdb-s100 … runs/drimdb-s104

Explains every tested photograph of each run (the answered class, HiResCAM at the last layer with maps larger than
7×7, as the galleries do) by the network that answered it, compares the maps with the quality of the places, and puts
the runs together: a patient's photographs are drawn together, those of all runs. Writes bench/results/<name>_looks.csv,
shown by nbs/experiments/."""
from pathlib import Path
import sys
import time

import numpy as np
import pandas as pd

from fundus_nbdev.photos.field_of_view import load_crop
from fundus_nbdev.evaluation.reading import read_predictions
from fundus_nbdev.evaluation.predictions import scored_part
from fundus_nbdev.errors.gallery import explain_rows
from fundus_nbdev.errors.saliency_location import compare_locations, describe_location, locate_maps
from fundus_nbdev.models.bundle import load_bundle


def locate(run): # DataFrame
    "Measure the maps of one run: a row for each tested photograph."
    folds = sorted(run.glob('fold*/bundle'))
    bundles = {fold: load_bundle(folder) for fold, folder in enumerate(folds)} if folds else load_bundle(run/'bundle')
    size = (bundles[0] if folds else bundles).info.size
    rows = scored_part(read_predictions(run/'predictions.csv'))
    maps = explain_rows(rows, bundles, lambda path: load_crop(path, size), ('pred',))[1]
    return locate_maps(rows, np.stack([map[0] for map in maps]))


def main():
    name, runs, tables = sys.argv[1], [Path(run) for run in sys.argv[2:]], []
    for run in runs:
        start = time.perf_counter()
        tables.append(locate(run))
        print(f'{run}: {len(tables[-1])} photographs, {time.perf_counter() - start:.0f} s', flush=True)
    found = compare_locations(pd.concat(tables, ignore_index=True))
    found.round(4).to_csv(Path(__file__).parent/'results'/f'{name}_looks.csv', index=False)
    print('\n'.join(describe_location(found)))


if __name__ == '__main__': sys.exit(main())
