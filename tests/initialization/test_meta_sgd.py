"""Meta-SGD against the paper's equations, written out, and against finite differences."""

import pytest
import torch
from torch import nn

from quickstudy.core.learner import batch_statistics
from quickstudy.initialization.meta_sgd import MetaSGD
from tests.initialization.oracle_maml import finn_conv4
from tests.support.oracles import Weights
from tests.support.small_models import (
    NETWORKS,
    central_difference,
    distance,
    gradients_of,
    inductive,
    network,
    oracle,
    oracle_first_order,
    pictures,
    weights_of,
)

STEPS = 3


def random_rates(model: nn.Module) -> Weights:
    """A third of them negative."""
    rng = torch.Generator().manual_seed(1)
    return {
        name: (0.6 * torch.rand(p.shape, generator=rng, dtype=p.dtype) - 0.2).requires_grad_()
        for name, p in model.named_parameters()
    }


def meta_sgd(kind: str = "conv4", **arguments: bool) -> MetaSGD:
    """With `random_rates`."""
    model = network(kind)
    learner = MetaSGD(model, steps=STEPS, **arguments)
    with torch.no_grad():
        for rate, drawn in zip(learner.rates, random_rates(model).values(), strict=True):
            rate.copy_(drawn)
    return learner


def rates_of(learner: MetaSGD) -> Weights:
    return dict(zip(learner.names, learner.rates, strict=True))


@pytest.mark.medium
@pytest.mark.parametrize("kind", NETWORKS)
def test_scores_loss_and_both_meta_gradients_are_the_papers(kind: str) -> None:
    model, e, learner = network(), pictures(), meta_sgd(kind)
    rates = random_rates(model)
    assert any((rate < 0).any() for rate in rates.values())
    theirs = oracle(model, e, rates, STEPS)
    of_rates = torch.autograd.grad(theirs.loss, list(rates.values()), retain_graph=True)
    torch.testing.assert_close(learner.predict(e.support, e.query_x), theirs.outputs, rtol=1e-10, atol=1e-10)
    loss = learner(e)
    torch.testing.assert_close(loss, theirs.loss, rtol=1e-10, atol=1e-10)
    assert distance(gradients_of(loss, learner.model), gradients_of(theirs.loss, model)) < 1e-10
    ours = dict(zip(rates, gradients_of(loss, learner.rates).values(), strict=True))
    assert distance(ours, dict(zip(rates, of_rates, strict=True))) < 1e-10


@pytest.mark.parametrize("kind", NETWORKS)
def test_first_order_learns_the_rates_as_well(kind: str) -> None:
    learner, model = meta_sgd(kind, first_order=True), network()
    rates = random_rates(model)
    of_weights, of_rates = oracle_first_order(model, pictures(), rates, STEPS)
    loss = learner(pictures())
    assert distance(gradients_of(loss, learner.model), of_weights) < 1e-10
    ours = dict(zip(rates, gradients_of(loss, learner.rates).values(), strict=True))
    assert distance(ours, of_rates) < 1e-10


@pytest.mark.parametrize("rates", ["parameter", "layer"])
def test_the_meta_gradient_is_that_of_finite_differences(rates: str) -> None:
    learner = MetaSGD(network(), rates=rates, init=(0.2, 0.4), steps=2)  # pyright: ignore[reportArgumentType]
    for seed in range(3):
        slope, difference = central_difference(learner, pictures(), seed)
        assert slope == pytest.approx(difference, rel=1e-6)


def test_a_rate_for_each_layer_is_a_scalar() -> None:
    model, e = network(), pictures()
    learner = MetaSGD(model, rates="layer", init=(0.1, 0.5), steps=STEPS)
    assert all(rate.shape == () for rate in learner.rates)
    theirs = oracle(model, e, rates_of(learner), STEPS)
    torch.testing.assert_close(learner(e), theirs.loss, rtol=1e-10, atol=1e-10)
    ours = torch.autograd.grad(learner(e), list(learner.rates))
    expected = torch.autograd.grad(theirs.loss, list(learner.rates))
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_the_rates_are_drawn_between_the_two() -> None:
    learner = MetaSGD(network(), init=(0.02, 0.03))
    drawn = torch.cat([rate.flatten() for rate in learner.rates])
    assert 0.02 <= drawn.min() < 0.0205
    assert 0.0295 < drawn.max() <= 0.03
    assert [rate.shape for rate in learner.rates] == [p.shape for p in learner.model.parameters()]


def test_a_rate_may_turn_negative_in_training() -> None:
    """A task whose labels lie: the best step goes uphill."""
    learner = MetaSGD(network(), rates="layer", init=(0.01, 0.01))
    optimizer = torch.optim.Adam(learner.rates.parameters(), 0.01)
    e = pictures()
    e.support.y.copy_((e.support.y + 1) % 3)
    for _ in range(15):
        optimizer.zero_grad()
        learner(e).backward()
        optimizer.step()
    assert min(rate.item() for rate in learner.rates) < 0


@pytest.mark.parametrize("transductive", [True, False])
def test_evaluation_takes_the_statistics_that_it_says(transductive: bool) -> None:
    e, learner, model = pictures(), meta_sgd().eval(), network()
    theirs = oracle(model, e, random_rates(model), STEPS)
    with torch.no_grad():
        inductively = learner.predict(e.support, e.query_x)
        with batch_statistics(learner):
            transductively = learner.predict(e.support, e.query_x)
    expected = theirs.outputs if transductive else inductive(finn_conv4, theirs.adapted, e)
    torch.testing.assert_close(
        transductively if transductive else inductively, expected, rtol=1e-9, atol=1e-9
    )


def test_frozen_parameters_have_no_rate() -> None:
    model = network()
    frozen = ["encoder.convs.1.weight", "head.bias"]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    learner = MetaSGD(model, steps=2)
    assert learner.names == [name for name in weights_of(model) if name not in frozen]
    e = pictures()
    theirs = oracle(model, e, rates_of(learner), 2)
    torch.testing.assert_close(learner(e), theirs.loss, rtol=1e-10, atol=1e-10)


def test_rates_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="rates is 'tensor': choose 'parameter', 'layer' or 'layer"):
        MetaSGD(network(), rates="tensor")  # pyright: ignore[reportArgumentType]
