"""ANIL against the paper's equation, written out, and against finite differences."""

import pytest
import torch
from torch import nn

from quickstudy.core.learner import batch_statistics
from quickstudy.encoders.classifier import Classifier
from quickstudy.initialization.anil import ANIL
from tests.initialization.oracle_maml import Finn, finn_conv4
from tests.support.oracles import Weights
from tests.support.small_models import (
    central_difference,
    distance,
    gradients_of,
    inductive,
    network,
    one_rate,
    oracle,
    oracle_first_order,
    pictures,
)

RATE, STEPS = 0.4, 5
HEAD = ("head.weight", "head.bias")
NETWORKS = ["conv4", "own-encoder"]


def classifier(kind: str = "conv4") -> Classifier:
    model = network(kind)
    assert isinstance(model, Classifier)
    return model


def truth() -> tuple[Finn, Weights]:
    model = network()
    found = oracle(model, pictures(), one_rate(HEAD, RATE), STEPS)
    return found, gradients_of(found.loss, model)


@pytest.mark.medium
@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("kind", NETWORKS)
def test_scores_loss_and_meta_gradient_are_the_papers(kind: str, chunk_size: int | None) -> None:
    theirs, gradients = truth()
    e = pictures()
    learner = ANIL(classifier(kind), lr=RATE, steps=STEPS, chunk_size=chunk_size)
    torch.testing.assert_close(learner.predict(e.support, e.query_x), theirs.outputs, rtol=1e-10, atol=1e-10)
    loss = learner(e)
    torch.testing.assert_close(loss, theirs.loss, rtol=1e-10, atol=1e-10)
    assert distance(gradients_of(loss, learner.model), gradients) < 1e-10


@pytest.mark.parametrize("kind", NETWORKS)
def test_only_the_head_is_adapted(kind: str) -> None:
    theirs, _ = truth()
    model = classifier(kind)
    adapted = ANIL(model, lr=RATE, steps=STEPS).adapt(pictures().support)
    assert adapted.losses.shape == (STEPS, 2)
    for name, p in model.named_parameters():
        for t, own in enumerate(theirs.adapted):
            torch.testing.assert_close(adapted.parameters[name][t], own[name], rtol=1e-9, atol=1e-10)
            assert torch.equal(adapted.parameters[name][t], p) != (name in HEAD)


@pytest.mark.parametrize("kind", NETWORKS)
def test_first_order_is_the_gradient_at_the_adapted_head(kind: str) -> None:
    model = classifier(kind)
    loss = ANIL(model, lr=RATE, steps=STEPS, first_order=True)(pictures())
    theirs = oracle_first_order(network(), pictures(), one_rate(HEAD, RATE), STEPS)[0]
    assert distance(gradients_of(loss, model), theirs) < 1e-10
    assert distance(theirs, truth()[1]) > 0.01


def test_the_meta_gradient_is_that_of_finite_differences() -> None:
    learner = ANIL(classifier(), lr=RATE, steps=3)
    for seed in range(3):
        slope, difference = central_difference(learner, pictures(), seed)
        assert slope == pytest.approx(difference, rel=1e-6)


@pytest.mark.medium
@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_evaluation_takes_the_statistics_that_it_says(kind: str, transductive: bool) -> None:
    theirs, _ = truth()
    e = pictures()
    learner = ANIL(classifier(kind), lr=RATE, test_steps=STEPS).eval()
    with torch.no_grad():
        inductively = learner.predict(e.support, e.query_x)
        with batch_statistics(learner):
            transductively = learner.predict(e.support, e.query_x)
    expected = theirs.outputs if transductive else inductive(finn_conv4, theirs.adapted, e)
    scores = transductively if transductive else inductively
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(inductively, transductively, rtol=1e-2)


@pytest.mark.parametrize("name", HEAD)
def test_a_frozen_half_of_the_head_stays(name: str) -> None:
    model = classifier()
    model.get_parameter(name).requires_grad_(False)
    adapted = ANIL(model, lr=RATE, steps=2).adapt(pictures().support).parameters
    for head in HEAD:
        stayed = torch.equal(adapted[head], model.get_parameter(head).expand_as(adapted[head]))
        assert stayed == (head == name)


def test_a_frozen_head_is_refused() -> None:
    model = classifier()
    model.head.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the head requires a gradient"):
        ANIL(model)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Sequential.*ANIL adapts the head alone.*Classifier"):
        ANIL(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))  # pyright: ignore[reportArgumentType]
