"""Learning an update rule: its gradients against direct ones, and a training that goes on as if unbroken."""

import copy
import gc
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core import checkpoint
from quickstudy.core.adapt import Rule, RuleState, Tensors, adapt
from quickstudy.core.update_rules import sgd
from quickstudy.optimizer.problems.problem import ProblemBatch, ProblemFamily, generator
from quickstudy.optimizer.problems.quadratics import Quadratics
from quickstudy.optimizer.rule_learner import RuleLearner
from quickstudy.optimizer.rules.lstm import LSTMRule
from quickstudy.optimizer.rules.mlp import MLPRule
from quickstudy.optimizer.rules.rnnprop import RNNpropRule
from quickstudy.optimizer.truncation import ProblemSeed, ProblemSeeds, TruncationSchedule
from quickstudy.training.fit import fit
from quickstudy.training.run_folder import read_log
from tests.support.oracles import Weights
from tests.support.small_models import SavedForBackward, central_difference, distance, gradients_of

RULES: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: LSTMRule(scale=0.5, hidden=3),
    "rnnprop": lambda: RNNpropRule(lr=0.5, hidden=3),
    "mlp": lambda: MLPRule(lr=0.1, hidden=4),
}


def made(name: str, seed: int = 0) -> nn.Module:
    """In float64, with weights and biases that are all of a size that is felt."""
    torch.manual_seed(seed)
    rule = RULES[name]().double()
    with torch.no_grad():
        for p in rule.parameters():
            p.copy_(0.5 * torch.randn(p.shape))
    return rule


@dataclass(frozen=True)
class Bowls:
    """Smooth, positive problems in float64 of three tensors, tied to each other, other ones at every step."""

    sampled: list[tuple[int, int]] = field(default_factory=list)
    """Counts and seeds."""
    steps: list[int] = field(default_factory=list)
    """The numbers of the steps whose loss was asked for."""

    def sample(self, count: int, seed: int) -> ProblemBatch:
        self.sampled.append((count, seed))
        rng = torch.Generator().manual_seed(seed)
        start = {
            k: torch.randn(count, *shape, generator=rng, dtype=torch.float64)
            for k, shape in {"matrix": (3, 2), "vector": (4,), "number": ()}.items()
        }
        centre = torch.randn(count, 1, generator=rng, dtype=torch.float64)

        def loss(p: Tensors, step: int) -> Tensor:
            self.steps.append(step)
            ties = p["matrix"].sum((1, 2)) * p["number"].sin()
            bowl = (p["vector"] - centre - 0.3 * math.sin(step)).square().mean(1) * (2 + p["number"].cos())
            return 20 + ties + bowl + (p["matrix"] ** 4).sum((1, 2)) / 4 + p["number"] ** 2

        def held_out(p: Tensors, step: int) -> Tensor:
            return (p["vector"].sum(1) - p["number"] * p["matrix"][:, 0, 1]).square() + 2 + math.cos(step)

        return ProblemBatch(start, loss, held_out)


def directly(
    rule: Any,
    problems: ProblemBatch,
    at: Tensors,
    state: RuleState,
    first: int,
    steps: int,
    how: dict[str, Any],
) -> tuple[Tensor, Tensors, RuleState]:
    """1/K Σ_t f(θ_t), or of log f, averaged over problems, with its graph; and where the unroll has got."""
    objective = problems.loss if how["objective"] == "train" else problems.held_out
    total = torch.zeros((), dtype=torch.float64)
    for t in range(first, first + steps):
        leaves = {
            k: p if p.requires_grad and not how["first_order"] else p.detach().requires_grad_()
            for k, p in at.items()
        }
        loss = problems.loss(leaves, t)
        nabla = torch.autograd.grad(loss.sum(), list(leaves.values()), create_graph=not how["first_order"])
        at, state = rule.update(dict(zip(at, nabla, strict=True)), state, at, loss.detach())
        value = objective(at, t + 1)
        total = total + (value.log() if how["log"] else value).mean() / steps
    detached = {k: p.detach() for k, p in at.items()}
    return total, detached, torch.utils._pytree.tree_map(torch.detach, state)


@pytest.mark.medium
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("objective", ["train", "held_out"])
@pytest.mark.parametrize("unroll", [1, 4])
@pytest.mark.parametrize("name", RULES)
def test_the_meta_gradient_is_the_direct_one(
    name: str, unroll: int, objective: str, first_order: bool, log: bool
) -> None:
    """Of the surrogate too, in the first unroll and in those that go on from it."""
    rule, how = made(name), {"first_order": first_order, "objective": objective, "log": log}
    learner = RuleLearner(rule, Bowls(), 3, unroll, TruncationSchedule(2 * unroll + 1), **how)
    problems = Bowls().sample(3, 11)
    at, state = problems.start, rule.init(problems.start)
    for first, steps in ((0, unroll), (unroll, unroll), (2 * unroll, 1)):
        ours = learner(ProblemSeed(0, 11))
        truth, at, state = directly(rule, problems, at, state, first, steps, how)
        assert ours.item() == pytest.approx(truth.item(), rel=1e-12)
        assert distance(gradients_of(ours, rule), gradients_of(truth, rule)) < 1e-9


@pytest.mark.parametrize("objective", ["train", "held_out"])
@pytest.mark.parametrize("name", RULES)
def test_the_second_order_meta_gradient_is_that_of_finite_differences(name: str, objective: str) -> None:
    learner = RuleLearner(
        made(name), Bowls(), 2, 4, TruncationSchedule(4), first_order=False, objective=objective
    )
    slope, difference = central_difference(learner, ProblemSeed(0, 3), 0)
    assert abs(difference) > 1e-2
    assert slope == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_the_first_order_meta_gradient_is_not(name: str) -> None:
    """So the tests above can tell."""
    learner = RuleLearner(made(name), Bowls(), 2, 4, TruncationSchedule(4))
    slope, difference = central_difference(learner, ProblemSeed(0, 3), 0)
    assert slope != pytest.approx(difference, rel=1e-4)


# Truncation


@pytest.mark.parametrize("estimator", ["backprop", "es", "pes"])
def test_unrolls_follow_each_other_to_the_horizon_and_then_come_new_problems(estimator: str) -> None:
    """Seven steps are three, three and one."""
    family = Bowls()
    learner = RuleLearner(made("lstm"), family, 4, 3, TruncationSchedule(7), estimator=estimator)
    seen: list[list[int]] = []
    for i in range(6):
        learner(ProblemSeed(i, 100 + i))
        seen.append(sorted(set(family.steps)))
        family.steps.clear()
    # the steps' own losses, and that of where the last of them leads
    assert seen == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]] * 2
    count = 4 if estimator == "backprop" else 2
    assert family.sampled == [(count, 100), (count, 103)]


@pytest.mark.parametrize("name", RULES)
def test_unrolls_together_are_one_course(name: str) -> None:
    rule = made(name)
    learner = RuleLearner(rule, Bowls(), 3, 2, TruncationSchedule(7))
    for i in range(3):
        learner(ProblemSeed(i, 5))
    problems = Bowls().sample(3, 5)
    course = adapt(problems.loss, problems.start, rule, 6, True)
    carried = learner.unroll_state.state_dict()
    for k, p in course.parameters.items():
        assert torch.equal(carried[f"parameter.{k}"], p)
    for i, leaf in enumerate(torch.utils._pytree.tree_leaves(course.state)):
        assert torch.equal(carried[f"state.{i}"], leaf)
    learner(ProblemSeed(3, 6))
    assert learner.unroll_state.state_dict() == {}


def test_a_horizon_within_one_unroll_begins_anew_each_time() -> None:
    learner = RuleLearner(made("lstm"), Bowls(), 2, 20, TruncationSchedule(4))
    assert (
        learner(ProblemSeed(0, 1)).item()
        == learner(ProblemSeed(1, 1)).item()
        != learner(ProblemSeed(2, 2)).item()
    )


def test_horizons_lie_uniformly_in_the_logarithm() -> None:
    draws = ProblemSeeds(8, seed=1)
    horizons = torch.tensor([TruncationSchedule(10, 1000).draw(draws.part(i)) for i in range(4000)])
    assert (horizons.min(), horizons.max()) == (10, pytest.approx(1000, rel=0.01))
    for most, share in ((31, 0.25), (100, 0.5), (316, 0.75)):  # 10, times √10 each
        assert (horizons <= most).double().mean().item() == pytest.approx(share, abs=0.03)


def test_one_horizon_is_always_the_same() -> None:
    assert {TruncationSchedule(7).draw(ProblemSeed(i, i)) for i in range(50)} == {7}
    assert {TruncationSchedule().draw(ProblemSeed(i, i)) for i in range(50)} == {100}


def test_the_curriculum_raises_the_longest_horizon() -> None:
    horizon = TruncationSchedule(10, 1000, rise=100)

    def longest(step: int) -> int:
        drawn = [horizon.draw(ProblemSeed(step, seed)) for seed in range(1000)]
        assert min(drawn) == 10
        return max(drawn)

    most = [longest(step) for step in (0, 25, 50, 75, 100, 10_000)]
    assert most[0] == 10
    assert most[1:] == pytest.approx([31.6, 100, 316, 1000, 1000], rel=0.03)


@pytest.mark.parametrize(
    ("low", "high", "rise"), [(0, None, 0), (5, 4, 0), (5, 0, 0), (-1, 3, 0), (1, 2, -1)]
)
def test_horizons_out_of_order_are_refused(low: int, high: int | None, rise: int) -> None:
    with pytest.raises(ValueError, match=r"1 ≤ low ≤ high and rise ≥ 0 are wanted"):
        TruncationSchedule(low, high, rise)


def test_draws_are_repeatable_and_differ_by_step_and_seed() -> None:
    draws = ProblemSeeds(8, seed=3)
    seeds = [draws.part(i).seed for i in range(1000)]
    assert seeds == [ProblemSeeds(8, seed=3).on("cpu").part(i).seed for i in range(1000)]
    assert [draws.part(i).step for i in range(5)] == [0, 1, 2, 3, 4]
    assert len({*seeds, *(ProblemSeeds(8, seed=4).part(i).seed for i in range(1000))}) == 2000
    assert min(seeds) >= 0


def test_several_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="a rule is learned by one process"):
        ProblemSeeds(8).part(0, rank=1, world=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"problems": 0}, "problems is 0"),
        ({"unroll": 0}, "unroll 0"),
        ({"sigma": 0.0}, r"sigma 0\.0"),
        ({"estimator": "reinforce"}, "estimator is 'reinforce'"),
        ({"objective": "test"}, "objective 'test'"),
        ({"estimator": "pes", "problems": 3}, "problems is 3: evolution strategies take pairs"),
        ({"estimator": "es", "problems": 1}, "problems is 1: evolution strategies take pairs"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RuleLearner(made("lstm"), Bowls(), **arguments)


# Evolution strategies


def by_formula(
    rule: nn.Module, sigma: float, unroll: int, unrolls: int, objective: str, persistent: bool, log: bool
) -> Iterator[tuple[float, Weights]]:
    """Each unroll's mean loss and 1/(σ²B) Σ_b ξ_b L_b, each optimizee by its own copy of the rule.

    Vicol, Metz, Sohl-Dickstein 2021, Algorithms 1 and 2: optimizees 0 and 2 share a problem and have +ε and
    −ε, as do 1 and 3. ξ is ε, or with persistence the sum of it so far. The noise is a function of the draw's
    seed and step, for one parameter of the rule after the other.
    """
    family, names = Bowls().sample(2, 21), dict(rule.named_parameters())
    each: list[tuple[Tensors, RuleState]] = [(family.start, None)] * 4
    middle: tuple[Tensors, RuleState] = (family.start, None)
    xi = [{k: torch.zeros_like(p) for k, p in names.items()} for _ in range(4)]
    for u in range(unrolls):
        rng = generator(21, 7, u)
        noise = {k: sigma * torch.randn(2, *p.shape, generator=rng).double() for k, p in names.items()}
        losses: list[Tensor] = []
        for b in range(4):
            own: Any = copy.deepcopy(rule)
            for k, p in own.named_parameters():
                change = noise[k][b % 2] if b < 2 else -noise[k][b % 2]
                xi[b][k] = xi[b][k] + change if persistent else change
                p.data += change
            at, state = each[b] if persistent else middle
            values: list[Tensor] = []
            f = family.loss if objective == "train" else family.held_out
            for t in range(u * unroll, (u + 1) * unroll):
                now = adapt(lambda p, _, t=t: family.loss(p, t), at, own, 1, True, state)
                at, state = now.parameters, now.state
                value = f(at, t + 1)[b % 2]
                values.append(value.log() if log else value)
            each[b] = at, state
            losses.append(sum(values) / unroll)
        unmoved: Any = rule
        now = adapt(
            lambda p, k, u=u: family.loss(p, u * unroll + k), middle[0], unmoved, unroll, True, middle[1]
        )
        middle = now.parameters, now.state
        gradient = {k: sum(xi[b][k] * losses[b] for b in range(4)) / (4 * sigma**2) for k in names}
        yield sum(losses).item() / 4, gradient


@pytest.mark.medium
@pytest.mark.parametrize("objective", ["train", "held_out"])
@pytest.mark.parametrize(("estimator", "log"), [("es", False), ("pes", False), ("pes", True)])
@pytest.mark.parametrize("name", RULES)
def test_the_estimates_are_those_of_the_formula(name: str, estimator: str, log: bool, objective: str) -> None:
    rule = made(name)
    learner = RuleLearner(
        rule,
        Bowls(),
        4,
        2,
        TruncationSchedule(6),
        objective=objective,
        log=log,
        estimator=estimator,
        sigma=0.1,
    )
    formula = by_formula(copy.deepcopy(rule), 0.1, 2, 3, objective, estimator == "pes", log)
    for u, (value, gradient) in enumerate(formula):
        ours = learner(ProblemSeed(u, 21))
        assert ours.item() == pytest.approx(value, rel=1e-10)
        gradient = {k: g.detach() for k, g in gradient.items()}
        assert distance(gradients_of(ours, rule), gradient) < 1e-8


class Balance(nn.Module):
    """Influence balancing (Tallec, Ollivier 2017; Vicol et al. 2021, section 5.1), as an update rule.

    x' = Ax + φ(1, −1, −1, −1): φ raises the first coordinate at once, but what it does to the others, which
    A hands on to the first, lowers it more in the long run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phi = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        on = torch.ones(3, dtype=torch.float64)
        self.register_buffer("a", 0.5 * torch.eye(4, dtype=torch.float64) + 0.5 * torch.diag(on, 1))
        self.register_buffer("signs", torch.tensor([1, -1, -1, -1], dtype=torch.float64))

    def init(self, parameters: Tensors) -> RuleState:
        return (parameters["x"].new_zeros(()),)

    def update(
        self, gradients: Tensors, state: RuleState, parameters: Tensors, loss: Tensor
    ) -> tuple[Tensors, RuleState]:
        return {"x": parameters["x"] @ self.a.T + self.phi * self.signs}, state


class FirstCoordinate:
    """f(x) = x₁ + x₁²/20, whose ES gradient is the gradient whatever σ is, as it's quadratic in φ."""

    def sample(self, count: int, seed: int) -> ProblemBatch:
        def loss(p: Tensors, step: int) -> Tensor:
            first = p["x"][:, 0]
            return first + first.square() / 20

        return ProblemBatch({"x": torch.ones(count, 4, dtype=torch.float64)}, loss, loss)


HORIZON = 12


def of_horizon(estimator: str, unroll: int, problems: int, seed: int = 0) -> float:
    """dL/dφ by an estimator, summed over the unrolls of a horizon and divided by their number."""
    rule = Balance()
    learner = RuleLearner(
        rule, FirstCoordinate(), problems, unroll, TruncationSchedule(HORIZON), estimator=estimator, sigma=0.3
    )
    unrolls = HORIZON // unroll
    parts = [torch.autograd.grad(learner(ProblemSeed(i, seed)), rule.phi)[0].item() for i in range(unrolls)]
    return sum(parts) / unrolls


def exact() -> float:
    """d/dφ of the mean loss over the horizon, by backpropagation through all of it."""
    return of_horizon("backprop", HORIZON, 1)


def estimates(estimator: str, unroll: int) -> tuple[float, float]:
    """Mean and standard error of a dozen estimates, each of 1,000 pairs."""
    each = torch.tensor([of_horizon(estimator, unroll, 2000, seed) for seed in range(12)])
    return each.mean().item(), each.std().item() / 12**0.5


def test_truncation_is_biased_in_the_toy() -> None:
    """To the wrong sign: so the tests below can tell."""
    rule = Balance()
    p, total = {"x": torch.ones(1, 4, dtype=torch.float64)}, torch.zeros(())
    for _ in range(HORIZON):
        p, _ = rule.update({}, (), p, torch.zeros(()))
        total = total + (p["x"][0, 0] + p["x"][0, 0] ** 2 / 20) / HORIZON
    (truth,) = torch.autograd.grad(total, rule.phi)
    assert exact() == pytest.approx(truth.item(), rel=1e-12)
    assert exact() < -0.5
    assert of_horizon("backprop", 1, 1) > 0.5


def test_truncated_evolution_strategies_are_as_biased() -> None:
    mean, error = estimates("es", 1)
    assert abs(mean - of_horizon("backprop", 1, 1)) < 4 * error
    assert mean > 10 * error > 0


@pytest.mark.parametrize("unroll", [1, 3])
def test_persistent_evolution_strategies_are_unbiased(unroll: int) -> None:
    mean, error = estimates("pes", unroll)
    assert abs(mean - exact()) < 4 * error
    assert mean < -10 * error < 0


def test_evolution_strategies_over_the_whole_horizon_are_unbiased() -> None:
    mean, error = estimates("es", HORIZON)
    assert abs(mean - exact()) < 4 * error
    assert mean < -10 * error < 0


# As trained by `fit`


@dataclass(frozen=True)
class Loss:
    """A verdict of one's own: the mean loss at the end of some steps, lower is better."""

    loss: float

    @property
    def objective(self) -> float:
        return -self.loss

    @property
    def short(self) -> str:
        return f"loss {self.loss:.3f}"

    def to_log(self) -> dict[str, float]:
        return {"validation": self.loss}

    def as_dict(self) -> dict[str, Any]:
        return {"loss": self.loss}


def final_loss(rule: Any, family: ProblemFamily, steps: int, count: int = 16, seed: int = 1_000_000) -> float:
    problems = family.sample(count, seed)
    with torch.no_grad():
        end = adapt(problems.loss, problems.start, rule, steps, True)
        return problems.loss(end.parameters, steps).mean().item()


def small(name: str = "lstm", estimator: str = "backprop", seed: int = 0) -> RuleLearner:
    torch.manual_seed(seed)
    return RuleLearner(
        RULES[name](),
        Quadratics(3),
        4,
        3,
        TruncationSchedule(5, 12),
        estimator=estimator,
        sigma=0.1,
    )


def small_fit(learner: RuleLearner, out: Path | None = None, steps: int = 14, **options: Any):
    settings: dict[str, Any] = {
        "validation": lambda: Loss(final_loss(learner.rule, Quadratics(3), 8)),
        "every": 4,
        "optimizer": partial(torch.optim.Adam, lr=0.01),
        "clip": 1.0,
    }
    return fit(learner, ProblemSeeds(4, seed=0), steps, out=out, **(settings | options))


def logged(folder: Path) -> list[dict[str, float]]:
    """The log without what the clock writes."""
    lines = read_log(folder / "log.jsonl")
    return [{k: v for k, v in line.items() if k not in ("seconds", "tasks_per_second")} for line in lines]


class KilledError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "estimator", "at"),
    [
        ("lstm", "backprop", 5),
        ("lstm", "backprop", 9),
        ("lstm", "pes", 13),
        ("rnnprop", "backprop", 13),
        ("rnnprop", "pes", 5),
        ("rnnprop", "pes", 9),
        ("mlp", "es", 13),
    ],
)
def test_a_stopped_training_resumes_bit_for_bit(tmp_path: Path, name: str, estimator: str, at: int) -> None:
    small_fit(small(name, estimator), tmp_path / "whole")

    def die(step: int, report: object) -> None:
        if step == at:
            raise KilledError

    killed = small(name, estimator)
    with pytest.raises(KilledError):
        small_fit(killed, tmp_path / "cut", report=die)
    kept, _ = checkpoint.load(tmp_path / "cut" / "last.safetensors")
    if at == 9:
        assert "unroll_state.at" not in kept  # as it happens, it stands between two horizons
    else:
        _, horizon, step = kept["unroll_state.at"].tolist()
        assert 0 < step < horizon
    # another initialisation, or one that has gone on since: the checkpoint must overrule either
    learner = small(name, estimator, seed=1) if at == 5 else killed
    small_fit(learner, tmp_path / "cut", resume=True)
    for file in ("best.safetensors", "last.safetensors"):
        (x, _), (y, _) = (checkpoint.load(tmp_path / folder / file) for folder in ("whole", "cut"))
        assert x.keys() == y.keys()
        for key in x:
            assert torch.equal(x[key], y[key]), key
    assert logged(tmp_path / "whole") == logged(tmp_path / "cut")
    assert len(logged(tmp_path / "whole")) == 4


def test_what_is_carried_is_not_confused_with_what_was(tmp_path: Path) -> None:
    """A checkpoint between two horizons carries nothing; a learner that has gone on since forgets that."""
    learner = RuleLearner(made("lstm"), Bowls(), 2, 2, TruncationSchedule(4))
    for i in range(2):
        learner(ProblemSeed(i, 5))
    nothing = learner.unroll_state.state_dict()
    assert nothing == {}
    learner(ProblemSeed(2, 6))
    assert learner.unroll_state.state_dict()["at"].tolist() == [6, 4, 2]
    learner.unroll_state.load_state_dict(nothing)
    assert learner.unroll_state.state_dict() == {}


@pytest.mark.parametrize("estimator", ["backprop", "es", "pes"])
def test_what_is_carried_comes_back(estimator: str) -> None:
    def course() -> RuleLearner:
        return RuleLearner(made("rnnprop"), Bowls(), 2, 2, TruncationSchedule(9), estimator=estimator)

    def on(learner: RuleLearner, i: int) -> float:
        return learner(ProblemSeed(i, 7 + i)).item()

    whole, half = course(), course()
    values = [on(whole, i) for i in range(5)]
    assert [on(half, i) for i in range(2)] == values[:2]
    rest = course()
    rest.unroll_state.load_state_dict({k: v.clone() for k, v in half.unroll_state.state_dict().items()})
    assert [on(rest, i) for i in range(2, 5)] == values[2:]


def test_what_is_carried_goes_where_the_rule_is() -> None:
    """A checkpoint is read to the CPU."""
    learner = RuleLearner(LSTMRule(hidden=3), Quadratics(3), 2, 2, TruncationSchedule(9), estimator="pes")
    learner(ProblemSeed(0, 0))
    elsewhere = copy.deepcopy(learner).to("meta")
    elsewhere.unroll_state.load_state_dict(learner.unroll_state.state_dict())
    assert {k: t.device.type for k, t in elsewhere.unroll_state.state_dict().items() if k != "at"} == {
        k: "meta" for k in learner.unroll_state.state_dict() if k != "at"
    }


def test_a_function_that_judges_selects_the_weights(tmp_path: Path) -> None:
    """The best are kept, and it is the rule alone that they are."""
    learner = small()
    verdicts = iter([3.0, -2.0, 1.0, -2.0, 0.0])
    weights: list[Weights] = []

    def validate() -> Loss:
        assert learner.training
        weights.append({k: w.clone() for k, w in learner.state_dict().items()})
        return Loss(next(verdicts))

    progress = small_fit(learner, tmp_path, steps=20, validation=validate)
    assert (progress.best, progress.best_step, progress.stale) == (2.0, 8, 3)
    assert (progress.headline, progress.score) == ("loss -2.000", {"loss": -2.0})
    best, manifest = checkpoint.load(tmp_path / "best.safetensors")
    assert manifest["training"]["validation"] == {"loss": -2.0}
    assert best.keys() == {f"rule.{k}" for k, _ in LSTMRule(hidden=3).named_parameters()}
    for k, w in learner.state_dict().items():
        assert torch.equal(w, weights[1][k])
        assert torch.equal(w, best[k])
    assert not torch.equal(weights[0]["rule.step.weight"], weights[1]["rule.step.weight"])
    assert [line["validation"] for line in logged(tmp_path)] == [3, -2, 1, -2, 0]


def test_a_verdict_that_is_no_number_is_never_the_best() -> None:
    verdicts = iter([math.nan, 5.0, math.nan])
    progress = small_fit(small(), steps=12, validation=lambda: Loss(next(verdicts)))
    assert (progress.best, progress.best_step) == (-5.0, 8)
    verdicts = iter([math.nan] * 3)
    progress = small_fit(small(), steps=20, patience=2, validation=lambda: Loss(next(verdicts)))
    assert (progress.stopped, progress.step) == ("patience", 12)


@dataclass(frozen=True)
class Cliff:
    """Quadratics, one of which falls to no number at a step."""

    step: int

    def sample(self, count: int, seed: int) -> ProblemBatch:
        plain = Quadratics(3).sample(count, seed)

        def loss(p: Tensors, step: int) -> Tensor:
            f = plain.loss(p, step)
            return torch.cat([f[:1] * math.inf, f[1:]]) if step >= self.step else f

        return ProblemBatch(plain.start, loss, loss)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("estimator", ["backprop", "es", "pes"])
def test_an_optimizee_that_is_lost_stops_the_training_and_spares_what_was_saved(
    tmp_path: Path, estimator: str, clip: float | None
) -> None:
    learner = RuleLearner(
        LSTMRule(hidden=3),
        Cliff(step=14),
        4,
        2,
        TruncationSchedule(30),
        estimator=estimator,
    )
    # the seventh unroll is the first that sees step 14
    with pytest.raises(FloatingPointError, match="at step 7; the last good weights are in"):
        fit(learner, ProblemSeeds(4), 20, every=3, clip=clip, out=tmp_path)
    weights, manifest = checkpoint.load(tmp_path / "last.safetensors")
    assert manifest["progress"]["step"] == 6
    assert all(w.isfinite().all() for w in weights.values())


# Memory


@dataclass(frozen=True)
class Seen:
    """Bowls that remember, weakly, what the graph of each loss is made of."""

    graphs: list[weakref.ref[Tensor]]

    def sample(self, count: int, seed: int) -> ProblemBatch:
        plain = Bowls().sample(count, seed)

        def loss(p: Tensors, step: int) -> Tensor:
            inside = plain.loss(p, step).exp()
            self.graphs.append(weakref.ref(inside))
            return inside.log()

        return ProblemBatch(plain.start, loss, loss)


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("first_order", [True, False])
def test_no_graph_outlives_its_unroll(first_order: bool, backward: bool) -> None:
    """Of the optimizees, at first order, none outlives its step."""
    graphs: list[weakref.ref[Tensor]] = []
    learner = RuleLearner(made("lstm"), Seen(graphs), 2, 3, TruncationSchedule(50), first_order=first_order)
    for i in range(3):
        loss = learner(ProblemSeed(i, 1))
        alive = [ref() is not None for ref in graphs]
        assert len(alive) == 4  # three steps, and a last loss
        assert any(alive) is not first_order
        if backward:
            loss.backward()
        del loss
        assert not any(ref() is not None for ref in graphs)
        assert not any(t.requires_grad for t in learner.unroll_state.state_dict().values())
        graphs.clear()


def test_a_learner_can_be_copied_between_two_unrolls() -> None:
    learner = RuleLearner(made("lstm"), Bowls(), 2, 3, TruncationSchedule(50))
    learner(ProblemSeed(0, 1)).backward()
    twin = copy.deepcopy(learner)
    assert twin(ProblemSeed(1, 1)).item() == learner(ProblemSeed(1, 1)).item()


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(o), Tensor) for o in gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["backprop", "second-order", "pes"])
def test_memory_does_not_grow_with_the_meta_steps(estimator: str) -> None:
    """Nor with the steps of an optimizee, whose unroll alone is kept."""
    torch.manual_seed(0)
    how = {"first_order": False} if estimator == "second-order" else {"estimator": estimator}
    learner = RuleLearner(LSTMRule(hidden=3), Quadratics(3), 4, 2, TruncationSchedule(1000), **how)
    optimizer = torch.optim.Adam(learner.parameters())
    draws = ProblemSeeds(4)

    def train(first: int, last: int) -> tuple[int, int, int]:
        saved = SavedForBackward()
        with saved:
            for i in range(first, last):
                optimizer.zero_grad()
                learner(draws.part(i)).backward()
                optimizer.step()
        return live_tensors(), saved.tensors, saved.most

    early, late = train(0, 20), train(20, 140)
    assert early == late
    assert early[1] == 0 < early[2]


# And does it learn?


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: LSTMRule(hidden=8), lambda: MLPRule(lr=0.1, hidden=8)])
def test_a_rule_that_was_learned_beats_gradient_descent(make: Callable[[], nn.Module]) -> None:
    """With the best of its rates, chosen on the very problems of the comparison, which training never saw."""
    torch.manual_seed(0)
    family, steps = Quadratics(3), 20
    learner = RuleLearner(make(), family, 16, 10, TruncationSchedule(steps))

    def loss_of(rule: Rule | nn.Module) -> float:
        return final_loss(rule, family, steps, count=256)

    rates = [2.0**-k for k in range(2, 9)]
    plain = [loss_of(sgd(rate)) for rate in rates]
    assert min(plain) < min(plain[0], plain[-1])  # the best is between the others
    before = loss_of(learner.rule)
    fit(learner, ProblemSeeds(16), 80, optimizer=partial(torch.optim.Adam, lr=0.02), clip=1.0)
    assert loss_of(learner.rule) < 0.6 * min(plain) < before
