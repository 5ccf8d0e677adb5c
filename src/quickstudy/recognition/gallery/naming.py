"""Names of a gallery: one form of each, what may be a name, and which look alike."""

import unicodedata
from collections.abc import Iterable

from quickstudy.core.wording import joins

LONGEST_TEXT = 200
"""Maximum length of a name or a source, in characters."""
UNKNOWN = "unknown"
"""Answer for strangers, which can't be a name."""
_LOOK = {
    "l": "1I|\u0406\u04c0\u0399\u0131",
    "o": "0\u043e\u041e\u03bf\u039f\u0585\u0555",
    "a": "\u0430\u0410\u03b1\u0391\u0251", "b": "\u0412\u0392\u042c", "c": "\u0441\u0421\u03f2\u03f9",
    "d": "\u0501", "e": "\u0435\u0415\u0395\u0454", "g": "\u0261\u0581", "h": "\u041d\u0397\u04bb\u0570",
    "i": "\u0456\u03b9", "j": "\u0458\u0408", "k": "\u043a\u041a\u03ba\u039a", "m": "\u041c\u039c",
    "n": "\u039d\u0578", "p": "\u0440\u0420\u03c1\u03a1", "q": "\u051b", "s": "\u0455\u0405",
    "t": "\u0422\u03a4", "u": "\u057d\u03c5", "v": "\u03bd\u0475", "w": "\u051d\u03c9",
    "x": "\u0445\u0425\u03c7\u03a7", "y": "\u0443\u0423\u03b3\u03a5", "z": "\u0396",
}  # fmt: skip
"""Letters of other scripts, and digits, that look like a Latin letter; few of many, but the usual ones."""
_LATIN = {ord(other): letter for letter, others in _LOOK.items() for other in others}


def normal(text: str) -> str:
    """The one form of a name in which it is stored and compared: Unicode's NFC.

    Args:
        text: Name in any form, as file systems may give it.
    """
    return unicodedata.normalize("NFC", text)


def checked_text(text: str, what: str) -> str:
    """The normal form of a name or a source, if it is short and can be shown.

    Args:
        text: Text to check.
        what: Noun for the text in messages.

    Raises:
        ValueError: If it is empty, too long, or has characters that can't be seen.
    """
    form = normal(text)
    if not form.strip():
        raise ValueError(f"a {what} is empty: give it one")
    if len(form) > LONGEST_TEXT:
        raise ValueError(f"{what} {form[:20]!r}… has {len(form)} characters: {LONGEST_TEXT} is the most")
    if not form.isprintable():
        for i, c in enumerate(form):
            kind = unicodedata.category(c)
            if kind in ("Cc", "Cs", "Zl", "Zp"):
                raise ValueError(f"{what} {form!a} has control characters: leave them out")
            if kind in ("Cf", "Co", "Cn") and not joins(form, i):
                raise ValueError(f"{what} {form!a} has characters that can't be seen: leave them out")
    return form


def checked_name(text: str) -> str:
    """The normal form of a name, if it may be enrolled.

    Args:
        text: Name to check.

    Raises:
        ValueError: As `checked_text`, and if it would be read as something else: as the answer for strangers,
            an option, or a path to another folder.
    """
    form = checked_text(text, "name")
    if skeletons(form) & skeletons(UNKNOWN):
        raise ValueError(f"name {form!r} is the answer for strangers: choose another name")
    if form.lstrip().startswith("-"):
        raise ValueError(f"name {form!r} would be read as an option: leave out the - at its beginning")
    if {".", ".."} & set(form.replace("\\", "/").split("/")) or form[0] in "/\\~":
        raise ValueError(f"name {form!r} would be read as a path: choose another name")
    return form


def skeletons(name: str) -> frozenset[str]:
    """What is left of a name without case, blanks and look-alikes: names that share one of these look alike.

    Args:
        name: Name in its normal form.
    """
    seen = "".join(c for c in name if unicodedata.category(c) != "Cf")
    wide = " ".join(unicodedata.normalize("NFKC", seen).split())
    latin = wide.translate(_LATIN).casefold().replace("rn", "m").replace("vv", "w")
    return frozenset((wide.casefold(), latin))


def look_alikes(names: Iterable[str], others: Iterable[str]) -> dict[str, list[str]]:
    """Names that look like others.

    Args:
        names: Names to look at.
        others: Names to compare them with; these may be among them.

    Returns:
        The others that look like each name, sorted, for the names that have any.
    """
    by_look: dict[str, set[str]] = {}
    for other in others:
        for look in skeletons(other):
            by_look.setdefault(look, set()).add(other)
    found = {n: sorted({o for look in skeletons(n) for o in by_look.get(look, ())} - {n}) for n in names}
    return {name: alike for name, alike in found.items() if alike}
