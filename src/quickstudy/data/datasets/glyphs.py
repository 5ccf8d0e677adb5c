"""Glyphs: letters and digits of many scripts, drawn on the spot, so nothing is downloaded.

A class is one Unicode letter or decimal digit that all twelve DejaVu typefaces shipped with
matplotlib have (Sans, Sans Mono and Serif; regular and bold; upright and slanted). An item is that
character in one of the faces under a small random affine distortion, light on dark. The choices:

- **Which characters.** Letters (categories Lu, Ll, Lt, Lo) and digits (Nd) of six scripts. Left out
  are modifier letters, which are other letters in small, and letters under two or more marks, which
  nobody reads at 28 × 28 pixels.
- **Look-alikes.** Latin A, Greek Alpha and Cyrillic А are one shape under three names. No two
  classes look alike (`_look_alike` says how that is judged), neither within a split nor across.
- **Who stays.** Scripts are gone through in the order test, validation, train, and a letter is
  dropped if it looks like one already kept. So the test alphabets lose only what repeats among
  themselves, and every shape they share with Latin or Cyrillic is gone from training: no shape of
  the test has been seen before.
- **Splits by script**, each script wholly in one split: see `SPLITS`.
- **Distortion.** Upright letters in plain view are too easy: the nearest neighbour in pixels would
  name most of them. Position, size and slant vary here so much that it fails on two letters in
  five, while a person still reads them. Ink never touches the border.

The same seed gives the same items wherever FreeType draws the same pixels.
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

from quickstudy.data.cache import cached_pool
from quickstudy.data.formats.images import Bytes, ImageFormat, Progress
from quickstudy.data.pool import ClassPool

VERSION = 1  # raise it with every change that alters the items

# Ordered so that a class with few items still shows different faces.
FACES = (
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
SPLITS = {
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
_STRAY_INK = 0.025  # the fraction of ink up to which two bitmaps count as the same shape,
_STRAY_INK_WIDE = 0.05  # and across splits and between the two cases of a letter
_SAME_FACES = 3  # the number of faces in which look-alikes have the same shape, at least

_Bitmap = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered set of labelled images.

    Attributes:
        items: [I, 1, size, size] uint8, ink 255 on background 0, sorted by class.
        classes: names, "Script/UNICODE NAME", in the order of the items.
        counts: [classes] int64, the number of items of each class.
        splits: the class indices of "train", "validation" and "test".
    """

    items: npt.NDArray[np.uint8]
    classes: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    splits: dict[str, list[int]]


def render_glyphs(
    size: int = 28,
    per_class: int = 24,
    seed: int = 0,
    progress: Progress | None = None,
) -> Rendered:
    """Draw the glyphs data set.

    The classes do not depend on the arguments. Item j of a class is in face j modulo 12 and does
    not depend on `per_class`: a smaller set is the beginning of a larger one, class by class.

    Args:
        size: side of an image in pixels, at least 16.
        per_class: items of each class, at least 1.
        seed: of the distortions, not negative.
        progress: called as (classes drawn, classes in all) after each class.

    Returns:
        The items with their class names, counts and splits.

    Raises:
        ValueError: `size`, `per_class` or `seed` is too small.
    """
    for name, value, least in (("size", size, 16), ("per_class", per_class, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; give {name} >= {least}")
    characters = glyph_characters()
    fonts = _fonts(SUPERSAMPLE * size)
    items = np.empty((len(characters) * per_class, 1, size, size), dtype=np.uint8)
    for index, character in enumerate(characters):
        # A stream of its own for each class: adding a class would leave the others as they are.
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
    """Return a short hash of all that decides the items besides the arguments of `render_glyphs`.

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
    """Return where matplotlib keeps the typefaces."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _font_paths() -> list[Path]:
    return [font_folder() / f"DejaVu{face}.ttf" for face in FACES]


def _fonts(pixels: int) -> list[ImageFont.FreeTypeFont]:
    # The basic layout is always there and, unlike Raqm, the same in every build of Pillow.
    layout = ImageFont.Layout.BASIC
    return [ImageFont.truetype(path, pixels, layout_engine=layout) for path in _font_paths()]


def _script(character: str) -> str:
    return unicodedata.name(character, "?").split()[0].capitalize()


def _split(character: str) -> str:
    return next(split for split, scripts in SPLITS.items() if _script(character) in scripts)


def _class_name(character: str) -> str:
    return f"{_script(character)}/{unicodedata.name(character)}"


def _splits(characters: list[str]) -> dict[str, list[int]]:
    return {
        split: [i for i, c in enumerate(characters) if _split(c) == split]
        for split in ("train", "validation", "test")
    }


def _candidates() -> list[str]:
    """Return the characters that every face has, in the order of `SPLITS`, then of Unicode."""
    charmaps = [set(FT2Font(str(path)).get_charmap()) for path in _font_paths()]
    characters = [chr(code) for code in sorted(reduce(set[int].intersection, charmaps))]
    order = [script for scripts in SPLITS.values() for script in scripts]
    readable = [
        c
        for c in characters
        if unicodedata.category(c) in ("Lu", "Ll", "Lt", "Lo", "Nd")
        and len(unicodedata.normalize("NFD", c)) <= 2
        and _script(c) in order
    ]
    return sorted(readable, key=lambda c: order.index(_script(c)))


def _draw(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw one character, cut to its ink."""
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (math.ceil(right - left) + 2, math.ceil(bottom - top) + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), character, fill=255, font=font)
    return image.crop(image.getbbox())


def _look_alike(characters: list[str]) -> npt.NDArray[np.bool_]:
    """Judge every pair of characters: [C, C], True where the two look alike.

    Each undistorted letter is cut to its ink and stretched to 24 × 24 pixels, as neither place nor
    size nor proportion may tell two classes apart. In one face, two letters have the same shape if
    at most 2.5 % of either's ink lies more than one pixel (eight neighbours) off the ink of the
    other; 5 % if they are the two cases of a letter, which often differ in proportions alone, or
    of different splits, where a look-alike would be a leak. They look alike if they have the same
    shape in three faces or more of the twelve. So capital I and small l, alike in the four Sans
    faces, are look-alikes, while Latin m and Cyrillic т, alike only in the two Serif italics, are
    not.
    """
    fonts = _fonts(SUPERSAMPLE * 28)  # whatever the size of the items: the same classes
    wide = _differ(map(_split, characters)) | ~_differ(c.lower() for c in characters)
    allowed = np.where(wide, _STRAY_INK_WIDE, _STRAY_INK)
    faces_alike = np.zeros((len(characters), len(characters)), dtype=np.int64)
    for font in fonts:
        bitmaps = np.stack([_stretched(_draw(character, font)) for character in characters])
        ink = bitmaps.reshape(len(characters), -1).astype(np.float32)
        near = _thickened(bitmaps).reshape(len(characters), -1).astype(np.float32)
        total = ink.sum(1, keepdims=True)
        stray = total - ink @ near.T  # whole numbers below 2^24: exact on every machine
        same = stray <= allowed * total
        faces_alike += same & same.T
    return faces_alike >= _SAME_FACES


def _differ(labels: Iterable[str]) -> npt.NDArray[np.bool_]:
    array = np.array(list(labels))
    return array[:, None] != array


def _stretched(letter: Image.Image) -> npt.NDArray[np.bool_]:
    # Cut to solid ink first: stretched, the faint edge of a thin stroke would be columns wide.
    solid = letter.point([0] * 128 + [255] * 128)
    stretched = letter.resize((_GRID, _GRID), Image.Resampling.BOX, box=solid.getbbox())
    return np.asarray(stretched) > 127


def _thickened(bitmaps: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Add to the ink of [C, H, W] bitmaps the eight neighbours of every pixel of ink."""
    height, width = bitmaps.shape[1:]
    padded = np.pad(bitmaps, ((0, 0), (1, 1), (1, 1)))
    moved = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.logical_or.reduce(moved)


def _distort(letter: Image.Image, size: int, draws: npt.NDArray[np.float64]) -> Image.Image:
    """Place a letter on a size × size image under the affine map that six draws stand for.

    Args:
        letter: cut to its ink.
        size: side of the image in pixels.
        draws: [6] numbers in ±1 for rotation, shear, scale, stretch, and shift in x and y.
    """
    side = SUPERSAMPLE * size
    half = np.array(letter.size) / 2
    angle = ROTATION * draws[0]
    rotate = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    slant = np.array([[1, SHEAR * draws[1]], [0, 1]])
    stretch = np.diag(np.exp([STRETCH * draws[3], -STRETCH * draws[3]]))
    fit = FILL * side / max(letter.size) * math.exp(SCALE * draws[2])
    matrix = fit * rotate @ slant @ stretch
    # The distorted letter's box must leave the margin free: shrink it if need be, and shift it
    # no farther than there is room.
    free = (0.5 - MARGIN) * side
    matrix *= min(1, free / (np.abs(matrix) @ half).max())
    room = free - np.abs(matrix) @ half
    centre = side / 2 + np.minimum(room, SHIFT * side) * draws[4:]
    # Pillow wants the map from the image back to the letter.
    back = np.linalg.inv(matrix)
    offset = half - back @ centre
    coefficients = (*back[0], offset[0], *back[1], offset[1])
    affine = Image.Transform.AFFINE
    large = letter.transform((side, side), affine, coefficients, Image.Resampling.BILINEAR)
    return large.reduce(SUPERSAMPLE)


def glyphs(size: int = 28, per_class: int = 24, seed: int = 0, progress: Progress | None = None) -> ClassPool:
    """The glyphs as a pool; drawn the first time, then taken from the cache.

    Args:
        size: as in `render_glyphs`, like all the others.
        per_class: items of each class.
        seed: of the distortions.
        progress: called with (classes drawn, classes in all).

    Returns:
        A pool with splits train, validation and test, by script.
    """

    def build(allocate: Callable[[int], Bytes]) -> dict[str, Any]:
        drawn = render_glyphs(size, per_class, seed, progress)
        allocate(len(drawn.items))[:] = drawn.items
        return {"classes": drawn.classes, "counts": drawn.counts.tolist(), "splits": drawn.splits}

    key = [glyphs_fingerprint(), per_class, seed]
    return cached_pool("glyphs", key, build, ImageFormat(size, 1, invert=True))
