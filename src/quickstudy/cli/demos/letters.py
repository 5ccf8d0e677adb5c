"""`quickstudy demo`: learning to learn letters, watched."""

import shlex
import shutil
import time
from pathlib import Path

from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from torch import nn

from quickstudy.cli.terminal import Terminal
from quickstudy.core.consoles import console
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.learner import Learner
from quickstudy.core.scores import Score
from quickstudy.core.seeds import generators_kept
from quickstudy.data import pool
from quickstudy.data.setting import Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.prototypical import Prototypical
from quickstudy.recipes import pictures as recipes_pictures
from quickstudy.recipes.metric import prototypical_glyphs
from quickstudy.training import plots
from quickstudy.training.launch import launch

RECIPE = "prototypical-glyphs"
SETTINGS = (Setting(5, 1, 15), Setting(20, 1, 15))
EPISODES = 200


def run(out: Path, steps: int) -> None:
    """Train on some scripts, test on others, draw and tell what to do next."""
    keep_freed_memory()
    started, recipe, display = time.monotonic(), prototypical_glyphs(), Terminal()
    fabric = launch(precision=recipe.precision)
    run_folder = out / "run"
    if run_folder.exists():
        shutil.rmtree(run_folder)
    console.print(
        Panel(
            Text.from_markup(
                "A network will study letters of [bold]some[/bold] scripts, and learn how letters are told "
                "apart. Then it sees [bold]one[/bold] example of each of 5, or 20, letters of scripts it has "
                "never met, Greek, Armenian and Georgian, and must tell fresh drawings of them apart."
            ),
            title="quickstudy: learning to learn",
        )
    )
    assert isinstance(recipe.train, Setting)
    learner, progress = recipe.run(
        run_folder, name=RECIPE, arguments={}, options={"steps": steps}, display=display, fabric=fabric
    )
    console.print(
        f"Studied {progress.step * recipe.tasks:,} tasks of {recipe.train.ways} letters in "
        f"{progress.seconds:.0f} seconds. Now the scripts it has never seen, {EPISODES} tasks each:"
    )
    rows: list[tuple[str, list[Score]]] = []
    for name, model in _contestants(learner):
        scores = recipe.test(model, display=display, settings=SETTINGS, modes=("inductive",), count=EPISODES)
        rows.append((name, scores))
    table = Table("", *(f"{s.ways}-way {s.shots}-shot" for s in SETTINGS))
    table.add_row("chance", *(f"{100 / s.most.ways:.1f} %" for s in SETTINGS))
    for name, scores in rows:
        style = "bold green" if name == "this network" else ""
        table.add_row(name, *(f"{100 * s.accuracy:.1f} ± {100 * s.ci95:.1f} %" for s in scores), style=style)
    console.print(table)
    pictures = _draw(recipe.pool().split("test"), learner, run_folder / "log.jsonl", rows, out)
    console.print(f"Pictures: {', '.join(str(p) for p in pictures)}", highlight=False, soft_wrap=True)
    console.print(f"All in {time.monotonic() - started:.0f} seconds. Next:\n", highlight=False)
    for command, what in (
        (
            f"quickstudy evaluate {shlex.quote(str(run_folder))} --setting 10w5s",
            "the same network, ten letters, five examples of each",
        ),
        (
            "quickstudy predict prototypical-glyphs --support DIR --query DIR",
            "your own drawings: a folder of a few pictures for each class",
        ),
        ("quickstudy recipes", "what else can be trained, with the papers' figures and ours"),
    ):
        console.print(f"  {command}", style="bold cyan", highlight=False, soft_wrap=True)
        console.print(f"      {what}", highlight=False, soft_wrap=True)


def _contestants(learner: Learner) -> list[tuple[str, Learner]]:
    with generators_kept(0):
        untrained = Prototypical(Conv4())
    return [
        ("raw pixels, nearest", Prototypical(nn.Flatten())),
        ("untrained network", untrained),
        ("this network", learner),
    ]


def _draw(
    classes: pool.ClassPool, learner: Learner, log: Path, rows: list[tuple[str, list[Score]]], out: Path
) -> list[Path]:
    bars = plots.bars(
        "Letters of scripts never seen, one example each",
        [("chance", [(100 / s.most.ways, 0.0) for s in SETTINGS])]
        + [(name, [(100 * s.accuracy, 100 * s.ci95) for s in scores]) for name, scores in rows],
        [f"{s.ways}-way {s.shots}-shot" for s in SETTINGS],
    )
    drawn = recipes_pictures.draw_all(learner, classes, Setting(10, 1, 6), log, out)
    bars.savefig(out / "accuracy.png", dpi=150)
    return [*drawn, out / "accuracy.png"]
