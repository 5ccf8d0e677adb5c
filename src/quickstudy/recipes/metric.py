"""Recipes of the metric space, on Omniglot and the embedded glyphs.

Departures of all from their papers: Adam's learning rate rises over a short warm-up and falls along a cosine
to 0; the validation characters select the weights and are never trained on. Those marked "bf16-mixed" are
trained in bfloat16 where the processor has it, the others in float32.

Gaussian, matching, Siamese and relation networks. Departures: tasks of another size are trained on. Fort
trains on the alphabets of the background set and tests on those of the evaluation set, here the split is that
of Vinyals, and batch norm stands before ReLU. Koch's encoder and weighted L1 head are not rebuilt.

Prototypical networks on the glyphs: what `make demo` trains. No paper's figure.

Prototypical networks on Omniglot: the paper's Table 1. Departures: the learning rate rises to ten times the
paper's, and does not halve every 2,000 episodes; the authors train on the validation characters in the end.

Semi-supervised prototypical networks on Omniglot, of which a tenth bears labels. Of each class two of the
twenty drawings have a label, in training, validation and test: one is support, the other query. Five of the
other eighteen are among the task's unlabelled items; with distractors, five of each of as many further
classes as well. Departures: tasks of 10 ways in training instead of 5; 4,000 steps instead of 20,000.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from torch import nn

from quickstudy.core.learner import Learner
from quickstudy.core.modes import Mode
from quickstudy.data.augment.images import (
    Compose,
    ElasticTransform,
    RandomAffine,
    RandomHorizontalFlip,
    SameOnBatch,
)
from quickstudy.data.datasets.alphabets import alphabet_of
from quickstudy.data.datasets.omniglot import omniglot
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.setting import LabelFraction, Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.encoders.moment_norm import MomentNorm
from quickstudy.encoders.postprocess import WCCN, CohortNorm, ConcatFeatures, Embedding
from quickstudy.encoders.resnet import ResNet, WithFeatures
from quickstudy.encoders.test_time import RotateTTA
from quickstudy.metric.distances import cosine_distance
from quickstudy.metric.gaussian import GaussianPrototypical
from quickstudy.metric.matching import Matching
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.relation import Comparison, Relation, relation_encoder
from quickstudy.metric.semi_supervised import Refinement, SemiPrototypical
from quickstudy.metric.siamese import Siamese, contrastive_loss
from quickstudy.metric.supervised_contrastive import SupervisedContrastive
from quickstudy.recipes.recipe import Recipe, glyph_pool
from quickstudy.training.schedules import cosine_schedule

WIDTHS, DIMENSIONS, GRID = (16, 32, 96, 192), 128, (4, 4)
"""Of the residual network of unseen alphabets."""
OTHER_ALPHABETS = SameOnBatch(
    Compose(
        (
            RandomHorizontalFlip(),
            ElasticTransform(4.0),
            RandomAffine(6.0, scale=(0.7, 1.3), shift=0.0, probability=0.7),
        )
    )
)
"""All characters of a task, of 56 pixels, mirrored, bent, turned and slanted alike."""


def gaussian_omniglot() -> Recipe:
    """60-way 1-shot training (the paper: with 19 queries a class), radius, s = 1 + softplus."""
    return _recipe(
        "Gaussian prototypical networks",
        "Fort 2017, Table 1",
        lambda: GaussianPrototypical(Conv4(outputs=65)),
        train=Setting(60, 1, 5),
        steps=8_000,
        lr=1e-2,
        precision="bf16-mixed",
        mode="transductive",
        published={"5w1s": 99.02, "5w5s": 99.66, "20w1s": 97.02, "20w5s": 99.16},
    )


def matching_omniglot() -> Recipe:
    """60-way 1-shot training, without full-context embeddings (the paper: as many ways as in testing)."""
    return _recipe(
        "Matching networks",
        "Vinyals et al. 2016, Table 1",
        lambda: Matching(Conv4(), scale=30.0),
        train=Setting(60, 1, 5),
        steps=2_000,
        lr=1e-2,
        published={"5w1s": 98.1, "5w5s": 98.9, "20w1s": 93.8, "20w5s": 98.5},
    )


def siamese_omniglot() -> Recipe:
    """60-way training on all pairs of the 360 items of a task; cosine energy, margin 0.5."""
    return _recipe(
        "Siamese networks, contrastive loss",
        "Koch et al. 2015, as re-run by Vinyals et al. 2016",
        lambda: Siamese(Conv4(), energy=cosine_distance, loss=partial(contrastive_loss, margin=0.5)),
        train=Setting(60, 1, 5),
        steps=4_000,
        lr=1e-2,
        published={"5w1s": 97.3, "5w5s": 98.4, "20w1s": 88.2, "20w5s": 97.0},
    )


def siamese_omniglot_lake() -> Recipe:
    """Unseen alphabets, as Koch et al. have them: all classes of a task are of one alphabet.

    Pictures of 56 pixels, all characters brought to one place and size before a residual network sees them;
    the supervised contrastive loss, the paper's affine changes, and all characters of a task changed alike,
    so that there are more alphabets. For the within-alphabet trials: see `WithinAlphabets` and
    `benchmarks.verification`.
    """
    return replace(
        siamese_omniglot(),
        summary="Siamese networks, supervised contrastive loss on Omniglot, unseen alphabets (Lake split)",
        paper="no figure for these tasks",
        pool=partial(omniglot, size=56, split="lake", rotations=True),
        item_format=ImageFormat(56, 1, invert=True),
        learner=lambda: SupervisedContrastive(_character_encoder()),
        embedding=_character_embedding,
        train=Setting(24, 1, 2),
        tasks=2,
        group=alphabet_of,
        augment=RandomAffine(shift=4.0),
        augment_classes=OTHER_ALPHABETS,
        precision="bf16-mixed",
        steps=8_000,
        lr=2e-3,
        every=1_000,
        validation=Setting(20, 1, 1),
        tests=(Setting(20, 1, 1),),
        published={},
    )


def relation_omniglot_1shot() -> Recipe:
    """20-way 1-shot training, tested 1-shot with as many queries as in the paper."""
    published = {"5w1s": 99.6, "20w1s": 97.6}
    return _relation(5_000, (Setting(5, 1, 19), Setting(20, 1, 10)), published)


def relation_omniglot_5shot() -> Recipe:
    """20-way 5-shot training, tested 5-shot with as many queries as in the paper."""
    published = {"5w5s": 99.8, "20w5s": 99.1}
    return _relation(9_000, (Setting(5, 5, 15), Setting(20, 5, 5)), published)


def _relation(steps: int, tests: tuple[Setting, Setting], published: Mapping[str, float]) -> Recipe:
    return _recipe(
        "Relation networks",
        "Sung et al. 2018, Table 1",
        lambda: Relation(relation_encoder(), Comparison()),
        train=Setting(20, tests[0].shots, 5),
        steps=steps,
        lr=5e-3,
        mode="transductive",
        published=published,
        tests=tests,
    )


def _character_encoder() -> nn.Module:
    return nn.Sequential(MomentNorm(), ResNet(1, WIDTHS, DIMENSIONS, GRID, dropout=0.2))


def _character_embedding(encoder: nn.Module) -> nn.Module:
    placed, network = encoder.children()
    seen = nn.Sequential(placed, RotateTTA(WithFeatures(network)))
    d, f = DIMENSIONS, WIDTHS[-1] * math.prod(GRID)
    return Embedding(seen, [WCCN(d), ConcatFeatures(d, f), CohortNorm(d + f)])


def _recipe(
    name: str,
    paper: str,
    learner: Callable[[], Learner],
    train: Setting,
    steps: int,
    lr: float,
    published: Mapping[str, float],
    precision: str = "32-true",
    mode: Mode = "inductive",
    tests: tuple[Setting, ...] = (Setting(5, 1), Setting(5, 5), Setting(20, 1), Setting(20, 5)),
) -> Recipe:
    return Recipe(
        summary=f"{name} on Omniglot, Vinyals split",
        paper=paper,
        pool=partial(omniglot, split="vinyals", rotations=True),
        item_format=ImageFormat(28, 1, invert=True),
        learner=learner,
        train=train,
        steps=steps,
        lr=lr,
        schedule=partial(cosine_schedule, warmup=200),
        precision=precision,
        validation=Setting(20, train.shots, 5),
        every=500,
        tests=tests,
        mode=mode,
        published=published,
    )


def prototypical_glyphs() -> Recipe:
    """60-way 1-shot training on some scripts, tested on scripts never seen."""
    return Recipe(
        summary="letters of many scripts; needs no download",
        paper="our own data",
        pool=glyph_pool,
        item_format=ImageFormat(28, 1, invert=True),
        learner=lambda: Prototypical(Conv4(in_channels=1, channels=64)),
        train=Setting(60, 1, 5),
        steps=1000,
        lr=1e-2,
        schedule=partial(cosine_schedule, warmup=50),
        precision="bf16-mixed",
        validation=Setting(20, 1, 5),
        every=100,
        tests=(Setting(5, 1, 15), Setting(20, 1, 15)),
    )


def prototypical_omniglot_1shot() -> Recipe:
    """60-way 1-shot training, tested 1-shot."""
    return _prototypical_omniglot(
        1, steps=8_000, validation_episodes=200, published={"5w1s": 98.8, "20w1s": 96.0}
    )


def prototypical_omniglot_5shot() -> Recipe:
    """60-way 5-shot training, tested 5-shot."""
    return _prototypical_omniglot(
        5, steps=8_000, validation_episodes=600, published={"5w5s": 99.7, "20w5s": 98.9}
    )


def _prototypical_omniglot(
    shots: int, steps: int, validation_episodes: int, published: dict[str, float]
) -> Recipe:
    return Recipe(
        summary=f"Omniglot, 60-way {shots}-shot training, Vinyals split",
        paper="Snell et al. 2017, Table 1",
        pool=partial(omniglot, split="vinyals", rotations=True),
        item_format=ImageFormat(28, 1, invert=True),
        learner=lambda: Prototypical(Conv4(in_channels=1, channels=64)),
        train=Setting(60, shots, 5),
        steps=steps,
        lr=1e-2,
        schedule=partial(cosine_schedule, warmup=200),
        precision="bf16-mixed",
        validation=Setting(20, shots, 5),
        validation_episodes=validation_episodes,
        every=500,
        tests=(Setting(5, shots, 15), Setting(20, shots, 15)),
        published=published,
    )


def tenth_omniglot(label_seed: int = 0) -> Recipe:
    """The baseline: items without labels are not used.

    Args:
        label_seed: Seed of the draw of the tenth of the items that bear labels.
    """
    return _semi_supervised("soft", label_seed, unlabelled=0, distractors=False, published=94.62)


def soft_omniglot(label_seed: int = 0) -> Recipe:
    """Soft k-means; all unlabelled items are of the task's classes.

    Args:
        label_seed: Seed of the draw of the tenth of the items that bear labels.
    """
    return _semi_supervised("soft", label_seed, unlabelled=5, distractors=False, published=97.25)


def soft_omniglot_distractors(label_seed: int = 0) -> Recipe:
    """Soft k-means, with distractors.

    Args:
        label_seed: Seed of the draw of the tenth of the items that bear labels.
    """
    return _semi_supervised("soft", label_seed, unlabelled=5, distractors=True, published=95.01)


def cluster_omniglot_distractors(label_seed: int = 0) -> Recipe:
    """A cluster for the distractors.

    Args:
        label_seed: Seed of the draw of the tenth of the items that bear labels.
    """
    return _semi_supervised("cluster", label_seed, unlabelled=5, distractors=True, published=97.17)


def masked_omniglot_distractors(label_seed: int = 0) -> Recipe:
    """Masked soft k-means, with distractors.

    Args:
        label_seed: Seed of the draw of the tenth of the items that bear labels.
    """
    return _semi_supervised("masked", label_seed, unlabelled=5, distractors=True, published=97.30)


def _semi_supervised(
    refinement: Refinement, label_seed: int, unlabelled: int, distractors: bool, published: float
) -> Recipe:
    def setting(ways: int) -> Setting:
        return Setting(ways, 1, 1, unlabelled, ways if distractors else 0)

    kind = f"{refinement} k-means" if unlabelled else "prototypical networks"
    extra = ", with distractors" if distractors else ""
    return Recipe(
        summary=f"{kind} on Omniglot, a tenth labelled{extra}, Vinyals split",
        paper="Ren et al. 2018, Table 1",
        pool=partial(omniglot, split="vinyals", rotations=True),
        item_format=ImageFormat(28, 1, invert=True),
        learner=lambda: SemiPrototypical(Conv4(), refinement),
        train=setting(10),
        steps=4_000,
        lr=1e-2,
        schedule=partial(cosine_schedule, warmup=200),
        precision="bf16-mixed",
        validation=setting(5),
        every=500,
        tests=(setting(5),),
        published={"5w1s": published},
        labels=LabelFraction(0.1, label_seed),
    )
