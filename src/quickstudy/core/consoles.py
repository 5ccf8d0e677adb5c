"""Consoles of the program: results go to standard output, progress and notices to standard error.

All text goes through them, or through `print_json`, so that nothing of what others wrote, such as a file's
name, reaches a terminal unescaped.
"""

import codecs
import contextlib
import csv
import errno
import io
import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from quickstudy.core.foreign import STDERR
from quickstudy.core.wording import csv_cell, json_text, shown


class SafeConsole(Console):
    """A console that shows control characters of the texts it is given, in tables too, as escapes."""

    def __init__(self, **options: Any) -> None:
        # names of files and classes may contain [brackets] and :colons:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text of our styles of a string; all strings that are printed come here."""
        return super().render_str(shown(text, keep="\n"), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; lines that are longer than the terminal is wide stay whole, as figures may be in them."""
        options.setdefault("crop", False)
        super().print(*objects, **options)


console = SafeConsole()
"""Standard output, for results."""
messages = SafeConsole(stderr=True)
"""Standard error, for progress and notices, so that results can be piped."""


def print_json(value: Any) -> None:
    """Print JSON.

    Args:
        value: Value that JSON can hold.
    """
    print(json_text(value))


def print_csv(rows: Iterable[Iterable[object]]) -> None:
    """Print comma-separated values, none of which a spreadsheet takes for a formula.

    Args:
        rows: Cells of each row.
    """
    writer = csv.writer(sys.stdout)
    writer.writerows([c if isinstance(c, int | float) else csv_cell(c) for c in row] for row in rows)


_PLAIN = str.maketrans(
    {"±": "+-", "×": "x", "…": "...", "–": "-", "−": "-", "→": "->", "≤": "<=", "≥": ">=", "’": "'"}
)


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """What a terminal of ASCII shows in place of a character that it hasn't."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(
        c if c.isascii() else c.encode("ascii", "backslashreplace").decode() for c in text
    ), error.end


class _Terminal(io.FileIO):
    """A terminal; once it is gone, what is written to it goes nowhere, rather than ending the work."""

    def write(self, data: Any, /) -> int:
        """Write bytes."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return memoryview(data).nbytes


def own_streams() -> None:
    """Open Python's standard streams anew: what C libraries print can be silenced, and terminals may go.

    Standard error gets a descriptor of its own, as C libraries write to the usual one, see
    `foreign.silenced`. Writing to a terminal that is gone does not fail any more.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr.fileno() == STDERR:
            sys.stderr = _again(sys.stderr, os.dup(STDERR))
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stdout.isatty():
            sys.stdout = _again(sys.stdout, sys.stdout.fileno())


def _again(stream: Any, descriptor: int) -> io.TextIOWrapper:
    stream.flush()
    raw = _Terminal(descriptor, "w", closefd=False) if stream.isatty() else io.FileIO(descriptor, "w", False)
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering)


def never_fail() -> None:
    """Let the program's streams show every character: what their encoding lacks, in other letters."""
    codecs.register_error("quickstudy", _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="quickstudy")  # pyright: ignore[reportAttributeAccessIssue]
