"""The items of a pool, images or clips, and the decoding of many of them."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from os import cpu_count
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quickstudy.core import foreign
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.core.progress import ProgressCallback
from quickstudy.data.formats.audio import AudioFormat, Place
from quickstudy.data.formats.content import DecodingNote, FileOrBytes
from quickstudy.data.formats.features import FeatureFormat
from quickstudy.data.formats.images import ImageFormat


def floats(items: Tensor) -> Tensor:
    """Convert stored items to the float32 input of encoders.

    Args:
        items: uint8 images, int16 clips or float32 items of any kind, of any shape.

    Returns:
        Images in [0, 1], clips in [−1, 1), or the float32 items themselves, unscaled; of the same shape.
    """
    if items.dtype == torch.float32:
        return items
    return items.to(torch.float32).mul_(1 / 32768 if items.dtype == torch.int16 else 1 / 255)


THREADS = 6
"""Most threads that decode: what each has freed, as large as a picture, the C library keeps for it."""
Items = npt.NDArray[np.uint8 | np.int16 | np.float32]
"""uint8 pictures [I, C, H, W], int16 clips [I, samples], or float32 items [I, ...] of any kind and shape."""


class ItemFormat(Protocol):
    """Format of the items of a pool: `ImageFormat`, `AudioFormat` or `FeatureFormat`."""

    dtype: ClassVar[type[np.uint8 | np.int16 | np.float32]]
    """Data type of the items: uint8 for images, int16 for clips, float32 for features."""
    noun: ClassVar[str]
    """Plural noun for the items in messages."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """JSON-serializable form for a manifest; `item_format` restores the format."""
        ...

    def decode(self, source: FileOrBytes) -> npt.NDArray[Any]:
        """Decode one item; an OSError says why it can't be read."""
        ...

    @staticmethod
    def endings() -> frozenset[str]:
        """File name extensions of its files, in lower case and with the dot."""
        ...


def item_format(stated: Mapping[str, Any]) -> ImageFormat | AudioFormat | FeatureFormat:
    """Restore a format from a manifest.

    Args:
        stated: The format as its `as_dict` gave it.

    Example:
        >>> item_format(AudioFormat(8000).as_dict())
        AudioFormat(rate=8000, seconds=1.0, place='strongest', version=2)
    """
    if "dimensions" in stated:
        return FeatureFormat(**stated)
    if "rate" not in stated:
        return ImageFormat(**stated)
    parts: dict[str, Any] = {"version": 1} | dict(stated)  # manifests of version 1 don't state it
    if parts.get("place") == "centred":  # as manifests had it once
        parts["place"] = "centered"
    return AudioFormat(**parts)


def with_place(
    form: ImageFormat | AudioFormat | FeatureFormat, place: Place | None
) -> ImageFormat | AudioFormat | FeatureFormat:
    """A format that takes another window of a recording.

    Args:
        form: Format of clips.
        place: Which window of a recording to take, see `AudioFormat`; None to leave the format as it is.

    Raises:
        ValueError: If a place is given for a format of pictures, or it is none.
    """
    if place is None:
        return form
    if not isinstance(form, AudioFormat):
        raise ValueError(f"place {place} is for sounds, and this model takes {form.noun}: leave out --place")
    return replace(form, place=place)


def decode_items(
    sources: Sequence[FileOrBytes],
    item_format: ItemFormat,
    out: Items,
    progress: ProgressCallback | None = None,
) -> dict[int, str]:
    """Decode items in parallel into `out`.

    In threads, not processes: decoders release the GIL while they decode and resize, and processes would
    import the caller's script again.

    Args:
        sources: I files, each a path or a function that returns the file's bytes.
        item_format: Format of the decoded items.
        out: [I, ...] array to fill.
        progress: Function that is called with (done, total) from time to time.

    Returns:
        Reasons why items can't be read, by the index of the item; empty if all were read.
    """
    bad: dict[int, str] = {}

    def work(indices: range) -> int:
        for i in indices:
            try:
                with foreign.refusing():  # also what a format of one's own throws
                    out[i] = item_format.decode(sources[i])
            except OSError as error:
                bad[i] = error.strerror or str(error)
        return len(indices)

    size = sizes_on().decoded_items
    parts = [range(i, min(i + size, len(sources))) for i in range(0, len(sources), size)]
    with (
        warnings.catch_warnings(record=True) as noted,
        ThreadPoolExecutor(min(cpu_count() or 1, THREADS)) as threads,
    ):
        warnings.simplefilter("ignore")  # Pillow's, about odd files; unreadable ones are reported anyway
        warnings.simplefilter("always", DecodingNote)
        done = 0
        for n in _orderly(threads, work, parts):
            done += n
            if progress:
                progress(done, len(sources))
    if noted:
        more = f" (so are {len(noted) - 1} more)" if len(noted) > 1 else ""
        warnings.warn(DecodingNote(f"{noted[0].message}{more}"), stacklevel=2)
    return bad


def _orderly(threads: ThreadPoolExecutor, work: Callable[[range], int], parts: list[range]) -> Iterable[int]:
    """`threads.map`, but pending calls are canceled when the caller is interrupted."""
    try:
        yield from threads.map(work, parts)
    except BaseException:
        threads.shutdown(cancel_futures=True)
        raise
