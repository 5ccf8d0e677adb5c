"""Faces: the ORL images of 40 people, and Labeled Faces in the Wild.

ORL: Ferdinando Samaria, Andy Harter: "Parameterisation of a stochastic model for human face identification",
1994; free for research with credit to AT&T Laboratories Cambridge. LFW: Gary Huang, Manu Ramesh, Tamara
Berg, Erik Learned-Miller: "Labeled Faces in the Wild", 2007; news photographs, for research only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quickstudy.core.progress import ProgressCallback
from quickstudy.data.cache import data_root, present
from quickstudy.data.datasets.folders import class_folders
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.pool import ClassPool

ORL_VALIDATION, ORL_TEST = range(26, 31), range(31, 41)
"""Numbers of the people for validation, s26 … s30, and for the test, s31 … s40."""
LFW_VALIDATION, LFW_TEST = (8,), (9, 10)
"""Folds of View 2, counted from 1, with the people for validation and for the test."""


def orl(
    root: str | Path | None = None, size: int = 64, progress: ProgressCallback | None = None
) -> ClassPool:
    """Load the ORL faces: 40 people with ten grey images each, 25 for training, 5 validation, 10 test.

    Args:
        root: Data root, the folder that holds `orl_faces/sN/M.pgm`; None for the default of `data_root`.
        size: Height and width in pixels of a square that holds the whole image of 112 × 92 pixels; cropped
            to the middle square, faces would lose their chins.
        progress: Function that is called with (done, total) while decoding.

    Raises:
        FileNotFoundError: If the images are missing.
    """
    folder = present(data_root(root) / "orl_faces", "ORL (AT&T) faces", "sN/M.pgm")
    people = [f"s{i}" for i in range(1, 41)]
    split = {
        "train": [p for i, p in enumerate(people, 1) if i not in (*ORL_VALIDATION, *ORL_TEST)],
        "validation": [people[i - 1] for i in ORL_VALIDATION],
        "test": [people[i - 1] for i in ORL_TEST],
    }
    return class_folders(folder, ImageFormat(size, 1, whole=True), split, progress=progress)


def lfw(
    root: str | Path | None = None,
    size: int = 64,
    validation: Sequence[int] = LFW_VALIDATION,
    test: Sequence[int] = LFW_TEST,
    least: int = 1,
    progress: ProgressCallback | None = None,
) -> ClassPool:
    """Load Labeled Faces in the Wild: 5,749 people with 1 to 530 grey images, split by the folds of View 2.

    Images are used as they are. Crop the original images of 250 × 250 pixels to face and hair, the middle
    150 × 150, first.

    The people in the pairs of some folds are for validation and for the test; all others, also those in no
    fold, are for training. No two folds share a person, so no person is in two splits.

    Args:
        root: Data root, the folder that holds `lfw/Name/Name_NNNN.jpg` and `lfw/pairs.txt`; None for the
            default of `data_root`.
        size: Height and width in pixels.
        validation: Folds, from 1 to 10, with the people for validation.
        test: Folds, from 1 to 10, with the people for the test.
        least: Smallest number of images of a person who is kept; 2 if every person shall have a genuine pair.
        progress: Function that is called with (done, total) while decoding.

    Raises:
        FileNotFoundError: If images or pairs are missing.
        ValueError: If the list of pairs is damaged or names a person without images.
    """
    folder = present(data_root(root) / "lfw", "LFW faces", "Name/Name_NNNN.jpg")
    pairs = view2(root)
    split = {"validation": _people(pairs, validation), "test": _people(pairs, test)}
    split["train"] = {p.name for p in folder.iterdir() if p.is_dir()} - split["validation"] - split["test"]
    pool = class_folders(
        folder,
        ImageFormat(size, 1, whole=True),
        {part: sorted(who) for part, who in split.items()},
        progress=progress,
    )
    return pool.at_least(least)


@dataclass(frozen=True)
class FacePair:
    """A pair of images of View 2.

    Args:
        first: Person in the first image, and the number of the image, from 1.
        second: Person in the second image, and the number of the image, from 1.
    """

    first: tuple[str, int]
    second: tuple[str, int]

    @property
    def genuine(self) -> bool:
        """Whether both images show the same person."""
        return self.first[0] == self.second[0]


def view2(root: str | Path | None = None) -> list[list[FacePair]]:
    """Read the pairs of each of the ten folds of View 2: 300 genuine, then 300 impostor pairs.

    Args:
        root: Data root, the folder that holds `lfw/pairs.txt`; None for the default of `data_root`.

    Raises:
        FileNotFoundError: If `lfw/pairs.txt` is missing.
        ValueError: If it is damaged.
    """
    path = data_root(root) / "lfw" / "pairs.txt"
    if not path.is_file():
        raise FileNotFoundError(f"no list of pairs at {path}: it comes with LFW, as pairs.txt")
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    try:
        folds, each = int(lines[0][0]), int(lines[0][1])
        pairs = [
            FacePair((p[0], int(p[1])), (p[0], int(p[2])) if len(p) == 3 else (p[2], int(p[3])))
            for p in lines[1:]
        ]
    except (ValueError, IndexError):
        raise ValueError(
            f"{path} is no list of pairs: expected folds and pairs, then names and numbers"
        ) from None
    if len(pairs) != 2 * folds * each:
        raise ValueError(f"{path} promises {folds} folds of 2 × {each} pairs, but holds {len(pairs)} pairs")
    return [pairs[i : i + 2 * each] for i in range(0, len(pairs), 2 * each)]


def _people(pairs: Sequence[Sequence[FacePair]], folds: Sequence[int]) -> set[str]:
    if beyond := [fold for fold in folds if not 1 <= fold <= len(pairs)]:
        raise ValueError(f"there is no fold {beyond[0]}: the list of pairs has folds 1 … {len(pairs)}")
    return {name for fold in folds for p in pairs[fold - 1] for name in (p.first[0], p.second[0])}


def pair_items(pool: ClassPool, pairs: Sequence[FacePair]) -> tuple[np.ndarray, np.ndarray]:
    """Look up the images of pairs in a pool.

    Args:
        pool: Pool of LFW, as `lfw` loads it.
        pairs: P pairs of images.

    Returns:
        Indices [P] of the first images in the pool's items, and indices [P] of the second images.

    Raises:
        ValueError: If an image is not in the pool.
    """
    starts, counts = pool.starts.tolist(), pool.counts.tolist()
    there = dict(zip(pool.classes, zip(starts, counts, strict=True), strict=True))

    def item(name: str, number: int) -> int:
        start, count = there.get(name, (0, 0))
        if not 1 <= number <= count:
            raise ValueError(f"picture {number} of {name} is not among the pool's: restore its file")
        return start + number - 1

    first = np.asarray([item(*p.first) for p in pairs], np.int64)
    return first, np.asarray([item(*p.second) for p in pairs], np.int64)
