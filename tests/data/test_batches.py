"""LabelledBatches: each item once an epoch, whatever the batch, the process, and what was drawn before."""

import numpy as np
import pytest
import torch
from torch import Tensor

from quickstudy.data.batches import LabelledBatches
from tests.support.pools import coded_pool

COUNTS = [5, 3, 9]


def codes(x: Tensor) -> list[tuple[int, int]]:
    """Class and number of each item, from its pixels."""
    return [tuple(pair) for pair in (x[:, 0, 0] * 255).round().int().tolist()]


@pytest.mark.parametrize("size", [1, 4, 17, 40])
def test_each_item_comes_once_in_each_epoch_with_its_label(size: int) -> None:
    batches, n = LabelledBatches(coded_pool(COUNTS), size, seed=3), sum(COUNTS)
    seen, labels = [], []
    for i in range(-(-3 * n // size)):
        batch = batches[i]
        assert batch.x.shape == (size, 1, 2, 2)
        assert batch.x.dtype == torch.float32
        seen += codes(batch.x)
        labels += batch.y.tolist()
    assert [c for c, _ in seen] == labels
    everything = sorted((c, j) for c, count in enumerate(COUNTS) for j in range(count))
    epochs = [seen[e * n : (e + 1) * n] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == everything
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_depends_on_its_number_and_the_seed_alone() -> None:
    pool = coded_pool(COUNTS)
    forwards, backwards = LabelledBatches(pool, 4, seed=1), LabelledBatches(pool, 4, seed=1)
    there = [forwards[i] for i in range(12)]
    back = [backwards.on("cpu").part(i) for i in range(11, -1, -1)][::-1]
    for a, b in zip(there, back, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
    assert any(not torch.equal(a.x, LabelledBatches(pool, 4, seed=2)[i].x) for i, a in enumerate(there))


def noisy(x: Tensor, rng: np.random.Generator) -> Tensor:
    return x + torch.from_numpy(rng.random(x.shape)).to(x)


def test_processes_share_the_augmented_items_of_a_batch() -> None:
    batches = LabelledBatches(coded_pool(COUNTS), 6, augment=noisy)
    whole, parts = batches[2], [batches.part(2, rank, 3) for rank in range(3)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.x, whole.x[rank::3])
        assert torch.equal(part.y, whole.y[rank::3])
        assert part.classes == whole.classes == 3
    plain = LabelledBatches(coded_pool(COUNTS), 6)
    change = [whole.x - plain[2].x, batches[3].x - plain[3].x]
    assert not torch.allclose(*change), "another draw for each batch"
    assert change[0].flatten().unique().numel() > 12, "and for each item"


def test_classes_are_numbered_in_the_order_of_the_pool_of_some_classes() -> None:
    batch = LabelledBatches(coded_pool(COUNTS).subset([2, 0]), 14)[0]
    assert [(2, 0)[y] for y in batch.y.tolist()] == [c for c, _ in codes(batch.x)]


def test_the_summary_states_what_is_drawn() -> None:
    told = LabelledBatches(coded_pool(COUNTS), 4, seed=5, augment=noisy).summary()
    assert told["pool"]["classes"] == 3
    assert told | {"pool": 0} == {"pool": 0, "batch_size": 4, "augment": "noisy", "seed": 5}


def test_what_can_not_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0 and seed 0: batch_size must be at least 1"):
        LabelledBatches(coded_pool(COUNTS), 0)
    with pytest.raises(ValueError, match="coded has 1 class and 5 items: telling apart takes two"):
        LabelledBatches(coded_pool([5]), 4)
