"""Where a gallery lies, as it may be shown: without any password."""

import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
"""What is shown in the place of a password."""
_WORD = r"""(?:'(?:[^'\\]|\\.)*'|"[^"]*"|[^\s&;,'")]+)"""


def without_passwords(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without passwords: of a URL, of a connection string, and those that are known.

    Args:
        text: Text that a user may have written, or a driver; it need not be a URL.
        secrets: Passwords, which are hidden wherever they stand, percent-encoded or not.
    """
    for secret in sorted({form for s in secrets for form in _forms(s)}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = re.sub(
        rf"(?i)((?:\w|%[0-9a-f]{{2}})*pass(?:\w|%[0-9a-f]{{2}})*\s*=\s*){_WORD}", rf"\1{HIDDEN}", text
    )
    # greedy, as a password may hold an @ that should have been encoded
    return re.sub(r"(:/{1,2}[^\s:/@]*):\S*@", rf"\1:{HIDDEN}@", text)


def _forms(secret: str) -> set[str]:
    plain = {secret, unquote(secret), unquote_plus(secret)}
    forms = plain | {encode(p, safe="") for p in plain for encode in (quote, quote_plus)}
    return {form for form in forms if form}
