"""Atomic writing of files: a file is written whole, or not at all."""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Generator
from functools import partial
from pathlib import Path


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file under a temporary name, flush it to the disk, then rename: whole or unchanged.

    Args:
        path: Path of the file.
        content: Bytes that the file will hold.
        mode: Permission bits of the file, before the process's umask is applied.

    Raises:
        OSError: If the file can't be written; an existing one is then unchanged.
    """
    with temporary_beside(path) as temporary:
        with open(temporary, "xb", opener=partial(os.open, mode=mode)) as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)


@contextlib.contextmanager
def temporary_beside(path: Path) -> Generator[Path]:
    """A temporary path in the folder of a file; the folder is created if it doesn't exist.

    A file that still has the temporary name when the block ends is deleted.

    Args:
        path: Path of the file that is going to be written.

    Raises:
        OSError: If something can't be written inside the block; the message is one line.
    """
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
        yield temporary
    except OSError as error:
        raise OSError(f"can't write {path} ({error.strerror or error}): {_mend(path, error)}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


LEFT = 600.0
"""Seconds without a change after which a temporary file is left over, of a process that was killed."""


def _clear_leftovers(path: Path) -> None:
    """Delete what earlier writes of this file left, when they were killed."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(path.parent):
            stem, _, mark = entry.name.rpartition("-")
            ours = stem == f".{path.name}" and len(mark) == 8 and not set(mark) - set("0123456789abcdef")
            if ours and time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT:
                Path(entry.path).unlink()


def _mend(path: Path, error: OSError) -> str:
    """What to do about an error of writing."""
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        at = next((p for p in path.parents if p.exists() and not p.is_dir()), path.parent)
        return f"{at} is a file: name another folder"
    if error.errno == errno.EISDIR:
        return "it is a folder: name a file"
    if error.errno == errno.ENAMETOOLONG:
        return "its name is too long: choose a shorter one"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "name another folder, where you may write"
    return "free some space or name another folder"
