"""What goes into a learner's `predict` and what comes out: the one door that all learners have."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.core.episode import Support, check_floats
from quickstudy.core.errors import WrongTypeError
from quickstudy.core.kernels.torch_private import is_traced, is_vmapped

Predict = Callable[[Any, Support, Tensor], Tensor]


def kept(predict: Predict) -> Predict:
    """The method `predict` of a class of learners, with a check of what it is given and what it gives.

    Shapes and types are always checked. Values are read in evaluation mode: those of items on the CPU alone,
    as elsewhere that would wait for the accelerator, those of scores everywhere. In training `fit` sees to it
    that the loss is finite.

    Args:
        predict: Method of a subclass of `Learner`.
    """

    @functools.wraps(predict)
    def call(self: Any, support: Support, query_x: Tensor) -> Tensor:
        check_question(self, support, query_x)
        try:
            scores = predict(self, support, query_x)
        except RuntimeError as error:  # torch's own, which names numbers and no reason
            if reason := channels_last_reason(self, query_x) or _other_precision(self, support.x, query_x):
                raise ValueError(reason) from error
            raise
        check_scores(self, scores, support, query_x)
        return scores

    return call


def check_question(learner: nn.Module, support: Support, query_x: Tensor) -> None:
    """Refuse what a learner can't be asked.

    Args:
        learner: Learner that is asked.
        support: Labelled items of T tasks.
        query_x: [T, Q, ...] items to classify.

    Raises:
        TypeError: If the support is no `Support`, or the queries are no tensor.
        ValueError: If shapes or precisions disagree, or an item isn't finite.
    """
    if not isinstance(support, Support):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WrongTypeError(
            f"the support is a {type(support).__name__}: predict takes Support(x, y, ways), with x [T, S, "
            "...]"
        )
    check_floats("query", query_x)
    x = support.x
    if query_x.ndim < 2 or query_x.shape[:1] + query_x.shape[2:] != x.shape[:1] + x.shape[2:]:
        raise ValueError(
            f"query items are {list(query_x.shape)} and the support {list(x.shape)}: they may differ in the "
            "second dimension only"
        )
    trained: Any = getattr(learner, "item_format", None)
    if trained is not None and tuple(x.shape[2:]) != trained.shape:
        raise ValueError(
            f"items are {list(x.shape[2:])} and the learner was trained on {list(trained.shape)}: make "
            "them as "
            f"its item_format does, {trained}"
        )
    if learner.training or x.device.type != "cpu" or _is_traced(x):
        return
    for which, items in (("support", x), ("unlabelled", support.unlabelled), ("query", query_x)):
        if not _all_finite(items):
            raise ValueError(f"a number in the {which} items is not finite: mend or leave out these items")


def _all_finite(x: Tensor) -> bool:
    """Whether all numbers are finite: so they are where their sum is, which takes one pass and no memory."""
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def check_scores(learner: nn.Module, scores: Any, support: Support, query_x: Tensor) -> None:
    """Refuse scores that aren't those of the queries.

    Args:
        learner: Learner that gave them.
        scores: What `predict` returned.
        support: Labelled items of T tasks.
        query_x: [T, Q, ...] items that were classified.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If they are not [T, Q, N], or for regression not [T, Q, ...].
        FloatingPointError: If one isn't finite.
    """
    name = type(learner).__name__
    if not isinstance(scores, Tensor):
        raise WrongTypeError(
            f"{name}.predict gave a {type(scores).__name__}: return a tensor of scores [T, Q, N]"
        )
    asked = (*query_x.shape[:2], support.ways) if support.ways else tuple(query_x.shape[:2])
    found = tuple(scores.shape) if support.ways else tuple(scores.shape[:2])
    if found != asked:
        turned = support.ways and found == (asked[0], asked[2], asked[1])
        raise ValueError(
            f"{name}.predict gave {list(scores.shape)} for {asked[1]} queries of {asked[0]} tasks"
            + (f" of {support.ways} ways" if support.ways else "")
            + f": return {list(asked)}"
            + (
                ", such as by scores.mT"
                if turned
                else ", a score for each class of the task" * bool(support.ways)
            )
        )
    if not learner.training and not _is_traced(scores) and not _all_finite(scores):
        bad = next((k for k, t in learner.state_dict().items() if not t.isfinite().all()), None)
        raise FloatingPointError(
            f"{name}.predict gave scores that aren't finite"
            + (
                f", as its weights {bad} aren't: train it anew"
                if bad
                else ": lower the (inner) learning rate"
            )
        )


def check_weights(learner: nn.Module) -> None:
    """Refuse weights that aren't finite, which make no predictions.

    Args:
        learner: Any module.

    Raises:
        FloatingPointError: If there are any; the message names the first.
    """
    for name, t in learner.state_dict().items():
        if isinstance(t, Tensor) and not t.isfinite().all():
            raise FloatingPointError(f"the weights {name} aren't finite: train the learner anew")


def channels_last_reason(module: nn.Module, x: Tensor) -> str | None:
    """What to say of pictures that a network failed on because their channels come last, if that is so.

    Args:
        module: Network that failed.
        x: [..., H, W, C] items.
    """
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or x.ndim < 4 or x.shape[-3] == first.in_channels or x.shape[-1] != first.in_channels:
        return None
    return (
        f"pictures are {list(x.shape[-3:])}, height × width × channels, and the network takes channels "
        "first: "
        "give it x.movedim(-1, -3)"
    )


def _other_precision(learner: nn.Module, *items: Tensor) -> str | None:
    wanted = {p.dtype for p in learner.parameters()}
    found = next((x.dtype for x in items if wanted and x.dtype not in wanted), None)
    if found is None or torch.is_autocast_enabled(items[0].device.type):
        return None
    names = " and ".join(sorted(map(str, wanted)))
    return (
        f"items are {found} and the weights {names}: convert the items, such as by x.float(), or the learner"
    )


def _is_traced(x: Tensor) -> bool:
    """Whether there are no values to read: the tensor is compiled, exported or batched."""
    return x.is_meta or torch.compiler.is_compiling() or is_traced() or is_vmapped(x)
