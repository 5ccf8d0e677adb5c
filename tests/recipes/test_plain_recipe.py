"""A recipe of batches: trained, resumed, found again and used by every command, as recipes of tasks are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quickstudy.cli.terminal import Terminal
from quickstudy.core import checkpoint
from quickstudy.data.augment.images import RandomHorizontalFlip
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import BatchSize, LabelFraction, Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.plain import PlainClassifier
from quickstudy.recipes.recipe import Recipe
from quickstudy.recipes.weights import load_learner
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
    def trained(out: Path, **options) -> None:
        plain().run(
            out, name="p", arguments={}, options=options, display=Terminal(quiet=True), fabric=launch("cpu")
        )

    trained(tmp_path / "whole")
    trained(tmp_path / "parts", minutes=1e-9)
    assert checkpoint.load(tmp_path / "parts" / "last.safetensors")[1]["progress"]["step"] == 1
    trained(tmp_path / "parts", resume=True)
    same_result(tmp_path / "whole", tmp_path / "parts")


def test_what_does_not_go_with_batches_is_refused(run: Run, tmp_path: Path) -> None:
    train = "train mine.py:plain --accelerator cpu --out r"
    refused(run(f"{train} --tasks 3"), "learns from batches of 20 items, not from tasks", "leave tasks out")
    refused(run(f"{train} --set trainval=true"), "tells 12 classes apart, but 18 are trained on", "trainval")
    assert not (tmp_path / "r").exists()
    labelled = replace(plain(), labels=LabelFraction(0.5))
    with pytest.raises(ValueError, match="labels does not go with batches of all classes"):
        labelled.run(
            tmp_path / "r",
            name="p",
            arguments={},
            options={},
            display=Terminal(quiet=True),
            fabric=launch("cpu"),
        )
    with pytest.raises(ValueError, match="batch_size is 0: it must be at least 1"):
        BatchSize(0)
