"""Pools of float32 items of any shape: passed on as they are, wherever items go."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from quickstudy.core import checkpoint
from quickstudy.data.augment.audio import Gain, Speed
from quickstudy.data.augment.augment import Augment
from quickstudy.data.augment.images import (
    BrightnessContrast,
    ColorJitter,
    ElasticTransform,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    SameOnBatch,
)
from quickstudy.data.batches import LabelledBatches
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.items import floats
from quickstudy.data.overlap import items_record, overlaps
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.metric import Prototypical
from quickstudy.optimizer.problems.letters import Letters
from quickstudy.training import plots
from quickstudy.training.card import card_of, features_of, make_card, statistics_of
from quickstudy.training.evaluate import evaluate
from quickstudy.training.fit import fit

SHAPES = [(5,), (2, 7), (6, 8, 8), (3, 12, 12), (2, 3, 4, 5)]


def pool_of(shape: tuple[int, ...], classes: int = 6, each: int = 8, seed: int = 0) -> ClassPool:
    """Classes about means of their own, with values far outside of 0 … 1."""
    rng = np.random.default_rng(seed)
    means = 300 * rng.standard_normal((classes, 1, *shape))
    items = (means + rng.standard_normal((classes, each, *shape))).reshape(-1, *shape)
    names = [f"c{i}" for i in range(classes)]
    return ClassPool.from_grouped(items.astype(np.float32), names, [each] * classes, name="floats.train")


def flat() -> Prototypical:
    return Prototypical(nn.Flatten())


@pytest.mark.parametrize("shape", SHAPES)
def test_episodes_and_batches_give_them_unscaled(shape: tuple[int, ...]) -> None:
    pool = pool_of(shape)
    before = pool.items.copy()
    episodes = Episodes(pool, Setting(3, 2, 2), tasks=2)
    expected = torch.from_numpy(pool.items[episodes.query_items(0)])
    assert torch.equal(episodes[0].query_x, expected)
    batches = LabelledBatches(pool, 5)
    assert torch.equal(batches[0].x, torch.from_numpy(pool.items[pool.indices[batches.places(0)]]))
    assert np.array_equal(pool.items, before)


@pytest.mark.parametrize("shape", SHAPES)
def test_from_training_to_card_and_plots(shape: tuple[int, ...], tmp_path: Path) -> None:
    pool = pool_of(shape)
    learner = Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 8)))
    episodes = Episodes(pool, Setting(3, 1, 2))
    fit(learner, episodes, 2, validation=Episodes(pool, Setting(3, 1, 2), seed=1), out=tmp_path / "run")
    manifest = checkpoint.load(tmp_path / "run" / "best.safetensors")[1]
    assert "items" not in manifest
    card = card_of(manifest)
    assert card
    assert not card.statistics
    assert card.features
    assert evaluate(flat(), episodes, 20).accuracy > 0.9
    plots.episode(learner, pool, Setting(3, 1, 2), inverted=False)
    kept = {"classes": {"train": list(pool.classes)}, "seen": {"train": items_record(pool)}}
    (met,) = overlaps(kept, pool_of(shape), ("train",))
    assert met.items == met.of == 48
    (new,) = overlaps(kept, pool_of(shape, seed=1), ("train",))
    assert new.items == 0


def test_floats_are_not_copied_and_not_changed() -> None:
    x = torch.tensor([[-2.0, 300.0]])
    assert floats(x) is x


def test_nothing_is_known_beforehand_of_other_items() -> None:
    assert not statistics_of(np.zeros((4, 3, 8, 8), np.float32))
    assert not statistics_of(np.zeros((4, 8), np.uint8))
    pool = pool_of((5,), classes=3)
    card = make_card(flat(), pool)
    assert card
    assert not card.statistics
    assert features_of(flat(), pool.items) is not None


PICTURES: list[Augment] = [
    RandomAffine(),
    ElasticTransform(),
    RandomHorizontalFlip(),
    RandomCrop(),
    ColorJitter(),
    BrightnessContrast(),
    RandomErasing(),
    SameOnBatch(RandomAffine()),
]


@pytest.mark.parametrize("change", PICTURES, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("shape", [(5,), (5, 5)])
def test_changes_of_pictures_refuse_what_is_none(change: Augment, shape: tuple[int, ...]) -> None:
    episodes = Episodes(pool_of(shape), Setting(3, 1, 1), augment=change)
    with pytest.raises(
        ValueError, match=r"changes pictures \[C, H, W\], and the items are \[5.*leave it out"
    ):
        episodes[0]


def test_changes_of_classes_refuse_vectors() -> None:
    episodes = Episodes(pool_of((5,)), Setting(3, 1, 1), augment_classes=SameOnBatch(RandomAffine()))
    with pytest.raises(ValueError, match="SameOnBatch changes pictures"):
        episodes[0]


@pytest.mark.parametrize("change", [Gain(), Speed()])
def test_changes_of_clips_refuse_pictures(change: Augment) -> None:
    with pytest.raises(ValueError, match=r"changes clips \[samples\], and the items are \[3, 8, 8\]"):
        Episodes(pool_of((3, 8, 8)), Setting(3, 1, 1), augment=change)[0]


@pytest.mark.parametrize("change", [ColorJitter(), BrightnessContrast()])
def test_changes_that_cut_off_refuse_other_scales(change: Augment) -> None:
    with pytest.raises(
        ValueError, match=r"takes pictures in 0 … 1, and these are in -.*normalize in the enc"
    ):
        Episodes(pool_of((3, 8, 8)), Setting(3, 1, 1), augment=change)[0]


def test_problems_of_pictures_refuse_vectors() -> None:
    with pytest.raises(ValueError, match="these problems take pictures"):
        Letters(pool_of((5,), each=20)).sample(1, 0)
