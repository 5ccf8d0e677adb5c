"""`quickstudy demo`: learning to learn, watched."""

import shutil
import time
from pathlib import Path

import torch
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from torch import nn

from quickstudy import experiment, plots, sinusoids
from quickstudy.data.episodes import Setting
from quickstudy.data.sinusoids import Sinusoids
from quickstudy.display import Terminal, console
from quickstudy.encoders import Conv4
from quickstudy.learner import Learner
from quickstudy.learners.inner import InnerLoop
from quickstudy.learners.prototypical import Prototypical
from quickstudy.memory import keep_freed_memory
from quickstudy.metrics import Score
from quickstudy.seeds import generators_kept
from quickstudy.wording import plural

RECIPE = "prototypical-glyphs"
SETTINGS = (Setting(5, 1, 15), Setting(20, 1, 15))
EPISODES = 200


def run(out: Path, steps: int) -> None:
    """Train on some scripts, test on others, draw and tell what to do next."""
    keep_freed_memory()
    started, recipe, display = time.monotonic(), experiment.RECIPES[RECIPE](), Terminal()
    fabric = experiment.launch(precision=recipe.precision)
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
    learner, progress = experiment.train(RECIPE, {}, run_folder, display=display, fabric=fabric, steps=steps)
    console.print(
        f"Studied {progress.step * recipe.tasks:,} tasks of {recipe.train.ways} letters in "
        f"{progress.seconds:.0f} seconds. Now the scripts it has never seen, {EPISODES} tasks each:"
    )
    rows: list[tuple[str, list[Score]]] = []
    for name, model in _contestants(learner):
        scores = experiment.measure(recipe, model, display=display, settings=SETTINGS, episodes=EPISODES)
        rows.append((name, scores))
    table = Table("", *(f"{s.ways}-way {s.shots}-shot" for s in SETTINGS))
    table.add_row("chance", *(f"{100 / s.ways:.1f} %" for s in SETTINGS))
    for name, scores in rows:
        style = "bold green" if name == "this network" else ""
        table.add_row(name, *(f"{100 * s.accuracy:.1f} ± {100 * s.ci95:.1f} %" for s in scores), style=style)
    console.print(table)
    pictures = _draw(recipe.pool().split("test"), learner, run_folder / "log.jsonl", rows, out)
    console.print(f"Pictures: {', '.join(str(p) for p in pictures)}", highlight=False, soft_wrap=True)
    console.print(f"All in {time.monotonic() - started:.0f} seconds. Next:\n", highlight=False)
    for command, what in (
        (
            f"quickstudy evaluate {run_folder} --setting 10w5s",
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


def run_sinusoids(out: Path, steps: int) -> None:
    """Train networks to learn sines from ten points, and show how fast each learns an unseen one."""
    started, display = time.monotonic(), Terminal()
    out.mkdir(parents=True, exist_ok=True)
    console.print(
        Panel(
            Text.from_markup(
                "Networks study [bold]many[/bold] sine waves, each of its own height and phase. Then they "
                "see ten points of a [bold]new[/bold] one, and take a few gradient steps on them. MAML, "
                "Meta-SGD and Reptile have learned to learn; the pre-trained network has learned the average."
            ),
            title="quickstudy: learning the initialisation",
        )
    )
    learners: dict[str, InnerLoop] = {}
    for name in sinusoids.CONTESTANTS:
        with display.training(steps) as report:
            learners[name] = sinusoids.train(name, steps=steps, report=report)
    errors = {name: sinusoids.errors(learner) for name, learner in learners.items()}
    shown = (0, 1, 5, 10)
    table = Table("mean squared error", *(plural(k, "step") for k in shown))
    for name, e in errors.items():
        style = "bold green" if name == "MAML" else ""
        table.add_row(name, *(_error(e[k].mean().item()) for k in shown), style=style)
    console.print(table)
    seen, x = Sinusoids(10, 1, 1, sinusoids.TEST_SEED), torch.linspace(-5, 5, 200)
    fits = {
        name: sinusoids.fits(learner, seen[0], x, shown)[:, 0, :, 0] for name, learner in learners.items()
    }
    plots.sinusoid_fits(seen[0], seen.curves(0, x)[0], x, fits, shown).savefig(out / "sinusoid.png", dpi=150)
    plots.sinusoid_errors(errors).savefig(out / "sinusoid-errors.png", dpi=150)
    pictures = out / "sinusoid.png", out / "sinusoid-errors.png"
    console.print(f"Pictures: {', '.join(map(str, pictures))}", highlight=False, soft_wrap=True)
    console.print(f"All in {time.monotonic() - started:.0f} seconds.", highlight=False)


def _error(value: float) -> str:
    return f"{value:.3g}" if value < 100 else "diverges"


def _contestants(learner: Learner) -> list[tuple[str, Learner]]:
    with generators_kept(0):
        untrained = Prototypical(Conv4())
    return [
        ("raw pixels, nearest", Prototypical(nn.Flatten())),
        ("untrained network", untrained),
        ("this network", learner),
    ]


def _draw(
    classes: experiment.ClassPool, learner: Learner, log: Path, rows: list[tuple[str, list[Score]]], out: Path
) -> list[Path]:
    bars = plots.bars(
        "Letters of scripts never seen, one example each",
        [("chance", [(100 / s.ways, 0.0) for s in SETTINGS])]
        + [(name, [(100 * s.accuracy, 100 * s.ci95) for s in scores]) for name, scores in rows],
        [f"{s.ways}-way {s.shots}-shot" for s in SETTINGS],
    )
    drawn = plots.draw_all(learner, classes, Setting(10, 1, 6), log, out)
    bars.savefig(out / "accuracy.png", dpi=150)
    return [*drawn, out / "accuracy.png"]
