"""ClassPool: a data set as one array of items, grouped by class."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from quickstudy.data.formats.images import Bytes
from quickstudy.data.formats.items import ItemFormat, Items

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassPool:
    """Labelled items, decoded once into one contiguous array and grouped by class.

    Args:
        items: uint8 pictures [I, C, H, W] or int16 clips [I, samples] (in memory or memory-mapped), the items
            of a class adjacent.
        classes: the names of the K classes.
        starts: [K] index of the first item of each class.
        counts: [K] number of items of each class.
        splits: class indices by the name of the split; class-disjoint.
        name: of the data set and, after a dot, the split.
        digest: identifies the items by the content they were made from.
        sources: [I] who or what each item comes from, such as the speaker of a clip, counted from 0; or None.
        source_names: their names.
        item_format: What pictures or clips must become to be such items, where that is known.

    Raises:
        ValueError: if two splits share a class, or counts, sources and items disagree.
    """

    items: Items
    classes: tuple[str, ...]
    starts: Index
    counts: Index
    splits: Mapping[str, Index] = field(default_factory=dict[str, Index])
    name: str = "pool"
    digest: str = ""
    sources: Index | None = None
    source_names: tuple[str, ...] = ()
    item_format: ItemFormat | None = None

    def __post_init__(self) -> None:
        """Check the parts against each other."""
        if not len(self.classes) == len(self.starts) == len(self.counts):
            raise ValueError(
                f"{len(self.classes)} class names, {len(self.starts)} starts, {len(self.counts)} counts: "
                "there must be one of each a class"
            )
        if self.items.dtype.name not in ("uint8", "int16"):
            raise ValueError(f"items are {self.items.dtype}: they must be uint8 (pictures) or int16 (clips)")
        if len(set(self.classes)) < len(self.classes):
            twice = next(c for i, c in enumerate(self.classes) if c in self.classes[:i])
            raise ValueError(f"two classes are named {twice!r}: names must differ")
        if len(self.starts) and int((self.starts + self.counts).max()) > len(self.items):
            raise ValueError(f"the classes reach beyond the {len(self.items)} items")
        if self.sources is not None:
            _check_sources(self.sources, len(self.items), self.source_names)
        seen: dict[int, str] = {}
        for split, indices in self.splits.items():
            for c in indices.tolist():
                if not 0 <= c < len(self.classes):
                    raise ValueError(f"split {split!r} names class {c} of {len(self.classes)}")
                if c in seen:
                    raise ValueError(f"class {self.classes[c]!r} is in both splits {seen[c]!r} and {split!r}")
                seen[c] = split

    @classmethod
    def from_arrays(
        cls, items: Items, classes: Sequence[str], counts: Sequence[int] | Index, **rest: Any
    ) -> "ClassPool":
        """A pool of items that lie one class after the other; `rest` as in the class."""
        sizes = np.asarray(counts, dtype=np.int64)
        if sizes.sum() != len(items):
            raise ValueError(f"the counts add up to {sizes.sum()}, but there are {len(items)} items")
        return cls(items, tuple(classes), np.cumsum(sizes) - sizes, sizes, **rest)

    def __len__(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    @property
    def indices(self) -> Index:
        """Of the items of all classes, one class after the other."""
        within = np.arange(self.counts.sum()) - np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        return np.repeat(self.starts, self.counts) + within

    def split(self, name: str, *more: str) -> "ClassPool":
        """The classes of one split, or of several together, over the same items.

        Raises:
            ValueError: if there is no split of that name.
        """
        names = (name, *more)
        for wanted in names:
            if wanted not in self.splits:
                known = ", ".join(self.splits) or "none"
                raise ValueError(f"{self.name} has no split {wanted!r}: its splits are {known}")
        chosen = np.concatenate([self.splits[wanted] for wanted in names])
        return replace(self.subset(chosen), name=f"{self.name}.{'+'.join(names)}")

    def subset(self, indices: Index | Sequence[int]) -> "ClassPool":
        """The pool of some of the classes, over the same items."""
        chosen = np.asarray(indices, dtype=np.int64)
        names = tuple(self.classes[i] for i in chosen.tolist())
        return replace(self, classes=names, starts=self.starts[chosen], counts=self.counts[chosen], splits={})

    def at_least(self, items: int) -> "ClassPool":
        """The classes that have so many items or more, over the same items; splits lose the others."""
        kept = np.flatnonzero(self.counts >= items)
        place = np.full(len(self), -1)
        place[kept] = np.arange(len(kept))
        splits = {name: place[of][place[of] >= 0] for name, of in self.splits.items()}
        return replace(self.subset(kept), splits=splits)

    def of_class(self, name: str) -> Items:
        """[count, ...], the items of one class."""
        if name not in self.classes:
            raise ValueError(f"{self.name} has no class {name!r}")
        i = self.classes.index(name)
        return self.items[self.starts[i] : self.starts[i] + self.counts[i]]

    def class_digests(self) -> dict[str, str]:
        """A digest of the items of each class, by its name: of what they show, not of where they lie."""
        return {
            name: hashlib.blake2b(np.ascontiguousarray(self.items[i : i + n]).data, digest_size=6).hexdigest()
            for name, i, n in zip(self.classes, self.starts.tolist(), self.counts.tolist(), strict=True)
        }

    def content_digest(self) -> str:
        """A digest of the classes' names and of all their items: equal for equal data, however loaded."""
        return hashlib.blake2b(json.dumps(self.class_digests()).encode(), digest_size=8).hexdigest()

    def summary(self) -> dict[str, Any]:
        """What a manifest or a table says of it."""
        return {
            "name": self.name,
            "classes": len(self),
            "items": int(self.counts.sum()),
            "digest": self.digest,
        }


def described(thing: object) -> str | None:
    """What a function, or an object of settings, is called in a manifest; None for None."""
    if thing is None:
        return None
    if isinstance(thing, partial):
        arguments = [*map(repr, thing.args), *(f"{k}={v!r}" for k, v in sorted(thing.keywords.items()))]
        return _without_addresses(f"{described(thing.func)}({', '.join(arguments)})")
    return _without_addresses(getattr(thing, "__qualname__", None) or repr(thing))


def _without_addresses(text: str) -> str:
    """Without the places in memory that Python writes into a representation: they differ at every start."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _check_sources(sources: Index, items: int, names: tuple[str, ...]) -> None:
    if sources.shape != (items,):
        raise ValueError(
            f"sources have shape {list(sources.shape)}: there must be one of each of {items} items"
        )
    if len(sources) and not 0 <= sources.min() <= sources.max() < len(names):
        raise ValueError(
            f"sources go from {sources.min()} to {sources.max()}: they count the {len(names)} names from 0"
        )


def with_rotations(items: Bytes, classes: Sequence[str], counts: Index) -> tuple[Bytes, list[str], Index]:
    """Rotations by 90°, 180° and 270° as new classes: all classes upright, then all turned once, ….

    Returns:
        items [4 I, C, H, W], 4 K class names, counts [4 K]; class c turned r times has index c + r K.
    """
    turned = np.concatenate([np.rot90(items, r, axes=(2, 3)) for r in range(4)])
    return turned, [f"{c}/rot{90 * r:03}" for r in range(4) for c in classes], np.tile(counts, 4)
