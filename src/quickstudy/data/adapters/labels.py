"""Labels in any order as classes, and splits of these by name, by number or by a column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from quickstudy.core.arrays import IntArray
from quickstudy.core.wording import plural, shown
from quickstudy.data.splits import random_split, read_split

Names = Sequence[str] | Mapping[Any, str]
"""Names of the classes: by number, where labels are numbers, or by label."""
ClassSplit = Mapping[str, Sequence[Any]] | Sequence[Any] | str | Path
"""Names or labels by split; a JSON file of the names; three fractions; or the split of each item."""
MEANT = {"val": "validation", "valid": "validation", "dev": "validation"}
"""Other names of splits that lists in use have."""


@dataclass(frozen=True)
class Labels:
    """Labels of items, as classes.

    Args:
        of: [I] class of each item.
        classes: Names of the K classes, in the order of their labels.
        values: Label of each class, a number or a text.
    """

    of: IntArray
    classes: tuple[str, ...]
    values: tuple[Any, ...]

    @property
    def counts(self) -> IntArray:
        """Number of items of each class, [K]."""
        return np.bincount(self.of, minlength=len(self.classes))

    @property
    def order(self) -> IntArray:
        """Indices [I] of the items, class after class; those of a class stay in their order."""
        return np.argsort(self.of, kind="stable")


def labels_of(y: Any, names: Names | None = None, what: str = "y") -> Labels:
    """Read labels.

    Args:
        y: [I] labels in any order, whole numbers or texts: a list, an array or a tensor.
        names: Names of the classes; None to take the labels themselves.
        what: What the labels are called in messages.

    Raises:
        ValueError: If they are no labels, or of fewer than two classes, or a name is missing.
    """
    values, of = np.unique(flat_labels(y, what), return_inverse=True)
    listed = values.tolist()
    if len(listed) < 2:
        raise ValueError(
            f"all {plural(len(of), 'label')} are {shown(listed[0])!r}: telling apart takes two classes"
        )
    return Labels(of.astype(np.int64), tuple(_name(v, names) for v in listed), tuple(listed))


def flat_labels(y: Any, what: str = "y") -> npt.NDArray[Any]:
    """Labels as an array [I] of whole numbers or texts.

    Args:
        y: Labels: a list, an array or a tensor.
        what: What the labels are called in messages.

    Raises:
        ValueError: If there are none, or they are something else.
    """
    given: Any = y.detach().cpu() if isinstance(y, Tensor) else y
    if isinstance(given, str) or not hasattr(given, "__len__"):
        raise ValueError(f"{what} is {shown(given)!r}: give a label for each item")
    if isinstance(given, Tensor) and given.is_floating_point():
        given = given.float()
    try:
        kinds = (
            {isinstance(v, str | bytes) for v in given} if isinstance(given, list | tuple) else set[bool]()
        )
        found: npt.NDArray[Any] = np.asarray(given)
    except (ValueError, TypeError):
        raise ValueError(f"{what} holds lists of unequal length: give one label for each item") from None
    if not found.size:
        raise ValueError(f"{what} is empty: give a label for each item")
    if found.ndim != 1:
        way = f"{what}.argmax(1)" if found.ndim == 2 and found.shape[1] > 1 else f"{what}.reshape(-1)"
        raise ValueError(f"{what} is {list(found.shape)}: give one label for each item, such as by {way}")
    if found.dtype.kind == "O":
        listed: list[Any] = found.tolist()
        if all(isinstance(v, str) for v in listed):
            return found.astype(str)
        if all(isinstance(v, int | np.integer) for v in listed):
            return found.astype(np.int64)
    if found.dtype.kind in "OTSVMmc" or len(kinds) > 1:
        kind = "objects of several kinds" if found.dtype.kind in "OUV" else str(found.dtype)
        raise ValueError(f"{what} holds {kind}: labels are all whole numbers, or all texts")
    if found.dtype.kind == "f":
        raise ValueError(
            f"{what} holds {found.dtype} numbers, such as {found[0]}: labels are whole numbers or texts; "
            f"convert them by {what}.{'long()' if isinstance(y, Tensor) else 'astype(int)'} if they are whole"
        )
    return found


def _name(label: Any, names: Names | None) -> str:
    if names is None:
        return str(label)
    if not isinstance(names, Mapping):
        if isinstance(names, str) or isinstance(label, str):
            raise ValueError(
                f"names is {shown(names)}, and labels are texts: leave it out, or give {{label: name}}"
            )
        names = dict(enumerate(names))
    if label not in names:
        raise ValueError(f"names has no name for label {shown(label)!r}: give one for each label")
    return str(names[label])


def splits_of(split: ClassSplit | None, labels: Labels, seed: int = 0) -> dict[str, IntArray]:
    """Classes of each split.

    Args:
        split: Names or labels of the classes of each split; a JSON file of their names; three fractions of
            the classes for train, validation and test; or the name of the split of each item. None for no
            splits.
        labels: Labels of all items.
        seed: Seed of a split by fractions.

    Raises:
        ValueError: If a class is unknown or in two splits, or the split is none of these.
        FileNotFoundError: If there is no such file.
    """
    if split is None:
        return {}
    if isinstance(split, Mapping):
        found = {str(MEANT.get(s, s)): _numbers(s, of, labels) for s, of in split.items()}
    elif isinstance(split, str | Path):
        found = read_split(split, list(labels.classes))
    elif _are_fractions(split):
        found = random_split(len(labels.classes), [float(part) for part in split], seed)
    else:
        found = _by_column(flat_labels(split, "split"), labels)
    return {s: np.asarray(of, dtype=np.int64) for s, of in found.items()}


def is_column(split: Any) -> bool:
    """Whether a split is one of each item, and not of classes.

    Args:
        split: Split as `splits_of` takes it.
    """
    return split is not None and not isinstance(split, Mapping | str | Path) and not _are_fractions(split)


def _are_fractions(split: Any) -> bool:
    return len(split) == 3 and all(isinstance(part, int | float) for part in split)


def _numbers(split: str, wanted: Any, labels: Labels) -> list[int]:
    """Indices of classes that are named, or given by their labels."""
    if isinstance(wanted, str) or not hasattr(wanted, "__iter__"):
        raise ValueError(f"split {split!r} is {shown(wanted)!r}: give a list of classes")
    # numbers are labels, where these are numbers, and otherwise count the classes
    by_number: tuple[Any, ...] = labels.values
    if isinstance(labels.values[0], str):
        by_number = tuple(range(len(labels.values)))
    known: dict[Any, int] = {v: i for i, v in enumerate(by_number)}
    known |= {name: i for i, name in enumerate(labels.classes)}
    found: list[int] = []
    for one in wanted:
        label = one.item() if hasattr(one, "item") else one
        if label not in known:
            few = ", ".join(shown(c) for c in labels.classes[:5]) + ", …" * (len(labels.classes) > 5)
            raise ValueError(f"split {split!r} names {shown(label)!r}, which is no class: there are {few}")
        found.append(known[label])
    return found


def _by_column(column: npt.NDArray[Any], labels: Labels) -> dict[str, list[int]]:
    """Classes of each split, by the split of each item."""
    if len(column) != len(labels.of):
        raise ValueError(f"split has {len(column)} values for {len(labels.of)} items: give one of each item")
    found: dict[str, list[int]] = {}
    for c, name in enumerate(labels.classes):
        of = sorted({str(MEANT.get(s, s)) for s in column[labels.of == c].tolist()})
        if len(of) > 1:
            raise ValueError(
                f"class {shown(name)!r} is in both splits {of[0]!r} and {of[1]!r}: splits share no class; "
                'divide the classes, split={"train": [...], "test": [...]}'
            )
        found.setdefault(of[0], []).append(c)
    return found
