"""Folders of pictures or clips in the layouts in which data sets for few-shot learning are passed on.

`DIR/CLASS/*.jpg` with lists of the splits, `DIR/train/CLASS/*.jpg`, and several data sets side by side,
`DIR/DATASET/CLASS/*.jpg`.
"""

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from quickstudy.core.foreign import json_of
from quickstudy.core.progress import ProgressCallback
from quickstudy.core.wording import plural, shown
from quickstudy.data.datasets.features import feature_file, is_feature_file
from quickstudy.data.datasets.folders import class_folders, find_files, pool_of_files
from quickstudy.data.formats.archives import ENDINGS, File, is_archive
from quickstudy.data.formats.features import FeatureFormat
from quickstudy.data.formats.items import ItemFormat
from quickstudy.data.pool import ClassPool
from quickstudy.data.splits import FRACTIONS, SPLITS, Split, random_split, read_split

FOLDERS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
"""Names of the folders of each split."""
LISTS = {"train": ("train", "base"), "validation": ("val", "validation", "valid"), "test": ("test", "novel")}
"""Names of the lists of each split, without their endings."""


@dataclass(frozen=True)
class Layout:
    """What was found in a folder.

    Args:
        files: Files of each class, by its name.
        splits: Names of the classes of each split; empty where the layout has none.
    """

    files: dict[str, list[File]]
    splits: dict[str, list[str]]


def pool_of_layout(
    root: Path,
    layout: Layout,
    item_format: ItemFormat,
    split: Split = FRACTIONS,
    seed: int = 0,
    skip_corrupt: bool = False,
    progress: ProgressCallback | None = None,
    name: str | None = None,
) -> ClassPool:
    """Decode what was found in a folder.

    Args:
        root: The folder.
        layout: What was found in it.
        item_format: Format that each item is converted to.
        split: Fractions of the classes, class names by split, or a JSON file of these. The default is the
            split of the layout, where it has one.
        seed: Seed of a split by fractions.
        skip_corrupt: Whether to skip items that can't be read, with a warning, instead of raising an error.
        progress: Function that is called with (done, total) while decoding.
        name: Name of the pool; None for that of the folder.
    """
    files = dict(sorted(layout.files.items()))
    names = list(files)
    if isinstance(split, str | Path | Mapping):
        lists = read_split(split, names)
    elif layout.splits and tuple(split) == FRACTIONS:
        place = {c: i for i, c in enumerate(names)}
        lists = {s: sorted(place[c] for c in layout.splits.get(s, ())) for s in SPLITS}
    else:
        lists = random_split(len(names), tuple(split), seed)
    options: list[Any] = [lists, skip_corrupt]
    pool = pool_of_files(
        root, files, item_format, lists, options, skip_corrupt=skip_corrupt, progress=progress
    )
    return replace(pool, name=name or pool.name)


def folder_pool(
    root: str | Path,
    item_format: ItemFormat,
    split: Split = FRACTIONS,
    skip_corrupt: bool = False,
    pattern: str | None = None,
) -> Callable[..., ClassPool]:
    """Make a recipe's `pool` function of a folder in any layout; it ignores the data root that it is given.

    Args:
        root: Folder with one folder of files per class, or with train/, val/ and test/ of such, or with
            train.csv, val.csv and test.csv, or with one such folder for each of several data sets; or laid
            out as `pattern` says; or an archive of class folders; or a file of features, if `item_format` is
            a `FeatureFormat`.
        item_format: Format that each item is converted to.
        split: Fractions of the classes for training, validation and test, class names by split, or a JSON
            file of these. The default is the split of the layout, where it has one.
        skip_corrupt: Whether to skip items that can't be read, with a warning, instead of raising an error.
        pattern: Pattern of the paths below `root`, such as "{class}/{source}_{take}"; None for folders.

    Returns:
        Function of the keyword arguments `root` (ignored) and `progress` that loads the pool.
    """
    if isinstance(item_format, FeatureFormat) and is_feature_file(root):
        return partial(_features_of, root, split)
    folder = Path(root)

    def pool(*, root: object = None, progress: ProgressCallback | None = None) -> ClassPool:
        layout = find_layout(folder, item_format) if pattern is None else None
        if layout:
            return pool_of_layout(folder, layout, item_format, split, 0, skip_corrupt, progress)
        return class_folders(
            folder, item_format, split, skip_corrupt=skip_corrupt, progress=progress, pattern=pattern
        )

    return pool


def _features_of(path: str | Path, split: Split, **_: object) -> ClassPool:
    """The features in a file, as a recipe's `pool` function."""
    return feature_file(path, split=split)


def side_by_side(
    root: str | Path,
    item_format: ItemFormat,
    split: Mapping[str, Sequence[str]] | Sequence[float] = FRACTIONS,
    seed: int = 0,
    skip_corrupt: bool = False,
    progress: ProgressCallback | None = None,
) -> ClassPool:
    """Load several data sets as one pool, whose classes are named `DATASET/CLASS`.

    `Episodes(pool, setting, group=dataset_of)` draws each task from one of them, in proportion to their
    numbers of classes.

    Args:
        root: Folder of data sets, each a folder or an archive with a folder of files for each class.
        item_format: Format that each item is converted to.
        split: Three fractions of the classes of each data set for training, validation and test; or {"train":
            [name, …], …} of data sets, or of classes, or both.
        seed: Seed of a split by fractions.
        skip_corrupt: Whether to skip items that can't be read, with a warning, instead of raising an error.
        progress: Function that is called with (done, total) while decoding.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are no data sets in it, or a split names what isn't there.
        OSError: If items can't be read; the message gives their names and the reasons.

    Reference: Triantafillou et al. 2020, "Meta-Dataset", whose splits of data sets these are not.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: name one that holds a folder for each data set")
    parts = [
        p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and (p.is_dir() or is_archive(p))
    ]
    if not parts:
        raise ValueError(f"{folder} holds no data sets: expected {folder.name}/DATASET/CLASS/*.jpg")
    files, own = _side_by_side(parts, item_format)
    if isinstance(split, Mapping):
        chosen = {s: [c for name in names for c in own.get(name, [name])] for s, names in split.items()}
    else:
        chosen = _divided(own, split, seed)
    return pool_of_layout(folder, Layout(files, {}), item_format, chosen, seed, skip_corrupt, progress)


def _side_by_side(
    parts: Sequence[Path], item_format: ItemFormat
) -> tuple[dict[str, list[File]], dict[str, list[str]]]:
    """Files of the classes of several data sets, and the classes of each of these."""
    files: dict[str, list[File]] = {}
    own: dict[str, list[str]] = {}
    for part in parts:
        if (short := _without_ending(part.name)) in own:
            raise ValueError(f"{part.parent} holds two data sets named {short}: rename or remove one")
        found = {f"{short}/{c}": of for c, of in find_files(part, item_format).items()}
        files |= found
        own[short] = list(found)
    return files, own


def _divided(own: Mapping[str, Sequence[str]], fractions: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Classes of each split, in the same proportions of each data set."""
    divided: dict[str, list[str]] = {}
    for classes in own.values():
        for s, of in random_split(len(classes), fractions, seed).items():
            divided.setdefault(s, []).extend(classes[i] for i in of)
    return divided


def dataset_of(name: str) -> str:
    """The data set of a class named `DATASET/CLASS`, as those of `side_by_side` are.

    Args:
        name: Name of the class.
    """
    return name.partition("/")[0]


def find_layout(root: Path, item_format: ItemFormat, lists: bool = False) -> Layout | None:
    """Find the layout of a folder; None where it is one of class folders, or an archive.

    Args:
        root: The folder.
        item_format: Format of the items, which gives the extensions.
        lists: Whether lists are to be read whatever they look like; otherwise only such of the columns
            `filename` and `label`.

    Raises:
        ValueError: If lists name what isn't there, or a class is in two splits.
    """
    if is_archive(root) or not root.is_dir():
        return None
    for place in (root, root / "split", root / "splits"):
        found = _lists_in(place)
        if found and (lists or all(_has_columns(path) for path in found.values())):
            return _listed(root, found, item_format)
    folders = {
        s: next((root / n for n in names if (root / n).is_dir()), None) for s, names in FOLDERS.items()
    }
    given = {s: path for s, path in folders.items() if path and _nested(path, item_format)}
    if "train" in given and "test" in given:
        each = {s: find_files(path, item_format) for s, path in given.items()}
        return Layout(_united(root, each), {s: list(of) for s, of in each.items()})
    inside = _folders(root)
    if len(inside) > 1 and not _items(root, item_format) and all(_nested(p, item_format) for p in inside):
        files, own = _side_by_side(inside, item_format)
        enough = min(map(len, own.values())) >= len(SPLITS)
        return Layout(files, _divided(own, FRACTIONS, 0) if enough else {})
    return None


def _united(root: Path, each: Mapping[str, Mapping[str, Sequence[File]]]) -> dict[str, list[File]]:
    """Files of the classes of all splits, which share none."""
    whose: dict[str, str] = {}
    united: dict[str, list[File]] = {}
    for s, files in each.items():
        for c, of in files.items():
            if c in whose:
                raise ValueError(
                    f"class {shown(c)!r} of {root} is in both {whose[c]} and {s}: splits share no class; "
                    "leave it out of one"
                )
            whose[c], united[c] = s, list(of)
    return united


def _listed(root: Path, lists: Mapping[str, Path], item_format: ItemFormat) -> Layout:
    """The pictures that lists name."""
    endings = item_format.endings()
    images = root / "images" if (root / "images").is_dir() else root
    by_class = {p.name: _items(p, item_format) for p in _folders(images)}
    known = {p.name: p for p in _items(images, item_format)}
    known |= {f"{c}/{p.name}": p for c, of in by_class.items() for p in of}
    each: dict[str, dict[str, list[File]]] = {}
    for s, path in lists.items():
        files: dict[str, list[File]] = {}
        missing: list[str] = []
        rows = list(_rows(path, endings))
        for name, label in rows:
            if not name:  # a whole class
                files[label] = list(by_class.get(label, ()))
                missing += [label] * (not files[label])
                continue
            parts = PurePosixPath(name.replace("\\", "/")).parts[-2:]
            of = label or parts[0]
            wanted = ("/".join(parts), f"{of}/{parts[-1]}", parts[-1])
            found = next((known[k] for k in wanted if k in known), None)
            if found:
                files.setdefault(of, []).append(found)
            else:
                missing.append(name)
        if missing or not rows:
            what = (
                f"{len(missing)} of {len(rows)}, e.g. {shown(missing[0])}, are not" if missing else "none is"
            )
            raise ValueError(
                f"{path} lists {item_format.noun}, of which {what} in {images}: put them there, or name the "
                "folder that holds them"
            )
        each[s] = files
    return Layout(_united(root, each), {s: list(of) for s, of in each.items()})


def _lists_in(folder: Path) -> dict[str, Path]:
    """Lists of the splits, if there are such of training and test at least."""
    found: dict[str, Path] = {}
    for s, stems in LISTS.items():
        for path in (folder / f"{stem}{ending}" for stem in stems for ending in (".csv", ".txt", ".json")):
            if s not in found and path.is_file():
                found[s] = path
    return found if {"train", "test"} <= set(found) else {}


def _has_columns(path: Path) -> bool:
    """Whether a list is one of Ravi and Larochelle's form."""
    if path.suffix != ".csv":
        return False
    with path.open("rb") as f:
        first = f.readline(1000).decode("utf-8-sig", errors="replace").strip().lower()
    return {"filename", "label"} <= {c.strip() for c in first.split(",")}


def _rows(path: Path, endings: frozenset[str]) -> Iterator[tuple[str, str]]:
    """File and class of each line of a list; no file where the line names a class.

    Forms: `filename,label`; "path label", "path" or a class by itself; Chen's JSON of image_names and
    image_labels, where the last folder of a path is the class.
    """
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    if path.suffix == ".json":
        try:
            names: Any = json_of(text)["image_names"]
            yield from ((str(name), "") for name in names)
        except (ValueError, KeyError, TypeError):
            raise ValueError(f'{path} is no list of pictures: expected {{"image_names": [...], …}}') from None
        return
    rows = (
        list(csv.reader(text.splitlines()))
        if path.suffix == ".csv"
        else [r.split() for r in text.splitlines()]
    )
    header = [c.strip().lower() for c in rows[0]] if rows else []
    file_at, label_at, first = 0, 1, 0
    if "filename" in header and "label" in header:
        file_at, label_at, first = header.index("filename"), header.index("label"), 1
    for number, row in enumerate(rows[first:], first + 1):
        if not row:
            continue
        if len(row) <= file_at:
            raise ValueError(
                f"line {number} of {path} has {plural(len(row), 'column')}: expected filename,label"
            )
        name = row[file_at].strip()
        if PurePosixPath(name).suffix.lower() in endings:
            yield name, row[label_at].strip() if len(row) > label_at else ""
        else:
            yield "", name


def _without_ending(name: str) -> str:
    ending = next((end for end in ENDINGS[::-1] if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)] or name


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if not e.name.startswith(".") and Path(e.path).is_dir())


def _items(folder: Path, item_format: ItemFormat) -> list[Path]:
    endings = item_format.endings()
    with os.scandir(folder) as entries:
        found = [Path(e.path) for e in entries if not e.name.startswith(".") and e.is_file()]
    return sorted(p for p in found if p.suffix.lower() in endings)


def _nested(folder: Path, item_format: ItemFormat) -> bool:
    """Whether a folder holds folders of items, and no items of its own."""
    return not _items(folder, item_format) and any(_items(p, item_format) for p in _folders(folder))
