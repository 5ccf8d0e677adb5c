"""Tables on a terminal; what shows progress there is in the core."""

from rich.table import Column, Table

from quickstudy.core.progress import Terminal

__all__ = ["Terminal", "table"]


def table(*headers: str, wraps: tuple[str, ...] = ()) -> Table:
    """A table in which only the columns `wraps` may be broken into lines: names and figures stay whole."""
    return Table(*(Column(h, no_wrap=h not in wraps, overflow="fold") for h in headers))
