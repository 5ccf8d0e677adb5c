"""ClassPool: a data set as one array of items, grouped by class."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from quickstudy.core.arrays import IntArray
from quickstudy.core.progress import ProgressCallback
from quickstudy.data.formats.images import Bytes, ImageFormat
from quickstudy.data.formats.items import ItemFormat, Items
from quickstudy.data.mapped import give_back

if TYPE_CHECKING:  # they make pools
    from torch import nn

    from quickstudy.data.adapters.labels import ClassSplit, Names

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, repr=False)
class ClassPool:
    """Labelled items, decoded once into one contiguous array and grouped by class.

    Args:
        items: All I items, in memory or memory-mapped; the items of a class are adjacent. uint8 images
            [I, C, H, W] reach an encoder in [0, 1], int16 clips [I, samples] in [−1, 1), and float32 items
            [I, ...] of any shape (pictures of any channels, features, series) as they are.
        classes: Names of the K classes, all different.
        starts: [K] index of the first item of each class.
        counts: [K] number of items of each class.
        splits: Class indices of each split, by the split's name; no class is in two splits.
        name: Name of the data set, followed by a dot and the split if the pool is one.
        digest: Hash of the content that the items were made from; identifies the data set.
        sources: [I] index into `source_names` of the source of each item, such as the speaker of a clip; None
            if sources are unknown.
        source_names: Names of the sources.
        recorded: [K] True for each class that was recorded, False for each that was made from other classes,
            such as a rotated character; None if all were recorded.
        item_format: What files must become to be such items, where that is known.
        original_size: Median shorter side of the original pictures in pixels, or length of the recordings in
            seconds; None where that is unknown.

    Raises:
        ValueError: If two splits share a class, or classes, items, sources and recorded disagree.
    """

    items: Items
    classes: tuple[str, ...]
    starts: IntArray
    counts: IntArray
    splits: Mapping[str, IntArray] = field(default_factory=dict[str, IntArray])
    name: str = "pool"
    digest: str = ""
    sources: IntArray | None = None
    source_names: tuple[str, ...] = ()
    item_format: ItemFormat | None = None
    recorded: BoolArray | None = None
    original_size: float | None = None

    def __post_init__(self) -> None:
        """Check the parts against each other."""
        if not len(self.classes) == len(self.starts) == len(self.counts):
            raise ValueError(
                f"{len(self.classes)} class names, {len(self.starts)} starts, {len(self.counts)} counts: "
                "there must be one of each a class"
            )
        _check_items(self.items)
        shape = self.items.shape
        if self.items.dtype == np.uint8 and len(shape) == 4 and shape[1] > 4 >= shape[3] and shape[2] > 4:
            raise ValueError(
                f"pictures are {list(shape[1:])}, which is height × width × channels: a pool takes channels "
                "first, items.transpose(0, 3, 1, 2)"
            )
        if len(set(self.classes)) < len(self.classes):
            twice = next(c for i, c in enumerate(self.classes) if c in self.classes[:i])
            raise ValueError(f"two classes are named {twice!r}: names must differ")
        if len(self.starts) and int((self.starts + self.counts).max()) > len(self.items):
            raise ValueError(f"the classes reach beyond the {len(self.items)} items")
        if self.sources is not None:
            _check_sources(self.sources, len(self.items), self.source_names)
        if self.recorded is not None and self.recorded.shape != (len(self.classes),):
            raise ValueError(
                f"recorded has shape {list(self.recorded.shape)}: "
                f"there must be one value for each of the {len(self.classes)} classes"
            )
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
        cls,
        x: Any,
        y: Any,
        *,
        names: "Names | None" = None,
        split: "ClassSplit | None" = None,
        channels: Literal["first", "last"] | None = None,
        sources: Any = None,
        name: str = "pool",
        seed: int = 0,
    ) -> "ClassPool":
        """Make a pool of items and their labels, in any order.

        Classes are in the order of their labels, and the items of a class in that of `x`. Items in memory are
        copied into that order, unless they are in it already; those of a memory-mapped array into a file of
        the cache folder that goes with the pool.

        Args:
            x: [I, ...] items, of numpy or torch: uint8 pictures [I, C, H, W], [I, H, W, C] or [I, H, W],
                int16 clips [I, samples], or floats of any shape, kept as float32 and passed on as they are.
            y: [I] labels, whole numbers or texts: a list, an array or a tensor.
            names: Names of the classes, by number or as {label: name}; None to take the labels themselves.
            split: {"train": [class, ...], "validation": [...], "test": [...]}, of names or labels; a JSON
                file of this; three fractions of the classes for these, drawn at random; or the name of the
                split of each item. None for no splits.
            channels: Where floats of three dimensions have their channels, "first" or "last"; None to refuse
                what looks as if they came last. Of uint8 pictures this is seen.
            sources: [I] source of each item, such as a speaker; None if sources are unknown.
            name: Name of the pool.
            seed: Seed of a split by fractions.

        Raises:
            ValueError: If items and labels disagree in number, or are uneven, empty, not finite, of another
                type or of one class; or if a split or name fits no class.

        Example:
            >>> x, y = np.zeros((4, 8), np.float32), ["b", "a", "b", "a"]
            >>> ClassPool.from_arrays(x, y, split={"test": ["b"]})
            ClassPool('pool': 2 classes, 4 items [8] float32; test 1)
        """
        from quickstudy.data.adapters.arrays import pool_of_arrays

        return pool_of_arrays(x, y, names, split, channels, sources, name, seed)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        image: str | int | None = None,
        label: Any = None,
        split: "ClassSplit | None" = None,
        size: int | None = None,
        grey: bool | None = None,
        image_format: ImageFormat | None = None,
        channels: Literal["first", "last"] | None = None,
        names: "Names | None" = None,
        lazy: bool | None = None,
        skip_corrupt: bool = False,
        name: str | None = None,
        seed: int = 0,
        progress: ProgressCallback | None = None,
    ) -> "ClassPool":
        """Make a pool of a map-style data set of torch or torchvision, or one of Hugging Face.

        Each item is read once and written to its place in one array, so that memory holds little more than
        that; labels are taken from `targets`, `labels`, `samples` or the column of labels, where there are
        such, without reading the items. Names of classes are those of the data set (`classes`, or the
        features). Items are PIL pictures, files' bytes or paths, uint8 arrays or tensors in any layout, or
        float arrays or tensors of any shape, which are kept as float32 and passed on as they are.

        Args:
            dataset: Data set with len(ds) and ds[i]; or several by the name of the split, {"train": ds, …},
                which share no class.
            image: Where an item has its picture: a column, a key or a place in a tuple; None for the one of
                that feature or usual name, or the first.
            label: The same of its label, the second by default; or the labels [I] of all items.
            split: {"train": [class, ...], "validation": [...], "test": [...]}, of names or labels; a JSON
                file of this; three fractions of the classes; the name of a column, or the split of each item.
                None for no splits.
            size: Height and width in pixels that pictures are scaled to, after cropping to their middle
                square; None to keep the size that all of them have.
            grey: Whether pictures are read without color; None for as the first one is.
            image_format: Format that pictures are converted to, in the place of `size` and `grey`.
            channels: Where float items of three dimensions have their channels, "first" or "last"; None to
                refuse what looks as if they came last.
            names: Names of the classes, by number or as {label: name}; None for those of the data set.
            lazy: Whether the items are kept in a file of the cache folder, of which no more than 256 MiB are
                in memory, and which is gone with the pool; None for a file where they take more than 2 GiB.
            skip_corrupt: Whether to skip items that can't be read, with a warning, instead of raising an
                error.
            name: Name of the pool; None for that of the data set.
            seed: Seed of a split by fractions.
            progress: Function that is called with (done, total) while reading.

        Raises:
            TypeError: If it is no map-style data set.
            ValueError: If it isn't clear what is picture and label; if items are of unequal shapes or types;
                or if labels, names or splits don't fit.
            OSError: If an item can't be read; the message gives its number and the reason.

        Example:
            >>> import torch
            >>> x = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
            >>> ds = torch.utils.data.TensorDataset(x, torch.tensor([1, 0, 1, 0]))
            >>> ClassPool.from_dataset(ds, split={"train": [0]}, name="mine")
            ClassPool('mine': 2 classes, 4 items [3, 8, 8] uint8; train 1)
        """
        from quickstudy.data.adapters.dataset import pool_of_dataset

        return pool_of_dataset(
            dataset,
            image,
            label,
            split,
            size,
            grey,
            image_format,
            channels,
            names,
            lazy,
            skip_corrupt,
            name,
            seed,
            progress,
        )

    @classmethod
    def from_grouped(
        cls, items: Items, classes: Sequence[str], counts: Sequence[int] | IntArray, **rest: Any
    ) -> "ClassPool":
        """Make a pool of items that lie one class after the other; see `from_arrays` for labels in any order.

        Args:
            items: All I items, uint8 images [I, C, H, W], int16 clips [I, samples] or float32 items [I, ...].
            classes: Names of the K classes, in the order of the items.
            counts: [K] number of items of each class.
            **rest: Further arguments of `ClassPool`, such as `splits` and `name`.

        Raises:
            ValueError: If the counts do not add up to the number of items.
        """
        sizes = np.asarray(counts, dtype=np.int64)
        if sizes.sum() != len(items):
            raise ValueError(f"the counts add up to {sizes.sum()}, but there are {len(items)} items")
        return cls(items, tuple(classes), np.cumsum(sizes) - sizes, sizes, **rest)

    def embedded(
        self, encoder: "nn.Module", *, batch_size: int = 256, progress: ProgressCallback | None = None
    ) -> "ClassPool":
        """The pool of the embeddings of all items, from which thousands of tasks a second can be drawn.

        Each item is encoded once, in evaluation mode and without gradients, on the device of the encoder. The
        vectors are kept in the cache folder, by a fingerprint of the encoder and the content of the pool, so
        the same encoder isn't asked again. They are items like any others: an encoder of vectors [B, D], such
        as `torch.nn.Identity()`, goes into a learner.

        Args:
            encoder: Any module from items [B, ...] to embeddings [B, D].
            batch_size: Number of items that are encoded at a time.
            progress: Function that is called with (done, total); a bar on a terminal by default.

        Returns:
            Pool of float32 vectors [I, D], with the same classes, splits and sources.

        Raises:
            ValueError: If the encoder's output is not [B, D], or not finite.
            OSError: If the cache folder can't be written.
        """
        from quickstudy.data.embedded import embedded_pool

        return embedded_pool(self, encoder, batch_size, progress)

    def __repr__(self) -> str:
        """`ClassPool('glyphs': 398 classes, 9552 items [1, 28, 28] uint8; train 271, …)`."""
        splits = ", ".join(f"{name} {len(of)}" for name, of in self.splits.items())
        shape = f"{list(self.items.shape[1:])} {self.items.dtype}"
        whole = f"{self.name!r}: {len(self)} classes, {int(self.counts.sum())} items {shape}"
        return f"ClassPool({whole}{'; ' if splits else ''}{splits})"

    def __len__(self) -> int:
        """Number of classes, K."""
        return len(self.classes)

    @property
    def indices(self) -> IntArray:
        """Indices of the items of all classes, one class after the other."""
        within = np.arange(self.counts.sum()) - np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        return np.repeat(self.starts, self.counts) + within

    def split(self, name: str, *more: str) -> "ClassPool":
        """The pool of the classes of one or several splits; it shares the items of this pool.

        Args:
            name: Name of the split, such as "train".
            *more: Names of further splits to join to it.

        Raises:
            ValueError: If there is no split of that name.
        """
        names = (name, *more)
        for wanted in names:
            if wanted not in self.splits:
                known = ", ".join(self.splits) or "none"
                raise ValueError(f"{self.name} has no split {wanted!r}: its splits are {known}")
        chosen = np.concatenate([self.splits[wanted] for wanted in names])
        return replace(self.subset(chosen), name=f"{self.name}.{'+'.join(names)}")

    def subset(self, indices: IntArray | Sequence[int]) -> "ClassPool":
        """The pool of some of the classes, without splits; it shares the items of this pool.

        Args:
            indices: Indices of the classes to keep, in the order they shall have.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        names = tuple(self.classes[i] for i in chosen.tolist())
        return replace(
            self,
            classes=names,
            starts=self.starts[chosen],
            counts=self.counts[chosen],
            splits={},
            recorded=None if self.recorded is None else self.recorded[chosen],
        )

    def at_least(self, items: int) -> "ClassPool":
        """The pool of the classes with enough items; other classes are removed from the splits too.

        Args:
            items: Smallest number of items of a class that is kept.
        """
        return self._only(self.counts >= items)

    def recorded_classes(self) -> "ClassPool":
        """The pool of the recorded classes; classes made from others are removed from the splits too."""
        return self if self.recorded is None else self._only(self.recorded)

    def _only(self, wanted: BoolArray) -> "ClassPool":
        """The pool of the classes [K] that are wanted, with its splits."""
        kept = np.flatnonzero(wanted)
        place = np.full(len(self), -1)
        place[kept] = np.arange(len(kept))
        splits = {name: place[of][place[of] >= 0] for name, of in self.splits.items()}
        return replace(self.subset(kept), splits=splits)

    def of_class(self, name: str) -> Items:
        """The items [count, ...] of one class.

        Args:
            name: Name of the class.

        Raises:
            ValueError: If there is no class of that name.
        """
        if name not in self.classes:
            raise ValueError(f"{self.name} has no class {name!r}")
        i = self.classes.index(name)
        return self.items[self.starts[i] : self.starts[i] + self.counts[i]]

    def class_digests(self) -> dict[str, str]:
        """Hash of the items of each class, by the class's name; it depends on their content only."""
        found: dict[str, str] = {}
        for name, i, n in zip(self.classes, self.starts.tolist(), self.counts.tolist(), strict=True):
            of = np.ascontiguousarray(self.items[i : i + n])
            found[name] = hashlib.blake2b(of.data, digest_size=6).hexdigest()
            give_back(self.items)
        return found

    def content_digest(self) -> str:
        """Hash of all class names and items: equal for equal data, however it was loaded."""
        return hashlib.blake2b(json.dumps(self.class_digests()).encode(), digest_size=8).hexdigest()

    def summary(self) -> dict[str, Any]:
        """Name, size and digest of the pool, for a manifest or a table."""
        return {
            "name": self.name,
            "classes": len(self),
            "items": int(self.counts.sum()),
            "digest": self.digest,
        }


def described(thing: object) -> str | None:
    """Text that stands for a function or a settings object in a manifest; None for None.

    Args:
        thing: Function, `partial` or object with a readable `repr`.
    """
    if thing is None:
        return None
    if isinstance(thing, partial):
        arguments = [*map(repr, thing.args), *(f"{k}={v!r}" for k, v in sorted(thing.keywords.items()))]
        return _without_addresses(f"{described(thing.func)}({', '.join(arguments)})")
    return _without_addresses(getattr(thing, "__qualname__", None) or repr(thing))


def _without_addresses(text: str) -> str:
    """Remove the memory addresses that Python writes into a `repr`: they differ from run to run."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _check_items(items: Items) -> None:
    if items.dtype.name not in ("uint8", "int16", "float32") or not items.dtype.isnative:
        raise ValueError(
            f"items are {items.dtype}: they must be uint8 (pictures), int16 (clips) or float32 (passed on as "
            "they are), such as by items.astype(np.float32)"
        )
    if items.ndim < 2:
        raise ValueError(
            f"items are {list(items.shape)}: there must be dimensions after the first, such as [I, 1]"
        )


def _check_sources(sources: IntArray, items: int, names: tuple[str, ...]) -> None:
    if sources.shape != (items,):
        raise ValueError(
            f"sources have shape {list(sources.shape)}: there must be one of each of {items} items"
        )
    if len(sources) and not 0 <= sources.min() <= sources.max() < len(names):
        raise ValueError(
            f"sources go from {sources.min()} to {sources.max()}: they count the {len(names)} names from 0"
        )


def with_rotations(
    items: Bytes, classes: Sequence[str], counts: IntArray
) -> tuple[Bytes, list[str], IntArray]:
    """Add rotations by 90°, 180° and 270° as new classes, after the upright ones.

    Args:
        items: [I, C, H, W] uint8 square images, H = W, one class after the other.
        classes: Names of the K classes.
        counts: [K] number of items of each class.

    Returns:
        Items [4 I, C, H, W], 4 K class names and counts [4 K]. Class c rotated by r · 90° has index c + r K.
    """
    turned = np.concatenate([np.rot90(items, r, axes=(2, 3)) for r in range(4)])
    return turned, [f"{c}/rot{90 * r:03}" for r in range(4) for c in classes], np.tile(counts, 4)
