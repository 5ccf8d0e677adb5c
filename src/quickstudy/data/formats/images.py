"""Images: any format, any size, to uint8 arrays of one shape."""

import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Bytes = npt.NDArray[np.uint8]
FileOrBytes = Path | Callable[[], bytes]
"""A path, or a function that gives a file's bytes, such as a member of an archive."""

NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow only identifies, or renders with external programs."""


def bytes_of(source: FileOrBytes) -> bytes:
    """Read a file.

    Args:
        source: Path of a file, or function that returns its bytes.
    """
    return source.read_bytes() if isinstance(source, Path) else source()


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

    dtype: ClassVar[type[np.uint8 | np.int16]] = np.uint8
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
        kinds = Image.OPEN.keys() - NO_PICTURES
        return frozenset(end for end, kind in extensions.items() if kind in kinds)

    def decode(self, source: FileOrBytes) -> Bytes:
        """Decode one image.

        Args:
            source: Path of an image file, or function that returns its bytes.

        Returns:
            Image [C, H, W], uint8.

        Raises:
            OSError: If the source can't be read as an image; the message gives the reason.
        """
        raw = bytes_of(source)
        if not raw:
            raise OSError("the file is empty")
        try:
            with Image.open(io.BytesIO(raw)) as image:
                if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                    raise OSError(f"{image.width}×{image.height} pixels are more than we dare to decode")
                return self._convert(image)
        except Image.UnidentifiedImageError:
            raise OSError("not a picture in any format Pillow reads") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise OSError(str(error)) from None
        except (SyntaxError, ValueError, EOFError, RuntimeError, UserWarning) as error:
            raise OSError(f"damaged: {error}") from None  # what Pillow's parsers raise

    def _convert(self, image: Image.Image) -> Bytes:
        if min(image.size) >= 2 * self.size:
            image.draft(None, (2 * self.size, 2 * self.size))  # decodes JPEGs at a lower resolution: faster
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more: scaled to 0 … 255
            values = np.asarray(image, dtype=np.float64)
            top = 65535.0 if image.mode.startswith("I") else max(float(values.max()), 1.0)
            image = Image.fromarray((values * (255.0 / top)).clip(0, 255).astype(np.uint8))
        if "A" in image.getbands() or "transparency" in image.info:
            paper = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(paper, image.convert("RGBA"))
        image = image.convert("L" if self.channels == 1 else "RGB")
        square = (self.size, self.size)
        make = ImageOps.contain if self.whole else ImageOps.fit
        image = make(image, square, Image.Resampling.LANCZOS)
        values = np.asarray(image).reshape(image.height, image.width, self.channels).transpose(2, 0, 1)
        if self.whole:
            missing = [(self.size - n) // 2 for n in values.shape[1:]]
            sides = [(m, self.size - n - m) for m, n in zip(missing, values.shape[1:], strict=True)]
            values = np.pad(values, ((0, 0), *sides), mode="edge")
        return 255 - values if self.invert else values
