"""The program as its users meet it: what it prints where, and with which exit code."""

import contextlib
import csv
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from quickstudy.__main__ import main
from quickstudy.cli.evaluate import MODES, as_tested
from quickstudy.core import checkpoint, consoles
from quickstudy.core.modes import Mode
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.metric import HEADS
from quickstudy.recipes import weights as recipes_weights
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.recipe import Recipe
from tests.benchmarks.test_trainings import TINY

CLASSES, PICTURES = 16, 12
OWN = "--set size=28 --set grey=true --set ways=5 --set queries=3 --accelerator cpu --precision 32-true"
"""Of the pictures below: 10 classes to train on, 3 to validate and 3 to test."""
PATIENCE = 1800
"""Seconds after which a program hangs for sure, however busy the machine is."""
SMALL = "--set size=16 --set grey=true --set ways=3"


@dataclass
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str
    warned: list[str]


def answer_of(code: int, out: str, err: str) -> Answer:
    """Warnings apart from the rest of standard error."""
    lines = err.splitlines(keepends=True)
    rest = "".join(line for line in lines if not line.startswith("warning: "))
    warned = [line.removeprefix("warning: ").strip() for line in lines if line.startswith("warning: ")]
    return Answer(code, out, rest, warned)


Run = Callable[[str], Answer]


def draw(folder: Path) -> Path:
    """A pattern for each class, seen through noise."""
    rng = np.random.default_rng(0)
    for c in range(CLASSES):
        pattern = np.kron(rng.integers(0, 256, (5, 5)), np.ones((6, 6)))
        (folder / f"class {c:02} (é)").mkdir(parents=True)
        for j in range(PICTURES):
            page = (pattern + rng.normal(0, 30, pattern.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(page).save(folder / f"class {c:02} (é)" / f"{j:02}.png")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures, the cache and a finished training, shared by the tests that only read them."""
    home = tmp_path_factory.mktemp("home")
    draw(home / "pics")
    with pytest.MonkeyPatch.context() as patch:
        fresh_machine(home, patch)
        finished = call(
            f"train prototypical-images --set images=pics {OWN} --steps 12 --test-episodes 20 --out r"
        )
    assert finished.code == 0, finished.err
    (home / "first.json").write_text(json.dumps(vars(finished)))
    return home


def fresh_machine(home: Path, patch: pytest.MonkeyPatch) -> None:
    """Nothing is configured, and nothing is on disk but what the tests put into `home`."""
    patch.setenv("QUICKSTUDY_CACHE", str(home / "cache"))
    patch.setenv("COLUMNS", "100")
    for name in ("QUICKSTUDY_DATA", "QUICKSTUDY_DEBUG", "FORCE_COLOR", "NO_COLOR", "TERM"):
        patch.delenv(name, raising=False)
    patch.chdir(home)
    # it would hold this process's peak of memory for all tests that follow
    patch.setattr("quickstudy.core.kernels.memory.keep_freed_memory", lambda: True)


def call(line: str) -> Answer:
    """`quickstudy LINE` in this process, as the installed script calls it."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),  # the program shows warnings in its own way; put that back
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.filterwarnings("default", message=".*(pictures can't be read|-way it is)")
        patch.setattr(sys, "argv", ["quickstudy", *shlex.split(line)])
        for console in (consoles.console, consoles.messages):  # which asked for it when they were made
            patch.setattr(console, "width", int(os.environ["COLUMNS"]))
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    if isinstance(code, str):  # what the interpreter does with it
        err.write(f"{code}\n")
        code = 1
    assert code is None or isinstance(code, int)
    return answer_of(code or 0, out.getvalue(), err.getvalue())


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    fresh_machine(home, monkeypatch)
    return call


def refused(answer: Answer, *parts: str) -> None:
    """One line on standard error that holds all of `parts`, nothing else, exit code 1."""
    assert (answer.code, answer.out) == (1, ""), answer
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1, answer.err
    for part in parts:
        assert part in answer.err


def own(out: Path | str, more: str = "") -> str:
    return f"train prototypical-images --set images=pics {OWN} --test-episodes 20 --out {out} {more}"


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def program(line: str, home: Path, **rest: object) -> subprocess.Popen[str]:
    """`python -m quickstudy LINE` in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k not in ("QUICKSTUDY_DATA", "FORCE_COLOR")}
    environment |= {"QUICKSTUDY_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.Popen(
        [sys.executable, "-m", "quickstudy", *shlex.split(line)],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **rest,  # pyright: ignore
    )


# Train, evaluate, predict, plot


@pytest.mark.medium
def test_a_training_tells_how_it_went_and_tests_in_the_end(home: Path) -> None:
    answer = Answer(**json.loads((home / "first.json").read_text()))
    *_, progress, end = answer.err.splitlines()  # a slow machine also tells of the first step
    assert progress.startswith("step 12 of 12: loss ")
    assert end.startswith("finished after 12 steps in 0.")
    assert end.endswith("r/best.safetensors")
    assert "3w1s" in answer.out
    assert "inductive" in answer.out
    told = {"pics.validation has 3 classes: 3-way it is", "pics.test has 3 classes: 3-way it is"}
    assert set(answer.warned) == told, "before the training, and of the test again after it"
    names = sorted(p.name for p in (home / "r").iterdir())
    assert names == ["best.json", "best.safetensors", "last.json", "last.safetensors", "log.jsonl"]
    manifest = checkpoint.load(home / "r" / "best.safetensors")[1]
    assert manifest["recipe"] == "prototypical-images"
    arguments = {"images": str(home / "pics"), "size": 28, "grey": True, "ways": 5, "queries": 3}
    assert manifest["arguments"] == arguments, "the folder in full, so that it is found from anywhere"
    (figure,) = manifest["figures"]
    assert (figure["episodes"], figure["setting"], figure["mode"]) == (20, "3w1s", "inductive")
    assert figure["accuracy"] > 0.8


def test_evaluate_prints_a_table_that_fits(run: Run) -> None:
    answer = run("evaluate r --mode both --episodes 10 --setting 3w1s --setting 2w5s --queries 4")
    assert (answer.code, answer.err) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in answer.out.splitlines()]
    found = [(row[0], row[1], *row[4:]) for row in rows if row]
    assert found == [
        ("3w1s", "inductive", "10", "0", "–"),
        ("3w1s", "transductive", "10", "0", "–"),
        ("2w5s", "inductive", "10", "0", "–"),
        ("2w5s", "transductive", "10", "0", "–"),
    ]


def test_evaluate_in_the_authors_mode(run: Run) -> None:
    assert set(get_args(Mode)) == set(MODES["all"])
    answer = run("evaluate r --mode all --episodes 4 --queries 4 --json")
    assert [score["mode"] for score in json.loads(answer.out)] == ["inductive", "transductive", "authors"]
    alone = run("evaluate r --mode authors --episodes 4 --json")
    assert json.loads(alone.out) == json.loads(answer.out)[2:]
    refused(run("evaluate r --mode authors --queries 4"), "one query a class, not 4: leave --queries out")


def test_headers_stay_whole_on_a_narrow_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    answer = run("evaluate r --mode both --episodes 10")
    assert all(len(line) <= 80 for line in answer.out.splitlines())
    for word in ("setting", "batch norm", "accuracy %", "episodes", "seed", "paper %", "transductive"):
        assert word in answer.out
    listed = run("models").out
    for word in (
        "model",
        "setting",
        "batch norm",
        "accuracy %",
        "handwritten",
        "min of training",
    ):
        assert word in listed


def test_evaluate_as_json(run: Run) -> None:
    answer = run("evaluate r/best.safetensors --mode both --episodes 10 --seed 3 --json")
    assert (answer.code, answer.err, answer.warned) == (0, "", ["pics.test has 3 classes: 3-way it is"])
    assert answer.out.startswith("["), "not even an empty line before it"
    inductive, transductive = json.loads(answer.out)
    assert list(inductive)[:6] == ["accuracy", "ci95", "episodes", "seed", "setting", "mode"]
    assert inductive["not unseen"] == []
    assert (inductive["pool"], inductive["ci95_over"]) == ("pics.test", "draws")
    assert inductive["data95_over"] == "classes and items"
    assert len(inductive["accuracies"]) == 10
    assert (inductive["mode"], transductive["mode"]) == ("inductive", "transductive")
    assert (inductive["seed"], inductive["episodes"], inductive["setting"]) == (3, 10, "3w1s")
    assert run("evaluate r --mode both --episodes 10 --seed 3 --json").out == answer.out, "repeatable"


def test_heads_on_the_features_of_a_model(run: Run) -> None:
    answer = run("evaluate r --head knn --head pt-map --setting 3w1s --queries 4 --episodes 10 --json")
    assert (answer.code, answer.err) == (0, "")
    inductive, transductive = json.loads(answer.out)
    assert (inductive["head"], inductive["mode"], inductive["pool"]) == (
        "knn",
        "inductive",
        "embedded pics.test",
    )
    assert (transductive["head"], transductive["mode"]) == ("pt-map", "transductive")
    assert inductive["tasks"] == transductive["tasks"]
    assert len(inductive["accuracies"]) == 10
    assert inductive["ms a task"] > 0
    unequal = json.loads(run("evaluate r --head knn --dirichlet 2 --episodes 4 --json").out)
    assert unequal[0]["setting"] == "3w1s Dirichlet(2)"
    assert (
        json.loads(run("evaluate r --dirichlet 2 --episodes 4 --json").out)[0]["setting"]
        == "3w1s Dirichlet(2)"
    )


def test_all_heads_in_one_table(run: Run) -> None:
    answer = run("evaluate r --head all --images pics --setting 3w2s --queries 4 --episodes 4")
    assert answer.code == 0
    for name in HEADS:
        assert f" {name} " in answer.out
    assert "simpleshot-cl2n, laplacianshot: no training classes are here, so each task is cent" in answer.err
    assert "no training classes are here" not in run("evaluate r --head simpleshot-cl2n --episodes 4").err


def test_heads_that_cannot_be(run: Run) -> None:
    refused(run("evaluate r --head nope"), "there is no head 'nope': the heads are simpleshot-un, ")
    refused(run("evaluate r --head knnn"), "did you mean knn?")
    answer = run("evaluate r --head knn --mode both")
    assert (answer.code, answer.out) == (2, "")
    assert "leave --mode and --devices out" in answer.err
    answer = run("evaluate r --head knn --data cifar-fs --images pics")
    assert (answer.code, answer.out) == (2, "")
    assert "both say what to test on" in answer.err
    refused(run("evaluate r --data cifarfs"), "no data set 'cifarfs' to test on: name one of glyphs, ")
    refused(run("evaluate r --dirichlet 0"), "dirichlet is 0.0: it must be above 0")
    refused(
        run("evaluate photos --head knn"), "name classes to test on by --images DIR, or a data set by --data"
    )
    refused(run("evaluate maml-omniglot --head knn"), "has no encoder whose features a head could take")


def test_settings_are_tested_as_the_recipe_has_them() -> None:
    semi, reptile = RECIPES["soft-omniglot"](), RECIPES["reptile-omniglot"]()
    assert as_tested(semi, [], None) == semi.tests
    assert as_tested(semi, [Setting(5, 1, 15)], None) == semi.tests, "its unlabelled items and queries"
    assert as_tested(semi, [Setting(5, 5, 15)], None) == (Setting(5, 5, 15, unlabelled=5),)
    assert as_tested(semi, [Setting(5, 1, 3)], 3) == (Setting(5, 1, 3, unlabelled=5),)
    assert [s.queries for s in reptile.tests] == [15]
    assert as_tested(reptile, [], 7) == tuple(replace(s, queries=7) for s in reptile.tests)


def test_a_papers_figure_stands_beside_its_own_test_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = RECIPES["prototypical-images"]

    def published(**of: Any) -> Recipe:
        return replace(stated(**of), tests=(Setting(3, 1, 5),), published={"3w1s": 45.6})

    monkeypatch.setitem(RECIPES, "prototypical-images", published)
    for more, beside in (("", True), (" --setting 3w1s", True), (" --queries 2", False)):
        assert ("45.6" in run(f"evaluate r --episodes 2{more}").out) == beside


def test_classes_none_of_which_was_recorded_are_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = RECIPES["prototypical-images"]

    @wraps(stated)
    def spliced(*given: Any, **of: Any) -> Recipe:
        recipe = stated(*given, **of)

        def load(**how: Any) -> ClassPool:
            pool = recipe.pool(**how)
            return replace(pool, recorded=np.zeros(len(pool), bool))

        return replace(recipe, pool=load)

    monkeypatch.setitem(RECIPES, "prototypical-images", spliced)
    line = f"train prototypical-images --set images=pics {SMALL} --out none --steps 2"
    refused(run(line), "all 10 classes to train on were made from others")
    assert not Path("none").exists()


def test_a_split_without_classes_to_train_on_is_named(run: Run, home: Path, tmp_path: Path) -> None:
    names = sorted(folder.name for folder in (home / "pics").iterdir())
    split = {"train": [], "validation": names[:8], "test": names[8:]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    line = f"train prototypical-images --set images=pics --set split={tmp_path}/split.json {SMALL}"
    refused(run(f"{line} --out {tmp_path}/m"), "pics.train has 0 classes")
    assert not (tmp_path / "m").exists()


def test_what_lies_here_goes_before_a_model_that_ships(run: Run, home: Path, tmp_path: Path) -> None:
    name = next(iter(recipes_weights.models()))
    shutil.copytree(home / "r", tmp_path / name)
    with contextlib.chdir(tmp_path):
        assert recipes_weights.find(name) == Path(name) / "best.safetensors"
    assert recipes_weights.find(name) == recipes_weights.models()[name]


def test_what_cannot_be_tested_fails_before_the_training(run: Run, home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "pics", tmp_path / "pics")
    names = sorted(folder.name for folder in (tmp_path / "pics").iterdir())
    split = {"train": names[:8], "validation": names[8:12], "test": names[12:]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    for picture in sorted((tmp_path / "pics" / names[-1]).iterdir())[3:]:
        picture.unlink()
    line = f"train prototypical-images --set images={tmp_path}/pics --set split={tmp_path}/split.json"
    refused(run(f"{line} {SMALL} --out {tmp_path}/m"), "fewer than the 6 items")
    assert not (tmp_path / "m").exists()


def test_evaluate_on_other_pictures(run: Run) -> None:
    answer = run("evaluate r --images pics --setting 16w1s --queries 3 --episodes 10 --json")
    (score,) = json.loads(answer.out)
    assert score["setting"] == "16w1s", "all 16 classes are test classes here"
    pictures, names = score["not unseen"][0].split("; ")
    assert pictures == "120 of the 192 items were trained on"
    assert names.startswith("10 names of classes here are of classes trained on: 'class ")
    assert "36 of the 192 items were validated on" in score["not unseen"][1]
    assert (
        "not unseen: 120 of the 192 items were trained on" in run("evaluate r --images pics --episodes 2").err
    )


def test_evaluate_on_pictures_some_of_which_cannot_be_read(run: Run, few: Path) -> None:
    (few / "few" / "b []" / "x.png").write_bytes(b"no picture")
    (few / "few" / "a [red]" / "1.png").write_bytes((few / "asked" / "0 [bold].png").read_bytes())
    line = f"evaluate r --images {few / 'few'} --setting 3w1s --queries 1 --episodes 2 --json"
    refused(run(line), "1 of 8 pictures can't be read", "x.png", "--skip-corrupt")
    answer = run(f"{line} --skip-corrupt")
    assert json.loads(answer.out)[0]["setting"] == "3w1s"
    assert len(answer.warned) == 1


@pytest.fixture
def few(home: Path, tmp_path: Path) -> Path:
    """One, two and three pictures of three classes, under names that rich would take for its markup."""
    names = ["a [red]", "b []", ":cat: (é)"]
    for c, name in enumerate(names):
        (tmp_path / "few" / name).mkdir(parents=True)
        for j in range(c + 1):
            source = home / "pics" / f"class {c:02} (é)" / f"{j:02}.png"
            (tmp_path / "few" / name / f"{j}.png").write_bytes(source.read_bytes())
        source = home / "pics" / f"class {c:02} (é)" / "09.png"
        (tmp_path / "asked").mkdir(exist_ok=True)
        (tmp_path / "asked" / f"{c} [bold].png").write_bytes(source.read_bytes())
    return tmp_path


def test_predict(run: Run, few: Path) -> None:
    line = f"predict r --support {few / 'few'} --query {few / 'asked'}"
    as_json = run(f"{line} --format json")
    assert (as_json.code, as_json.err) == (0, "")
    rows = json.loads(as_json.out)
    assert [Path(row["file"]).name for row in rows] == [f"{c} [bold].png" for c in range(3)]
    assert [row["label"] for row in rows] == ["a [red]", "b []", ":cat: (é)"]
    assert [list(row["probabilities"]) for row in rows] == [[":cat: (é)", "a [red]", "b []"]] * 3
    assert [sum(row["probabilities"].values()) for row in rows] == pytest.approx([1, 1, 1], abs=1e-5)

    header, *body = csv.reader(io.StringIO(run(f"{line} --format csv").out))
    assert header == ["file", "label", ":cat: (é)", "a [red]", "b []"]
    assert [(row[0], row[1]) for row in body] == [(row["file"], row["label"]) for row in rows]
    for found, row in zip(body, rows, strict=True):
        assert [float(v) for v in found[2:]] == pytest.approx(list(row["probabilities"].values()), abs=1e-6)

    table = run(line).out
    for part in ("picture", "0 [bold].png", "a [red]", ":cat: (é)", "b []", "%"):
        assert part in table


def test_predict_is_unsure_where_answers_would_err_more_often(run: Run, few: Path) -> None:
    line = f"predict r --support {few / 'few'} --query {few / 'asked'}"
    sure = json.loads(run(f"{line} --reject 0.5 --json").out)
    assert [row["label"] for row in sure] == ["a [red]", "b []", ":cat: (é)"]
    assert "so that at most 50 % of the answers are wrong" in run(f"{line} --reject 0.5").out
    # six pictures are too few to promise that
    unsure = json.loads(run(f"{line} --reject 0.05 --json").out)
    assert [row["label"] for row in unsure] == [None] * 3
    assert [row["probabilities"] for row in unsure] == [row["probabilities"] for row in sure]
    _, *body = csv.reader(io.StringIO(run(f"{line} --reject 0.05 --format csv").out))
    assert [row[1] for row in body] == ["unsure"] * 3
    table = run(f"{line} --reject 0.05").out
    assert "unsure (nearest" in table
    assert "unsure of everything:" in table
    assert run(f"{line} --reject 5").code == 2
    (few / "few" / "b []").rename(few / "few" / "unsure")
    refused(run(f"{line} --reject 0.5"), "a class is named 'unsure'", "rename its folder")


def test_archives_stand_for_folders(run: Run, few: Path, home: Path, tmp_path: Path) -> None:
    support = shutil.make_archive(str(tmp_path / "support"), "zip", few / "few")
    query = shutil.make_archive(str(tmp_path / "query"), "gztar", few, "asked")
    line = f"predict r --support {few / 'few'} --query {few / 'asked'} --format csv"
    packed = run(f"predict r --support {support} --query {query} --format csv")
    assert (packed.code, packed.err) == (0, "")
    assert packed.out == run(line).out.replace(str(few / "asked"), f"{query}/asked")
    assert "0 [bold].png" in run(f"predict r --support {support} --query {query}").out
    pictures = shutil.make_archive(str(tmp_path / "pics"), "zip", home / "pics")
    evaluated = [run(f"evaluate r --images {path} --episodes 20 --json") for path in ("pics", pictures)]
    assert evaluated[0].out == evaluated[1].out
    more = f"--test-episodes 20 --out {tmp_path}/z --steps 2"
    assert run(f"train prototypical-images --set images={pictures} {OWN} {more}").code == 0
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    refused(run(f"evaluate r --images {tmp_path}/broken.zip"), "broken.zip is damaged (File is not a zip")


def test_predict_with_pictures_that_cannot_be_read(run: Run, few: Path) -> None:
    (few / "asked" / "x.png").write_bytes(b"no picture")
    line = f"predict r --support {few / 'few'} --query {few / 'asked'} --format json"
    refused(run(line), "1 of 10 pictures can't be read", "x.png", "--skip-corrupt")
    skipped = run(f"{line} --skip-corrupt")
    assert skipped.code == 0
    assert skipped.err == ""
    assert len(skipped.warned) == 1
    assert skipped.warned[0].startswith("1 of 10 pictures can't be read")
    assert len(json.loads(skipped.out)) == 3


@pytest.mark.slow
def test_maml_on_own_pictures(run: Run, few: Path, tmp_path: Path) -> None:
    """Train, resume, evaluate both ways, adapt to a handful, and save what came of it."""
    train = f"train maml-images --set images=pics {OWN} --out {tmp_path}/m --test-episodes 10"
    first = run(f"{train} --steps 3 --tasks 2")
    assert first.code == 0, first.err
    refused(run(f"{train} --steps 3 --tasks 2"), "already holds a training run", "--resume")
    both = run(f"evaluate {tmp_path}/m --episodes 10 --mode both --json")
    assert [score["mode"] for score in json.loads(both.out)] == ["inductive", "transductive"]
    told = run(
        f"predict {tmp_path}/m --support {few}/few --query {few}/asked --format json "
        f"--save {tmp_path}/adapted.safetensors"
    )
    assert told.code == 0, told.err
    assert checkpoint.load(tmp_path / "adapted.safetensors")[1]["classes"] == list(
        json.loads(told.out)[0]["probabilities"]
    )


def test_prototypical_networks_have_no_adapted_weights(run: Run, few: Path, tmp_path: Path) -> None:
    saved = tmp_path / "adapted.safetensors"
    refused(run(f"predict r --support {few}/few --query {few}/asked --save {saved}"), "leave out --save")
    assert not saved.exists()


@pytest.mark.slow
def test_demo_of_sinusoids(run: Run, tmp_path: Path) -> None:
    shown = run(f"demo sinusoids --steps 5 --out {tmp_path}/d")
    assert shown.code == 0, shown.err
    for name in ("MAML", "Meta-SGD", "Reptile", "pre-trained", "10 steps"):
        assert name in shown.out
    for name in ("sinusoid.png", "sinusoid-errors.png"):
        with Image.open(tmp_path / "d" / name) as picture:
            assert min(picture.size) > 300


@pytest.mark.medium
def test_plot(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "plots [/b]"
    # 2-way 11-shot leaves one picture of each class to ask about
    answer = run(f"plot r --setting 2w11s --out '{out}'")
    assert (answer.code, answer.err) == (0, "")
    names = ["learning-curve.png", "episode.png", "embedding.png"]
    assert answer.out.splitlines() == [str(out / name) for name in names]
    assert all((out / name).stat().st_size > 1000 for name in names)


def test_a_shipped_model_is_not_given_the_curve_of_whoever_lies_here(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "models" / "mine.safetensors"
    model.parent.mkdir()
    model.write_bytes((home / "r" / "best.safetensors").read_bytes())
    monkeypatch.setattr("quickstudy.recipes.weights.models", lambda: {"mine": model})
    (home / "log.jsonl").write_text((home / "r" / "log.jsonl").read_text())
    try:
        answer = run(f"plot mine --setting 2w1s --out {tmp_path / 'plots'}")
    finally:
        (home / "log.jsonl").unlink()
    assert "episode.png" in answer.out
    assert "learning-curve.png" not in answer.out


# Stopping and going on


@pytest.mark.medium
def test_minutes_and_resume(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "my run"
    first = run(own(f"'{out}'", "--steps 6 --minutes 0.00001"))
    assert (first.code, first.out) == (0, ""), "no test of what is not finished"
    (said,) = (line for line in first.err.splitlines() if line.startswith("out of time"))
    go_on = first.err.splitlines()[-1]
    assert said.startswith("out of time after 1 step in 0.0 minutes; best validation ")
    assert " at step 1; " in said, "what it ends with is validated"
    assert said.endswith("my run/best.safetensors")
    assert go_on.startswith("go on with: quickstudy train prototypical-images --set images=pics ")
    go_on = go_on.removeprefix("go on with: quickstudy ")
    second = run(go_on)
    assert (second.code, second.err.splitlines()[-1]) == (0, f"go on with: quickstudy {go_on}")
    assert "\nout of time after 2 steps" in f"\n{second.err}", "the limit is of each session"
    second = run(f"{go_on} --minutes 100")
    assert second.code == 0
    assert "finished after 6 steps" in second.err
    assert "3w1s" in second.out
    last = checkpoint.load(out / "last.safetensors")[1]
    assert last["progress"]["step"] == 6
    again = run(f"{go_on} --test-episodes 0")
    assert (again.code, again.out) == (0, "")
    assert "finished after 6 steps" in again.err, "a finished one stays as it is"


def test_a_training_is_not_overwritten(run: Run, home: Path) -> None:
    before = (home / "r" / "best.safetensors").read_bytes()
    refused(run(own("r", "--steps 12")), "r already holds a training run", "--resume", "--out")
    refused(run(own("r", "--steps 13 --resume")), "train.steps 12, not 13", "same options")
    assert (home / "r" / "best.safetensors").read_bytes() == before


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(run: Run, home: Path, tmp_path: Path) -> None:
    line = own(tmp_path / "r", "--steps 100000")
    # a session of its own, so that nobody else is interrupted
    with program(line, home, start_new_session=True) as child:
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "r" / "log.jsonl").exists() and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)  # some steps
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    said = [text for text in answer_of(130, out, err).err.splitlines() if not text.startswith("step ")]
    assert said == [f"stopped; go on with: quickstudy {shlex.join(shlex.split(line))} --resume"]
    done = checkpoint.load(tmp_path / "r" / "last.safetensors")[1]["progress"]["step"]
    assert done > 0
    resumed = run(f"{line} --resume --minutes 0.00001")
    assert resumed.code == 0
    assert resumed.err.splitlines()[-2].startswith(f"out of time after {done + 1} steps")


@pytest.mark.medium
def test_ctrl_c_in_the_final_test_keeps_the_training_and_says_how_to_test(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "test", interrupted)
        answer = run(own(tmp_path / "r", "--steps 2"))
    assert (answer.code, answer.out) == (130, "")
    again = f"quickstudy evaluate {tmp_path / 'r'} --mode both"
    assert answer.err.splitlines()[-1] == f"stopped in the test; the training is kept. Test with: {again}"
    tested = run(f"{again.removeprefix('quickstudy ')} --episodes 2 --queries 3")
    assert tested.code == 0
    assert "transductive" in tested.out


@pytest.mark.slow
def test_two_processes_speak_with_one_voice(home: Path, tmp_path: Path) -> None:
    line = own(tmp_path / "r", "--devices 2 --tasks 2 --steps 4")
    with program(line, home) as child:
        out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, err
    assert out.count("3w1s") == 1
    assert err.count("finished after 4 steps") == 1
    assert err.count("step 4 of 4") == 1
    assert err.count("pics.validation has 3 classes") == 1
    assert checkpoint.load(tmp_path / "r" / "last.safetensors")[1]["progress"]["step"] == 4


# What is refused


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("train nosuch", ["there is no recipe 'nosuch'", "quickstudy recipes"]),
        ("evaluate prototypical-glyph", ["did you mean prototypical-glyphs"]),
        ("evaluate faces-lfw", ["is a recipe", "quickstudy train faces-lfw", "may take hours"]),
        ("train prototypical-glyph", ["did you mean prototypical-glyphs"]),
        (
            "train prototypical-images",
            ["prototypical-images needs --set images=…", "a folder of pictures for each class"],
        ),
        (
            "train prototypical-glyphs --set ways=3 --set skip_corrupt=true",
            ["no argument 'ways' to --set", "states its own"],
        ),
        ("train prototypical-images --set images=nowhere", ["nowhere is not a folder"]),
        (
            "train prototypical-images --set images=pics --set split=no.json",
            ["no split file at ", "/no.json"],
        ),
        (
            f"train prototypical-images --set images=pics {OWN} --set ways=11",
            ["11 ways", "10 classes", "at most 10"],
        ),
        (
            f"train prototypical-images --set images=pics {OWN} --set queries=12",
            ["1 shot + 12 queries", "(é)' (12)", "and 5 more", "lower shots or queries"],
        ),
        ("train prototypical-glyphs --precision 7", ["'7'"]),
        ("train prototypical-glyphs --accelerator warp", ["'warp'"]),
        ("evaluate r --setting 5way", ["setting '5way' is not of the form 5w1s"]),
        ("evaluate r --setting 1w1s", ["ways is 1: it must be at least 2"]),
        (
            "evaluate nosuch",
            ["no checkpoint or model 'nosuch': quickstudy models lists those that ship"],
        ),
        ("evaluate no/such.safetensors", ["no checkpoint at no/such.safetensors"]),
        ("evaluate pics", ["no checkpoint at pics/best.safetensors: training writes"]),
        ("predict r --support nowhere --query pics", ["nowhere is not a folder"]),
        ("predict r --support pics --query nowhere", ["there is no file or folder nowhere"]),
        ("plot r --setting x", ["setting 'x' is not of the form 5w1s"]),
        ("data --data-root nowhere", ["--data-root names nowhere, which is not a folder"]),
    ],
)
def test_one_line_says_what_is_wrong(run: Run, line: str, parts: list[str]) -> None:
    refused(run(line), *parts)


@pytest.mark.parametrize("line", ["train", "nosuch", "evaluate r --mode other", "predict r --support pics"])
def test_wrong_usage_points_to_the_help(run: Run, line: str) -> None:
    answer = run(line)
    assert answer.code == 2
    assert "Try 'quickstudy" in answer.err


def test_out_that_cannot_be_written_is_found_before_training(run: Run, home: Path) -> None:
    path = "pics/'class 00 (é)'/00.png/r"  # below a file nobody can write, not even root
    refused(
        run(own(path, "--steps 100000")), "can't write pics/class 00 (é)/00.png/r/", "name another folder"
    )


def test_checkpoints_that_do_not_fit(run: Run, home: Path, tmp_path: Path) -> None:
    weights, manifest = checkpoint.load(home / "r" / "best.safetensors")
    path = tmp_path / "other.safetensors"
    name = next(k for k in weights if k.startswith("encoder.convs.1"))
    wider = {k: v for k, v in weights.items() if k != name}
    checkpoint.save(path, wider, manifest)
    refused(run(f"evaluate {path}"), f"{path} belongs to another encoder or learner: it lacks {name}")
    checkpoint.save(path, wider | {name: weights[name][:5]}, manifest)
    refused(run(f"evaluate {path}"), f"{path} belongs to another encoder", "[5, 64, 3, 3]", "[64, 64, 3, 3]")
    checkpoint.save(path, weights, manifest | {"recipe": "later-idea"})
    refused(run(f"evaluate {path}"), "was trained by recipe 'later-idea', which this version lacks")


def test_damaged_checkpoints(run: Run, home: Path, tmp_path: Path) -> None:
    whole = (home / "r" / "best.safetensors").read_bytes()
    for content in (b"", b"hello", whole[:300], whole[:-7]):
        (tmp_path / "best.safetensors").write_bytes(content)
        refused(run(f"evaluate {tmp_path}"), "best.safetensors is damaged or not a safetensors file")


def test_debug_shows_where_an_error_comes_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKSTUDY_DEBUG", "1")
    with pytest.raises(ValueError, match="there is no recipe 'nosuch'"):
        run("train nosuch")


@pytest.mark.medium
def test_an_error_is_one_line_from_outside_too(home: Path) -> None:
    with program("data --data-root nowhere", home) as child:
        out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, out) == (1, "")
    assert err == "error: --data-root names nowhere, which is not a folder\n"


# Lists, on a machine that has nothing


def test_lists_need_neither_data_nor_network(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    data, recipes, models = run("data"), run("recipes"), run("models")
    assert [a.code for a in (data, recipes, models)] == [0, 0, 0]
    assert [a.err for a in (data, recipes, models)] == ["", "", ""]
    assert f"data root: {tmp_path / 'cache' / 'data'}\n" in data.out
    for name in ("glyphs", "omniglot", "images", "embedded", "1623", "32460"):
        assert name in data.out
    for name in (
        "prototypical-glyphs",
        "prototypical-omniglot-1shot",
        "prototypical-images",
        "98.8",
        "20w5s",
    ):
        assert name in recipes.out
    assert not (tmp_path / "cache").exists(), "looking leaves no trace"


def test_data_tells_what_is_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "cifar100").mkdir()
    assert run(f"data --data-root {tmp_path}").out.count("no, fetched") == 3
    for name in ("images_background.zip", "images_evaluation.zip"):
        (tmp_path / "omniglot" / name).touch()
    (tmp_path / "cifar100" / "cifar100.zip").touch()
    assert "no, fetched" not in run(f"data --data-root {tmp_path}").out


@pytest.fixture(scope="module")
def heavy() -> list[str]:
    """What importing the command line loads; 0.3 s without these, several seconds with them."""
    code = "import sys, quickstudy.cli.app; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_help_is_quick(run: Run, heavy: list[str]) -> None:
    assert "typer" in heavy
    assert not {"torch", "numpy", "lightning_fabric", "sklearn", "matplotlib", "PIL"} & set(heavy)
    answer = run("--help")
    assert answer.code == 0
    for command in ("train", "evaluate", "predict", "recipes", "models", "data", "plot", "demo"):
        assert command in answer.out
        assert run(f"{command} --help").code == 0


@pytest.mark.slow
def test_a_rule_is_learned_stopped_resumed_and_raced(run: Run, tmp_path: Path) -> None:
    training = "train lstm-optimizer-quadratics --steps 4 --tasks 4 --test-episodes 8 --accelerator cpu"
    stopped = run(f"{training} --out {tmp_path}/r --minutes 1e-9")
    assert stopped.code == 0
    assert "out of time after 1 step" in stopped.err
    assert "--resume" in stopped.err
    done = run(f"{training} --out {tmp_path}/r --resume")
    assert done.code == 0
    assert "finished after 4 steps" in done.err
    assert "at step 100 at step 4" in done.err
    row = done.out.splitlines()[3].replace("│", "").split()
    assert (row[0], row[1], row[-2], row[-1]) == ("quadratics", "100", "8", "2"), "problems, and their seed"
    raced = run(
        f"optimize quadratics --rule {tmp_path}/r --steps 3 --problems 4 --out {tmp_path}/plots --json"
    )
    assert raced.code == 0, raced.err
    rows = json.loads(raced.out)
    assert [row["rule"] for row in rows] == [
        "r",
        "SGD",
        "heavy ball",
        "NAG",
        "RMSprop",
        "Adam",
        "AdamW, cosine",
    ]
    assert [row["lr"] is None for row in rows] == [True] + 6 * [False]
    assert all(row["mean"] > 0 and row["steps"] == 3 and row["problems"] == 4 for row in rows)
    assert (tmp_path / "plots" / "race-quadratics-3.png").stat().st_size > 10_000
    shown = run(f"optimize quadratics --rule {tmp_path}/r --steps 3 --problems 4 --out {tmp_path}/plots")
    assert "learned" in shown.out
    assert "loss at 3" in shown.out


@pytest.mark.medium
def test_what_learns_nothing_is_said_to(run: Run, tmp_path: Path) -> None:
    """Items of noise: by the training, by its evaluation, and by a calibration."""
    (tmp_path / "own.py").write_text(TINY)
    trained = run(f"train {tmp_path}/own.py:tiny --test-episodes 0 --out {tmp_path}/m --accelerator cpu")
    assert "nothing learned that holds for other classes: " in trained.err
    tested = run(f"evaluate {tmp_path}/m --recipe {tmp_path}/own.py:tiny --episodes 20")
    assert "% is no better than guessing, 33.3 %" in " ".join(tested.warned) + tested.err
    rng = np.random.default_rng(0)
    for i in range(60):
        path = tmp_path / "people" / f"p{i // 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16)).astype(np.uint8)).save(path)
    measured = run(f"calibrate r --copy {tmp_path}/c --images {tmp_path}/people")
    assert "at this threshold it turns away n" in " ".join(measured.warned), measured


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("optimize bowls", ("no family 'bowls'", "quadratics", "digits")),
        ("optimize quadratics --rule nowhere", ("nowhere",)),
        ("optimize mnist --rule RULE", ("no MNIST in", "scikit-learn")),
        ("evaluate RULE", ("holds an update rule", "quickstudy optimize --rule")),
        ("train lstm-optimizer-quadratics --set images=pics", ("'images'", "states its own")),
        ("train lstm-optimizer-quadratics --devices 2", ("one process", "leave out --devices 2")),
        ("train lstm-optimizer-quadratics --set trainval=true", ("leave out --set trainval",)),
        ("train prototypical-glyphs --devices 64 --accelerator cuda", ("64 × cuda",)),
        ("train lstm-optimizer", ("no recipe 'lstm-optimizer'", "lstm-optimizer-quadratics")),
    ],
)
def test_what_can_not_be_raced_or_learned(
    run: Run, line: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    if "RULE" in line:
        run(
            "train mlp-optimizer-digits --steps 1 --tasks 1 --test-episodes 0 --accelerator cpu "
            f"--out {tmp_path}/r"
        )
    refused(run(line.replace("RULE", f"{tmp_path}/r")), *parts)
