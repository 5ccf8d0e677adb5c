"""Accuracy of every model that ships, re-measured on the test tasks of its recipe, beside its paper.

Inductive and transductive figures are rows of their own. The paper's figure stands beside the one of the
mode in which the paper measured. Models left out by --models keep their rows.
"""

import argparse
import math
from collections.abc import Iterable

from benchmarks.rows import Row, read, write
from quickstudy.cli.terminal import Terminal
from quickstudy.core.checkpoint import Manifest
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.scores import Score
from quickstudy.recipes import weights


def measure(name: str, episodes: int, seed: int) -> list[Row]:
    """All test figures of one model, in %.

    Args:
        name: of a shipped model, or a checkpoint.
        episodes: test tasks for each figure.
        seed: of the tasks.
    """
    learner, manifest = weights.load_learner(name)
    recipe = weights.recipe_of(manifest)
    scores = recipe.test(
        learner,
        display=Terminal(),
        count=episodes,
        modes=("inductive", "transductive"),
        seed=seed,
    )
    return rows_of(name, manifest, scores)


def rows_of(name: str, manifest: Manifest, scores: Iterable[Score]) -> list[Row]:
    """Rows of a model's test figures, in %."""
    recipe = weights.recipe_of(manifest)
    return [
        Row(
            benchmark="accuracy",
            method=name,
            dataset=manifest["data"]["name"].split(".")[0],
            split="test",
            setting=score.setting,
            mode=score.mode,
            metric="accuracy %",
            value=100 * score.accuracy,
            ci95=100 * score.ci95 if math.isfinite(score.ci95) else None,
            n=score.episodes,
            seed=score.seed,
            paper=recipe.published.get(score.setting) if score.mode == recipe.mode else None,
            minutes=manifest["training"]["minutes"],
        )
        for score in scores
    ]


def merged(old: Iterable[Row], new: Iterable[Row], shipped: Iterable[str]) -> list[Row]:
    """The new rows, and the old ones of shipped models that were not measured again."""
    new, shipped = list(new), set(shipped)
    again = {row.method for row in new}
    return [row for row in old if row.method in shipped - again] + new


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="instead of all that ship")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keep_freed_memory()
    shipped = weights.models()
    names = options.models or list(shipped)
    if not names:
        parser.exit(1, "no models ship with this version: name a checkpoint with --models\n")
    rows = [row for name in names for row in measure(name, options.episodes, options.seed)]
    for row in rows:
        print(f"{row.method} {row.setting} {row.mode}: {row.value:.2f} ± {row.ci95 or 0:.2f} %")
    write("accuracy", merged(read("accuracy"), rows, shipped))


if __name__ == "__main__":
    main()
