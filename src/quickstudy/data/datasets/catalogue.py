"""The catalog of data sets that `quickstudy data` prints."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quickstudy.data.datasets import cifar, imagenets, omniglot


@dataclass(frozen=True)
class DataSource:
    """A line of the catalog.

    Args:
        name: Name of the data set.
        what: Description in one line; up to a semicolon it is what models that were trained on them are for.
        licence: License of the data, and whom to credit.
        where: Function from the data root to a text that says whether the data are there, or how to get them.
        classes: Number of classes, None if it is unknown.
        items: Number of items, None if it is unknown.
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


def _cifar_where(root: Path) -> str:
    folder = root / "cifar100"
    present = any((folder / name).exists() for name in (cifar.ZIP, cifar.BINARY, "apple"))
    return "yes" if present else "no, fetched when first used"


def _here(*parts: str) -> Callable[[Path], str]:
    """Make `where` for a folder of data that the user must put there."""
    return lambda root: "yes" if root.joinpath(*parts).is_dir() else f"no, put it in {'/'.join(parts)}"


SOURCES = (
    DataSource(
        "glyphs",
        "letters of any script, drawn or printed; splits by script",
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
    DataSource(
        "cifar-fs",
        "small photographs of 100 things; splits by class, at random",
        cifar.LICENCE,
        _cifar_where,
        100,
        60_000,
    ),
    DataSource(
        "fc100",
        "small photographs of 100 things; the same pictures as of cifar-fs, splits by superclass",
        cifar.LICENCE,
        _cifar_where,
        100,
        60_000,
    ),
    DataSource(
        "mini_imagenet",
        "photographs of 100 things; Ravi and Larochelle's split",
        imagenets.LICENCE,
        _here(imagenets.MINI),
        100,
        60_000,
    ),
    DataSource(
        "tiered_imagenet",
        "photographs of 608 things; splits by superclass",
        imagenets.LICENCE,
        _here(imagenets.TIERED),
        608,
        779_165,
    ),
    DataSource(
        "cub",
        "photographs of 200 birds; Chen's split",
        imagenets.CUB_LICENCE,
        _here(imagenets.CUB),
        200,
        11_788,
    ),
    DataSource(
        "orl",
        "grey pictures of people, ten each; splits by person",
        "research, credit AT&T Laboratories Cambridge",
        _here("orl_faces"),
        40,
        400,
    ),
    DataSource(
        "lfw",
        "news photographs of people, and pairs of them; splits by person",
        "research only",
        _here("lfw"),
        5749,
        13_233,
    ),
    DataSource(
        "fsdd",
        "English digits by six speakers; splits by speaker",
        "CC BY-SA 4.0, Jackson et al.",
        _here("fsdd", "recordings"),
        10,
        3000,
    ),
    DataSource(
        "arabic_commands",
        "Arabic words by 30 speakers; by word and speaker, or by speaker",
        "CC BY 4.0, Ghandoura et al. 2021",
        _here("arabic_commands"),
        30,
        4500,
    ),
    DataSource(
        "mnist",
        "handwritten digits, problems for learned optimizers",
        "LeCun et al.",
        _here("mnist"),
        10,
        70_000,
    ),
    DataSource("images", "your own pictures, DIR/CLASS/*.jpg", "yours", lambda root: "--set images=DIR"),
    DataSource("audio", "your own sound, DIR/CLASS/*.wav", "yours", lambda root: "--set audio=DIR"),
)
