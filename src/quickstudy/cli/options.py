"""What several commands share: options, and how figures are shown."""

import contextlib
import io
import re
from collections.abc import Generator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from quickstudy.data.setting import Setting
    from quickstudy.recipes.experiment import Results

GalleryPath = Annotated[
    str,
    typer.Option(
        "--gallery", "-g", envvar="QUICKSTUDY_GALLERY", help="A file, or a PostgreSQL URL, with pgvector."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="QUICKSTUDY_MODEL",
        help="A training's folder, checkpoint, or model. (default: that of the gallery)",
        show_default=False,
    ),
]
Far = Annotated[
    float | None,
    typer.Option(
        min=1e-6,
        max=0.5,
        help="False accepts to allow, 0.01 is 1 %. (default: what was calibrated for)",
        show_default=False,
    ),
]


Place = Annotated[
    Literal["strongest", "centered", "middle", "start"] | None,
    typer.Option(
        help="Sounds: which window of a recording to take. (default: that of the training)",
        show_default=False,
    ),
]


class UsageError(ValueError):
    """A command that is called wrongly, whatever the files hold; the exit code is then 2."""


def existing_gallery(gallery: str) -> str:
    """The gallery, which must be there."""
    if not re.search(r"\w{2,}:/|=", gallery) and not Path(gallery).is_file():
        from quickstudy.recognition.gallery.places import without_passwords

        raise FileNotFoundError(
            f"there is no gallery at {without_passwords(gallery)}: enroll somebody first, or name it "
            "by --gallery"
        )
    return gallery


def free(path: Path, force: bool) -> Path:
    """A path to write to, where nothing is yet unless it may be replaced."""
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already: name another file, or replace it by --force")
    return path


def results_to(ctx: typer.Context, out: Path | None, force: bool) -> None:
    """Write what the command prints into a file, whole or, after an error, not at all."""
    if out:
        ctx.with_resource(_into(free(out, force)))


@contextlib.contextmanager
def _into(out: Path) -> Generator[None]:
    from quickstudy.core.files import write_whole

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        yield
    if printed.getvalue():  # nothing is printed before an error
        write_whole(out, printed.getvalue().encode())


def open_gallery(gallery: str) -> Any:
    """A gallery that is there, opened."""
    from quickstudy.recognition.gallery.gallery import Gallery

    return Gallery(existing_gallery(gallery))


def say(text: str) -> None:
    """Print a line as it is."""
    from quickstudy.core.consoles import console

    console.print(text, highlight=False, soft_wrap=True)


DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the data sets; else QUICKSTUDY_DATA, else your cache folder.", show_default=False
    ),
]
SkipCorrupt = Annotated[bool, typer.Option("--skip-corrupt", help="Leave out pictures that can't be read.")]
Checkpoint = Annotated[
    str, typer.Argument(help="A checkpoint file, a training's folder, or a name from `quickstudy models`.")
]
OwnRecipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="The recipe that it was trained by, if that is one of your own: FILE.py:FUNCTION.",
        show_default=False,
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"
    csv = "csv"


AsFormat = Annotated[Format, typer.Option("--format", help="How to print; --json is --format json.")]
ResultsOut = Annotated[
    Path | None, typer.Option("--out", help="File for what else is printed.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]


def terminal(fabric: "Fabric") -> Any:
    """Shows progress, of the first process only."""
    from quickstudy.cli.terminal import Terminal

    return Terminal(quiet=fabric.global_rank > 0)


def complete_recipe(incomplete: str) -> list[str]:
    """Names of recipes, for a shell's completion."""
    from quickstudy.recipes.catalogue import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


def complete_setting(ctx: typer.Context, incomplete: str) -> list[str]:
    """What `train --set` takes of the recipe that stands before it, for a shell's completion."""
    from quickstudy.cli.train import of_every_training
    from quickstudy.recipes.sources import recipe_source

    recipe: str | None = ctx.params.get("recipe")
    if recipe is None or ":" in recipe:  # nothing of the user's is run by pressing Tab
        return []
    known = {**of_every_training(), **recipe_source(recipe).arguments()}
    name, equals, _ = incomplete.partition("=")
    if equals and name in known:
        filled = (f"{name}={choice}" for choice in known[name].choices)
        return [text for text in filled if text.startswith(incomplete)]
    return [f"{name}=" for name in known if name.startswith(incomplete)]


def as_setting(text: str, queries: int) -> "Setting":
    """`5w1s` as a setting with so many queries a class; another form is a ValueError."""
    from quickstudy.data.setting import Setting

    match = re.fullmatch(r"(\d+)w(\d+)s", text)
    if not match:
        raise ValueError(f"setting {text!r} is not of the form 5w1s (5-way 1-shot)")
    return Setting(int(match[1]), int(match[2]), queries)


def results_table(results: "Results") -> Any:
    """Figures, to print."""
    from quickstudy.cli.terminal import table

    rows = table(*results.headers, wraps=results.wraps)
    for row in results.rows:
        rows.add_row(*row)
    return rows
