"""MAML against the paper's equations, written out, and against finite differences."""

import math
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.core.learner import batch_statistics
from quickstudy.encoders.classifier import MLP
from quickstudy.initialization.maml import MAML, fomaml
from tests.initialization.oracle_maml import (
    Finn,
    finn,
    finn_conv4,
    finn_cross_entropy,
    finn_first_order,
    finn_linear,
    finn_mlp,
    finn_squared_error,
)
from tests.support.oracles import Weights
from tests.support.small_models import (
    NETWORKS,
    SavedForBackward,
    central_difference,
    converted,
    distance,
    gradients_of,
    inductive,
    network,
    one_rate,
    oracle,
    oracle_first_order,
    parts,
    pictures,
    weights_of,
)

RATE, STEPS = 0.4, 5


@cache
def second_order(size: int = 16) -> tuple[Finn, Weights]:
    """What Algorithm 2 computes for `pictures(size=size)`, and its gradients; all networks have one truth."""
    model = network(size=size)
    steps = STEPS if size == 16 else 2
    truth = oracle(model, pictures(size=size), one_rate(weights_of(model), RATE), steps)
    return truth, gradients_of(truth.loss, model)


@cache
def first_order() -> Weights:
    model = network()
    return oracle_first_order(model, pictures(), one_rate(weights_of(model), RATE), STEPS)[0]


@pytest.mark.medium
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("kind", NETWORKS)
def test_scores_loss_and_meta_gradient_are_the_papers(kind: str, chunk_size: int | None) -> None:
    truth, gradients = second_order()
    e = pictures(tasks=2)
    learner = MAML(network(kind), lr=RATE, steps=STEPS, chunk_size=chunk_size)
    torch.testing.assert_close(learner.predict(e.support, e.query_x), truth.outputs, rtol=1e-10, atol=1e-10)
    loss = learner(e)
    torch.testing.assert_close(loss, truth.loss, rtol=1e-10, atol=1e-10)
    assert distance(gradients_of(loss, learner.model), gradients) < 1e-10
    loss.backward()
    grads = {k: p.grad for k, p in learner.model.named_parameters() if p.grad is not None}
    assert distance(grads, gradients) < 1e-10


@pytest.mark.parametrize("kind", NETWORKS)
def test_adapted_weights_and_losses_are_the_papers(kind: str) -> None:
    truth, _ = second_order()
    e = pictures()
    adapted = MAML(network(kind), lr=RATE, steps=STEPS).adapt(e.support)
    for t, own in enumerate(truth.adapted):
        for name, w in own.items():
            torch.testing.assert_close(adapted.parameters[name][t], w, rtol=1e-9, atol=1e-10)
    shorter = [oracle_losses(k) for k in (0, 1)]
    assert adapted.losses.shape == (STEPS, 2)
    torch.testing.assert_close(adapted.losses[:2], torch.stack(shorter), rtol=1e-10, atol=1e-10)


def oracle_losses(steps: int) -> Tensor:
    """[T] losses of the support after so many steps."""
    e = pictures()
    both = parts(e)[0]
    model = network()
    rates = one_rate(weights_of(model), RATE)
    each = [
        finn(finn_conv4, finn_cross_entropy, weights_of(model), rates, part, part, steps).loss
        for part in ((both[0][t : t + 1], both[1][t : t + 1]) for t in range(2))
    ]
    return torch.stack(each).detach()


@pytest.mark.parametrize("kind", NETWORKS)
def test_larger_pictures_are_flattened_in_the_same_order(kind: str) -> None:
    truth, gradients = second_order(32)
    learner = MAML(network(kind, size=32), lr=RATE, steps=2)
    loss = learner(pictures(size=32))
    torch.testing.assert_close(loss, truth.loss, rtol=1e-10, atol=1e-10)
    assert distance(gradients_of(loss, learner.model), gradients) < 1e-10


@pytest.mark.medium
@pytest.mark.parametrize("chunk_size", [1, 2])
@pytest.mark.parametrize("kind", NETWORKS)
def test_fomaml_is_the_gradient_at_the_adapted_weights(kind: str, chunk_size: int) -> None:
    learner = fomaml(network(kind), lr=RATE, steps=STEPS, chunk_size=chunk_size)
    assert learner.first_order
    loss = learner(pictures())
    torch.testing.assert_close(loss, second_order()[0].loss, rtol=1e-10, atol=1e-10)
    gradients = gradients_of(loss, learner.model)
    assert distance(gradients, first_order()) < 1e-10
    assert distance(gradients, second_order()[1]) > 0.1


def test_without_steps_it_is_training_on_the_queries() -> None:
    model = network()
    e = pictures()
    learner = MAML(model, steps=0)
    plain = torch.stack([F.cross_entropy(model(e.query_x[t]), e.query_y[t]) for t in range(2)]).mean()
    torch.testing.assert_close(learner(e), plain, rtol=1e-10, atol=1e-10)
    assert distance(gradients_of(learner(e), model), gradients_of(plain, model)) < 1e-10


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["conv4", "own-module"])
def test_the_meta_gradient_is_that_of_finite_differences(kind: str) -> None:
    learner, e = MAML(network(kind), lr=RATE, steps=3), pictures()
    for seed in range(3):
        slope, difference = central_difference(learner, e, seed)
        assert slope == pytest.approx(difference, rel=1e-6)


def test_fomaml_is_not_that_of_finite_differences() -> None:
    """So the test above can tell."""
    slope, difference = central_difference(fomaml(network(), lr=RATE, steps=3), pictures(), 0)
    assert slope != pytest.approx(difference, rel=1e-2)


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_evaluation_takes_the_statistics_that_it_says(kind: str, transductive: bool) -> None:
    truth, _ = second_order()
    e = pictures()
    learner = MAML(network(kind), lr=RATE, steps=1, test_steps=STEPS).eval()
    if transductive:
        with torch.no_grad(), batch_statistics(learner):
            scores = learner.predict(e.support, e.query_x)
        expected = truth.outputs
    else:
        with torch.no_grad():
            scores = learner.predict(e.support, e.query_x)
        expected = inductive(finn_conv4, truth.adapted, e)
        assert not torch.allclose(scores, truth.outputs, rtol=1e-2)
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)


def test_the_meta_gradient_of_inductive_scores() -> None:
    """Nothing trains so, but what is differentiable must be right: statistics are constants then."""
    e = pictures()
    learner = MAML(network(), lr=RATE, steps=1, first_order=True).eval()
    loss = learner(e)
    expected = F.cross_entropy(learner.predict(e.support, e.query_x).flatten(0, 1), e.query_y.flatten())
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert distance(gradients_of(loss, learner), gradients_of(expected, learner)) < 1e-12


# Modules of every kind


@pytest.mark.medium
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_frozen_parameters_are_neither_adapted_nor_learned(kind: str, order: str) -> None:
    frozen = ["encoder.convs.1.weight", "encoder.norms.2.weight", "head.bias"]
    model = network(kind)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    e = pictures()
    learner = MAML(model, lr=RATE, steps=2, first_order=order == "first")
    names = [k for k in weights_of(model) if k not in frozen]
    adapted = learner.adapt(e.support).parameters
    assert adapted.keys() == weights_of(model).keys()
    for name in frozen:
        assert torch.equal(adapted[name], model.get_parameter(name).expand_as(adapted[name]))
    loss = learner(e)
    loss.backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == [
        k for k in weights_of(model) if k in frozen
    ]
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    if order == "second":
        theirs = gradients_of(oracle(model, e, one_rate(names, RATE), 2).loss, model)
    else:
        of_all = oracle_first_order(model, e, one_rate(names, RATE), 2)[0]
        theirs = {k: of_all[k] for k in names}
    assert distance(grads, theirs) < 1e-10


def test_a_model_with_nothing_to_adapt_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to adapt"):
        MAML(network().requires_grad_(False))


class Attention(nn.Module):
    """Self-attention over four tokens of two numbers, by torch's module or by its function."""

    def __init__(self, function: bool, heads: int = 2, width: int = 4) -> None:
        super().__init__()
        self.inwards, self.heads, self.width = nn.Linear(2, width), heads, width
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.out, self.function = nn.Linear(width, 3), function

    def forward(self, x: Tensor) -> Tensor:
        x = self.inwards(x)
        if not self.function:
            return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))
        a = self.attention
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in F.linear(x, a.in_proj_weight, a.in_proj_bias).chunk(3, -1)
        )
        z = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out(F.linear(z, a.out_proj.weight, a.out_proj.bias).mean(1))


def attention_by_hand(w: Weights, x: Tensor) -> Tensor:
    """Vaswani et al. 2017: softmax(QKᵀ/√d) V for each item, head and token."""
    heads, width = 2, 4
    d = width // heads
    means = []
    for item in x:
        tokens = finn_linear(w["inwards.weight"], w["inwards.bias"], item)
        each = finn_linear(w["attention.in_proj_weight"], w["attention.in_proj_bias"], tokens)
        q, k, v = each[:, :width], each[:, width : 2 * width], each[:, 2 * width :]
        rows = []
        for i in range(len(tokens)):
            values = []
            for h in range(heads):
                own = slice(h * d, h * d + d)
                energies = torch.stack([(q[i, own] * k[j, own]).sum() / math.sqrt(d) for j in range(len(k))])
                attends = energies.exp() / energies.exp().sum()
                values.append(sum(attends[j] * v[j, own] for j in range(len(v))))
            rows.append(torch.cat(values))
        z = finn_linear(w["attention.out_proj.weight"], w["attention.out_proj.bias"], torch.stack(rows))
        means.append(z.mean(0))
    return finn_linear(w["out.weight"], w["out.bias"], torch.stack(means))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0][:, -1])


def lstm_by_hand(w: Weights, x: Tensor) -> Tensor:
    """Hochreiter, Schmidhuber 1997, with forget gates."""
    h = c = torch.zeros(len(x), 3, dtype=x.dtype)
    for t in range(x.shape[1]):
        gates = finn_linear(w["lstm.weight_ih_l0"], w["lstm.bias_ih_l0"], x[:, t])
        gates = gates + finn_linear(w["lstm.weight_hh_l0"], w["lstm.bias_hh_l0"], h)
        i, f, o = (1 / (1 + torch.exp(-gates[:, k : k + 3])) for k in (0, 3, 9))
        c = f * c + i * torch.tanh(gates[:, 6:9])
        h = o * torch.tanh(c)
    return finn_linear(w["out.weight"], w["out.bias"], h)


def sequences(tasks: int = 2) -> Episode:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, 8, 4, 2, generator=rng, dtype=torch.float64)
    y = torch.tensor([[0, 1, 2, 1, 2, 0, 0, 1]] * tasks)
    return Episode(Support(x[:, :4], y[:, :4], 3), x[:, 4:], y[:, 4:])


OTHERS = {
    "multi-head-attention": (partial(Attention, function=False), attention_by_hand),
    "attention-function": (partial(Attention, function=True), attention_by_hand),
    "lstm": (Recurrent, lstm_by_hand),
}


@pytest.mark.medium
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("name", OTHERS)
def test_attention_and_recurrence_are_those_written_by_hand(name: str, order: str) -> None:
    make, by_hand = OTHERS[name]
    torch.manual_seed(0)
    model, e = make().double(), sequences()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape))
    learner = MAML(model, lr=0.3, steps=2, first_order=order == "first")
    rates = one_rate(weights_of(model), 0.3)
    truth = oracle(model, e, rates, 2, by_hand)
    torch.testing.assert_close(learner.predict(e.support, e.query_x), truth.outputs, rtol=1e-10, atol=1e-10)
    theirs = gradients_of(truth.loss, model)
    if order == "first":
        theirs = oracle_first_order(model, e, rates, 2, by_hand)[0]
    assert distance(gradients_of(learner(e), model), theirs) < 1e-9


@pytest.mark.parametrize("name", OTHERS)
def test_attention_and_recurrence_in_single_precision(name: str) -> None:
    """Where torch has kernels that can't be differentiated twice."""
    torch.manual_seed(0)
    model, e = OTHERS[name][0](), sequences()
    exact = MAML(OTHERS[name][0]().double(), lr=0.3, steps=2)
    exact.load_state_dict(MAML(model).state_dict())
    learner, low = MAML(model, lr=0.3, steps=2), converted(e, torch.float32)
    expected = gradients_of(exact(e), exact.model)
    ours = {k: g.double() for k, g in gradients_of(learner(low), model).items()}
    assert distance(ours, expected) < 1e-3
    learner.eval()
    with torch.no_grad():  # where torch's attention takes another way
        scores = learner.predict(low.support, low.query_x)
    torch.testing.assert_close(scores.double(), exact.predict(e.support, e.query_x), rtol=1e-4, atol=1e-5)


# Memory


def most_saved(tasks: int, chunk_size: int, steps: int = 1, first_order: bool = False) -> int:
    learner = MAML(network(), steps=steps, first_order=first_order, chunk_size=chunk_size)
    e = pictures(tasks=tasks)
    saved = SavedForBackward()
    with saved:
        learner(e).backward()
    assert saved.tensors == 0
    return saved.most


def test_memory_is_that_of_one_group() -> None:
    assert most_saved(6, 1) == most_saved(2, 1) > 0
    assert most_saved(6, 6) > 2.5 * most_saved(6, 2)


def test_memory_of_first_order_does_not_grow_with_the_steps() -> None:
    assert most_saved(2, 2, 2, first_order=True) == most_saved(2, 2, 8, first_order=True)
    assert most_saved(2, 2, 8) > 3 * most_saved(2, 2, 2)


def test_what_keeps_more_for_the_way_back_takes_fewer_tasks_at_once() -> None:
    support, queries, large = (
        torch.zeros(1, 5, 1, 28, 28),
        torch.zeros(1, 75, 1, 28, 28),
        torch.zeros(1, 5, 3, 512, 512),
    )
    found = {
        (kind, first): MAML(network(kind), first_order=first).limits(support, support).tasks
        for kind in ("conv4", "own-encoder")
        for first in (True, False)
    }
    assert found["conv4", True] > found["conv4", False] > found["own-encoder", False] > 1
    assert found["conv4", True] > found["own-encoder", True] > found["own-encoder", False]
    learner = MAML(network(), first_order=True)
    assert (
        found["conv4", True]
        > learner.limits(support, queries).tasks
        > learner.limits(large, large).tasks
        == 1
    )


@pytest.mark.medium
@pytest.mark.parametrize("chunk_size", [1, 2, 4, 9])
def test_groups_of_tasks_change_nothing(chunk_size: int) -> None:
    e = pictures(tasks=5)
    together = MAML(network(), lr=RATE, steps=2, chunk_size=5)
    apart = MAML(together.model, lr=RATE, steps=2, chunk_size=chunk_size)
    assert distance(gradients_of(apart(e), apart.model), gradients_of(together(e), together.model)) < 1e-12
    torch.testing.assert_close(apart(e), together(e), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        apart.predict(e.support, e.query_x), together.predict(e.support, e.query_x), rtol=1e-10, atol=1e-10
    )


# Regression


def points(tasks: int = 2, outputs: int = 1, items: int = 5) -> Episode:
    rng = torch.Generator().manual_seed(0)
    x = 10 * torch.rand(tasks, 2 * items, 1, generator=rng, dtype=torch.float64) - 5
    phases = torch.arange(outputs) + torch.rand(tasks, 1, outputs, generator=rng, dtype=torch.float64)
    y = 2 * torch.sin(x + phases)
    return Episode(Support(x[:, :items], y[:, :items], 0), x[:, items:], y[:, items:])


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("order", ["first", "second"])
def test_regression_is_the_papers(order: str, outputs: int) -> None:
    torch.manual_seed(0)
    model, e = MLP(1, (40, 40), outputs).double(), points(outputs=outputs)
    rates = one_rate(weights_of(model), 0.01)
    truth = finn(finn_mlp, finn_squared_error, weights_of(model), rates, *parts(e), 3)
    learner = MAML(model, lr=0.01, steps=3, first_order=order == "first")
    torch.testing.assert_close(learner.predict(e.support, e.query_x), truth.outputs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(learner(e), truth.loss, rtol=1e-10, atol=1e-10)
    theirs = gradients_of(truth.loss, model)
    if order == "first":
        theirs = finn_first_order(finn_mlp, finn_squared_error, weights_of(model), rates, *parts(e), 3)[0]
    assert distance(gradients_of(learner(e), model), theirs) < 1e-10


def test_regression_differentiates_as_finite_differences_do() -> None:
    torch.manual_seed(0)
    learner = MAML(MLP(1, (10, 10), 1).double(), lr=0.02, steps=4)
    for seed in range(3):
        slope, difference = central_difference(learner, points(), seed)
        assert slope == pytest.approx(difference, rel=1e-6)


def test_an_episode_of_a_regression() -> None:
    e = points(3, outputs=2)
    assert (e.ways, e.tasks, e.shots) == (0, 3, 5)
    assert torch.equal(e[1:].query_y, e.query_y[1:])
    one_number = Support(torch.zeros(2, 3, 4), torch.zeros(2, 3), 0)
    assert one_number.y.shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda x, y: Support(x, y.long(), 0),
            r"support values of a regression \(ways = 0\) are torch\.int64: convert them with y\.float\(\)",
            id="integers",
        ),
        pytest.param(
            lambda x, y: Support(x, y[:, :2], 0), r"labels have shape \[2, 2, 1\] but the items", id="items"
        ),
        pytest.param(lambda x, y: Support(x, y[:1], 0), r"labels have shape \[1, 3, 1\]", id="tasks"),
        pytest.param(
            lambda x, y: Episode(Support(x, y, 0), x, y[:, :2]),
            r"query items \[2, 3, 1\] and labels \[2, 2, 1\] do not fit",
            id="query-items",
        ),
        pytest.param(
            lambda x, y: Episode(Support(x, y, 0), x, y.long()),
            r"query values of a regression \(ways = 0\) are torch\.int64",
            id="query-integers",
        ),
        pytest.param(lambda x, y: Support(x, y, 2), r"labels have shape \[2, 3, 1\]", id="ways"),
    ],
)  # fmt: skip
def test_mistakes_in_a_regression_are_named(make: Callable[[Tensor, Tensor], object], message: str) -> None:
    x = torch.zeros(2, 3, 1)
    with pytest.raises(ValueError, match=message):
        make(x, x.clone())


def test_values_without_the_last_dimension_mean_the_same_or_are_refused() -> None:
    torch.manual_seed(0)
    e = points(1)
    learner = MAML(MLP(1, (4,), 1).double(), lr=0.01)
    flat = Episode(Support(e.support.x, e.support.y[..., 0], 0), e.query_x, e.query_y[..., 0])
    try:
        loss = learner(flat)
    except ValueError:
        return
    torch.testing.assert_close(loss, learner(e))


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"steps": -1}, "steps is -1: it must be at least 0", id="steps"),
        pytest.param({"test_steps": -2}, "test_steps is -2: it must be at least 0", id="test-steps"),
        pytest.param({"chunk_size": 0}, "chunk_size is 0: it must be at least 1", id="chunk-size"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAML(network(), **arguments)


def test_steps_in_training_and_in_evaluation() -> None:
    learner, e = MAML(network(), steps=2, test_steps=4), pictures()
    assert len(learner.adapt(e.support).losses) == 2
    assert len(learner.eval().adapt(e.support).losses) == 4
    assert len(MAML(network(), steps=3).eval().adapt(e.support).losses) == 3


def test_it_learns_to_learn() -> None:
    """New tasks of another kind than before training, in a few steps: the point of it all."""
    torch.manual_seed(0)
    learner = MAML(MLP(1, (20,), 1), lr=0.1, steps=1)
    optimizer = torch.optim.Adam(learner.parameters(), 0.01)
    rng = torch.Generator().manual_seed(0)

    def lines(tasks: int) -> Episode:
        x = 2 * torch.rand(tasks, 10, 1, generator=rng) - 1
        y = x * torch.randn(tasks, 1, 1, generator=rng)
        return Episode(Support(x[:, :5], y[:, :5], 0), x[:, 5:], y[:, 5:])

    test = lines(100)
    before = learner(test).item()
    for _ in range(300):
        optimizer.zero_grad()
        learner(lines(8)).backward()
        optimizer.step()
    after = learner(test).item()
    untrained = test.query_y.square().mean().item()
    assert after < 0.5 * untrained
    assert after < 0.5 * before
