"""Arrays and labels, of numpy or torch and in any order, as the parts of a `ClassPool`."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quickstudy.core.wording import plural
from quickstudy.data.adapters.labels import ClassSplit, Names, flat_labels, labels_of, splits_of
from quickstudy.data.adapters.store import allocate
from quickstudy.data.formats.items import Items
from quickstudy.data.mapped import CHUNK, give_back
from quickstudy.data.pool import ClassPool

Channels = Literal["first", "last"]


def pool_of_arrays(
    x: Any,
    y: Any,
    names: Names | None = None,
    split: ClassSplit | None = None,
    channels: Channels | None = None,
    sources: Any = None,
    name: str = "pool",
    seed: int = 0,
) -> ClassPool:
    """Make a pool of arrays; see `ClassPool.from_arrays`.

    Args:
        x: [I, ...] items.
        y: [I] labels.
        names: Names of the classes.
        split: Classes of each split.
        channels: Where the channels of pictures are.
        sources: [I] source of each item.
        name: Name of the pool.
        seed: Seed of a split by fractions.
    """
    items = array_of(x)
    labels = labels_of(y, names)
    if len(labels.of) != len(items):
        raise ValueError(
            f"x has {plural(len(items), 'item')} and y {plural(len(labels.of), 'label')}: give one label for "
            "each item"
        )
    view = as_item(items, channels, "x", 1)
    dtype = kept_dtype(view, "x")
    order, splits = labels.order, splits_of(split, labels, seed)
    rest: dict[str, Any] = {}
    if sources is not None:
        who, which = np.unique(flat_labels(sources, "sources"), return_inverse=True)
        if len(which) != len(items):
            raise ValueError(f"sources has {len(which)} values for {len(items)} items: give one of each item")
        rest = {"sources": which[order].astype(np.int64), "source_names": tuple(map(str, who.tolist()))}
    return ClassPool.from_grouped(
        _sorted(view, order, dtype), labels.classes, labels.counts, splits=splits, name=name, **rest
    )


def _sorted(view: npt.NDArray[Any], order: npt.NDArray[np.int64], dtype: npt.DTypeLike) -> Items:
    """Items in an order; the given array itself, where it is in that order and of that type already."""
    step = max(1, CHUNK // max(1, view[:1].nbytes))
    as_it_is = (
        view.dtype == dtype and view.dtype.isnative and view.flags.c_contiguous and (np.diff(order) > 0).all()
    )
    lazy = True if isinstance(view, np.memmap) else None
    out: Any = view if as_it_is else allocate(view.shape, dtype, lazy)
    for i in range(0, len(order), step):
        of = order[i : i + step]
        if not as_it_is:
            with np.errstate(over="ignore"):  # said below
                out[i : i + step] = view[of]
        if out.dtype.kind == "f" and not (good := np.isfinite(out[i : i + step])).all():
            bad = of[~good.reshape(len(of), -1).all(1)]
            raise ValueError(
                f"x[{int(bad.min())}] holds numbers that aren't finite (NaN, or beyond float32): mend or "
                "leave out such items"
            )
        give_back(out)
        give_back(view)
    return out


def array_of(x: Any, what: str = "x") -> npt.NDArray[Any]:
    """A tensor, an array or a list of items as an array; it isn't copied if it needn't be.

    Args:
        x: Items [I, ...], or a single one.
        what: What they are called in messages.

    Raises:
        ValueError: If they are of unequal shapes, or no numbers.
    """
    if isinstance(x, list | tuple) and x and hasattr(x[0], "shape"):
        parts: list[Any] = [array_of(part, f"{what}[{i}]") for i, part in enumerate(x)]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        for i, part in enumerate(parts):
            if part.shape != parts[0].shape:
                raise ValueError(
                    f"{what}[{i}] is {list(part.shape)} and {what}[0] {list(parts[0].shape)}: make all items "
                    "of one shape"
                )
        return np.stack(parts)
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    try:
        found: npt.NDArray[Any] = np.asanyarray(x)
    except ValueError:
        raise ValueError(f"{what} holds items of unequal shapes: make all of one shape") from None
    if found.dtype.kind not in "uifb":
        kind = "objects (items of unequal shapes, or no numbers)" if found.dtype.kind == "O" else found.dtype
        raise ValueError(f"{what} holds {kind}: make all items numbers, of one shape")
    return found


def kept_dtype(x: npt.NDArray[Any], what: str) -> type[np.uint8 | np.int16 | np.float32]:
    """The type that items are kept in: uint8 and int16 as they are, any floats as float32.

    Args:
        x: Items.
        what: What they are called in messages.

    Raises:
        ValueError: If they are of another type, of which it isn't clear how to scale it.
    """
    if x.dtype == np.uint8:
        return np.uint8
    if x.dtype == np.int16:
        return np.int16
    if x.dtype.kind == "f":
        return np.float32
    raise ValueError(
        f"{what} is {x.dtype}: give pictures of 0 … 255 as uint8, clips as int16, and what is to be passed "
        "on as it is as float32"
    )


def as_item(x: npt.NDArray[Any], channels: Channels | None, what: str, before: int = 0) -> npt.NDArray[Any]:
    """A view of items with the channels of pictures first.

    Args:
        x: Items [..., H, W], [..., C, H, W], [..., H, W, C] or of any other shape.
        channels: Where the channels are; None to find out, which of floats is refused where it looks like
            "last".
        what: What they are called in messages.
        before: Number of dimensions before those of an item: 1 for [I, ...].

    Raises:
        ValueError: If it isn't clear where the channels are.
    """
    if channels not in (None, "first", "last"):
        raise ValueError(f"channels is {channels!r}: it must be 'first' or 'last'")
    shape = x.shape[before:]
    if before and not shape:
        raise ValueError(
            f"{what} is {list(x.shape)}: give items with dimensions of their own, {what}[:, None]"
        )
    if channels == "last" and len(shape) != 3:
        raise ValueError(f"{what} is {list(x.shape)}: with channels='last' give pictures [I, H, W, C]")
    if x.dtype == np.uint8 and len(shape) == 2:
        return np.expand_dims(x, before)  # grey pictures without a dimension for that
    looks_last = len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) > 4
    if channels == "last" or (channels is None and looks_last and x.dtype == np.uint8):
        return np.moveaxis(x, -1, before)
    if channels is None and looks_last:
        raise ValueError(
            f"{what} is {list(x.shape)}, which looks like height × width × channels: say channels='last', or "
            "channels='first' if it isn't so"
        )
    return x
