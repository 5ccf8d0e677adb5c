"""What all threads of a process share: the backend of attention, the filters of warnings."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from threading import Lock, RLock

from torch.nn.attention import SDPBackend, sdpa_kernel

WARNING_FILTERS_LOCK = RLock()
"""Held around `warnings.catch_warnings`, whose filters are those of the whole process."""


class _Backend:
    """The backend of attention, which torch sets for the whole process, and the threads that ask for it."""

    def __init__(self) -> None:
        self.lock, self.users, self.setting = Lock(), 0, ExitStack()


_backend = _Backend()


@contextmanager
def math_attention() -> Generator[None]:
    """Context in which attention can be differentiated twice: of torch's backends one alone can be.

    The first thread that enters sets it and the last that leaves restores it, so threads don't undo each
    other's setting.
    """
    with _backend.lock:
        if not _backend.users:
            _backend.setting.enter_context(sdpa_kernel(SDPBackend.MATH))
        _backend.users += 1
    try:
        yield
    finally:
        with _backend.lock:
            _backend.users -= 1
            if not _backend.users:
                _backend.setting.close()
