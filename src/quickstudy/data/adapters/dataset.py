"""Data sets of torch, torchvision and Hugging Face, read once into a `ClassPool`."""

import io
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from quickstudy.core.progress import ProgressCallback
from quickstudy.core.wording import one_line, plural, shown
from quickstudy.data.adapters.arrays import Channels, array_of, as_item, kept_dtype
from quickstudy.data.adapters.labels import (
    MEANT,
    ClassSplit,
    Labels,
    Names,
    flat_labels,
    is_column,
    labels_of,
    splits_of,
)
from quickstudy.data.adapters.parts import Part, name_of, part_of
from quickstudy.data.adapters.store import allocate, rearrange
from quickstudy.data.formats.images import ImageFormat, readable_formats
from quickstudy.data.formats.items import Items
from quickstudy.data.mapped import CHUNK, give_back
from quickstudy.data.pool import ClassPool

GREY = ("1", "L", "LA", "La", "F")
"""Modes of pictures without colours; those that begin with I are, too."""
EVERY = 64
"""Items from one call of `progress` to the next."""


def pool_of_dataset(
    dataset: Any,
    image: str | int | None = None,
    label: Any = None,
    split: ClassSplit | None = None,
    size: int | None = None,
    grey: bool | None = None,
    image_format: ImageFormat | None = None,
    channels: Channels | None = None,
    names: Names | None = None,
    lazy: bool | None = None,
    skip_corrupt: bool = False,
    name: str | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> ClassPool:
    """Read a data set; see `ClassPool.from_dataset`.

    Args:
        dataset: Data set, or several by the name of the split.
        image: Where an item has its picture.
        label: Where an item has its label, or all labels.
        split: Classes of each split.
        size: Height and width in pixels that pictures are scaled to.
        grey: Whether pictures are read without color.
        image_format: Format that pictures are converted to.
        channels: Where arrays of three dimensions have their channels.
        names: Names of the classes.
        lazy: Whether the items are kept in a file.
        skip_corrupt: Whether to skip items that can't be read.
        name: Name of the pool.
        seed: Seed of a split by fractions.
        progress: Function that is called with (done, total) from time to time.
    """
    if image_format and (size is not None or grey is not None):
        raise ValueError("image_format says size and color: leave out size and grey")
    if size is not None:
        ImageFormat(size)  # refuses a size that is none
    if isinstance(dataset, Mapping):
        several = cast(Mapping[str, Any], dataset)
        if split is not None:
            raise ValueError("split and data sets by split: leave out split, or join the data sets")
        of_split = (
            cast(Mapping[str, Any], label) if isinstance(label, Mapping) else dict.fromkeys(several, label)
        )
        parts = [part_of(ds, image, of_split[s], f"{s}") for s, ds in several.items()]
        split = [
            str(MEANT.get(s, s)) for s, part in zip(several, parts, strict=True) for _ in range(part.size)
        ]
        name = name or "pool"
    else:
        parts = [part_of(dataset, image, label, "the data set")]
        if isinstance(split, str) and parts[0].column and not Path(split).suffix:
            split = parts[0].column(split)
        name = name or name_of(dataset)
    if not sum(part.size for part in parts):
        raise ValueError("the data set is empty: give one with items")
    reader = _Reader(size, grey, image_format, channels, skip_corrupt)
    read = reader.read(parts, names, lambda labels: splits_of(split, labels, seed), lazy, progress)
    labels, items, kept = read
    if is_column(split) and not kept.all():  # of which some items were left out
        split = flat_labels(split, "split")[kept].tolist()
    return ClassPool.from_grouped(
        items,
        labels.classes,
        labels.counts,
        splits=splits_of(split, labels, seed),
        name=name,
        item_format=reader.form,
        original_size=float(np.median(reader.sizes)) if reader.sizes else None,
    )


def joined_labels(parts: Sequence[Part], each: Sequence[Any], names: Names | None) -> Labels:
    """Labels of all parts, by the names of the classes where one of several parts has them.

    Args:
        parts: Data sets.
        each: Labels of each of them.
        names: Names that the user gives.
    """
    own = [(part, flat_labels(of, "label")) for part, of in zip(parts, each, strict=True) if len(of)]
    if not own:
        raise ValueError("the data set is empty: give one with items")
    if names is None and len(own) == 1:
        known = own[0][0].names or ()
        values = np.unique(own[0][1]).tolist()
        names = known if all(isinstance(v, int) and 0 <= v < len(known) for v in values) else None
    elif names is None and any(part.names for part in parts):
        own = [(part, np.asarray([_named(v, part.names) for v in of.tolist()])) for part, of in own]
    if len({of.dtype.kind in "US" for _, of in own}) > 1:
        raise ValueError("labels of one data set are numbers, and of another texts: make them alike")
    return labels_of(np.concatenate([of for _, of in own]), names, "label")


def _named(label: Any, names: Sequence[str] | None) -> str:
    return names[label] if names and isinstance(label, int) and 0 <= label < len(names) else str(label)


class _Reader:
    """Reads items one by one into an array: each to its place, where labels are known before."""

    def __init__(
        self,
        size: int | None,
        grey: bool | None,
        form: ImageFormat | None,
        channels: Channels | None,
        skip: bool,
    ) -> None:
        self.size, self.grey, self.form, self.skip = size, grey, form, skip
        self.channels: Channels | None = channels
        self.wanted = form is not None or size is not None or grey is not None  # so they are pictures
        self.fixed = form is None and size is None  # all have one size, that of the first
        self.first: npt.NDArray[Any] | None = None
        self.dtype: Any = None
        self.sizes: list[int] = []

    def read(
        self,
        parts: Sequence[Part],
        names: Names | None,
        check: Callable[[Labels], Any],
        lazy: bool | None,
        progress: ProgressCallback | None,
    ) -> tuple[Labels, Items, npt.NDArray[np.bool_]]:
        """Labels, items by class, and which items [I] of the data sets these are."""
        total = sum(part.size for part in parts)
        labels, place = None, np.arange(total)
        if all(part.labels is not None for part in parts if part.size):
            labels = joined_labels(parts, [[] if p.labels is None else p.labels for p in parts], names)
            check(labels)  # before the long work
            place[labels.order] = np.arange(total)
        items: Any = None
        kept, bad = np.ones(total, np.bool_), dict[str, str]()
        found: list[list[Any]] = [[] for _ in parts]
        since, i = 0, -1
        for part, own in zip(parts, found, strict=True):
            for within in range(part.size):
                i += 1
                try:
                    raw, label = part.get(within)
                    value = self._item(raw)
                except _OtherwiseError as error:
                    raise ValueError(f"item {within} of {part.name} {error}") from None
                except Exception as error:
                    reason = one_line(error) or type(error).__name__
                    if not self.skip:
                        raise OSError(
                            f"item {within} of {part.name} can't be read ({reason}): mend or leave it out, "
                            "or skip such items with skip_corrupt=True"
                        ) from error
                    bad[f"item {within} of {part.name}"] = reason
                    kept[i] = False
                    continue
                if items is None:
                    items = allocate((total, *value.shape), self.dtype, lazy)
                items[place[i]] = value
                own.append(label)
                if part.labels is not None and label is not None:
                    _check_label(label, part.labels[within], f"item {within} of {part.name}")
                if (since := since + value.nbytes) > CHUNK:
                    give_back(items)
                    since = 0
                if progress and (i % EVERY == 0 or i == total - 1):
                    progress(i + 1, total)
        if bad:
            _say_skipped(bad, total)
        if items is None:
            raise OSError("none of the items can be read: mend them")
        if labels is None:
            labels = joined_labels(parts, [[*map(_plain, own)] for own in found], names)
            if not kept.all():
                _close_up(items, np.flatnonzero(kept))
            items = items[: len(labels.of)]
            rearrange(items, labels.order)
        elif not kept.all():
            labels = _without(labels, kept)
            _close_up(items, np.sort(place[kept]))
            items = items[: len(labels.of)]
        give_back(items)
        return labels, items, kept

    def _item(self, raw: Any) -> npt.NDArray[Any]:
        """One item as it is stored."""
        is_file = isinstance(raw, bytes | str | Path) or (isinstance(raw, Mapping) and "bytes" in raw)
        if self.wanted or is_file or isinstance(raw, Image.Image):
            return self._picture(raw, is_file)
        x = array_of(raw, "it")
        if self.first is None:
            with _otherwise():
                self.dtype = kept_dtype(x, "it")
        with _otherwise():
            x = as_item(x, self.channels, "it")
        if x.ndim == 0:
            x = x[None]
        return self._alike(x)

    def _alike(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.first is None:
            self.first = x
        if x.shape != self.first.shape or kept_dtype(x, "it") is not self.dtype:
            raise _OtherwiseError(
                f"is {x.dtype} {list(x.shape)} and the first {self.first.dtype} {list(self.first.shape)}: "
                "make all items alike" + (", or give size= for pictures" if x.dtype == np.uint8 else "")
            )
        if x.dtype.kind == "f" and not np.isfinite(x := x.astype(np.float32)).all():
            raise ValueError("it holds numbers that aren't finite")
        return x

    def _picture(self, raw: Any, is_file: bool) -> npt.NDArray[np.uint8]:
        picture: Any = raw
        if is_file:
            if isinstance(raw, Mapping):
                raw = raw["bytes"] if raw["bytes"] is not None else raw["path"]
            if self.form and not self.fixed:
                return self.form.decode((lambda: raw) if isinstance(raw, bytes) else Path(raw))
            picture = Image.open(
                io.BytesIO(raw) if isinstance(raw, bytes) else raw, formats=readable_formats()
            )
        elif not isinstance(raw, Image.Image):
            picture = _as_picture(array_of(raw, "it"))
        width, height = picture.size
        self.dtype = np.uint8
        if self.form is None:
            if self.size is None and width != height:
                raise _OtherwiseError(f"is {width} × {height} pixels: say to which size to scale, size=84")
            grey = (
                self.grey if self.grey is not None else picture.mode in GREY or picture.mode.startswith("I")
            )
            self.form = ImageFormat(height if self.size is None else self.size, 1 if grey else 3)
        if self.fixed and (width, height) != (self.form.size, self.form.size):
            raise _OtherwiseError(
                f"is {width} × {height} pixels and the first {self.form.size} × {self.form.size}: say to "
                f"which size to scale, size={self.form.size}"
            )
        self.sizes.append(min(width, height))
        return self.form.convert(picture)


class _OtherwiseError(ValueError):
    """An item that is whole, and yet not to be taken: it ends the reading, whatever is skipped."""


@contextmanager
def _otherwise() -> Generator[None]:
    """Context in which a ValueError ends the reading."""
    try:
        yield
    except _OtherwiseError:
        raise
    except ValueError as error:
        raise _OtherwiseError(str(error).removeprefix("it ")) from None


def _as_picture(x: npt.NDArray[Any]) -> Image.Image:
    if x.dtype != np.uint8:
        raise _OtherwiseError(
            f"is {x.dtype} {list(x.shape)}, and size, grey and image_format are for pictures: leave them "
            "out, or give the data set without its transform"
        )
    with _otherwise():
        x = as_item(x, None, "it")
    if x.ndim != 3 or len(x) not in (1, 3, 4):
        raise _OtherwiseError(f"is uint8 {list(x.shape)}: pictures are [H, W], [H, W, C] or [C, H, W]")
    return Image.fromarray(x[0] if len(x) == 1 else np.ascontiguousarray(x.transpose(1, 2, 0)))


def _plain(label: Any) -> Any:
    """A label that may be a number in a tensor or an array without dimensions."""
    return label.item() if getattr(label, "ndim", 1) == 0 else label


def _check_label(own: Any, ahead: Any, which: str) -> None:
    own, ahead = _plain(own), _plain(ahead)
    if isinstance(own, int) and isinstance(ahead, int) and own != ahead:
        raise ValueError(
            f"{which} has the label {own}, and the list of labels says {ahead}: give the labels yourself, "
            "label=[…]"
        )


def _close_up(items: npt.NDArray[Any], kept: npt.NDArray[np.int64]) -> None:
    """Move the items that are kept to the front, in their order."""
    for to, i in enumerate(kept.tolist()):
        if to != i:
            items[to] = items[i]


def _without(labels: Labels, kept: npt.NDArray[np.bool_]) -> Labels:
    of = labels.of[kept]
    left = np.bincount(of, minlength=len(labels.classes))
    if not left.all():
        raise ValueError(
            f"no item of class {shown(labels.classes[int(np.argmin(left))])!r} can be read: mend or "
            "leave it out"
        )
    return Labels(of, labels.classes, labels.values)


def _say_skipped(bad: Mapping[str, str], total: int) -> None:
    named = "; ".join(f"{which}: {reason}" for which, reason in list(bad.items())[:5])
    more = "; …" if len(bad) > 5 else ""
    warnings.warn(
        f"{len(bad)} of {plural(total, 'item')} can't be read: {named}{more}; skipped", stacklevel=4
    )
