"""Recipes and settings of one's own that are wrong: a line that says where, and no traceback."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quickstudy.__main__ import main
from quickstudy.cli.terminal import Terminal
from quickstudy.core import checkpoint
from quickstudy.recipes import weights
from quickstudy.recipes.sources import recipe_source
from quickstudy.training.contracts import check_schedule
from quickstudy.training.launch import launch
from tests.benchmarks.test_trainings import TINY


def stated(folder: Path, old: str = "", new: str = "", **arguments: Any) -> Any:
    (folder / "own.py").write_text(TINY.replace(old, new))
    return recipe_source(f"{folder / 'own.py'}:tiny").state(arguments)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("steps=steps", "steps='4'", "steps of a recipe is '4' of type str: give a whole number above 0"),
        (
            "steps=steps",
            "steps=steps, lr=-1.0",
            "lr of a recipe is -1.0 of type float: give a number above 0",
        ),
        ("steps=steps", "steps=4.5", "steps of a recipe is 4.5 of type float: give a whole number"),
        ("pool=pool", "pool=7", "pool of a recipe is 7 of type int: give a function"),
        ("item_format=ImageFormat(16, 1)", "item_format=16", "item_format of a recipe is 16 of type int"),
        ("train=Setting(3, 1, 2)", "train=5", "train of a recipe is 5 of type int: give Setting(5, 1)"),
        ("tests=(Setting(3, 1, 2),)", "tests=Setting(3, 1)", "give a tuple of settings"),
        (
            "schedule=lambda steps: lambda step: 1.0",
            "schedule=0.1",
            "schedule of a recipe is 0.1 of type float",
        ),
        (
            "paper=",
            "papr=",
            "own.py:tiny fails in line 17 of own.py with TypeError: Recipe.__init__() got an",
        ),
        (
            "steps=steps",
            "steps=steps + 'x'",
            "own.py:tiny fails in line 19 of own.py with TypeError: unsupported",
        ),
        ("    return Recipe(", "    return dict(", "own.py:tiny gives a dict and no recipe"),
    ],
)
def test_what_a_recipe_of_ones_own_states_is_checked(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in TINY
    with pytest.raises(ValueError, match=re.escape(said)):
        stated(tmp_path, old, new)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("pool=pool", "pool=lambda **_: [1]", "t: pool gives a list: let it return a ClassPool"),
        ("Prototypical(Conv4(1, 2))", "Conv4(1, 2)", "t: learner gives a Conv4: let it return a learner"),
    ],
)
def test_what_its_functions_give_is_checked(tmp_path: Path, old: str, new: str, said: str) -> None:
    rest = {"display": Terminal(quiet=True), "fabric": launch("cpu"), "options": {}, "arguments": {}}
    with pytest.raises(ValueError, match=said):
        stated(tmp_path, old, new).run(tmp_path / "r", name="t", **rest)


def test_a_setting_without_an_annotation_is_of_the_kind_of_its_default(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def own(steps=3, rate=0.5, on=True, name='x', other=None): ...")
    known = recipe_source(f"{tmp_path / 'own.py'}:own").arguments()
    assert {k: v.kind for k, v in known.items()} == {
        "steps": int,
        "rate": float,
        "on": bool,
        "name": str,
        "other": str,
    }
    with pytest.raises(ValueError, match="steps is 'x': it takes a whole number"):
        known["steps"].value("x")


def test_a_training_remembers_where_its_data_lay(tmp_path: Path) -> None:
    rest = {"display": Terminal(quiet=True), "fabric": launch("cpu"), "arguments": {}}
    options = {"data_root": tmp_path, "steps": 2}
    stated(tmp_path).run(tmp_path / "r", name="t", options=options, **rest)
    manifest = checkpoint.load(tmp_path / "r" / "best.safetensors")[1]
    assert weights.data_root_of(manifest, None) == tmp_path
    assert weights.data_root_of(manifest, "other") == Path("other")
    assert weights.data_root_of(manifest | {"data_root": "gone"}, None) is None
    assert weights.data_root_of(manifest | {"data_root": [1]}, None) is None
    # where the data lie makes no other training of it
    options = {"steps": 2, "resume": True}
    stated(tmp_path).run(tmp_path / "r", name="t", options=options, **rest)


def raises() -> None:
    raise TypeError("x")


@pytest.mark.parametrize(
    ("fault", "one_line"),
    [(lambda: check_schedule(0.1), True), (lambda: len(3), False), (raises, False)],  # type: ignore[arg-type]
)
def test_a_type_error_is_one_line_where_we_say_it_and_a_traceback_else(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[], None], one_line: bool
) -> None:
    monkeypatch.setattr("quickstudy.cli.app.app", lambda **_: fault())
    with pytest.raises(SystemExit if one_line else TypeError) as raised:
        main()
    assert not one_line or str(raised.value).startswith("error: schedule is a float: give a function")
