"""Embeddings in a file, trained on, tested and predicted with, on the command line."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from quickstudy.cli.app import app

DIMENSIONS = 6


def told(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.medium
def test_features_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    middles = 3 * rng.normal(size=(25, 1, DIMENSIONS))
    x = (middles + rng.normal(size=(25, 8, DIMENSIONS))).astype(np.float32)
    y = np.repeat([f"c{i:02}" for i in range(25)], 8)
    np.savez(tmp_path / "all.npz", features=x.reshape(-1, DIMENSIONS), labels=y)
    run = str(tmp_path / "run")
    sizes = [f"{name}={value}" for name, value in (("ways", 3), ("queries", 4))]
    options = [part for s in (f"features={tmp_path / 'all.npz'}", *sizes) for part in ("--set", s)]
    told("train", "prototypical-features", *options, "--steps", "4", "--test-episodes", "10", "--out", run)
    (tmp_path / "all.npz").rename(tmp_path / "others.npz")  # what follows needs it no more
    others = ["--images", str(tmp_path / "others.npz")]
    assert "5w1s" in told("evaluate", run, *others, "--setting", "5w1s", "--queries", "3")
    for c in range(3):
        (tmp_path / "few" / f"c{c}").mkdir(parents=True)
        (tmp_path / "asked").mkdir(exist_ok=True)
        for j in range(3):
            np.save(tmp_path / "few" / f"c{c}" / f"{j}.npy", x[c, j])
        np.save(tmp_path / "asked" / f"{c}.npy", x[c, 7])
    few, asked = str(tmp_path / "few"), str(tmp_path / "asked")
    csv = told("predict", run, "--support", few, "--query", asked, "--format", "csv")
    rows = [line.split(",")[1] for line in csv.splitlines() if ".npy" in line]
    assert rows == ["c0", "c1", "c2"]
