"""Semi-supervised prototypical networks with a tenth of the labels, over several draws of which tenth.

For each draw and each recipe a network is trained and tested, on the test characters, with their labels
drawn alike. The figure is the mean over the draws, its interval that of the draws, as in the paper (ten
draws); the draws stand beside it. One that is among the results is not trained again, and one that was cut
short goes on from its checkpoint in --out. All ten take three hours of one core.
"""

import argparse
from collections.abc import Iterable, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import Row, read, write
from quickstudy.cli.terminal import Terminal
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.modes import Mode
from quickstudy.core.scores import mean_ci95
from quickstudy.recipes import weights
from quickstudy.training.launch import launch

BENCHMARK = "label_splits"
NAMES = (
    "tenth-omniglot",
    "soft-omniglot",
    "soft-omniglot-distractors",
    "cluster-omniglot-distractors",
    "masked-omniglot-distractors",
)
MODES: tuple[Mode, Mode] = ("inductive", "transductive")
SETTING = "5w1s, a tenth labelled"
EPISODES = 1000


def measure(name: str, draw: int, steps: int | None, episodes: int, out: Path) -> list[Row]:
    """Train one recipe with one draw of labels, and test it: a row a mode."""
    recipe = weights.recipe_of({"recipe": name, "arguments": {"label_seed": draw}})
    fabric = launch("cpu", 1, recipe.precision)
    learner, progress = recipe.run(
        out / f"{name}-{draw}",
        name=name,
        arguments={"label_seed": draw},
        options={"steps": steps, "seed": draw, "resume": True},
        display=Terminal(),
        fabric=fabric,
    )
    scores = recipe.test(learner, display=Terminal(), count=episodes, modes=MODES)
    return [
        row_of(
            name,
            score.mode,
            metric=f"draw {draw}",
            value=100 * score.accuracy,
            ci95=100 * score.ci95,
            n=episodes,
            seed=draw,
            minutes=progress.seconds / 60,
        )
        for score in scores
    ]


def mean_row(draws: Sequence[Row]) -> Row:
    """Over the draws of a recipe in a mode."""
    name, mode = draws[0].method, draws[0].mode
    mean, ci95 = mean_ci95(torch.tensor([row.value for row in draws]))
    recipe = weights.recipe_of({"recipe": name, "arguments": {}})
    return row_of(
        name,
        mode,
        metric="accuracy %",
        value=mean,
        ci95=ci95 if len(draws) > 1 else None,
        n=len(draws),
        paper=recipe.published["5w1s"] if mode == recipe.mode else None,
        minutes=sum(row.minutes or 0 for row in draws),
    )


def row_of(name: str, mode: str | None, **figures: Any) -> Row:
    """What all rows share, and what this one tells."""
    return Row(
        benchmark=BENCHMARK,
        method=name,
        dataset="omniglot-vinyals",
        split="test",
        setting=SETTING,
        mode=mode,
        **figures,
    )


def with_means(rows: Iterable[Row]) -> list[Row]:
    """The draws in order, those of a recipe and mode after their mean."""
    draws = sorted(
        (row for row in rows if row.seed is not None),
        key=lambda row: (NAMES.index(row.method), MODES.index(row.mode), row.seed),
    )
    groups = [list(of) for _, of in groupby(draws, lambda row: (row.method, row.mode))]
    return [row for of in groups for row in (mean_row(of), *of)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, nargs="+", default=list(range(10)), help="of labels, by number")
    parser.add_argument("--steps", type=int, help="of a training, instead of the recipes'; to try it: --dry")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of a test; to try it: --dry")
    parser.add_argument("--recipes", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--out", type=Path, default=Path("runs/label-splits"), help="folder of the trainings")
    parser.add_argument("--dry", action="store_true", help="train and measure, but write no results")
    options = parser.parse_args()
    if (options.steps or options.episodes != EPISODES) and not options.dry:
        parser.error("--steps and --episodes are for trying it out: add --dry, as a draw is measured once")
    keep_freed_memory()
    options.out.mkdir(parents=True, exist_ok=True)
    for draw, name in product(options.draws, options.recipes):
        if not options.dry and any((row.method, row.seed) == (name, draw) for row in read(BENCHMARK)):
            continue
        new = measure(name, draw, options.steps, options.episodes, options.out)
        print(f"draw {draw}, {name}: {new[0].value:.2f} %", flush=True)
        if not options.dry:
            write(BENCHMARK, with_means([*read(BENCHMARK), *new]))


if __name__ == "__main__":
    main()
