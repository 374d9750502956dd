"""Can the maps be believed? Every method on three networks trained on the embedded set, with causes that are known.

    python bench/trust.py

1. Trains the recipe `synthetic` with seeds 0, 1 and 2 (runs/trust-s<seed>; about a minute each), and again with average pooling only (runs/trust-avg-s<seed>),
   since the recipe's head of average and maximum pooling turned out to matter to Grad-CAM.
2. Draws 320 fresh photographs, each of another person, and spoils a disc of each: eight kinds of degradation in turn, at a place drawn by chance.
   The size of the disc is chosen beforehand on 32 other photographs, without any map: the smallest with which a third of the answers turn.
3. For each network, takes the photographs that it called Good and, once spoilt, calls something else, and asks every method about that answer:
   pointing game and energy (all of them; the first 60 for methods that need hundreds of forward passes), pointing with random heads (the other methods),
   insertion and deletion (the first 20), randomisation check (the first 6, or 3).

Each figure of each method is kept in trust.json of the network's run folder as soon as it is there, so an ended run goes on where it was.
All of it goes to bench/results/trust.json (and a few maps to trust.jpg), shown by nbs/experiments/04_trust.ipynb. Methods that need hundreds of forward passes come last, and only for
the recipe's own networks. About half an hour on two cores."""
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
import json
import sys
import time

import numpy as np
import pandas as pd
import torch

from fundus_nbdev.core.files import write_whole
from fundus_nbdev.photos.field_of_view import crop_fov, find_fov
from fundus_nbdev.photos.photo import show_photos
from fundus_nbdev.synth.retina import draw_retina
from fundus_nbdev.explain.gradients import SALIENCY_METHODS
from fundus_nbdev.explain.cam import CAM_METHODS
from fundus_nbdev.explain.gradcam import grad_cam
from fundus_nbdev.core.errors import ExplainError
from fundus_nbdev.explain.overlay import is_flat, upsample
from fundus_nbdev.explain.blind_explainers import BASELINES, merge_channels
from fundus_nbdev.explain.known_causes import LOCAL_KINDS, degrade_region
from fundus_nbdev.explain.pointing import energy_inside, pointing_game
from fundus_nbdev.explain.insertion_deletion import insertion_deletion
from fundus_nbdev.explain.randomisation import passes_randomisation, randomisation_check, randomise
from fundus_nbdev.models.bundle import load_bundle, versions
from fundus_nbdev.training.fit import fit
from fundus_nbdev.training.recipe import find_recipe, override

POOLS, SEEDS, SIZE, SEVERITY, RADII = ('avg+max', 'avg'), (0, 1, 2), 160, 1., (.3, .4, .5, .6)
GALLERY = ('haze', 'over_exposed', 'dark', 'noise') # kinds that are shown
SLOW = ('scorecam', 'sidu', 'smoothgrad', 'integrated_gradients', 'occlusion') # hundreds of forward passes for a photograph
FINER = 7 # places a side that the finer layer's maps exceed: 10×10 instead of 5×5 at 160 px


def explainers():
    "Name → function: class activation maps at two layers, saliencies, baselines."
    cams = {name + end: partial(grad_cam, method=name, layer=layer) for name in CAM_METHODS for end, layer in (('', None), (f' >{FINER}', FINER)) if not (end and name in SLOW)}
    return cams | SALIENCY_METHODS | BASELINES


def folder_of(pool, seed): return Path('runs')/f'trust-{"avg-" if pool == "avg" else ""}s{seed}'


def network(pool, seed):
    "A trained network, from its run folder or trained now."
    folder = folder_of(pool, seed)
    if not (folder/'bundle'/'bundle.json').exists(): fit(override(find_recipe('synthetic'), {'seed': seed, 'model.pool': pool}), folder, overwrite=True)
    return load_bundle(folder/'bundle')


def test_accuracy(folder):
    predictions = pd.read_csv(folder/'predictions.csv')
    test = predictions[predictions.split == 'test']
    return {'photographs': len(test), 'accuracy': round(float((test.label == test.pred).mean()), 4)}


def photographs(n, first, radius, kinds=None):
    "Whole and spoilt crops, masks and fields of n drawn photographs; one kind each, or all of them."
    whole, spoilt, masks, fields = [], [], [], []
    for k in range(n):
        drawn = draw_retina(first + k, 400)
        fov = find_fov(drawn.rgb)
        crop = lambda picture: crop_fov(picture, SIZE, fov)
        as_picture = lambda mask: np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2)
        for kind in kinds or [LOCAL_KINDS[k % len(LOCAL_KINDS)]]:
            degraded = degrade_region(drawn.rgb, kind, SEVERITY, first + k, radius, drawn.fov)
            whole.append(crop(drawn.rgb)); spoilt.append(crop(degraded.rgb))
            masks.append(crop(as_picture(degraded.mask))[..., 0] > 127); fields.append(crop(as_picture(drawn.fov))[..., 0] > 127)
    return tuple(map(np.stack, (whole, spoilt, masks, fields)))


def pilot(bundles):
    "Share of answers that turn, by radius, kind and network; no map is looked at."
    found = {}
    for radius in RADII:
        whole, spoilt, _, _ = photographs(32, 300_000, radius, LOCAL_KINDS)
        kind = np.arange(len(whole)) % len(LOCAL_KINDS)
        answers = [(b.probabilities(whole).argmax(1), b.probabilities(spoilt).argmax(1)) for b in bundles]
        found[radius] = {name: [round(float((after[(before == 0) & (kind == k)] != 0).mean()), 3) for before, after in answers] for k, name in enumerate(LOCAL_KINDS)}
        if np.mean(list(found[radius].values())) >= 1 / 3: break
    return radius, found


class Record:
    "What is known so far about one network; written after every figure."
    def __init__(self, file, about):
        self.file, self.values = file, {'about': about, 'methods': {}}
        if file.exists() and (kept := json.loads(file.read_text()))['about'] == about: self.values = kept
    def measure(self, method, what, work):
        known = self.values['methods'].setdefault(method, {})
        if what in known: return
        start = time.perf_counter()
        known[what] = work() | {'seconds': round(time.perf_counter() - start, 2)}
        write_whole(self.file, json.dumps(self.values))


def pointing(explain, model, x, classes, masks, fields, bs=20):
    "Hits, flat maps, energy: of each photograph, and means."
    maps = torch.cat([explain(model, x[i:i + bs], classes=classes[i:i + bs]) for i in range(0, len(x), bs)])
    game = pointing_game(maps, masks, fields=fields)
    return {'hits': game.hit.astype(int).tolist(), 'flat': int(game.flat.sum()), 'chance': round(float(game.chance.mean()), 4), 'places': maps.shape[-1],
            'cause': round(energy_inside(maps, masks).mean().item(), 4), 'field': round(energy_inside(maps, fields).mean().item(), 4)}


def random_heads(explain, model, *rest, seeds=(0, 1)):
    "The same game where the layer that decides is random."
    return {'hits': np.mean([pointing(explain, next(randomise(model, seed))[1], *rest)['hits'] for seed in seeds], 0).round(3).tolist()}


def areas(explain, model, x, classes, whole):
    "Insertion and deletion, with the whole photograph and with a blurred one in the place of what goes."
    maps, found = explain(model, x, classes=classes), {}
    for name, baseline in (('whole', whole), ('blur', 'blur')):
        curves = insertion_deletion(model, x, maps, classes, 10, baseline)
        found |= {f'deletion_{name}': curves.deletion_area.mean().item(), f'insertion_{name}': curves.insertion_area.mean().item()}
    return {name: round(value, 4) for name, value in found.items()}


def randomisation(explain, model, x, classes):
    "The check, layer by layer, and its verdict."
    check = randomisation_check(explain, model, x, classes, seeds=(0,))
    return {'passes': passes_randomisation(check)} | {name: column.round(4).tolist() if name != 'layer' else column.tolist() for name, column in check.items()}


def measure(pool, seed, bundle, photos, about, slow, say):
    "The figures of one network; of the slow methods, or of the others."
    whole, spoilt, masks, fields = photos
    before, after = bundle.probabilities(whole).argmax(1), bundle.probabilities(spoilt).argmax(1)
    turned = np.flatnonzero((before == 0) & (after != 0))
    kind = np.arange(len(whole)) % len(LOCAL_KINDS)
    shares = {name: f'{int(((before == 0) & (after != 0) & (kind == k)).sum())} of {int(((before == 0) & (kind == k)).sum())}' for k, name in enumerate(LOCAL_KINDS)}
    about = about | {'seed': seed, 'weights': bundle.info.sha256[:12], 'test': test_accuracy(folder_of(pool, seed)), 'good': int((before == 0).sum()), 'turned': shares, 'photos': turned.tolist(),
                     'became': {bundle.info.classes[c]: int((after[turned] == c).sum()) for c in (1, 2)}}
    record = Record(folder_of(pool, seed)/'trust.json', about)
    layout = {'memory_format': torch.channels_last}
    model, x, clean = bundle.model.to(**layout), bundle.normalise(spoilt[turned]).to(**layout), bundle.normalise(whole[turned]).to(**layout)
    classes = torch.from_numpy(after[turned])[:, None]
    methods = {name: explain for name, explain in explainers().items() if (name in SLOW) == slow}
    for i, (name, explain) in enumerate(methods.items()):
        say(f'{pool} {seed}, {len(turned)} photographs, method {i + 1} of {len(methods)}: {name}')
        try:
            some, few = (60, 3) if name in SLOW else (len(x), 6)
            record.measure(name, 'pointing', lambda: pointing(explain, model, x[:some], classes[:some], masks[turned][:some], fields[turned][:some]))
            record.measure(name, 'areas', lambda: areas(explain, model, x[:20], classes[:20], clean[:20]))
            record.measure(name, 'randomisation', lambda: randomisation(explain, model, x[:few], classes[:few]))
            if name not in SLOW: record.measure(name, 'heads', lambda: random_heads(explain, model, x, classes, masks[turned], fields[turned]))
        except ExplainError as error: say(f'  left out: {error}')
    return record.values


def gallery(bundle, photos, file):
    "The first photograph of each kind that turned the first network's answer, and what some methods show; each map stretched to its own maximum."
    whole, spoilt, masks, _ = photos
    before, after = bundle.probabilities(whole).argmax(1), bundle.probabilities(spoilt).argmax(1)
    turned, methods = np.flatnonzero((before == 0) & (after != 0)), explainers()
    rows, shown = [next(k for k in turned if LOCAL_KINDS[k % len(LOCAL_KINDS)] == kind) for kind in GALLERY], ['gradcam', 'hirescam', 'hirescam >7', 'layercam >7', 'guided_backprop', 'edges']
    x, classes = bundle.normalise(spoilt[rows]), torch.from_numpy(after[rows])[:, None]
    maps = [merge_channels(methods[name](bundle.model, x, classes=classes))[:, 0] for name in shown]
    def grey(map): return np.zeros((SIZE, SIZE)) if is_flat(map) else upsample((map / map.max()).clamp(min=0), (SIZE, SIZE)) ** .5
    pictures = [picture for i, k in enumerate(rows) for picture in (spoilt[k], masks[k], *(grey(m[i]) for m in maps))]
    show_photos(pictures, ['photo', 'cause', *shown] + [''] * (len(pictures) - len(shown) - 2), columns=2 + len(shown), width=.82, dpi=75).savefig(file, pil_kwargs={'quality': 75})


def main():
    arguments = ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('--photos', type=int, default=320)
    arguments.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'trust.json')
    a = arguments.parse_args()
    start = time.perf_counter()
    def say(text): print(f'{time.perf_counter() - start:6.0f} s  {text}', flush=True)
    say('networks'); bundles = {(pool, seed): network(pool, seed) for pool in POOLS for seed in SEEDS}
    say('how large a disc'); radius, tried = pilot([bundles[POOLS[0], seed] for seed in SEEDS])
    say(f'radius {radius}; drawing {a.photos} photographs'); photos = photographs(a.photos, 200_000, radius)
    about = {'photographs': a.photos, 'radius': radius, 'severity': SEVERITY}
    gallery(bundles[POOLS[0], SEEDS[0]], photos, a.out.with_suffix('.jpg'))
    for slow in (False, True):
        measured = {(pool, seed): measure(pool, seed, bundle, photos, about, slow and pool == POOLS[0], say) for (pool, seed), bundle in bundles.items()}
        networks = [{'pool': pool} | values for (pool, _), values in measured.items()]
        write_whole(a.out, json.dumps({'versions': versions(), 'pilot': {str(r): shares for r, shares in tried.items()}, 'finer': FINER, 'networks': networks}) + '\n')
        say(f'{a.out}')


if __name__ == '__main__': sys.exit(main())
