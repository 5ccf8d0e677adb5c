"""Recipes of the metric space on small natural pictures: CIFAR-FS and FC100.

All are trained on shifted and mirrored copies of the pictures, in bfloat16 where the processor has it.
Departures of all from their papers: the validation classes select the weights and are never trained on; those
trained by Adam have a learning rate that rises over a short warm-up and falls along a cosine to 0.

Prototypical, relation, matching, Siamese and Gaussian networks: trained on tasks of 20 ways, brightness,
contrast and saturation changed as well. Relation networks: of the embeddings of a class the mean is taken,
not the sum, and figures are inductive. No paper states a figure of the last three on CIFAR-FS with Conv4.

R2-D2: rate and shots are the authors'; they change no pictures and halve the rate every 2,000 tasks.

Plain classifier (RFS): all training classes are told apart by an ordinary classifier, new ones by logistic
regression on its features, with the paper's C = 1. Batches of 64 pictures, 60 epochs. Departures: stochastic
gradient descent (Nesterov's momentum 0.9, decay 5e-4) whose rate rises to 0.1 over a fifth of the steps and
falls along a cosine to 0, instead of 0.05 divided by 10 at epochs 60 and 80 of 100; crops of mirrored edges
instead of black ones; no augmented copies of the support. Its ResNet-12 has half the widths or less, so that
a processor trains it in hours, no DropBlock, and labels smoothed by 0.1; the published figures are those of
the full width.

Baseline++: as the plain classifier, with a last layer of cosines, and one of cosines trained on the support;
the authors train by Adam, and state no figure on CIFAR-FS.

MetaOptNet, FEAT and Meta-Baseline have the narrow ResNet-12, whose embeddings are means over places; one
model of each is tested on both settings. MetaOptNet begins anew: tasks and shots of a step are the authors',
8,000 steps instead of 60,000, the rate as the plain classifier's, no DropBlock. FEAT and Meta-Baseline begin
with the plain classifier's encoder. FEAT has one rate for encoder and transformer, between the authors' two,
and half their temperature, for 256 numbers instead of 640.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

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
from quickstudy.encoders.conv4 import AveragedConv4, Conv4
from quickstudy.encoders.r2d2 import R2D2Encoder
from quickstudy.encoders.resnet12 import ResNet12
from quickstudy.metric.distances import cosine_distance
from quickstudy.metric.feat import FEAT
from quickstudy.metric.features.baseline import baseline_plus_plus
from quickstudy.metric.gaussian import GaussianPrototypical
from quickstudy.metric.matching import Matching
from quickstudy.metric.meta_baseline import MetaBaseline
from quickstudy.metric.plain import PlainClassifier
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.relation import Comparison, Relation, relation_encoder
from quickstudy.metric.ridge import R2D2
from quickstudy.metric.siamese import Siamese, contrastive_loss
from quickstudy.metric.svm import MetaOptNet
from quickstudy.recipes.recipe import MakePool, Recipe
from quickstudy.training.schedules import Schedule, cosine_schedule, halve_every

MOVED: tuple[Augment, ...] = (RandomCrop(4), RandomHorizontalFlip())
"""Pictures shifted by up to four pixels, and mirrored."""
NARROW = (32, 64, 128, 256)
"""Widths of a ResNet-12 that a processor trains in hours."""
SIZE, EPOCHS = 64, 60
"""Of a plain classifier."""
CIFAR_FS, FC100 = (cifar_fs, "CIFAR-FS", 64), (fc100, "FC100", 60)
"""Loader, name and number of training classes, of 600 pictures each."""

SGD = partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=5e-4)

Data = tuple[MakePool, str, int]
ONE_SHOT, FIVE_SHOT = Setting(5, 1, 15), Setting(5, 5, 15)


def prototypical_cifar_fs_1shot() -> Recipe:
    """20-way 1-shot training, tested 1-shot."""
    return _episodic(
        "prototypical networks",
        "Bertinetto et al. 2019",
        lambda: Prototypical(Conv4(in_channels=3)),
        tests=(ONE_SHOT,),
        published={"5w1s": 57.9},
    )


def prototypical_cifar_fs_5shot() -> Recipe:
    """20-way 5-shot training, tested 5-shot."""
    return _episodic(
        "prototypical networks",
        "Bertinetto et al. 2019",
        lambda: Prototypical(Conv4(in_channels=3)),
        train=Setting(20, 5, 8),
        steps=12_000,
        tests=(FIVE_SHOT,),
        published={"5w5s": 76.7},
    )


def relation_cifar_fs() -> Recipe:
    """20-way 1-shot training, tested 1-shot and 5-shot."""
    return _episodic(
        "relation networks",
        "Sung et al. 2018, as measured by Bertinetto et al. 2019",
        lambda: Relation(relation_encoder(3), Comparison(side=6), pooling="mean"),
        steps=10_000,
        lr=2e-3,
        published={"5w1s": 55.0, "5w5s": 69.3},
    )


def matching_cifar_fs() -> Recipe:
    """20-way 1-shot training, without full-context embeddings, tested 1-shot."""
    return _episodic(
        "matching networks",
        "Vinyals et al. 2016",
        lambda: Matching(Conv4(in_channels=3), scale=30.0),
        steps=8_000,
        tests=(ONE_SHOT,),
    )


def siamese_cifar_fs() -> Recipe:
    """20-way training on all pairs of the pictures of a task, tested 1-shot; cosine energy, margin 0.5."""
    return _episodic(
        "Siamese networks, contrastive loss",
        "Koch et al. 2015",
        lambda: Siamese(
            Conv4(in_channels=3), energy=cosine_distance, loss=partial(contrastive_loss, margin=0.5)
        ),
        steps=8_000,
        tests=(ONE_SHOT,),
    )


def gaussian_cifar_fs() -> Recipe:
    """20-way 1-shot training, tested 1-shot; radius, s = 1 + softplus."""
    return _episodic(
        "Gaussian prototypical networks",
        "Fort 2017",
        lambda: GaussianPrototypical(Conv4(in_channels=3)),  # 255 features and the radius
        steps=8_000,
        tests=(ONE_SHOT,),
    )


def r2d2_cifar_fs() -> Recipe:
    """20-way training with 12 pictures of each class, of which 1 to 9, drawn for each task, are support."""
    return _on_cifar_fs(
        summary="R2-D2, ridge regression on CIFAR-FS, small network",
        paper="Bertinetto et al. 2019, Table 1",
        learner=lambda: R2D2(R2D2Encoder()),
        train=Setting(20, (1, 9), together=12),
        augment=Compose(MOVED),
        steps=12_000,
        lr=5e-3,
        published={"5w1s": 62.3, "5w5s": 77.4},
    )


def plain_conv4_cifar_fs() -> Recipe:
    """RFS's Conv4, 64 features, on the 64 training classes of CIFAR-FS."""
    return _plain_conv4(CIFAR_FS, {"5w1s": 62.7, "5w5s": 78.7})


def plain_conv4_fc100() -> Recipe:
    """RFS's Conv4, 64 features, on the 60 training classes of FC100."""
    return _plain_conv4(FC100, {"5w1s": 39.6, "5w5s": 53.5})


def plain_resnet12_cifar_fs() -> Recipe:
    """ResNet-12 of widths 32-64-128-256 on CIFAR-FS; the published figures are of 64-160-320-640."""
    return _plain_resnet12(CIFAR_FS, {"5w1s": 71.5, "5w5s": 86.0})


def plain_resnet12_fc100() -> Recipe:
    """ResNet-12 of widths 32-64-128-256 on FC100; the published figures are of 64-160-320-640."""
    return _plain_resnet12(FC100, {"5w1s": 42.6, "5w5s": 59.1})


def baseline_plus_plus_conv4_cifar_fs() -> Recipe:
    """Conv4, 64 features, on the 64 training classes of CIFAR-FS, with cosines."""
    return _baseline_plus_plus("Conv4", lambda: AveragedConv4(3, 64), 64, ColorJitter())


def baseline_plus_plus_resnet12_cifar_fs() -> Recipe:
    """ResNet-12 of widths 32-64-128-256 on the 64 training classes of CIFAR-FS, with cosines."""
    light = BrightnessContrast(0.4, 0.4)
    return _baseline_plus_plus("narrow ResNet-12", lambda: ResNet12(3, NARROW), NARROW[-1], light)


def metaoptnet_resnet12_cifar_fs() -> Recipe:
    """5-way 5-shot training; the published figures are of a ResNet-12 of widths 64-160-320-640."""
    return _on_cifar_fs(
        summary="MetaOptNet, support vector machines on CIFAR-FS, narrow ResNet-12",
        paper="Lee et al. 2019, Table 2",
        learner=lambda: MetaOptNet(ResNet12(3, NARROW)),
        train=Setting(5, 5, 6),
        tasks=8,
        augment=Compose((*MOVED, ColorJitter(0.4, 0.4, 0.4))),
        steps=8_000,
        lr=0.1,
        optimizer=SGD,
        schedule=_one_cycle,
        published={"5w1s": 72.0, "5w5s": 84.2},
    )


def feat_resnet12_cifar_fs() -> Recipe:
    """5-way 1-shot training from the plain classifier's ResNet-12 on."""
    return _from_plain(
        summary="FEAT, a set transformer on CIFAR-FS, narrow ResNet-12",
        paper="Ye et al. 2020",
        learner=lambda: FEAT(ResNet12(3, NARROW), NARROW[-1], temperature=32.0, auxiliary_temperature=32.0),
        tasks=1,
        steps=20_000,
        schedule=cosine_schedule,
    )


def meta_baseline_resnet12_cifar_fs() -> Recipe:
    """5-way 1-shot training from the plain classifier's ResNet-12 on, at one learning rate."""
    return _from_plain(
        summary="Meta-Baseline, nearest cosine on CIFAR-FS, narrow ResNet-12",
        paper="Chen et al. 2021",
        learner=lambda: MetaBaseline(ResNet12(3, NARROW)),
        tasks=4,
        steps=4_000,
        schedule=halve_every,  # after all steps: the rate stays
    )


def _baseline_plus_plus(
    name: str, encoder: Callable[[], nn.Module], dimensions: int, light: Augment
) -> Recipe:
    def learner() -> Learner:
        return PlainClassifier(
            encoder(), classes=CIFAR_FS[2], dimensions=dimensions, head=baseline_plus_plus, cosine=True
        )

    stated = _plain(name, CIFAR_FS, learner, light, {})
    return replace(stated, summary=f"Baseline++ on CIFAR-FS, {name}", paper="Chen et al. 2019")


def _from_plain(**rest: Any) -> Recipe:
    return _on_cifar_fs(
        train=Setting(5, 1, 15),
        augment=Compose((*MOVED, BrightnessContrast(0.4, 0.4))),
        lr=1e-3,
        optimizer=SGD,
        begins_with="plain-resnet12-cifar-fs",
        **rest,
    )


def _plain_conv4(data: Data, published: Mapping[str, float]) -> Recipe:
    def learner() -> Learner:
        return PlainClassifier(AveragedConv4(3, 64), classes=data[2], dimensions=64)

    return _plain("Conv4", data, learner, ColorJitter(), published)


def _plain_resnet12(data: Data, published: Mapping[str, float]) -> Recipe:
    def learner() -> Learner:
        return PlainClassifier(
            ResNet12(3, NARROW), classes=data[2], dimensions=NARROW[-1], label_smoothing=0.1
        )

    return _plain("narrow ResNet-12", data, learner, BrightnessContrast(0.4, 0.4), published)


def _plain(
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
        augment=Compose((*MOVED, light)),
        steps=EPOCHS * classes * 600 // SIZE,
        lr=0.1,
        optimizer=SGD,
        schedule=_one_cycle,
        precision="bf16-mixed",
        validation=ONE_SHOT,
        every=1_800,
        tests=(ONE_SHOT, FIVE_SHOT),
        published=published,
    )


def _one_cycle(steps: int) -> Schedule:
    return cosine_schedule(steps, warmup=steps // 5)


def _episodic(
    name: str,
    paper: str,
    learner: Callable[[], Learner],
    train: Setting = Setting(20, 1, 8),  # noqa: B008 (it can't be changed)
    steps: int = 15_000,
    lr: float = 3e-3,
    tests: tuple[Setting, ...] = (ONE_SHOT, FIVE_SHOT),
    published: Mapping[str, float] | None = None,
) -> Recipe:
    return _on_cifar_fs(
        summary=f"{name} on CIFAR-FS",
        paper=paper,
        learner=learner,
        train=train,
        augment=Compose((*MOVED, ColorJitter(0.4, 0.4, 0.4))),
        steps=steps,
        lr=lr,
        tests=tests,
        published=published or {},
    )


def _on_cifar_fs(*, tests: tuple[Setting, ...] = (ONE_SHOT, FIVE_SHOT), **rest: Any) -> Recipe:
    stated: dict[str, Any] = {"schedule": partial(cosine_schedule, warmup=200)} | rest
    return Recipe(
        pool=cifar_fs,
        item_format=COLOR_32,
        precision="bf16-mixed",
        validation=tests[0],
        validation_episodes=500,
        every=1000,
        tests=tests,
        **stated,
    )
