"""Files that are whole or absent."""

import contextlib
import os
import uuid
from collections.abc import Generator
from functools import partial
from pathlib import Path


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file under a temporary name, flush it to the disk, then rename: whole or unchanged.

    Args:
        path: of the file.
        content: what it shall hold.
        mode: who may read and write it, less what the process's umask takes away.
    """
    with temporary_beside(path) as temporary:
        with open(temporary, "xb", opener=partial(os.open, mode=mode)) as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)


@contextlib.contextmanager
def temporary_beside(path: Path) -> Generator[Path]:
    """A temporary name in the folder of a file, which is made; what still bears it in the end is deleted.

    Raises:
        OSError: if something can't be written, as one line.
    """
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        raise OSError(
            f"can't write {path} ({error.strerror or error}): free some space or name another folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
