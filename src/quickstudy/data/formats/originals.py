"""What a file was before it became an item: its size or length, and how much of it the item holds."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
from PIL import Image

from quickstudy.core.foreign import refusing
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.content import FileOrBytes, bytes_of
from quickstudy.data.formats.features import FeatureFormat
from quickstudy.data.formats.images import ImageFormat, readable_formats
from quickstudy.data.formats.items import ItemFormat

LARGEST = 30_000_000
"""Most pixels of a picture that is looked at for colour."""
GREY = 8.0
"""Mean difference of the channels (0 … 255) up to which a picture is grey; scanned ink is up to about 5."""
SAMPLE = 48
"""Number of files of a data set that are looked at."""
LARGER = 8.0
"""From how many times the usual size a picture is said to be large."""
PART = 0.6
"""Share of a picture in its middle square, below which it is said to be cropped."""
LONGER = 1.5
"""From how many times the length of a clip a recording is said to be cut."""


@dataclass(frozen=True)
class Original:
    """A picture or recording as its file holds it.

    Args:
        size: Shorter side of a picture in pixels, or length of a recording in seconds.
        longer: Longer side of a picture in pixels; the length of a recording again.
        colored: Whether a picture has colours; None where it wasn't looked at, or of a recording.
    """

    size: float
    longer: float
    colored: bool | None = None


def original_of(source: FileOrBytes, item_format: ItemFormat, color: bool = False) -> Original | None:
    """Read the size of a file, from its header.

    Args:
        source: Path of a file, or function that returns its bytes.
        item_format: Format of the items, which says whether it is a picture or a recording.
        color: Whether to look for colours, which decodes the picture.

    Returns:
        The original; None if the file can't be read, which others report.
    """
    if isinstance(item_format, FeatureFormat):
        return None
    try:
        with refusing():
            raw = io.BytesIO(bytes_of(source))
            if isinstance(item_format, AudioFormat):
                seconds = float(soundfile.info(raw).duration)
                return Original(seconds, seconds)
            with Image.open(raw, formats=readable_formats()) as image:
                short, long = sorted(image.size)
                looked = color and short * long <= LARGEST
                return Original(short, long, _colored(image) if looked else None)
    except OSError:  # this is no more than a remark
        return None


def _colored(image: Image.Image) -> bool:
    image.draft("RGB", (64, 64))
    values = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    return float(np.ptp(values, axis=2).mean()) > GREY


def typical_size(sources: Sequence[FileOrBytes], item_format: ItemFormat) -> float | None:
    """Median size of the originals, of a few files spread over all.

    Args:
        sources: Paths of files, or functions that return their bytes.
        item_format: Format of the items.

    Returns:
        Shorter side in pixels, or length in seconds; None where no file can be read.
    """
    if not sources:
        return None
    chosen = [sources[i] for i in np.unique(np.linspace(0, len(sources) - 1, SAMPLE).astype(int)).tolist()]
    sizes = [o.size for o in (original_of(source, item_format) for source in chosen) if o]
    return float(np.median(sizes)) if sizes else None


def used_of(original: Original | None, item_format: ItemFormat, size: float | None = None) -> str | None:
    """What to say of how much of a file is used; None where there is nothing to say.

    Args:
        original: The file; None where it can't be read.
        item_format: Format of the items.
        size: Size of the originals that a model knows, as `typical_size` gives it; None if unknown.
    """
    if original is None:
        return None
    if isinstance(item_format, AudioFormat):
        if original.size < LONGER * max(item_format.seconds, size or 0.0):
            return None
        return f"used {item_format.seconds:.1f} s of {original.size:.{0 if original.size >= 10 else 1}f} s"
    if not isinstance(item_format, ImageFormat):
        return None
    said: list[str] = []
    if original.size < item_format.size / 2:
        said.append(f"tiny: {original.size:.0f} pixels, where {item_format.size} are looked at")
    # beyond sixteen of its pixels to one that is looked at, what is in the picture may well be a detail of it
    usual = size or 2.0 * item_format.size
    if original.size >= LARGER * max(usual, item_format.size):
        said.append(f"{original.size / usual:.0f} × larger than the pictures it was made for")
    if not item_format.whole and original.size / original.longer < PART:
        said.append(f"used the middle square, {100 * original.size / original.longer:.0f} % of it")
    return "; ".join(said) or None
