"""What the items of a pool are, pictures or clips, and decoding many of them."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.images import ImageFormat, Progress, Source


def floats(items: Tensor) -> Tensor:
    """Bytes 0 … 255 as float32 in [0, 1], 16-bit samples in [−1, 1): what encoders take."""
    return items.to(torch.float32).mul_(1 / 32768 if items.dtype == torch.int16 else 1 / 255)


Items = npt.NDArray[np.uint8 | np.int16]
"""uint8 pictures [I, C, H, W] or int16 clips [I, samples]."""


class ItemFormat(Protocol):
    """What every item of a pool is made into: `ImageFormat` or `AudioFormat`."""

    dtype: ClassVar[type[np.uint8 | np.int16]]
    """Of the items."""
    noun: ClassVar[str]
    """What many of them are called."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """For a manifest; `item_format` is the way back."""
        ...

    def decode(self, source: Source) -> npt.NDArray[Any]:
        """One item; an OSError says why it can't be read."""
        ...

    @staticmethod
    def endings() -> frozenset[str]:
        """Of the names of its files, in lower case."""
        ...


def item_format(stated: Mapping[str, Any]) -> ImageFormat | AudioFormat:
    """The format that a manifest states, the way back from `as_dict`.

    Example:
        >>> item_format(AudioFormat(8000).as_dict())
        AudioFormat(rate=8000, seconds=1.0, place='strongest')
    """
    return AudioFormat(**stated) if "rate" in stated else ImageFormat(**stated)


def decode_items(
    sources: Sequence[Source], item_format: ItemFormat, out: Items, progress: Progress | None = None
) -> dict[int, str]:
    """Decode items in parallel into `out`.

    Threads, not processes: the decoders let go of the interpreter while they decode and resize, and
    processes would run the caller's script again.

    Args:
        sources: a path, or a function that returns the file's bytes, each.
        item_format: what they become.
        out: [I, ...] array to fill.
        progress: called with (done, total) now and then.

    Returns:
        The reason why each item that can't be read can't, by its index.
    """
    bad: dict[int, str] = {}

    def work(indices: range) -> int:
        for i in indices:
            try:
                out[i] = item_format.decode(sources[i])
            except OSError as error:
                bad[i] = error.strerror or str(error)
        return len(indices)

    size = sizes_on().decoded_items
    parts = [range(i, min(i + size, len(sources))) for i in range(0, len(sources), size)]
    with warnings.catch_warnings(), ThreadPoolExecutor(cpu_count()) as threads:
        warnings.simplefilter("ignore")  # of Pillow's about odd files: what can't be read is reported anyway
        done = 0
        for n in _orderly(threads, work, parts):
            done += n
            if progress:
                progress(done, len(sources))
    return bad


def _orderly(threads: ThreadPoolExecutor, work: Callable[[range], int], parts: list[range]) -> Iterable[int]:
    """`threads.map`, but what has not begun is dropped when the caller is interrupted."""
    try:
        yield from threads.map(work, parts)
    except BaseException:
        threads.shutdown(cancel_futures=True)
        raise
