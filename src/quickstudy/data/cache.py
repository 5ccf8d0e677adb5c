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
"""Part of every cache's name: raise it when the same source would now give other items."""


def data_root(given: str | os.PathLike[str] | None = None) -> Path:
    """Where data sets lie: the given folder, else QUICKSTUDY_DATA, else the user's cache folder.

    Raises:
        FileNotFoundError: if a folder was named and is not there.
    """
    for path, origin in ((given, "--data-root"), (os.environ.get("QUICKSTUDY_DATA"), "QUICKSTUDY_DATA")):
        if path:
            if not Path(path).is_dir():
                raise FileNotFoundError(f"{origin} names {path}, which is not a folder")
            return Path(path)
    return cache_root() / "data"


def present(folder: Path, what: str, content: str) -> Path:
    """A folder of the data root, for data that are not fetched.

    Raises:
        FileNotFoundError: if it is not there, with what to put there.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no {what} at {folder}: put {content} there, or name another data root with --data-root"
        )
    return folder


def cache_root() -> Path:
    """Where decoded pools are kept: QUICKSTUDY_CACHE, else the user's cache folder."""
    return Path(os.environ.get("QUICKSTUDY_CACHE") or platformdirs.user_cache_dir("quickstudy"))


Build = Callable[[Callable[[int], Any]], dict[str, Any]]
"""From a function that gives the array for so many items, to fill, to what `pool.json` shall hold."""


def cached_pool(
    name: str, key: Any, build: Build, item_format: ItemFormat, private: bool = False
) -> ClassPool:
    """A pool from its cache, made first if need be.

    The cache is a folder `NAME-DIGEST` with `items.npy` and `pool.json`, written under a temporary name
    and renamed, so that it is whole or absent, also when several processes make it at once.

    Args:
        name: of the data set.
        key: JSON-able account of the content: sources, their checksums, options.
        build: makes the data set: is given a function from a number of items to the array to fill, and
            returns what `pool.json` shall hold: classes, counts and splits, and sources and their names
            where they are known.
        item_format: what the items are.
        private: nobody else may read them, as befits people's own pictures and voices.

    Raises:
        OSError: if the cache folder can't be written.
    """
    account = json.dumps([CACHE_VERSION, name, item_format.as_dict(), key], sort_keys=True)
    digest = hashlib.blake2b(account.encode(), digest_size=8).hexdigest()
    folder = cache_root() / "pools" / f"{name}-{digest}"
    if not (folder / "pool.json").exists():
        with _made_whole(folder, 0o700 if private else 0o777) as temporary:

            def allocate(n: int) -> Items:
                shape = (n, *item_format.shape)
                items = np.lib.format.open_memmap(temporary / "items.npy", "w+", item_format.dtype, shape)
                if hasattr(os, "posix_fallocate"):  # a full disk now is an error, later a crash
                    with (temporary / "items.npy").open("r+b") as f:
                        os.posix_fallocate(f.fileno(), 0, items.offset + items.nbytes)
                return items

            parts = build(allocate)
            (temporary / "pool.json").write_text(json.dumps(parts))
    parts = json.loads((folder / "pool.json").read_text())
    # copy-on-write, so that torch may take it for a writable array without the file ever changing
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
    )


@contextmanager
def _made_whole(folder: Path, mode: int) -> Generator[Path]:
    """A temporary folder that takes the name `folder` when the block ends well, and vanishes otherwise."""
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode)
        yield temporary
        if not folder.exists():
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was first, with the same content
                    raise
    except OSError as error:
        if error.filename is None and error.errno is None:  # not of writing: an item that can't be read
            raise
        raise OSError(
            f"can't write decoded data to {folder.parent} ({error.strerror}): "
            "free some space, or set QUICKSTUDY_CACHE to a folder that can be written"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
