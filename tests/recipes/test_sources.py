"""Recipes by their names, and their arguments from text."""

import sys
from pathlib import Path

import pytest

from quickstudy.cli.lists import recipes as tell
from quickstudy.recipes import RECIPES, Experiment, Recipe, RuleRecipe, recipe_source
from quickstudy.recipes.sources import Argument

OWN = '''
"""A method of one's own."""

from dataclasses import dataclass, replace

from beside import SCALE  # a module in the same folder
from quickstudy.recipes.metric import prototypical_glyphs


@dataclass
class Thing:
    scale: float = SCALE


def scaled(scale: float, deep: bool = False, name: str | None = None):
    """Scaled prototypes.

    Args:
        scale: Factor of
            the scores.
        deep: Whether it is deep.
    """
    return replace(prototypical_glyphs(), summary=f"{scale} {deep} {name} {Thing().scale}")


def wrong():
    return 3
'''


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "beside.py").write_text("SCALE = 7.5\n")
    return tmp_path / "own.py"


def test_every_recipe_is_an_experiment_with_arguments_that_are_told() -> None:
    kinds = set()
    for name in RECIPES:
        source = recipe_source(name)
        stated = source.example()
        assert isinstance(stated, Experiment), name
        kinds.add(type(stated))
        assert stated.describe(None)
        for argument in source.arguments().values():
            assert argument.help, (name, argument.name)
            assert argument.takes
    assert kinds == {Recipe, RuleRecipe}


def test_a_recipe_in_a_file_of_ones_own(own: Path) -> None:
    before = list(sys.path)
    source = recipe_source(f"{own}:scaled")
    assert sys.path == before
    assert (source.name, source.own) == ("own.py:scaled", True)
    told = source.arguments()
    assert (told["scale"].takes, told["scale"].help) == ("a number", "Factor of the scores.")
    assert told["scale"].needed
    values = source.parse(["scale=2", "deep=yes", "name=a=b"], {})
    assert values == {"scale": 2.0, "deep": True, "name": "a=b"}
    assert source.state(values).summary == "2.0 True a=b 7.5"


def test_a_recipe_in_a_module_that_is_installed(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(own.parent)
    source = recipe_source("own:scaled")
    assert source.name == "own:scaled"
    assert source.state({"scale": 1.0}).summary.startswith("1.0 False")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nosuch", [], "there is no recipe 'nosuch': quickstudy recipes lists all"),
        ("prototypical-glyph", [], "did you mean prototypical-glyphs"),
        ("FOLDER/none.py:f", [], "there is no file"),
        ("no.such.module:f", [], "there is no module 'no.such.module'"),
        ("FOLDER/own.py:scale", [], "own.py has no function 'scale': it has scaled, wrong"),
        ("FOLDER/own.py:Thing", [], "has no function 'Thing'"),
        ("FOLDER/own.py:wrong", [], "gives a int and no recipe"),
        ("FOLDER/own.py:scaled", [], r"own.py:scaled needs --set scale=… \(Factor of the scores\)"),
        ("FOLDER/own.py:scaled", ["scale"], "write it as NAME=VALUE"),
        ("FOLDER/own.py:scaled", ["scale=much"], "scale is 'much': it takes a number"),
        ("FOLDER/own.py:scaled", ["deep=perhaps"], "it takes true or false"),
        ("FOLDER/own.py:scaled", ["scal=2"], "no argument 'scal' to --set: did you mean 'scale'"),
        ("prototypical-glyphs", ["ways=3"], "it takes nothing: it states its own data and tasks"),
    ],
)
def test_what_is_wrong_is_one_line(own: Path, name: str, settings: list[str], message: str) -> None:
    def stated() -> Experiment:
        source = recipe_source(name.replace("FOLDER", str(own.parent)))
        return source.state(source.parse(settings, {}))

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        stated()


def test_an_error_in_ones_own_file_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        recipe_source(f"{tmp_path / 'broken.py'}:f")
    assert "quickstudy_recipe_broken" not in sys.modules


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "3", 3),
        (int | None, "3", 3),
        (float, "1e-3", 0.001),
        (str, "3", "3"),
        (Path, ".", str(Path.cwd())),
        (str | Path | list[float], "0.6,0.2,0.2", [0.6, 0.2, 0.2]),
        (str | Path | list[float], "split.json", str(Path.cwd() / "split.json")),
    ],
)
def test_texts_become_values(kind: object, text: str, value: object) -> None:
    made = Argument("x", kind, None, "").value(text)
    assert (made, type(made)) == (value, type(value))


def test_a_recipe_that_needs_arguments_is_told_without_them(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(f"{own}:scaled")
    told = capsys.readouterr().out
    assert "Scaled prototypes." in told
    assert "Factor of the scores." in told
