"""The recipe of R2-D2, a few steps of it on random pictures: stopped, resumed, measured and found again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quickstudy.cli.terminal import Terminal
from quickstudy.core import checkpoint
from quickstudy.data.pool import ClassPool
from quickstudy.metric import R2D2
from quickstudy.recipes.natural import r2d2_cifar_fs
from quickstudy.recipes.weights import load_learner
from quickstudy.training.launch import launch
from tests.training.test_fit import same_result


def pool(*, root: Any = None, progress: Any = None) -> ClassPool:
    """Twenty classes to train on, five to validate and five to test, of twenty pictures each."""
    items = np.random.default_rng(0).integers(0, 256, (30 * 20, 3, 32, 32)).astype(np.uint8)
    splits = {"train": np.arange(20), "validation": np.arange(20, 25), "test": np.arange(25, 30)}
    return ClassPool.from_arrays(items, [f"c{i}" for i in range(30)], [20] * 30, splits=splits, name="random")


def test_it_is_stopped_resumed_and_measured(tmp_path: Path) -> None:
    stated = replace(r2d2_cifar_fs(), pool=pool, steps=4, every=2, validation_episodes=2, precision="32-true")

    def trained(out: Path, **options: Any) -> Any:
        return stated.run(
            out,
            name="r2d2-cifar-fs",
            arguments={},
            options=options,
            display=Terminal(quiet=True),
            fabric=launch("cpu"),
        )

    learner, _ = trained(tmp_path / "whole")
    trained(tmp_path / "parts", minutes=1e-9)
    manifest = checkpoint.load(tmp_path / "parts" / "last.safetensors")[1]
    assert manifest["progress"]["step"] == 1
    train = {"ways": 20, "shots": 1, "queries": 11, "unlabelled": 0, "distractors": 0, "most_shots": 9}
    assert manifest["train"] == train | {"tasks": 1, "steps": 4, "lr": 5e-3, "clip": None}
    trained(tmp_path / "parts", resume=True)
    same_result(tmp_path / "whole", tmp_path / "parts")
    scores = stated.test(learner, count=2, display=Terminal(quiet=True))
    assert [s.setting for s in scores] == list(stated.published) == ["5w1s", "5w5s"]
    found = load_learner(str(tmp_path / "whole"))[0]
    assert isinstance(found, R2D2)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(found.eval().encoder(x), learner.eval().encoder(x))
