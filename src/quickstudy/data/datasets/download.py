"""Fetching a file that isn't there yet."""

from pathlib import Path
from typing import Any

from rich.progress import Progress

from quickstudy.core.consoles import messages

TIMEOUT = 30
"""Seconds without an answer after which we stop waiting."""


def download(address: str, path: Path, md5: str | None = None) -> Path:
    """The file at `path`; fetched from `address` first if it is absent, with a progress bar.

    It is written under a temporary name, checked and renamed: whole or absent.

    Args:
        address: Where it is published, https or http.
        path: Where it belongs.
        md5: Published checksum of a fetched file; one that already lies there is taken as it is.

    Returns:
        `path`.

    Raises:
        OSError: If it can't be fetched or written, or its checksum is wrong; says what to do.
    """
    if path.exists():
        return path
    import pooch  # not above: what is there already is quick without them
    import requests

    pooch.get_logger().setLevel("ERROR")  # else it advises the user to note the file's hash
    with Progress(console=messages, transient=True, disable=not messages.is_terminal) as progress:
        bar: Any = _Bar(progress, path.name)  # pooch takes both, but its types don't say so
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
    """A bar as pooch wants it, on our display."""

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
    """What went wrong, in the words of what failed first: requests and urllib3 wrap it several times."""
    answer = getattr(error, "response", None)
    if answer is not None:
        return answer.reason
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error)
