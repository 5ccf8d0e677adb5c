"""Items in a mapped file, which may be larger than memory: its pages are given back after use."""

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK = 64 * 2**20
"""Bytes that are read or written at a time, before the pages that hold them are given back."""


def mapping(items: npt.NDArray[Any]) -> mmap.mmap | None:
    """The map of a file that items lie in; None where they lie in memory, or are private copies of its pages.

    Args:
        items: Array of items, or a view of one.
    """
    if not isinstance(items, np.memmap) or items.mode == "c":
        return None
    base: Any = items
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def give_back(items: npt.NDArray[Any]) -> None:
    """Give back the memory that holds pages of a mapped file; they are read again when they are wanted.

    Args:
        items: Array of items, or a view of one; nothing happens to one in memory.
    """
    if (mapped := mapping(items)) is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
