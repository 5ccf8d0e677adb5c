"""Hand-designed update rules, with the same interface as the learned ones.

Each takes the same steps as the torch optimizer that its docstring names.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from quickstudy.core.adapt import FunctionalRule, Rule, RuleState, Tensors
from quickstudy.core.arguments import check_finite, checked

Rate = float | Tensors
"""A learning rate, or for each parameter a tensor of rates that broadcasts to its shape, learned or not."""


@checked
def sgd(lr: Rate) -> Rule:
    r"""Gradient descent, $\theta \leftarrow \theta - \alpha \circ \nabla L(\theta)$ (`torch.optim.SGD`).

    Args:
        lr: Learning rate α, or a tensor of rates for each parameter.
    """
    _check(lr)

    def update(g: Tensors, state: RuleState, parameters: Tensors, loss: Tensor) -> tuple[Tensors, RuleState]:
        return _descend(parameters, g, lr), state

    return FunctionalRule(lambda parameters: (), update)


def sgd_by_step(rates: Tensors) -> Rule:
    r"""Gradient descent with rates for each step, $\theta_{k+1} = \theta_k - \alpha_k \nabla L(\theta_k)$.

    Args:
        rates: [K] rates α for each parameter, by its name; further steps than K take the last.
    """

    def update(g: Tensors, state: RuleState, parameters: Tensors, loss: Tensor) -> tuple[Tensors, RuleState]:
        now = {k: rates[k][min(state, len(rates[k]) - 1)] for k in parameters}
        return _descend(parameters, g, now), state + 1

    return FunctionalRule(lambda parameters: 0, update)


@checked
def heavy_ball(lr: Rate, momentum: float = 0.9) -> Rule:
    r"""Heavy-ball momentum, $b \leftarrow \mu b + \nabla L(\theta)$, $\theta \leftarrow \theta - \alpha b$.

    The same as `torch.optim.SGD(momentum=μ)`.

    Args:
        lr: Learning rate α, or a tensor of rates for each parameter.
        momentum: Momentum μ in [0, 1].

    Reference: Polyak: "Some methods of speeding up the convergence of iteration methods", 1964.
    """
    _check(lr, momentum=momentum)

    def update(g: Tensors, state: RuleState, parameters: Tensors, loss: Tensor) -> tuple[Tensors, RuleState]:
        ball = {k: torch.add(g[k], state[k], alpha=momentum) for k in parameters}
        return _descend(parameters, ball, lr), ball

    return FunctionalRule(_zeros, update)


@checked
def nag(lr: Rate, momentum: float = 0.9) -> Rule:
    r"""Nesterov's accelerated gradient: momentum that looks one step ahead.

    $b \leftarrow \mu b + \nabla L(\theta)$, $\theta \leftarrow \theta - \alpha (\nabla L(\theta) + \mu b)$.
    The same as `torch.optim.SGD(momentum=μ, nesterov=True)`.

    Args:
        lr: Learning rate α, or a tensor of rates for each parameter.
        momentum: Momentum μ in [0, 1].

    Reference: Nesterov: "A method of solving a convex programming problem with convergence rate O(1/k²)",
    1983, in the form of Sutskever et al. 2013.
    """
    _check(lr, momentum=momentum)

    def update(g: Tensors, state: RuleState, parameters: Tensors, loss: Tensor) -> tuple[Tensors, RuleState]:
        ball = {k: torch.add(g[k], state[k], alpha=momentum) for k in parameters}
        ahead = {k: torch.add(g[k], ball[k], alpha=momentum) for k in parameters}
        return _descend(parameters, ahead, lr), ball

    return FunctionalRule(_zeros, update)


@checked
def rmsprop(lr: Rate, decay: float = 0.99, eps: float = 1e-8) -> Rule:
    r"""RMSprop, $v \leftarrow \rho v + (1 - \rho) \nabla L^2$, $\theta \leftarrow \theta - \alpha \nabla L / (\sqrt v + \epsilon)$.

    The same as `torch.optim.RMSprop(alpha=ρ)`.

    Args:
        lr: Learning rate α, or a tensor of rates for each parameter.
        decay: Decay rate ρ of the mean square v, in [0, 1).
        eps: Stabilizer ε of the division.

    Reference: Tieleman, Hinton: "Lecture 6.5: RMSprop", 2012.
    """  # noqa: E501
    _check(lr, decay=decay)
    check_finite(0, eps=eps)

    def update(g: Tensors, state: RuleState, parameters: Tensors, loss: Tensor) -> tuple[Tensors, RuleState]:
        v = {k: _mean_square(state[k], g[k], decay) for k in parameters}
        return _descend(parameters, {k: g[k] / (_root(v[k]) + eps) for k in parameters}, lr), v

    return FunctionalRule(_zeros, update)


@checked
def adam(
    lr: Rate,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    schedule: Callable[[int], float] | None = None,
) -> Rule:
    r"""Adam, $\theta \leftarrow \theta - \alpha\,\hat m / (\sqrt{\hat v} + \epsilon)$, with bias correction.

    The same as `torch.optim.Adam`, and with weight decay the same as `torch.optim.AdamW`.

    Args:
        lr: Learning rate α, or a tensor of rates for each parameter.
        beta1: Decay rate β₁ of the mean m, in [0, 1); 0 leaves the mean out, as in Reptile's inner loop.
        beta2: Decay rate β₂ of the mean square v, in [0, 1).
        eps: Stabilizer ε of the division.
        weight_decay: Weight decay λ: each step first multiplies the parameters by 1 − αλ.
        schedule: Function from the number of steps taken so far to a factor of α; constant by default.

    Reference: Kingma, Ba: "Adam: A Method for Stochastic Optimization", 2015; Loshchilov, Hutter: "Decoupled
    Weight Decay Regularization", 2019.
    """
    _check(lr, beta1=beta1, beta2=beta2)
    check_finite(0, eps=eps, weight_decay=weight_decay)

    def init(parameters: Tensors) -> RuleState:
        return 0, _zeros(parameters), _zeros(parameters)

    def update(g: Tensors, state: RuleState, parameters: Tensors, loss: Tensor) -> tuple[Tensors, RuleState]:
        t, m, v = state[0] + 1, state[1], state[2]
        m = {k: beta1 * m[k] + (1 - beta1) * g[k] for k in parameters} if beta1 else g
        v = {k: _mean_square(v[k], g[k], beta2) for k in parameters}
        way = {
            k: m[k] / (1 - beta1**t) / (_root(v[k] / (1 - beta2**t)) + eps)
            + (weight_decay * parameters[k] if weight_decay else 0)
            for k in parameters
        }
        return _descend(parameters, way, lr, schedule(t - 1) if schedule else 1.0), (t, m, v)

    return FunctionalRule(init, update)


def _check(lr: Rate, **decays: float) -> None:
    if isinstance(lr, float | int):
        check_finite(None, lr=lr)  # a negative one climbs
    for name, value in decays.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: it must lie between 0 and 1")


def _zeros(parameters: Tensors) -> Tensors:
    return {k: torch.zeros_like(p) for k, p in parameters.items()}


def _mean_square(v: Tensor, g: Tensor, decay: float) -> Tensor:
    return torch.addcmul(decay * v, g, g, value=1 - decay)


def _root(v: Tensor) -> Tensor:
    return v.clamp_min(1e-38).sqrt()  # lower bound of v: at 0, √v has no gradient


def _descend(parameters: Tensors, way: Tensors, lr: Rate, factor: float = 1.0) -> Tensors:
    if isinstance(lr, float | int):  # one operation fewer, noticeable in small networks
        return {k: p.add(way[k], alpha=-lr * factor) for k, p in parameters.items()}
    return {k: p - factor * lr[k] * way[k] for k, p in parameters.items()}
