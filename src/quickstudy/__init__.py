"""quickstudy: learning to learn.

The library's front. Its names stand in `__init__.pyi`, and nowhere else; they are imported when first used,
so that importing the package, as the command line does, costs nothing. So it is with each package below.
"""

from typing import Any

from lazy_loader import attach_stub

_look_up, __dir__, __all__ = attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("quickstudy")
    return _look_up(name)
