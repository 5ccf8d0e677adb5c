"""Digests of a gallery's rows, which tell a row that was written from one whose bits have changed since."""

import hashlib

BITS = 63


def row_digest(*parts: str | int | bytes) -> int:
    """Digest of the content of a row, an integer in [0, 2⁶³).

    Args:
        parts: Values of the row's columns, in an order that never changes.
    """
    blake = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        blake.update(b"%d:" % len(content))  # so that no two rows have the same bytes in a row
        blake.update(content)
    return int.from_bytes(blake.digest(), "little") >> (64 - BITS)
