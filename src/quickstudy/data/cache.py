"""The data root, and the cache of pools, decoded once."""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

import numpy as np
import platformdirs

from quickstudy.data.formats.items import ItemFormat, Items
from quickstudy.data.pool import ClassPool

CACHE_VERSION = 1
"""Part of the hash in every cache's name; raise it when the same source gives different items than before."""


def data_root(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder of data sets: the given one, else QUICKSTUDY_DATA, else one in the user's cache folder.

    Args:
        given: Folder named by the user; None to take the default.

    Raises:
        FileNotFoundError: If a folder was named and does not exist.
    """
    for path, origin in ((given, "--data-root"), (os.environ.get("QUICKSTUDY_DATA"), "QUICKSTUDY_DATA")):
        if path:
            if not Path(path).is_dir():
                raise FileNotFoundError(f"{origin} names {path}, which is not a folder")
            return Path(path)
    return cache_root() / "data"


def present(folder: Path, what: str, content: str) -> Path:
    """Return a folder of the data root, after a check that it exists; for data that are not downloaded.

    Args:
        folder: Folder where the data must be.
        what: Name of the data set, for the error message.
        content: Files that the folder must hold, for the error message.

    Raises:
        FileNotFoundError: If the folder does not exist; the message says what to put there.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no {what} at {folder}: put {content} there, or name another data root with --data-root"
        )
    return folder


def cache_root() -> Path:
    """The folder of cached pools: QUICKSTUDY_CACHE, else the user's cache folder."""
    return Path(os.environ.get("QUICKSTUDY_CACHE") or platformdirs.user_cache_dir("quickstudy"))


Build = Callable[[Callable[[int], Any]], dict[str, Any]]
"""Fills the array of items that `allocate(number)` gives it, and returns the content of `pool.json`."""


def cached_pool(
    name: str, key: Any, build: Build, item_format: ItemFormat, private: bool = False
) -> ClassPool:
    """Load a pool from its cache; build the cache first if it does not exist.

    The cache is a folder `NAME-DIGEST` with `items.npy` and `pool.json`. It is written under a temporary name
    and then renamed, so it is complete or absent even if several processes build it at once.

    Args:
        name: Name of the data set.
        key: JSON-serializable description of the content (sources, their checksums, options); a different
            key is a different cache.
        build: Function that makes the data set. It is given `allocate(number)`, which returns the array of
            items to fill, and returns the content of `pool.json`: `classes`, `counts`, `splits` and, where
            they are known, `sources`, `source_names` and `recorded`, as in `ClassPool`.
        item_format: Format of the items.
        private: Whether only the current user may read the cache, for people's own images and voices.

    Raises:
        OSError: If the cache folder can't be written.
    """
    account = json.dumps([CACHE_VERSION, name, item_format.as_dict(), key], sort_keys=True)
    digest = hashlib.blake2b(account.encode(), digest_size=8).hexdigest()
    folder = cache_root() / "pools" / f"{name}-{digest}"
    clear_leftovers()
    if (whole := _loaded(folder)) is None:
        with _made_whole(folder, 0o700 if private else 0o777) as temporary:

            def allocate(n: int) -> Items:
                shape = (n, *item_format.shape)
                items = np.lib.format.open_memmap(temporary / "items.npy", "w+", item_format.dtype, shape)
                if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                    with (temporary / "items.npy").open("r+b") as f:
                        os.posix_fallocate(f.fileno(), 0, items.offset + items.nbytes)
                return items

            parts = build(allocate)
            (temporary / "pool.json").write_text(json.dumps(parts))
        whole = _loaded(folder)
    if whole is None:
        raise OSError(f"the decoded data in {folder} vanished: nothing else may delete them meanwhile")
    parts, items = whole
    return ClassPool.from_grouped(
        items[: sum(parts["counts"])],
        parts["classes"],
        parts["counts"],
        splits={k: np.asarray(v, dtype=np.int64) for k, v in parts["splits"].items()},
        name=name,
        digest=digest,
        sources=np.asarray(parts["sources"], dtype=np.int64) if "sources" in parts else None,
        source_names=tuple(parts.get("source_names", ())),
        item_format=item_format,
        recorded=np.asarray(parts["recorded"], dtype=np.bool_) if "recorded" in parts else None,
    )


def _loaded(folder: Path) -> tuple[dict[str, Any], Any] | None:
    """The content of `pool.json`, and the items; None if the folder is not there, or not whole."""
    try:
        parts: dict[str, Any] = json.loads((folder / "pool.json").read_text())
        # copy-on-write: torch wants a writable array, and the file never changes
        items = np.load(folder / "items.npy", mmap_mode="c")
        return (parts, items) if sum(parts["counts"]) <= len(items) else None
    except Exception:  # whatever was cut off or lost
        return None


def contents_of(root: Path) -> Path:
    """The file in the cache in which the digests of a data set's files are kept.

    Args:
        root: Folder or archive of the data set.
    """
    path = str(root.resolve()).encode(errors="surrogateescape")
    return cache_root() / "contents" / f"{hashlib.blake2b(path, digest_size=8).hexdigest()}.json"


@dataclass(frozen=True)
class CachedPool:
    """A decoded data set in the cache.

    Args:
        name: Name of the data set.
        folder: Folder that it lies in.
        size: Size in bytes.
    """

    name: str
    folder: Path
    size: int


def cached_pools(name: str | None = None) -> list[CachedPool]:
    """The decoded data sets in the cache, by their names.

    Args:
        name: Name of a data set; all of them by default.
    """
    pools = cache_root() / "pools"
    found: list[CachedPool] = []
    for folder in sorted(pools.iterdir()) if pools.is_dir() else ():
        of = folder.name.rpartition("-")[0]
        if not folder.name.startswith(".") and folder.is_dir() and name in (None, of):
            size = sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
            found.append(CachedPool(of, folder, size))
    return found


def clear_pool(pool: CachedPool) -> None:
    """Delete a decoded data set from the cache; it is decoded again when it is used again.

    Args:
        pool: One of `cached_pools`.

    Raises:
        OSError: If it can't be deleted.
    """
    shutil.rmtree(pool.folder)
    for index in (cache_root() / "contents").glob("*.json"):  # they name its files
        index.unlink(missing_ok=True)


LOCK = "lock"
"""File in a temporary folder that the process that fills the folder holds locked."""
YOUNG = 60.0
"""Seconds for which a temporary folder without a lock may be one that is just being made."""


def clear_leftovers() -> None:
    """Delete what processes that were killed while they decoded a data set have left in the cache."""
    with suppress(OSError):
        for folder in (cache_root() / "pools").glob(".*"):
            with suppress(OSError):
                if folder.is_dir() and not _in_use(folder):
                    shutil.rmtree(folder)


def _in_use(folder: Path) -> bool:
    """Whether the process that made a temporary folder still runs."""
    try:
        with (folder / LOCK).open("r+b") as f:
            return not _locked(f)
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime < YOUNG


def _locked(f: IO[bytes]) -> bool:
    """Lock a file, for as long as it is open; whether that succeeded."""
    if fcntl is None:  # there, a file that is open can't be deleted
        return True
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _made_whole(folder: Path, mode: int) -> Generator[Path]:
    """A temporary folder that is renamed to `folder` if the block succeeds, and is deleted otherwise."""
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode)
        with (temporary / LOCK).open("w+b") as lock:
            _locked(lock)
            yield temporary
            (temporary / LOCK).unlink()
            if _loaded(folder) is None:
                with suppress(FileNotFoundError):  # what is there has lost a part
                    folder.rename(temporary / "broken")
                try:
                    temporary.rename(folder)
                except OSError:
                    if not folder.exists():  # if it exists, another process was first, with the same content
                        raise
                shutil.rmtree(folder / "broken", ignore_errors=True)
    except OSError as error:
        if error.filename is None and error.errno is None:  # raised by `build`: an item can't be read
            raise
        raise OSError(
            f"can't write decoded data to {folder.parent} ({error.strerror}): "
            "free some space, or set QUICKSTUDY_CACHE to a folder that can be written"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
