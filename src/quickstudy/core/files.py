"""Atomic writing of files: a file is written whole, or not at all. Locks, so that one process writes."""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

LOCK = ".lock"
"""Name of the file that is locked while a process writes to its folder."""


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


def lock(file: IO[Any], shared: bool = False) -> bool:
    """Lock an open file until all processes that have it open have closed it or are dead.

    Where the file system or the operating system knows no locks, nothing is locked.

    Args:
        file: Open file.
        shared: Whether others may lock it at the same time, if they share it too.

    Returns:
        Whether nobody else has locked it.

    Raises:
        OSError: If the file can't be locked for another reason.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def is_locked(path: Path) -> bool:
    """Whether another process, or another part of this one, has locked a file.

    Args:
        path: Path of the file, which may be absent.
    """
    try:
        with path.open() as file:
            return not lock(file, shared=True)
    except (FileNotFoundError, NotADirectoryError):
        return False


def refuse_if_taken(folder: Path) -> None:
    """Refuse a folder that somebody writes to.

    Args:
        folder: Path of the folder, which may be absent.

    Raises:
        ValueError: If somebody does.
    """
    if is_locked(folder / LOCK):
        raise _taken(folder)


@contextlib.contextmanager
def folder_taken(folder: Path) -> Generator[None]:
    """Context in which nobody else can take a folder; when this process dies it is free again.

    Args:
        folder: Path of the folder, which is created if it doesn't exist.

    Raises:
        ValueError: If somebody else has taken it.
        OSError: If it can't be written to.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except OSError as error:
        raise OSError(f"can't write {path} ({error.strerror or error}): name another folder") from None
    if file is None:
        raise _taken(folder)
    with file:
        with contextlib.suppress(OSError):  # who it is is told as a courtesy
            os.truncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # while it is locked, so that nobody else's is


def _locked(path: Path) -> IO[str] | None:
    """A lock file, opened and locked; None if somebody else has it."""
    tries = 10
    while True:
        file = path.open("a")
        if not lock(file):
            file.close()
            tries -= 1
            if not tries:
                return None
            time.sleep(0.02)  # it may be that somebody only looks
            continue
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # who had it has just deleted it


def _taken(folder: Path) -> ValueError:
    number = ""
    with contextlib.suppress(OSError):
        number = (folder / LOCK).read_text()
    by = f" (process {number})" if number.isdigit() else ""
    return ValueError(
        f"{folder} is being written to by another training{by}: wait until it ends, or name another --out"
    )
