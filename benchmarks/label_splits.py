"""Semi-supervised prototypical networks with a tenth of the labels, over several draws of which tenth.

For each draw and each recipe a network is trained and tested, on the test characters, with their labels
drawn alike. The figure is the mean over the draws, its interval that of the draws, as in the paper (ten
draws). A draw that was measured before is not trained again: its figures lie in --out.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.rows import Row, write
from quickstudy import experiment
from quickstudy.checkpoint import write_whole
from quickstudy.display import Terminal
from quickstudy.memory import keep_freed_memory
from quickstudy.metrics import mean_ci95
from quickstudy.recipes import RECIPES
from quickstudy.train import Mode

NAMES = (
    "tenth-omniglot",
    "soft-omniglot",
    "soft-omniglot-distractors",
    "cluster-omniglot-distractors",
    "masked-omniglot-distractors",
)
MODES: tuple[Mode, Mode] = ("inductive", "transductive")


def measure(name: str, draw: int, steps: int | None, episodes: int, out: Path) -> dict[str, float]:
    """Accuracy by mode, and minutes of training, of one recipe with one draw of labels."""
    done = out / f"{name}-{draw}.json"
    key = {"steps": steps, "episodes": episodes}
    if done.exists() and (found := json.loads(done.read_text())).pop("of") == key:
        return found
    fabric = experiment.launch("cpu", 1, RECIPES[name]().precision)
    learner, progress = experiment.train(
        name,
        {"label_seed": draw},
        out / f"{name}-{draw}",
        display=Terminal(),
        fabric=fabric,
        steps=steps,
        seed=draw,
        resume=True,
    )
    recipe = RECIPES[name](label_seed=draw)
    scores = experiment.measure(recipe, learner, display=Terminal(), episodes=episodes, modes=MODES)
    figures = {score.mode: score.accuracy for score in scores} | {"minutes": progress.seconds / 60}
    write_whole(done, json.dumps(figures | {"of": key}).encode())
    return figures


def rows_of(name: str, draws: list[dict[str, float]]) -> list[Row]:
    """A row a mode."""
    recipe = RECIPES[name]()
    rows: list[Row] = []
    for mode in MODES:
        accuracy, ci95 = mean_ci95(torch.tensor([figures[mode] for figures in draws]))
        rows.append(
            Row(
                benchmark="label_splits",
                method=name,
                dataset="omniglot-vinyals",
                split="test",
                setting=f"5w1s, a tenth labelled, {len(draws)} draw{'s' * (len(draws) > 1)}",
                mode=mode,
                metric="accuracy %",
                value=100 * accuracy,
                ci95=100 * ci95 if len(draws) > 1 else None,
                n=len(draws),
                seed=0,
                paper=recipe.published["5w1s"] if mode == recipe.mode else None,
                minutes=sum(figures["minutes"] for figures in draws),
            )
        )
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10, help="of labels")
    parser.add_argument("--steps", type=int, help="of a training, instead of the recipes'")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--recipes", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--out", type=Path, default=Path("runs/label-splits"), help="folder of the trainings")
    parser.add_argument("--dry", action="store_true", help="train and measure, but write no results")
    options = parser.parse_args()
    keep_freed_memory()
    options.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in options.recipes}
    for draw in range(options.draws):
        for name in options.recipes:
            of = measure(name, draw, options.steps, options.episodes, options.out)
            figures[name].append(of)
            print(f"draw {draw}, {name}: {100 * of['inductive']:.2f} %", flush=True)
    if not options.dry:
        write("label_splits", [row for name, draws in figures.items() for row in rows_of(name, draws)])


if __name__ == "__main__":
    main()
