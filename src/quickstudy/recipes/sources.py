"""Finding a recipe by its name, ours or one in a file of your own, and reading its arguments from text."""

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
import types
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from quickstudy.recipes.experiment import Experiment


@dataclass(frozen=True)
class Argument:
    """An argument of a recipe's function, as it is set by `--set NAME=VALUE`.

    Args:
        name: Name of the argument.
        kind: Its type, as written in the function.
        default: Its default; `inspect.Parameter.empty` where it must be given.
        help: What the function's docstring says of it; empty where it says nothing.
    """

    name: str
    kind: Any
    default: Any
    help: str

    @property
    def needed(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty

    @property
    def choices(self) -> tuple[str, ...]:
        """What it can be, where only some words are possible."""
        return tuple(c for part in _parts(self.kind) if get_origin(part) is Literal for c in get_args(part))

    @property
    def takes(self) -> str:
        """What it can be, in few words."""
        parts = _parts(self.kind)
        told = [_in_words(part) for part in parts if part is not str or Path not in parts]
        return " or ".join(dict.fromkeys(filter(None, told))) or "text"

    def value(self, text: str) -> Any:
        """The value that a text stands for.

        Raises:
            ValueError: If it stands for none.
        """
        for part in sorted(_parts(self.kind), key=_order):
            with suppress(ValueError):
                return _as(part, text)
        raise ValueError(f"{self.name} is {text!r}: it takes {self.takes}")


EXAMPLES: dict[str, dict[str, Any]] = {
    "images": {"images": "DIR"},
    "features": {"features": "FILE", "dimensions": 640},
}
"""What stands for the data of recipes that take one's own, by the argument that names them."""


@dataclass(frozen=True)
class Source:
    """A recipe by its name.

    Args:
        name: Its name in manifests: one of `RECIPES`, `FILE.py:FUNCTION`, or `PACKAGE.MODULE:FUNCTION`.
        make: The function that states the recipe.
    """

    name: str
    make: Callable[..., Experiment]

    @property
    def own(self) -> bool:
        """Whether it is the user's and not one of ours."""
        return ":" in self.name

    def arguments(self) -> dict[str, Argument]:
        """The arguments of its function, by name."""
        hints, texts = get_type_hints(self.make), _docstring_arguments(self.make)
        return {
            p.name: Argument(p.name, hints.get(p.name, _kind_of(p.default)), p.default, texts.get(p.name, ""))
            for p in inspect.signature(self.make).parameters.values()
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        }

    def parse(self, settings: Iterable[str], besides: Mapping[str, Argument]) -> dict[str, Any]:
        """The values of `NAME=VALUE` texts.

        Args:
            settings: The texts.
            besides: Further arguments that may be set, such as those of any training.

        Raises:
            ValueError: If one is not of that form, its name is unknown, or its value is of another type.
        """
        known, values = {**besides, **self.arguments()}, dict[str, Any]()
        for text in settings:
            name, equals, value = text.partition("=")
            name = name.strip().replace("-", "_")
            if not equals:
                raise ValueError(f"--set {text}: write it as NAME=VALUE, such as --set {name}=…")
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                own = ", ".join(self.arguments()) or "nothing: it states its own data and tasks"
                raise ValueError(
                    f"{self.name} has no argument {name!r} to --set"
                    + (f": did you mean {near[0]!r}?" if near else f"; it takes {own}")
                )
            values[name] = known[name].value(value)
        return values

    def example(self) -> Experiment | None:
        """The recipe to look at, of data that needn't be there; None if it needs what its user alone has."""
        known = self.arguments()
        data = EXAMPLES.get("features" if "features" in known else "images" if "images" in known else "", {})
        if any(a.needed and a.name not in data for a in known.values()):
            return None
        return self.state(data)

    def state(self, arguments: Mapping[str, Any]) -> Experiment:
        """The recipe, stated with these arguments.

        Raises:
            ValueError: If an argument is missing, what the function gives is no recipe, or a function of the
                user's own fails.
        """
        lacking = [a for a in self.arguments().values() if a.needed and a.name not in arguments]
        if lacking:
            told = " and ".join(f"--set {a.name}=… ({a.help.rstrip('.') or a.takes})" for a in lacking)
            raise ValueError(f"{self.name} needs {told}")
        with _faults_named(self.name) if self.own else nullcontext():
            made: Any = self.make(**arguments)
        if not isinstance(made, Experiment):
            raise ValueError(
                f"{self.name} gives a {type(made).__name__} and no recipe: return "
                "quickstudy.recipes.Recipe(…)"
            )
        return made


def recipe_source(name: str) -> Source:
    """The recipe of a name: one of ours, `FILE.py:FUNCTION`, or `PACKAGE.MODULE:FUNCTION`.

    The latter two import what they name, which runs it: so a name that stands in a file, such as a manifest,
    is never looked up here unless the user has said it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such recipe, module or function.
    """
    from quickstudy.recipes import RECIPES

    if ":" not in name:
        if name not in RECIPES:
            near = difflib.get_close_matches(name, RECIPES, 3, 0.6)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            raise ValueError(f"there is no recipe {name!r}: {meant}quickstudy recipes lists all")
        return Source(name, RECIPES[name])
    place, _, function = name.rpartition(":")
    file = Path(place)
    if file.suffix == ".py":
        module, short = _module_of_file(file), f"{file.name}:{function}"
    else:
        try:
            module, short = importlib.import_module(place), name
        except ModuleNotFoundError as error:
            if error.name and not f"{place}.".startswith(f"{error.name}."):
                raise  # one that it imports itself
            raise ValueError(
                f"there is no module {place!r}: install it, or name a file, FILE.py:{function}"
            ) from None
    make: Any = getattr(module, function, None)
    if not inspect.isfunction(make):
        found = [
            k for k, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__
        ]
        raise ValueError(f"{place} has no function {function!r}: it has {', '.join(found) or 'none'}")
    return Source(short, make)


def _module_of_file(file: Path) -> types.ModuleType:
    """A file's module, which finds what lies beside it, as a script does."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    name = f"quickstudy_recipe_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(file.resolve().parent))
    return module


@contextmanager
def _faults_named(name: str) -> Generator[None]:
    """Whatever a function of the user's own raises is one line that says where; `ValueError` passes as it is.

    Args:
        name: Name of the recipe.

    Raises:
        ValueError: If anything but `OSError` and `ValueError` is raised in the block.
    """
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"line {at.lineno} of {Path(at.filename).name}"
        raise ValueError(
            f"{name} fails in {where} with {type(error).__name__}: {error} (QUICKSTUDY_DEBUG=1 shows the way)"
        ) from error


def _kind_of(default: Any) -> Any:
    """The type of an argument without an annotation: that of its default."""
    return type(default) if isinstance(default, bool | int | float) else str


def _parts(kind: Any) -> list[Any]:
    """The members of a union, without None; a type by itself."""
    if get_origin(kind) in (Union, types.UnionType):
        return [part for part in get_args(kind) if part is not type(None)]
    return [kind]


def _order(kind: Any) -> int:
    """Narrow types are tried before wide ones: a number is a path as well."""
    narrow = (bool, int, float)
    return narrow.index(kind) if kind in narrow else 5 if kind is Path else 6 if kind is str else 3


def _as(kind: Any, text: str) -> Any:
    """A text as a value of a type; ValueError if it is none."""
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    if kind in (int, float):
        return kind(text)
    if kind is Path:
        return str(Path(text).expanduser().resolve())  # found from anywhere, and a manifest holds no path
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(text)
        return text
    if get_origin(kind) in (tuple, list, Sequence):
        inner = get_args(kind)[0]
        return [_as(inner, part.strip()) for part in text.split(",")]
    if kind is str:
        return text
    raise ValueError(text)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) in (tuple, list, Sequence):
        return "numbers with commas between them"
    return {bool: "true or false", int: "a whole number", float: "a number", Path: "a path", str: "text"}.get(
        kind, ""
    )


def _docstring_arguments(function: Callable[..., object]) -> dict[str, str]:
    """What a docstring in Google's style says of each argument, each in one line."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", inspect.getdoc(function) or "", re.MULTILINE)
    found: dict[str, str] = {}
    name = ""
    for line in section[1].splitlines() if section else ():
        if match := re.match(r" {4}(\w+): (.*)", line):
            name = match[1]
            found[name] = match[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found
