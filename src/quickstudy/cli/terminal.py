"""Tables on a terminal; what shows progress there is in the core."""

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table

from quickstudy.core.progress import Terminal
from quickstudy.core.wording import shown

__all__ = ["Terminal", "table"]


class WholeTable(Table):
    """A table that grows beyond the terminal's width rather than cut what may not be broken into lines."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it, as wide as it must be."""
        cells = [(column, *self._widths(column)) for column in self.columns]
        least = sum(
            widest if column.no_wrap else min(widest, max(min(word, 20), LEAST))
            for column, widest, word in cells
        )
        frame = self._extra_width + 2 * len(self.columns)
        width = max(options.max_width, least + frame)
        words = [widest if column.no_wrap else word for column, widest, word in cells]
        if (spare := width - sum(words) - frame) >= 0:
            lines = [(widest - word, word, column) for (column, widest, word) in cells if not column.no_wrap]
            for i, (more, word, column) in enumerate(sorted(lines, key=lambda line: line[0])):
                more = min(more, spare // (len(lines) - i))
                column.width = word + more  # lines end between words, where all words have room
                spare -= more
        elif len(broken := [i for i, column in enumerate(self.columns) if not column.no_wrap]) > 1:
            name, *others = broken  # names come first and stay whole, where words beside them may be broken
            room = (width - frame - sum(words) + sum(words[i] for i in others)) // len(others)
            if room >= LEAST:
                self.columns[name].width = words[name]
                for i in others:
                    self.columns[i].width = room
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
