"""How work says how far it has come: a bar on a terminal, a line now and then where there is none."""

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from quickstudy.core.consoles import messages

if TYPE_CHECKING:  # lists are quick without torch
    from quickstudy.core.scores import ValidationResult

ProgressCallback = Callable[[int, int], None]
"""Called now and then with the number of things done and the number of all."""

EVERY = 30.0
"""Seconds between lines where there is no terminal."""
SOON, BRIEF = 2.0, 5.0
"""Seconds after which the first line comes, unless fewer than the second number are left then."""


class Reporter(Protocol):
    """Callback after each step, such as a progress bar."""

    def __call__(self, step: int, report: dict[str, Any]) -> None:
        """Take the news of a step.

        Args:
            step: Number of steps done.
            report: Results of the step by name: "loss", "tasks_per_second" and, after a validation,
                "validation".
        """
        ...


class Pace:
    """When work should say how far it is, and how much time it has left.

    Args:
        clock: Function that gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begun, self._said = clock, clock(), 0.0
        self._first: tuple[int, float] | None = None

    def left(self, done: int, total: int, before: int = 0) -> str:
        """Time left, such as `about 12 min left`, by the pace since the first report.

        Args:
            done: Number of things done.
            total: Number of all things.
            before: Number that were done when the work began.
        """
        return f"about {duration(self._seconds_left(done, total, before))} left"

    def due(self, done: int, total: int, before: int = 0) -> bool:
        """Whether a line is due; if so, the next is half a minute later. Brief work says nothing.

        Args:
            done: Number of things done.
            total: Number of all things.
            before: Number that were done when the work began.
        """
        now = self._clock()
        left = self._seconds_left(done, total, before)
        if now - (self._said or self._begun) < (EVERY if self._said else SOON) or done == total:
            return False
        if not self._said and left < BRIEF:
            return False
        self._said = now
        return True

    def _seconds_left(self, done: int, total: int, before: int) -> float:
        now = self._clock()
        since, at = self._first or (before, self._begun)
        if self._first is None:
            self._first = done, now  # a first step takes longer than the others
        if done == since:
            since, at = before, self._begun
        return (now - at) / max(done - since, 1) * (total - done)


def duration(seconds: float) -> str:
    """A time in words: `40 s`, `12 min`, `3.5 h`.

    Args:
        seconds: Time in seconds.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def somebody_watches() -> bool:
    """Whether progress may be shown unasked: on a terminal or in a notebook, in the main thread."""
    return (messages.is_terminal or messages.is_jupyter) and (
        threading.current_thread() is threading.main_thread()
    )


class Terminal:
    """Progress bars on a terminal; a line now and then where there is none.

    Args:
        quiet: Whether to show nothing, as processes other than the first must.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    @contextmanager
    def counting(self, what: str) -> Generator[ProgressCallback]:
        """A bar that appears with the first report and vanishes in the end.

        Args:
            what: Text beside the bar.
        """
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        live = messages.is_terminal
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        off = self.quiet or not live  # else it leaves an empty line
        with _lasting(Progress(*columns, console=messages, transient=True, disable=off)) as bar:
            bars: list[Any] = []
            pace = Pace()

            def count(done: int, total: int) -> None:
                if not bars:
                    bars.append(bar.add_task(what, total=total))
                bar.update(bars[0], completed=done)
                if not live and not self.quiet and pace.due(done, total):
                    _say(f"{what}: {done} of {total}, {pace.left(done, total)}")

            yield count

    @contextmanager
    def training(self, steps: int) -> Generator[Reporter]:
        """A bar with loss, validation, tasks per second and time left.

        Args:
            steps: Number of steps of the training.
        """
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        live = messages.is_terminal
        bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("validation {task.fields[validation]}"),
            TextColumn("{task.fields[rate]:.1f} tasks/s"),
            TimeRemainingColumn(compact=True),
            console=messages,
            disable=self.quiet or not live,
        )
        with _lasting(bar):
            task = bar.add_task("", total=steps, loss=float("nan"), validation="–", rate=0.0)
            smooth: list[float] = []
            begun: list[int] = []
            pace = Pace()

            def show(step: int, report: dict[str, Any]) -> None:
                smooth[:] = [*smooth[-49:], report["loss"]]
                loss = sum(smooth) / len(smooth)
                if not begun:
                    begun.append(step - 1)  # a resumed training does not begin at 0
                bar.update(task, completed=step, loss=loss, rate=report["tasks_per_second"])
                result: ValidationResult | None = report.get("validation")
                if result:
                    bar.update(task, validation=result.short)
                if live or self.quiet:
                    return
                due = pace.due(step, steps, begun[0])
                if due or result:
                    told = [f"loss {loss:.3f}"] + ([f"validation {result.short}"] if result else [])
                    told += [pace.left(step, steps, begun[0])] if due else []
                    _say(f"step {step} of {steps}: {', '.join(told)}")

            yield show


@contextmanager
def _lasting(bar: Any) -> Generator[Any]:
    """A bar until the block ends; a terminal that is gone by then is no matter."""
    bar.start()
    try:
        yield bar
    finally:
        with suppress(OSError):
            bar.stop()


def _say(text: str) -> None:
    """A line on standard error, where it can be written to: no work ends for what it would have said."""
    with suppress(OSError):
        messages.print(text, highlight=False, soft_wrap=True)
        sys.stderr.flush()
