"""Results are whole, tables say what the results say, and the accuracy benchmark measures what it claims."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import accuracy, rows, tables
from benchmarks.rows import Row
from quickstudy import experiment
from quickstudy.data.episodes import Episodes, Setting
from quickstudy.data.images import ImageFormat
from quickstudy.data.pool import ClassPool
from quickstudy.display import Terminal
from quickstudy.encoders import Conv4
from quickstudy.learners.prototypical import Prototypical
from quickstudy.recipes import RECIPES, Recipe
from quickstudy.train import cosine, fit

KEYS = [
    *("benchmark", "method", "dataset", "split", "setting", "mode", "metric", "value", "ci95"),
    *("n", "seed", "paper", "peer", "command", "minutes", "machine", "commit"),
]
TEXTS = {"benchmark", "method", "metric", "command", "machine"}
OPTIONAL_TEXTS = {"dataset", "split", "setting", "mode", "peer", "commit"}
WHOLE = {"n", "seed"}


def assert_sane(row: Mapping[str, Any]) -> None:
    assert list(row) == KEYS
    for key, value in row.items():
        if key in TEXTS:
            assert isinstance(value, str), key
            assert value, key
        elif value is not None:
            kinds = str if key in OPTIONAL_TEXTS else int if key in WHOLE else (int, float)
            assert isinstance(value, kinds), key
    assert re.fullmatch(r".+ [0-9.e+-]+", row["peer"] or "name 1.5")
    assert re.fullmatch(r"[0-9a-f]{7,}\+?", row["commit"] or "0123456")
    # only a goal can be missed, and only an error can grow beyond all bounds
    assert row["value"] is not None or "to" in row["metric"] or row["benchmark"] == "sinusoids"
    assert row["metric"] != "accuracy %" or 0 <= row["value"] <= 100


def a_row(**given: Any) -> Row:
    some: dict[str, Any] = {
        "benchmark": "sampling",
        "method": "quickstudy",
        "metric": "tasks/s",
        "value": 2.0,
    }
    return Row(**(some | given))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, that results and tables are written to."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "DOCS", tmp_path / "docs" / "results.md")
    monkeypatch.setattr(tables, "README", tmp_path / "README.md")
    return tmp_path


def run_tables(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tables", *arguments])
    tables.main()


def test_committed_tables_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    run_tables(monkeypatch, "--check")


def test_committed_rows_are_sane() -> None:
    for path in rows.RESULTS.glob("*.json"):
        for row in json.loads(path.read_text()):
            assert_sane(row)
            assert row["benchmark"] == path.stem
            assert f"python -m benchmarks.{path.stem}" in row["command"]


def test_rows_come_back(repository: Path) -> None:
    written = [a_row(n=3, peer="DataLoader 0.5"), a_row(value=None, metric="minutes to 97.5 %", ci95=0.25)]
    path = rows.write("sampling", written)
    assert path.parent == repository / "benchmarks" / "results"
    assert rows.read("sampling") == rows.read_all() == written
    assert rows.read("another") == []
    for row in json.loads(path.read_text()):
        assert_sane(row)
    assert [f.name for f in fields(Row)] == KEYS


def test_a_row_says_how_it_came_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--rounds", "2", "a b"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    row = a_row()
    assert row.command.startswith("OMP_NUM_THREADS=1 ")
    assert row.command.endswith(" --rounds 2 'a b'")
    assert f"torch {torch.__version__}" in row.machine


def test_not_a_number_is_not_written(repository: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        rows.write("sampling", [a_row(value=float("nan"))])
    assert not list(repository.iterdir())


def test_tables_follow_the_results(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = repository / "README.md"
    readme.write_text(f"# Top\n{tables.BEGIN}\nold\n{tables.END}\nbottom\n")
    given = {"benchmark": "accuracy", "dataset": "omniglot", "metric": "accuracy %", "setting": "5w1s"}
    rows.write(
        "accuracy",
        [
            a_row(**given, mode="inductive", value=98.714, ci95=0.1, paper=98.8),
            a_row(**given, mode="transductive", value=99.0, ci95=0.2),
        ],
    )
    rows.write(
        "sampling",
        [
            a_row(value=2000.0, peer="DataLoader 500"),
            a_row(method="DataLoader", value=500.0),
            a_row(metric="times as fast", value=4.0, peer="DataLoader 1"),
        ],
    )
    with pytest.raises(SystemExit, match=r"^stale: docs/results.md and README.md; run python"):
        run_tables(monkeypatch, "--check")
    run_tables(monkeypatch)
    run_tables(monkeypatch, "--check")

    text = readme.read_text()
    assert text.startswith(f"# Top\n{tables.BEGIN}\n")
    assert text.endswith(f"\n{tables.END}\nbottom\n")
    assert "| quickstudy | inductive | 98.71 ± 0.10 \\| 98.8 |" in text
    assert "| quickstudy | transductive | 99.00 ± 0.20 |" in text
    assert "| Sampling tasks | 2,000 tasks/s | DataLoader: 500 | 4 |" in text
    docs = (repository / "docs" / "results.md").read_text()
    assert "| quickstudy | 2,000 | 4 |" in docs
    assert f" · {rows.machine()} · commit {rows.COMMIT or 'unknown'}" in docs

    rows.write("sampling", [a_row(value=2001.0)])
    with pytest.raises(SystemExit, match="stale"):
        run_tables(monkeypatch, "--check")


def test_a_readme_without_markers_is_an_error(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "README.md").write_text("# Top\n")
    with pytest.raises(SystemExit, match=r"README.md lacks the lines <!-- results:begin -->"):
        run_tables(monkeypatch)
    assert not (repository / "docs").exists()


def patterns(classes: int = 18) -> ClassPool:
    """Classes are 16×16 patterns, items the pattern under noise."""
    rng = np.random.default_rng(0)
    own = rng.integers(0, 256, (classes, 1, 1, 16, 16))
    items = 0.5 * own + 0.5 * rng.integers(0, 256, (classes, 8, 1, 16, 16))
    thirds = np.arange(classes).reshape(3, -1)
    return ClassPool.from_arrays(
        items.astype(np.uint8).reshape(-1, 1, 16, 16),
        [f"pattern {i}" for i in range(classes)],
        [8] * classes,
        splits=dict(zip(("train", "validation", "test"), thirds, strict=True)),
        name="patterns",
    )


def tiny() -> Recipe:
    return Recipe(
        summary="tiny",
        paper="none",
        pool=lambda *, root=None, progress=None: patterns(),
        image_format=ImageFormat(16),
        learner=lambda: Prototypical(Conv4(1, 4)),
        train=Setting(5, 1, 3),
        steps=2,
        schedule=cosine,
        validation=Setting(5, 1, 3),
        tests=(Setting(5, 1, 3), Setting(5, 2, 3)),
        published={"5w1s": 98.8},
    )


def test_accuracy_of_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "tiny", tiny)
    learner = tiny().learner()
    manifest = {"recipe": "tiny", "arguments": {}, "data": {"name": "patterns.train"}}
    fit(learner, Episodes(patterns(), Setting(5, 1, 3)), 2, out=tmp_path, manifest=manifest)

    measured = accuracy.measure(str(tmp_path), episodes=12, seed=3)
    trained = experiment.load_learner(tmp_path)[1]
    ways = [(row.setting, row.mode, row.paper) for row in measured]
    assert ways == [
        ("5w1s", "inductive", 98.8),
        ("5w1s", "transductive", None),
        ("5w2s", "inductive", None),
        ("5w2s", "transductive", None),
    ]
    for row in measured:
        assert (row.dataset, row.split, row.n, row.seed) == ("patterns", "test", 12, 3)
        assert row.minutes == trained["training"]["minutes"]
    modes = ("inductive", "transductive")
    scores = experiment.measure(tiny(), learner, display=Terminal(), episodes=12, modes=modes, seed=3)
    assert [(row.value, row.ci95) for row in measured] == [(100 * s.accuracy, 100 * s.ci95) for s in scores]


def test_models_that_were_not_measured_keep_their_rows() -> None:
    old = [a_row(method=m, value=1.0) for m in ("kept", "measured again", "ships no more")]
    new = [a_row(method="measured again", value=2.0)]
    merged = accuracy.merged(old, new, ["kept", "measured again"])
    assert [(row.method, row.value) for row in merged] == [("kept", 1.0), ("measured again", 2.0)]
