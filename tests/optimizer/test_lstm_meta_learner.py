"""The LSTM meta-learner against the paper's equations, written out, and against finite differences."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.adapt import Tensors, adapt
from quickstudy.core.episode import Episode, Support
from quickstudy.core.kernels.sizes import sizes
from quickstudy.core.learner import batch_statistics
from quickstudy.encoders.classifier import MLP
from quickstudy.optimizer.lstm_meta_learner import LSTMMetaLearner
from quickstudy.optimizer.rules.cell_state import CellStateRule, Gates
from quickstudy.optimizer.rules.lstm_cell import LSTMCell, lstm_step
from quickstudy.optimizer.torch_optimizer import LearnedOptimizer
from tests.initialization.oracle_maml import Finn, Net, finn_conv4, finn_cross_entropy, finn_mlp
from tests.optimizer.oracle_lstm_meta_learner import ravi
from tests.support.oracles import Weights
from tests.support.small_models import (
    central_difference,
    distance,
    gradients_of,
    inductive,
    network,
    parts,
    pictures,
    weights_of,
)

HIDDEN = 2


def rule(gates: Gates = "learned", **arguments: float) -> CellStateRule:
    """Its weights are large, so that a mistake in any part shows; f is about 0.9 and i about 0.2."""
    rng = torch.Generator().manual_seed(1)
    made = CellStateRule(gates, (2.0, 2.5), (-1.5, -1.0), hidden=HIDDEN, **arguments).double()
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name != "bias":
                p.copy_(torch.rand(p.shape, generator=rng) - 0.5)
        made.bias.copy_(torch.tensor([[2.2], [-1.3]]))
    return made


def vectors(tasks: int = 3, items: int = 5, queries: int = 4) -> Episode:
    """Tasks of unlike size, so that their losses are."""
    rng = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.5, 2, tasks).view(-1, 1, 1)
    x = torch.randn(tasks, items + queries, 4, generator=rng).double() * scale
    y = torch.arange(items + queries).remainder(3).expand(tasks, -1)
    return Episode(Support(x[:, :items], y[:, :items], 3), x[:, items:], y[:, items:])


def setting(kind: str) -> tuple[nn.Module, Net, Episode, int]:
    """A model, the oracle's for it, tasks, and inner steps."""
    if kind == "conv4":
        return network(channels=2), finn_conv4, pictures(tasks=2), 2
    torch.manual_seed(0)
    return MLP(4, [3], 3).double(), finn_mlp, vectors(), 3


@cache
def truth(kind: str, first_order: bool) -> tuple[Finn, Weights, Weights]:
    """What Algorithm 1 computes, and the gradients of weights and rule."""
    model, net, e, steps = setting(kind)
    learned = rule()
    of = dict(learned.named_parameters())
    theirs = ravi(net, finn_cross_entropy, of, weights_of(model), *parts(e), steps, first_order)
    return theirs, gradients_of(theirs.loss, model), gradients_of(theirs.loss, learned)


@pytest.mark.medium
@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("kind", ["mlp", "conv4"])
def test_scores_loss_and_meta_gradients_are_the_papers(kind: str, first_order: bool) -> None:
    model, _, e, steps = setting(kind)
    learner = LSTMMetaLearner(model, rule(), steps, first_order=first_order)
    theirs, of_weights, of_rule = truth(kind, first_order)
    torch.testing.assert_close(learner.predict(e.support, e.query_x), theirs.outputs, rtol=1e-10, atol=1e-10)
    loss = learner(e)
    torch.testing.assert_close(loss, theirs.loss, rtol=1e-10, atol=1e-10)
    assert distance(gradients_of(loss, learner.model), of_weights) < 1e-10
    assert distance(gradients_of(loss, learner.cell), of_rule) < 1e-10


def test_the_orders_differ() -> None:
    for first, second in zip(truth("mlp", True)[1:], truth("mlp", False)[1:], strict=True):
        assert distance(first, second) > 1e-2


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["mlp", "conv4"])
@pytest.mark.parametrize("gates", ["learned", "scalar", "fixed"])
def test_second_order_is_that_of_finite_differences(gates: Gates, kind: str) -> None:
    model, _, e, steps = setting(kind)
    learner = LSTMMetaLearner(model, rule(gates), steps, first_order=False)
    for seed in range(3):
        slope, difference = central_difference(learner, e, seed)
        assert slope == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("transductive", [True, False])
def test_evaluation_takes_the_statistics_that_it_says(transductive: bool) -> None:
    model, net, e, steps = setting("conv4")
    learner = LSTMMetaLearner(model, rule(), steps).eval()
    theirs = truth("conv4", True)[0]
    with torch.no_grad():
        scores = learner.predict(e.support, e.query_x)
        if transductive:
            with batch_statistics(learner):
                scores = learner.predict(e.support, e.query_x)
    expected = theirs.outputs if transductive else inductive(net, theirs.adapted, e)
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)


def test_at_first_it_is_near_gradient_descent() -> None:
    """f ≈ 1 and i ≈ 0, whatever the gradients and losses."""
    torch.manual_seed(0)
    learned = CellStateRule()
    for name, p in learned.named_parameters():
        if name != "bias":
            assert -0.01 <= p.min() < -0.005 < 0.005 < p.max() <= 0.01, name
    assert 4 <= learned.bias[0] <= 5
    assert -5 <= learned.bias[1] <= -4
    theta = {"x": torch.randn(1000)}
    state = learned.init(theta)
    for scale in (1e-6, 1.0, 1e3):
        theta, state = learned.update({"x": scale * torch.randn(1000)}, state, theta, torch.tensor(scale))
    f, i = state[-1].sigmoid()
    assert 0.98 < f.min() < f.max() < 0.995
    assert 0.005 < i.min() < i.max() < 0.02


def test_first_order_keeps_the_way_through_the_cell() -> None:
    """With fixed gates θ_T = f^T θ_0 − …, and the gradients are constants: f^T times the queries'."""
    model, _, e, _ = setting("mlp")
    learner, f = LSTMMetaLearner(model, rule("fixed"), 3), torch.tensor(2.2).double().sigmoid()
    adapted = {k: p.detach().requires_grad_() for k, p in learner.adapt(e.support).parameters.items()}
    scores = torch.stack([finn_mlp({k: p[t] for k, p in adapted.items()}, e.query_x[t]) for t in range(3)])
    loss = nn.functional.cross_entropy(scores.flatten(0, 1), e.query_y.flatten())
    at_last = torch.autograd.grad(loss, list(adapted.values()))
    expected = {k: f**3 * g.sum(0) for k, g in zip(adapted, at_last, strict=True)}
    assert distance(gradients_of(learner(e), model), expected) < 1e-10


def moved(
    learned: CellStateRule, gradients: Tensors, theta: Tensors, loss: Tensor, steps: int = 3
) -> Tensors:
    state = learned.init(theta)
    for _ in range(steps):
        theta, state = learned.update(gradients, state, theta, loss)
    return theta


def drawn(*shapes: tuple[int, ...], seed: int) -> Tensors:
    rng = torch.Generator().manual_seed(seed)
    return {f"p{i}": torch.randn(s, generator=rng, dtype=torch.float64) for i, s in enumerate(shapes)}


def test_scalar_and_fixed_gates_are_gradient_descent_with_decay() -> None:
    shapes = (2, 3), ()
    theta, g = drawn(*shapes, seed=0), drawn(*shapes, seed=1)
    f, i = torch.tensor([2.2, -1.3]).double().sigmoid()
    for gates, learned in (("scalar", ["bias"]), ("fixed", [])):
        made = rule(gates)
        assert [k for k, p in made.named_parameters() if p.requires_grad] == learned
        after = moved(made, g, theta, torch.tensor(1.0), steps=1)
        for k, p in theta.items():
            torch.testing.assert_close(after[k].detach(), f * p - i * g[k], rtol=1e-12, atol=0)


@pytest.mark.parametrize("gates", ["learned", "scalar"])
def test_the_divisor_divides_the_gradients(gates: Gates) -> None:
    theta, g, loss = drawn((2, 3), seed=0), drawn((2, 3), seed=1), torch.tensor([0.3, 2.0]).double()
    ours = moved(rule(gates, divisor=5), g, theta, loss)
    expected = moved(rule(gates), {k: v / 5 for k, v in g.items()}, theta, loss)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(ours["p0"], moved(rule(gates), g, theta, loss)["p0"])


def test_tasks_side_by_side_are_the_tasks_alone() -> None:
    """A task alone has a scalar for its loss, and parameters as they are."""
    shapes, losses = ((3, 2), (3,), (3, 2, 2)), torch.tensor([0.1, 1.0, 3.0]).double()
    theta, g = drawn(*shapes, seed=0), drawn(*shapes, seed=1)
    together = moved(rule(), g, theta, losses)
    for t, loss in enumerate(losses):
        alone = moved(rule(), {k: v[t] for k, v in g.items()}, {k: v[t] for k, v in theta.items()}, loss)
        own = {k: v[t] for k, v in together.items()}
        torch.testing.assert_close(own, alone, rtol=1e-12, atol=1e-12)


def test_autocast_leaves_the_rule_exact() -> None:
    theta, g, loss = drawn((2, 300), seed=0), drawn((2, 300), seed=1), torch.tensor([0.3, 2.0])
    theta, g = ({k: v.float() for k, v in of.items()} for of in (theta, g))
    learned = rule().float()
    exact = moved(learned, g, theta, loss)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(moved(learned, g, theta, loss), exact, rtol=0, atol=0)


@pytest.mark.parametrize("at_once", [1, 3, 7, 8])
def test_the_fast_step_is_the_cell(at_once: int) -> None:
    torch.manual_seed(0)
    cell = LSTMCell(2, HIDDEN).double()
    nn.init.uniform_(cell.bias)
    x, h, c = (torch.randn(n, 7).double().requires_grad_() for n in (2, HIDDEN, HIDDEN))
    to_h, to_c = torch.randn(2, HIDDEN, 7).double()

    def results(after: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        loss = (after[0] * to_h + after[1] * to_c).sum()
        return *after, *torch.autograd.grad(loss, [x, h, c, *cell.parameters()])

    with sizes(lstm_coordinates=at_once):
        ours = results(lstm_step(cell, x, h, c))
    theirs = results(cell(x, h, c))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_groups_of_tasks_change_nothing() -> None:
    losses, gradients = [], []
    for chunk_size in (1, 2, 3):
        model, _, e, steps = setting("mlp")
        learner = LSTMMetaLearner(model, rule(), steps, chunk_size=chunk_size)
        losses.append(learner(e))
        gradients.append(gradients_of(losses[-1], learner))
    for loss, gradient in zip(losses, gradients, strict=True):
        torch.testing.assert_close(loss, losses[0], rtol=1e-10, atol=1e-12)
        assert distance(gradient, gradients[0]) < 1e-10


@pytest.mark.parametrize("gates", ["learned", "scalar", "fixed"])
def test_a_checkpoint_has_all_of_it(gates: Gates) -> None:
    model, _, e, steps = setting("mlp")
    learner = LSTMMetaLearner(model, rule(gates), steps)
    other = LSTMMetaLearner(MLP(4, [3], 3), CellStateRule(gates, hidden=HIDDEN), steps).double()
    other.load_state_dict(learner.state_dict())
    assert torch.equal(other.predict(e.support, e.query_x), learner.predict(e.support, e.query_x))


def test_frozen_parameters_stay() -> None:
    model, _, e, steps = setting("mlp")
    frozen = model.get_parameter("layers.0.weight").requires_grad_(False)
    learner = LSTMMetaLearner(model, rule(), steps)
    adapted = learner.adapt(e.support).parameters["layers.0.weight"]
    assert torch.equal(adapted, frozen.expand_as(adapted))
    learner(e).backward()
    assert [k for k, p in learner.named_parameters() if p.grad is None] == ["model.layers.0.weight"]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="gates is 'open': choose 'learned', 'scalar' or 'fixed'"):
        CellStateRule("open")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"divisor is 0, hidden 20, p 10\.0: all must be positive"):
        CellStateRule(divisor=0)
    with pytest.raises(ValueError, match="steps is -1"):
        LSTMMetaLearner(MLP(4, [3], 3), steps=-1)
    theta = drawn((2, 3), seed=0)
    with pytest.raises(ValueError, match=r"the losses are \[3\] and the parameter p0 is \[2, 3\]"):
        moved(rule(), theta, theta, torch.ones(3).double())


@pytest.mark.parametrize("gates", ["learned", "scalar"])
def test_as_an_optimizer_of_torch_it_takes_the_steps_of_the_inner_loop(gates: Gates) -> None:
    torch.manual_seed(0)
    rule, model = CellStateRule(gates).double(), nn.Linear(4, 3).double()
    x, y = torch.randn(6, 4).double(), torch.arange(6) % 3
    start = {k: p.detach().clone() for k, p in model.named_parameters()}

    def loss(p: Tensors, step: int) -> Tensor:
        return nn.functional.cross_entropy(x @ p["weight"].mT + p["bias"], y)

    optimizer = LearnedOptimizer(model.parameters(), rule)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(model(x), y)
        value.backward()
        return value

    for _ in range(3):
        optimizer.step(closure)
    expected = adapt(loss, start, rule, 3, first_order=True).parameters
    torch.testing.assert_close(dict(model.named_parameters()), expected, rtol=1e-12, atol=1e-12)
