"""Rules as optimizers of torch: against `adapt`, torch's own optimizers, and themselves after a break."""

import copy
import io
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from quickstudy.core import checkpoint
from quickstudy.core.adapt import FunctionalRule, Rule, Tensors, adapt
from quickstudy.core.kernels.sizes import sizes
from quickstudy.core.update_rules import adam, heavy_ball, nag, rmsprop, sgd
from quickstudy.encoders import Conv4
from quickstudy.optimizer import torch_optimizer as optimizer
from quickstudy.optimizer import weights as optimizer_weights
from quickstudy.optimizer.rule_learner import RuleLearner
from quickstudy.optimizer.rules.cell_state import CellStateRule
from quickstudy.optimizer.rules.lstm import LSTMRule
from quickstudy.optimizer.rules.mlp import MLPRule
from quickstudy.optimizer.rules.rnnprop import RNNpropRule
from quickstudy.optimizer.torch_optimizer import LearnedOptimizer
from quickstudy.optimizer.weights import load_rule, save_rule, shipped_rules


class LosingRule(CellStateRule):
    """The one rule that reads the loss; its first state has the same zeros twice."""

    needs_loss = True
    coordinatewise = True

    def __init__(self) -> None:
        super().__init__(hidden=3)


LEARNED: dict[str, Callable[[], Any]] = {
    "lstm": lambda: LSTMRule(hidden=4),
    "rnnprop": lambda: RNNpropRule(hidden=4),
    "mlp": lambda: MLPRule(hidden=4),
}
CLASSIC: dict[str, Callable[[], Any]] = {
    "adam": lambda: adam(0.02),
    "adam-without-mean": lambda: adam(0.02, beta1=0.0),
    "rmsprop": lambda: rmsprop(0.01),
    "heavy-ball": lambda: heavy_ball(0.05),
    "nag": lambda: nag(0.05),
    "sgd": lambda: sgd(0.1),
}
ALL = LEARNED | CLASSIC | {"cell-state": LosingRule}


def made(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """A rule whose weights are all felt."""
    torch.manual_seed(0)
    rule = ALL[name]()
    if isinstance(rule, nn.Module):
        with torch.no_grad():
            for p in rule.parameters():
                p.copy_(0.5 * torch.randn(p.shape))
        rule.to(dtype)
    return rule


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def loss_of(model: Callable[[Tensor], Tensor], step: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Every step has data of its own."""
    rng = torch.Generator().manual_seed(step)
    x = torch.randn(6, 3, generator=rng, dtype=torch.float64).to(dtype)
    y = torch.randn(6, 2, generator=rng, dtype=torch.float64).to(dtype)
    return (model(x) - y).square().mean()


def train(
    model: nn.Module, of: torch.optim.Optimizer, steps: Iterable[int], schedule: LRScheduler | None = None
) -> list[Tensor]:
    """All parameters after each step."""
    dtype = next(model.parameters()).dtype
    seen = []
    for step in steps:

        def closure(step: int = step) -> Tensor:
            of.zero_grad()
            loss = loss_of(model, step, dtype)
            loss.backward()
            return loss

        of.step(closure)
        if schedule:
            schedule.step()
        seen.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    return seen


def near(ours: Iterable[Tensor], theirs: Iterable[Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def same(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


# The steps


@pytest.mark.parametrize("at_once", [7, 4096])
@pytest.mark.parametrize("name", ALL)
def test_steps_are_those_of_the_inner_loop(name: str, at_once: int) -> None:
    model, rule = network(), made(name)
    start = {k: p.detach().clone() for k, p in model.named_parameters()}

    def loss(parameters: Tensors, step: int) -> Tensor:
        return loss_of(lambda x: functional_call(model, parameters, (x,)), step)

    expected: list[Tensor] = []

    def watch(step: int, parameters: Tensors, *_: Any) -> None:
        expected.append(torch.cat([p.detach().flatten() for p in parameters.values()]))

    adapted = adapt(loss, start, rule, 6, watch=watch)
    watch(6, adapted.parameters)
    assert (expected[-1] - expected[0]).abs().min() > 1e-6  # else nearly anything would agree
    with sizes(optimizer_coordinates=at_once):
        near(train(model, LearnedOptimizer(model.parameters(), rule), range(6)), expected[1:])


TORCHS: dict[str, tuple[Callable[[], Rule], Callable[[Any], torch.optim.Optimizer]]] = {
    "adam": (lambda: adam(0.02), lambda p: torch.optim.Adam(p, lr=0.02)),
    "nag": (lambda: nag(0.05), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True)),
    "rmsprop": (lambda: rmsprop(0.01), lambda p: torch.optim.RMSprop(p, lr=0.01)),
}


@pytest.mark.parametrize("name", TORCHS)
def test_steps_are_those_of_torchs_optimizers(name: str) -> None:
    ours, theirs = network(), network()
    rule, make = TORCHS[name]
    near(
        train(ours, LearnedOptimizer(ours.parameters(), rule()), range(15)),
        train(theirs, make(theirs.parameters()), range(15)),
    )


def test_decay_is_that_of_adamw() -> None:
    ours, theirs = network(), network()
    optimizer = LearnedOptimizer(ours.parameters(), adam(0.02), weight_decay=0.02 * 0.5)
    near(
        train(ours, optimizer, range(15)),
        train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.02, weight_decay=0.5), range(15)),
    )


def test_groups_have_rates_and_decays_of_their_own() -> None:
    a, b, c = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(3))
    groups = [{"params": [a]}, {"params": [b], "lr": 0.5}, {"params": [c], "lr": 2.0, "weight_decay": 0.25}]
    of = LearnedOptimizer(groups, sgd(0.125), weight_decay=0.5)
    for p in (a, b, c):
        p.grad = torch.tensor([4.0, 8.0])
    of.step()
    assert a.tolist() == [1 - 0.5 - 0.5, -2 - 1 + 1]
    assert b.tolist() == [1 - 0.5 * (0.5 + 0.5), -2 - 0.5 * (1 - 1)]
    assert c.tolist() == [1 - 2 * (0.5 + 0.25), -2 - 2 * (1 - 0.5)]


@pytest.mark.parametrize("name", LEARNED)
def test_a_rate_multiplies_the_rules_steps(name: str) -> None:
    moves = []
    for lr in (1.0, 0.25, 0.0):
        theta = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
        start = theta.detach().clone()
        theta.grad = torch.linspace(-2, 3, 5, dtype=torch.float64)
        LearnedOptimizer([theta], made(name), lr=lr).step()
        moves.append(theta.detach() - start)
    torch.testing.assert_close(moves[1], 0.25 * moves[0])
    assert moves[2].tolist() == [0.0] * 5
    assert moves[0].abs().min() > 0


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], LRScheduler]] = {
    "cosine": lambda o: CosineAnnealingLR(o, 10),
    "lambda": lambda o: LambdaLR(o, lambda step: 1 / (1 + step)),
    "one-cycle": lambda o: OneCycleLR(
        o, max_lr=2.0 * o.param_groups[0]["lr"], total_steps=20, cycle_momentum=False
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_torchs_schedules(name: str) -> None:
    ours, theirs = network(), network()
    a = LearnedOptimizer(ours.parameters(), sgd(0.1))
    b = torch.optim.SGD(theirs.parameters(), lr=0.1)
    near(
        train(ours, a, range(12), SCHEDULES[name](a)),
        train(theirs, b, range(12), SCHEDULES[name](b)),
    )


# Which parameters


@pytest.mark.parametrize("name", ["lstm", "mlp", "adam"])
def test_without_a_gradient_nothing_happens(name: str) -> None:
    """A parameter's steps are its own, whatever others do in between."""
    rule = made(name)
    gradients = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone, beside, always = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(3))
    by_itself, of = LearnedOptimizer([alone], rule), LearnedOptimizer([always, beside], rule)
    for g in gradients[::2]:
        alone.grad = g.clone()
        by_itself.step()
    for step, g in enumerate(gradients):
        always.grad, beside.grad = g.clone(), None if step % 2 else g.clone()
        before, state = beside.detach().clone(), copy.deepcopy(of.state.get(beside))
        of.step()
        if step % 2:
            same([beside], [before])
            assert of.state[beside].keys() == state.keys()
            same(
                [v for v in of.state[beside].values() if isinstance(v, Tensor)],
                [v for v in state.values() if isinstance(v, Tensor)],
            )
    near([beside], [alone])
    assert (of.state[always]["step"], of.state[beside]["step"]) == (5, 3)
    assert not torch.equal(always, beside)


def test_a_group_that_comes_later_begins_at_its_beginning() -> None:
    rule, model, later, fresh = made("mlp"), network(), network(), network()
    of = LearnedOptimizer(model.parameters(), rule)
    train(model, of, range(3))
    of.add_param_group({"params": later.parameters(), "lr": 0.5})
    alone = LearnedOptimizer(fresh.parameters(), rule, lr=0.5)
    near(train(later, of, range(3)), train(fresh, alone, range(3)))
    assert [g["lr"] for g in of.param_groups] == [1.0, 0.5]


def test_names_reach_the_rule() -> None:
    model = network()
    rates = {k: torch.full_like(p, 0.1 * i) for i, (k, p) in enumerate(model.named_parameters())}
    start = {k: p.detach().clone() for k, p in model.named_parameters()}
    train(model, LearnedOptimizer(model.named_parameters(), sgd(rates)), range(1))
    moved = [not torch.equal(p, start[k]) for k, p in model.named_parameters()]
    assert moved == [False, True, True, True]


@pytest.mark.parametrize("name", ["lstm", "adam"])
def test_the_layout_in_memory_is_nobodys_business(name: str) -> None:
    torch.manual_seed(0)
    value, g = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    plain = nn.Parameter(value.clone())
    last = nn.Parameter(value.clone(memory_format=torch.channels_last))
    turned = nn.Parameter(value.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))
    for p in (plain, last, turned):
        of = LearnedOptimizer([p], made(name, torch.float32))
        for _ in range(3):
            p.grad = g.clone() if p is not last else g.clone(memory_format=torch.channels_last)
            of.step()
    same([last, turned], [plain, plain])
    assert not last.is_contiguous()


def strided(value: Tensor, how: str) -> Tensor:
    """The same numbers, which lie in memory otherwise."""
    if how == "channels-last":
        return value.clone(memory_format=torch.channels_last)
    if how == "with gaps":
        return torch.stack([value, value], -1)[..., 0]
    if how == "cut out":
        return torch.cat([value, value], 1)[:, : value.shape[1]]
    return value.movedim(0, -1).contiguous().movedim(-1, 0)


@pytest.mark.parametrize("shape", [(4, 1, 3, 3), (4, 2, 3, 3), (1, 3, 1, 1)])
@pytest.mark.parametrize("how", ["channels-last", "with gaps", "cut out", "turned"])
@pytest.mark.parametrize("name", ["lstm", "mlp", "adam"])
def test_any_strides(name: str, how: str, shape: tuple[int, ...]) -> None:
    """Of one channel, and laid out channels-last, `flatten` gave a view that lay otherwise."""
    torch.manual_seed(0)
    value, g = torch.randn(shape), torch.randn(shape)
    plain, other = nn.Parameter(value.clone()), nn.Parameter(strided(value, how))
    for p, of_g in ((plain, g), (other, strided(g, how))):
        of = LearnedOptimizer([p], made(name, torch.float32))
        for _ in range(2):
            p.grad = of_g.clone()
            of.step()
    same([other], [plain])
    assert other.stride() == strided(value, how).stride()


def test_our_encoders_take_a_step() -> None:
    encoder = Conv4()
    before = [p.detach().clone() for p in encoder.parameters()]
    encoder(torch.rand(3, 1, 16, 16)).sum().backward()
    LearnedOptimizer(encoder.parameters(), made("lstm", torch.float32)).step()
    assert not any(torch.equal(p, b) for p, b in zip(encoder.parameters(), before, strict=True))


class Failing:
    """Takes some steps, then fails."""

    coordinatewise: bool

    def __init__(self, coordinatewise: bool, calls: int) -> None:
        self.coordinatewise, self.calls = coordinatewise, calls

    def init(self, parameters: Any) -> Any:
        return {k: torch.zeros_like(p) for k, p in parameters.items()}

    def update(self, gradients: Any, state: Any, parameters: Any, loss: Tensor) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError("no memory")
        return {k: p - 1 for k, p in parameters.items()}, {k: s + 1 for k, s in state.items()}


@pytest.mark.parametrize("coordinatewise", [True, False])
def test_a_step_that_fails_moves_nothing(coordinatewise: bool) -> None:
    parameters = [
        nn.Parameter(torch.ones(3)),
        nn.Parameter(torch.ones(2)),
        nn.Parameter(torch.ones(4).double()),
    ]
    for p in parameters:
        p.grad = torch.ones_like(p)
    rule = Failing(coordinatewise, 100)
    of = LearnedOptimizer(parameters, rule)
    with sizes(optimizer_coordinates=2):
        of.step()
        before = copy.deepcopy([parameters, of.state_dict()["state"]])
        for calls in range(2):
            rule.calls = calls
            with pytest.raises(RuntimeError, match="no memory"):
                of.step()
            same(parameters, before[0])
            state = of.state_dict()["state"]
            assert all(s["step"] == 1 and s["0"].eq(1).all() for s in state.values())
        rule.calls = 100
        of.step()
    assert all(p.eq(-1).all() for p in parameters)


def test_an_expanded_parameter_is_refused_before_anything_moves() -> None:
    with pytest.raises(ValueError, match=r"\[3, 2\] is expanded, .*expanded\.clone\(\)"):
        LearnedOptimizer([nn.Parameter(torch.ones(2).expand(3, 2))], sgd(0.1))


@pytest.mark.parametrize("rule", [1e-3, LSTMRule, torch.optim.Adam, nn.Linear(1, 1)])
def test_what_is_no_rule_is_refused_at_once(rule: Any) -> None:
    theta = nn.Parameter(torch.ones(2))
    for ask in (
        lambda: LearnedOptimizer([theta], rule),
        lambda: adapt(lambda p, step: p["x"].sum(), {"x": theta}, rule, 1),
        lambda: RuleLearner(rule, None),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(TypeError, match=r"^rule is "):
            ask()


def test_numbers_and_empty_parameters() -> None:
    number, empty = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.empty(0, 3))
    number.grad, empty.grad = torch.tensor(2.0), torch.empty(0, 3)
    for name in ("mlp", "nag"):
        before = number.item()
        LearnedOptimizer([empty, number], made(name, torch.float32)).step()
        assert number.item() != before


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@settings(max_examples=15)
@given(counts=SIZES, at_once=st.integers(1, 60), name=st.sampled_from(list(LEARNED)))
def test_parts_make_no_difference(counts: list[int], at_once: int, name: str) -> None:
    rule = made(name)
    results = []
    for size in (at_once, 10**6):
        torch.manual_seed(2)
        parameters = [nn.Parameter(torch.randn(n, dtype=torch.float64)) for n in counts]
        of = LearnedOptimizer(parameters, rule)
        with sizes(optimizer_coordinates=size):
            for _ in range(3):
                for p in parameters:
                    p.grad = torch.randn_like(p)
                of.step()
        results.append(parameters)
    near(*results)


@given(sizes=st.lists(st.integers(0, 40), max_size=6), at_once=st.integers(1, 60))
def test_parts_hold_every_coordinate_once(sizes: list[int], at_once: int) -> None:
    parts = list(optimizer._parts(sizes, at_once))
    listed = [[(i, c) for i, s in part for c in range(s.start, s.stop)] for part in parts]
    flat = [one for part in listed for one in part]
    assert flat == [(i, c) for i, size in enumerate(sizes) for c in range(size)]
    assert all(len(part) == at_once for part in listed[:-1])
    assert all(0 < len(part) <= at_once for part in listed)


# The state


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.medium
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL)
def test_goes_on_bit_for_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model, rule = network(dtype), made(name, torch.promote_types(dtype, torch.float32))
    of = LearnedOptimizer(model.parameters(), rule, lr=0.5)
    train(model, of, range(3))
    state = copy.deepcopy(of.state_dict())
    copies = [(copy.deepcopy(model), load) for load in ("memory", "file", "safetensors")]
    expected = train(model, of, range(3, 6))
    for again, load in copies:
        other = LearnedOptimizer(again.parameters(), rule)
        if load == "safetensors":  # as a training's last.safetensors has it
            fake = mock.Mock(state_dict=lambda: state)
            tensors, groups = checkpoint.pack_optimizer(fake)
            checkpoint.save(tmp_path / "state.safetensors", tensors, {})
            checkpoint.unpack_optimizer(other, checkpoint.load(tmp_path / "state.safetensors")[0], groups)
        else:
            other.load_state_dict(through_a_file(state) if load == "file" else state)
        assert other.param_groups[0]["lr"] == 0.5
        same(train(again, other, range(3, 6)), expected)


def test_state_that_was_loaded_is_not_shared() -> None:
    model, rule = network(), made("lstm")
    of = LearnedOptimizer(model.parameters(), rule)
    train(model, of, range(2))
    again = copy.deepcopy(model)
    other = LearnedOptimizer(again.parameters(), rule)
    other.load_state_dict(of.state_dict())
    same(train(again, other, range(2, 4)), train(model, of, range(2, 4)))


def test_hooks_see_and_change_what_is_loaded() -> None:
    model, rule = network(), made("adam")
    of = LearnedOptimizer(model.parameters(), rule)
    train(model, of, range(2))
    other = LearnedOptimizer(model.parameters(), rule)
    other.register_load_state_dict_pre_hook(lambda _, state: {**state, "state": {}})
    other.load_state_dict(of.state_dict())
    assert not other.state


@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["lstm", "mlp", "adam"])
def test_copies_go_on_bit_for_bit(name: str, copied: str) -> None:
    model, rule = network(), made(name)
    of = LearnedOptimizer(model.parameters(), rule, horizon=9)
    train(model, of, range(3))
    if copied == "pickle" and name == "adam":
        with pytest.raises((AttributeError, pickle.PicklingError), match="local"):
            pickle.dumps(of)
        return
    both = (model, of)
    again, other = copy.deepcopy(both) if copied == "deepcopy" else pickle.loads(pickle.dumps(both))
    assert other.horizon == 9
    assert other.param_groups[0]["params"][0] is next(again.parameters())
    same(train(again, other, range(3, 6)), train(model, of, range(3, 6)))


def test_state_of_another_rule_is_refused() -> None:
    model = network()
    of = LearnedOptimizer(model.parameters(), made("lstm"))
    train(model, of, range(1))
    for other in (made("mlp"), adam(0.1), LSTMRule(hidden=5)):
        with pytest.raises(ValueError, match=r"\[5, 3\] is not of this rule, \w+"):
            LearnedOptimizer(model.parameters(), other).load_state_dict(of.state_dict())


def test_state_is_of_numbers_and_tensors() -> None:
    model = network()
    for name in ALL:
        of = LearnedOptimizer(model.parameters(), made(name))
        train(model, of, range(1))
        for state in of.state_dict()["state"].values():
            assert all(isinstance(v, Tensor | int) for v in state.values())


def test_rules_may_remember_what_torch_changes_in_place() -> None:
    """Gradients are zeroed and parameters moved in place; what a rule keeps must stay what it was."""

    def update(g: Tensors, state: Any, theta: Tensors, loss: Tensor) -> tuple[Tensors, Any]:
        seen.append({k: {n: float(v) for n, v in kept.items()} for k, kept in state.items()})
        return {k: p - g[k] for k, p in theta.items()}, {"g": dict(g), "theta": dict(theta)}

    seen: list[Any] = []
    theta = nn.Parameter(torch.tensor(1.0))
    nothing = {"parameter": torch.zeros(())}
    of = LearnedOptimizer(
        [theta], FunctionalRule(lambda p: {"g": dict(nothing), "theta": dict(nothing)}, update)
    )
    for value in (2.0, 3.0):
        of.zero_grad(set_to_none=False)
        (value * theta).backward()
        of.step()
    assert seen[1] == {"g": {"parameter": 2.0}, "theta": {"parameter": 1.0}}


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["lstm", "rnnprop", "mlp", "adam"])
def test_half_precision_is_worked_on_in_float32(name: str, dtype: torch.dtype) -> None:
    rule = made(name, torch.float32)
    theta = nn.Parameter(torch.linspace(-1, 1, 7).to(dtype))
    of = LearnedOptimizer([theta], rule)
    expected = {"x": theta.detach().float()}
    state = rule.init(expected)
    for step in range(4):
        g = torch.linspace(-2, 3, 7).roll(step).to(dtype)
        theta.grad = g.clone()
        of.step()
        with torch.no_grad():
            after, state = rule.update({"x": g.float()}, state, expected, torch.zeros(()))
        expected = {"x": after["x"].to(dtype).float()}
        same([theta.float()], [expected["x"]])
    floats = [v for v in of.state[theta].values() if isinstance(v, Tensor)]
    assert {v.dtype for v in floats} == {torch.float32}


def test_parameters_of_several_precisions() -> None:
    rule = made("mlp", torch.float32)
    kinds = [torch.float64, torch.bfloat16, torch.float32]
    together = [nn.Parameter(torch.linspace(-1, 1, 5).to(kind)) for kind in kinds]
    apart = copy.deepcopy(together)
    for p in (*together, *apart):
        p.grad = torch.linspace(3, -2, 5).to(p.dtype)
    LearnedOptimizer(together, rule).step()
    for p in apart:
        LearnedOptimizer([p], rule).step()
    same(together, apart)
    assert [p.dtype for p in together] == kinds


def test_autocast_makes_no_difference() -> None:
    results = []
    for enabled in (False, True):
        model = network(torch.float32)
        of = LearnedOptimizer(model.parameters(), made("lstm", torch.float32))
        for step in range(3):
            of.zero_grad()
            loss_of(model, step, torch.float32).backward()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                of.step()
        results.append(list(model.parameters()))
    same(*results)


# The rule


def test_the_rule_is_frozen() -> None:
    rule = MLPRule(hidden=4).train()
    model = network(torch.float32)
    of = LearnedOptimizer(model.parameters(), rule)
    expected = copy.deepcopy((model, of))
    with torch.no_grad():
        for p in rule.parameters():
            p.fill_(7.0)
    same(train(model, of, range(3)), train(*expected, range(3)))
    assert rule.training
    assert all(p.requires_grad and p.grad is None for p in rule.parameters())
    assert not any(p.requires_grad for p in model.parameters() if p.grad is None)


class ByLoss:
    """A step is the loss times the gradient."""

    needs_loss = True

    def init(self, parameters: Tensors) -> tuple[()]:
        return ()

    def update(self, g: Tensors, state: Any, theta: Tensors, loss: Tensor) -> tuple[Tensors, Any]:
        assert not torch.is_grad_enabled()
        assert (loss.shape, loss.dtype, loss.requires_grad) == ((), torch.float64, False)
        return {k: p - loss * g[k] for k, p in theta.items()}, state


@pytest.mark.parametrize("kind", ["tensor", "of one element", "number"])
def test_the_loss_is_what_the_closure_returns(kind: str) -> None:
    theta = nn.Parameter(torch.tensor([3.0, 1.0], dtype=torch.float64))
    of = LearnedOptimizer([theta], ByLoss())

    def closure() -> Tensor | float:
        of.zero_grad()
        loss = theta.sum()
        loss.backward()
        return {"tensor": loss, "of one element": loss.float().view(1), "number": loss.item()}[kind]

    with torch.no_grad():  # in which closures have gradients all the same
        assert float(of.step(closure)) == 4.0
    assert theta.tolist() == [-1.0, -3.0]


def test_a_rule_that_needs_the_loss_and_gets_none() -> None:
    theta = nn.Parameter(torch.ones(1))
    of = LearnedOptimizer([theta], ByLoss())
    for closure in (None, lambda: None):
        with pytest.raises(ValueError, match="ByLoss needs the loss: give step a closure"):
            of.step(closure)
    with pytest.raises(ValueError, match=r"a loss \[2\]: it must be a single number"):
        of.step(lambda: torch.ones(2))


def test_a_rule_that_does_not_ask_for_the_loss_gets_none() -> None:
    seen = []
    rule = FunctionalRule(lambda p: (), lambda g, s, p, loss: (seen.append(loss.item()), (p, s))[1])
    theta = nn.Parameter(torch.ones(1))
    theta.grad = torch.ones(1)
    LearnedOptimizer([theta], rule).step(lambda: torch.tensor(5.0))
    assert seen == [pytest.approx(float("nan"), nan_ok=True)]


def test_warns_once_beyond_the_horizon() -> None:
    model = network()
    of = LearnedOptimizer(model.parameters(), made("mlp"), horizon=3)
    train(model, of, range(3))
    saved = copy.deepcopy(of.state_dict())
    with pytest.warns(
        UserWarning, match="trained for 3 steps, and this is step 4: .*another optimizer"
    ) as told:
        train(model, of, range(3))
    assert len(told) == 1
    assert told[0].filename == __file__
    other = LearnedOptimizer(model.parameters(), made("mlp"), horizon=3)
    other.load_state_dict(saved)
    with pytest.warns(UserWarning, match="step 4"):
        train(model, other, range(1))


# Errors


def test_numbers_out_of_range() -> None:
    theta = nn.Parameter(torch.ones(2))
    for lr, decay in ((-0.1, 0.0), (float("nan"), 0.0), (1.0, -1e-3), (1.0, float("nan"))):
        with pytest.raises(ValueError, match=rf"lr is {lr} and weight_decay {decay}: both must be 0 or more"):
            LearnedOptimizer([theta], sgd(0.1), lr=lr, weight_decay=decay)
    with pytest.raises(ValueError, match="horizon is 0: at least 1"):
        LearnedOptimizer([theta], sgd(0.1), horizon=0)
    of = LearnedOptimizer([theta], sgd(0.1))
    for group in (
        {"params": [nn.Parameter(torch.ones(2))], "lr": -1.0},
        {"params": [nn.Parameter(1j * torch.ones(2))]},
    ):
        with pytest.raises(ValueError, match=r"lr is -1.0|\[2\] is of torch.complex64: .* real numbers"):
            of.add_param_group(group)
    assert len(of.param_groups) == 1


def test_sparse_gradients_are_refused_before_anything_moves() -> None:
    dense, embedding = nn.Parameter(torch.ones(2)), nn.Embedding(4, 2, sparse=True)
    dense.grad = torch.ones(2)
    embedding(torch.tensor([1])).sum().backward()
    of = LearnedOptimizer([dense, embedding.weight], made("mlp", torch.float32))
    with pytest.raises(ValueError, match=r"\[4, 2\] is torch.sparse_coo, .*sparse=False"):
        of.step()
    assert dense.tolist() == [1.0, 1.0]
    assert not of.state


# Files

CARD = {
    "families": ["digits"],
    "horizon": 2,
    "seed": 0,
    "cpu_seconds": 9,
    "figures": {},
    "known_failures": [],
}
DEFAULTS = [LSTMRule(), RNNpropRule(), MLPRule()]
OTHERS = [
    LSTMRule(preprocess=False, scale=0.5, hidden=3, layers=1, p=5.0),
    RNNpropRule(lr=0.2, beta1=0.5, beta2=0.7, hidden=3, layers=1, eps=1e-3),
    MLPRule(lr=0.2, hidden=3, eps=1e-3),
]


@pytest.mark.parametrize("rule", DEFAULTS + OTHERS, ids=lambda rule: type(rule).__name__)
def test_a_saved_rule_is_the_same_rule(rule: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_rule(path, rule, CARD | {"kind": "other", "arguments": {}})
    loaded, card = load_rule(path)
    assert type(loaded) is type(rule)
    assert loaded.arguments == rule.arguments
    assert not loaded.training
    assert card == {"kind": "rule", "rule": type(rule).__name__, "arguments": rule.arguments, **CARD}
    assert path.with_suffix(".json").exists()
    a, b = network(torch.float32), network(torch.float32)
    of = LearnedOptimizer(a.parameters(), path)
    assert of.horizon == 2
    same(train(a, of, range(2)), train(b, LearnedOptimizer(b.parameters(), rule), range(2)))
    with pytest.warns(UserWarning, match="trained for 2 steps"):
        train(a, of, range(1))
    assert LearnedOptimizer(a.parameters(), str(path), horizon=7).horizon == 7


def test_a_name_stands_for_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_rule(tmp_path / "mine.safetensors", MLPRule(), CARD)
    monkeypatch.setattr(optimizer_weights, "shipped_rules", lambda: {"mine": tmp_path / "mine.safetensors"})
    assert LearnedOptimizer(network().parameters(), "mine").horizon == 2
    with pytest.raises(FileNotFoundError, match="no rule 'yours': rules that ship are mine"):
        load_rule("yours")


def test_what_ships() -> None:
    for name, path in shipped_rules().items():
        assert path.stat().st_size < 100_000
        rule, card = load_rule(name)
        assert CARD.keys() <= card.keys()
        assert all(p.isfinite().all() for p in rule.parameters())
        model = network(torch.float32)
        of = LearnedOptimizer(model.parameters(), name)
        assert of.horizon == card["horizon"]
        losses = [loss_of(model, 0, torch.float32).item()]
        train(model, of, [0] * 20)
        assert loss_of(model, 0, torch.float32) < losses[0]


def test_a_trainings_folder(tmp_path: Path) -> None:
    rule = LSTMRule()
    weights = checkpoint.prefixed("rule.", rule.state_dict())
    checkpoint.save(
        tmp_path / "best.safetensors", weights, {"kind": "rule", "rule": "LSTMRule", "horizon": 100}
    )
    loaded, card = load_rule(tmp_path)
    same(loaded.parameters(), rule.parameters())
    assert card["horizon"] == 100


def test_files_of_something_else(tmp_path: Path) -> None:
    def written(weights: dict[str, Tensor], manifest: dict[str, Any]) -> Path:
        checkpoint.save(tmp_path / "it.safetensors", weights, manifest)
        return tmp_path / "it.safetensors"

    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none\.safetensors"):
        load_rule(tmp_path / "none.safetensors")
    with pytest.raises(
        ValueError, match=r"no update rule but a model of recipe 'maml-omniglot': .*load_learner"
    ):
        load_rule(written({}, {"recipe": "maml-omniglot"}))
    with pytest.raises(ValueError, match="holds the rule VeLO, which this version lacks: it knows LSTMRule"):
        load_rule(written({}, {"kind": "rule", "rule": "VeLO"}))
    mlp = MLPRule().state_dict()
    with pytest.raises(
        ValueError, match=r"the rule LSTMRule with arguments \{\}, which does not fit: .*lacks lstm"
    ):
        load_rule(written(mlp, {"kind": "rule", "rule": "LSTMRule"}))
    for arguments, reason in (
        ({"hidden": 3}, r"first.weight is \[16, 10\]"),
        ({"depth": 3}, "depth"),
        ({"lr": -1}, "lr is -1"),
    ):
        with pytest.raises(ValueError, match=f"MLPRule with arguments .*{reason}"):
            load_rule(written(mlp, {"kind": "rule", "rule": "MLPRule", "arguments": arguments}))
    (tmp_path / "it.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        load_rule(tmp_path / "it.safetensors")


def test_front_names() -> None:
    import quickstudy

    assert quickstudy.LearnedOptimizer is LearnedOptimizer
    assert quickstudy.load_rule is load_rule
