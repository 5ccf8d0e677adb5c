"""Results are whole, tables say what the results say, and the accuracy benchmark measures what it claims."""

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import accuracy, confidence, label_splits, metric_speed, peer_easyfsl, plain, rows
from benchmarks.children import Child
from benchmarks.rows import Row
from quickstudy.cli import lists
from quickstudy.cli.terminal import Terminal
from quickstudy.core import checkpoint
from quickstudy.core.learner import embed
from quickstudy.core.scores import accuracies
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.gaussian import GaussianPrototypical, gaussian_encoder
from quickstudy.metric.matching import FullContext
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.relation import Comparison, relation_encoder
from quickstudy.metric.siamese import Siamese
from quickstudy.metric.verification import verify
from quickstudy.recipes import recipe as recipe_module
from quickstudy.recipes import weights
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.recipe import Recipe
from quickstudy.training.evaluate import evaluate
from quickstudy.training.fit import fit
from quickstudy.training.launch import launch
from quickstudy.training.schedules import cosine_schedule
from tests.support.recipes import train
from tools import ship, tables

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


def test_what_is_not_measured_anew_is_kept(repository: Path) -> None:
    old = [a_row(method=m, setting=s, value=1.0) for m in ("one", "other") for s in ("5w1s", "5w5s")]
    rows.write("sampling", old)
    new = [a_row(method="one", setting="5w5s", metric="another", value=2.0)]
    assert rows.kept("sampling", new) == [old[0], *old[2:]]
    assert rows.kept("another", new) == []
    elsewhere = [a_row(method="one", setting="5w5s", dataset="elsewhere", value=2.0)]
    assert rows.kept("sampling", elsewhere) == old


def test_a_row_says_how_it_came_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--rounds", "2", "a b", "/home/me/runs"])
    for name in [k for k in os.environ if k.startswith(("OMP_", "MKL_", "MALLOC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    row = a_row()
    assert row.command.startswith("OMP_NUM_THREADS=1 ")
    assert row.command.endswith(" --rounds 2 'a b' runs")
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


def patterns(classes: int = 18, own_share: float = 0.5) -> ClassPool:
    """Classes are 16×16 patterns, items the pattern under noise."""
    rng = np.random.default_rng(0)
    own = rng.integers(0, 256, (classes, 1, 1, 16, 16))
    items = own_share * own + (1 - own_share) * rng.integers(0, 256, (classes, 8, 1, 16, 16))
    thirds = np.arange(classes).reshape(3, -1)
    return ClassPool.from_grouped(
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
        item_format=ImageFormat(16),
        learner=lambda: Prototypical(Conv4(1, 4)),
        train=Setting(5, 1, 3),
        steps=2,
        schedule=cosine_schedule,
        validation=Setting(5, 1, 3),
        tests=(Setting(5, 1, 3), Setting(5, 2, 3)),
        published={"5w1s": 98.8},
    )


def authors() -> Recipe:
    return replace(tiny(), mode="authors", validation=Setting(5, 1, 1))


def test_the_authors_mode_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One query a class in validation and in its rows, beside which the paper's figures stand."""
    with pytest.raises(ValueError, match=r"validates with one query a class, not 3: give .* queries=1"):
        replace(tiny(), mode="authors")
    monkeypatch.setitem(RECIPES, "authors", authors)
    train("authors", {}, tmp_path, display=Terminal(quiet=True), fabric=launch("cpu"), steps=1)
    learner, manifest = weights.load_learner(tmp_path)
    assert manifest["training"]["validation"]["mode"] == "authors"

    measured = accuracy.measure(str(tmp_path), episodes=4, seed=3, authors=6)
    told = [(row.setting, row.mode, row.n, row.paper) for row in measured]
    assert told == [
        *((s, m, 4, None) for s in ("5w1s", "5w2s") for m in ("inductive", "transductive")),
        ("5w1s", "authors", 6, 98.8),
        ("5w2s", "authors", 6, None),
    ]
    one = Episodes(patterns().split("test"), Setting(5, 2, 1), 10, 3)
    assert measured[-1].value == 100 * evaluate(learner, one, 6, "authors").accuracy
    by_default = authors().test(learner, display=Terminal(), count=4)
    assert [s.mode for s in by_default] == ["inductive", "authors"] * 2
    results = authors().results(by_default)
    assert [row[-1] for row in results.rows] == ["–", "98.8", "–", "–"]
    assert authors().test_command(tmp_path)[-1] == "all"
    lines = tables.accuracy_table(measured)
    assert [line.split(" | ")[1] for line in lines[2:]] == ["inductive", "transductive", "authors"]


def test_accuracy_rows_are_named_so_that_they_can_be_found() -> None:
    for row in rows.read("accuracy"):
        assert row.method in RECIPES
        assert row.dataset in {"omniglot-vinyals", "omniglot-random", "cifar-fs", "fc100", "glyphs"}
        assert re.fullmatch(r"\d+w\d+s", row.setting or "")
        assert row.mode in {"inductive", "transductive", "authors"}


def test_pairs_of_a_tiny_siamese_network() -> None:
    recipe, learner = tiny(), Siamese(Conv4(1, 4))
    found = recipe.test_pairs(
        learner, display=Terminal(), count=4, modes=("inductive", "transductive"), seed=2
    )
    told = [(v.setting, v.mode, v.episodes, v.seed) for v in found]
    assert told == [(s, m, 4, 2) for s in ("5w1s", "5w2s") for m in ("inductive", "transductive")]
    again = verify(learner, Episodes(patterns().split("test"), Setting(5, 2, 3), seed=2), 4, "transductive")
    assert found[3] == again
    assert found[0].genuine == 4 * 5 * 6  # pairs of the four items of a class


def test_tasks_of_a_recipe_are_of_one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_digit(name: str) -> str:
        return name[-1]

    drawn: list[Episodes] = []

    class Noted(Episodes):
        def __init__(self, *of: Any, **how: Any) -> None:
            super().__init__(*of, **how)
            drawn.append(self)

    def grouped() -> Recipe:
        pool, settings = patterns(60), Setting(2, 1, 3)
        loaded = replace(tiny(), pool=lambda *, root=None, progress=None: pool, group=last_digit)
        return replace(loaded, train=settings, validation=settings, tests=(settings,))

    monkeypatch.setitem(RECIPES, "grouped", grouped)
    monkeypatch.setattr(recipe_module, "Episodes", Noted)
    shown, fabric = Terminal(quiet=True), launch("cpu")
    train("grouped", {}, tmp_path, display=shown, fabric=fabric, steps=1)
    assert [e.pool.name for e in drawn] == [f"patterns.{split}" for split in ("train", "validation", "test")]
    for episodes in drawn[:2]:
        for task in np.concatenate([episodes.indices(i) for i in range(20)]):
            of = np.searchsorted(episodes.pool.starts, task, side="right") - 1
            assert len({last_digit(episodes.pool.classes[c]) for c in of.flat}) == 1


def test_accuracy_of_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "tiny", tiny)
    learner = tiny().learner()
    manifest = {"recipe": "tiny", "arguments": {}, "data": {"name": "patterns.train"}}
    fit(learner, Episodes(patterns(), Setting(5, 1, 3)), 2, out=tmp_path, manifest=manifest)

    measured = accuracy.measure(str(tmp_path), episodes=12, seed=3)
    trained = weights.load_learner(tmp_path)[1]
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
    scores = tiny().test(learner, display=Terminal(), count=12, modes=modes, seed=3)
    assert [(row.value, row.ci95) for row in measured] == [(100 * s.accuracy, 100 * s.ci95) for s in scores]


def test_what_ships_is_in_float16_and_measured_so(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiny_cifar() -> Recipe:
        pool = replace(patterns(), name="cifar-fs")
        return replace(authors(), pool=lambda *, root=None, progress=None: pool)

    monkeypatch.setitem(RECIPES, "tiny", tiny_cifar)
    monkeypatch.setattr(ship, "MODELS", tmp_path / "shipped")
    train("tiny", {}, tmp_path / "run", display=Terminal(quiet=True), fabric=launch("cpu"), steps=1)
    monkeypatch.setattr(ship.accuracy, "scores_of", partial(accuracy.scores_of, authors=6))

    def shipped(**options: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        ship.main([tmp_path / "run"], episodes=4, **options)
        return checkpoint.load(tmp_path / "shipped" / "tiny.safetensors")

    tensors, manifest = shipped()
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float16}
    assert [f["mode"] for f in manifest["figures"]] == ["inductive", "transductive"] * 2 + ["authors"] * 2
    assert manifest["notice"] == weights.notice(manifest) == weights.NOTICES["cifar-fs"]
    learner = weights.load_learner(tmp_path / "shipped" / "tiny.safetensors")[0]
    assert {p.dtype for p in learner.parameters()} == {torch.float32}
    again = accuracy.scores_of(tiny_cifar(), learner, 4)
    assert [f["accuracy"] for f in manifest["figures"]] == [score.accuracy for score in again]
    assert {row.dataset for row in rows.read("accuracy")} == {"cifar-fs"}
    full, _ = shipped(full=True)
    assert {t.dtype for t in full.values() if t.is_floating_point()} == {torch.float32}
    monkeypatch.setattr(ship, "LARGEST", 1000)
    with pytest.raises(SystemExit, match="at most 1000 are shipped"):
        shipped()


def test_a_model_of_withdrawn_pictures_is_listed_with_a_notice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(weights.NOTICES, "glyphs", "letters of another time")
    monkeypatch.setattr("quickstudy.core.consoles.console.width", 100)
    lists.models()
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "another time" in text]
    assert line == "prototypical-glyphs: letters of another time"


def test_models_that_were_not_measured_keep_their_rows() -> None:
    old = [a_row(method=m, value=1.0) for m in ("kept", "measured again", "ships no more")]
    new = [a_row(method="measured again", value=2.0)]
    merged = accuracy.merged(old, new, ["kept", "measured again"])
    assert [(row.method, row.value) for row in merged] == [("kept", 1.0), ("measured again", 2.0)]


def a_draw(name: str, mode: str, draw: int, value: float) -> Row:
    return label_splits.row_of(name, mode, metric=f"draw {draw}", value=value, n=9, seed=draw, minutes=2.0)


def test_draws_of_labels_stand_behind_their_mean() -> None:
    soft, tenth = "soft-omniglot", "tenth-omniglot"
    draws = [
        a_draw(soft, "transductive", 0, 90.0),
        a_draw(soft, "inductive", 3, 98.0),
        a_draw(soft, "inductive", 0, 96.0),
        a_draw(tenth, "inductive", 0, 95.0),
    ]
    once = label_splits.with_means(draws)
    told = [(r.method, r.mode, r.metric, r.value, r.n, r.minutes, r.paper) for r in once]
    assert told == [
        (tenth, "inductive", "accuracy %", 95.0, 1, 2.0, 94.62),
        (tenth, "inductive", "draw 0", 95.0, 9, 2.0, None),
        (soft, "inductive", "accuracy %", 97.0, 2, 4.0, 97.25),
        (soft, "inductive", "draw 0", 96.0, 9, 2.0, None),
        (soft, "inductive", "draw 3", 98.0, 9, 2.0, None),
        (soft, "transductive", "accuracy %", 90.0, 1, 2.0, None),
        (soft, "transductive", "draw 0", 90.0, 9, 2.0, None),
    ]
    assert once[2].ci95 == pytest.approx(12.7062)  # √2 is the deviation of 96 and 98
    assert once[0].ci95 is None
    assert label_splits.with_means(once) == once


def test_a_draw_of_labels_is_measured_once(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, int]] = []

    def measure(name: str, draw: int, *_: object) -> list[Row]:
        trained.append((name, draw))
        return [a_draw(name, mode, draw, 90.0 + draw) for mode in label_splits.MODES]

    monkeypatch.setattr(label_splits, "measure", measure)
    for draws in ("1", "1 2"):
        of = ["--recipes", "soft-omniglot", "--out", str(repository / "runs"), "--draws", *draws.split()]
        monkeypatch.setattr(sys, "argv", ["label_splits", *of])
        label_splits.main()
    assert trained == [("soft-omniglot", 1), ("soft-omniglot", 2)]
    assert [r.value for r in rows.read("label_splits") if r.mode == "inductive"] == [91.5, 91.0, 92.0]


@pytest.mark.parametrize("shortened", ["--steps", "--episodes"])
def test_a_shortened_draw_of_labels_is_no_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shortened: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["label_splits", shortened, "5"])
    with pytest.raises(SystemExit):
        label_splits.main()
    assert "add --dry" in capsys.readouterr().err


def test_damage_is_what_it_says() -> None:
    x = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for kind in confidence.DAMAGES:
        assert list(kind.strengths) == sorted(kind.strengths, reverse=kind.strengths[0] > 1)
        for strength in kind.strengths:
            once, again = (kind.apply(x, strength, torch.Generator().manual_seed(1)) for _ in range(2))
            assert once.shape == x.shape
            assert torch.equal(once, again)
            assert once.min() >= 0
            assert once.max() <= 1
            assert not torch.equal(once, x)

    rng = torch.Generator().manual_seed(2)
    blocks = x.unflatten(2, (7, 4)).unflatten(4, (7, 4)).mean((3, 5))
    expected = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.allclose(confidence.squares(x, 7, rng), expected, atol=1e-6)
    even = torch.full((1, 1, 28, 28), 0.25)
    assert torch.allclose(confidence.smooth(even, 5, rng), even)
    assert confidence.noise(0 * x + 0.5, 0.1, rng).std().item() == pytest.approx(0.1, rel=0.1)
    black = confidence.covered(torch.ones_like(x), 0.25, rng)[:, 0] == 0
    assert black.sum((1, 2)).tolist() == [14 * 14] * 6
    assert (black.any(1).sum(1) == 14).all()
    assert (black.any(2).sum(1) == 14).all()
    assert len({str(one.nonzero()[0].tolist()) for one in black}) > 1


def test_damaged_tasks() -> None:
    episodes = Episodes(patterns(), Setting(5, 4, 2), 2, seed=3)
    damaged = confidence.Damaged(episodes, 0.4)
    assert (damaged.tasks, damaged.seed) == (2, 3)
    shares: list[float] = []
    for i in range(10):
        whole, some, again = episodes[i], damaged.part(i), damaged.on("cpu").part(i)
        assert torch.equal(some.support.x, again.support.x)
        assert torch.equal(some.query_x, whole.query_x)
        assert torch.equal(some.support.y, whole.support.y)
        shares.append((some.support.x != whole.support.x).flatten(2).any(2).float().mean().item())
        # however many processes, the same tasks
        for rank in range(2):
            assert torch.equal(damaged.part(i, rank, 2).support.x, some.support.x[rank : rank + 1])
    assert sum(shares) / 10 == pytest.approx(0.4, abs=0.1)
    assert len(set(shares)) > 1
    assert torch.equal(confidence.Damaged(episodes, 0).part(0).support.x, episodes[0].support.x)
    assert set(confidence.TRAINED) < set(confidence.DAMAGES)


def test_confidence_is_trained_once(tmp_path: Path) -> None:
    first, minutes = confidence.train("tiny", tiny(), patterns(21), 2, 0, tmp_path)
    again, same = confidence.train("tiny", tiny(), patterns(21), 2, 0, tmp_path)
    assert same == minutes
    assert all(torch.equal(w, again.state_dict()[k]) for k, w in first.state_dict().items())


def test_confidence_of_tiny_models() -> None:
    torch.manual_seed(0)
    gaussian = GaussianPrototypical(gaussian_encoder(1, 4, 5)).eval()
    plain = Prototypical(Conv4(1, 4)).eval()
    episodes = Episodes(patterns(), Setting(5, 3, 2), 1, seed=3)
    found = confidence.measure(gaussian, plain, episodes, 3, damaged=1)
    assert len(found) == 1 + sum(len(kind.strengths) for kind in confidence.DAMAGES)
    with torch.no_grad():
        for i, told in enumerate(found[confidence.UNDAMAGED]):
            e = episodes[i]
            for right, learner in ((told.right[0], gaussian), (told.right[2], plain)):
                assert right == accuracies(learner.predict(e.support, e.query_x), e.query_y)
            by_class = e.support.y[0].argsort(stable=True)
            variance = 1 / gaussian.embed(e.support.x[:, by_class])[1].view(5, 3)
            assert told.damaged == pytest.approx(variance[:, :1].mean().item())
            assert told.clean == pytest.approx(variance[:, 1:].mean().item())

        # a damage, done by hand to the first item of each class
        kind, e = confidence.DAMAGES[0], episodes[0]
        told = found[kind.name.format(4)][0]
        x, first = e.support.x.clone(), e.support.y[0].argsort(stable=True)[::3]
        x[0, first] = kind.apply(x[0, first], 4, torch.Generator())
        e.support.x = x
        assert told.right[0] == accuracies(gaussian.predict(e.support, e.query_x), e.query_y)
        assert told.right[2] == accuracies(plain.predict(e.support, e.query_x), e.query_y)
        z = embed(gaussian.encoder, x)
        assert told.damaged == pytest.approx((1 / gaussian.inverse_variance(z[0, first, -1])).mean().item())

    methods = ["gaussian", "alike", "plain"]
    made = confidence.rows_of(found, 1, methods, lambda **given: a_row(**given | {"benchmark": "confidence"}))
    for row in made:
        assert_sane(vars(row))
        assert row.n == 3
    metrics = [row.metric for row in made if row.setting == "20w5s, undamaged"]
    assert metrics.count("accuracy %") == 3
    assert "points lost" not in metrics
    assert len(confidence.draw(made, 1, methods, "tiny").axes) == 2 * len(confidence.DAMAGES)


class Brightness(torch.nn.Module):
    """Its embedding is the picture, its variance exp(10 × how much of it is black)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.flatten(1), -10 * (x == 0).float().mean((1, 2, 3)).unsqueeze(1)], 1)


def test_a_confidence_that_works_shows() -> None:
    gaussian = GaussianPrototypical(Brightness(), inverse_variance=torch.exp)
    episodes = Episodes(patterns(own_share=0.3), Setting(18, 3, 4), 1)
    found = confidence.measure(gaussian, Prototypical(torch.nn.Flatten()), episodes, 2, damaged=2)
    for told in found["covered by a square, a share of 0.8"]:
        assert told.damaged > 10 * told.clean
        weighted, alike, plain = told.right.tolist()
        assert weighted > alike == plain


def child(peak: float, **report: list[float]) -> Child:
    """A process that reported so."""
    return Child(f"progress\n{json.dumps(report)}\n", seconds=1.0, peak=peak)


def test_speed_of_metric_learners() -> None:
    works = metric_speed.WORKS
    assert len(works) == 2 * (2 * 6 + 1)
    large, few = "relation, 20w5s with 5 queries, training", "5w1s with 14 queries and 5 unlabelled"
    few = f"semi-supervised prototypical, masked, {few}, evaluation"
    assert (works[large].tasks, works[few].tasks) == (1, recipe_module.TASKS)
    children = {
        large: [child(4000, seconds=[0.1, 0.5]), child(4090, seconds=[0.25])],
        few: [child(500, seconds=[0.5])],
    }
    row = partial(Row, benchmark="metric_speed", seed=0)
    measured = metric_speed.rows_of(children, row)
    assert [(r.metric, r.value, r.n) for r in measured] == [
        ("tasks/s", 4, 3),
        ("peak MiB", 4045, 2),
        ("tasks/s", 2, 1),
        ("peak MiB", 500, 1),
    ]
    assert {(r.method, r.setting, r.mode) for r in measured[:2]} == {
        ("relation", "20w5s with 5 queries", "training")
    }
    children[large][0] = replace(children[large][0], peak=4097)
    with pytest.raises(ArithmeticError, match="the peak is 4,097 MiB, more than 4,096"):
        metric_speed.rows_of(children, row)


@pytest.mark.medium
def test_speed_is_measured_of_every_metric_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Setting(3, 1, 2, unlabelled=1)
    monkeypatch.setattr(metric_speed, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(metric_speed, "characters", noise)
    for name in metric_speed.LEARNERS:
        for phase in metric_speed.PHASES:
            seconds = metric_speed.measure(metric_speed.Work(name, small, phase), 1, 0)
            assert len(seconds) == 1
            assert seconds[0] > 0


def noise() -> ClassPool:
    """Pictures of Omniglot's size."""
    items = np.random.default_rng(0).integers(0, 256, (16, 1, 28, 28), dtype=np.uint8)
    return ClassPool.from_grouped(items, list("abcd"), [4] * 4, name="noise.train")


def test_rows_beside_easyfsl() -> None:
    children = {
        name: [child(1, training=[s, 2 * s, 4 * s], evaluation=[s])]
        for name, s in (("quickstudy", 0.25), ("easyfsl, well set up", 0.5))
    }
    same = peer_easyfsl.Agreement(timed=0.995, alike=1)
    measured = peer_easyfsl.rows_of(
        "matching", children, same, partial(Row, benchmark="peer_easyfsl", seed=0)
    )
    by_name = {(r.method, r.mode, r.metric): r for r in measured}
    assert len(by_name) == len(measured) == 2 * 2 * 2 + 1
    rate = by_name["quickstudy", "matching, training", "tasks/s"]
    assert (rate.value, rate.peer, rate.n, rate.setting) == (2, "easyfsl, well set up 1", 3, "20w1s")
    assert by_name["quickstudy", "matching, evaluation", "times as fast"].value == 2
    assert {r.method for r in measured if r.peer} == {"quickstudy"}
    agreed = by_name["quickstudy", "matching, evaluation", "same predictions %"]
    assert (agreed.value, agreed.n) == (99.5, 7500)


def test_plain_networks_compute_what_ours_do() -> None:
    torch.manual_seed(0)
    x = torch.rand(7, 1, 28, 28).double()
    for ours, theirs in (
        (Conv4(), plain.PlainConv4()),
        (relation_encoder(), plain.plain_relation_encoder()),
    ):
        plain.take_weights(theirs, ours)
        torch.testing.assert_close(theirs.double()(x).flatten(1), ours.double()(x), rtol=1e-9, atol=1e-9)
    comparison = Comparison().eval()
    theirs = plain.take_weights(plain.plain_comparison(), comparison).double().eval()
    classes, queries = torch.rand(1, 2, 1600).double(), torch.rand(1, 3, 1600).double()
    pairs = [torch.cat([c, q]).view(128, 5, 5) for q in queries[0] for c in classes[0]]
    expected = theirs(torch.stack(pairs)).view(1, 3, 2)
    torch.testing.assert_close(comparison.double()(classes, queries).sigmoid(), expected)


def test_full_context_can_begin_with_the_query() -> None:
    """As easyfsl's does: h_0 = f', and K steps."""
    torch.manual_seed(0)
    context = FullContext(4, steps=3).double()
    support, queries = torch.rand(1, 5, 4).double(), torch.rand(1, 6, 4).double()
    g, _ = context(support, queries)
    h, c = queries[0], torch.zeros(6, 4).double()
    for _ in range(3):
        read = (h @ g[0].T).softmax(1) @ g[0]
        h, c = context.of_query(torch.cat([queries[0], read], 1), (h, c))
        h = h + queries[0]
    context.steps = 4
    context.of_query = peer_easyfsl.FromTheQuery(context.of_query)  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(context(support, queries)[1][0], h)
