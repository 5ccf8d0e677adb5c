"""A loss of one's own, in the inner loop, in the outer, and in both."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core.episode import Episode, Support
from quickstudy.core.inner_loop import InnerLoop, TaskLoss
from quickstudy.core.kernels.switch import kernels
from quickstudy.core.learner import Learner
from quickstudy.encoders.classifier import MLP, Classifier
from quickstudy.initialization.anil import ANIL
from quickstudy.initialization.maml import MAML, fomaml
from quickstudy.initialization.meta_sgd import MetaSGD
from quickstudy.initialization.reptile import Reptile
from quickstudy.optimizer.lstm_meta_learner import LSTMMetaLearner
from tests.support.small_models import (
    NETWORKS,
    central_difference,
    converted,
    distance,
    gradients_of,
    network,
    pictures,
)


def by_hand(
    model: nn.Module, e: Episode, rate: float, steps: int, inner: TaskLoss, outer: TaskLoss
) -> Tensor:
    """MAML task by task, with each loss where it belongs."""
    total = torch.zeros((), dtype=torch.float64)
    for t in range(e.tasks):
        own: dict[str, Tensor] = dict(model.named_parameters())
        for _ in range(steps):
            scores = torch.func.functional_call(model, own, (e.support.x[t],))
            gradients = torch.autograd.grad(
                inner(scores, e.support.y[t]), list(own.values()), create_graph=True
            )
            own = {k: p - rate * g for (k, p), g in zip(own.items(), gradients, strict=True)}
        total = total + outer(torch.func.functional_call(model, own, (e.query_x[t],)), e.query_y[t])
    return total / e.tasks


def own_maths(scores: Tensor, y: Tensor) -> Tensor:
    """Margins: how far the others' scores reach beyond one's own, less one half."""
    return (scores - scores.gather(1, y[:, None]) + 0.5).relu().square().mean()


smoothed = partial(F.cross_entropy, label_smoothing=0.2)


@pytest.mark.parametrize("on", [True, False], ids=["kernels", "plain"])
@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("kind", NETWORKS)
def test_both_loops_take_it(kind: str, chunk_size: int | None, on: bool) -> None:
    model, e = network(kind), pictures(tasks=3)
    learner = MAML(model, lr=0.3, steps=2, chunk_size=chunk_size, loss=smoothed)
    expected = by_hand(network("own-module"), e, 0.3, 2, smoothed, smoothed)
    with kernels(on):
        loss = learner(e)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
        reference = network("own-module")
        theirs = gradients_of(by_hand(reference, e, 0.3, 2, smoothed, smoothed), reference)
        assert distance(gradients_of(loss, model), theirs) < 1e-10


@pytest.mark.parametrize(
    ("inner", "outer"), [(own_maths, smoothed), (smoothed, own_maths), (F.cross_entropy, own_maths)]
)
def test_each_loop_may_have_one_of_its_own(inner: TaskLoss, outer: TaskLoss) -> None:
    model, e = network("own-module"), pictures()
    learner = MAML(model, lr=0.3, steps=2, loss=inner, outer_loss=outer)
    expected = by_hand(model, e, 0.3, 2, inner, outer)
    loss = learner(e)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    assert distance(gradients_of(loss, model), gradients_of(expected, model)) < 1e-10


def test_an_outer_loss_alone_leaves_the_inner_one_as_it_is() -> None:
    model, e = network("own-module"), pictures()
    loss = MAML(model, lr=0.3, steps=2, outer_loss=own_maths)(e)
    expected = by_hand(model, e, 0.3, 2, F.cross_entropy, own_maths)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


LEARNERS: dict[str, Callable[..., InnerLoop]] = {
    "maml": partial(MAML, lr=0.3, steps=2),
    "fomaml": partial(fomaml, lr=0.3, steps=2),
    "meta-sgd": partial(MetaSGD, init=(0.3, 0.3), steps=2),
    "anil": partial(ANIL, lr=0.3, steps=2),
    "reptile": partial(Reptile, lr=0.01, steps=2),
    "lstm": partial(LSTMMetaLearner, steps=2),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_cross_entropy_as_a_loss_of_ones_own_is_the_default(name: str) -> None:
    losses: list[Tensor] = []
    for options in ({}, {"loss": F.cross_entropy}, {"loss": nn.CrossEntropyLoss()}):
        model = network()
        torch.manual_seed(0)
        learner = LEARNERS[name](model, **options).double()
        torch.manual_seed(0)
        losses.append(learner(pictures()).detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_takes_its_inner_steps_by_it(name: str) -> None:
    adapted: list[Tensor] = []
    for options in ({}, {"loss": smoothed}):
        model = network()
        torch.manual_seed(0)
        learner = LEARNERS[name](model, **options).double()
        adapted.append(learner.adapt(pictures().support).losses)
    assert not torch.allclose(adapted[0], adapted[1], rtol=1e-3)


def test_the_meta_gradient_is_that_of_finite_differences() -> None:
    learner = MAML(network(), lr=0.3, steps=2, loss=smoothed, outer_loss=F.cross_entropy)
    slope, difference = central_difference(learner, pictures(), 0)
    assert slope == pytest.approx(difference, rel=1e-6)


def test_regression_with_a_loss_of_its_own() -> None:
    torch.manual_seed(0)
    model = MLP(1, (8,), 1).double()
    x = torch.randn(2, 10, 1, dtype=torch.float64)
    e = Episode(Support(x[:, :5], x[:, :5].sin(), 0), x[:, 5:], x[:, 5:].sin())
    loss = MAML(model, lr=0.05, steps=2, loss=F.huber_loss)(e)
    expected = by_hand(model, e, 0.05, 2, F.huber_loss, F.huber_loss)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


def test_it_gets_as_many_scores_as_a_task_has_classes_in_single_precision() -> None:
    seen: list[tuple[torch.Size, torch.dtype]] = []

    def watched(scores: Tensor, y: Tensor) -> Tensor:
        seen.append((scores.shape, scores.dtype))
        return F.cross_entropy(scores, y)

    model, e = network(ways=5).float(), converted(pictures(), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        MAML(model, steps=1, loss=watched, chunk_size=2)(e)
    assert set(seen) == {(torch.Size([5, 3]), torch.float32), (torch.Size([4, 3]), torch.float32)}


class Tempered(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, scores: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(scores * self.temperature, y)


@pytest.mark.parametrize("chunk_size", [1, 2])
def test_a_loss_with_weights_is_learned_along(chunk_size: int) -> None:
    learner = MAML(network(), lr=0.3, loss=Tempered(), outer_loss=F.cross_entropy, chunk_size=chunk_size)
    assert "loss.temperature" in learner.state_dict()
    assert gradients_of(learner(pictures()), learner)["loss.temperature"].abs() > 1e-4


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    learner = MAML(network(), loss=partial(F.cross_entropy, reduction="none"))
    with pytest.raises(ValueError, match=r"loss of a task is \[5\] numbers: give a loss that returns one"):
        learner(pictures())


LOSSES: dict[str, TaskLoss] = {
    "function": F.cross_entropy,
    "module": nn.CrossEntropyLoss(label_smoothing=0.1),
    "own": lambda scores, y: F.cross_entropy(scores, y),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", LOSSES)
def test_checkpoints_of_a_learner_with_it(name: str, tmp_path: Path) -> None:
    def make() -> Learner:
        torch.manual_seed(0)
        model = Classifier(qs.Conv4(1, 8, running_statistics=False), 5, 8)
        return MAML(model, lr=0.1, loss=LOSSES[name])

    pool = qs.glyphs().split("train")
    episodes = qs.Episodes(pool, qs.Setting(5, 1, 2), 2)
    learner = make()
    qs.fit(learner, episodes, 3, out=tmp_path / "whole")
    with pytest.raises(ValueError, match="not of quickstudy alone"):
        qs.load_learner(tmp_path / "whole")
    again, _ = qs.load_learner(tmp_path / "whole", learner=make())
    for k, p in learner.state_dict().items():
        assert torch.equal(again.state_dict()[k], p)
