"""CIFAR-FS and FC100: the 100 classes of CIFAR-100, 600 color pictures each, divided for few-shot learning.

Alex Krizhevsky: "Learning multiple layers of features from tiny images", 2009. The pictures were drawn from
the 80 Million Tiny Images, which their authors have withdrawn.
"""

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from quickstudy.core.progress import ProgressCallback
from quickstudy.data.cache import cached_pool, contents_of, data_root
from quickstudy.data.contents import content_digests
from quickstudy.data.datasets.download import download
from quickstudy.data.datasets.folders import files_in, find_files
from quickstudy.data.formats.archives import File
from quickstudy.data.formats.content import bytes_of
from quickstudy.data.formats.images import Bytes, ImageFormat
from quickstudy.data.formats.items import decode_items
from quickstudy.data.pool import ClassPool

LICENCE = (
    "public benchmark, Krizhevsky 2009; drawn from 80 Million Tiny Images, which its authors have withdrawn"
)
ZIP = "cifar100.zip"
BINARY, PICKLE = "cifar-100-binary.tar.gz", "cifar-100-python"
ADDRESS = f"https://www.cs.toronto.edu/~kriz/{BINARY}"
MD5 = "03b5dce01913d631647c71ecec9e9cb8"

COLOR_32 = ImageFormat(32, 3)
PER_CLASS = {"train.bin": 500, "test.bin": 100}
"""Pictures of a class in each part of CIFAR-100; few-shot learning takes the two together."""
NAMES = "fine_label_names.txt"
LONGEST_NAMES = 1 << 16
"""Most bytes of the list of the classes' names."""


def cifar_fs(root: str | Path | None = None, progress: ProgressCallback | None = None) -> ClassPool:
    """Load CIFAR-FS: 64 / 16 / 20 classes for training, validation and test, divided at random.

    The pictures may lie in `root/cifar100` in three ways, of which the first that is there is taken: as
    `cifar100.zip` with one folder per class; as the same folders, `CLASS/*.webp` or `*.png`; or as the
    official binary archive `cifar-100-binary.tar.gz`, which is downloaded if nothing is there. The order of
    the classes is the same in all of them. The pictures of a class are sorted by the names of their files, or
    are as the binary archive has them, so `content_digest` may differ between the two.

    Args:
        root: Data root; None for the default of `data_root`.
        progress: Function that is called with (done, total) while decoding.

    Raises:
        OSError: If files are damaged, of another size or absent, or can't be downloaded.
        ValueError: If there is nothing but the Python archive, which is a pickle.

    Reference: Bertinetto, Henriques, Torr, Vedaldi 2019, "Meta-learning with differentiable closed-form
    solvers".
    """
    return _pool("cifar-fs", root, progress)


def fc100(root: str | Path | None = None, progress: ProgressCallback | None = None) -> ClassPool:
    """Load FC100: 60 / 20 / 20 classes for training, validation and test, divided by superclass.

    The classes of the test are less like those of training than in CIFAR-FS. The pictures are those of
    `cifar_fs`, and are decoded once for both.

    Args:
        root: Data root; None for the default of `data_root`.
        progress: Function that is called with (done, total) while decoding.

    Raises:
        OSError: If files are damaged, of another size or absent, or can't be downloaded.
        ValueError: If there is nothing but the Python archive, which is a pickle.

    Reference: Oreshkin, Rodriguez, Lacoste 2018, "TADAM: Task dependent adaptive metric for improved few-shot
    learning".
    """
    return _pool("fc100", root, progress)


@cache
def class_lists() -> dict[str, dict[str, list[str]]]:
    """Names of the classes by split, of "cifar-fs" and "fc100"."""
    return json.loads(files(__name__.rpartition(".")[0]).joinpath("cifar_splits.json").read_text("utf-8"))


def _pool(name: str, root: str | Path | None, progress: ProgressCallback | None) -> ClassPool:
    lists = class_lists()[name]
    classes = sorted(c for part in lists.values() for c in part)
    folder = data_root(root) / "cifar100"
    used: Sequence[File]
    if (path := folder / ZIP).exists():
        used, build = [path], partial(_of_zip, path, classes, progress)
    elif any((folder / c).is_dir() for c in classes):
        found = {c: files_in(folder / c, COLOR_32) if (folder / c).is_dir() else [] for c in classes}
        used, build = [f for of in found.values() for f in of], partial(_of_files, folder, found, progress)
    else:
        used, build = [path := _binary(folder)], partial(_of_binary, path, classes)
    # not the files in the archives, which would take a second to list each time
    key = content_digests(used, contents_of(folder))
    pool = cached_pool("cifar100", key, build, COLOR_32)
    index = {c: i for i, c in enumerate(classes)}
    splits = {split: np.array([index[c] for c in part]) for split, part in lists.items()}
    return replace(pool, name=name, splits=splits)


def _of_zip(
    path: Path, classes: list[str], progress: ProgressCallback | None, allocate: Callable[[int], Bytes]
) -> dict[str, Any]:
    """Fill a pool of pictures `CLASS/*.webp` in a zip archive; the folders may lie in another one."""
    found = find_files(path, COLOR_32)
    return _of_files(path, {c: found.get(c, []) for c in classes}, progress, allocate)


def _of_files(
    where: Path,
    found: dict[str, list[File]],
    progress: ProgressCallback | None,
    allocate: Callable[[int], Bytes],
) -> dict[str, Any]:
    """Fill a pool of pictures in the folders of their classes."""
    _check_complete({c: len(of) for c, of in found.items()}, where)
    files = [file for of in found.values() for file in of]
    bad = decode_items([partial(_of_size, file) for file in files], COLOR_32, allocate(len(files)), progress)
    if bad:
        i, reason = min(bad.items())
        raise OSError(
            f"{len(bad)} pictures of {where} can't be read, first {files[i]}: {reason}; "
            "copy or fetch it again"
        )
    return _parts([*found])


def _check_complete(counts: dict[str, int], where: Path) -> None:
    absent = [c for c, n in counts.items() if not n]
    if absent:
        raise OSError(
            f"{where} lacks {len(absent)} of the {len(counts)} classes of CIFAR-100, e.g. {absent[0]}: "
            "copy or fetch it again"
        )
    wanted = sum(PER_CLASS.values())
    wrong = [c for c, n in counts.items() if n != wanted]
    if wrong:
        raise OSError(
            f"{where} has {counts[wrong[0]]} pictures of {wrong[0]}, not {wanted} "
            f"(and {len(wrong) - 1} more such classes): copy or fetch it again"
        )


def _parts(classes: list[str]) -> dict[str, Any]:
    return {"classes": classes, "counts": [sum(PER_CLASS.values())] * len(classes), "splits": {}}


def _of_size(file: File) -> bytes:
    """The bytes of a picture, after a check of its size: another one would be scaled, and looks alike."""
    raw = bytes_of(file)
    try:
        with Image.open(io.BytesIO(raw)) as picture:
            size = picture.size
    except (OSError, SyntaxError, ValueError, RuntimeError):
        return raw  # the decoder says what is wrong with it
    if size != (COLOR_32.size, COLOR_32.size):
        raise OSError(f"it has {size[0]} × {size[1]} pixels, not {COLOR_32.size} × {COLOR_32.size}")
    return raw


def _binary(folder: Path) -> Path:
    """Path of the binary archive, which is downloaded where it is absent."""
    path = folder / BINARY
    for pickled in (folder / f"{PICKLE}.tar.gz", folder / PICKLE):
        if pickled.exists() and not path.exists():
            raise ValueError(
                f"{pickled} is a pickle, which can run any program when it is read: put {BINARY} "
                f"of {ADDRESS} there instead"
            )
    return download(ADDRESS, path, MD5)


def _of_binary(path: Path, classes: list[str], allocate: Callable[[int], Bytes]) -> dict[str, Any]:
    """Fill a pool of the records of the official binary archive."""
    record = 2 + int(np.prod(COLOR_32.shape))  # label of the superclass, label of the class, picture
    sizes = {name: n * len(classes) * record for name, n in PER_CLASS.items()}
    try:
        content = _members(path, sizes)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise OSError(f"{path} is damaged ({error}): delete it, and it will be fetched again") from None
    names = content[NAMES].decode("ascii", "replace").split()
    if sorted(names) != classes:
        raise OSError(f"{path} names other classes than CIFAR-100: delete it, and it will be fetched again")
    rows = np.concatenate([np.frombuffer(content[part], np.uint8).reshape(-1, record) for part in sizes])
    counts = np.bincount(rows[:, 1], minlength=len(classes))
    wanted = sum(PER_CLASS.values())
    if (counts != wanted).any():  # labels beyond the classes, too, as the sum is right
        raise OSError(
            f"{path} has not {wanted} pictures of each class: delete it, and it will be fetched again"
        )
    place = np.array([classes.index(name) for name in names])  # the official archive has them sorted already
    order = np.argsort(place[rows[:, 1]], kind="stable")
    allocate(len(rows))[:] = rows[order, 2:].reshape(-1, *COLOR_32.shape)
    return _parts(classes)


def _members(path: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    """Content of the files of these sizes, and of the names of the classes, by their names in any folder."""
    content: dict[str, bytes] = {}
    with gzip.open(path) as whole, tarfile.open(fileobj=whole, mode="r:") as archive:
        for member in archive:
            name = member.name.split("/")[-1]
            if (name == NAMES and member.size > LONGEST_NAMES) or member.size != sizes.get(name, member.size):
                raise OSError(f"its {name} has {member.size} bytes, not {sizes.get(name, 'some thousand')}")
            wanted = member.isreg() and (name == NAMES or name in sizes)
            if wanted and (file := archive.extractfile(member)):
                content[name] = file.read()
        while whole.read(1 << 20):  # to its end, where its checksum is
            pass
    for name in (*sizes, NAMES):
        if name not in content:
            raise OSError(f"it lacks {name}")
    return content
