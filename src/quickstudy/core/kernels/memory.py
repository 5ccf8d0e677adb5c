"""Keeping freed memory in the process."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the C library not to give freed memory back to the system.

    By default glibc returns every large activation when it is freed, and the next step takes page faults to
    get it back: on a CPU that can be more than half of a training step. Afterwards the process keeps the most
    it ever needed until it ends. It can't be undone, so it is for a program to choose, not a library.

    Returns:
        Whether it took effect; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    return bool(libc.mallopt(M_MMAP_THRESHOLD, 2**30) and libc.mallopt(M_TRIM_THRESHOLD, KEEP))
