"""Zip and tar archives, read as folders without unpacking them to the disk."""

import bz2
import gzip
import lzma
import tarfile
import threading
import weakref
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import SpooledTemporaryFile
from typing import Any

from quickstudy.core import foreign
from quickstudy.core.wording import one_line
from quickstudy.data.formats.content import LARGEST

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""File name extensions of archives, in lower case."""
MOST_KEPT = 2 * 2**30
"""Limit of the bytes of all items in a compressed tar; as it can't be entered in the middle, all are kept."""
KEPT_IN_MEMORY = 128 * 2**20
"""Bytes of them that are kept in memory; more are kept in a temporary file, which has no name."""
OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
"""How a compressed tar is opened, by its first bytes."""


class RefusedArchiveError(ValueError):
    """An archive that is whole, and yet not read; the message says why, and what to do."""


@dataclass(frozen=True)
class Member:
    """A file in an archive; calling it gives its bytes.

    Args:
        archive: Path of the archive.
        inside: Path in the archive, with slashes.
        size: Size of the file in bytes, as the archive states it.
        time: When the archive was written last, in nanoseconds.
        read: Function that reads the file; an OSError says why it can't be read.
    """

    archive: Path
    inside: str
    size: int
    time: int
    read: Callable[[], bytes] = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """Name of the file, without the folders that it lies in."""
        return PurePosixPath(self.inside).name

    def __str__(self) -> str:
        """Path of the file as if the archive were a folder."""
        return f"{self.archive}/{self.inside}"

    def __call__(self) -> bytes:
        """The bytes of the file; an OSError says why it can't be read."""
        content = self.read()
        if len(content) != self.size:
            raise OSError(f"damaged: it has {len(content)} bytes, not {self.size}")
        return content


File = Path | Member
"""A file on the disk or in an archive; both have a `name`, and their `str` is a path."""


@dataclass(frozen=True)
class Folder:
    """A folder in an archive; hidden files, and those that macOS adds, are left out.

    Args:
        name: Name of the folder; of the archive, for the outermost.
        folders: Folders in it, by their names.
        files: Items in it, by their names.
        others: Names of the files in it that are no items.
    """

    name: str
    folders: dict[str, "Folder"] = field(default_factory=dict[str, "Folder"])
    files: dict[str, Member] = field(default_factory=dict[str, Member])
    others: list[str] = field(default_factory=list[str])

    def has_files(self, depth: int) -> bool:
        """Whether there are items in folders of that depth.

        Args:
            depth: Number of folders between this one and the items; 0 for items in this folder itself.
        """
        if not depth:
            return bool(self.files)
        return any(folder.has_files(depth - 1) for folder in self.folders.values())


def is_archive(path: Path) -> bool:
    """Whether a path is a file that is called like an archive.

    Args:
        path: Path of a file or a folder; it need not exist.
    """
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def size_of(file: File) -> int:
    """Size of a file in bytes.

    Args:
        file: File on the disk or in an archive.
    """
    return file.size if isinstance(file, Member) else file.stat().st_size


def stamp_of(file: File) -> list[Any]:
    """Name, size and time of a file, by which it is seen that it has changed, as make and git do.

    Args:
        file: File on the disk or in an archive.
    """
    if isinstance(file, Member):
        return [file.inside, file.size, file.time]
    stated = file.stat()
    return [file.name, stated.st_size, stated.st_mtime_ns]


def open_archive(path: Path, endings: Collection[str], depth: int) -> Folder:
    """List an archive as a folder. Names in it are only names: nothing is ever written.

    Where everything lies in one folder, such as one of the archive's name, that folder is returned.

    Args:
        path: Path of a zip or tar archive.
        endings: File name extensions of items, in lower case and with the dot; other files are left out.
        depth: Number of folders that items are expected in: 1 for class folders, 0 for items alone.

    Raises:
        OSError: If the archive is damaged.
        RefusedArchiveError: If it is encrypted, compressed in another way than usual, or holds too large
            files.
    """
    listed = _zip_files if path.name.lower().endswith(".zip") else _tar_files
    whole, time = Folder(path.name), path.stat().st_mtime_ns
    try:
        for parts, size, read in listed(path, endings):
            *above, last = parts
            folder = whole
            for part in above:
                folder = folder.folders.setdefault(part, Folder(part))
            if read:
                folder.files[last] = Member(path, "/".join(parts), size, time, read)
            elif last:
                folder.others.append(last)
    except RefusedArchiveError:
        raise
    except Exception as error:  # whatever Python's readers of archives throw
        if isinstance(error, OSError) and error.errno is not None:  # it can't be opened at all
            raise
        raise OSError(f"{path} is damaged ({one_line(error)}): copy or pack it again") from None
    here = whole
    while not here.has_files(depth):
        if len(here.folders) != 1:
            return whole
        (here,) = here.folders.values()
    return here


Listed = Iterator[tuple[list[str], int, Callable[[], bytes] | None]]
"""Parts of the path of each file in an archive, its size, and what reads it; None if it is no item. The entry
of a folder itself is that of a file with an empty name."""


def _parts(name: str, is_folder: bool) -> list[str] | None:
    """Parts of a path in an archive; None if one of them is hidden (`..` counts as hidden, too)."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if "__MACOSX" in parts or any(part.startswith(".") for part in parts):
        return None
    return [*parts, ""] if is_folder else parts or None


def _is_item(name: str, endings: Collection[str]) -> bool:
    return PurePosixPath(name).suffix.lower() in endings


def _check_size(path: Path, name: str, size: int) -> None:
    if size > LARGEST:
        raise RefusedArchiveError(
            f"{path} holds {name}, whose {size >> 20} MiB are more than the {LARGEST >> 20} MiB that are "
            "read of a file: remove it from the archive, or unpack what you trust and name the folder"
        )


def _zip_files(path: Path, endings: Collection[str]) -> Listed:
    archive = zipfile.ZipFile(path)  # stays open for as long as one of its members is wanted
    for info in archive.infolist():
        name = info.filename
        if (parts := _parts(name, info.is_dir())) is None:
            continue
        _check_size(path, name, info.file_size)
        if info.flag_bits & 1:
            raise RefusedArchiveError(f"{path} is encrypted, as {name} is: unpack it and name the folder")
        # of other methods Python would unpack more than a file states to hold
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RefusedArchiveError(
                f"{path} is compressed by another method than deflate, as {name} is: pack it again, or "
                "unpack it and name the folder"
            )
        item = _is_item(parts[-1], endings)
        yield parts, info.file_size, partial(_unzipped, archive, info) if item else None


def _unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with foreign.refusing(), archive.open(info) as f:
        return f.read(info.file_size + 1)  # without a number it would unpack more than is stated


def _tar_files(path: Path, endings: Collection[str]) -> Listed:
    with path.open("rb") as f:
        start = f.read(6)
    opener = next((of for magic, of in OPENERS.items() if start.startswith(magic)), None)
    kept = _Kept(path, opener) if opener else None
    total = 0
    with opener(path) if opener else path.open("rb") as stream:
        careful: Any = _Careful(stream)
        with tarfile.TarFile(fileobj=careful) as archive:
            for info in archive:
                name = info.name
                _check_size(path, name, info.size)
                parts = _parts(name, info.isdir())
                if parts is None or not (info.isdir() or (info.isreg() and not info.issparse())):
                    continue
                if not _is_item(parts[-1], endings):
                    yield parts, info.size, None
                    continue
                if kept:
                    kept.wanted[info.offset_data] = info.size
                    total += info.size
                if total > MOST_KEPT:
                    raise RefusedArchiveError(
                        f"{path} holds more than the {MOST_KEPT >> 20} MiB that are kept of a compressed "
                        "tar: pack it as .tar or .zip, or unpack it and name the folder"
                    )
                read_at = kept.read if kept else partial(_read_at, path)
                yield parts, info.size, partial(read_at, info.offset_data, info.size)
            # tarfile takes a damaged header, or none, for the end, where zeros must be
            stream.seek(archive.offset)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it breaks off")
        while opener and stream.read(1 << 20):  # to the checksum at the end
            pass


def _read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as f:
        f.seek(offset)
        return f.read(size)


class _Careful:
    """A stream for `tarfile`, which would read a header of any length that is stated."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if size > LARGEST:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)


class _Kept:
    """The items of a compressed tar, all read when the first is asked for."""

    def __init__(self, path: Path, opener: Callable[[Path], Any]) -> None:
        self.wanted: dict[int, int] = {}  # sizes by the places of the items
        self._path, self._opener = path, opener
        self._content: Any = None  # all items, one after the other
        self._places: dict[int, tuple[int, int]] = {}  # where each begins there, and its length
        self._lock = threading.Lock()

    def read(self, offset: int, size: int) -> bytes:
        with self._lock, foreign.refusing():
            if self._content is None:
                self._content = self._unpacked()
            start, length = self._places[offset]
            self._content.seek(start)
            return self._content.read(min(size, length))

    def _unpacked(self) -> Any:
        content: Any = SpooledTemporaryFile(KEPT_IN_MEMORY)  # noqa: SIM115 (open as long as it is wanted)
        with self._opener(self._path) as stream:
            for place, length in sorted(self.wanted.items()):
                stream.seek(place)
                start = content.tell()
                self._places[place] = start, content.write(stream.read(length))
        weakref.finalize(self, content.close)
        return content
