"""Download of a file that does not exist yet."""

from pathlib import Path
from typing import Any

from rich.progress import Progress

from quickstudy.core.consoles import messages

TIMEOUT = 30
"""Longest wait for an answer of the server, in seconds."""


def download(address: str, path: Path, md5: str | None = None) -> Path:
    """Download a file, with a progress bar, unless it already exists.

    It is written under a temporary name, checked and renamed, so it is complete or absent.

    Args:
        address: URL of the file, https or http.
        path: Path to save the file at.
        md5: Published MD5 checksum of the file, checked after a download only; None to skip the check.

    Returns:
        The path of the file, `path`.

    Raises:
        OSError: If the file can't be downloaded or written, or its checksum is wrong; the message says what
            to do.
    """
    if path.exists():
        return path
    import pooch  # imported here, so that existing files are found quickly
    import requests

    pooch.get_logger().setLevel("ERROR")  # without this it asks the user to note the file's hash
    with Progress(console=messages, transient=True, disable=not messages.is_terminal) as progress:
        bar: Any = _Bar(progress, path.name)  # its types don't allow such a bar
        fetch: Any = pooch.HTTPDownloader(bar, chunk_size=1 << 16, timeout=TIMEOUT)
        try:
            pooch.retrieve(address, md5 and f"md5:{md5}", path.name, path.parent, downloader=fetch)
        except requests.RequestException as error:
            raise OSError(
                f"{path} is absent and {address} can't be reached ({_reason(error)}): put the file there "
                "yourself, or name the folder that has it with --data-root or QUICKSTUDY_DATA"
            ) from None
        except ValueError:
            raise OSError(f"what came from {address} has the wrong checksum: try again later") from None
    return path


class _Bar:
    """Rich's progress bar with the interface that pooch expects."""

    total = 0

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._task = progress, progress.add_task(name, total=None)

    def update(self, count: int) -> None:
        self._progress.update(self._task, total=self.total or None, advance=count)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop_task(self._task)


def _reason(error: BaseException) -> str:
    """Message of the original error, which requests and urllib3 wrap several times."""
    answer = getattr(error, "response", None)
    if answer is not None:
        return answer.reason
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error)
