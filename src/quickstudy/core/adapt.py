"""adapt: the one inner loop, and what a rule is that it takes its steps by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Tensors = dict[str, Tensor]
"""Tensors by the names that `nn.Module.named_parameters` gives them."""
RuleState = Any
"""What a rule remembers between steps: tensors in tuples and dictionaries."""
Loss = Callable[[Tensors, int], Tensor]
Watch = Callable[[int, Tensors, Tensors, Tensor], None]
"""Called before each step with its number, the parameters, their gradients and the loss."""


class Rule(Protocol):
    """An update rule: two functions that change nothing of what they are given.

    `FunctionalRule` makes one of any two; a learned rule is an `nn.Module` that has them as methods.
    """

    def init(self, parameters: Tensors, /) -> RuleState:
        """The state before the first step: tensors in tuples and dictionaries; no numbers if learned."""
        ...

    def update(
        self, gradients: Tensors, state: RuleState, parameters: Tensors, loss: Tensor, /
    ) -> tuple[Tensors, RuleState]:
        """A step.

        Args:
            gradients: Gradients of the loss at the parameters, by name.
            state: The state that `init` or the last step has returned.
            parameters: The parameters before the step.
            loss: The loss at the parameters: a scalar, or one for each of the tasks that are side by side.

        Returns:
            The parameters and the state after the step.
        """
        ...


@dataclass(frozen=True)
class FunctionalRule:
    """A rule of two functions, as `Rule` describes them."""

    init: Callable[[Tensors], RuleState]
    update: Callable[[Tensors, RuleState, Tensors, Tensor], tuple[Tensors, RuleState]]


@dataclass(frozen=True)
class Adapted:
    """The result of an inner loop.

    Args:
        parameters: Parameters after the last step, by name.
        losses: [steps, ...] the loss before each step, as `loss` gave it; without gradient.
        state: State of the rule after the last step.
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
    r"""Take some steps of a rule, $\theta_{k+1} = U(\theta_k, \nabla L_k(\theta_k))$.

    The result is differentiable with respect to the first parameters, to whatever the rule has learned, and
    to whatever the loss depends on; under `torch.no_grad` nothing is, and no graph is kept.

    Args:
        loss: Function from (parameters, number of the step) to a loss: a scalar, or one loss for each of some
            tasks whose parameters are side by side. Tasks must not share parameters, as the gradient of
            their sum is taken.
        parameters: The parameters to adapt, by name. They are not changed.
        rule: The update rule, such as `sgd(0.4)`.
        steps: Number of steps, 0 or more.
        first_order: Take the gradients for constants ($\nabla\nabla L = 0$), and keep no graph of a step.
        state: State of the rule that earlier steps have left; by default it begins anew.
        watch: Called before each step. The parameters it sees are differentiable as the result is; so is the
            loss, unless `first_order`.

    Returns:
        The adapted parameters, and the losses before each step. A parameter that the loss doesn't depend on
        has gradient 0.

    Raises:
        ValueError: If `steps` is negative, or inside `torch.inference_mode`.

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
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the one whose gradient has a gradient
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
