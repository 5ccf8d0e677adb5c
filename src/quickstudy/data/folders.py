"""Image folders: `root/class/*.jpg`, any format Pillow reads, any sizes."""

import json
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from quickstudy.data.images import Bytes, ImageFormat, Progress, decode_images
from quickstudy.data.pool import ClassPool, cached_pool

FRACTIONS = (0.64, 0.16, 0.20)
"""Of the classes, for training, validation and test: miniImageNet's proportions."""
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow knows by name only, or draws with other programs."""
COLOUR_84 = ImageFormat(84, 3)
SPLITS = ("train", "validation", "test")


def image_folders(
    root: str | Path,
    image_format: ImageFormat = COLOUR_84,
    split: str | Path | Sequence[float] = FRACTIONS,
    seed: int = 0,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
) -> ClassPool:
    """A pool of the pictures in `root/class/`, one class a folder.

    Args:
        root: folder of folders; hidden files and other than picture files are passed over.
        image_format: what each picture becomes.
        split: fractions of the classes for train, validation and test, dealt out at random by `seed`;
            or a JSON file {"train": [class, ...], "validation": [...], "test": [...]}.
        seed: of the random split.
        skip_corrupt: leave out pictures that can't be read, with a warning, instead of an error.
        progress: called with (done, total) while decoding.

    Raises:
        FileNotFoundError: if `root` or the split file is absent.
        ValueError: if there are no classes or pictures, or the split names a class that isn't there.
        OSError: if pictures can't be read, with their names and the reasons.
    """
    files = find_images(Path(root))
    split_lists = read_split(split, list(files)) if isinstance(split, str | Path) else None
    fractions = None if isinstance(split, str | Path) else tuple(split)
    # contents are recognised as make and git do it, by name, size and time: reading them all would take
    # as long as decoding some
    account = [[c, p.name, p.stat().st_size, p.stat().st_mtime_ns] for c, ps in files.items() for p in ps]
    build = partial(_build, files, image_format, split_lists, fractions, seed, skip_corrupt, progress)
    key = [str(Path(root).resolve()), account, split_lists, fractions, seed, skip_corrupt]
    return cached_pool(Path(root).resolve().name, key, build, image_format)


def folder_pool(
    root: str | Path,
    image_format: ImageFormat,
    split: str | Path | Sequence[float] = FRACTIONS,
    skip_corrupt: bool = False,
) -> Callable[..., ClassPool]:
    """`image_folders` as a recipe wants it: a function of data root (not needed here) and progress."""
    folder = root

    def pool(*, root: object = None, progress: Progress | None = None) -> ClassPool:
        return image_folders(folder, image_format, split, skip_corrupt=skip_corrupt, progress=progress)

    return pool


def find_images(root: Path) -> dict[str, list[Path]]:
    """The picture files of each class folder, both sorted by name.

    Raises:
        FileNotFoundError: if `root` is no folder.
        ValueError: if there are no class folders, or one of them holds no picture.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is not a folder: name one that holds a folder of pictures for each class"
        )
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        loose = " (pictures must lie in folders, whose names are the classes)" if images_in(root) else ""
        raise ValueError(f"{root} holds no class folders{loose}: expected {root.name}/CLASS/*.jpg")
    files = {folder.name: images_in(folder) for folder in folders}
    empty = [c for c, found in files.items() if not found]
    if empty:
        raise ValueError(
            f"{len(empty)} class folders of {root} hold no pictures: {', '.join(empty[:5])}; "
            "fill or remove them"
        )
    return files


def images_in(folder: Path) -> list[Path]:
    """Picture files in a folder, by their endings, sorted by name."""
    kinds = Image.OPEN.keys() - NO_PICTURES
    endings = {end for end, kind in Image.registered_extensions().items() if kind in kinds}
    return sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in endings and not p.name.startswith(".") and p.is_file()
    )


def deal_out(classes: int, fractions: Sequence[float], seed: int) -> dict[str, list[int]]:
    """Class indices of each split at random, every split with a non-zero fraction getting one at least."""
    if len(fractions) != 3 or min(fractions) < 0 or not 0.999 < sum(fractions) < 1.001:
        raise ValueError(
            f"fractions are {list(fractions)}: give three, of train, validation and test, that sum to 1"
        )
    wanted = sum(f > 0 for f in fractions)
    if classes < wanted:
        raise ValueError(f"{classes} classes can't be split {wanted} ways: bring more classes")
    sizes = [max(int(f > 0), round(f * classes)) for f in fractions[1:]]
    while sum(sizes) > classes - int(fractions[0] > 0):
        sizes[int(np.argmax(sizes))] -= 1
    if not fractions[0]:  # what rounding left over is not for training
        sizes[int(np.argmax(sizes))] += classes - sum(sizes)
    order = np.random.default_rng(seed).permutation(classes).tolist()
    bounds = [0, classes - sum(sizes), classes - sizes[1], classes]
    return {s: sorted(order[a:b]) for s, a, b in zip(SPLITS, bounds[:-1], bounds[1:], strict=True)}


def read_split(path: str | Path, classes: list[str]) -> dict[str, list[int]]:
    """Class indices of each split from a JSON file of names."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no split file at {path}")
    try:
        lists: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
        unknown = sorted({c for names in lists.values() for c in names} - set(classes))
    except (ValueError, AttributeError, TypeError):
        raise ValueError(
            f'{path} is no split file: expected {{"train": ["class", ...], "validation": ..., "test": ...}}'
        ) from None
    if set(lists) - set(SPLITS):
        raise ValueError(f"{path} names splits {sorted(lists)}: they must be among {', '.join(SPLITS)}")
    if unknown:
        raise ValueError(f"{path} names {len(unknown)} classes that have no folder, e.g. {unknown[0]!r}")
    return {s: [classes.index(c) for c in lists.get(s, [])] for s in SPLITS}


def _build(
    files: dict[str, list[Path]],
    image_format: ImageFormat,
    split: dict[str, list[int]] | None,
    fractions: Sequence[float] | None,
    seed: int,
    skip_corrupt: bool,
    progress: Progress | None,
    allocate: Callable[[int], Bytes],
) -> dict[str, Any]:
    splits = split or deal_out(len(files), fractions or FRACTIONS, seed)
    paths = [p for found in files.values() for p in found]
    items = allocate(len(paths))
    bad = decode_images(paths, image_format, items, progress)
    names = list(files)
    if bad:
        report_bad({paths[i]: reason for i, reason in sorted(bad.items())}, len(paths), skip_corrupt)
    labels = np.repeat(np.arange(len(names)), [len(found) for found in files.values()])
    good = np.ones(len(paths), dtype=bool)
    good[list(bad)] = False
    counts = np.bincount(labels[good], minlength=len(names))
    if not counts.all():
        raise ValueError(
            f"no picture of class {names[int(np.argmin(counts))]!r} can be read: mend or remove its folder"
        )
    for to, i in enumerate(np.flatnonzero(good).tolist()) if bad else ():
        items[to] = items[i]
    return {"classes": names, "counts": counts.tolist(), "splits": splits}


def report_bad(bad: dict[Path, str], of: int, skip: bool) -> None:
    """Raise, or where skipping was asked for warn, about pictures that can't be read."""
    named = "; ".join(f"{p}: {reason}" for p, reason in list(bad.items())[:5])
    text = f"{len(bad)} of {of} pictures can't be read: {named}" + ("; …" if len(bad) > 5 else "")
    if not skip:
        raise OSError(f"{text}; mend or remove them, or skip them with --skip-corrupt")
    warnings.warn(f"{text}; skipped", stacklevel=2)
