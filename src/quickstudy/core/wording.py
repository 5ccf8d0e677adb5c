"""Numbers in words, and the texts of others as they may be shown."""

import json
import math
import re
import unicodedata
from collections.abc import Callable
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
_JOINERS = "\u200c\u200d"
"""Characters without width that some scripts need between letters, as Persian and Hindi do."""
_JOINING = (
    *("ADLAM", "ARABIC", "BALINESE", "BENGALI", "DEVANAGARI", "GUJARATI", "GURMUKHI", "HANIFI", "JAVANESE"),
    *("KANNADA", "KHMER", "MALAYALAM", "MANDAIC", "MONGOLIAN", "MYANMAR", "NKO", "ORIYA", "PHAGS-PA"),
    *("SINHALA", "SYRIAC", "TAMIL", "TELUGU"),
)
"""The scripts that do, as the names of their letters begin."""
_VIRAMA = 9
"""Unicode's combining class of the sign that takes a consonant's vowel away."""
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

    These are control characters, those without width, and those that turn the direction of writing. Joiners
    stay where a script needs them, see `joins`.

    Args:
        text: Name of a file, class or tensor, value of a manifest, or a message that holds one.
        keep: Characters that stay as they are, such as line breaks of our own.

    Example:
        >>> shown(f"a{chr(27)}[31m") == "a" + chr(92) + "x1b[31m"
        True
    """
    return _escaped(str(text), keep, lambda c: ascii(c)[1:-1])


def _escaped(text: str, keep: str, escape: Callable[[str], str]) -> str:
    return _UNSEEN.sub(lambda m: m[0] if m[0] in keep or joins(text, m.start()) else escape(m[0]), text)


def joins(text: str, i: int) -> bool:
    """Whether a character is a joiner (U+200C, U+200D) where its script needs one, as in Persian and Hindi.

    It then stands between letters or vowel signs of such a script; or, the second, after a virama at the end.

    Args:
        text: The text.
        i: Index of the character.
    """
    if text[i] not in _JOINERS:
        return False
    before, after = text[i - 1 : i], text[i + 1 : i + 2]
    if text[i] == "\u200d" and before and unicodedata.combining(before) == _VIRAMA:
        return not after or after.isspace() or _of_joining_script(after)
    return _of_joining_script(before) and _of_joining_script(after)


def _of_joining_script(c: str) -> bool:
    """Whether a character is a letter or sign of a script with joiners."""
    return bool(c) and unicodedata.category(c)[0] in "LM" and unicodedata.name(c, "-").startswith(_JOINING)


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
    return _escaped(text, "\n", lambda c: json.dumps(c)[1:-1])


def label_text(text: object) -> str:
    r"""The text of others as a label of matplotlib: no `$` begins mathematics, no `_` hides it in a legend.

    Args:
        text: Name of a class, a training or a rule.

    Example:
        >>> label_text("a$b$c"), label_text("_own")
        ('a\\$b\\$c', ' _own')
    """
    plain = shown(text).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


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
