"""Recipes of the plain classifier, on CIFAR-FS and FC100.

All training classes are told apart by an ordinary classifier, new ones by logistic regression on its
features, with the paper's C = 1. Batches of 64 pictures, 60 epochs, in bfloat16 where the processor has it.

Departures of all from the paper: stochastic gradient descent (Nesterov's momentum 0.9, decay 5e-4) whose rate
rises to 0.1 over a fifth of the steps and falls along a cosine to 0, instead of 0.05 divided by 10 at epochs
60 and 80 of 100; crops of mirrored edges instead of black ones; no augmented copies of the support; the
validation classes select the weights.

Conv4: the paper's network and its changes of pictures.

ResNet-12: half the widths or less, 32-64-128-256 instead of 64-160-320-640, so that a processor trains it in
hours; without DropBlock; labels smoothed by 0.1; brightness and contrast change, not saturation.
The published figures are those of the full width.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch

from quickstudy.core.learner import Learner
from quickstudy.data.augment.augment import Augment
from quickstudy.data.augment.images import (
    BrightnessContrast,
    ColorJitter,
    Compose,
    RandomCrop,
    RandomHorizontalFlip,
)
from quickstudy.data.datasets.cifar import COLOR_32, cifar_fs, fc100
from quickstudy.data.setting import BatchSize, Setting
from quickstudy.encoders.conv4 import AveragedConv4
from quickstudy.encoders.resnet12 import ResNet12
from quickstudy.metric.plain import PlainClassifier
from quickstudy.recipes.recipe import MakePool, Recipe
from quickstudy.training.schedules import Schedule, cosine_schedule

SIZE, EPOCHS = 64, 60
WIDTHS = (32, 64, 128, 256)
CIFAR_FS, FC100 = (cifar_fs, "CIFAR-FS", 64), (fc100, "FC100", 60)
"""Loader, name and number of training classes, of 600 pictures each."""

Data = tuple[MakePool, str, int]


def plain_conv4_cifar_fs() -> Recipe:
    """RFS's Conv4, 64 features, on the 64 training classes of CIFAR-FS."""
    return _conv4(CIFAR_FS, {"5w1s": 62.7, "5w5s": 78.7})


def plain_conv4_fc100() -> Recipe:
    """RFS's Conv4, 64 features, on the 60 training classes of FC100."""
    return _conv4(FC100, {"5w1s": 39.6, "5w5s": 53.5})


def plain_resnet12_cifar_fs() -> Recipe:
    """ResNet-12 of widths 32-64-128-256 on CIFAR-FS; the published figures are of 64-160-320-640."""
    return _resnet12(CIFAR_FS, {"5w1s": 71.5, "5w5s": 86.0})


def plain_resnet12_fc100() -> Recipe:
    """ResNet-12 of widths 32-64-128-256 on FC100; the published figures are of 64-160-320-640."""
    return _resnet12(FC100, {"5w1s": 42.6, "5w5s": 59.1})


def _conv4(data: Data, published: Mapping[str, float]) -> Recipe:
    def learner() -> Learner:
        return PlainClassifier(AveragedConv4(3, 64), classes=data[2], dimensions=64)

    return _recipe("Conv4", data, learner, ColorJitter(), published)


def _resnet12(data: Data, published: Mapping[str, float]) -> Recipe:
    def learner() -> Learner:
        return PlainClassifier(
            ResNet12(3, WIDTHS), classes=data[2], dimensions=WIDTHS[-1], label_smoothing=0.1
        )

    return _recipe("narrow ResNet-12", data, learner, BrightnessContrast(0.4, 0.4), published)


def _recipe(
    encoder: str, data: Data, learner: Callable[[], Learner], light: Augment, published: Mapping[str, float]
) -> Recipe:
    pool, name, classes = data
    return Recipe(
        summary=f"plain classifier on {name}, {encoder}",
        paper="Tian et al. 2020",
        pool=pool,
        item_format=COLOR_32,
        learner=learner,
        train=BatchSize(SIZE),
        augment=Compose((RandomCrop(4), RandomHorizontalFlip(), light)),
        steps=EPOCHS * classes * 600 // SIZE,
        lr=0.1,
        optimizer=partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=_one_cycle,
        precision="bf16-mixed",
        validation=Setting(5, 1, 15),
        every=1_800,
        tests=(Setting(5, 1, 15), Setting(5, 5, 15)),
        published=published,
    )


def _one_cycle(steps: int) -> Schedule:
    return cosine_schedule(steps, warmup=steps // 5)
