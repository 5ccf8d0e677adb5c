"""Recipes of the metric space on small natural pictures: CIFAR-FS and FC100.

All are trained on shifted, mirrored and recoloured copies of the pictures, in bfloat16 where the processor
has it. Departures of all from their papers: Adam's learning rate rises over a short warm-up and falls along a
cosine to 0; the validation classes select the weights and are never trained on.

Prototypical networks: trained on tasks of 20 ways, as Bertinetto et al. 2019 measured them.

Relation networks: of the classes' embeddings the mean is taken, not the sum; batch norm keeps running
statistics in testing, so that the figures are inductive.
"""

from collections.abc import Callable, Mapping
from functools import partial

from quickstudy.core.learner import Learner
from quickstudy.data.augment.augment import Augment
from quickstudy.data.augment.images import ColorJitter, Compose, RandomCrop, RandomHorizontalFlip
from quickstudy.data.datasets.cifar import COLOR_32, cifar_fs
from quickstudy.data.setting import Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.relation import Comparison, Relation, relation_encoder
from quickstudy.recipes.recipe import Recipe
from quickstudy.training.schedules import cosine_schedule

CHANGED: Augment = Compose((RandomCrop(4), RandomHorizontalFlip(), ColorJitter(0.4, 0.4, 0.4)))
"""Pictures shifted by up to four pixels, mirrored, and of other brightness, contrast and saturation."""


def prototypical_cifar_fs_1shot() -> Recipe:
    """20-way 1-shot training, tested 1-shot."""
    return _recipe(
        "Prototypical networks",
        "Bertinetto et al. 2019",
        lambda: Prototypical(Conv4(in_channels=3)),
        train=Setting(20, 1, 8),
        steps=15_000,
        lr=3e-3,
        tests=(Setting(5, 1),),
        published={"5w1s": 57.9},
    )


def prototypical_cifar_fs_5shot() -> Recipe:
    """20-way 5-shot training, tested 5-shot."""
    return _recipe(
        "Prototypical networks",
        "Bertinetto et al. 2019",
        lambda: Prototypical(Conv4(in_channels=3)),
        train=Setting(20, 5, 8),
        steps=12_000,
        lr=3e-3,
        tests=(Setting(5, 5),),
        published={"5w5s": 76.7},
    )


def relation_cifar_fs() -> Recipe:
    """20-way 1-shot training, tested 1-shot and 5-shot."""
    return _recipe(
        "Relation networks",
        "Sung et al. 2018, as measured by Bertinetto et al. 2019",
        lambda: Relation(relation_encoder(3), Comparison(side=6), pooling="mean"),
        train=Setting(20, 1, 8),
        steps=10_000,
        lr=2e-3,
        tests=(Setting(5, 1), Setting(5, 5)),
        published={"5w1s": 55.0, "5w5s": 69.3},
    )


def _recipe(
    name: str,
    paper: str,
    learner: Callable[[], Learner],
    train: Setting,
    steps: int,
    lr: float,
    tests: tuple[Setting, ...],
    published: Mapping[str, float],
) -> Recipe:
    return Recipe(
        summary=f"{name} on CIFAR-FS",
        paper=paper,
        pool=cifar_fs,
        item_format=COLOR_32,
        learner=learner,
        train=train,
        steps=steps,
        lr=lr,
        schedule=partial(cosine_schedule, warmup=200),
        precision="bf16-mixed",
        augment=CHANGED,
        validation=tests[0],
        validation_episodes=500,
        every=1000,
        tests=tests,
        published=published,
    )
