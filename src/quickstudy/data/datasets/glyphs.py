"""Glyphs: letters and digits of many scripts, drawn on the spot, so nothing is downloaded.

A class is one Unicode letter or decimal digit that all twelve DejaVu typefaces shipped with
matplotlib have (Sans, Sans Mono and Serif; regular and bold; upright and slanted). An item is that
character in one of the faces under a small random affine distortion, light on dark. The choices:

- **Which characters.** Letters (categories Lu, Ll, Lt, Lo) and digits (Nd) of six scripts. Modifier
  letters are left out, as they are small copies of other letters, and so are letters with two or
  more marks, which are unreadable at 28 × 28 pixels.
- **Look-alikes.** Latin A, Greek Alpha and Cyrillic А are one shape under three names. No two
  classes look alike (`_look_alike` gives the criterion), neither within a split nor across splits.
- **Which look-alike stays.** Scripts are processed in the order test, validation, train, and a
  letter is dropped if it looks like one already kept. So the test alphabets lose only the
  look-alikes among themselves, and every shape they share with Latin or Cyrillic is removed from
  training: no shape of the test has been seen before.
- **Splits by script**, each script entirely in one split: see `SCRIPT_SPLITS`.
- **Distortion.** Undistorted letters are too easy: the nearest neighbor in pixels recognizes most of
  them. The distortions of position, size and slant are strong enough that it fails on two letters
  in five, while a person still reads them. Ink never touches the border.

The same seed gives the same items wherever FreeType renders the same pixels.
"""

import hashlib
import math
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, features

from quickstudy.core.progress import ProgressCallback
from quickstudy.data.cache import cached_pool
from quickstudy.data.formats.images import Bytes, ImageFormat
from quickstudy.data.pool import ClassPool

VERSION = 1  # to be raised with every change that alters the items

# Ordered so that a class with few items still shows different faces.
FONT_FACES = (
    "Sans",
    "Serif",
    "SansMono-Bold",
    "Sans-Oblique",
    "Serif-BoldItalic",
    "SansMono",
    "Sans-Bold",
    "Serif-Italic",
    "SansMono-Oblique",
    "Sans-BoldOblique",
    "Serif-Bold",
    "SansMono-BoldOblique",
)

# Scripts by the first word of their characters' Unicode names. The order decides which of two
# look-alikes stays: the earlier.
SCRIPT_SPLITS = {
    "test": ("Armenian", "Georgian", "Greek"),
    "validation": ("Cyrillic",),
    "train": ("Digit", "Latin"),
}

SUPERSAMPLE = 3  # letters are drawn and distorted at this multiple of the size, then averaged
FILL = 0.68  # the longer side of an undistorted letter, as a fraction of the image's side
MARGIN = 1 / 28  # the border that stays free of ink, as a fraction of the image's side

# The largest distortions; each is drawn uniformly from ± its value.
ROTATION = math.radians(15)
SHEAR = 0.2  # horizontal, as a tangent
SCALE = 0.15  # logarithm of the size
STRETCH = 0.12  # logarithm of width over height, halved
SHIFT = 0.04  # along either axis, as a fraction of the image's side

_GRID = 24  # side of the bitmaps on which look-alikes are judged
_STRAY_INK = 0.025  # two bitmaps are the same shape if at most this fraction of ink differs,
_STRAY_INK_WIDE = 0.05  # or this one, across splits and between the two cases of a letter
_SAME_FACES = 3  # the smallest number of faces in which look-alikes have the same shape


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered set of labelled images.

    Args:
        items: [I, 1, size, size] uint8 images, ink 255 on background 0, sorted by class.
        classes: Names of the K classes, "Script/UNICODE NAME", in the order of the items.
        counts: [K] number of items of each class, int64.
        splits: Class indices of "train", "validation" and "test".
    """

    items: npt.NDArray[np.uint8]
    classes: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    splits: dict[str, list[int]]


def render_glyphs(
    size: int = 28,
    per_class: int = 24,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Rendered:
    """Draw the glyphs data set.

    The classes do not depend on the arguments. Item j of a class is in face j modulo 12 and does
    not depend on `per_class`: a smaller set is the beginning of a larger one, class by class.

    Args:
        size: Height and width in pixels, at least 16.
        per_class: Number of items of each class, at least 1.
        seed: Seed of the random distortions, at least 0.
        progress: Function that is called with (classes drawn, all classes) after each class.

    Returns:
        The items with their class names, counts and splits.

    Raises:
        ValueError: If `size`, `per_class` or `seed` is too small.
    """
    for name, value, least in (("size", size, 16), ("per_class", per_class, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; give {name} >= {least}")
    characters = glyph_characters()
    fonts = _fonts(SUPERSAMPLE * size)
    items = np.empty((len(characters) * per_class, 1, size, size), dtype=np.uint8)
    for index, character in enumerate(characters):
        # a random stream for each class, so that adding a class leaves the others unchanged
        draws = np.random.default_rng([seed, ord(character)]).uniform(-1, 1, (per_class, 6))
        letters = [_draw(character, font) for font in fonts[:per_class]]
        for j in range(per_class):
            image = _distort(letters[j % len(letters)], size, draws[j])
            items[index * per_class + j, 0] = np.asarray(image)
        if progress is not None:
            progress(index + 1, len(characters))
    counts = np.full(len(characters), per_class, dtype=np.int64)
    return Rendered(items, tuple(map(_class_name, characters)), counts, _splits(characters))


def glyphs_fingerprint() -> str:
    """Return a hash of everything that the items depend on besides the arguments of `render_glyphs`.

    That is this module's `VERSION`, the release of FreeType and the bytes of the font files.
    """
    digest = hashlib.sha256(f"{VERSION} {features.version('freetype2')}".encode())
    for path in _font_paths():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def glyph_characters() -> list[str]:
    """Return the characters that are classes, in the order of the classes."""
    candidates = _candidates()
    alike = _look_alike(candidates)
    kept: list[int] = []
    for index in range(len(candidates)):
        if not alike[index, kept].any():
            kept.append(index)
    return [candidates[index] for index in kept]


def font_folder() -> Path:
    """Return the folder of matplotlib's typefaces."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _font_paths() -> list[Path]:
    return [font_folder() / f"DejaVu{face}.ttf" for face in FONT_FACES]


def _fonts(pixels: int) -> list[ImageFont.FreeTypeFont]:
    # the basic layout is always available and, unlike Raqm, the same in every build of Pillow
    layout = ImageFont.Layout.BASIC
    return [ImageFont.truetype(path, pixels, layout_engine=layout) for path in _font_paths()]


def _script(character: str) -> str:
    return unicodedata.name(character, "?").split()[0].capitalize()


def _split(character: str) -> str:
    return next(split for split, scripts in SCRIPT_SPLITS.items() if _script(character) in scripts)


def _class_name(character: str) -> str:
    return f"{_script(character)}/{unicodedata.name(character)}"


def _splits(characters: list[str]) -> dict[str, list[int]]:
    return {
        split: [i for i, c in enumerate(characters) if _split(c) == split]
        for split in ("train", "validation", "test")
    }


def _candidates() -> list[str]:
    """Return the characters that every face has, in the order of `SCRIPT_SPLITS`, then of Unicode."""
    charmaps = [set(FT2Font(str(path)).get_charmap()) for path in _font_paths()]
    characters = [chr(code) for code in sorted(reduce(set[int].intersection, charmaps))]
    order = [script for scripts in SCRIPT_SPLITS.values() for script in scripts]
    readable = [
        c
        for c in characters
        if unicodedata.category(c) in ("Lu", "Ll", "Lt", "Lo", "Nd")
        and len(unicodedata.normalize("NFD", c)) <= 2
        and _script(c) in order
    ]
    return sorted(readable, key=lambda c: order.index(_script(c)))


def _draw(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw one character, cropped to its ink."""
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (math.ceil(right - left) + 2, math.ceil(bottom - top) + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), character, fill=255, font=font)
    return image.crop(image.getbbox())


def _look_alike(characters: list[str]) -> npt.NDArray[np.bool_]:
    """Compare every pair of characters: [C, C], True for look-alikes.

    Each undistorted letter is cropped to its ink and stretched to 24 × 24 pixels, as two classes must
    not differ in position, size or proportions alone. In one face, two letters have the same shape if
    at most 2.5 % of either's ink is more than one pixel (eight neighbors) away from the ink of the
    other; 5 % if they are the two cases of a letter, which often differ in proportions alone, or in
    different splits, where a look-alike would be a leak. They are look-alikes if they have the same
    shape in at least three of the twelve faces. So capital I and small l, the same in the four Sans
    faces, are look-alikes, while Latin m and Cyrillic т, the same only in the two Serif italics, are
    not.
    """
    fonts = _fonts(SUPERSAMPLE * 28)  # fixed, so that the classes do not depend on the items' size
    wide = _differ(map(_split, characters)) | ~_differ(c.lower() for c in characters)
    allowed = np.where(wide, _STRAY_INK_WIDE, _STRAY_INK)
    faces_alike = np.zeros((len(characters), len(characters)), dtype=np.int64)
    for font in fonts:
        bitmaps = np.stack([_stretched(_draw(character, font)) for character in characters])
        ink = bitmaps.reshape(len(characters), -1).astype(np.float32)
        near = _thickened(bitmaps).reshape(len(characters), -1).astype(np.float32)
        total = ink.sum(1, keepdims=True)
        stray = total - ink @ near.T  # integers below 2^24: exact on every machine
        same = stray <= allowed * total
        faces_alike += same & same.T
    return faces_alike >= _SAME_FACES


def _differ(labels: Iterable[str]) -> npt.NDArray[np.bool_]:
    array = np.array(list(labels))
    return array[:, None] != array


def _stretched(letter: Image.Image) -> npt.NDArray[np.bool_]:
    # cropped to solid ink first: the faint edge of a thin stroke would be stretched to several columns
    solid = letter.point([0] * 128 + [255] * 128)
    stretched = letter.resize((_GRID, _GRID), Image.Resampling.BOX, box=solid.getbbox())
    return np.asarray(stretched) > 127


def _thickened(bitmaps: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Dilate the ink of bitmaps [C, H, W] by the eight neighbors of each pixel."""
    height, width = bitmaps.shape[1:]
    padded = np.pad(bitmaps, ((0, 0), (1, 1), (1, 1)))
    moved = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.logical_or.reduce(moved)


def _distort(letter: Image.Image, size: int, draws: npt.NDArray[np.float64]) -> Image.Image:
    """Draw a letter on a size × size image under a random affine map.

    Args:
        letter: Letter cropped to its ink.
        size: Height and width of the image in pixels.
        draws: [6] numbers in [−1, 1] for rotation, shear, scale, stretch, and shift in x and y.
    """
    side = SUPERSAMPLE * size
    half = np.array(letter.size) / 2
    angle = ROTATION * draws[0]
    rotate = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    slant = np.array([[1, SHEAR * draws[1]], [0, 1]])
    stretch = np.diag(np.exp([STRETCH * draws[3], -STRETCH * draws[3]]))
    fit = FILL * side / max(letter.size) * math.exp(SCALE * draws[2])
    matrix = fit * rotate @ slant @ stretch
    # the distorted letter must leave the margin free: shrink it if necessary, and limit its shift
    free = (0.5 - MARGIN) * side
    matrix *= min(1, free / (np.abs(matrix) @ half).max())
    room = free - np.abs(matrix) @ half
    centre = side / 2 + np.minimum(room, SHIFT * side) * draws[4:]
    # Pillow takes the map from the image to the letter
    back = np.linalg.inv(matrix)
    offset = half - back @ centre
    coefficients = (*back[0], offset[0], *back[1], offset[1])
    affine = Image.Transform.AFFINE
    large = letter.transform((side, side), affine, coefficients, Image.Resampling.BILINEAR)
    return large.reduce(SUPERSAMPLE)


def glyphs(
    size: int = 28, per_class: int = 24, seed: int = 0, progress: ProgressCallback | None = None
) -> ClassPool:
    """Load the glyphs; they are drawn the first time, then taken from the cache.

    Args:
        size: Height and width in pixels, at least 16.
        per_class: Number of items of each class, at least 1.
        seed: Seed of the random distortions, at least 0.
        progress: Function that is called with (classes drawn, all classes) after each class.

    Returns:
        Pool with the splits "train", "validation" and "test", by script.
    """

    def build(allocate: Callable[[int], Bytes]) -> dict[str, Any]:
        drawn = render_glyphs(size, per_class, seed, progress)
        allocate(len(drawn.items))[:] = drawn.items
        return {"classes": drawn.classes, "counts": drawn.counts.tolist(), "splits": drawn.splits}

    key = [glyphs_fingerprint(), per_class, seed]
    return cached_pool("glyphs", key, build, ImageFormat(size, 1, invert=True))
