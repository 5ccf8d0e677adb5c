"""Class-disjoint splits: at random by fractions, or read from lists."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from quickstudy.core.foreign import json_of
from quickstudy.core.wording import plural, shown

FRACTIONS = (0.64, 0.16, 0.20)
"""Fractions of the classes for training, validation and test: those of miniImageNet."""
SPLITS = ("train", "validation", "test")

Split = str | Path | Sequence[float] | Mapping[str, Sequence[str]]
"""A JSON file of class names by split, three fractions of the classes, or the class names by split."""


def random_split(classes: int, fractions: Sequence[float], seed: int) -> dict[str, list[int]]:
    """Split classes at random; every split with a non-zero fraction gets at least one class.

    Args:
        classes: Number of classes, K.
        fractions: Three fractions of the classes, for training, validation and test, with sum 1.
        seed: Seed of the random split.

    Returns:
        Sorted class indices of "train", "validation" and "test".

    Raises:
        ValueError: If the fractions are not three with sum 1, or there are too few classes.
    """
    if len(fractions) != 3 or min(fractions) < 0 or not 0.999 < sum(fractions) < 1.001:
        raise ValueError(
            f"fractions are {list(fractions)}: give three, of train, validation and test, that sum to 1"
        )
    wanted = sum(f > 0 for f in fractions)
    if classes < wanted:
        raise ValueError(f"{plural(classes, 'class')} can't be split {wanted} ways: bring more classes")
    sizes = [max(int(f > 0), round(f * classes)) for f in fractions[1:]]
    while sum(sizes) > classes - int(fractions[0] > 0):
        sizes[int(np.argmax(sizes))] -= 1
    if not fractions[0]:  # the remainder from rounding must not go to training
        sizes[int(np.argmax(sizes))] += classes - sum(sizes)
    order = np.random.default_rng(seed).permutation(classes).tolist()
    bounds = [0, classes - sum(sizes), classes - sizes[1], classes]
    return {s: sorted(order[a:b]) for s, a, b in zip(SPLITS, bounds[:-1], bounds[1:], strict=True)}


def read_split(split: str | Path | Mapping[str, Sequence[str]], classes: list[str]) -> dict[str, list[int]]:
    """Look up the class indices of each split by the class names.

    Args:
        split: Class names by split, or a JSON file of them.
        classes: Names of all K classes.

    Returns:
        Class indices of "train", "validation" and "test"; empty for a split that is not named.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or names an unknown split or class.
    """
    if isinstance(split, Mapping):
        lists, origin = split, "the split"
    else:
        lists, origin = _read_lists(Path(split)), str(split)
    if not all(isinstance(names, list | tuple) for names in getattr(lists, "values", tuple)()):
        raise ValueError(_no_split(origin))
    try:
        unknown = sorted({c for names in lists.values() for c in names} - set(classes))
    except (AttributeError, TypeError):
        raise ValueError(_no_split(origin)) from None
    if set(lists) - set(SPLITS):
        raise ValueError(
            f"{origin} names splits {shown(sorted(lists))}: they must be among {', '.join(SPLITS)}"
        )
    if unknown:
        raise ValueError(
            f"{origin} names {plural(len(unknown), 'class')} without a folder, e.g. {unknown[0]!r}"
        )
    return {s: [classes.index(c) for c in lists.get(s, [])] for s in SPLITS}


def _read_lists(path: Path) -> dict[str, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"no split file at {path}")
    try:
        return json_of(path.read_bytes())
    except ValueError:
        raise ValueError(_no_split(str(path))) from None


def _no_split(origin: str) -> str:
    return f'{origin} is no split file: expected {{"train": ["class", ...], "validation": ..., "test": ...}}'
