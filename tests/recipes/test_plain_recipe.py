"""A recipe of batches: trained, resumed, found again and used by every command, as recipes of tasks are."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quickstudy.cli.terminal import Terminal
from quickstudy.core import checkpoint
from quickstudy.data.augment.images import RandomHorizontalFlip
from quickstudy.data.batches import LabelledBatches
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import BatchSize, LabelFraction, Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.heads import nearest_prototype
from quickstudy.metric.plain import PlainClassifier
from quickstudy.metric.prototypical import Prototypical
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.recipe import Recipe
from quickstudy.recipes.weights import load_learner
from quickstudy.training.fit import fit
from quickstudy.training.launch import launch
from quickstudy.training.schedules import cosine_schedule
from tests.cli.test_cli import Run, call, draw, fresh_machine, refused
from tests.support.pools import noisy_pool
from tests.training.test_fit import same_result

MINE = "from tests.recipes.test_plain_recipe import plain\n"


def pool(*, root=None, progress=None) -> ClassPool:
    splits = {"train": np.arange(12), "validation": np.arange(12, 18), "test": np.arange(18, 24)}
    return replace(noisy_pool(24), splits=splits, name="noisy")


def plain() -> Recipe:
    """Twelve classes."""
    return Recipe(
        summary="plain",
        paper="none",
        pool=pool,
        item_format=ImageFormat(16, 1),
        learner=lambda: PlainClassifier(Conv4(1, 8), 12, 8),
        train=BatchSize(20),
        augment=RandomHorizontalFlip(),
        steps=6,
        every=2,
        schedule=cosine_schedule,
        validation=Setting(5, 1, 3),
        validation_episodes=4,
        tests=(Setting(5, 1, 3),),
    )


def run_here(out: Path, recipe: Recipe | None = None, **options: Any) -> Any:
    made, _ = (recipe or plain()).run(
        out, name="p", arguments={}, options=options, display=Terminal(quiet=True), fabric=launch("cpu")
    )
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    fresh_machine(tmp_path, monkeypatch)
    (tmp_path / "mine.py").write_text(MINE)
    return call


def test_every_command_takes_it(run: Run, tmp_path: Path) -> None:
    train = "train mine.py:plain --test-episodes 4 --accelerator cpu"
    done = run(f"{train} --out whole --set clip=1 --lr 0.01")
    assert done.code == 0, done.err
    manifest = checkpoint.load(tmp_path / "whole" / "best.safetensors")[1]
    assert manifest["train"] == {"batch_size": 20, "steps": 6, "lr": 0.01, "clip": 1.0}
    assert manifest["fit"]["train"]["batch_size"] == 20
    assert len(manifest["classes"]["train"]) == 12
    mine = "whole --recipe mine.py:plain"
    evaluated = run(f"evaluate {mine} --episodes 4 --mode both --json")
    assert evaluated.code == 0, evaluated.err
    assert [f["mode"] for f in json.loads(evaluated.out)] == ["inductive", "transductive"]
    assert isinstance(load_learner("whole", recipe="mine.py:plain")[0], PlainClassifier)
    draw(tmp_path / "pics")
    assert run(f"predict {mine} --support pics --query pics/'class 01 (é)'/03.png").code == 0
    assert run(f"plot {mine} --out drawn").code == 0
    assert (tmp_path / "drawn" / "embedding.png").exists()
    started = run(f"{train} --out started --steps 2 --set start=whole")
    assert started.code == 1
    assert "name it by --recipe" in started.err, "as any recipe of one's own"


def test_a_stop_changes_nothing(tmp_path: Path) -> None:
    run_here(tmp_path / "whole")
    run_here(tmp_path / "parts", minutes=1e-9)
    assert checkpoint.load(tmp_path / "parts" / "last.safetensors")[1]["progress"]["step"] == 1
    run_here(tmp_path / "parts", resume=True)
    same_result(tmp_path / "whole", tmp_path / "parts")


def test_what_does_not_go_with_batches_is_refused(run: Run, tmp_path: Path) -> None:
    train = "train mine.py:plain --accelerator cpu --out r"
    refused(run(f"{train} --tasks 3"), "learns from batches of 20 items, not from tasks", "leave tasks out")
    refused(run(f"{train} --set trainval=true"), "tells 12 classes apart, but 18 are trained on", "trainval")
    assert not (tmp_path / "r").exists()
    labelled = replace(plain(), labels=LabelFraction(0.5))
    with pytest.raises(ValueError, match="labels does not go with batches of all classes"):
        run_here(tmp_path / "r", labelled)
    with pytest.raises(ValueError, match="batch_size is 0: it must be at least 1"):
        BatchSize(0)


NAMES = [name for name in RECIPES if name.startswith(("plain-", "baseline-plus-plus-"))]


@pytest.mark.parametrize("name", NAMES)
def test_the_recipes_fit_their_data(name: str, real_data: Callable[[str], Path]) -> None:
    recipe = RECIPES[name]()
    pool = recipe.pool(root=real_data("cifar100"))
    train, learner = pool.split("train"), recipe.learner()
    learner.check_classes(len(train))
    assert recipe.steps == 60 * len(train.indices) // 64, "epochs"
    batches = LabelledBatches(train, recipe.train.batch_size, augment=recipe.augment)
    loss = learner(batches[0])
    assert loss.item() == pytest.approx(np.log(len(train)), rel=0.2)
    with torch.no_grad():
        assert learner.encoder(batches[1].x[:2]).shape == (2, learner.linear.in_features)
    rate = [recipe.schedule(recipe.steps)(i) for i in range(recipe.steps)]
    assert rate.index(max(rate)) + 1 == pytest.approx(recipe.steps / 5, abs=1)
    assert rate[-1] < 1e-6


def test_it_begins_with_the_encoder_of_a_training_on_tasks(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = Prototypical(Conv4(1, 8))
    fit(before, Episodes(pool().split("train"), Setting(5, 1, 3)), 1, out=tmp_path / "before")
    options = {"start": tmp_path / "before", "lr": 1e-9, "steps": 1}
    trained = run_here(tmp_path / "after", **options)
    torch.testing.assert_close(trained.encoder.convs[0].weight, before.encoder.convs[0].weight)
    trained.head = nearest_prototype
    scores = plain().test(trained, count=4, display=Terminal(quiet=True))
    assert [(s.setting, s.mode) for s in scores] == [("5w1s", "inductive")], (
        "another head for the same weights"
    )
