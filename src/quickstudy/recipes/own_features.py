"""Learning from embeddings that somebody has made, in a file."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quickstudy.core.learner import Learner
from quickstudy.data.datasets.features import dimensions_of, feature_file
from quickstudy.data.formats.features import FeatureFormat
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.data.splits import FRACTIONS
from quickstudy.metric.prototypical import Prototypical
from quickstudy.recipes.recipe import Recipe
from quickstudy.training.schedules import cosine_schedule


def prototypical_features(
    features: str | Path,
    labels: str | None = None,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    split: str | Path | Sequence[float] = FRACTIONS,
    dimensions: int | None = None,
) -> Recipe:
    """Prototypical networks on embeddings: a linear map of them, which begins as the identity.

    Args:
        features: File of embeddings and labels, .npz, .parquet, or .npy with the labels in another file.
        labels: Name of the array or column of labels; for .npy their file.
        ways: Classes of a task, in training and test.
        shots: Support items of each class.
        queries: Query items of each class.
        split: Fractions of the classes for training, validation and test, a JSON file of their names, or the
            array or column that says the split of each item.
        dimensions: Length of an embedding, for a checkpoint whose file is gone; by default as in the file.
    """
    size = dimensions or dimensions_of(features, labels)

    def learner() -> Learner:
        encoder = nn.Linear(size, size)
        with torch.no_grad():
            encoder.weight.copy_(torch.eye(size))
            encoder.bias.zero_()
        return Prototypical(encoder)

    def pool(**_: Any) -> ClassPool:
        return feature_file(features, labels, split=split)

    setting = Setting(ways, shots, queries)
    return Recipe(
        summary="your own embeddings, --set features=FILE",
        paper="your data",
        pool=pool,
        item_format=FeatureFormat(size),
        learner=learner,
        train=setting,
        tasks=16,
        steps=1000,
        schedule=partial(cosine_schedule, warmup=50),
        lr=1e-4,
        validation=setting,
        validation_episodes=500,
        every=100,
        tests=(setting,),
    )
