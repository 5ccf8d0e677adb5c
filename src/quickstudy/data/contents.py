"""Digests of files' contents, kept so that an unchanged file isn't read again."""

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from quickstudy.core.files import write_whole
from quickstudy.core.foreign import json_of
from quickstudy.data.formats.archives import File, Member
from quickstudy.data.formats.content import bytes_of

SETTLED = 2 * 10**9
"""Nanoseconds after which a change would show in a file's times; before, its digest isn't kept."""


def content_digests(files: Sequence[File], index: Path, private: bool = True) -> list[str]:
    """Digest of the content of each file; of a member of an archive, of its place and of the whole archive.

    The digest of a file is kept beside what the file system says of it: size, times of content and of status,
    number and device. None of these alone would do: who swaps two folders of equal files, or copies with
    times kept, changes the number, or the time of status, at least.

    Args:
        files: Files on the disk or members of archives.
        index: File in which digests are kept from one call to the next.
        private: Whether only the current user may read it.

    Returns:
        A digest for each file; of one that can't be read, a text that says so.
    """
    on_disk = list(dict.fromkeys(f.archive if isinstance(f, Member) else f for f in files))
    known = _read(index)
    now = time.time_ns()
    found: dict[str, list[Any]] = {}

    def look(path: Path) -> str:
        try:
            stamp, digest = _stamp(path), _digest(path)  # in this order: a later change shows
        except OSError as error:
            return f"unread: {error.strerror or error}"
        if now - max(stamp[1], stamp[2]) > SETTLED:
            found[str(path)] = [stamp, digest]
        return digest

    of: dict[Path, str] = {}
    for path in on_disk:
        if (before := known.get(str(path))) and before[0] == _stamp(path):
            found[str(path)], of[path] = before, before[1]
    new = [path for path in on_disk if path not in of]
    with ThreadPoolExecutor() as threads:
        of |= zip(new, threads.map(look, new, chunksize=64), strict=True)
    if found != known:
        with suppress(OSError):  # it only saves time
            write_whole(index, json.dumps(found).encode(errors="surrogatepass"), 0o600 if private else 0o666)
    return [f"{of[f.archive]}/{f.inside}" if isinstance(f, Member) else of[f] for f in files]


def _stamp(path: Path) -> list[int]:
    try:
        s = path.stat()
    except OSError:
        return []
    return [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev]


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=12)
    if path.stat().st_size <= 2**20:
        digest.update(bytes_of(path))
        return digest.hexdigest()
    with path.open("rb") as f:
        while part := f.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _read(index: Path) -> dict[str, list[Any]]:
    """What was kept; nothing, where it isn't what was written here."""
    try:
        read = json_of(index.read_bytes())
        entries = cast(dict[str, Any], read).items()
        return {k: v for k, v in entries if isinstance(v, list) and len(v) == 2 and isinstance(v[1], str)}  # pyright: ignore[reportUnknownArgumentType]
    except (OSError, ValueError, AttributeError):
        return {}
