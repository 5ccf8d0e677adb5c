"""Accuracy of every model that ships, re-measured on the test tasks of its recipe, beside its paper.

Inductive and transductive figures are rows of their own, and so are those of mode "authors" (one query a
class, batch norm seeing all of a task) where the paper measured so. The paper's figure stands beside the one
of the mode in which the paper measured. Models left out by --models keep their rows.
"""

import argparse
import math
from collections.abc import Iterable
from typing import Any

from benchmarks.rows import Row, read, write
from quickstudy.cli.terminal import Terminal
from quickstudy.core.checkpoint import Manifest
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.learner import Learner
from quickstudy.core.scores import Score
from quickstudy.recipes import weights
from quickstudy.recipes.recipe import Recipe


def measure(name: str, episodes: int, seed: int, authors: int | None = None) -> list[Row]:
    """All test figures of one model, in %.

    Args:
        name: of a shipped model, or a checkpoint.
        episodes: test tasks for each figure that is inductive or transductive.
        seed: of the tasks.
        authors: test tasks for each figure in mode "authors", as in `scores_of`.
    """
    learner, manifest = weights.load_learner(name)
    return rows_of(name, manifest, scores_of(weights.recipe_of(manifest), learner, episodes, seed, authors))


def scores_of(
    recipe: Recipe, learner: Learner, episodes: int, seed: int = 0, authors: int | None = None
) -> list[Score]:
    """Accuracies on all test settings of a recipe, in every mode that is reported of it.

    Args:
        recipe: that the learner was trained by.
        learner: as it is used after training.
        episodes: test tasks for each figure that is inductive or transductive.
        seed: of the tasks.
        authors: test tasks for each figure in mode "authors", measured where the recipe's mode is that; with
            one query a class it takes more of them: by default 10,000, or 3,000 with 20 ways and more.
    """
    shown = Terminal()
    both = ("inductive", "transductive")
    scores = recipe.test(learner, display=shown, count=episodes, modes=both, seed=seed)
    if recipe.mode == "authors":
        for setting in recipe.tests:
            count = authors or (10_000 if setting.ways < 20 else 3_000)
            of: Any = {"count": count, "seed": seed, "settings": (setting,), "modes": ("authors",)}
            scores += recipe.test(learner, display=shown, **of)
    return scores


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
    parser.add_argument(
        "--authors-episodes",
        type=int,
        help="in mode authors (default: 10,000; 3,000 with 20 ways and more)",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keep_freed_memory()
    shipped = weights.models()
    names = options.models or list(shipped)
    if not names:
        parser.exit(1, "no models ship with this version: name a checkpoint with --models\n")
    asked = options.episodes, options.seed, options.authors_episodes
    rows = [row for name in names for row in measure(name, *asked)]
    for row in rows:
        print(f"{row.method} {row.setting} {row.mode}: {row.value:.2f} ± {row.ci95 or 0:.2f} %")
    write("accuracy", merged(read("accuracy"), rows, shipped))


if __name__ == "__main__":
    main()
