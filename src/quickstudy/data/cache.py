"""The data root, and the cache of pools, decoded once."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    if not (folder / "pool.json").exists():
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
    parts = json.loads((folder / "pool.json").read_text())
    # copy-on-write: torch wants a writable array, and the file never changes
    items = np.load(folder / "items.npy", mmap_mode="c")
    return ClassPool.from_arrays(
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


@contextmanager
def _made_whole(folder: Path, mode: int) -> Generator[Path]:
    """A temporary folder that is renamed to `folder` if the block succeeds, and is deleted otherwise."""
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode)
        yield temporary
        if not folder.exists():
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.exists():  # if it exists, another process was first, with the same content
                    raise
    except OSError as error:
        if error.filename is None and error.errno is None:  # raised by `build`: an item can't be read
            raise
        raise OSError(
            f"can't write decoded data to {folder.parent} ({error.strerror}): "
            "free some space, or set QUICKSTUDY_CACHE to a folder that can be written"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
