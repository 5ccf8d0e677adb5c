"""Heads on the features of a trained or pretrained encoder: embedded once, then tested on tasks of them."""

import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from quickstudy.core.learner import Learner
from quickstudy.core.scores import Score, data_percent, percent
from quickstudy.data.episodes import Episodes
from quickstudy.data.setting import Setting
from quickstudy.metric.features.catalogue import named_head
from quickstudy.metric.features.normalization import mean_of
from quickstudy.metric.heads import Head
from quickstudy.metric.pretrained_features import PretrainedFeatures
from quickstudy.recipes.experiment import Results
from quickstudy.recipes.recipe import Recipe, clip_ways
from quickstudy.training.evaluate import evaluate
from quickstudy.training.launch import Display

TOGETHER = 64
"""Tasks that a head is given at a time."""


@dataclass(frozen=True)
class HeadScore:
    """What a head came to.

    Args:
        head: Name of the head.
        score: Its accuracy.
        milliseconds: Time a task, from features in memory to the accuracy.
    """

    head: str
    score: Score
    milliseconds: float

    def as_dict(self) -> dict[str, Any]:
        """All fields by name, those of the score among them."""
        return {"head": self.head} | self.score.as_dict() | {"ms a task": round(self.milliseconds, 3)}


@dataclass(frozen=True)
class HeadScores:
    """What several heads came to.

    Args:
        scores: One for each head and setting.
        centered: Heads that took the mean of each task's support, as no training classes were there.
    """

    scores: tuple[HeadScore, ...]
    centered: tuple[str, ...]


def encoder_of(learner: Learner, name: str) -> nn.Module:
    """The encoder of a learner, whose features heads take.

    Args:
        learner: Learner.
        name: Its name, for the message.

    Raises:
        ValueError: If it has none.
    """
    encoder = getattr(learner, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(
            f"{name} is a {type(learner).__name__}, which has no encoder whose features a head could take: "
            "leave --head out, or name a plain classifier or a prototypical network"
        )
    return encoder


def tested_heads(
    recipe: Recipe,
    encoder: nn.Module,
    heads: Sequence[str],
    settings: Sequence[Setting],
    *,
    count: int = 1000,
    seed: int = 0,
    data_root: str | Path | None = None,
    display: Display,
) -> HeadScores:
    """Accuracies of heads on the features of a recipe's test classes, all on the same tasks.

    The test classes are embedded once; the training classes too if a head takes their mean and they are
    there.

    Args:
        recipe: What loads the data, with the split test.
        encoder: Any module from items [B, ...] to features [B, D].
        heads: Names in `HEADS`.
        settings: Settings of the tasks; unlabelled items are left out.
        count: Number of tasks of each setting.
        seed: Seed of the tasks.
        data_root: Folder of the data sets.
        display: Where progress is shown.

    Raises:
        ValueError: If there is no such head, or the tasks can't be drawn.
    """
    chosen = {name: named_head(name) for name in heads}
    with display.counting("decoding") as progress:
        pool = recipe.pool(root=data_root, progress=progress)
    test = pool.split("test")
    drawn = [clip_ways(test, replace(s, unlabelled=0, distractors=0)) for s in settings]
    for classes, setting in drawn:  # what can't be drawn should fail now, not after all is embedded
        Episodes(classes, setting, cross_source=recipe.cross_source)
    with display.counting("embedding test classes") as progress:
        features = test.embedded(encoder, progress=progress)
    asking = [name for name, head in chosen.items() if _takes_mean(head)]
    centered = tuple(asking)
    if asking and "train" in pool.splits and len(pool.splits["train"]):
        with display.counting("embedding training classes") as progress:
            mean = mean_of(pool.split("train").embedded(encoder, progress=progress))
        mean_known: dict[str, Any] = {name: chosen[name] for name in asking}
        chosen |= {name: partial(head, mean=mean) for name, head in mean_known.items()}
        centered = ()
    found: list[HeadScore] = []
    for _, setting in drawn:
        episodes = Episodes(features, setting, TOGETHER, seed, cross_source=recipe.cross_source)
        for name, head in chosen.items():
            learner = PretrainedFeatures(nn.Identity(), head, unit=False)
            with display.counting(f"testing {name} {setting}") as report:
                began = time.perf_counter()
                score = evaluate(learner, episodes, count, report=report)
            found.append(HeadScore(name, score, 1000 * (time.perf_counter() - began) / count))
    return HeadScores(tuple(found), centered)


def head_results(scores: Sequence[HeadScore]) -> Results:
    """Figures of heads as a table.

    Args:
        scores: What the heads came to.
    """
    wide, data = "accuracy % over draws", "over classes and items"
    rows = [
        (
            found.head,
            found.score.setting,
            found.score.mode,
            percent(found.score.accuracy, found.score.ci95),
            data_percent(found.score.data95) if found.score.data95 else "–",
            f"{found.milliseconds:.3g}",
        )
        for found in scores
    ]
    return Results(("head", "setting", "mode", wide, data, "ms a task"), rows, (wide, data, "setting"))


def _takes_mean(head: Head) -> bool:
    return "mean" in inspect.signature(head).parameters
