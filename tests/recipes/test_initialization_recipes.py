"""Each recipe of a learned initialization: begun, stopped, resumed and measured, in a few steps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quickstudy.cli.terminal import Terminal
from quickstudy.core.checkpoint import load
from quickstudy.core.inner_loop import InnerLoop
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.initialization.maml import MAML
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.recipe import Recipe
from quickstudy.training.launch import launch

STATED = {
    # tasks in all, and the settings of the tests
    "maml-plus-plus-omniglot": (160_000, ["5w1s"]),
    "maml-plus-plus-omniglot-5shot": (52_000, ["5w5s"]),
    "maml-plus-plus-omniglot-20way": (100_000, ["20w1s"]),
    "maml-omniglot-20way": (480_000, ["20w1s"]),
    "maml-omniglot-20way-random": (240_000, ["20w1s"]),
    "maml-omniglot-5way-5shot": (120_000, ["5w5s"]),
    "maml-omniglot-20way-5shot": (120_000, ["20w5s"]),
    "maml-cifar-fs": (152_000, ["5w1s"]),
    "fomaml-omniglot-20way": (104_000, ["20w1s"]),
    "meta-sgd-omniglot-20way": (240_000, ["20w1s"]),
    "reptile-omniglot-20way": (120_000, ["20w1s", "20w5s"]),
}


def stated(name: str) -> Recipe:
    recipe: Any = RECIPES[name]()
    return recipe


def small_pool(channels: int, size: int) -> ClassPool:
    """Sixty classes of noise, as large as the recipe's pictures."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60 * 20, channels, size, size), dtype=np.uint8)
    pool = ClassPool.from_grouped(x, [f"class {i:02}" for i in range(60)], [20] * 60, name="noise")
    splits = {part: np.arange(20) + 20 * i for i, part in enumerate(("train", "validation", "test"))}
    return replace(pool, splits=splits)


def small(name: str) -> Recipe:
    """The recipe, with a pool of noise and few tasks."""
    recipe = stated(name)
    form: Any = recipe.item_format

    def pool(*, root: object = None, progress: object = None) -> ClassPool:
        return small_pool(form.channels, form.size)

    def learner() -> InnerLoop:
        made: Any = recipe.learner()
        made.test_steps = min(made.test_steps, 5)  # Reptile's are 50
        return made

    return replace(recipe, pool=pool, learner=learner, every=1, validation_episodes=1, precision="32-true")


@pytest.mark.parametrize("name", STATED)
def test_what_it_states(name: str) -> None:
    recipe = stated(name)
    tasks, settings = STATED[name]
    assert recipe.tasks * recipe.steps == tasks
    assert [str(s) for s in recipe.tests] == settings
    assert set(recipe.published) == set(settings)
    if not name.startswith("reptile"):
        assert isinstance(recipe.train, Setting)
        assert recipe.train.queries == 1
        assert 8 <= recipe.tasks <= 32
    if "plus-plus" in name:
        assert "ensemble" in recipe.paper
        rate = recipe.schedule(recipe.steps)
        assert recipe.lr * rate(0) == pytest.approx(1e-3)
        assert recipe.lr * rate(recipe.steps) == pytest.approx(1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", STATED)
def test_it_is_stopped_resumed_and_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quickstudy.recipes.recipe.TASKS", 1)  # in a meta-batch of validation and test
    recipe, display, fabric = small(name), Terminal(), launch("cpu")

    def run(out: Path, **options: Any) -> Any:
        asked: Any = {"steps": 2, "tasks": 1} | options
        return recipe.run(out, name=name, arguments={}, options=asked, display=display, fabric=fabric)

    run(tmp_path / "whole")
    _, stopped = run(tmp_path / "parts", minutes=1e-9)
    assert (stopped.step, stopped.stopped) == (1, "minutes")
    learner, done = run(tmp_path / "parts", resume=True)
    assert (done.step, done.stopped) == (2, "finished")
    whole, parts = (load(tmp_path / folder / "best.safetensors")[0] for folder in ("whole", "parts"))
    assert all(np.array_equal(whole[k], parts[k]) for k in whole)
    scores = recipe.test(learner, count=1, display=display, modes=("authors",))
    assert [s.setting for s in scores] == STATED[name][1]


PARTS: dict[str, Callable[[MAML], bool]] = {
    "none": lambda m: m.rates is None and m.norms is None and not m.multi_step_until,
    "rates": lambda m: m.rates is not None and m.norms is None,
    "losses": lambda m: m.multi_step_until == 125 and m.rates is None,
    "norms": lambda m: m.norms is not None and m.rates is None,
    "order": lambda m: m.first_order_until == 625,
    "all": lambda m: m.rates is not None and m.norms is not None and m.multi_step_until == 125,
}


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_of_maml_plus_plus_one_by_one(part: str) -> None:
    recipe: Any = RECIPES["maml-plus-plus-part-omniglot"](part=part)
    learner = recipe.learner()
    assert isinstance(learner, MAML)
    assert PARTS[part](learner)
    assert learner.steps == 5
    assert recipe.tasks * recipe.steps == 20_000


def test_a_part_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="part is 'lslr': choose one of none, rates, losses"):
        RECIPES["maml-plus-plus-part-omniglot"](part="lslr")
