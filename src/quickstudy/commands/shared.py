"""What several commands share: options, and how figures are shown."""

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from quickstudy.data.episodes import Setting
    from quickstudy.metrics import Score
    from quickstudy.recipes import Recipe


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

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def terminal(fabric: "Fabric") -> Any:
    """Shows progress, of the first process only."""
    from quickstudy.display import Terminal

    return Terminal(quiet=fabric.global_rank > 0)


def arguments_of(recipe: str) -> list[str]:
    """What the function of a recipe takes; nothing of a rule's recipe."""
    from quickstudy.recipes import RECIPES

    return list(inspect.signature(RECIPES[recipe]).parameters) if recipe in RECIPES else []


def as_setting(text: str, queries: int) -> "Setting":
    """`5w1s` as a setting with so many queries a class; another form is a ValueError."""
    from quickstudy.data.episodes import Setting

    match = re.fullmatch(r"(\d+)w(\d+)s", text)
    if not match:
        raise ValueError(f"setting {text!r} is not of the form 5w1s (5-way 1-shot)")
    return Setting(int(match[1]), int(match[2]), queries)


def score_table(scores: "list[Score]", recipe: "Recipe") -> Any:
    """Accuracies beside those of the paper, to print."""
    from quickstudy.display import table
    from quickstudy.metrics import percent

    wide = "accuracy %, 95 % interval"
    rows = table("setting", "batch norm", wide, "episodes", "seed", "paper %", wraps=(wide,))
    for s in scores:
        paper = recipe.published.get(s.setting) if s.mode == recipe.mode else None
        accuracy = percent(s.accuracy, s.ci95)
        rows.add_row(
            s.setting, s.mode, accuracy, str(s.episodes), str(s.seed), "–" if paper is None else f"{paper:g}"
        )
    return rows
