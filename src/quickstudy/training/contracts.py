"""What `fit` and `evaluate` take, said where something else is given."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.core.episode import Episode
from quickstudy.core.errors import WrongTypeError
from quickstudy.core.inner_loop import InnerLoop
from quickstudy.core.learner import Learner, evaluation_mode
from quickstudy.core.seeds import generators_kept
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.training.schedules import MakeOptimizer, Schedule


def check_learner(learner: Any, taker: str) -> None:
    """Refuse what can't be asked for predictions, such as a bare encoder.

    Args:
        learner: Anything.
        taker: Name of the function that was given it.

    Raises:
        TypeError: If it is no module with `predict`.
    """
    if not isinstance(learner, nn.Module) or not callable(getattr(learner, "predict", None)):
        raise WrongTypeError(
            f"{taker} was given {_told(learner)} and takes a learner, such as "
            "quickstudy.Prototypical(encoder)"
        )


def check_batches(name: str, batches: Any) -> None:
    """Refuse what is no sequence of meta-batches.

    Args:
        name: Name of the argument, for the message.
        batches: Anything.

    Raises:
        TypeError: If it lacks what `Batches` has; the message says how to make one of what it is.
    """
    if all(hasattr(batches, part) for part in ("tasks", "seed", "on", "part")):
        return
    if isinstance(batches, ClassPool):
        how = "draw tasks of it: Episodes(pool, Setting(5, 1))"
    elif isinstance(batches, Episode):
        how = "it is one meta-batch: give the sequence, Episodes(pool, Setting(5, 1))"
    elif isinstance(batches, torch.utils.data.DataLoader | torch.utils.data.Dataset):
        how = "bring it into a pool, Episodes(ClassPool.from_dataset(dataset), Setting(5, 1))"
    else:
        how = (
            "give Episodes(pool, Setting(5, 1)), or for tasks of your own a function from i to an Episode, "
            "a list or a generator of episodes"
        )
    raise WrongTypeError(f"{name} is {_told(batches)}: {how}")


def check_optimizer(optimizer: MakeOptimizer | None) -> None:
    """Refuse an optimizer that is made already, and what makes none.

    Args:
        optimizer: Anything.

    Raises:
        TypeError: If it is no function, or an optimizer itself.
    """
    given: Any = optimizer
    if isinstance(given, torch.optim.Optimizer):
        kind = type(given).__name__
        raise WrongTypeError(
            f"optimizer is {_told(given)} that is made already: give what makes it of the parameters, "
            f"optimizer=lambda parameters: torch.optim.{kind}(parameters, lr={given.param_groups[0]['lr']})"
        )
    if given is not None and not callable(given):
        raise WrongTypeError(
            f"optimizer is {_told(given)}: give a function from the parameters to an optimizer, such as "
            "torch.optim.SGD"
        )


def check_made(optimizer: object) -> None:
    """Refuse what a function made in the place of an optimizer.

    Args:
        optimizer: What it returned.

    Raises:
        TypeError: If it is no optimizer of torch.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise WrongTypeError(f"optimizer makes {_told(optimizer)}: let it return an optimizer of torch")


def check_schedule(schedule: Schedule) -> None:
    """Refuse a scheduler of torch, and what is no function.

    Args:
        schedule: Anything.

    Raises:
        TypeError: If it is one.
    """
    given: Any = schedule
    of_torch = torch.optim.lr_scheduler.LRScheduler
    if isinstance(given, of_torch) or (isinstance(given, type) and issubclass(given, of_torch)):
        raise WrongTypeError(
            f"schedule is {_told(given)}, which holds a state: give a function from the number of a step "
            "to a "
            "factor of the rate, such as quickstudy.cosine_schedule(steps), or what LambdaLR takes"
        )
    if not callable(given):
        raise WrongTypeError(
            f"schedule is {_told(given)}: give a function from the number of a step to a factor of the rate, "
            "such as lambda step: 1.0"
        )


def check_trainable(learner: Any) -> None:
    """Refuse what can't be trained: no module, or one in which all is frozen.

    Args:
        learner: Anything.

    Raises:
        TypeError: If it is no module.
        ValueError: If it has no parameter that requires a gradient.
    """
    if not isinstance(learner, nn.Module):
        raise WrongTypeError(
            f"fit was given {_told(learner)} and takes a learner, such as quickstudy.Prototypical(encoder)"
        )
    if not any(p.requires_grad for p in learner.parameters()):
        raise ValueError(
            f"no parameter of the {type(learner).__name__} requires a gradient, so there is nothing to "
            "train: "
            "evaluate needs no training; else thaw some, encoder.requires_grad_(True)"
        )


def meta_loss(learner: nn.Module, value: Any) -> Tensor:
    """What a learner's `forward` gave, if it is a loss.

    Args:
        learner: Learner that gave it.
        value: What it gave.

    Raises:
        TypeError: If it is not a scalar that can be differentiated.
    """
    if isinstance(value, Tensor) and value.ndim == 0 and value.requires_grad:
        return value
    found = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else _told(value)
    if isinstance(value, Tensor) and value.ndim == 0:
        found = "a number without a gradient"
    raise WrongTypeError(
        f"forward of {type(learner).__name__} gave {found}: fit takes a learner, or a module whose "
        "forward makes "
        "a meta-batch into one loss that depends on its parameters"
    )


@contextmanager
def said_of_encoders(learner: nn.Module) -> Generator[None]:
    """Context of a call of `forward`, in which a bare encoder fails on an episode for no clear reason.

    Args:
        learner: Module that is called.

    Raises:
        TypeError: If it fails so, and is no learner.
    """
    try:
        yield
    except (AttributeError, TypeError, NotImplementedError) as error:
        if isinstance(learner, Learner):
            raise
        raise WrongTypeError(
            f"{type(learner).__name__} can't learn from an episode ({error}): fit takes a learner, such as "
            "quickstudy.Prototypical(encoder), or a module from a meta-batch to a loss"
        ) from error


def check_format(learner: nn.Module, episodes: Any) -> None:
    """Refuse items that are made in another way than those that a loaded learner was trained on.

    Args:
        learner: Learner, with an `item_format` if it was loaded from a checkpoint that states it.
        episodes: Episodes of a pool, with an `item_format` if that is known.

    Raises:
        ValueError: If one is of another size, colour or inversion, or of another rate.
    """
    trained: Any = getattr(learner, "item_format", None)
    given: Any = getattr(getattr(episodes, "pool", None), "item_format", None)
    if trained is None or given is None:
        return
    for name in ("size", "channels", "invert", "rate", "seconds"):
        a, b = getattr(given, name, None), getattr(trained, name, None)
        if a != b:
            raise ValueError(
                f"the items of {episodes.pool.name} have {name} {a}, and the learner was trained on "
                f"{name} {b}: "
                "load them in the learner's item_format"
            )


def check_ways(learner: nn.Module, episodes: Any) -> None:
    """Refuse tasks that may have more classes than a model distinguishes, before any work is done.

    Args:
        learner: Learner; those with an inner loop have a model with a fixed number of outputs.
        episodes: Episodes, with a setting if that is known.

    Raises:
        ValueError: If there are more.
    """
    setting: Any = getattr(episodes, "setting", None)
    if not (isinstance(learner, InnerLoop) and isinstance(setting, Setting) and setting.drawn):
        return  # where nothing is drawn, the first step says it
    items = episodes.part(0).support.x[0, :2].to(learner.device)
    with torch.no_grad(), generators_kept(), evaluation_mode(learner):
        outputs = learner.model(items).shape[-1]
    if outputs < setting.most.ways:
        raise ValueError(
            f"the model of {type(learner).__name__} distinguishes {outputs} classes and tasks of {setting} "
            f"have up to {setting.most.ways}: give it as many outputs, or ask for ways=(2, {outputs})"
        )


def _told(thing: object) -> str:
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    name = type(thing).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
