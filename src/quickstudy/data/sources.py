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
    absent = [name for name in omniglot.ARCHIVES if not (folder / name).exists()]
    return "yes" if not absent else f"no: {', '.join(absent)}; fetched when first used"


SOURCES = (
    DataSource(
        "glyphs",
        "letters of many scripts, drawn from DejaVu typefaces; splits by script",
        "DejaVu fonts licence (free)",
        lambda root: "embedded",
        542,
        542 * 24,
    ),
    DataSource(
        "omniglot",
        "handwritten characters of 50 alphabets; Vinyals and Lake splits, rotations as classes",
        omniglot.LICENCE,
        _omniglot_where,
        1623,
        32_460,
    ),
    DataSource("images", "your own: --images DIR with DIR/CLASS/*.jpg", "yours", lambda root: "--images DIR"),
)
