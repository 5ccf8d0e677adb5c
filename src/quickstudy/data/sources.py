"""The data sources, for people to look at."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quickstudy.data import omniglot


@dataclass(frozen=True)
class DataSource:
    """What `quickstudy data` says of a source.

    Args:
        name: of the source.
        what: one line.
        licence: of the data.
        where: from the data root to where it is, or what its absence means.
        classes, items: how many, where that is known.
    """

    name: str
    what: str
    licence: str
    where: Callable[[Path], str]
    classes: int | None = None
    items: int | None = None


def _omniglot_where(root: Path) -> str:
    folder = root / "omniglot"
    present = all((folder / name).exists() for name in omniglot.ARCHIVES)
    return "yes" if present else "no, fetched when first used"


SOURCES = (
    DataSource(
        "glyphs",
        "letters of many scripts; splits by script",
        "DejaVu fonts (free)",
        lambda root: "embedded",
        542,
        542 * 24,
    ),
    DataSource(
        "omniglot",
        "handwritten characters of 50 alphabets; Vinyals and Lake splits",
        omniglot.LICENCE,
        _omniglot_where,
        1623,
        32_460,
    ),
    DataSource("images", "your own pictures, DIR/CLASS/*.jpg", "yours", lambda root: "--images DIR"),
)
