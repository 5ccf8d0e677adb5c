"""RuleLearner: learning an update rule, as a meta-loss that `fit` can train on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from quickstudy.core.adapt import Adapted, Loss, Rule, RuleState, Tensors, adapt, check_rule
from quickstudy.core.arguments import checked_class
from quickstudy.core.kernels.torch_private import pytree
from quickstudy.optimizer.perturbed import PerTaskRule
from quickstudy.optimizer.problems.problem import ProblemBatch, ProblemFamily, generator
from quickstudy.optimizer.truncation import ProblemSeed, TruncationSchedule

Estimator = Literal["backprop", "es", "pes"]
Objective = Literal["train", "held_out"]


def gradient_of(loss: Loss, parameters: Tensors, step: int) -> tuple[Tensors, Tensor]:
    """Gradients and losses of B problems with separate parameters; both detached.

    Args:
        loss: Function from (parameters, number of the step) to the losses [B].
        parameters: [B, ...] parameters of each problem, by name.
        step: Number of the step.

    Returns:
        [B, ...] gradients by name, and [B] losses.
    """
    with torch.enable_grad():
        at = {k: p.detach().requires_grad_() for k, p in parameters.items()}
        value = loss(at, step)
        gradients = torch.autograd.grad(
            value.sum(), list(at.values()), allow_unused=True, materialize_grads=True
        )
    return dict(zip(at, gradients, strict=True)), value.detach()


@dataclass
class _Unroll:
    """State of the optimizees between two unrolls."""

    problems: ProblemBatch
    seed: int
    horizon: int
    step: int
    parameters: Tensors
    state: RuleState
    perturbed: Tensors
    """PES: the sum of all perturbations of each optimizee's rule so far, [B, ...] by name."""


class UnrollState:
    """Where the optimizees of a `RuleLearner` stand between two unrolls: what torch calls a `Stateful`.

    Args:
        begin: From seed, horizon and step to the problems of that seed, with the optimizees at their start.
    """

    def __init__(self, begin: Callable[[int, int, int], _Unroll]) -> None:
        self._begin = begin
        self.at: _Unroll | None = None

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name, for a checkpoint; none where new problems begin with the next unroll."""
        at = self.at
        if not at:
            return {}
        leaves, _ = pytree.tree_flatten(at.state)
        return (
            {"at": torch.tensor([at.seed, at.horizon, at.step])}
            | {f"parameter.{k}": p for k, p in at.parameters.items()}
            | {f"perturbed.{k}": p for k, p in at.perturbed.items()}
            | {f"state.{i}": leaf for i, leaf in enumerate(leaves)}
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the optimizees that `state_dict` gave; with new problems if it gave nothing."""
        self.at = None
        if not state_dict:
            return
        seed, horizon, step = state_dict["at"].tolist()
        at = self._begin(seed, horizon, step)
        leaves, form = pytree.tree_flatten(at.state)
        at.parameters = {k: state_dict[f"parameter.{k}"].to(p) for k, p in at.parameters.items()}
        at.perturbed = {k: state_dict[f"perturbed.{k}"].to(p) for k, p in at.perturbed.items()}
        at.state = pytree.tree_unflatten(
            [state_dict[f"state.{i}"].to(leaf) for i, leaf in enumerate(leaves)], form
        )
        self.at = at


@checked_class
class RuleLearner(nn.Module):
    r"""Learns the parameters φ of an update rule from the losses of the optimizees that it optimizes.

    $$\mathcal{L}(\phi) = \mathbb{E}_f \Big[ \frac1K \sum_{t=1}^{K} f(\theta_t) \Big], \qquad
    \theta_{t+1} = \theta_t + g_t, \qquad (g_t, h_{t+1}) = m(\nabla_t, h_t, \phi)$$

    A meta-step runs B problems over an unroll of K steps and differentiates their mean loss. The next
    meta-step continues from the detached state (truncated back-propagation), until the horizon is reached and
    new problems begin.

    Estimators of the gradient:

    - "backprop": back-propagation through the unroll. The first-order variant drops
      $\partial \nabla_t / \partial \phi$, as the paper does. The gradient of $\sum f(\theta_t)$ is then that
      of the surrogate $\sum \langle \mathrm{stopgrad} \nabla_t, \theta_t \rangle$, and no graph of the
      optimizees' losses is kept.
    - "es": evolution strategies, $\frac{1}{\sigma^2} \mathbb{E}[\epsilon L(\phi + \epsilon)]$ with
      $\epsilon \sim N(0, \sigma^2)$, in antithetic pairs ±ε on the same problem. Only f is differentiated. It
      smooths the objective, and like back-propagation it ignores what follows the unroll.
    - "pes": persistent evolution strategies. Each optimizee keeps its perturbed state from unroll to unroll,
      and ε in the estimate is the sum of all of its perturbations since the start, which makes the estimate
      unbiased for the whole horizon.

    Args:
        rule: Update rule m to learn, a `Rule` that is an `nn.Module`, such as `LSTMRule()`.
        family: Family that the problems are drawn from.
        problems: B, the number of problems of a meta-step; even for evolution strategies, which run half of
            them with +ε and half with −ε.
        unroll: K, the inner steps of a meta-step.
        horizon: Inner steps after which new problems begin; `TruncationSchedule()` by default.
        first_order: Treat the optimizees' gradients as constants in back-propagation.
        objective: Meta-objective f: "train", the loss that the rule gets the gradients of, or "held_out".
        log: Take log f instead of f, which must then be positive; late steps with small losses then count as
            much as early ones.
        estimator: Estimator of the meta-gradient: "backprop", "es" or "pes".
        sigma: Standard deviation σ > 0 of the perturbations of evolution strategies.

    Raises:
        ValueError: If a number is out of range or a name unknown.

    Reference: Andrychowicz et al. 2016, equations 2 and 3, with $w_t = 1$; Vicol, Metz, Sohl-Dickstein:
    "Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent Evolution Strategies", 2021.
    Departures: the meta-loss is the mean over steps and problems, not the sum; `log` is our addition.
    """

    def __init__(
        self,
        rule: nn.Module,
        family: ProblemFamily,
        problems: int = 32,
        unroll: int = 20,
        horizon: TruncationSchedule | None = None,
        first_order: bool = True,
        objective: Objective = "train",
        log: bool = False,
        estimator: Estimator = "backprop",
        sigma: float = 0.01,
    ) -> None:
        super().__init__()
        check_rule(rule)
        if problems < 1 or unroll < 1 or sigma <= 0:
            raise ValueError(
                f"problems is {problems}, unroll {unroll}, sigma {sigma}: at least 1, at least 1, above 0"
            )
        if estimator not in ("backprop", "es", "pes") or objective not in ("train", "held_out"):
            raise ValueError(
                f"estimator is {estimator!r} and objective {objective!r}: choose 'backprop', 'es' or 'pes', "
                "and 'train' or 'held_out'"
            )
        if estimator != "backprop" and problems % 2:
            raise ValueError(f"problems is {problems}: evolution strategies take pairs, so an even number")
        self.rule, self.family, self.problems, self.unroll = rule, family, problems, unroll
        self.horizon, self.first_order = horizon or TruncationSchedule(), first_order
        self.objective: Objective = objective
        self.estimator: Estimator = estimator
        self.log, self.sigma = log, sigma
        self.unroll_state = UnrollState(self._begin)

    def forward(self, draw: ProblemSeed) -> Tensor:
        """Meta-loss of an unroll. The state of the optimizees is kept for the next call.

        Args:
            draw: The meta-step, with the seed of the problems that may begin in it.

        Returns:
            The mean of f, or log f, over the steps and problems, a scalar; its gradient is the estimator's.
        """
        at = self.unroll_state.at or self._begin(draw.seed, self.horizon.draw(draw))
        steps = min(self.unroll, at.horizon - at.step)
        value = self._backprop(at, steps) if self.estimator == "backprop" else self._evolve(at, steps, draw)
        at.step += steps
        at.parameters, at.state = pytree.tree_map(torch.detach, (at.parameters, at.state))
        self.unroll_state.at = at if at.step < at.horizon else None
        return value

    def _begin(self, seed: int, horizon: int, step: int = 0) -> _Unroll:
        """Draw new problems, at their start."""
        device = next(self.rule.parameters()).device
        problems = self.family.sample(self._sampled, seed)
        start = {k: p.detach().to(device) for k, p in problems.start.items()}
        perturbed: Tensors = {}
        if self.estimator == "pes":
            start = {k: _twice(p) for k, p in start.items()}
            perturbed = {k: torch.zeros_like(w) for k, w in self._weights(self.problems).items()}
        count = len(next(iter(start.values())))
        rule = self.as_rule if self.estimator == "backprop" else PerTaskRule(self.rule, self._weights(count))
        with torch.no_grad():
            state = rule.init(start)
        return _Unroll(problems, seed, horizon, step, start, state, perturbed)

    @property
    def _sampled(self) -> int:
        """Number of different problems: in evolution strategies, two optimizees share one."""
        return self.problems if self.estimator == "backprop" else self.problems // 2

    @property
    def as_rule(self) -> Rule:
        """The module `rule`, typed as a `Rule`."""
        rule: Any = self.rule
        return rule

    def _weights(self, count: int) -> Tensors:
        """φ repeated for each optimizee, [count, ...] by name."""
        return {k: p.detach().expand(count, *p.shape) for k, p in self.rule.named_parameters()}

    def _objective(self, problems: ProblemBatch) -> Loss:
        return problems.loss if self.objective == "train" else problems.held_out

    def _backprop(self, at: _Unroll, steps: int) -> Tensor:
        objective = self._objective(at.problems)
        values: list[Tensor] = []
        terms: list[Tensor] = []  # their sum has the gradient of the sum of all losses

        def record_loss(k: int, parameters: Tensors, known: tuple[Tensors, Tensor] | None = None) -> None:
            """Record f(θ_k); its gradient and value may be known already."""
            if not self.first_order:
                value = objective(parameters, at.step + k) if known is None else known[1]
                terms.append(value.log().sum() if self.log else value.sum())
            else:
                gradients, value = known or gradient_of(objective, parameters, at.step + k)
                slopes = [
                    (gradients[q].detach() * p).reshape(len(p), -1).sum(1) for q, p in parameters.items()
                ]
                terms.extend(((slope / value.detach()) if self.log else slope).sum() for slope in slopes)
            values.append(value.detach().log() if self.log else value.detach())

        def watch(k: int, parameters: Tensors, gradients: Tensors, loss: Tensor) -> None:
            if k:  # the first parameters of the unroll do not depend on φ
                record_loss(k, parameters, (gradients, loss) if self.objective == "train" else None)

        adapted = adapt(
            lambda p, k: at.problems.loss(p, at.step + k),
            at.parameters,
            self.as_rule,
            steps,
            self.first_order,
            at.state,
            watch,
        )
        record_loss(steps, adapted.parameters)
        at.parameters, at.state = adapted.parameters, adapted.state
        surrogate = torch.stack(terms).sum() / (steps * self.problems)
        return torch.stack(values).mean() + (surrogate - surrogate.detach())

    def _evolve(self, at: _Unroll, steps: int, draw: ProblemSeed) -> Tensor:
        rng = generator(draw.seed, 7, draw.step)
        noise = {
            k: self.sigma * torch.randn(self.problems // 2, *p.shape, generator=rng).to(p)
            for k, p in self.rule.named_parameters()
        }
        noise = {k: torch.cat([n, -n]) for k, n in noise.items()}
        rule = PerTaskRule(self.rule, {k: w + noise[k] for k, w in self._weights(self.problems).items()})
        with torch.no_grad():
            if self.estimator == "pes":
                losses, adapted = self._unroll_without_graph(at, at.parameters, at.state, rule, steps)
                at.perturbed = noise = {k: at.perturbed[k] + n for k, n in noise.items()}
            else:
                parameters, state = pytree.tree_map(_twice, (at.parameters, at.state))
                losses, _ = self._unroll_without_graph(at, parameters, state, rule, steps)
                _, adapted = self._unroll_without_graph(
                    at, at.parameters, at.state, PerTaskRule(self.rule, self._weights(self._sampled)), steps
                )
            at.parameters, at.state = adapted.parameters, adapted.state
            factors = losses / (self.sigma**2 * self.problems)
            gradient = {k: torch.tensordot(factors, n, 1) for k, n in noise.items()}
        surrogate = torch.stack([(gradient[k] * p).sum() for k, p in self.rule.named_parameters()]).sum()
        return losses.mean() + (surrogate - surrogate.detach())

    def _unroll_without_graph(
        self, at: _Unroll, parameters: Tensors, state: RuleState, rule: Rule, steps: int
    ) -> tuple[Tensor, Adapted]:
        """Mean objective [B] of each optimizee over some steps, and the result of the steps."""
        objective = self._objective(at.problems)
        values: list[Tensor] = []

        def note(value: Tensor) -> None:
            values.append(value.log() if self.log else value)

        def of_pairs(f: Loss) -> Loss:
            def both(p: Tensors, step: int) -> Tensor:
                parts = zip(*(v.split(self._sampled) for v in p.values()), strict=True)
                return torch.cat([f(dict(zip(p, part, strict=True)), at.step + step) for part in parts])

            return both

        def watch(k: int, p: Tensors, gradients: Tensors, loss: Tensor) -> None:
            if k:
                note(loss if self.objective == "train" else of_pairs(objective)(p, k))

        adapted = adapt(of_pairs(at.problems.loss), parameters, rule, steps, True, state, watch)
        note(of_pairs(objective)(adapted.parameters, steps))
        return torch.stack(values).mean(0), adapted


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x])
