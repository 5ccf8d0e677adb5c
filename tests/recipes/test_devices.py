"""Learners of all recipes keep to one device; shown without a GPU, on `meta`.

Torch refuses most operations on tensors of `meta` and of the CPU together, as it does of a GPU and the CPU,
and what is not on the CPU takes the library's paths for accelerators.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from quickstudy.core.episode import Episode, LabelledBatch, Support
from quickstudy.core.learner import Learner, batch_statistics
from quickstudy.data.setting import BatchSize
from quickstudy.metric.plain import PlainClassifier
from quickstudy.optimizer.rule_learner import RuleLearner
from quickstudy.optimizer.truncation import ProblemSeeds
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.recipe import Recipe
from quickstudy.recipes.sources import recipe_source


@pytest.fixture(autouse=True)
def autocast_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` has no autocast; that of the CPU, which is off, stands for it."""
    enabled = torch.is_autocast_enabled

    class OfTheCPU(torch.autocast):
        def __init__(self, device: str, *of: Any, **how: Any) -> None:
            super().__init__("cpu" if device == "meta" else device, *of, **how)

    monkeypatch.setattr(torch, "autocast", OfTheCPU)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda d: enabled("cpu" if d == "meta" else d))


def stated(name: str) -> Any:
    return recipe_source(name).example()


def episode(recipe: Recipe, device: str) -> Episode:
    shape = recipe.item_format.shape
    s = (recipe.tests[0] if isinstance(recipe.train, BatchSize) else recipe.train).most

    def items(n: int) -> torch.Tensor:
        return torch.zeros(2, n, *shape, device=device)

    def labels(n: int) -> torch.Tensor:
        return torch.arange(s.ways, device=device).repeat_interleave(n).expand(2, -1)

    unlabelled = items((s.ways + s.distractors) * s.unlabelled)
    support = Support(items(s.ways * s.shots), labels(s.shots), s.ways, unlabelled)
    return Episode(support, items(s.ways * s.queries), labels(s.queries))


def batch(recipe: Recipe, learner: PlainClassifier, device: str) -> LabelledBatch:
    x = torch.zeros(2, *recipe.item_format.shape, device=device)
    return LabelledBatch(x, torch.zeros(2, dtype=torch.long, device=device), learner.classes)


@contextmanager
def but_for_waiting() -> Generator[None]:
    """Ends where the library looks at a number, for which a GPU would be waited for."""
    try:
        yield
    except RuntimeError as error:
        if "cannot be called on meta tensors" not in str(error) and "out of meta tensor" not in str(error):
            raise


@pytest.mark.medium
@pytest.mark.parametrize("name", [name for name in RECIPES if isinstance(stated(name), Recipe)])
def test_a_learner_keeps_to_its_device(name: str) -> None:
    recipe = stated(name)
    learner: Learner = recipe.learner().to("meta").train()
    drawn = episode(recipe, "meta")
    with but_for_waiting():
        loss = learner(batch(recipe, learner, "meta") if isinstance(learner, PlainClassifier) else drawn)
        loss.backward()
        assert loss.is_meta
        assert all(p.grad is None or p.grad.is_meta for p in learner.parameters())
    learner.eval()
    with torch.no_grad(), but_for_waiting():
        assert learner.predict(drawn.support, drawn.query_x).is_meta
        with batch_statistics(learner):
            assert learner.predict(drawn.support, drawn.query_x).is_meta


@pytest.mark.medium
@pytest.mark.parametrize("name", ["lstm-optimizer-quadratics", "mlp-optimizer-digits"])
def test_a_rule_keeps_to_its_device_in_training_and_validation(name: str) -> None:
    recipe = replace(stated(name), race=3)
    learner = RuleLearner(recipe.rule(), recipe.family("train"), 4, 2, recipe.horizon).to("meta")
    learner(ProblemSeeds(4).part(0)).backward()
    assert all(p.grad.is_meta for p in learner.parameters() if p.grad is not None)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # only in the end
        recipe.final_loss(learner, recipe.family("validation"), 2, 1)
