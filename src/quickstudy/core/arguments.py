"""Checks of arguments where they are given: that numbers are whole or finite, and modules are modules."""

import functools
import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin

from torch import nn

from quickstudy.core.errors import WrongTypeError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Class = TypeVar("Class", bound=type[object])


def checked(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorator of a function: its arguments are checked by their annotations, as by `checked_arguments`."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python's own message names the function
        bound.arguments |= checked_arguments(signature, bound.arguments)
        return function(*bound.args, **bound.kwargs)

    return call


def checked_class(cls: Class) -> Class:
    """Decorator of a class whose arguments are checked by their annotations, as `checked_arguments` does."""
    made: Any = cls
    made.__init__ = checked(made.__init__)
    return cls


def checked_arguments(signature: inspect.Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as their annotations want them: numpy's numbers become Python's.

    Where an `int` is asked for, the number must be whole; where a `float`, finite; where a module, it must be
    one. All else is left to the function.

    Args:
        signature: Signature with the annotations.
        given: Arguments by name.

    Raises:
        ValueError: If a number is not whole or not finite; the message names it.
        TypeError: If what is given for a module is none.
    """
    return {name: _as(name, value, signature.parameters[name].annotation) for name, value in given.items()}


def _as(name: str, value: Any, wanted: Any) -> Any:
    kinds = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
    if value is None and NoneType in kinds:
        return value
    kinds = tuple(kind for kind in kinds if kind is not NoneType)
    if kinds == (int,):
        return whole(name, value)
    if float in kinds and (len(kinds) == 1 or isinstance(value, Real)):
        return finite(name, value)
    if len(kinds) == 1 and get_origin(kinds[0]) in (Sequence, tuple) and get_args(kinds[0])[0] is int:
        return _whole_numbers(name, value)
    if len(kinds) == 1 and inspect.isclass(kinds[0]) and issubclass(kinds[0], nn.Module):
        return _module(name, value)
    return value


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A whole number.

    Args:
        name: Name of the argument, for the message.
        value: Number, of Python or of numpy.
        least: Least number that is allowed; any by default.

    Raises:
        ValueError: If it is no whole number, or too small.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}: it must be a whole number") from None
    if isinstance(value, bool):
        raise ValueError(f"{name} is {value}: it must be a whole number")
    if least is not None and number < least:
        raise ValueError(f"{name} is {number}: it must be at least {least}")
    return number


def finite(name: str, value: Any, least: float | None = None) -> Any:
    """A finite number, or a tensor as it is.

    Args:
        name: Name of the argument, for the message.
        value: Number, of Python or of numpy.
        least: Least number that is allowed; any by default.

    Raises:
        ValueError: If it is no number, not finite, or too small.
    """
    if hasattr(value, "requires_grad"):
        return value
    if type(value) is bool or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}: it must be a finite number")
    if least is not None and value < least:
        raise ValueError(f"{name} is {value}: it must be at least {least}")
    return value if isinstance(value, int | float) else float(value)


def check_whole(least: int | None = 1, **numbers: Any) -> None:
    """Refuse numbers that aren't whole, or too small.

    Args:
        least: Least number that is allowed; None for any.
        numbers: Numbers by name; None for those that weren't given.

    Raises:
        ValueError: If there is one; the message names it.
    """
    for name, value in numbers.items():
        if value is not None:
            whole(name, value, least)


def check_finite(least: float | None = None, **numbers: Any) -> None:
    """Refuse numbers that aren't finite, or too small.

    Args:
        least: Least number that is allowed; any by default.
        numbers: Numbers by name; None for those that weren't given.

    Raises:
        ValueError: If there is one; the message names it.
    """
    for name, value in numbers.items():
        if value is not None:
            finite(name, value, least)


def check_positive(**numbers: Any) -> None:
    """Refuse numbers that aren't finite and above 0.

    Args:
        numbers: Numbers by name; None for those that weren't given.

    Raises:
        ValueError: If there is one; the message names it.
    """
    for name, value in numbers.items():
        if value is not None and not finite(name, value) > 0:
            raise ValueError(f"{name} is {value}: it must be above 0")


def _whole_numbers(name: str, value: Any) -> Any:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ValueError(f"{name} is {value!r}: it must be several whole numbers, such as (64, 64)")
    return (
        [whole(f"a number of {name}", v) for v in value]
        if isinstance(value, list)
        else tuple(whole(f"a number of {name}", v) for v in value)
    )


def _module(name: str, value: Any) -> Any:
    if inspect.isclass(value) and issubclass(value, nn.Module):
        raise WrongTypeError(f"{name} is the class {value.__name__}: make one of it, {value.__name__}(…)")
    if not isinstance(value, nn.Module):
        example = "Prototypical(encoder)" if name == "learner" else "Conv4()"
        raise WrongTypeError(
            f"{name} is a {type(value).__name__}: it must be a module of torch, such as quickstudy.{example}"
        )
    return value
