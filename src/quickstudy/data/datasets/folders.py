"""Folders of items, `root/class/*.jpg` or `*.wav`: any format that Pillow or soundfile reads, any sizes."""

import os
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from quickstudy.data.cache import cached_pool
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.images import ImageFormat, Progress
from quickstudy.data.formats.items import ItemFormat, Items, decode_items
from quickstudy.data.pool import ClassPool
from quickstudy.data.splits import FRACTIONS, Split, deal_out, read_split

COLOUR_84 = ImageFormat(84, 3)
SECOND = AudioFormat()


def image_folders(
    root: str | Path,
    image_format: ImageFormat = COLOUR_84,
    split: Split = FRACTIONS,
    seed: int = 0,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
) -> ClassPool:
    """A pool of the pictures in `root/class/`, one class a folder.

    Args:
        root: folder of folders; hidden files and other than picture files are passed over.
        image_format: what each picture becomes.
        split: fractions of the classes for train, validation and test, dealt out at random by `seed`;
            or {"train": [class, ...], "validation": [...], "test": [...]}, or a JSON file that holds this.
        seed: of the random split.
        skip_corrupt: leave out pictures that can't be read, with a warning, instead of an error.
        progress: called with (done, total) while decoding.

    Raises:
        FileNotFoundError: if `root` or the split file is absent.
        ValueError: if there are no classes or pictures, or the split names a class that isn't there.
        OSError: if pictures can't be read, with their names and the reasons.
    """
    return class_folders(root, image_format, split, seed, skip_corrupt, progress)


def audio_folders(
    root: str | Path,
    audio_format: AudioFormat = SECOND,
    split: Split = FRACTIONS,
    seed: int = 0,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
    pattern: str | None = None,
) -> ClassPool:
    """A pool of the clips in `root/class/*.wav`, one class a folder, or as the names of the files say.

    Args:
        root: folder of folders, or with a pattern of files; other than sound files are passed over.
        audio_format: what each clip becomes.
        split: as in `image_folders`, and so the other arguments.
        seed: of the random split.
        skip_corrupt: leave out clips that can't be read, with a warning, instead of an error.
        progress: called with (done, total) while decoding.
        pattern: how files are called below `root`, without their ending: "{class}_{source}_{take}" in
            `root` itself, "{class}/{source}_{take}" in folders. {class} must be there; {source}, who or what
            a clip comes from, goes into the pool's `sources`; other names are yours. A part can't hold
            what stands between parts, here "_".

    Raises:
        FileNotFoundError: if `root` or the split file is absent.
        ValueError: if there are no classes or clips, the split names a class that isn't there, or a file is
            not called as the pattern says.
        OSError: if clips can't be read, with their names and the reasons.
    """
    return class_folders(root, audio_format, split, seed, skip_corrupt, progress, pattern)


def class_folders(
    root: str | Path,
    item_format: ItemFormat,
    split: Split = FRACTIONS,
    seed: int = 0,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
    pattern: str | None = None,
) -> ClassPool:
    """A pool of the items in folders, whatever they are; see `image_folders` and `audio_folders`."""
    root, sources = Path(root), dict[Path, str]()
    if pattern is None:
        files = find_files(root, item_format)
    elif "{class}" not in pattern:
        raise ValueError(f"pattern {pattern!r} lacks {{class}}: say which part of a name is the class")
    else:
        files = dict[str, list[Path]]()
        for path, parts in matching_files(root, item_format, pattern):
            files.setdefault(parts["class"], []).append(path)
            sources |= {path: parts["source"]} if "source" in parts else {}
        files = dict(sorted(files.items()))
    lists = read_split(split, list(files)) if isinstance(split, str | Path | Mapping) else None
    fractions = None if isinstance(split, str | Path | Mapping) else tuple(split)
    return pool_of_files(
        root,
        files,
        item_format,
        lists or deal_out(len(files), fractions or FRACTIONS, seed),
        [lists, fractions, seed, skip_corrupt],
        sources,
        skip_corrupt,
        progress,
    )


def pool_of_files(
    root: Path,
    files: Mapping[str, Sequence[Path]],
    item_format: ItemFormat,
    splits: Mapping[str, Sequence[int]],
    options: Sequence[Any] = (),
    sources: Mapping[Path, str] | None = None,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
) -> ClassPool:
    """A pool of files, decoded once: what all data sets of files come down to.

    Args:
        root: the data set, which gives the pool its name.
        files: of each class.
        item_format: what each becomes.
        splits: indices of the classes by split.
        options: JSON-able; of what the splits or anything else depends on beside the files.
        sources: who or what each file comes from.
        skip_corrupt: leave out what can't be read, with a warning.
        progress: called with (done, total) while decoding.

    Raises:
        OSError: if files can't be read, with their names and the reasons.
        ValueError: if nothing of a class can be read.
    """
    of = sources or {}
    # contents are recognised as make and git do it, by name, size and time: reading them all would take
    # as long as decoding some
    account = [
        [c, p.name, p.stat().st_size, p.stat().st_mtime_ns, *([of[p]] if of else [])]
        for c, ps in files.items()
        for p in ps
    ]
    build = partial(_build, files, item_format, splits, of, skip_corrupt, progress)
    key = [str(root.resolve()), account, *options]
    return cached_pool(root.resolve().name, key, build, item_format, private=True)


def folder_pool(
    root: str | Path,
    item_format: ItemFormat,
    split: Split = FRACTIONS,
    skip_corrupt: bool = False,
    pattern: str | None = None,
) -> Callable[..., ClassPool]:
    """`class_folders` as a recipe wants it: a function of data root (not needed here) and progress."""
    folder = root

    def pool(*, root: object = None, progress: Progress | None = None) -> ClassPool:
        return class_folders(
            folder, item_format, split, skip_corrupt=skip_corrupt, progress=progress, pattern=pattern
        )

    return pool


def find_files(root: Path, item_format: ItemFormat) -> dict[str, list[Path]]:
    """The files of each class folder that are called like items, both sorted by name.

    Raises:
        FileNotFoundError: if `root` is no folder.
        ValueError: if there are no class folders, or one of them holds no such file.
    """
    noun, folders = item_format.noun, _folders_in(root, item_format)
    if not folders:
        loose = files_in(root, item_format)
        hint = f" ({noun} must lie in folders, whose names are the classes)" if loose else ""
        raise ValueError(f"{root} holds no class folders{hint}: expected {_layout(root, item_format)}")
    endings = item_format.endings()
    files = {folder.name: _called(_inside(folder, item_format), endings) for folder in folders}
    empty = [c for c, found in files.items() if not found]
    if empty:
        raise ValueError(
            f"{len(empty)} class folders of {root} hold no {noun}: {', '.join(empty[:5])}; "
            "fill or remove them"
        )
    return files


def files_in(folder: Path, item_format: ItemFormat) -> list[Path]:
    """The files in a folder that are called like items, sorted by name."""
    return _called(_inside(folder, item_format), item_format.endings())


def matching_files(root: Path, item_format: ItemFormat, pattern: str) -> list[tuple[Path, dict[str, str]]]:
    """The files below `root` and the parts of their names, by a pattern such as "{class}/{source}_{take}".

    Files are those that lie as deep as the pattern has slashes. What stands between two parts is in none of
    them, so that a name can be read in one way only.

    Raises:
        FileNotFoundError: if `root` is no folder.
        ValueError: if the pattern is none, there are no files, or one is called otherwise.
    """
    expression = compiled(pattern)
    folders = [root]
    for _ in range(pattern.count("/")):
        folders = [p for folder in folders for p in _folders_in(folder, item_format)]
    found: list[tuple[Path, dict[str, str]]] = []
    for path in [p for folder in folders for p in files_in(folder, item_format)]:
        name = path.relative_to(root).with_suffix("").as_posix()
        if not (match := expression.fullmatch(name)):
            raise ValueError(f"{path} is not called as the pattern {pattern!r} says: rename or remove it")
        found.append((path, match.groupdict()))
    if not found:
        raise ValueError(f"no {item_format.noun} in {root} lie where the pattern {pattern!r} says")
    return found


def compiled(pattern: str) -> re.Pattern[str]:
    """What names must match, with a group for each part."""
    between = re.split(r"\{[a-z]+\}", pattern)
    names = re.findall(r"\{([a-z]+)\}", pattern)
    literal = "".join(between)
    if not names or len({*names}) < len(names) or "" in between[1:-1] or re.search("[{}]", literal):
        raise ValueError(
            f"pattern {pattern!r} is none: name parts such as {{class}} and {{source}} in lower case, "
            "each once, with something between them"
        )
    apart = "".join({c for c in "/" + literal if not c.isalnum()})
    part = rf"[^{re.escape(apart)}]+"
    parts = [f"(?P<{name}>{part}){re.escape(then)}" for name, then in zip(names, between[1:], strict=True)]
    return re.compile(re.escape(between[0]) + "".join(parts))


def _folders_in(folder: Path, item_format: ItemFormat) -> list[Path]:
    return [Path(e.path) for e in _inside(folder, item_format) if _sure(e).is_dir()]


def _called(entries: Sequence[os.DirEntry[str]], endings: Collection[str]) -> list[Path]:
    """The files whose names end so."""
    return [p for e in entries if (p := Path(e.path)).suffix.lower() in endings and _sure(e).is_file()]


def _sure(entry: os.DirEntry[str]) -> os.DirEntry[str] | Path:
    """What may be asked what it is: links may lead nowhere, at which only a path takes no offence."""
    return Path(entry.path) if entry.is_symlink() else entry


def _inside(folder: Path, item_format: ItemFormat) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name, hidden files left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=attrgetter("name"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{folder} is not a folder: name one that holds a folder of {item_format.noun} for each class"
        ) from None


def _layout(root: Path, item_format: ItemFormat) -> str:
    return f"{root.name}/CLASS/*.{'jpg' if '.jpg' in item_format.endings() else 'wav'}"


def _build(
    files: Mapping[str, Sequence[Path]],
    item_format: ItemFormat,
    splits: Mapping[str, Sequence[int]],
    sources: Mapping[Path, str],
    skip_corrupt: bool,
    progress: Progress | None,
    allocate: Callable[[int], Items],
) -> dict[str, Any]:
    paths = [p for found in files.values() for p in found]
    items = allocate(len(paths))
    bad = decode_items(paths, item_format, items, progress)
    names = list(files)
    if bad:
        reasons = {paths[i]: reason for i, reason in sorted(bad.items())}
        report_bad(reasons, len(paths), skip_corrupt, item_format.noun)
    labels = np.repeat(np.arange(len(names)), [len(found) for found in files.values()])
    good = np.ones(len(paths), dtype=bool)
    good[list(bad)] = False
    counts = np.bincount(labels[good], minlength=len(names))
    if not counts.all():
        raise ValueError(
            f"no {item_format.noun} of class {names[int(np.argmin(counts))]!r} can be read: "
            "mend or remove them"
        )
    for to, i in enumerate(np.flatnonzero(good).tolist()) if bad else ():
        items[to] = items[i]
    parts = {"classes": names, "counts": counts.tolist(), "splits": splits}
    if sources:
        of_item = [sources[paths[i]] for i in np.flatnonzero(good).tolist()]
        who, which = np.unique(of_item, return_inverse=True)
        parts |= {"sources": which.tolist(), "source_names": who.tolist()}
    return parts


def report_bad(bad: dict[Path, str], of: int, skip: bool, noun: str = "pictures") -> None:
    """Raise, or where skipping was asked for warn, about files that can't be read."""
    named = "; ".join(f"{p}: {reason}" for p, reason in list(bad.items())[:5])
    text = f"{len(bad)} of {of} {noun} can't be read: {named}" + ("; …" if len(bad) > 5 else "")
    if not skip:
        raise OSError(
            f"{text}; mend or remove them, or skip them with --skip-corrupt (train: --set skip_corrupt=true)"
        )
    warnings.warn(f"{text}; skipped", stacklevel=2)
