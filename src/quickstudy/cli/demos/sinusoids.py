"""`quickstudy demo sinusoids`: learning to learn sines, watched."""

import time
from pathlib import Path

import torch
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from quickstudy.cli.terminal import Terminal
from quickstudy.core.consoles import console
from quickstudy.core.inner_loop import InnerLoop
from quickstudy.core.wording import plural
from quickstudy.data.datasets.sinusoids import Sinusoids
from quickstudy.initialization import plots
from quickstudy.recipes import sinusoids


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
    seen, x = Sinusoids(10, 1, 1, sinusoids.SINUSOID_TEST_SEED), torch.linspace(-5, 5, 200)
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
