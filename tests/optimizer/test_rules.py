"""Learned update rules: against their papers' equations, coordinate by coordinate, and finite differences."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quickstudy.core import checkpoint
from quickstudy.core.adapt import FunctionalRule, RuleState, Tensors, adapt
from quickstudy.core.update_rules import heavy_ball
from quickstudy.optimizer.rules.coordinatewise import log_and_sign
from quickstudy.optimizer.rules.lstm import LSTMRule
from quickstudy.optimizer.rules.mlp import MLPRule
from quickstudy.optimizer.rules.rnnprop import RNNpropRule
from tests.optimizer.oracle_lstm import Numbers, andrychowicz, numbers
from tests.optimizer.oracle_mlp import metz
from tests.optimizer.oracle_rnnprop import lv
from tests.support.oracles import Weights

Oracle = Callable[[nn.Module, Weights, list[Weights]], list[Numbers]]


def of_lstm(rule: nn.Module, start: Weights, gradients: list[Weights], **how) -> list[Numbers]:
    return andrychowicz(dict(rule.named_parameters()), start, gradients, **how)


def of_rnnprop(rule: nn.Module, start: Weights, gradients: list[Weights], **how) -> list[Numbers]:
    return lv(dict(rule.named_parameters()), start, gradients, **how)


def of_mlp(rule: nn.Module, start: Weights, gradients: list[Weights], **how) -> list[Numbers]:
    decays = tuple(rule.decays.flatten().tolist())  # as float32 has them
    return metz(dict(rule.named_parameters()), start, gradients, decays=decays, **how)


PAPERS: dict[str, tuple[Callable[[], nn.Module], Oracle]] = {
    "lstm": (LSTMRule, of_lstm),
    "rnnprop": (RNNpropRule, of_rnnprop),
    "mlp": (MLPRule, of_mlp),
}
"""As they come by default, which is as the papers have them."""
OTHERS: dict[str, tuple[Callable[[], nn.Module], Oracle]] = {
    "lstm-raw": (
        lambda: LSTMRule(preprocess=False, scale=1.0, hidden=3, layers=1),
        lambda *a: of_lstm(*a, preprocess=False, scale=1.0, units=3, layers=1),
    ),
    "lstm-release": (
        lambda: LSTMRule(scale=0.01, hidden=4, layers=3, p=5.0),
        lambda *a: of_lstm(*a, scale=0.01, units=4, layers=3, p=5.0),
    ),
    "rnnprop-small": (
        lambda: RNNpropRule(0.3, 0.0, 0.8, hidden=4, layers=1, eps=0.01),
        lambda *a: of_rnnprop(*a, alpha=0.3, beta1=0.0, beta2=0.8, units=4, layers=1, eps=0.01),
    ),
    "mlp-small": (
        lambda: MLPRule(lr=0.2, hidden=3, eps=0.1),
        lambda *a: of_mlp(*a, alpha=0.2, eps=0.1),
    ),
}
SMALL = {
    "lstm": lambda: LSTMRule(hidden=4),
    "lstm-raw": OTHERS["lstm-raw"][0],
    "rnnprop": lambda: RNNpropRule(hidden=4),
    "mlp": lambda: MLPRule(lr=0.2, hidden=4),
}


def made(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    """A rule whose weights and biases are all of a size that is felt."""
    torch.manual_seed(0)
    rule = make().to(dtype)
    with torch.no_grad():
        for p in rule.parameters():
            p.copy_(0.5 * torch.randn(p.shape))
    return rule


SHAPES = {"matrix": (3, 2), "vector": (4,), "number": ()}


def start() -> Tensors:
    rng = torch.Generator().manual_seed(0)
    return {k: torch.randn(shape, generator=rng, dtype=torch.float64) for k, shape in SHAPES.items()}


def gradients_of_all_sizes(steps: int) -> list[Tensors]:
    """From 1e-7 to 1e3, of both signs, and some exactly 0, at the first step too."""
    rng = torch.Generator().manual_seed(1)
    all_steps = []
    for _ in range(steps):
        step = {}
        for k, shape in SHAPES.items():
            size = 10 ** (10 * torch.rand(shape, generator=rng, dtype=torch.float64) - 7)
            kept = torch.rand(shape, generator=rng) > 0.2
            step[k] = size * torch.randn(shape, generator=rng, dtype=torch.float64).sign() * kept
        all_steps.append(step)
    return all_steps


def walk(
    rule: nn.Module, parameters: Tensors, gradients: Sequence[Tensors], state: RuleState = None
) -> tuple[list[Tensors], RuleState]:
    """The parameters after each step, and the state after the last."""
    state = rule.init(parameters) if state is None else state
    after = []
    for g in gradients:
        parameters, state = rule.update(g, state, parameters, torch.zeros(()))
        after.append(parameters)
    return after, state


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", PAPERS | OTHERS)
def test_steps_are_those_of_the_paper(name: str, grad: bool) -> None:
    make, oracle = (PAPERS | OTHERS)[name]
    rule, gradients = made(make), gradients_of_all_sizes(5)
    assert any((g["matrix"] == 0).any() for g in gradients)
    with torch.set_grad_enabled(grad):
        after, _ = walk(rule, start(), gradients)
    for t, expected in enumerate(oracle(rule, start(), gradients)):
        assert after[t].keys() == expected.keys()
        for k, shape in SHAPES.items():
            assert after[t][k].shape == shape
            assert numbers(after[t])[k] == pytest.approx(expected[k], rel=1e-10, abs=1e-10)
    moves = (after[-1]["matrix"] - start()["matrix"]).abs()
    assert moves.min() > 1e-3  # else nearly anything would agree


def test_the_decays_of_the_small_network_are_those_it_states() -> None:
    assert MLPRule().decays.flatten().tolist() == pytest.approx([0.5, 0.9, 0.99], rel=1e-7)
    assert MLPRule().horizons.tolist() == [3, 10, 30, 100, 300, 1000]


# Preprocessing

LEAST = 4.5399929762484854e-05
"""e^−10."""


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_log_and_sign_by_hand(dtype: torch.dtype, tolerance: float) -> None:
    by_hand = {
        1.0: (0, 1),
        -1.0: (0, -1),
        2.718281828459045: (0.1, 1),
        -0.006737946999085467: (-0.5, -1),  # −e^−5
        2e-4: (-0.8517193191416238, 1),
        LEAST: (-1, 1),
        -LEAST: (-1, -1),
        4.5e-05: (-1, 0.9911909607663),
        LEAST / 2: (-1, 0.5),
        -LEAST / 4: (-1, -0.25),
        1e-30: (-1, 2.2026465794806718e-26),
        0.0: (-1, 0),
        1e30: (6.907755278982137, 1),
        -3e38: (8.859684582244186, -1),
    }
    ours = log_and_sign(torch.tensor(list(by_hand), dtype=dtype))
    assert ours.shape == (2, len(by_hand))
    for i, (x, (size, sign)) in enumerate(by_hand.items()):
        assert ours[0, i].item() == pytest.approx(size, rel=tolerance, abs=tolerance), x
        assert ours[1, i].item() == pytest.approx(sign, rel=tolerance, abs=tolerance * 1e-20), x


def test_log_and_sign_with_another_p() -> None:
    x = torch.tensor([0.0033689734995427335, 0.1, -1.0], dtype=torch.float64)  # e^−5 / 2, …
    expected = torch.tensor([[-1, -0.4605170185988091, 0], [0.5, 1, -1]], dtype=torch.float64)
    torch.testing.assert_close(log_and_sign(x, 5.0), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 3e38), (torch.float64, 1.7e308)])
def test_log_and_sign_at_its_edge_and_at_the_ends_of_the_numbers(dtype: torch.dtype, largest: float) -> None:
    edge = torch.tensor(LEAST, dtype=dtype)
    near = torch.stack([torch.nextafter(edge, edge.new_tensor(way)) for way in (0.0, 1.0)])
    eps = torch.finfo(dtype).eps
    ones = torch.ones(2, dtype=dtype)
    torch.testing.assert_close(log_and_sign(near), torch.stack([-ones, ones]), rtol=4 * eps, atol=0)
    torch.testing.assert_close(log_and_sign(-near), torch.stack([-ones, -ones]), rtol=4 * eps, atol=0)
    least = torch.finfo(dtype).tiny
    ends = torch.tensor([largest, -largest, least, -least], dtype=dtype, requires_grad=True)
    x = log_and_sign(ends)
    assert x[0].tolist() == pytest.approx([math.log(largest) / 10] * 2 + [-1, -1], rel=4 * eps)
    assert x[1].sign().tolist() == [1, -1, 1, -1]
    (gradient,) = torch.autograd.grad(x.sum(), ends)
    assert gradient.isfinite().all()


# Any coordinates, any gradients


@settings(max_examples=25)
@given(name=st.sampled_from(sorted(SMALL)), data=st.data())
def test_rules_are_coordinatewise(name: str, data: st.DataObject) -> None:
    """The order of the coordinates and the tensors that they lie in make no difference."""
    count = data.draw(st.integers(1, 9))
    order = torch.tensor(data.draw(st.permutations(range(count))))
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1), max_size=3))) if count > 1 else []
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, count], strict=True)]

    def parts(x: Tensor) -> Tensors:
        """The shuffled coordinates in tensors of 0 to 2 dimensions."""
        shapes = [(() if n == 1 else (2, n // 2) if n % 2 == 0 else (n,)) for n in sizes]
        pieces = zip(x[order].split(sizes), shapes, strict=True)
        return {f"p{i}": piece.view(shape) for i, (piece, shape) in enumerate(pieces)}

    rule, rng = made(SMALL[name]), torch.Generator().manual_seed(2)
    theta = torch.randn(count, generator=rng, dtype=torch.float64)
    gradients = torch.randn(4, count, generator=rng, dtype=torch.float64)
    whole, _ = walk(rule, {"all": theta}, [{"all": g} for g in gradients])
    split, _ = walk(rule, parts(theta), [parts(g) for g in gradients])
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(b, parts(a["all"]), rtol=1e-12, atol=1e-12)


EXTREMES = {
    "zero": lambda tiny, huge: [[0.0] * 3] * 4,
    "zero-at-last": lambda tiny, huge: [[1.0, -1.0, 0.5]] + [[0.0] * 3] * 3,
    "tiny": lambda tiny, huge: [[tiny, -tiny, tiny * 1e5]] * 4,
    "huge": lambda tiny, huge: [[huge, -huge, huge / 1e10]] * 4,
    "huge-once": lambda tiny, huge: [[huge, -huge, huge / 1e10]] + [[1.0, -1.0, 0.5]] * 3,
    "up-and-down": lambda tiny, huge: [[huge, tiny, 0.0], [tiny, -huge, huge], [-huge, 0.0, -tiny]],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", EXTREMES)
@pytest.mark.parametrize("name", SMALL)
def test_no_gradient_makes_a_number_that_is_none(name: str, size: str, dtype: torch.dtype) -> None:
    """Nor does the gradient through the steps."""
    limits = torch.finfo(dtype)
    rule = made(SMALL[name], dtype)
    steps = EXTREMES[size](limits.tiny, limits.max / 4)
    parameters = {"x": torch.ones(3, dtype=dtype, requires_grad=True)}
    gradients = [{"x": torch.tensor(g, dtype=dtype, requires_grad=True)} for g in steps]
    after, _ = walk(rule, parameters, gradients)
    for p in after:
        assert p["x"].isfinite().all()
    to = [*parameters.values(), *rule.parameters()]
    for g in torch.autograd.grad(after[-1]["x"].sum(), to, retain_graph=True):
        assert g.isfinite().all()
    if size in ("zero", "zero-at-last"):  # second order
        for g in torch.autograd.grad(after[-1]["x"].sum(), [g["x"] for g in gradients]):
            assert g.isfinite().all()


@pytest.mark.parametrize("name", ["rnnprop", "mlp"])
@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_normalized_rules_do_not_see_the_scale_of_the_gradients(name: str, scale: float) -> None:
    rule, gradients = made(SMALL[name]), gradients_of_all_sizes(4)
    gradients = [
        {k: g.sign() * (0.1 + g.abs().log().abs().clamp_max(9)) for k, g in s.items()} for s in gradients
    ]
    expected, _ = walk(rule, start(), gradients)
    scaled, _ = walk(rule, start(), [{k: scale * g for k, g in s.items()} for s in gradients])
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-4)
    assert (expected[-1]["matrix"] - start()["matrix"]).abs().max() > 0.01


# Two functions that change nothing


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_a_step_changes_nothing_that_it_is_given(name: str, grad: bool) -> None:
    rule = made(SMALL[name])
    _, state = walk(rule, start(), gradients_of_all_sizes(1))
    given_ = (gradients_of_all_sizes(1)[0], state, start(), torch.ones(()))
    leaves = [*pytree.tree_leaves(given_), *rule.parameters(), *rule.buffers()]
    before = [(t, t._version, t.detach().clone()) for t in leaves]
    names = [list(tree) for tree in (given_[0], given_[2])]
    with torch.set_grad_enabled(grad):
        first, after = rule.update(*given_)
    for t, version, value in before:
        assert t._version == version
        assert torch.equal(t, value)
    assert [list(tree) for tree in (given_[0], given_[2])] == names
    assert all(not torch.equal(first[k], p) for k, p in given_[2].items())
    again, after_again = rule.update(*given_)  # so there is no memory but the state
    torch.testing.assert_close((again, after_again), (first, after), rtol=0, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_a_state_can_be_written_and_taken_up_again(name: str, tmp_path) -> None:
    rule, gradients = made(SMALL[name]), gradients_of_all_sizes(6)
    whole, last = walk(rule, start(), gradients)
    half, state = walk(rule, start(), gradients[:2])
    leaves = pytree.tree_leaves(state)
    checkpoint.save(tmp_path / "state.safetensors", {str(i): t for i, t in enumerate(leaves)}, {})
    read, _ = checkpoint.load(tmp_path / "state.safetensors")
    form = pytree.tree_structure(rule.init(start()))
    state = pytree.tree_unflatten([read[str(i)] for i in range(form.num_leaves)], form)
    rest, end = walk(rule, half[-1], gradients[2:], state)
    torch.testing.assert_close(rest, whole[2:], rtol=0, atol=0)
    torch.testing.assert_close(pytree.tree_leaves(end), pytree.tree_leaves(last), rtol=0, atol=0)
    anew, _ = walk(rule, half[-1], gradients[2:])
    assert not torch.equal(anew[-1]["matrix"], whole[-1]["matrix"])


@pytest.mark.parametrize("name", SMALL)
def test_the_loss_is_not_looked_at(name: str) -> None:
    """One for each task, or one for all: a coordinatewise rule goes by its gradients."""
    rule, (g,) = made(SMALL[name]), gradients_of_all_sizes(1)
    state = rule.init(start())
    expected = rule.update(g, state, start(), torch.zeros(()))
    assert torch.equal(rule.update(g, state, start(), torch.ones(5))[0]["matrix"], expected[0]["matrix"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSTMRule(scale=0.0), r"scale is 0\.0, .*all must be positive"),
        (lambda: LSTMRule(hidden=0), r"hidden 0, .*all must be positive"),
        (lambda: LSTMRule(layers=-1), r"layers -1, .*all must be positive"),
        (lambda: LSTMRule(p=-1.0), r"p -1\.0: all must be positive"),
        (lambda: RNNpropRule(lr=0.0), r"lr is 0\.0, "),
        (lambda: RNNpropRule(beta1=1.0), r"betas 1\.0 and 0\.95: .*the betas below 1"),
        (lambda: RNNpropRule(beta2=-0.1), r"betas 0\.95 and -0\.1: "),
        (lambda: RNNpropRule(hidden=0), r"hidden 0, "),
        (lambda: RNNpropRule(layers=0), r"layers 0, "),
        (lambda: RNNpropRule(eps=0.0), r"eps 0\.0, "),
        (lambda: MLPRule(lr=-0.01), r"lr is -0\.01, .*all must be positive"),
        (lambda: MLPRule(hidden=0), r"hidden 0, "),
        (lambda: MLPRule(eps=0.0), r"eps 0\.0: all must be positive"),
    ],
)
def test_numbers_out_of_range_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Through several steps


def bowl(p: Tensors, step: int = 0) -> Tensor:
    """Smooth, neither quadratic nor separable, and another one at each step."""
    ties = p["matrix"].sum() * p["number"] + (p["vector"] - step).square().mean() * p["number"].cos()
    return ties + sum((t**4).sum() for t in p.values()) / 4


def after_steps(rule: nn.Module, p: Tensors, first_order: bool = False) -> Tensor:
    """A loss of the end and of all states of a course of four steps."""
    seen: list[Tensor] = []

    def watch(k: int, at: Tensors, gradients: Tensors, loss: Tensor) -> None:
        seen.append(bowl(at, k + 7) if k else torch.zeros(()))

    adapted = adapt(bowl, p, rule, 4, first_order, watch=watch)
    return bowl(adapted.parameters, 9) + sum(seen)


def slopes(rule: nn.Module, seed: int, first_order: bool) -> tuple[float, float]:
    """In a random direction of φ and θ₀ at once: by the gradient, and by central differences."""
    rng = torch.Generator().manual_seed(seed)
    p = {k: t.requires_grad_() for k, t in start().items()}
    wanted = [*rule.parameters(), *p.values()]
    direction = [torch.randn(t.shape, generator=rng, dtype=t.dtype) for t in wanted]
    gradients = torch.autograd.grad(after_steps(rule, p, first_order), wanted)
    slope = sum((g * v).sum().item() for g, v in zip(gradients, direction, strict=True))
    step, values = 1e-5, []
    with torch.no_grad():
        for to in (step, -2 * step):
            for t, v in zip(wanted, direction, strict=True):
                t.add_(v, alpha=to)
            values.append(after_steps(rule, p).item())
        for t, v in zip(wanted, direction, strict=True):
            t.add_(v, alpha=step)
    return slope, (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_through_the_steps_is_that_of_finite_differences(name: str, seed: int) -> None:
    slope, difference = slopes(made(SMALL[name]), seed, first_order=False)
    assert abs(difference) > 1e-2
    assert slope == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_first_order_is_not_that_of_finite_differences(name: str) -> None:
    """So the test above can tell."""
    slope, difference = slopes(made(SMALL[name]), 0, first_order=True)
    assert slope != pytest.approx(difference, rel=1e-3)


# What the inner loop is told and tells


@pytest.mark.parametrize("first_order", [True, False])
def test_a_course_is_taken_up_where_it_was_left(first_order: bool) -> None:
    for rule in (made(SMALL["rnnprop"]), heavy_ball(0.05)):
        whole = adapt(bowl, start(), rule, 5, first_order)
        half = adapt(bowl, start(), rule, 2, first_order)
        rest = adapt(lambda p, k: bowl(p, k + 2), half.parameters, rule, 3, first_order, half.state)
        torch.testing.assert_close(rest.parameters, whole.parameters, rtol=0, atol=0)
        torch.testing.assert_close(rest.state, whole.state, rtol=0, atol=0)
        assert rest.losses.tolist() == whole.losses[2:].tolist()


def test_no_steps_leave_the_state_as_it_was() -> None:
    rule = heavy_ball(0.1)
    state = adapt(bowl, start(), rule, 1).state
    assert adapt(bowl, start(), rule, 0, state=state).state is state
    torch.testing.assert_close(
        adapt(bowl, start(), rule, 0).state, {k: torch.zeros_like(p) for k, p in start().items()}
    )


def test_each_step_is_watched_before_it_is_taken() -> None:
    """The number of the step, and what is there before it."""
    taken: list[str] = []

    def update(g: Tensors, state: RuleState, p: Tensors, loss: Tensor) -> tuple[Tensors, RuleState]:
        taken.append("step")
        return {k: p[k] - 0.25 * g[k] for k in p}, state

    def watch(k: int, p: Tensors, gradients: Tensors, loss: Tensor) -> None:
        taken.append(f"{k}: x {p['x'].item()}, gradient {gradients['x'].item()}, loss {loss.item()}")

    adapt(
        lambda p, k: (k + 1) * p["x"] ** 2,
        {"x": torch.tensor(4.0)},
        FunctionalRule(lambda p: (), update),
        3,
        watch=watch,
    )
    assert taken == [
        "0: x 4.0, gradient 8.0, loss 16.0",
        "step",
        "1: x 2.0, gradient 8.0, loss 8.0",
        "step",
        "2: x 0.0, gradient 0.0, loss 0.0",
        "step",
    ]


@pytest.mark.parametrize("first_order", [True, False])
def test_what_is_watched_is_differentiable_as_the_result_is(first_order: bool) -> None:
    """x_k = (1 − 2α)^k x for L = x²; at first order dx_k/dx is 1 and dx_k/dα = −Σ_j 2 x_j."""
    x, alpha = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (3.0, 0.1))
    rule = FunctionalRule(lambda p: (), lambda g, s, p, loss: ({"x": p["x"] - alpha * g["x"]}, s))
    seen: list[tuple[Tensor, Tensor]] = []
    adapt(
        lambda p, k: p["x"] ** 2,
        {"x": x},
        rule,
        3,
        first_order,
        watch=lambda k, p, g, loss: seen.append((p["x"], loss)),
    )
    for k, (at, loss) in enumerate(seen[1:], start=1):
        to_x, to_alpha = (g.item() for g in torch.autograd.grad(at, [x, alpha], retain_graph=True))
        course = [0.8**j * 3 for j in range(k)]
        expected = (1, -2 * sum(course)) if first_order else (0.8**k, -2 * k * 0.8 ** (k - 1) * 3)
        assert (to_x, to_alpha) == pytest.approx(expected)
        if not first_order:
            (to_x,) = torch.autograd.grad(loss, x, retain_graph=True)
            assert to_x.item() == pytest.approx(2 * at.item() * 0.8**k)
    assert len(seen) == 3
