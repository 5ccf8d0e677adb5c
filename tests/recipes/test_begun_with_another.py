"""Recipes that begin with the encoder of another recipe's training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quickstudy.cli.terminal import Terminal
from quickstudy.core import checkpoint
from quickstudy.data.setting import Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.feat import FEAT
from quickstudy.metric.meta_baseline import MetaBaseline
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.recipe import Recipe
from quickstudy.recipes.weights import trained_before
from quickstudy.training.launch import launch
from tests.cli.test_cli import call, fresh_machine, refused
from tests.recipes.test_plain_recipe import plain


def begun_with(name: str = "first") -> Recipe:
    """Trained on tasks, for no step worth the name."""
    return replace(
        plain(),
        learner=lambda: MetaBaseline(Conv4(1, 8)),
        train=Setting(5, 1, 3),
        steps=2,
        lr=1e-9,
        begins_with=name,
    )


def run(recipe: Recipe, out: Path, **options: Any) -> Any:
    return recipe.run(
        out, name="p", arguments={}, options=options, display=Terminal(quiet=True), fabric=launch("cpu")
    )[0]


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> nn.Module:
    """The encoder of a training in the folder `first`, of a recipe in the catalogue."""
    monkeypatch.setitem(RECIPES, "p", plain)
    return run(plain(), tmp_path / "first", steps=1).encoder


def test_it_begins_with_the_training_beside_it(first: nn.Module, tmp_path: Path) -> None:
    trained = run(begun_with(), tmp_path / "second")
    torch.testing.assert_close(trained.encoder.convs[0].weight, first.convs[0].weight)
    manifest = checkpoint.load(tmp_path / "second" / "best.safetensors")[1]
    assert manifest["start"] == "p, seed 0, 1 steps"
    other = run(begun_with("nowhere"), tmp_path / "third", start=tmp_path / "first")
    torch.testing.assert_close(other.encoder.convs[0].weight, first.convs[0].weight)


def test_it_is_stopped_and_resumed(first: nn.Module, tmp_path: Path) -> None:
    run(begun_with(), tmp_path / "parts", minutes=1e-9)
    assert checkpoint.load(tmp_path / "parts" / "last.safetensors")[1]["progress"]["step"] == 1
    run(begun_with(), tmp_path / "parts", resume=True)
    assert checkpoint.load(tmp_path / "parts" / "last.safetensors")[1]["progress"]["step"] == 2


def test_where_there_is_none_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"begins with the encoder of first, and there is none at .*second/"):
        run(begun_with(), tmp_path / "second" / "out")
    fresh_machine(tmp_path, monkeypatch)
    monkeypatch.setattr("quickstudy.recipes.weights.models", dict)  # none ships
    for name in ("feat-resnet12-cifar-fs", "meta-baseline-resnet12-cifar-fs"):
        missing = "there is none at runs/plain-resnet12-cifar-fs: train it by quickstudy train plain-resnet12"
        refused(call(f"train {name}"), missing, "--set start=CHECKPOINT")
    assert not (tmp_path / "runs").exists()


def test_a_model_that_ships_is_taken() -> None:
    assert trained_before("plain-conv4-cifar-fs", "nowhere/out") == "plain-conv4-cifar-fs"


@pytest.mark.parametrize("name", ["feat-resnet12-cifar-fs", "meta-baseline-resnet12-cifar-fs"])
def test_the_learners_have_the_encoder_they_begin_with(name: str) -> None:
    recipe: Any = RECIPES[name]()
    learner = recipe.learner()
    assert isinstance(learner, FEAT | MetaBaseline)
    before: Any = RECIPES[recipe.begins_with]()
    learner.encoder.load_state_dict(before.learner().encoder.state_dict())
