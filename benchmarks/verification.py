"""Siamese networks beyond accuracy: how well they tell pairs, and the within-alphabet trials of Koch.

All genuine pairs of 100 tasks of test classes (20w1s with 5 queries), and as many impostor pairs; the
intervals are over 20 parts of as many tasks. Of `siamese-omniglot-lake` also 20-way one-shot trials within
the alphabets of Omniglot's evaluation set, which it has never seen: the first 400 trials, as many as Koch's,
and 4,000. Checkpoints in runs/NAME stand in for models that don't ship, and rows say it of those that were
trained on the validation classes too:

    quickstudy train siamese-omniglot-lake --set trainval=true
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import Row, kept, write
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.modes import Mode
from quickstudy.core.scores import mean_ci95
from quickstudy.data.datasets.alphabets import WithinAlphabets
from quickstudy.data.datasets.omniglot import omniglot
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.metric import plots
from quickstudy.metric.siamese import Siamese
from quickstudy.metric.verification import verify
from quickstudy.recipes import weights
from quickstudy.training.evaluate import evaluate

VINYALS, LAKE = "siamese-omniglot", "siamese-omniglot-lake"
PAIR_SETTING, PAIR_TASKS, PARTS = Setting(20, 1, 5), 100, 20
RUNS = (20, 200)
"""Of 20 trials each."""
KOCH = 92.0
MODES: tuple[Mode, Mode] = ("inductive", "transductive")


def pair_rows(
    name: str, learner: Siamese, trained: dict[str, Any], seed: int, pictures: Path | None
) -> list[Row]:
    """Verification figures of test classes, in %."""
    pool = weights.recipe_of({"recipe": name, "arguments": {}}).pool().split("test")
    rows: list[Row] = []
    for mode in MODES:
        whole = verify(learner, Episodes(pool, PAIR_SETTING, 1, seed), PAIR_TASKS, mode)
        if pictures and mode == "inductive":
            plots.plot_roc(whole, pictures / "siamese-roc.png", "pairs of unseen characters")
        each = [
            verify(learner, Episodes(pool, PAIR_SETTING, 1, seed + 1 + i), PAIR_TASKS // PARTS, mode)
            for i in range(PARTS)
        ]
        figures = {
            "EER %": (whole.eer, [v.eer for v in each]),
            "AUC %": (whole.auc, [v.auc for v in each]),
            **{
                f"TAR % at FAR {100 * far:g} %": (tar, [v.tar[far] for v in each])
                for far, tar in whole.tar.items()
            },
        }
        for metric, (value, parts) in figures.items():
            _, ci95 = mean_ci95(torch.tensor(parts))
            rows.append(
                Row(
                    benchmark="verification",
                    dataset=pool.name.split(".")[0],
                    split="test",
                    setting=f"{whole.genuine:,} genuine and as many impostor pairs",
                    mode=mode,
                    metric=metric,
                    value=100 * value,
                    ci95=100 * ci95,
                    n=PAIR_TASKS,
                    seed=seed,
                    **trained,
                )
            )
    return rows


def upright(split: str) -> ClassPool:
    """Characters of the Lake split, none turned by 90° or more, as the network of their recipe takes them."""
    form = weights.recipe_of({"recipe": LAKE, "arguments": {}}).item_format
    assert isinstance(form, ImageFormat)
    return omniglot(size=form.size, split="lake", rotations=False).split(split)


def trial_rows(learner: Siamese, trained: dict[str, Any], seed: int) -> list[Row]:
    """Accuracy within alphabets, in %."""
    pool = upright("test")
    row = partial(Row, benchmark="verification", dataset="omniglot-lake", split="test", seed=seed, **trained)
    rows: list[Row] = []
    for runs in RUNS:
        for mode in MODES:
            score = evaluate(learner, WithinAlphabets(pool, seed=seed), runs, mode)
            rows.append(
                row(
                    setting=f"{score.setting}, {20 * runs:,} trials",
                    mode=mode,
                    metric="accuracy %",
                    value=100 * score.accuracy,
                    ci95=100 * score.ci95,
                    n=runs,
                    paper=KOCH if mode == "inductive" else None,
                )
            )
    return rows


def load(name: str) -> tuple[Siamese, dict[str, Any]]:
    """A model, and what its rows say of its training."""
    try:
        learner, manifest = weights.load_learner(name if name in weights.models() else Path("runs") / name)
    except FileNotFoundError as error:
        raise SystemExit(f"{error}; quickstudy train {name} makes it") from None
    if not isinstance(learner, Siamese):
        raise SystemExit(f"{name} is not a Siamese network")
    method = f"{name} --trainval" if manifest.get("trainval") else name
    return learner, {"method": method, "minutes": manifest["training"]["minutes"]}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", nargs="+", choices=(VINYALS, LAKE), default=[VINYALS, LAKE])
    parser.add_argument("--pictures", type=Path, help="folder to draw the ROC curve into")
    options = parser.parse_args()
    keep_freed_memory()
    rows: list[Row] = []
    for name in options.models:
        learner, trained = load(name)
        pictures = options.pictures if name == VINYALS else None
        rows += pair_rows(name, learner, trained, options.seed, pictures)
        if name == LAKE:
            rows += trial_rows(learner, trained, options.seed)
    for row in rows:
        print(f"{row.method} {row.setting} {row.mode}: {row.metric} {row.value:.2f} ± {row.ci95 or 0:.2f}")
    write("verification", [*kept("verification", rows), *rows])


if __name__ == "__main__":
    main()
