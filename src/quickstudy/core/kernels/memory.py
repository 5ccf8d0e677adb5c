"""Keeping freed memory in the process, for faster training on a CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library not to return freed memory to the operating system.

    By default glibc returns the memory of every large activation, and the next step takes page faults to
    get it back: on a CPU they can take more than half of a training step. After this call the process keeps
    its peak memory until it ends. That can't be undone, so a program should decide it, not a library.

    Returns:
        True if the call took effect; False if the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    return bool(libc.mallopt(M_MMAP_THRESHOLD, 2**30) and libc.mallopt(M_TRIM_THRESHOLD, KEEP))
