"""The items of a pool on a device: copied once, shared by the splits, and left in memory if they don't fit.

There is no accelerator here. The device "meta" stands for one: it takes tensors, and keeps nothing of them.
"""

import gc
import warnings

import numpy as np
import pytest
import torch

from quickstudy.data import stored as source
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.data.stored import free_memory, stored
from tests.support.pools import coded_pool

SETTING = Setting(3, 1, 2)


@pytest.fixture
def two() -> ClassPool:
    """Two splits of one pool."""
    pool = coded_pool([9, 10, 11, 12, 13, 14] * 2)
    splits = {"train": np.arange(6), "test": np.arange(6, 12)}
    return ClassPool(pool.items, pool.classes, pool.starts, pool.counts, splits, name="two")


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, two: ClassPool) -> None:
    monkeypatch.setattr(source, "free_memory", lambda device: 2 * two.items.nbytes)


def test_in_memory_nothing_is_copied(two: ClassPool) -> None:
    episodes = Episodes(two, SETTING)
    _ = episodes[0]
    held = stored(two.items, "cpu").tensor
    assert held.data_ptr() == two.items.ctypes.data
    assert held.device.type == "cpu"


def test_read_only_items_are_no_warning(two: ClassPool) -> None:
    two.items.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = Episodes(two, SETTING)[0]


@pytest.mark.usefixtures("room")
def test_one_copy_on_a_device_for_all_splits(two: ClassPool) -> None:
    train, test = (Episodes(two.split(s), SETTING).on("meta") for s in ("train", "test"))
    assert train[0].query_x.shape == (1, 6, 1, 2, 2)
    assert train[0].query_x.device.type == test[1].support.x.device.type == "meta"
    held = stored(two.items, "meta")
    assert held.tensor.device.type == "meta"
    assert held.tensor.dtype == torch.uint8, "as the pool stores it, not as floats"
    assert train._stored is test._stored is held
    again = test.on("meta")
    _ = again[0]
    assert again._stored is held
    assert stored(two.items, "cpu") is not held


@pytest.mark.usefixtures("room")
def test_nothing_is_copied_before_it_is_needed(two: ClassPool) -> None:
    there = Episodes(two, SETTING).on("meta")
    assert there._stored is None
    assert (id(two.items), torch.device("meta")) not in source._ALIVE
    _ = there[0]
    assert (id(two.items), torch.device("meta")) in source._ALIVE


@pytest.mark.usefixtures("room")
def test_the_copy_goes_with_the_last_episodes(two: ClassPool) -> None:
    there = Episodes(two, SETTING).on("meta")
    _ = there[0]
    key = (id(two.items), torch.device("meta"))
    assert key in source._ALIVE
    del there
    gc.collect()
    assert key not in source._ALIVE


def test_what_takes_more_than_half_of_the_free_memory_stays(
    two: ClassPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "free_memory", lambda device: 2 * two.items.nbytes - 1)
    there = Episodes(two, SETTING).on("meta")
    assert there[0].query_x.device.type == "meta", "the items of the meta-batch are transferred"
    assert there._stored is not None
    assert there._stored.tensor.data_ptr() == two.items.ctypes.data


def test_free_memory_of_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert free_memory(torch.device("cuda", 0)) == 1200
    assert free_memory(torch.device("mps")) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no card here")
def test_on_a_card_the_episodes_are_the_same(two: ClassPool) -> None:
    for episodes in (Episodes(two, SETTING, 4), Episodes(two.split("test"), SETTING, 4)):
        there, here = episodes.on("cuda")[5], episodes[5]
        assert torch.equal(there.query_x.cpu(), here.query_x)
        assert torch.equal(there.support.x.cpu(), here.support.x)
    assert stored(two.items, "cuda") is stored(two.items, "cuda:0")
    assert stored(two.items, "cuda").tensor.is_cuda
