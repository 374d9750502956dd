"What somebody adds who has read CONTRIBUTING's five how-tos: one definition each, and nothing else."
from typing import Annotated

from torch import nn
import numpy as np

from fundus_nbdev.core.arguments import Between
from fundus_nbdev.core.html import Section, section
from fundus_nbdev.evaluation.metrics import metric
from fundus_nbdev.explain.cam import cam_method
from fundus_nbdev.models.architectures import architecture
from fundus_nbdev.synth.degradations import degradation


@architecture('grid')
def grid(
    n_classes:int=2, # logits for each photograph
    width:Annotated[int, Between(1, 64)]=8, # channels
    bias:bool=True, # of the last layer
)->nn.Module:
    "Two convolutions, the mean of their maps, one linear layer."
    layers = [nn.Conv2d(3, width, 5, stride=4), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_classes, bias))


@metric('mean_margin', range=(-1, 1), higher=True)
def mean_margin(truth:np.ndarray, probabilities:np.ndarray)->float:
    "By how much the true class is more probable than the most probable other one."
    rows = np.arange(len(truth))
    others = probabilities.copy()
    others[rows, truth] = -1
    return float((probabilities[rows, truth] - others.max(1)).mean())


@degradation('fog')
def fog(picture, field, severity, rng):
    "Let everything fade into white, the more the lower it is."
    where = np.clip(severity + field.y / 2, 0, 1).astype(np.float32)
    return picture + (1 - picture) * where[..., None], where


@cam_method('energy')
def energy(look):
    "How strong all maps are together, whatever the class."
    strength = look.activations.square().sum(1, keepdim=True).sqrt()
    return strength.expand(-1, look.chosen.shape[1], -1, -1).contiguous()


@section('sizes')
class Sizes(Section):
    "Show how many photographs of each class were scored."
    title = 'How many of each'

    def measure(self): self.counts = self.study.part['label'].value_counts()
    def tables(self): return {'sizes': self.counts.rename_axis('label').reset_index(name='photographs')}
    def words(self): return [f'{n} photographs are {name}.' for name, n in self.counts.items()]
