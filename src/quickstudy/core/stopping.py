"""Signals that ask a program to stop: Ctrl-C, SIGTERM of batch systems, SIGHUP of a terminal that is gone."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that are taken as Ctrl-C is; Windows has no SIGHUP."""
PATIENCE = 5.0
"""Seconds after a signal for which a program, which is stopping already, ignores further ones."""

_asked_at = -PATIENCE  # when the last signal came


class Stopped(KeyboardInterrupt):
    """Raised when a signal asks to stop; a KeyboardInterrupt, whichever signal it was.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """Exit code of a program that was stopped: 130 by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.

    Args:
        error: What was raised.
    """
    return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)


@contextmanager
def signals_raise() -> Generator[None]:
    """Context in which each of `SIGNALS` raises `Stopped`; further ones soon after are ignored.

    A signal that is ignored already, as SIGHUP is below nohup, stays ignored, but for SIGINT.
    """
    raised = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        let_go_of_terminal(number)
        if not _just_asked():
            raised = True
            raise Stopped(number)

    # once stopped, the handlers stay, so that a second Ctrl-C is ignored while the interpreter ends
    with _handled(stop, _all_but_ignored(), lambda: not raised):
        yield


@contextmanager
def signals_noted() -> Generator[Callable[[], int]]:
    """Context in which the first of `SIGNALS` is noted only, so that what is being done can be ended well.

    A second Ctrl-C raises `Stopped`. Handlers of SIGTERM and SIGHUP that are neither Python's own nor those
    of `signals_raise` stay in force. Threads other than the main one get no signals: there none is noted.

    Yields:
        Function that gives the number of the noted signal, or 0.
    """
    asked = raised = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked, raised
        let_go_of_terminal(number)
        _just_asked()
        if not asked:
            asked = number
        elif number == signal.SIGINT and not raised:  # batch systems send the others several times
            raised = number
            raise Stopped(number)

    ours = [n for n in _all_but_ignored() if n == signal.SIGINT or _is_ours(signal.getsignal(n))]
    with _handled(note, ours):
        yield lambda: asked


def _just_asked() -> bool:
    """Whether there was a signal less than PATIENCE seconds ago, when there is another now."""
    global _asked_at
    before, _asked_at = _asked_at, time.monotonic()
    return _asked_at - before < PATIENCE


def _all_but_ignored() -> list[signal.Signals]:
    return [n for n in SIGNALS if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]


def _is_ours(handler: Any) -> bool:
    return handler == signal.SIG_DFL or getattr(handler, "__module__", "") == __name__


@contextmanager
def _handled(
    handler: Callable[[int, FrameType | None], None],
    numbers: list[signal.Signals],
    restored: Callable[[], bool] = lambda: True,
) -> Generator[None]:
    """Context in which a function handles signals, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, of in before.items() if restored() else ():
            signal.signal(number, signal.SIG_DFL if of is None else of)  # None: not set from Python


def let_go_of_terminal(number: int) -> None:
    """After a hangup, write to nowhere: what writes to the terminal would fail, and end the work unsaved.

    Args:
        number: Number of a signal; nothing is done but for SIGHUP.
    """
    if number != getattr(signal, "SIGHUP", None):
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    own = {1, 2}
    with contextlib.suppress(OSError, ValueError, AttributeError):  # Python's own, where that is another
        own.add(sys.stderr.fileno())
    for descriptor in own:
        with contextlib.suppress(OSError):
            if _gone(descriptor):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _gone(descriptor: int) -> bool:
    """Whether a descriptor is that of a terminal that has hung up: writing nothing to it fails."""
    try:
        os.write(descriptor, b"")
    except OSError:
        return True
    return False
