"""MAML++ and its parts, each alone and all together, against a literal derivation and finite differences."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core.checkpoint import load
from quickstudy.core.episode import Episode
from quickstudy.core.inner_loop import InnerLoop
from quickstudy.core.kernels.switch import kernels
from quickstudy.core.learner import batch_statistics
from quickstudy.core.per_step import multi_step_weights
from quickstudy.encoders.classifier import MLP
from quickstudy.initialization.anil import ANIL
from quickstudy.initialization.maml import MAML
from quickstudy.initialization.maml_plus_plus import MAMLPlusPlus
from quickstudy.initialization.meta_sgd import MetaSGD
from quickstudy.initialization.reptile import Reptile
from quickstudy.optimizer.lstm_meta_learner import LSTMMetaLearner
from quickstudy.training.schedules import cosine_schedule
from tests.initialization.oracle_maml_plus_plus import Antoniou, antoniou, antoniou_importance
from tests.support.oracles import Weights
from tests.support.pools import noisy_pool
from tests.support.small_models import (
    NETWORKS,
    central_difference,
    converted,
    distance,
    gradients_of,
    network,
    pictures,
)

ROOT = Path(__file__).parents[2]
STEPS, RATE, UNTIL = 3, 0.3, 10
PARTS: dict[str, dict[str, Any]] = {
    "rates": {"learned_rates": True},
    "losses": {"multi_step_until": UNTIL},
    "norms": {"per_step_norm": True},
    "order": {"first_order_until": 2},
    "all": {"learned_rates": True, "multi_step_until": UNTIL, "per_step_norm": True},
}


def learner_with(parts: dict[str, Any], kind: str = "conv4", **more: Any) -> MAML:
    """With rates and rows of batch norm that differ from step to step."""
    learner = MAML(network(kind), lr=RATE, steps=STEPS, **(parts | more))
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in (*(learner.rates or nn.Module()).parameters(), *(learner.norms or nn.Module()).parameters()):
            p.add_(0.2 * torch.rand(p.shape, generator=rng, dtype=p.dtype))
    return learner


def oracle(learner: MAML, e: Episode, done: int | None = 0, **more: Any) -> tuple[Tensor, Tensor]:
    """Meta-loss and scores; done is the number of meta-steps before, None for evaluation."""
    weights: Weights = dict(learner.model.named_parameters())
    rates: Weights = {}
    if learner.rates is not None:
        rates = dict(zip(learner.rates.names, learner.rates.rates, strict=True))
    norms: Weights = {}
    if learner.norms is not None:
        names = learner.norms.names
        norms = {k: torch.cat([weights[k][None], m]) for k, m in zip(names, learner.norms.later, strict=True)}
    multi = done is not None and done < learner.multi_step_until
    importance = antoniou_importance(STEPS, done or 0, UNTIL) if multi else None
    first_order = learner.first_order or (done is not None and done < learner.first_order_until)
    return antoniou(
        weights,
        Antoniou(rates, norms),
        e,
        learner.steps_now,
        importance=importance,
        first_order=first_order,
        lr=RATE,
        **more,
    )


def compare(learner: MAML, e: Episode, done: int = 0) -> None:
    """Loss and all meta-gradients."""
    expected, _ = oracle(learner, e, done)
    loss = learner(e)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    learned = dict(learner.named_parameters())
    ours, theirs = (
        torch.autograd.grad(x, list(learned.values()), allow_unused=True, materialize_grads=True)
        for x in (loss, expected)
    )
    names = list(learned)
    assert distance(dict(zip(names, ours, strict=True)), dict(zip(names, theirs, strict=True))) < 1e-10


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_each_part_is_the_papers(kind: str, part: str, order: str) -> None:
    compare(learner_with(PARTS[part], kind, first_order=order == "first"), pictures())


@pytest.mark.parametrize("chunk_size", [1, 2, 3])
@pytest.mark.parametrize("on", [True, False], ids=["kernels", "plain"])
def test_groups_of_tasks_and_the_kernels_change_nothing(on: bool, chunk_size: int) -> None:
    with kernels(on):
        compare(learner_with(PARTS["all"], chunk_size=chunk_size), pictures(tasks=3))


@pytest.mark.parametrize("done", [0, 3, 9, 10, 50])
def test_the_losses_weights_are_annealed(done: int) -> None:
    learner = learner_with(PARTS["all"] | PARTS["order"])
    learner.get_buffer("meta_steps").fill_(done)
    compare(learner, pictures(), done)
    assert learner.get_buffer("meta_steps") == done + 1


def test_the_first_meta_steps_are_of_first_order() -> None:
    learner, e = learner_with(PARTS["order"]), pictures()
    plain = MAML(learner.model, RATE, STEPS)
    second = gradients_of(plain(e), plain.model)
    for first in (True, True, False, False):
        assert learner.first_order_now is first
        assert (distance(gradients_of(learner(e), learner.model), second) < 1e-10) is not first
    assert not learner.eval().first_order_now


def test_weights_of_the_steps_are_the_authors() -> None:
    for steps in (1, 2, 5):
        for epoch in range(0, 12):
            ours = multi_step_weights(steps, min(1.0, epoch / 10))
            assert ours == pytest.approx(antoniou_importance(steps, epoch, 10), rel=1e-12)
            assert sum(ours) == pytest.approx(1)
    assert multi_step_weights(5, 0) == pytest.approx([0.2] * 5)
    assert multi_step_weights(5, 1) == pytest.approx([0.006] * 4 + [0.976])


class At(nn.Module):
    """A learner at the same meta-step in every call."""

    def __init__(self, learner: MAML, done: int) -> None:
        super().__init__()
        self.learner, self.done = learner, done

    def forward(self, e: Episode) -> Tensor:
        if self.learner.multi_step_until:
            self.learner.get_buffer("meta_steps").fill_(self.done)
        return self.learner(e)


@pytest.mark.parametrize("part", ["rates", "losses", "norms", "all"])
def test_the_meta_gradient_is_that_of_finite_differences(part: str) -> None:
    for seed in range(2):
        learner = At(learner_with(PARTS[part]), 3)
        slope, difference = central_difference(learner, pictures(), seed, step=1e-7)
        assert slope == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("test_steps", [STEPS, STEPS + 2, 1])
@pytest.mark.parametrize("kind", NETWORKS)
def test_evaluation_takes_the_last_steps_rates_and_norms_for_further_steps(
    kind: str, test_steps: int
) -> None:
    learner, e = learner_with(PARTS["all"], kind, test_steps=test_steps).eval(), pictures()
    _, expected = oracle(learner, e, None)
    with torch.no_grad(), batch_statistics(learner):
        scores = learner.predict(e.support, e.query_x)
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)
    learner(e)
    assert learner.get_buffer("meta_steps") == 0  # which counts steps of training


@pytest.mark.parametrize("kind", NETWORKS)
def test_adapted_is_the_inductive_prediction(kind: str) -> None:
    learner, e = learner_with(PARTS["all"], kind, test_steps=STEPS + 1).eval(), pictures(tasks=1)
    with torch.no_grad():
        expected = learner.predict(e.support, e.query_x)
        model = learner.adapted(e.support)
        torch.testing.assert_close(model(e.query_x[0]), expected[0], rtol=1e-9, atol=1e-9)


def test_rows_of_batch_norm_are_learned_and_not_adapted() -> None:
    learner, e = MAML(network(), RATE, STEPS, per_step_norm=True), pictures()
    assert learner.norms is not None
    own = dict(learner.model.named_parameters())
    assert [p.shape for p in learner.norms.later] == [(STEPS - 1, 3)] * 8
    adapted = learner.adapt(e.support).parameters
    for name in learner.norms.names:
        assert torch.equal(adapted[name], own[name].expand_as(adapted[name]))
    gradients = gradients_of(learner(e), learner)
    assert all(g.norm() > 1e-8 for g in gradients.values())


def test_frozen_batch_norm_is_left_alone() -> None:
    model = network()
    model.get_parameter("encoder.norms.1.weight").requires_grad_(False)
    learner = MAML(model, RATE, STEPS, per_step_norm=True)
    assert learner.norms is not None
    assert len(learner.norms.names) == 7
    assert "encoder.norms.1.weight" not in learner.adaptable(dict(model.named_parameters()))


LEARNERS: dict[str, Callable[..., InnerLoop]] = {
    "maml": lambda model, **o: MAML(model, 0.3, STEPS, **o),
    "meta-sgd": lambda model, **o: MetaSGD(model, init=(0.3, 0.3), steps=STEPS, **o),
    "anil": lambda model, **o: ANIL(model, 0.3, STEPS, **o),
    "lstm": lambda model, **o: LSTMMetaLearner(model, steps=STEPS, **o),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_takes_a_loss_after_every_step(name: str) -> None:
    """By its own predictions after one step, two and three."""
    e, losses = pictures(), list[Tensor]()
    torch.manual_seed(0)
    learner = LEARNERS[name](network(), multi_step_until=UNTIL).double()
    for k in range(1, STEPS + 1):
        learner.steps = k
        scores = learner.predict(e.support, e.query_x)
        losses.append(F.cross_entropy(scores.flatten(0, 1), e.query_y.flatten()))
    learner.get_buffer("meta_steps").fill_(4)
    importance = antoniou_importance(STEPS, 4, UNTIL)
    expected = torch.stack([w * x for w, x in zip(importance, losses, strict=True)]).sum()
    loss = learner(e)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    assert distance(gradients_of(loss, learner), gradients_of(expected, learner)) < 1e-10


@pytest.mark.parametrize("name", ["meta-sgd", "lstm"])
def test_other_learners_take_batch_norm_for_each_step(name: str) -> None:
    torch.manual_seed(0)
    learner, e = LEARNERS[name](network(), per_step_norm=True).double(), pictures()
    slope, difference = central_difference(learner, e, 0)
    if name == "meta-sgd":  # the LSTM is of first order
        assert slope == pytest.approx(difference, rel=1e-6)
    assert learner.norms is not None
    adapted = learner.adapt(e.support).parameters
    for k in learner.norms.names:
        assert torch.equal(adapted[k][0], adapted[k][1])


def test_meta_sgd_with_rates_for_each_layer_and_step() -> None:
    e, model = pictures(), network()
    learner = MetaSGD(model, rates="layer and step", init=(0.1, 0.5), steps=STEPS)
    assert [rate.shape for rate in learner.rates] == [(STEPS,)] * len(learner.names)
    rates: Weights = dict(zip(learner.names, learner.rates, strict=True))
    expected, _ = antoniou(dict(model.named_parameters()), Antoniou(rates, {}), e, STEPS)
    loss = learner(e)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    assert distance(gradients_of(loss, learner), gradients_of(expected, learner)) < 1e-10


def test_anil_with_learned_rates() -> None:
    learner = ANIL(network(), 0.2, STEPS, learned_rates=True)
    assert learner.rates is not None
    assert learner.rates.names == ["head.weight", "head.bias"]
    torch.testing.assert_close(learner(pictures()), ANIL(network(), 0.2, STEPS)(pictures()))
    slope, difference = central_difference(learner, pictures(), 0)
    assert slope == pytest.approx(difference, rel=1e-6)


# MAML++


def test_maml_plus_plus_has_the_papers_defaults() -> None:
    learner = MAMLPlusPlus(network())
    assert (learner.steps, learner.test_steps, learner.first_order) == (5, 5, False)
    assert learner.rates is not None
    assert learner.norms is not None
    assert learner.rates.names == [k for k, _ in learner.model.named_parameters() if "norms" not in k]
    assert all(torch.equal(r, torch.full((5,), 0.1, dtype=torch.float64)) for r in learner.rates.rates)
    assert learner.query_weights() == pytest.approx([0.2] * 5)
    assert learner.multi_step_until == 5_000


def test_maml_plus_plus_is_the_papers() -> None:
    learner, e = MAMLPlusPlus(network(), loss=F.cross_entropy), pictures()
    weights: Weights = dict(learner.model.named_parameters())
    assert learner.rates is not None
    assert learner.norms is not None
    norms = {
        k: torch.cat([weights[k][None], m])
        for k, m in zip(learner.norms.names, learner.norms.later, strict=True)
    }
    learned = Antoniou(dict(zip(learner.rates.names, learner.rates.rates, strict=True)), norms)
    expected, _ = antoniou(weights, learned, e, 5, importance=[0.2] * 5)
    loss = learner(e)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    assert distance(gradients_of(loss, learner), gradients_of(expected, learner)) < 1e-10


def small(seed: int = 0) -> MAMLPlusPlus:
    torch.manual_seed(seed)
    model = qs.Classifier(qs.Conv4(1, 8, running_statistics=False), 5, 8)
    return MAMLPlusPlus(model, steps=3, multi_step_until=4, first_order_until=2)


@pytest.mark.medium
def test_a_resumed_training_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    """It is stopped among the meta-steps of first order, then among those of several losses."""
    pool = noisy_pool()
    episodes = qs.Episodes(pool, qs.Setting(5, 1, 2), 3)
    whole, parts = small(), small()
    qs.fit(whole, episodes, 6, out=tmp_path / "whole")
    stopping = {1, 3}

    def stop(step: int, report: dict[str, Any]) -> None:
        if step in stopping:
            stopping.remove(step)
            raise RuntimeError("stopped")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="stopped"):
            qs.fit(parts, episodes, 6, every=1, out=tmp_path / "parts", resume=True, report=stop)
        parts = small(7)
    qs.fit(parts, episodes, 6, every=1, out=tmp_path / "parts", resume=True)
    assert parts.get_buffer("meta_steps") == 6
    theirs = parts.state_dict()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    assert not torch.equal(small().state_dict()["norms.later.0"], theirs["norms.later.0"])


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 4])
def test_two_processes_equal_one(tmp_path: Path, chunk_size: int) -> None:
    """First order and second, with several losses and one, in one group of tasks and in several."""
    for devices in (1, 2):
        module = [sys.executable, "-m", "tests.initialization.two_processes"]
        command = [*module, str(devices), str(chunk_size), str(tmp_path / str(devices))]
        subprocess.run(command, check=True, timeout=1800, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    one, two = (load(tmp_path / n / "best.safetensors")[0] for n in ("1", "2"))
    assert one["meta_steps"] == two["meta_steps"] == 6
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, two[key], rtol=1e-3, atol=1e-5)


@pytest.mark.medium
def test_a_checkpoint_builds_it_again(tmp_path: Path) -> None:
    learner = small()
    pool = qs.glyphs().split("train")
    qs.fit(learner, qs.Episodes(pool, qs.Setting(5, 1, 2), 2), 2, out=tmp_path)
    again, _ = qs.load_learner(tmp_path)
    assert isinstance(again, MAMLPlusPlus)
    assert (again.steps, again.multi_step_until, again.first_order_until) == (3, 4, 2)
    for name, tensor in learner.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_bfloat16_is_near_single_precision() -> None:
    learner = small()
    x = converted(pictures(shots=(1,) * 5, queries=5), torch.float32)
    learner.get_buffer("meta_steps").fill_(2)
    exact = learner(x)
    learner.get_buffer("meta_steps").fill_(2)
    with torch.autocast("cpu", torch.bfloat16):
        low = learner(x)
    low.backward()
    torch.testing.assert_close(low, exact, rtol=0.1, atol=0.05)
    grads = [p.grad for p in learner.parameters()]
    assert all(g is not None and g.isfinite().all() for g in grads)


@pytest.mark.parametrize(("first_order", "until"), [(False, UNTIL), (True, UNTIL), (True, 0), (False, 0)])
def test_every_parameter_gets_a_gradient(first_order: bool, until: int) -> None:
    """Several processes wait for those of all, in every meta-step."""
    learner = MAMLPlusPlus(network(), first_order=first_order, multi_step_until=until, chunk_size=2)
    learner(pictures()).backward()
    assert all(p.grad is not None for p in learner.parameters())


def test_a_cosine_that_ends_above_nothing() -> None:
    """The authors' rate: from 1e-3 to 1e-5 along a half cosine."""
    at = cosine_schedule(100, floor=0.01)
    for step in (0, 30, 50, 100):
        authors = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * step / 100)) / 2
        assert 1e-3 * at(step) == pytest.approx(authors, rel=1e-12)
    assert cosine_schedule(12, 2, floor=0.5)(1) == 1
    with pytest.raises(ValueError, match=r"floor is 1\.5: .* from 0 to 1"):
        cosine_schedule(10, floor=1.5)


# Arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MAML(network(), multi_step_until=-1), "multi_step_until is -1: it must be at least 0"),
        (lambda: MAML(MLP(2, (3,), 2), per_step_norm=True), "no batch norm .*: leave per_step_norm out"),
        (lambda: ANIL(network(), per_step_norm=True), "ANIL embeds .* once.*: leave per_step_norm out"),
    ],
)
def test_what_makes_no_sense_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_without_parts_nothing_is_added() -> None:
    assert list(MAML(network()).state_dict()) == [f"model.{k}" for k in network().state_dict()]
    assert "meta_steps" not in Reptile(network()).state_dict()


def test_with_one_step_or_none() -> None:
    e = pictures()
    for steps in (0, 1):
        learner = MAMLPlusPlus(network(), steps=steps, lr=RATE)
        plain = MAML(network(), RATE, steps)
        if steps == 0:
            torch.testing.assert_close(learner(e), plain(e), rtol=1e-12, atol=1e-12)
        assert learner.query_weights() is None
        with torch.no_grad():
            assert learner.eval().predict(e.support, e.query_x).isfinite().all()
