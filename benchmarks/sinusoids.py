"""Sinusoid regression: mean squared error on unseen sinusoids after each number of inner steps.

MAML, Meta-SGD and Reptile beside a network pre-trained on all tasks, with 5 and 10 points. Draws the pictures
of docs/methods/initialisation.md when asked to.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.rows import Row, write
from quickstudy.cli.terminal import Terminal
from quickstudy.core.scores import mean_ci95
from quickstudy.data.datasets.sinusoids import Sinusoids
from quickstudy.initialization import plots
from quickstudy.recipes import sinusoids

STEPS = (0, 1, 5, 10)
TASKS = 600


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=15_000, help="meta-batches of 25 tasks")
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=Path, help="folder to draw into, of the most shots")
    options = parser.parse_args()
    rows: list[Row] = []
    for shots in sorted(options.shots):
        learners, errors = {}, {}
        for name in sinusoids.CONTESTANTS:
            started = time.perf_counter()
            with Terminal().training(options.steps) as report:
                learners[name] = sinusoids.train(name, shots, options.steps, options.seed, report)
            minutes = (time.perf_counter() - started) / 60
            errors[name] = sinusoids.errors(learners[name], shots, TASKS, max(STEPS))
            row = partial(
                Row,
                benchmark="sinusoids",
                method=name,
                dataset="sinusoids",
                setting=f"{shots} points",
                n=TASKS,
                seed=options.seed,
                minutes=minutes,
            )
            for k in STEPS:
                e = errors[name][k]
                mean, ci95 = mean_ci95(e)
                diverges = not mean < 100
                print(f"{shots} points, {name}, {k} steps: {mean:.4f} ± {ci95:.4f}")
                rows.append(
                    row(
                        metric=f"mean squared error, {k} steps",
                        value=None if diverges else mean,
                        ci95=None if diverges else ci95,
                    )
                )
        if options.pictures and shots == max(options.shots):
            one, x = Sinusoids(shots, 1, 1, sinusoids.SINUSOID_TEST_SEED), torch.linspace(-5, 5, 200)
            fits = {n: sinusoids.fits(made, one[0], x, STEPS)[:, 0, :, 0] for n, made in learners.items()}
            figure = plots.sinusoid_fits(one[0], one.curves(0, x)[0], x, fits, STEPS)
            figure.savefig(options.pictures / "sinusoid.png", dpi=100)
            plots.sinusoid_errors(errors).savefig(options.pictures / "sinusoid-errors.png", dpi=100)
    write("sinusoids", rows)


if __name__ == "__main__":
    main()
