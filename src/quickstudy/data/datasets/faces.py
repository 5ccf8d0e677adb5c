"""Faces: the ORL pictures of 40 people, and Labeled Faces in the Wild.

ORL: Ferdinando Samaria, Andy Harter: "Parameterisation of a stochastic model for human face identification",
1994; free for research with credit to AT&T Laboratories Cambridge. LFW: Gary Huang, Manu Ramesh, Tamara
Berg, Erik Learned-Miller: "Labeled Faces in the Wild", 2007; news photographs, for research only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quickstudy.data.cache import data_root, present
from quickstudy.data.datasets.folders import class_folders
from quickstudy.data.formats.images import ImageFormat, Progress
from quickstudy.data.pool import ClassPool

ORL_VALIDATION, ORL_TEST = range(26, 31), range(31, 41)
"""People s26 … s30 select weights and set thresholds, s31 … s40 are tested."""
LFW_VALIDATION, LFW_TEST = (8,), (9, 10)
"""Folds of View 2, counted from 1, whose people select weights and set thresholds, or are tested."""


def orl(root: str | Path | None = None, size: int = 64, progress: Progress | None = None) -> ClassPool:
    """40 people with ten grey pictures each: 25 to train on, 5 for validation, 10 for the test.

    Args:
        root: data root, which holds `orl_faces/sN/M.pgm`.
        size: pixels of height and width, of a square with the whole picture of 112 × 92 in it: cropped to
            the middle, faces would lose their chins.
        progress: called with (done, total) while decoding.

    Raises:
        FileNotFoundError: if the pictures are not there.
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
    progress: Progress | None = None,
) -> ClassPool:
    """5,749 people with 1 to 530 grey pictures each, split by the folds of View 2.

    Pictures are used as they are: crop those of the original, 250 × 250, to the face and its hair, the middle
    150 × 150, first.

    The people of the pairs of some folds are for validation and for the test; all others, also those of no
    fold, are trained on. As no two folds share a person, no person is in two splits.

    Args:
        root: data root, which holds `lfw/Name/Name_NNNN.jpg` and `lfw/pairs.txt`.
        size: pixels of height and width.
        validation: folds, 1 … 10.
        test: folds, 1 … 10.
        least: people with fewer pictures are left out, for it takes two to make a genuine pair.
        progress: called with (done, total) while decoding.

    Raises:
        FileNotFoundError: if pictures or pairs are not there.
        ValueError: if the list of pairs is damaged or names somebody without pictures.
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
    """Two pictures of View 2, each a person and the number of the picture, from 1."""

    first: tuple[str, int]
    second: tuple[str, int]

    @property
    def genuine(self) -> bool:
        """Whether both show the same person."""
        return self.first[0] == self.second[0]


def view2(root: str | Path | None = None) -> list[list[FacePair]]:
    """The pairs of each of the ten folds: 300 genuine, then 300 impostor pairs.

    Raises:
        FileNotFoundError: if `lfw/pairs.txt` is not there.
        ValueError: if it is damaged.
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
    """Indices [P] of the first and of the second pictures of pairs among the pool's items.

    Raises:
        ValueError: if a picture is not among them.
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
