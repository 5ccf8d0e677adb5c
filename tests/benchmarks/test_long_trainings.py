"""Each long training, a few steps of it on random pictures: stopped, resumed, measured and found again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.trainings import GROUPS, Training
from quickstudy.cli.terminal import Terminal
from quickstudy.core import checkpoint
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import BatchSize
from quickstudy.recipes.recipe import Recipe
from quickstudy.recipes.sources import recipe_source
from quickstudy.recipes.weights import load_learner
from quickstudy.training.launch import launch
from tests.training.test_fit import same_result

TRAININGS = [training for group in GROUPS.values() for training in group if not training.seed]


def random_pictures(recipe: Recipe) -> ClassPool:
    """As many classes as the recipe trains, validates and tests on at most, of twenty pictures each."""
    train = getattr(recipe.learner(), "classes", 60)
    bounds = [0, train, train + 20, train + 40]
    rng = np.random.default_rng(0)
    items = rng.integers(0, 256, (bounds[-1] * 20, *recipe.item_format.shape)).astype(np.uint8)
    named = zip(("train", "validation", "test"), bounds[:-1], bounds[1:], strict=True)
    return ClassPool.from_grouped(
        items,
        [f"c{i}" for i in range(bounds[-1])],
        [20] * bounds[-1],
        splits={name: np.arange(a, b) for name, a, b in named},
        name="random",
    )


def start_with(name: str, out: Path) -> None:
    """A training of one step, which others begin with."""
    stated: Any = recipe_source(name).state({})
    pool = random_pictures(stated)
    few = replace(
        stated, pool=lambda **_: pool, steps=1, validation_episodes=1, precision="32-true", train=BatchSize(4)
    )
    few.run(out, name=name, arguments={}, options={}, display=Terminal(quiet=True), fabric=launch("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS, ids=[training.name for training in TRAININGS])
def test_it_is_stopped_resumed_measured_and_found_again(training: Training, tmp_path: Path) -> None:
    arguments = dict(setting.split("=") for setting in training.settings)
    stated: Any = recipe_source(training.recipe).state(arguments)
    pool = random_pictures(stated)

    def loaded(*, root: Any = None, progress: Any = None) -> ClassPool:
        return pool

    few = replace(stated, pool=loaded, tasks=1, steps=3, every=2, validation_episodes=1, precision="32-true")

    def trained(out: Path, **options: Any) -> Any:
        return few.run(
            out,
            name=training.recipe,
            arguments=arguments,
            options=options,
            display=Terminal(quiet=True),
            fabric=launch("cpu"),
        )

    if first := getattr(stated, "begins_with", None):
        start_with(first, tmp_path / first)
    learner, _ = trained(tmp_path / "whole")
    trained(tmp_path / "parts", minutes=1e-9)
    assert checkpoint.load(tmp_path / "parts" / "last.safetensors")[1]["progress"]["step"] == 1
    trained(tmp_path / "parts", resume=True)
    same_result(tmp_path / "whole", tmp_path / "parts")

    scores = few.test(learner, count=1, display=Terminal(quiet=True), modes=(few.mode,))
    assert {s.setting for s in scores} >= set(few.published)
    found = load_learner(tmp_path / "whole")[0]
    weights = learner.state_dict()
    assert all(torch.equal(w, weights[k]) for k, w in found.state_dict().items())
