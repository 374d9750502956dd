"""How early a review finds flipped labels.

    python bench/review.py --data FOLDER [--draws 40]

In each draw 5 % of the labels are flipped at random, the opinion is formed on the flipped labels (out of fold, patients kept together),
and the share of the flipped labels among the first 10 % in order of doubt is noted. Features are computed once; they don't depend on labels.
Draws of seeds 0 to --draws less one are reported; classifier, score and features were chosen on draws of seeds from 1000.
Saved to bench/results/review.json, shown by nbs/10_errors/01_label_issues.ipynb."""
from argparse import ArgumentParser
from importlib.metadata import version
from pathlib import Path
import json
import sys

import numpy as np

from fundus_nbdev.data.photo_table import classes_of
from fundus_nbdev.data.table import read_table
from fundus_nbdev.audit.embeddings import embed_photos, load_embedder
from fundus_nbdev.audit.properties import measure_factors
from fundus_nbdev.errors.label_issues import order_by_doubt, second_opinion

SHARE, FIRST = .05, .1


def flip(labels, classes, kind, seed): # labels, places of the flipped
    rng, labels = np.random.default_rng(seed), list(labels)
    flipped = rng.choice(len(labels), round(SHARE * len(labels)), replace=False)
    for i in flipped:
        own = classes.index(labels[i])
        labels[i] = rng.choice([c for k, c in enumerate(classes) if k != own and (kind == 'any' or abs(k - own) == 1)])
    return labels, flipped


def share_found(table, features, classes, kind, seed):
    labels, flipped = flip(table.label, classes, kind, seed)
    order = order_by_doubt(second_opinion(table.assign(label=labels), features, classes, seed=seed))
    return len(set(order.path[:int(np.ceil(FIRST * len(order)))]) & set(table.path.iloc[flipped])) / len(flipped)


def main():
    arguments = ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('--data', required=True)
    arguments.add_argument('--draws', type=int, default=40)
    a = arguments.parse_args()
    table = read_table(a.data)
    classes, factors, embedding = classes_of(table), measure_factors(table.path), embed_photos(table.path, load_embedder())
    opinions = {'quality factors': factors, 'embedding': embedding, 'embedding and factors': embedding.join(factors)}
    rows = []
    for opinion, features in opinions.items():
        for kind in ('any', 'near'):
            found = [share_found(table, features, classes, kind, seed) for seed in range(a.draws)]
            rows.append(dict(opinion=opinion, flips=kind, mean=round(float(np.mean(found)), 3), sd=round(float(np.std(found, ddof=1)), 3), least=round(min(found), 3)))
            print(rows[-1])
    result = dict(draws=a.draws, photographs=len(table), flipped=round(SHARE * len(table)), reviewed=int(np.ceil(FIRST * len(table))), rows=rows,
                  versions={name: version(name) for name in ('torch', 'torchvision', 'scikit-learn', 'numpy')})
    file = Path(__file__).parent/'results'/'review.json'
    file.write_text(json.dumps(result, indent=1) + '\n')
    print(file)


if __name__ == '__main__': sys.exit(main())
