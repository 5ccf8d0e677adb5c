"""The content of a file, on the disk or elsewhere, and what is said of it besides why it can't be read."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quickstudy.core import foreign

LARGEST = foreign.CONTENT.total
"""Size limit of a file, in bytes, in an archive or elsewhere; larger files are refused."""

FileOrBytes = Path | Callable[[], bytes]
"""A path, or a function that gives a file's bytes, such as a member of an archive."""


class DecodingNote(UserWarning):
    """What is to be said of a file that could be decoded, and came out otherwise than one may expect."""


@dataclass(frozen=True)
class Watched:
    """A file whose bytes are looked at when they are read.

    Args:
        file: Path of the file, or a member of an archive.
        look: Function that is called with the bytes.
    """

    file: FileOrBytes
    look: Callable[[bytes], None]

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return stated_size(self.file)

    def __call__(self) -> bytes:
        """The bytes of the file."""
        content = bytes_of(self.file)
        self.look(content)
        return content


def stated_size(source: FileOrBytes) -> int:
    """Size of a file in bytes; 0 if it is a function that doesn't say.

    Args:
        source: Path of a file, or function that returns its bytes.

    Raises:
        OSError: If there is no such file, or it is larger than what is read of a file.
    """
    size = source.stat().st_size if isinstance(source, Path) else getattr(source, "size", 0)
    if size > LARGEST:
        raise OSError(f"{size >> 20} MiB are more than the {LARGEST >> 20} MiB that are read of a file")
    return size


def bytes_of(source: FileOrBytes) -> bytes:
    """Read a file.

    Args:
        source: Path of a file, or function that returns its bytes.

    Raises:
        OSError: If it can't be read, or is larger than what is read of a file.
    """
    if not isinstance(source, Path):
        return source()
    stated_size(source)
    with source.open("rb") as f:  # no more than that of what grows, or states no size, as devices do
        content = f.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise OSError(f"more than the {LARGEST >> 20} MiB that are read of a file")
    return content


@contextmanager
def content_of(source: FileOrBytes) -> Generator[bytes]:
    """The bytes of a file, within the memory that there is for such.

    Args:
        source: Path of a file, or function that returns its bytes.

    Raises:
        OSError: If it can't be read, is empty, or is larger than what is read of a file.
    """
    with foreign.CONTENT.taking(stated_size(source)):
        raw = bytes_of(source)
        if not raw:
            raise OSError("the file is empty")
        yield raw
