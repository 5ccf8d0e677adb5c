"""adapt: the one inner loop, and the rules that it takes its steps by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Tensors = dict[str, Tensor]
"""Tensors by the names that `nn.Module.named_parameters` gives them."""
State = Any
Loss = Callable[[Tensors, int], Tensor]


@dataclass(frozen=True)
class Rule:
    """An update rule: a pair of pure functions.

    Args:
        init: from the parameters to the rule's first state.
        update: from (gradients, state, parameters) to (new parameters, new state).
    """

    init: Callable[[Tensors], State]
    update: Callable[[Tensors, State, Tensors], tuple[Tensors, State]]


@dataclass(frozen=True)
class Adapted:
    """What an inner loop has made.

    Args:
        parameters: after the last step.
        losses: [steps, ...] the loss before each step, as `loss` gave it; without gradient.
        state: the rule's, after the last step.
    """

    parameters: Tensors
    losses: Tensor
    state: State = None


def adapt(loss: Loss, parameters: Tensors, rule: Rule, steps: int, first_order: bool = False) -> Adapted:
    r"""Take some steps of a rule, $\theta_{k+1} = U(\theta_k, \nabla L_k(\theta_k))$.

    The result is differentiable with respect to the first parameters, to whatever the rule has learned, and
    to whatever the loss depends on; under `torch.no_grad` nothing is, and no graph is kept.

    Args:
        loss: from (parameters, number of the step) to a loss: a scalar, or one loss for each of some tasks
            whose parameters are side by side. Tasks must not share parameters, as the gradient of their sum
            is taken.
        parameters: what is adapted. They are not changed.
        rule: such as `sgd(0.4)`.
        steps: how many, 0 or more.
        first_order: take the gradients for constants ($\nabla\nabla L = 0$), and keep no graph of a step.

    Returns:
        The adapted parameters, and the losses before each step. A parameter that the loss doesn't depend on
        has gradient 0.

    Raises:
        ValueError: if `steps` is negative.

    Example:
        >>> import torch
        >>> from quickstudy.adapt import adapt, sgd
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
    differentiable = torch.is_grad_enabled() and not first_order
    state = rule.init(parameters)
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
        parameters, state = rule.update(dict(zip(at, gradients, strict=True)), state, parameters)
        losses.append(value.detach())
    return Adapted(parameters, torch.stack(losses) if losses else torch.empty(0), state)


def sgd(lr: float | Tensors) -> Rule:
    r"""Gradient descent, $\theta \leftarrow \theta - \alpha \circ \nabla L(\theta)$.

    Args:
        lr: α: one rate, or for each parameter a tensor that broadcasts to its shape, learned or not.
    """

    def update(gradients: Tensors, state: State, parameters: Tensors) -> tuple[Tensors, State]:
        if isinstance(lr, float | int):  # an operation less, which is felt in small networks
            return {k: p.add(gradients[k], alpha=-lr) for k, p in parameters.items()}, state
        return {k: p - lr[k] * gradients[k] for k, p in parameters.items()}, state

    return Rule(lambda parameters: (), update)


def adam(lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> Rule:
    r"""Adam, $\theta \leftarrow \theta - \alpha\,\hat m / (\sqrt{\hat v} + \epsilon)$, with bias correction.

    Args:
        lr: α.
        beta1: decay of the mean m; 0 leaves it out, as in Reptile's inner loop.
        beta2: decay of the mean square v.
        eps: ε.

    Reference: Kingma, Ba: "Adam: A Method for Stochastic Optimization", 2015.
    """

    def init(parameters: Tensors) -> State:
        zeros = {k: torch.zeros_like(p) for k, p in parameters.items()}
        return 0, zeros, zeros

    def update(gradients: Tensors, state: State, parameters: Tensors) -> tuple[Tensors, State]:
        t, m, v = state[0] + 1, state[1], state[2]
        m = {k: beta1 * m[k] + (1 - beta1) * g for k, g in gradients.items()} if beta1 else gradients
        v = {k: torch.addcmul(beta2 * v[k], g, g, value=1 - beta2) for k, g in gradients.items()}
        # the least v: where it is 0, √v has no gradient
        new = {
            k: p - lr / (1 - beta1**t) * m[k] / ((v[k].clamp_min(1e-38) / (1 - beta2**t)).sqrt() + eps)
            for k, p in parameters.items()
        }
        return new, (t, m, v)

    return Rule(init, update)
