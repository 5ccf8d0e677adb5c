"""Files that others made: the memory that reading them may take, and what it means when a parser throws."""

import json
import os
import sys
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from quickstudy.core.wording import one_line

MIB = 2**20


class Budget:
    """Memory that the decoding threads of this process share out: who finds none left waits for it.

    Args:
        total: Bytes to share; a file that needs more is refused.
    """

    def __init__(self, total: int) -> None:
        self.total, self._used = total, 0
        self._freed, self._turn = threading.Condition(), threading.Lock()

    @contextmanager
    def taking(self, wanted: int) -> Generator[None]:
        """Hold so many bytes for as long as the block runs.

        Args:
            wanted: Number of bytes.

        Raises:
            OSError: If they are more than there are in all.
        """
        if wanted > self.total:
            raise OSError(
                f"{-(-wanted // MIB):,} MiB of memory are more than the {self.total // MIB} MiB that a file "
                "may take"
            )
        with self._turn, self._freed:  # one after the other, so that a large file gets its turn
            self._freed.wait_for(lambda: self._used + wanted <= self.total)
            self._used += wanted
        try:
            yield
        finally:
            with self._freed:
                self._used -= wanted
                self._freed.notify_all()


CONTENT, DECODED = Budget(256 * MIB), Budget(512 * MIB)
"""Memory for what is read of files, and for what they become: two, so that no thread that holds some of the
one waits for a thread that waits for it. Together they stay below a GiB."""


class _Silence:
    """How many threads keep C libraries silent, and standard error as it was before."""

    def __init__(self) -> None:
        self.threads, self.kept, self.lock = 0, -1, threading.Lock()

    @contextmanager
    def kept_by_one_more(self) -> Generator[None]:
        with self.lock:
            if not self.threads:
                self.kept = os.dup(STDERR)
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, STDERR)
                os.close(nowhere)
            self.threads += 1
        try:
            yield
        finally:
            with self.lock:
                self.threads -= 1
                if not self.threads:
                    os.dup2(self.kept, STDERR)
                    os.close(self.kept)


STDERR = 2
"""Descriptor of standard error, which C libraries write to."""
_silence = _Silence()


def silenced() -> AbstractContextManager[None]:
    """Context in which what C libraries print of a file, as libtiff and mpg123 do, goes nowhere.

    Only where Python's own standard error has another descriptor, as the program sees to by
    `consoles.own_streams`: otherwise what other threads say would be lost, too.
    """
    try:
        apart = sys.stderr.fileno() != STDERR
        os.fstat(STDERR)
    except (OSError, ValueError, AttributeError):  # a notebook's, or none
        apart = False
    return _silence.kept_by_one_more() if apart else nullcontext()


@contextmanager
def refusing() -> Generator[None]:
    """Whatever a parser throws about a file means that this file can't be read, and no more.

    What it prints of its own goes nowhere, see `silenced`.

    Parsers raise what their authors did not foresee, too (`struct.error`, `TypeError`, `RecursionError`), so
    that a list of exceptions would never be complete.

    Raises:
        OSError: If anything is raised in the block; the message is one line, without control characters.
    """
    try:
        with silenced():
            yield
    except OSError as error:
        if error.errno is not None:  # the system's, which has a reason and a file
            raise
        raise OSError(one_line(error)) from None
    except MemoryError:
        raise OSError("it takes more memory than there is") from None
    except Exception as error:
        raise OSError(f"damaged: {one_line(error) or type(error).__name__}") from None


@contextmanager
def naming(path: str | Path) -> Generator[None]:
    """Whatever is thrown while the parts of a file are put to use becomes one line that names the file.

    What is said on purpose passes: `OSError`, `ValueError` and `FloatingPointError` that name it already.

    Args:
        path: Path of the file.

    Raises:
        ValueError: If anything else is raised in the block.
    """
    try:
        yield
    except (OSError, FloatingPointError):
        raise
    except Exception as error:
        text = one_line(error)
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        said = text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
        raise ValueError(
            f"{path} holds what doesn't belong there ({said}): restore it or write it again"
        ) from None


def json_of(text: str | bytes) -> Any:
    """Parse JSON that others wrote.

    Args:
        text: The JSON; bytes must be UTF-8.

    Raises:
        ValueError: If it is none, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
