"""How a learner or an encoder of ours was built, so that a checkpoint can build it again."""

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from torch import nn

from quickstudy.core.arguments import checked_arguments

Class = TypeVar("Class", bound=type[nn.Module])
_ARGUMENTS = "_made_with"


class NotRebuildableError(ValueError):
    """Something that a checkpoint can't build again: a module or a function that is not of this library."""


def rebuildable(cls: Class) -> Class:
    """Class decorator: instances remember what they were made with, for `blueprint`.

    It is checked first, by its annotations, as `checked_arguments` does.
    """
    made: Any = cls
    init: Callable[..., None] = made.__init__
    signature = inspect.signature(init)

    @functools.wraps(init)
    def remember(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return init(self, *args, **kwargs)  # Python's own message names the class
        bound.arguments |= checked_arguments(signature, bound.arguments)
        init(*bound.args, **bound.kwargs)
        if type(self) is cls:  # a class derived from it has arguments of its own
            given = dict(bound.arguments)
            options = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
            for name in options:
                given |= given.pop(name, {})
            vars(self)[_ARGUMENTS] = dict(list(given.items())[1:])  # all but self

    made.__init__ = remember
    return cls


def blueprint(value: object) -> Any:
    """What it takes to build a value again, JSON-able; `rebuilt` builds it.

    Args:
        value: A module of a `rebuildable` class, an `nn.Sequential` of such modules, a function of this
            library or a `partial` of one, a number, a text, None, or a sequence of these.

    Raises:
        NotRebuildableError: If it is or holds anything else.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [blueprint(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, nn.Module) and _ARGUMENTS in vars(value):
        arguments: dict[str, object] = vars(value)[_ARGUMENTS]
        return {"class": type(value).__name__, "arguments": {k: blueprint(v) for k, v in arguments.items()}}
    if type(value) is nn.Sequential:
        return {"class": "Sequential", "modules": [blueprint(m) for m in value]}
    if isinstance(value, partial) and not value.args:
        return blueprint(value.func) | {"keywords": {k: blueprint(v) for k, v in value.keywords.items()}}
    kind: str = getattr(value, "__qualname__", type(value).__qualname__)
    ours = inspect.isfunction(value) and value.__module__.startswith("quickstudy.")
    if ours and "<" not in kind:  # no lambda, and nothing made inside of another function
        return {"function": kind}
    raise NotRebuildableError(f"{kind} is not of quickstudy, so that a checkpoint can't build it again")


def rebuilt(plan: Any, find: Callable[[str], Any]) -> Any:
    """The value of a blueprint.

    Args:
        plan: What `blueprint` gave, from JSON too.
        find: From a name to the class or function of this library; a KeyError where there is none.

    Raises:
        ValueError: If the plan names what is not there, or does not fit it.
    """
    if isinstance(plan, list):
        return tuple(rebuilt(p, find) for p in plan)  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(plan, dict):
        return plan
    parts: dict[str, Any] = plan
    if parts.get("class") == "Sequential":
        return nn.Sequential(*rebuilt(parts["modules"], find))
    try:
        made = find(parts["class"] if "class" in parts else parts["function"])
        if "class" in parts:
            return made(**{k: rebuilt(v, find) for k, v in parts["arguments"].items()})
    except (KeyError, TypeError) as error:
        raise ValueError(f"a checkpoint's blueprint does not fit this version ({error})") from None
    keywords = {k: rebuilt(v, find) for k, v in parts.get("keywords", {}).items()}
    return partial(made, **keywords) if keywords else made
