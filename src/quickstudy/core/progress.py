"""How work says how far it has come."""

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Called now and then with the number of things done and the number of all."""
