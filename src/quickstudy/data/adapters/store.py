"""Where items are put that are read from elsewhere: in memory, or in a file that is larger than it."""

import os
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from quickstudy.data.cache import cache_root
from quickstudy.data.formats.items import Items
from quickstudy.data.mapped import CHUNK, give_back

IN_MEMORY = 2 * 2**30
"""Most bytes of items that are kept in memory where it isn't said where to keep them."""


def allocate(shape: tuple[int, ...], dtype: npt.DTypeLike, lazy: bool | None) -> Items:
    """An array to fill: in memory, or in a file of the cache folder that has no name and goes with the array.

    Args:
        shape: Shape of the array.
        dtype: Data type of the array.
        lazy: Whether it lies in a file; None for a file above 2 GiB.

    Raises:
        OSError: If the file can't be written, as when the disk is full.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if not size or not (size > IN_MEMORY if lazy is None else lazy):
        return np.empty(shape, dtype)
    folder = cache_root() / "pools"  # not the system's folder of temporary files, which may be in memory
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.ftruncate(file.fileno(), size)
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                os.posix_fallocate(file.fileno(), 0, size)
            items: Any = np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        raise OSError(
            f"can't write {size / 2**30:.1f} GiB of decoded items to {folder} ({error.strerror or error}): "
            "free some space, or set QUICKSTUDY_CACHE to a folder that can be written"
        ) from None
    return items


def rearrange(items: npt.NDArray[Any], order: npt.NDArray[np.int64]) -> None:
    """Put items into another order in place, with room for one item more: items[j] becomes items[order[j]].

    Args:
        items: Array [I, ...] of items.
        order: [I] permutation of their indices.
    """
    step = max(1, CHUNK // max(1, items[:1].nbytes))
    source, moved = order.tolist(), 0
    done = bytearray(len(source))
    for start in range(len(source)):
        if done[start] or source[start] == start:
            continue
        first, to = items[start].copy(), start
        while not done[to]:
            done[to] = True
            of = source[to]
            items[to] = first if of == start else items[of]
            to = of
            moved += 1
            if moved % step == 0:
                give_back(items)
