"""Consoles of the program: results go to standard output, progress and notices to standard error."""

from rich.console import Console

console = Console(markup=False, emoji=False)  # names of files and classes may contain [brackets] and :colons:
"""Standard output, for results."""
messages = Console(stderr=True, markup=False, emoji=False)
"""Standard error, for progress and notices, so that results can be piped."""
