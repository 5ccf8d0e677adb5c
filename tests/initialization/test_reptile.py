"""Reptile against the paper's algorithms, written out."""

from typing import Any

import pytest
import torch
from torch import Tensor

from quickstudy.core.episode import Episode
from quickstudy.core.inner_loop import Batch
from quickstudy.core.learner import batch_statistics
from quickstudy.initialization.reptile import Reptile
from tests.initialization.oracle_maml import finn_conv4
from tests.initialization.oracle_reptile import NicholAdam, nichol, nichol_adam
from tests.support.oracles import Weights
from tests.support.small_models import (
    NETWORKS,
    SavedForBackward,
    distance,
    gradients_of,
    network,
    pictures,
    weights_of,
)

LR = 0.01
NEAR = 1e-6
"""Relative; Adam divides by the gradient's size, so where that is nearly 0 rounding is magnified."""
Minibatches = list[list[tuple[Tensor, Tensor]]]


class Recorded(Reptile):
    """Writes down the minibatches that it draws, by task and step."""

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self.drawn: Minibatches = []

    def _minibatches(self, x: Tensor, y: Tensor) -> Batch:
        at = super()._minibatches(x, y)
        steps = [at(step) for step in range(self.steps_now)]
        self.drawn += [[(items[t], labels[t]) for items, labels in steps] for t in range(len(x))]
        return at


def seconds(learner: Reptile) -> Weights:
    """Adam's second moments that the learner carries from task to task."""
    return {name: learner.get_buffer(f"second{i}") for i, name in enumerate(learner.names)}


def everything(e: Episode) -> tuple[Tensor, Tensor]:
    return torch.cat([e.support.x, e.query_x], 1), torch.cat([e.support.y, e.query_y], 1)


@pytest.mark.medium
@pytest.mark.parametrize("chunk_size", [1, 2, None])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_surrogate_and_its_gradient_are_algorithm_2(kind: str, chunk_size: int | None) -> None:
    """Twice, so that Adam begins once afresh and once with what the first meta-batch has left."""
    learner = Recorded(network(kind), LR, steps=4, batch=3, chunk_size=chunk_size)
    weights, state = weights_of(network()), None
    for seed in range(2):
        learner.drawn.clear()
        loss = learner(pictures(tasks=3, seed=seed))
        theirs = nichol(finn_conv4, weights, learner.drawn, LR, state)
        torch.testing.assert_close(loss, theirs.distance, rtol=NEAR, atol=1e-12)
        towards = {name: w.detach() - theirs.mean[name] for name, w in weights.items()}
        assert distance(gradients_of(loss, learner.model), towards) < NEAR
        assert distance(seconds(learner), theirs.state.v) < NEAR
        state = theirs.state


def test_gradient_descent_on_the_surrogate_is_equation_1() -> None:
    epsilon = 0.3
    learner = Recorded(network(), LR, steps=3, batch=4)
    before = {name: w.detach().clone() for name, w in weights_of(learner.model).items()}
    optimizer = torch.optim.SGD(learner.parameters(), epsilon)
    learner(pictures()).backward()
    optimizer.step()
    mean = nichol(finn_conv4, before, learner.drawn, LR).mean
    for name, w in weights_of(learner.model).items():
        expected = before[name] + epsilon * (mean[name] - before[name])
        torch.testing.assert_close(w.detach(), expected, rtol=1e-10, atol=1e-12)


def test_one_task_a_meta_batch_is_algorithm_1() -> None:
    """Serial: each task begins where the last one has led, and Adam's second moments go on."""
    learner = Recorded(network(), LR, steps=2, batch=4)
    optimizer = torch.optim.SGD(learner.parameters(), 0.5)
    weights: Weights = {name: w.detach().clone() for name, w in weights_of(learner.model).items()}
    state: NicholAdam | None = None
    for t in range(3):
        learner.drawn.clear()
        optimizer.zero_grad()
        learner(pictures(tasks=3)[t : t + 1]).backward()
        optimizer.step()
        after, state = nichol_adam(finn_conv4, weights, learner.drawn[0], LR, state)
        weights = {name: w + 0.5 * (after[name] - w) for name, w in weights.items()}
    for name, w in weights_of(learner.model).items():
        torch.testing.assert_close(w.detach(), weights[name], rtol=1e-9, atol=1e-11)


def test_minibatches_are_drawn_without_replacement_until_all_have_been() -> None:
    learner = Recorded(network(), LR, steps=6, batch=3)
    e = pictures()  # nine items a task
    learner(e)
    x, y = everything(e)
    for t, steps in enumerate(learner.drawn):
        numbers = []
        for items, labels in steps:
            found = [(x[t] == item).flatten(1).all(1).nonzero().item() for item in items]
            assert torch.equal(y[t][found], labels)
            numbers += found
        assert sorted(numbers[:9]) == sorted(numbers[9:]) == list(range(9))
        assert numbers[:9] != numbers[9:]
    assert not torch.equal(learner.drawn[0][0][1], learner.drawn[1][0][1])


def test_a_minibatch_larger_than_a_task_is_the_task() -> None:
    learner = Recorded(network(), LR, steps=2, batch=100)
    learner(pictures())
    assert [len(labels) for steps in learner.drawn for _, labels in steps] == [9] * 4


def evaluated(e: Episode, steps: int) -> list[Weights]:
    """Each task's weights after steps on its whole support."""
    model = network()
    return [
        nichol_adam(finn_conv4, weights_of(model), [(e.support.x[t], e.support.y[t])] * steps, LR)[0]
        for t in range(e.tasks)
    ]


@pytest.mark.parametrize("kind", NETWORKS)
def test_inductive_each_query_goes_with_the_support(kind: str) -> None:
    e, s = pictures(), pictures().support.x.shape[1]
    learner = Reptile(network(kind), LR, test_steps=5).eval()
    with torch.no_grad():
        scores = learner.predict(e.support, e.query_x)
    for t, own in enumerate(evaluated(e, 5)):
        for q in range(e.query_x.shape[1]):
            together = torch.cat([e.support.x[t], e.query_x[t, q : q + 1]])
            expected = finn_conv4(own, together)[s]
            torch.testing.assert_close(scores[t, q], expected.detach(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", NETWORKS)
def test_transductive_all_queries_go_together(kind: str) -> None:
    e = pictures()
    learner = Reptile(network(kind), LR, test_steps=5).eval()
    with torch.no_grad(), batch_statistics(learner):
        scores = learner.predict(e.support, e.query_x)
    for t, own in enumerate(evaluated(e, 5)):
        torch.testing.assert_close(scores[t], finn_conv4(own, e.query_x[t]).detach(), rtol=1e-8, atol=1e-9)


def test_evaluation_leaves_the_learner_as_it_was() -> None:
    learner = Reptile(network(), LR, steps=2, batch=4, test_steps=3)
    learner(pictures())
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    assert before["taken"] == 2
    learner.eval()
    learner.predict(pictures().support, pictures().query_x)
    learner(pictures())
    assert all(torch.equal(before[k], v) for k, v in learner.state_dict().items())


def test_second_moments_go_with_the_checkpoint() -> None:
    e = pictures()
    trained = Reptile(network(), LR, steps=2, batch=100)
    trained(e)
    again = Reptile(network(), LR, steps=2, batch=100)
    fresh = again(e)
    again.load_state_dict(trained.state_dict())
    torch.testing.assert_close(again(e), trained(e), rtol=1e-12, atol=0)
    assert not torch.allclose(again(e), fresh, rtol=1e-2)


def test_the_memory_does_not_grow_with_the_steps() -> None:
    most = []
    for steps in (1, 6):
        saved = SavedForBackward()
        with saved:
            Reptile(network(), LR, steps=steps, batch=4)(pictures()).backward()
        most.append(saved.most)
    assert most[0] == most[1]


def test_frozen_parameters_stay() -> None:
    model, e = network(), pictures()
    frozen = model.get_parameter("encoder.convs.2.weight").requires_grad_(False)
    learner = Reptile(model, LR, steps=2)
    adapted = learner.adapt(e.support).parameters["encoder.convs.2.weight"]
    assert torch.equal(adapted, frozen.expand_as(adapted))
    learner(e).backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == ["encoder.convs.2.weight"]


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="batch is 0: it must be at least 1"):
        Reptile(network(), batch=0)
