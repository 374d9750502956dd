"""Photographs a second, forward and backward, of this library's resnet(18) against torchvision's: python bench/resnet.py

The two take turns on the same batch (bf16 autocast, channels last); the ratio of the medians is what counts."""
from statistics import median
from time import perf_counter

from torchvision.models import resnet18
import torch
import torchvision

from fundus_nbdev.models.resnet import resnet


def one_step(model, xb):
    "Seconds of a forward and a backward pass."
    start = perf_counter()
    with torch.autocast('cpu', torch.bfloat16): loss = model(xb).float().logsumexp(1).mean()
    loss.backward()
    model.zero_grad()
    return perf_counter() - start


def main(rounds=9, size=224, bs=16):
    models = {'ours': resnet(18), 'theirs': resnet18(weights=None)}
    models = {name: model.to(memory_format=torch.channels_last) for name, model in models.items()}
    xb = torch.randn(bs, 3, size, size).to(memory_format=torch.channels_last)
    for model in models.values(): one_step(model, xb) # warm up
    times = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items(): times[name].append(one_step(model, xb))
    ratio = median(times['theirs']) / median(times['ours'])
    print(f'photographs a second, ours to torchvision {torchvision.__version__}: {ratio:.2f}')


if __name__ == '__main__': main()
