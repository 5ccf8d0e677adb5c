"""Images: any format, any size, to uint8 arrays of one shape."""

import io
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from quickstudy.core import foreign
from quickstudy.data.formats.content import DecodingNote, FileOrBytes, content_of

Bytes = npt.NDArray[np.uint8]
logging.getLogger("PIL").addHandler(logging.NullHandler())  # our own line says what is refused

PICTURES = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "PSD", "QOI"),
    *("SGI", "TIFF", "WEBP", "XBM", "XPM"),
    "TGA",  # last, as it has no sign to know it by
)
"""Formats of pictures that are read, known by their content: of Pillow's, those that run no other program and
open no file within the file, and whose header tells the size of what they hold."""
BESIDES = {
    "AVIF": 12,
    "JPEG2000": 16,
    "SGI": 2,
    "TIFF": 4,
    "WEBP": 12,
    "PSD": 4,
    "QOI": 4,
    "DDS": 4,
    "XPM": 8,
}
"""Bytes a pixel that decoding takes besides the picture itself; the others decode row by row."""
LARGEST_SIZE = 4096
"""Largest height and width in pixels that items are made in."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture is turned upright, by its orientation tag."""
ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """Format of the images of a pool, and so of the input of an encoder trained on it.

    Args:
        size: Height and width in pixels, at least 1.
        channels: Number of channels, 1 for grey or 3 for color.
        invert: Whether to store 255 − value, which turns dark ink on white paper into ink = 255 on 0.
        whole: Whether to keep all of an image that is not square, in the middle of a square with its edges
            repeated; otherwise it is cropped to its middle square.

    Raises:
        ValueError: If `size` or `channels` is out of range.
    """

    dtype: ClassVar[type[np.uint8 | np.int16 | np.float32]] = np.uint8
    noun: ClassVar[str] = "pictures"

    size: int = 28
    channels: int = 1
    invert: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}: pictures are grey (1) or colour (3)")
        if self.size < 1:
            raise ValueError(f"size is {self.size}: it must be at least 1 pixel")
        if self.size > LARGEST_SIZE:
            raise ValueError(f"size is {self.size}: it must be at most {LARGEST_SIZE:,} pixels")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, [C, H, W]."""
        return (self.channels, self.size, self.size)

    def as_dict(self) -> dict[str, Any]:
        """JSON-serializable form for a manifest; `ImageFormat(**d)` restores the format."""
        parts = asdict(self)
        if not self.whole:  # older caches and manifests lack it, and must stay valid
            del parts["whole"]
        return parts

    @staticmethod
    def endings() -> frozenset[str]:
        """File name extensions of image files, in lower case and with the dot."""
        extensions = Image.registered_extensions()  # first: it makes Pillow load its formats
        return frozenset(end for end, kind in extensions.items() if kind in PICTURES)

    def decode(self, source: FileOrBytes) -> Bytes:
        """Decode one image.

        Args:
            source: Path of an image file, or function that returns its bytes.

        Returns:
            Image [C, H, W], uint8.

        Raises:
            OSError: If the source can't be read as an image; the message gives the reason.
        """
        with foreign.refusing(), content_of(source) as raw:
            try:
                with Image.open(io.BytesIO(raw), formats=readable_formats()) as image:
                    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                        raise OSError(f"{image.width}×{image.height} pixels are more than we dare to decode")
                    if min(image.size) >= 2 * self.size:  # decodes JPEGs at a lower resolution: faster
                        image.draft(None, (2 * self.size, 2 * self.size))
                    with foreign.DECODED.taking(_memory_for(image, raw, self)):
                        return self.convert(image)
            except Image.UnidentifiedImageError:
                raise OSError("not a picture in any format that is read") from None
            except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
                raise OSError(str(error)) from None

    def convert(self, image: Image.Image) -> Bytes:
        """Convert one picture that Pillow has opened.

        Args:
            image: Picture of any mode and size.

        Returns:
            Image [C, H, W], uint8.
        """
        image.load()  # some formats have the orientation at their end
        if (turn := UPRIGHT.get(_orientation(image))) is not None:
            image = image.transpose(turn)
        if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more: scaled to 0 … 255
            image = _of_8_bits(image)
        mode = "L" if self.channels == 1 else "RGB"
        if "A" in image.getbands() or "transparency" in image.info:
            image = _by_rows(image, mode, lambda part: _on_paper(part).convert(mode))
        elif image.mode != mode:
            image = _by_rows(image, mode, lambda part: part.convert(mode))
        square = (self.size, self.size)
        if self.whole:
            longer = max(image.size)
            width, height = (max(1, round(n / longer * self.size)) for n in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        else:
            image = ImageOps.fit(image, square, Image.Resampling.LANCZOS)
        values = np.asarray(image).reshape(image.height, image.width, self.channels).transpose(2, 0, 1)
        if self.whole:
            missing = [(self.size - n) // 2 for n in values.shape[1:]]
            sides = [(m, self.size - n - m) for m, n in zip(missing, values.shape[1:], strict=True)]
            values = np.pad(values, ((0, 0), *sides), mode="edge")
        return 255 - values if self.invert else values


@cache
def readable_formats() -> tuple[str, ...]:
    """Those of our formats that this build of Pillow reads; MPO it opens as the JPEG that it begins with."""
    Image.init()
    return tuple(kind for kind in PICTURES if kind in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    """The orientation tag alone: what else is in the camera's notes, and how damaged it is, says nothing."""
    try:
        stated = image.getexif().get(ORIENTATION)
    except Exception:
        return 1
    return stated if isinstance(stated, int) else 1


def _memory_for(image: Image.Image, raw: bytes, item_format: ImageFormat) -> int:
    """Bytes that it takes at most to decode a picture whose header was read, and to convert it."""
    pixels = image.width * image.height
    stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    # turned or converted: a copy beside the first
    copied = stored if _orientation(image) != 1 else 0
    mode = "L" if item_format.channels == 1 else "RGB"
    if image.mode != mode or "transparency" in image.info:
        copied += (1 if mode == "L" else 4) + image.mode.startswith(("I", "F"))
    needed = pixels * (stored + copied + BESIDES.get(image.format or "", 0))
    if image.format in ("JPEG", "MPO") and ("progressive" in image.info or raw.count(b"\xff\xda") > 1):
        # of several scans all coefficients are kept, of 16 bits, whatever the resolution
        tiles: Any = getattr(image, "tile", None)  # at the resolution that it is decoded at
        across, down = tiles[0][1][2:] if tiles else image.size
        scale = getattr(image, "decoderconfig", (1,))[0] or 1
        needed += 2 * across * scale * down * scale * len(image.getbands())
    # the weights of the resampling, of 8 bytes, six of them for each pixel along a side
    sides = 56 * (max(image.size) if item_format.whole else 2 * min(image.size))
    return needed + sides + 8 * item_format.size**2 + 2**20


def _by_rows(image: Image.Image, mode: str, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """A picture changed pixel by pixel, some rows at a time, so that a large one takes no more memory."""
    rows = max(1, 2**18 // image.width)
    if rows >= image.height:
        return change(image)
    out = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        part.info = image.info
        out.paste(change(part), (0, top))
    return out


def _on_paper(image: Image.Image) -> Image.Image:
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA"))


def _of_8_bits(image: Image.Image) -> Image.Image:
    """A picture of 16 or 32 bits, with 65,535 as white; of floats, with the largest of them."""
    lowest, highest = _extremes(image)
    top = 65535.0 if image.mode != "F" else max(highest, 1.0)
    if not math.isfinite(lowest + highest):
        raise OSError("damaged: it holds values that are no numbers")
    if image.mode != "F" and 0 < highest < top / 8:
        _note(f"the brightest value is {highest:,.0f} of {top:,.0f}, so that it comes out dark")
    if highest > top or lowest < 0:
        _note(f"values of {lowest:,.0f} … {highest:,.0f} are cut off at 0 and {top:,.0f}")

    def change(part: Image.Image) -> Image.Image:
        values = np.asarray(part, dtype=np.float64)
        return Image.fromarray((values * (255.0 / top)).clip(0, 255).astype(np.uint8))

    return _by_rows(image, "L", change)


def _extremes(image: Image.Image) -> tuple[float, float]:
    """The least and the greatest value, NaN if one of them is no number."""
    found: list[tuple[float, float]] = []

    def look(part: Image.Image) -> Image.Image:
        values = np.asarray(part)
        found.append((float(values.min()), float(values.max())))
        return Image.new("1", part.size)

    _by_rows(image, "1", look)
    return float(np.min([low for low, _ in found])), float(np.max([high for _, high in found]))


def _note(text: str) -> None:
    warnings.warn(DecodingNote(f"a picture of more than 8 bits: {text}; scale its values"), stacklevel=2)
