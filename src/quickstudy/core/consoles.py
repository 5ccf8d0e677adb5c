"""Where the program speaks: answers to standard output, progress and notices to standard error."""

from rich.console import Console

console = Console(markup=False, emoji=False)  # names of files and classes may hold [brackets] and :colons:
"""For answers: standard output."""
messages = Console(stderr=True, markup=False, emoji=False)
"""For progress and notices: standard error, so that answers can be piped."""
