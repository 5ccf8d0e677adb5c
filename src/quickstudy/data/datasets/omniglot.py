"""Omniglot: 1,623 handwritten characters of 50 alphabets, by 20 drawers each.

Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum: "Human-level concept learning through
probabilistic program induction", Science 2015. MIT licence.
"""

import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quickstudy.core.arrays import IntArray
from quickstudy.core.progress import ProgressCallback
from quickstudy.data.cache import cached_pool, data_root
from quickstudy.data.datasets.download import download
from quickstudy.data.formats.images import Bytes, ImageFormat
from quickstudy.data.formats.items import decode_items
from quickstudy.data.pool import ClassPool, with_rotations
from quickstudy.data.splits import SPLITS

LICENCE = "MIT, Lake et al. 2015"
ADDRESS = "https://github.com/brendenlake/omniglot/raw/master/python/"
ARCHIVES = {  # official MD5 of what lies at ADDRESS
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
LISTS_ADDRESS = (
    "https://raw.githubusercontent.com/jakesnell/prototypical-networks/master/data/omniglot/splits/vinyals/"
)
LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
VALIDATION_EVERY = 6
"""Step between the background alphabets, sorted by name, that the Lake split holds out for validation."""

RANDOM_SIZES = (1100, 100)
"""Characters of training and of validation in the random split; the rest is the test."""

OmniglotSplit = Literal["vinyals", "lake", "random"]


def omniglot(
    root: str | Path | None = None,
    size: int = 28,
    split: OmniglotSplit = "vinyals",
    rotations: bool = True,
    progress: ProgressCallback | None = None,
    seed: int = 0,
) -> ClassPool:
    """Load Omniglot from the two official archives, with ink = 255 on 0.

    Args:
        root: Data root; the archives are downloaded to `root/omniglot` if they are not there. None for the
            default of `data_root`.
        size: Height and width in pixels; the originals have 105.
        split: Class-disjoint split. "vinyals": 1,028 / 172 / 423 characters by the class lists in
            `root/omniglot/splits/vinyals`. "lake": unseen *alphabets*; the test is the evaluation
            archive, and validation every sixth alphabet of the background archive. "random": 1,100 / 100 /
            423 characters at random, as in MAML (Finn et al. 2017) and others.
        rotations: Whether to add rotations by 90°, 180° and 270° as new classes, in the split of their
            character; they are not `recorded`.
        progress: Function that is called with (done, total) while decoding.
        seed: Seed of the random split, at least 0; the other splits don't depend on it.

    Raises:
        OSError: If an archive is damaged or can't be downloaded.
        ValueError: If the split is unknown, or the lists name unknown characters, or the seed is negative.
    """
    if split not in ("vinyals", "lake", "random"):
        raise ValueError(f"Omniglot has no split {split!r}: choose 'vinyals', 'lake' or 'random'")
    if seed < 0:
        raise ValueError(f"seed is {seed}: it must be at least 0")
    folder = data_root(root) / "omniglot"
    archives = [download(ADDRESS + name, folder / name, md5) for name, md5 in ARCHIVES.items()]
    lists = _vinyals_lists(folder) if split == "vinyals" else None
    members = [_members(path) for path in archives]
    stored = "lake" if split == "random" else split  # random splits are made from what is decoded already
    key = [stored, lists, rotations, [[(m.filename, m.CRC) for m in part] for part in members]]
    build = partial(_build, archives, members, lists, rotations, ImageFormat(size, 1, invert=True), progress)
    pool = cached_pool("omniglot", key, build, ImageFormat(size, 1, invert=True))
    # the first quarter of the classes is upright; set here, as older caches lack `recorded`
    upright = np.arange(len(pool)) < len(pool) // 4 if rotations else None
    pool = replace(pool, name=f"omniglot-{split}", recorded=upright, original_size=105.0)
    return replace(pool, splits=_random(len(pool), rotations, seed)) if split == "random" else pool


def _members(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith(".png") and not n.startswith("__MACOSX")]
            infos = [archive.getinfo(name) for name in names]
    except zipfile.BadZipFile:
        raise OSError(f"{path} is not a whole zip archive: delete it, and it will be fetched again") from None
    if not infos:
        raise OSError(f"{path} holds no pictures: delete it, and it will be fetched again")
    return sorted(infos, key=lambda m: m.filename)


def _build(
    archives: list[Path],
    members: list[list[zipfile.ZipInfo]],
    lists: dict[str, list[str]] | None,
    rotations: bool,
    image_format: ImageFormat,
    progress: ProgressCallback | None,
    allocate: Callable[[int], Bytes],
) -> dict[str, Any]:
    opened = [zipfile.ZipFile(path) for path in archives]
    sources = [partial(_read, z, m) for z, part in zip(opened, members, strict=True) for m in part]
    names = [m.filename.split("/", 1)[1].rsplit("/", 1)[0] for part in members for m in part]
    upright = np.empty((len(sources), *image_format.shape), np.uint8)
    bad = decode_items(sources, image_format, upright, progress)
    for z in opened:
        z.close()
    if bad:
        i, reason = min(bad.items())
        raise OSError(
            f"{len(bad)} pictures of Omniglot can't be read, first of {names[i]}: {reason}; delete "
            f"{archives[i >= len(members[0])]}, and it will be fetched again"
        )
    classes, counts = np.unique(names, return_counts=True)
    upright = upright[np.argsort(names, kind="stable")]
    splits = _by_lists(classes.tolist(), lists) if lists else _lake(classes.tolist(), members)
    items, all_classes = upright, classes.tolist()
    if rotations:
        items, all_classes, counts = with_rotations(upright, all_classes, counts)
        splits = {k: [c + r * len(classes) for r in range(4) for c in v] for k, v in splits.items()}
    allocate(len(items))[:] = items
    return {"classes": all_classes, "counts": counts.tolist(), "splits": splits}


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise OSError(f"damaged: {error}") from None


def _random(classes: int, rotations: bool, seed: int) -> dict[str, IntArray]:
    """Characters at random, each with all its rotations."""
    characters = classes // 4 if rotations else classes
    order = np.random.default_rng(seed).permutation(characters)
    parts = np.split(order, np.cumsum(RANDOM_SIZES))
    turns = np.arange(4 if rotations else 1)[:, None] * characters
    return {s: (turns + np.sort(part)).flatten() for s, part in zip(SPLITS, parts, strict=True)}


def _lake(classes: list[str], members: list[list[zipfile.ZipInfo]]) -> dict[str, list[int]]:
    background = sorted({m.filename.split("/")[1] for m in members[0]})
    held_out = set(background[VALIDATION_EVERY - 1 :: VALIDATION_EVERY])
    splits: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for i, c in enumerate(classes):
        alphabet = c.split("/")[0]
        which = "validation" if alphabet in held_out else "train" if alphabet in background else "test"
        splits[which].append(i)
    return splits


def _by_lists(classes: list[str], lists: dict[str, list[str]]) -> dict[str, list[int]]:
    index = {c: i for i, c in enumerate(classes)}
    unknown = [c for names in lists.values() for c in names if c not in index]
    if unknown:
        raise ValueError(
            f"the class lists name {len(unknown)} characters that Omniglot lacks, e.g. {unknown[0]!r}"
        )
    return {k: [index[c] for c in names] for k, names in lists.items()}


def _vinyals_lists(folder: Path) -> dict[str, list[str]]:
    """Characters of each split; rotations, which the authors' lists name too, are merged."""
    lists: dict[str, list[str]] = {}
    for split, name in LISTS.items():
        path = download(LISTS_ADDRESS + name, folder / "splits" / "vinyals" / name)
        lines = [re.sub(r"/rot\d+$", "", line.strip()) for line in path.read_text().splitlines()]
        lists[split] = list(dict.fromkeys(line for line in lines if line))
    return lists
