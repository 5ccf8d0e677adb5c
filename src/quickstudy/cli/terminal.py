"""What a terminal shows while work is going on."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from quickstudy.core.consoles import messages
from quickstudy.core.wording import shown

if TYPE_CHECKING:  # lists are quick without torch
    from quickstudy.core.progress import ProgressCallback
    from quickstudy.core.scores import ValidationResult
    from quickstudy.training.fit import Reporter


class WholeTable(Table):
    """A table that grows beyond the terminal's width rather than cut what may not be broken into lines."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it, as wide as it must be."""
        cells = [(column, *self._widths(column)) for column in self.columns]
        least = sum(
            widest if column.no_wrap else min(widest, max(min(word, 20), LEAST))
            for column, widest, word in cells
        )
        needed = least + self._extra_width + 2 * len(self.columns)
        width = max(options.max_width, needed)
        yield from super().__rich_console__(console, options.update(width=width, max_width=width))

    def _widths(self, column: Column) -> tuple[int, int]:
        """Widths of the longest line and of the longest word of a column."""
        texts = [column.header, *column.cells]
        lines = [
            line for text in texts if isinstance(text, str) for line in shown(text, keep="\n").split("\n")
        ]
        longest = max((cell_len(line) for line in lines), default=0)
        return longest, max((cell_len(word) for line in lines for word in line.split()), default=0)


LEAST = 8
"""Width at least of a column that may be broken into lines."""


def table(*headers: str, wraps: tuple[str, ...] = ()) -> Table:
    """A table in which only the columns `wraps` may be broken into lines: names and figures stay whole."""
    return WholeTable(*(Column(h, no_wrap=h not in wraps, overflow="fold") for h in headers))


class Terminal:
    """Progress bars on a terminal; a line now and then where there is none.

    Args:
        quiet: Whether to show nothing, as processes other than the first must.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    @contextmanager
    def counting(self, what: str) -> "Generator[ProgressCallback]":
        """A bar that appears with the first report and vanishes in the end."""
        with Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=messages,
            transient=True,
            disable=self.quiet or not messages.is_terminal,  # else it leaves an empty line
        ) as bar:
            bars: list[Any] = []

            def count(done: int, total: int) -> None:
                if not bars:
                    bars.append(bar.add_task(what, total=total))
                bar.update(bars[0], completed=done)

            yield count

    @contextmanager
    def training(self, steps: int) -> "Generator[Reporter]":
        """A bar with loss, validation, tasks per second and time left."""
        live = messages.is_terminal
        with Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("validation {task.fields[validation]}"),
            TextColumn("{task.fields[rate]:.1f} tasks/s"),
            TimeRemainingColumn(compact=True),
            console=messages,
            disable=self.quiet or not live,
        ) as bar:
            task = bar.add_task("", total=steps, loss=float("nan"), validation="–", rate=0.0)
            smooth: list[float] = []

            def show(step: int, report: dict[str, Any]) -> None:
                smooth[:] = [*smooth[-49:], report["loss"]]
                loss = sum(smooth) / len(smooth)
                bar.update(task, completed=step, loss=loss, rate=report["tasks_per_second"])
                result: ValidationResult | None = report.get("validation")
                if result:
                    bar.update(task, validation=result.short)
                    if not live and not self.quiet:
                        messages.print(f"step {step} of {steps}: loss {loss:.3f}, validation {result.short}")

            yield show
