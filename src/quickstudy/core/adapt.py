"""`adapt`, the one inner loop of the library, and `Rule`, the interface of its update rules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from quickstudy.core.arguments import whole
from quickstudy.core.errors import WrongTypeError
from quickstudy.core.process import math_attention

Tensors = dict[str, Tensor]
"""Tensors by name, as `nn.Module.named_parameters` names them."""
RuleState = Any
"""State of a rule between steps: tensors in nested tuples and dictionaries."""
Loss = Callable[[Tensors, int], Tensor]
"""Function from (parameters, number of the step) to the loss that the step lowers."""
Watch = Callable[[int, Tensors, Tensors, Tensor], None]
"""Callback before each step, given its number, the parameters, their gradients and the loss."""


class Rule(Protocol):
    """An update rule: two pure functions, which change none of their arguments.

    `FunctionalRule` makes a rule of two functions; a learned rule is an `nn.Module` with these two methods.
    """

    def init(self, parameters: Tensors, /) -> RuleState:
        """State before the first step: tensors in nested tuples and dictionaries.

        Plain numbers are allowed as well, except in a learned rule.

        Args:
            parameters: Parameters before the first step, by name.
        """
        ...

    def update(
        self, gradients: Tensors, state: RuleState, parameters: Tensors, loss: Tensor, /
    ) -> tuple[Tensors, RuleState]:
        """Take one step.

        Args:
            gradients: Gradients of the loss with respect to the parameters, by name.
            state: State of the rule, returned by `init` or by the previous step.
            parameters: Parameters before the step, by name.
            loss: Loss at the parameters before the step: a scalar, or [T], one for each task in the batch.

        Returns:
            Parameters by name, and state of the rule, after the step.
        """
        ...


@dataclass(frozen=True)
class FunctionalRule:
    """An update rule made of two pure functions.

    Args:
        init: Function from the parameters to the state before the first step, as `Rule.init`.
        update: Function that takes one step, as `Rule.update`.
    """

    init: Callable[[Tensors], RuleState]
    update: Callable[[Tensors, RuleState, Tensors, Tensor], tuple[Tensors, RuleState]]


def check_rule(rule: Any) -> None:
    """Refuse what is no update rule.

    Args:
        rule: Anything.

    Raises:
        TypeError: If it lacks the methods of a `Rule`.
    """
    if isinstance(rule, type) or not (hasattr(rule, "init") and hasattr(rule, "update")):
        told = f"the class {rule.__name__}" if isinstance(rule, type) else repr(rule)[:60]
        raise WrongTypeError(
            f"rule is {told}: give an update rule, such as quickstudy.core.sgd(0.01) or LSTMRule(); an "
            "optimizer of torch is none, and a rate alone neither"
        )


@dataclass(frozen=True)
class Adapted:
    """Result of an inner loop.

    Args:
        parameters: Parameters after the last step, by name.
        losses: [steps, ...] losses, each taken before its step; detached from the graph.
        state: State of the update rule after the last step.
    """

    parameters: Tensors
    losses: Tensor
    state: RuleState = None


def adapt(
    loss: Loss,
    parameters: Tensors,
    rule: Rule,
    steps: int,
    first_order: bool = False,
    state: RuleState = None,
    watch: Watch | None = None,
) -> Adapted:
    r"""Take several steps of an update rule, $\theta_{k+1} = U(\theta_k, \nabla L_k(\theta_k))$.

    The result is differentiable with respect to the initial parameters, the parameters of a learned rule, and
    everything that the loss depends on. Under `torch.no_grad` it is not, and no graph is kept.

    Args:
        loss: Function from (parameters, number of the step, from 0) to a loss: a scalar, or [T], one loss for
            each task, where every parameter is [T, ...]. Tasks must not share parameters, because the
            gradient of the sum of their losses is taken.
        parameters: Parameters to adapt, by name. They are not changed.
        rule: Update rule, such as `sgd(0.4)`.
        steps: Number of steps, at least 0.
        first_order: Whether to treat the gradients as constants ($\nabla\nabla L = 0$), so that steps keep no
            graph.
        state: State of the rule after earlier steps, to continue from; `rule.init(parameters)` by default.
        watch: Callback before each step. The parameters it is given are differentiable like the result; so is
            the loss, unless `first_order`.

    Returns:
        The adapted parameters, the losses before each step, and the state of the rule. A parameter that the
        loss does not depend on has gradient 0.

    Raises:
        ValueError: If `steps` is negative, or if called inside `torch.inference_mode`.

    Example:
        >>> import torch
        >>> from quickstudy.core.adapt import adapt
        >>> from quickstudy.core.update_rules import sgd
        >>> theta = {"x": torch.tensor(1.0, requires_grad=True)}
        >>> adapted = adapt(lambda p, step: p["x"] ** 2, theta, sgd(0.1), steps=1)
        >>> adapted.parameters["x"].item(), adapted.losses.tolist()
        (0.800000011920929, [1.0])
        >>> torch.autograd.grad(adapted.parameters["x"], theta["x"])[0].item()
        0.800000011920929

    Reference: Finn, Abbeel, Levine: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
    2017, Algorithm 1.
    """
    check_rule(rule)
    whole("steps", steps)
    if steps < 0:
        raise ValueError(f"steps is {steps}: take 0 or more")
    if steps and torch.is_inference_mode_enabled():
        raise ValueError(
            "inner steps take gradients, which torch.inference_mode() forbids: use torch.no_grad()"
        )
    differentiable = torch.is_grad_enabled() and not first_order
    state = rule.init(parameters) if state is None else state
    losses: list[Tensor] = []
    for step in range(steps):
        with torch.enable_grad(), math_attention():
            at = {
                k: p if differentiable and p.requires_grad else p.detach().requires_grad_()
                for k, p in parameters.items()
            }
            value = loss(at, step)
            gradients = torch.autograd.grad(
                value.sum(),
                list(at.values()),
                create_graph=differentiable,
                allow_unused=True,
                materialize_grads=True,
            )
        named = dict(zip(at, gradients, strict=True))
        if watch:
            watch(step, parameters, named, value)
        parameters, state = rule.update(named, state, parameters, value.detach() if first_order else value)
        losses.append(value.detach())
    return Adapted(parameters, torch.stack(losses) if losses else torch.empty(0), state)
