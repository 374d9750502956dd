"""Photographs a second while training: this library, plain fastai and a bare PyTorch loop, side by side.

    python bench/train.py FOLDER

FOLDER has `eyeq_sample` (photographs) and `cifar10` (cifar10_train.npz). Each measurement is a process of its own; they take turns, and the
repeats are interleaved. Photographs, network (ResNet-18), batch size, augmentation, optimizer and schedule are the same for all three:

* library: cached pixels, and whatever numeric format suits the processor, as `fundus run` trains.
* fastai: ImageDataLoaders from the files and a Learner, all with their default settings (float32, worker processes).
* pytorch: a loop of a few lines with the library's format, layout and cached pixels.

Written to bench/results/train.json, with the spread. The time of a training batch counts from the second epoch on; validation does not count.
The last part trains on 200, 2,000 and 20,000 photographs of 64 px, to see whether a photograph costs the same."""
from pathlib import Path
from statistics import median
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings

JOBS = {'eyeq': dict(size=448, bs=16, epochs=2, stem='imagenet', n=None, repeats=3), 'cifar': dict(size=32, bs=64, epochs=2, stem='cifar', n=1000, repeats=5)}


def photo_table(job, data, n): # photo table with `split`: all but 16 are trained on
    "The photographs of a job; those of CIFAR-10 are the files that `write_cifar` wrote."
    import numpy as np
    from fundus_nbdev.data.table import read_table
    table = read_table(data/'eyeq_sample' if job == 'eyeq' else data)
    table = table.sample(frac=1, random_state=0).reset_index(drop=True)[:n]
    return table.assign(split=np.where(np.arange(len(table)) < len(table) - 16, 'train', 'valid'))


def write_cifar(data, folder, n): # n/10 files for each class
    "CIFAR-10 photographs as PNG files in a folder for each class, as plain fastai reads them."
    import numpy as np
    from PIL import Image
    with np.load(data/'cifar10'/'cifar10_train.npz') as file: x, y, classes = file['x'][:n], file['y'][:n], file['classes']
    for i, (photo, label) in enumerate(zip(x, y)):
        place = folder/str(classes[label])
        place.mkdir(exist_ok=True, parents=True)
        Image.fromarray(photo).save(place/f'{i:05}.png')


def network(job, n_classes):
    import torch
    from fundus_nbdev.models.resnet import resnet
    torch.manual_seed(0)
    return resnet(18, stem=JOBS[job]['stem'], n_classes=n_classes)


class Clock:
    "When each training epoch began and ended, and when the first batch was there."
    def __init__(self, only_first=False): self.start, self.first, self.epochs, self.only_first = time.perf_counter(), None, [], only_first
    def batch(self): self.first = self.first or time.perf_counter() - self.start
    def begin(self): self.epochs.append([time.perf_counter()])
    def end(self): self.epochs[-1].append(time.perf_counter())
    def result(self, n):
        if self.only_first: return dict(first_batch_s=self.first)
        later = [end - begin for begin, end in self.epochs[1:]]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 # MB; worker processes come on top
        return dict(photographs_per_second=n * len(later) / sum(later), first_batch_s=self.first, peak_mb=peak)


def clock_callback(clock):
    from fastai.callback.core import Callback, CancelFitException
    class ClockCB(Callback):
        order, run_valid = -50, False # before anything else is done with a batch
        def before_train(self): clock.begin()
        def before_batch(self):
            clock.batch()
            if clock.only_first: raise CancelFitException()
        def after_train(self): clock.end()
    return ClockCB()


def by_library(job, table, clock):
    from fundus_nbdev.data.datablock import dataloaders
    from fundus_nbdev.data.pixels import cache_pixels
    from fundus_nbdev.data.photo_table import classes_of
    from fundus_nbdev.training.learner import make_learner
    from fundus_nbdev.training.losses import ClassificationLoss
    from fundus_nbdev.training.recipe import make_recipe
    set_up, classes = JOBS[job], classes_of(table)
    recipe = make_recipe({'training': {'epochs': set_up['epochs'], 'bs': set_up['bs']}})
    pixels = cache_pixels(list(table.path), set_up['size'], 'whole')
    dls = dataloaders(table, pixels, classes, set_up['bs'])
    learner = make_learner(recipe, dls, network(job, len(classes)), ClassificationLoss())
    with learner.no_bar(), learner.no_logging(): learner.fit(set_up["epochs"], cbs=clock_callback(clock))


def by_fastai(job, table, clock):
    from fastai.losses import CrossEntropyLossFlat
    from fastai.learner import Learner
    from fastai.callback.schedule import fit_one_cycle # adds it to Learner
    from fastai.data.transforms import Normalize
    from fastai.vision.augment import Resize, ResizeMethod
    from fastai.vision.core import imagenet_stats
    from fastai.vision.data import ImageDataLoaders
    from fundus_nbdev.data.augment import DihedralLight
    set_up = JOBS[job]
    dls = ImageDataLoaders.from_df(table.assign(valid=table.split == 'valid'), path='/', fn_col='path', label_col='label', valid_col='valid', bs=set_up['bs'],
                                   item_tfms=Resize(set_up['size'], ResizeMethod.Squish), batch_tfms=[DihedralLight(), Normalize.from_stats(*imagenet_stats)])
    learner = Learner(dls, network(job, table.label.nunique()), loss_func=CrossEntropyLossFlat(), cbs=[clock_callback(clock)])
    with learner.no_bar(), learner.no_logging(): learner.fit_one_cycle(set_up['epochs'], 3e-3)


def by_pytorch(job, table, clock):
    from fundus_nbdev.data.augment import relight, turn
    from fundus_nbdev.data.pixels import cache_pixels, channel_stats
    from fundus_nbdev.training.precision import choose_precision
    import numpy as np, pandas as pd, torch
    set_up, train = JOBS[job], np.flatnonzero(table.split == 'train')
    pixels = cache_pixels(list(table.path), set_up['size'], 'whole')
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in channel_stats(pixels, train))
    targets, format = torch.from_numpy(pd.Categorical(table.label).codes.astype(np.int64)), choose_precision('cpu')
    model = network(job, table.label.nunique())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=.05, fused=True)
    batches = -(-len(train) // set_up['bs'])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=batches * set_up['epochs'])
    for epoch in range(set_up['epochs']):
        clock.begin()
        for rows in np.array_split(np.random.permutation(train), batches):
            x = torch.from_numpy(pixels.array[rows]).permute(0, 3, 1, 2).float() / 255
            x = relight(turn(x, torch.randint(8, (len(x),))), torch.empty(len(x)).uniform_(.9, 1.1), torch.empty(len(x)).uniform_(.9, 1.1))
            x = ((x - mean) / std).contiguous(memory_format=torch.channels_last if format.channels_last else torch.contiguous_format)
            clock.batch()
            with torch.autocast('cpu', dtype=format.dtype, enabled=format.name != 'fp32'): logits = model(x)
            torch.nn.functional.cross_entropy(logits.float(), targets[rows]).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        clock.end()


CONTENDERS = {'library': by_library, 'fastai': by_fastai, 'pytorch': by_pytorch}


def measure(name, job, data, what=''): # prints one line of JSON
    "One measurement, in this process."
    table = photo_table(job, Path(data), JOBS[job]['n'])
    import fastai.vision.all, fundus_nbdev.training.learner # imports are not measured
    clock = Clock(what == 'first')
    CONTENDERS[name](job, table, clock)
    print(json.dumps(clock.result(int((table.split == 'train').sum()))))


def measure_size(n, folder): # prints one line of JSON
    "Seconds a photograph, of loading alone and of training, for a set of n photographs of 64 px; memory of the process without the mapped file."
    import numpy as np, pandas as pd
    from fundus_nbdev.data.datablock import dataloaders
    from fundus_nbdev.data.pixels import Pixels
    from fundus_nbdev.models.resnet import resnet
    from fundus_nbdev.training.learner import make_learner
    from fundus_nbdev.training.losses import ClassificationLoss
    from fundus_nbdev.training.recipe import make_recipe
    random = np.random.default_rng(0)
    array = np.lib.format.open_memmap(Path(folder)/f'{n}.npy', 'w+', np.uint8, (n + 64, 64, 64, 3))
    for i in range(0, len(array), 1000): array[i:i + 1000] = random.integers(0, 256, array[i:i + 1000].shape, np.uint8)
    del array
    pixels = Pixels(np.load(Path(folder)/f'{n}.npy', mmap_mode='r'), {}, np.arange(n + 64))
    table = pd.DataFrame({'path': [f'{i}' for i in range(n + 64)], 'label': [str(i % 3) for i in range(n + 64)], 'split': ['train'] * n + ['valid'] * 64})
    dls, clock = dataloaders(table, pixels, ['0', '1', '2'], 32), Clock()
    rounds = max(1, 4000 // n)
    start = time.perf_counter()
    for _ in range(rounds):
        for batch in dls.train: pass
    loading = (time.perf_counter() - start) / n / rounds
    recipe = make_recipe({'training': {'epochs': rounds + 1}})
    learner = make_learner(recipe, dls, resnet(10, n_classes=3, width=16), ClassificationLoss(label_smoothing=.1))
    with learner.no_bar(), learner.no_logging(): learner.fit(rounds + 1, cbs=clock_callback(clock))
    anonymous = next(int(line.split()[1]) for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('RssAnon')) / 1024
    print(json.dumps(dict(photographs=n, loading_ms=1000 * loading, training_ms=1000 / clock.result(n)['photographs_per_second'], memory_mb=anonymous)))


def call(*words, **environment): # dict
    "A measurement in a process of its own."
    done = subprocess.run([sys.executable, '-W', 'ignore', __file__, *map(str, words)], capture_output=True, text=True, env=os.environ | environment)
    if done.returncode: sys.exit(f'{" ".join(map(str, words))}\n{done.stderr}')
    print(*words, done.stdout.strip(), flush=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def spread(values): # dict
    "Least, median and greatest."
    return dict(low=round(min(values), 3), median=round(median(values), 3), high=round(max(values), 3))


def summary(runs): # dict
    "Spread of each figure for each contender, and the ratios of each repeat."
    figures = {name: {key: spread([run[key] for run in results]) for key in results[0]} for name, results in runs.items()}
    rate = {name: [run['photographs_per_second'] for run in results] for name, results in runs.items()}
    ratios = {f'library / {other}': spread([a / b for a, b in zip(rate['library'], rate[other])]) for other in ('fastai', 'pytorch')}
    return figures | {'ratios': ratios}


def main(data):
    from fundus_nbdev.models.bundle import versions
    from fundus_nbdev.training.precision import choose_precision
    result = dict(cores=os.cpu_count(), network='ResNet-18', jobs=JOBS, format=str(choose_precision('cpu')), versions=versions())
    with tempfile.TemporaryDirectory() as scratch:
        write_cifar(data, Path(scratch)/'cifar', JOBS['cifar']['n'])
        for job, place in (('eyeq', data), ('cifar', Path(scratch)/'cifar')):
            runs = {name: [] for name in CONTENDERS}
            for repeat in range(JOBS[job]['repeats']):
                cold, warm = Path(scratch)/f'cold-{job}-{repeat}', Path(scratch)/'warm'
                for name in CONTENDERS: runs[name].append(call(name, job, place, FUNDUS_CACHE=str(cold if name == 'library' else warm)))
                runs['library'][-1]['first_batch_again_s'] = call('library', job, place, 'first', FUNDUS_CACHE=str(cold))['first_batch_s']
            result[job] = summary(runs)
        result['size'] = [call('--size', n, scratch) for _ in range(3) for n in (200, 2000, 20000)]
    file = Path(__file__).parent/'results'/'train.json'
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    if sys.argv[1] == '--size': measure_size(int(sys.argv[2]), sys.argv[3])
    elif sys.argv[1] in CONTENDERS: measure(*sys.argv[1:])
    else: main(Path(sys.argv[1]))
