"""`ClassPool.from_arrays`: labels in any order, splits by name or number, and one line for what is wrong."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quickstudy.data.adapters import store
from quickstudy.data.adapters.labels import labels_of
from quickstudy.data.adapters.store import rearrange
from quickstudy.data.episodes import Episodes
from quickstudy.data.mapped import give_back, mapping
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting

Y = [2, 0, 1, 0, 2, 1, 0]
X = np.arange(7, dtype=np.float32)[:, None] * np.array([1, -10], np.float32)


def contents(pool: ClassPool) -> dict[str, list[float]]:
    """First number of each item, by class."""
    return {
        c: pool.of_class(c).reshape(pool.counts[i], -1)[:, 0].tolist() for i, c in enumerate(pool.classes)
    }


SORTED = {"0": [1, 3, 6], "1": [2, 5], "2": [0, 4]}


@pytest.mark.parametrize("y", [Y, tuple(Y), np.array(Y), np.array(Y, np.uint8), torch.tensor(Y)])
@pytest.mark.parametrize("x", [X, X.astype(np.float64), torch.from_numpy(X), X.tolist(), list(X), X[::1]])
def test_sorted_by_label_and_stable(x: Any, y: Any) -> None:
    pool = ClassPool.from_arrays(x, y)
    assert contents(pool) == SORTED
    assert pool.items.dtype == np.float32
    assert pool.splits == {}


def test_half_precision_and_a_gradient() -> None:
    x = torch.from_numpy(X).bfloat16().requires_grad_()
    assert contents(ClassPool.from_arrays(x, Y)) == SORTED


@pytest.mark.parametrize("make", [list, np.array, partial(np.array, dtype=object)])  # as pandas gives them
def test_labels_of_text(make: Callable[[list[str]], Any]) -> None:
    pool = ClassPool.from_arrays(X, make(["cba"[v] for v in Y]))
    assert contents(pool) == {"a": SORTED["2"], "b": SORTED["1"], "c": SORTED["0"]}


def test_names_by_number_and_by_label() -> None:
    names = ["cat", "dog", "cow"]
    assert contents(ClassPool.from_arrays(X, Y, names=names)) == dict(
        zip(names, SORTED.values(), strict=True)
    )
    letters = ["cba"[v] for v in Y]
    pool = ClassPool.from_arrays(X, letters, names={"a": "ant", "b": "bee", "c": "cat"})
    assert pool.classes == ("ant", "bee", "cat")


def test_what_is_in_order_is_not_copied() -> None:
    x = X[np.argsort(Y, kind="stable")]
    assert np.shares_memory(ClassPool.from_arrays(x, sorted(Y)).items, x)
    assert not np.shares_memory(ClassPool.from_arrays(X, Y).items, X)


def test_sources_go_along() -> None:
    pool = ClassPool.from_arrays(X, Y, sources=[f"speaker{i % 2}" for i in range(7)])
    assert pool.sources is not None
    assert pool.sources.tolist() == [1, 1, 0, 0, 1, 0, 0]
    assert pool.source_names == ("speaker0", "speaker1")


@pytest.mark.parametrize(
    "split",
    [
        {"train": [0, 2], "val": [1]},
        {"train": np.array([0, 2]), "validation": torch.tensor([1])},
        {"train": ["0", "2"], "validation": ["1"]},
        ["train" if v != 1 else "val" for v in Y],
    ],
)
def test_splits_by_number_name_and_column(split: Any) -> None:
    pool = ClassPool.from_arrays(X, Y, split=split)
    assert pool.split("train").classes == ("0", "2")
    assert pool.split("validation").classes == ("1",)


def test_numbers_of_classes_that_do_not_begin_at_zero_are_their_labels() -> None:
    pool = ClassPool.from_arrays(X, [v + 7 for v in Y], split={"test": [9, 8]})
    assert pool.split("test").classes == ("9", "8")


def test_splits_by_fractions_and_file(tmp_path: Path) -> None:
    fractions = ClassPool.from_arrays(X, Y, split=(0.34, 0.33, 0.33), seed=3)
    assert sorted(len(of) for of in fractions.splits.values()) == [1, 1, 1]
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["0", "1"], "test": ["2"]}))
    assert ClassPool.from_arrays(X, Y, split=path).split("test").classes == ("2",)


def test_pictures_with_channels_last_or_without_are_turned() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (7, 8, 9, 3), dtype=np.uint8)
    pool = ClassPool.from_arrays(pictures, Y)
    assert pool.items.shape == (7, 3, 8, 9)
    assert np.array_equal(pool.of_class("1")[0], pictures[2].transpose(2, 0, 1))
    assert pool.items.flags.c_contiguous
    assert ClassPool.from_arrays(pictures[..., 0], Y).items.shape == (7, 1, 8, 9)
    as_floats = ClassPool.from_arrays(pictures / 255, Y, channels="last")
    assert as_floats.items.shape == (7, 3, 8, 9)
    assert ClassPool.from_arrays(pictures / 255, Y, channels="first").items.shape == (7, 8, 9, 3)


def test_an_episode_of_them() -> None:
    e = Episodes(ClassPool.from_arrays(X, Y), Setting(2, 1, 1))[0]
    assert {tuple(x) for x in e.query_x[0].tolist()} <= {tuple(x) for x in X.tolist()}


BAD: list[tuple[Any, Any, dict[str, Any], str]] = [
    (X, Y[:-1], {}, "x has 7 items and y 6 labels: give one label for each item"),
    (X[:0], [], {}, "y is empty"),
    (X, [1] * 7, {}, "all 7 labels are '1': telling apart takes two classes"),
    (X, np.array(Y, float), {}, r"y holds float64 numbers, such as 2.0: .*astype\(int\)"),
    (X, torch.tensor(Y).float(), {}, r"y holds float32 numbers.*y.long\(\)"),
    (X, [float("nan")] * 7, {}, "y holds float64 numbers, such as nan"),
    (X, np.eye(3)[Y], {}, r"y is \[7, 3\]: .* y.argmax\(1\)"),
    (X, np.array(Y)[:, None], {}, r"y is \[7, 1\]: .* y.reshape\(-1\)"),
    (X, ["a", 1, "b", "a", "a", "b", "b"], {}, "y holds objects of several kinds: labels are all whole"),
    (X, np.array([None, *Y[1:]], object), {}, "y holds objects of several kinds"),
    (X, [b"a", b"b"] * 3 + [b"a"], {}, r"y holds \|S1"),
    (X, [[1], [1, 2], 3, 4, 5, 6, 7], {}, "y holds lists of unequal length"),
    (X, "abcabca", {}, "y is 'abcabca': give a label for each item"),
    (X, 3, {}, "y is '3'"),
    (X[:, 0], Y, {}, r"x is \[7\]: give items with dimensions of their own, x\[:, None\]"),
    ([X[0], X[0, :1], *X[2:]], Y, {}, r"x\[1\] is \[1\] and x\[0\] \[2\]: make all items of one shape"),
    ([[1, 2], [3]], [0, 1], {}, "x holds items of unequal shapes"),
    (np.array([X[0], "a"] * 3 + [1], object), Y, {}, "x holds objects"),
    (X.astype(str), Y, {}, "x holds <U"),
    (X.astype(np.int64), Y, {}, "x is int64: give pictures of 0 … 255 as uint8, .* float32"),
    (X > 0, Y, {}, "x is bool"),
    (np.where(X == 4, np.nan, X), Y, {}, r"x\[4\] holds numbers that aren't finite"),
    (np.where(X == 5, 1e300, X.astype(float)), Y, {}, r"x\[5\] holds numbers that aren't finite .*float32"),
    (np.zeros((7, 8, 8, 3), np.float32), Y, {}, r"x is \[7, 8, 8, 3\], which looks like height"),
    (X, Y, {"channels": "last"}, r"x is \[7, 2\]: with channels='last' give pictures"),
    (X, Y, {"channels": "middle"}, "channels is 'middle'"),
    (X, Y, {"names": ["a", "b"]}, "names has no name for label '2'"),
    (X, Y, {"names": {0: "a", 1: "b"}}, "names has no name for label '2'"),
    (X, Y, {"names": ["a", "b", "a"]}, "two classes are named 'a'"),
    (
        X,
        list("abcabca"),
        {"names": ["x", "y", "z"]},
        r"labels are texts: leave it out, or give \{label: name",
    ),
    (X, Y, {"split": {"train": [0, 1], "test": [1]}}, "class '1' is in both splits 'train' and 'test'"),
    (X, Y, {"split": {"train": [0, 3]}}, "split 'train' names '3', which is no class: there are 0, 1, 2"),
    (X, Y, {"split": {"train": "01"}}, "split 'train' is '01': give a list of classes"),
    (X, Y, {"split": ["train"] * 6 + ["test"]}, "class '0' is in both splits 'test' and 'train'"),
    (X, Y, {"split": ["train"] * 5}, "split has 5 values for 7 items"),
    (X, Y, {"split": (0.5, 0.2, 0.2)}, "fractions are"),
    (X, Y, {"sources": ["a"] * 6}, "sources has 6 values for 7 items"),
]


@pytest.mark.parametrize(("x", "y", "options", "message"), BAD, ids=[b[3][:40] for b in BAD])
def test_what_is_wrong_is_one_line(x: Any, y: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ClassPool.from_arrays(x, y, **options)
    assert "\n" not in str(error.value)


# On the disk


def test_a_mapped_array_stays_on_the_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    pool = ClassPool.from_arrays(x, Y)
    assert contents(pool) == SORTED
    assert mapping(pool.items)
    ordered = ClassPool.from_arrays(x, [0, 0, 0, 0, 1, 1, 1])
    assert np.shares_memory(ordered.items, x)


def test_above_a_limit_items_lie_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "IN_MEMORY", 50)
    pool = ClassPool.from_arrays(X, Y)
    assert contents(pool) == SORTED
    assert mapping(pool.subset([1]).items)
    give_back(pool.items)
    assert contents(pool) == SORTED
    digest = pool.content_digest()
    monkeypatch.undo()
    assert ClassPool.from_arrays(X, Y).content_digest() == digest
    assert mapping(ClassPool.from_arrays(X, Y).items) is None


def test_private_copies_of_pages_are_kept(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="c")
    x[0] = 7
    give_back(x)
    assert x[0, 0] == 7


def test_a_disk_without_room_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pools").write_text("a file where the folder should be")
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path))
    monkeypatch.setattr(store, "IN_MEMORY", 50)
    with pytest.raises(OSError, match=r"can't write 0.0 GiB of decoded items to .* set QUICKSTUDY_CACHE"):
        ClassPool.from_arrays(X, Y)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_rearranging_in_place(n: int) -> None:
    items = np.random.default_rng(n).normal(size=(n, 3))
    order = np.random.default_rng(n + 1).permutation(n)
    expected = items[order]
    rearrange(items, order)
    assert np.array_equal(items, expected)


def test_labels_of_tensors_in_a_list() -> None:
    assert labels_of([torch.tensor(v) for v in Y]).counts.tolist() == [3, 2, 2]
