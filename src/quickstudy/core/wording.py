"""Numbers in words, and the texts of others as they may be shown."""

import json
import math
import re
from typing import Any, cast

_UNSEEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # control characters, which move cursors and rename windows
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # shown as nothing
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"  # no width, or another direction
    "\ud800-\udfff"  # bytes of file names that are not UTF-8
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "]"
)
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]")


def plural(n: int, noun: str) -> str:
    """A number followed by its noun, in the singular or the plural.

    Args:
        n: Number of things.
        noun: Noun in the singular, whose plural has an s or, after an s, es.

    Example:
        >>> plural(1, "sample"), plural(0, "sample"), plural(3, "sample")
        ('1 sample', '0 samples', '3 samples')
        >>> plural(1, "class"), plural(2, "class")
        ('1 class', '2 classes')
    """
    ending = "" if n == 1 else "es" if noun.endswith("s") else "s"
    return f"{n} {noun}{ending}"


def shown(text: object, keep: str = "") -> str:
    """The text of others, such as a name, as it may be shown: what can't be seen is written as an escape.

    These are control characters, those without width, and those that turn the direction of writing.

    Args:
        text: Name of a file, class or tensor, value of a manifest, or a message that holds one.
        keep: Characters that stay as they are, such as line breaks of our own.

    Example:
        >>> shown(f"a{chr(27)}[31m") == "a" + chr(92) + "x1b[31m"
        True
    """
    return _UNSEEN.sub(lambda m: m[0] if m[0] in keep else ascii(m[0])[1:-1], str(text))


def one_line(text: object, most: int = 300) -> str:
    """A message in one line, as it may be shown.

    Args:
        text: The message, or an exception that holds it.
        most: Largest number of characters.
    """
    line = shown(" ".join(str(text).split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def csv_cell(text: object) -> str:
    """The text of others as a cell of a table, which a spreadsheet must not take for a formula.

    Args:
        text: Name of a file or a class.

    Example:
        >>> csv_cell("=1+1"), csv_cell("Ada")
        ("'=1+1", 'Ada')
    """
    cell = str(text)
    return shown(f"'{cell}" if _FORMULA.match(cell) else cell)


def json_text(value: Any, indent: int | None = 2) -> str:
    """JSON that a terminal may show: what can't be seen is escaped, and numbers that are none are null.

    Args:
        value: Value that JSON can hold; what it can't hold is written as its text.
        indent: Number of blanks of an indentation; None for one line.
    """
    text = json.dumps(_finite(value), indent=indent, ensure_ascii=False, default=str)
    return _UNSEEN.sub(lambda m: m[0] if m[0] == "\n" else json.dumps(m[0])[1:-1], text)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in cast(dict[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in cast(list[Any], value)]
    return value


def of_ten(share: float) -> str:
    """A share in words, such as `nine of ten`.

    Args:
        share: Share in [0, 1].
    """
    names = (
        "hardly any",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "nearly all",
    )
    tenth = round(10 * share)
    return names[tenth] if tenth in (0, 10) else f"{names[tenth]} of ten"
