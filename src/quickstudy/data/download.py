"""Fetching a file that isn't there yet."""

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import rich.console
import rich.progress

TIMEOUT = 30
"""Seconds without an answer after which we stop waiting."""


def download(address: str, path: Path, md5: str | None = None) -> Path:
    """The file at `path`; fetched from `address` first if it is absent, with a progress bar.

    It is written under a temporary name, checked and renamed: whole or absent.

    Args:
        address: where it is published.
        path: where it belongs.
        md5: published checksum of a fetched file; one that already lies there is taken as it is.

    Returns:
        `path`.

    Raises:
        OSError: if it can't be fetched or written, or its checksum is wrong; says what to do.
    """
    if path.exists():
        return path
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        console = rich.console.Console(stderr=True)  # so that answers can be piped
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
            with rich.progress.wrap_file(
                answer, size, description=path.name, transient=True, console=console
            ) as body:
                shutil.copyfileobj(body, out)
            if out.tell() < size:
                raise ConnectionError(f"it broke off after {out.tell()} of {size} bytes")
        if md5 and hashlib.md5(Path(temporary).read_bytes(), usedforsecurity=False).hexdigest() != md5:
            raise OSError(f"what came from {address} has the wrong checksum: try again later")
        os.replace(temporary, path)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise OSError(
            f"{path} is absent and {address} can't be reached ({reason}): put the file there yourself, or "
            "name the folder that has it with --data-root or QUICKSTUDY_DATA"
        ) from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
    return path
