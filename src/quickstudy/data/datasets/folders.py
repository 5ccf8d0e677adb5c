"""Folders of files, `root/class/*.jpg` or `*.wav`: any format that Pillow or soundfile reads, any size.

A zip or tar archive may stand in the place of a folder.
"""

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from quickstudy.core.progress import ProgressCallback
from quickstudy.core.wording import plural
from quickstudy.data.cache import cached_pool, contents_of
from quickstudy.data.contents import content_digests
from quickstudy.data.datasets.features import feature_file, is_feature_file
from quickstudy.data.formats.archives import ENDINGS, File, Folder, is_archive, open_archive
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.features import FeatureFormat
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.formats.items import ItemFormat, Items, decode_items
from quickstudy.data.formats.originals import typical_size
from quickstudy.data.pool import ClassPool
from quickstudy.data.splits import FRACTIONS, Split, random_split, read_split

COLOR_84 = ImageFormat(84, 3)
SECOND = AudioFormat()


def image_folders(
    root: str | Path,
    image_format: ImageFormat = COLOR_84,
    split: Split = FRACTIONS,
    seed: int = 0,
    skip_corrupt: bool = False,
    progress: ProgressCallback | None = None,
) -> ClassPool:
    """Load a pool of the images in `root/class/`, one class per folder.

    Args:
        root: Folder with one folder of image files per class, or a zip or tar archive of it; hidden and other
            files are ignored.
        image_format: Format that each image is converted to.
        split: Class-disjoint split: three fractions of the classes for training, validation and test, drawn
            at random; or {"train": [class, ...], "validation": [...], "test": [...]}, or a JSON file of this.
        seed: Seed of the random split.
        skip_corrupt: Whether to skip images that can't be read, with a warning, instead of raising an error.
        progress: Function that is called with (done, total) while decoding.

    Raises:
        FileNotFoundError: If `root` or the split file does not exist.
        ValueError: If there are no classes or images, or the split names a class that does not exist.
        OSError: If images can't be read; the message gives their names and the reasons.
    """
    return class_folders(root, image_format, split, seed, skip_corrupt, progress)


def audio_folders(
    root: str | Path,
    audio_format: AudioFormat = SECOND,
    split: Split = FRACTIONS,
    seed: int = 0,
    skip_corrupt: bool = False,
    progress: ProgressCallback | None = None,
    pattern: str | None = None,
) -> ClassPool:
    """Load a pool of the clips in `root/class/*.wav`, one class per folder, or by a pattern of file names.

    Args:
        root: Folder with one folder of sound files per class, or laid out as `pattern` says, or a zip or tar
            archive of it; hidden and other files are ignored.
        audio_format: Format that each clip is converted to.
        split: Class-disjoint split: three fractions of the classes for training, validation and test, drawn
            at random; or {"train": [class, ...], "validation": [...], "test": [...]}, or a JSON file of this.
        seed: Seed of the random split.
        skip_corrupt: Whether to skip clips that can't be read, with a warning, instead of raising an error.
        progress: Function that is called with (done, total) while decoding.
        pattern: Pattern of the paths below `root`, without the extension, such as "{class}_{source}_{take}"
            for files in `root` itself or "{class}/{source}_{take}" for files in folders. {class} is required;
            {source}, such as the speaker, becomes the pool's `sources`; other parts may have any name. A part
            can't contain the characters that separate parts, here "_" and "/". None for class folders.

    Raises:
        FileNotFoundError: If `root` or the split file does not exist.
        ValueError: If there are no classes or clips, the split names a class that does not exist, or a file
            name does not match the pattern.
        OSError: If clips can't be read; the message gives their names and the reasons.
    """
    return class_folders(root, audio_format, split, seed, skip_corrupt, progress, pattern)


def class_folders(
    root: str | Path,
    item_format: ItemFormat,
    split: Split = FRACTIONS,
    seed: int = 0,
    skip_corrupt: bool = False,
    progress: ProgressCallback | None = None,
    pattern: str | None = None,
) -> ClassPool:
    """Load a pool of the items in folders, images or clips; see `image_folders` and `audio_folders`.

    Args:
        root: Folder with one folder of files per class, or laid out as `pattern` says; or an archive of it.
        item_format: Format that each item is converted to; also says which files are items.
        split: Fractions of the classes for training, validation and test, class names by split, or a JSON
            file of these.
        seed: Seed of the random split.
        skip_corrupt: Whether to skip items that can't be read, with a warning, instead of raising an error.
        progress: Function that is called with (done, total) while decoding.
        pattern: Pattern of the paths below `root`, such as "{class}/{source}_{take}"; None for class folders.
    """
    root, sources = Path(root), dict[File, str]()
    if pattern is None:
        files = find_files(root, item_format)
    elif "{class}" not in pattern:
        raise ValueError(f"pattern {pattern!r} lacks {{class}}: say which part of a name is the class")
    else:
        files = dict[str, list[File]]()
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
        lists or random_split(len(files), fractions or FRACTIONS, seed),
        [lists, fractions, seed, skip_corrupt],
        sources,
        skip_corrupt,
        progress,
    )


def pool_of_files(
    root: Path,
    files: Mapping[str, Sequence[File]],
    item_format: ItemFormat,
    splits: Mapping[str, Sequence[int]],
    options: Sequence[Any] = (),
    sources: Mapping[File, str] | None = None,
    skip_corrupt: bool = False,
    progress: ProgressCallback | None = None,
) -> ClassPool:
    """Load a pool of given files, decoded once and cached; all data sets of files use it.

    Args:
        root: Folder or archive of the data set; the pool has its name.
        files: Files of each class, by the class's name.
        item_format: Format that each item is converted to.
        splits: Class indices of each split, by the split's name.
        options: JSON-serializable values that the pool depends on besides the files; part of the cache's key.
        sources: Source of each file, such as its speaker; None if sources are unknown.
        skip_corrupt: Whether to skip items that can't be read, with a warning, instead of raising an error.
        progress: Function that is called with (done, total) while decoding.

    Raises:
        OSError: If files can't be read; the message gives their names and the reasons.
        ValueError: If no item of a class can be read.
    """
    of = sources or {}
    everything = [f for found in files.values() for f in found]
    digests = dict(zip(everything, content_digests(everything, contents_of(root)), strict=True))
    account = [[c, digests[f], *([of[f]] if of else [])] for c, found in files.items() for f in found]
    build = partial(_build, files, item_format, splits, of, skip_corrupt, progress)
    key = [account, *options]
    name = root.resolve().name
    if is_archive(root):
        name = name[: -len(next(end for end in ENDINGS[::-1] if name.lower().endswith(end)))] or name
    pool = cached_pool(name, key, build, item_format, private=True)
    paths = [p for found in files.values() for p in found]
    return replace(pool, original_size=typical_size(paths, item_format))


def folder_pool(
    root: str | Path,
    item_format: ItemFormat,
    split: Split = FRACTIONS,
    skip_corrupt: bool = False,
    pattern: str | None = None,
) -> Callable[..., ClassPool]:
    """Make a recipe's `pool` function of `class_folders`; it ignores the data root that it is given.

    Args:
        root: Folder with one folder of files per class, or laid out as `pattern` says; or an archive of it.
        item_format: Format that each item is converted to.
        split: Fractions of the classes for training, validation and test, class names by split, or a JSON
            file of these.
        skip_corrupt: Whether to skip items that can't be read, with a warning, instead of raising an error.
        pattern: Pattern of the paths below `root`, such as "{class}/{source}_{take}"; None for class folders.

    Returns:
        Function of the keyword arguments `root` (ignored) and `progress` that loads the pool.
    """
    folder = root
    if isinstance(item_format, FeatureFormat) and is_feature_file(root):
        return partial(_features_of, root, split)

    def pool(*, root: object = None, progress: ProgressCallback | None = None) -> ClassPool:
        return class_folders(
            folder, item_format, split, skip_corrupt=skip_corrupt, progress=progress, pattern=pattern
        )

    return pool


def _features_of(path: str | Path, split: Split, **_: object) -> ClassPool:
    """The features in a file, as a recipe's `pool` function."""
    return feature_file(path, split=split)


def find_files(root: Path, item_format: ItemFormat) -> dict[str, list[File]]:
    """List the items of each class folder by their file name extensions, both sorted by name.

    Args:
        root: Folder with one folder of files per class, or an archive of it.
        item_format: Format of the items, which gives the extensions.

    Returns:
        Files of each class, by the class's name.

    Raises:
        FileNotFoundError: If `root` is neither a folder nor an archive.
        OSError: If the archive is damaged.
        ValueError: If there are no class folders, or one of them has no such file, or the archive is
            encrypted or holds too large files.
    """
    noun, here = item_format.noun, _opened(root, item_format, 1)
    folders = _folders_in(here, item_format)
    if not folders:
        loose = _items_in(here, item_format)
        hint = f" ({noun} must lie in folders, whose names are the classes)" if loose else ""
        raise ValueError(f"{root} holds no class folders{hint}: expected {_layout(root, item_format)}")
    files = {folder.name: _items_in(folder, item_format) for folder in folders}
    empty = [folder for folder in folders if not files[folder.name]]
    if empty:
        others = _endings([name for folder in empty for name in _others_in(folder, item_format)[0]])
        raise ValueError(
            f"{len(empty)} class folders of {root} hold no {noun}: {', '.join(f.name for f in empty[:5])}; "
            f"fill or remove them{f' ({others} is not read: convert such files)' if others else ''}"
        )
    _say_passed_over(folders, here, item_format)
    return files


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, or an archive, which may stand in the place of one.

    Args:
        path: Path of anything; it need not exist.
    """
    return path.is_dir() or is_archive(path)


def files_in(folder: Path, item_format: ItemFormat) -> list[File]:
    """List the items in a folder by their file name extensions, sorted by name.

    Args:
        folder: Folder of files, or an archive of it.
        item_format: Format of the items, which gives the extensions.
    """
    here = _opened(folder, item_format, 0)
    _say_passed_over([here], None, item_format)
    return _items_in(here, item_format)


def matching_files(root: Path, item_format: ItemFormat, pattern: str) -> list[tuple[File, dict[str, str]]]:
    """List the files below `root` with the parts of their names, by a pattern.

    Only files as deep as the pattern has slashes are listed. Parts can't contain the characters that separate
    them, so a name can be read in one way only.

    Args:
        root: Folder of the files, or an archive of it.
        item_format: Format of the items, which gives the file name extensions.
        pattern: Pattern of the paths below `root`, without the extension, such as "{class}/{source}_{take}".

    Returns:
        Each file, and the parts of its name by the name of the part.

    Raises:
        FileNotFoundError: If `root` is neither a folder nor an archive.
        ValueError: If the pattern is malformed, there are no files, or a file does not match it.
    """
    expression, depth = compiled(pattern), pattern.count("/")
    folders = [("", _opened(root, item_format, depth))]
    for _ in range(depth):
        folders = [(f"{above}{f.name}/", f) for above, of in folders for f in _folders_in(of, item_format)]
    found: list[tuple[File, dict[str, str]]] = []
    for above, file in [(above, file) for above, of in folders for file in _items_in(of, item_format)]:
        if not (match := expression.fullmatch(above + Path(file.name).stem)):
            raise ValueError(f"{file} is not called as the pattern {pattern!r} says: rename or remove it")
        found.append((file, match.groupdict()))
    if not found:
        raise ValueError(f"no {item_format.noun} in {root} lie where the pattern {pattern!r} says")
    return found


def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of file names to a regular expression with a named group for each part.

    Args:
        pattern: Pattern such as "{class}/{source}_{take}".

    Raises:
        ValueError: If the pattern has no parts, a part twice, parts that are not separated, or other braces.
    """
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


def _opened(root: Path, item_format: ItemFormat, depth: int) -> Path | Folder:
    """A folder, or an archive as one; `depth` is the number of folders between it and the items."""
    return open_archive(root, item_format.endings(), depth) if is_archive(root) else root


def _folders_in(folder: Path | Folder, item_format: ItemFormat) -> Sequence[Path | Folder]:
    if isinstance(folder, Folder):
        return [inner for _, inner in sorted(folder.folders.items())]
    return [Path(e.path) for e in _inside(folder, item_format) if _sure(e).is_dir()]


def _items_in(folder: Path | Folder, item_format: ItemFormat) -> list[File]:
    """The files with one of the format's extensions."""
    if isinstance(folder, Folder):
        return [member for _, member in sorted(folder.files.items())]
    entries, endings = _inside(folder, item_format), item_format.endings()
    return [p for e in entries if (p := Path(e.path)).suffix.lower() in endings and _sure(e).is_file()]


JUNK = {"thumbs.db", "desktop.ini"}
"""Files that systems put into folders of pictures."""
MEDIA = frozenset(
    {
        ".heic",
        ".heif",
        ".m4a",
        ".aac",
        ".wma",
        ".amr",
        ".mp4",
        ".mov",
        ".3gp",
        ".webm",
        ".svg",
        ".pdf",
        ".eps",
    }
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".ico", ".zip"}
)
"""Extensions of files that one may take for items, though none of our formats."""


def _others_in(folder: Path | Folder, item_format: ItemFormat) -> tuple[list[str], list[str]]:
    """Names of the files in a folder that are no items, and of the folders in it."""
    if isinstance(folder, Folder):
        return folder.others, [*folder.folders]
    entries = _inside(folder, item_format)
    deeper = [e.name for e in entries if _sure(e).is_dir()]
    endings = item_format.endings()
    others = [e.name for e in entries if _sure(e).is_file() and Path(e.name).suffix.lower() not in endings]
    return others, deeper


def _say_passed_over(
    folders: Sequence[Path | Folder], root: Path | Folder | None, item_format: ItemFormat
) -> None:
    """Say once what lies in folders of items, or beside them, and is none."""
    said: list[str] = []
    found = [_others_in(folder, item_format) for folder in folders]
    others = [name for names, _ in found for name in names if name.lower() not in JUNK]
    deeper = [
        f"{folder.name}/{name}" for folder, (_, names) in zip(folders, found, strict=True) for name in names
    ]
    if root:
        others += [n for n in _others_in(root, item_format)[0] if Path(n).suffix.lower() in MEDIA]
        if loose := _items_in(root, item_format):
            said.append(f"{plural(len(loose), 'file')} beside the class folders passed over: {loose[0].name}")
    if others:
        said.append(f"{plural(len(others), 'file')} of other types passed over: {_endings(others)}")
    if deeper:
        said.append(
            f"{plural(len(deeper), 'folder')} in folders of {item_format.noun} passed over: {deeper[0]}"
        )
    for text in said:
        warnings.warn(text, stacklevel=3)


def _endings(names: Sequence[str]) -> str:
    """The extensions of files, or their names where they have none."""
    endings = list(dict.fromkeys(Path(name).suffix.lower() or name for name in sorted(names)))
    return ", ".join(endings[:5]) + (", …" if len(endings) > 5 else "")


def _sure(entry: os.DirEntry[str]) -> os.DirEntry[str] | Path:
    """A path for symbolic links (a loop of links makes a `DirEntry` raise), else the entry itself."""
    return Path(entry.path) if entry.is_symlink() else entry


def _inside(folder: Path, item_format: ItemFormat) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=attrgetter("name"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{folder} is not a folder, nor a zip or tar archive: name one that holds a folder of "
            f"{item_format.noun} for each class"
        ) from None


def _layout(root: Path, item_format: ItemFormat) -> str:
    return f"{root.name}/CLASS/*.{'jpg' if '.jpg' in item_format.endings() else 'wav'}"


def _build(
    files: Mapping[str, Sequence[File]],
    item_format: ItemFormat,
    splits: Mapping[str, Sequence[int]],
    sources: Mapping[File, str],
    skip_corrupt: bool,
    progress: ProgressCallback | None,
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


def report_bad(bad: Mapping[File, str], of: int, skip: bool, noun: str = "pictures") -> None:
    """Raise an error or give a warning about files that can't be read.

    Args:
        bad: Reason why each file can't be read, by the file.
        of: Number of all files.
        skip: Whether to warn only, because unreadable files are skipped.
        noun: Plural noun for the items in the message.

    Raises:
        OSError: If unreadable files are not to be skipped.
    """
    named = "; ".join(f"{p}: {reason}" for p, reason in list(bad.items())[:5])
    text = f"{len(bad)} of {of} {noun} can't be read: {named}" + ("; …" if len(bad) > 5 else "")
    if not skip:
        raise OSError(
            f"{text}; mend or remove them, or skip them with --skip-corrupt (train: --set skip_corrupt=true)"
        )
    warnings.warn(f"{text}; skipped", stacklevel=2)
