"""The papers' 60,000 meta-batches of each method of the MAML family, for a machine with an accelerator.

Each training goes to a folder of its own below --out, with checkpoints, and is taken up again where it was
left if the program is started once more. In the end its accuracy on the test classes becomes rows of
results. Meta-batches are as large as the papers' (32 tasks 5-way, 16 tasks 20-way, 5 of Reptile); the rest
is as in the recipes.

    python -m benchmarks.full_schedule --accelerator cuda
    python -m benchmarks.full_schedule --steps 20 --episodes 20 --out /tmp/trial     # a trial on any machine
"""

import argparse
from functools import partial
from pathlib import Path

from benchmarks.rows import Row, kept, write
from quickstudy.cli.terminal import Terminal
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.recipes import weights
from quickstudy.training.launch import launch

TASKS = {
    "maml-omniglot": 32,
    "maml-omniglot-20way": 16,
    "fomaml-omniglot": 32,
    "fomaml-omniglot-20way": 16,
    "anil-omniglot": 32,
    "meta-sgd-omniglot": 32,
    "meta-sgd-omniglot-20way": 16,
    "reptile-omniglot": 5,
    "reptile-omniglot-20way": 5,
}
"""Tasks in a meta-batch, as in the papers."""


def run(name: str, options: argparse.Namespace) -> list[Row]:
    """Train and measure one recipe."""
    recipe, display = weights.recipe_of({"recipe": name, "arguments": {}}), Terminal()
    fabric = launch(options.accelerator, precision=recipe.precision)
    asked = {
        "steps": options.steps,
        "lr": options.lr if recipe.lr < 1 else recipe.lr,  # Reptile's outer step is 1
        "tasks": TASKS[name],
        "seed": options.seed,
        "resume": True,
    }
    learner, progress = recipe.run(
        options.out / name, name=name, arguments={}, options=asked, display=display, fabric=fabric
    )
    scores = recipe.test(
        learner,
        display=display,
        count=options.episodes,
        modes=("inductive", "transductive", "authors"),
        seed=options.seed,
    )
    dataset = str(recipe.pool().name)
    row = partial(
        Row, benchmark="full_schedule", method=f"{name}, {progress.step} meta-batches", dataset=dataset
    )
    return [
        row(
            split="test",
            setting=score.setting,
            mode=score.mode,
            metric="accuracy %",
            value=100 * score.accuracy,
            ci95=100 * score.ci95,
            n=score.episodes,
            seed=score.seed,
            paper=recipe.published.get(score.setting) if score.mode == recipe.mode else None,
            minutes=progress.seconds / 60,
        )
        for score in scores
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=TASKS, default=list(TASKS), metavar="RECIPE")
    parser.add_argument("--steps", type=int, default=60_000, help="meta-batches of each")
    parser.add_argument("--lr", type=float, default=1e-3, help="Adam's highest learning rate")
    parser.add_argument("--episodes", type=int, default=1000, help="test tasks")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--out", type=Path, default=Path("runs/full_schedule"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write no rows into benchmarks/results")
    options = parser.parse_args()
    keep_freed_memory()
    for name in options.methods:
        rows = run(name, options)
        for row in rows:
            print(f"{row.method} {row.setting} {row.mode}: {row.value:.2f} ± {row.ci95:.2f} %")
        if not options.dry:  # after each, so that what is done is kept
            write("full_schedule", [*kept("full_schedule", rows), *rows])


if __name__ == "__main__":
    main()
