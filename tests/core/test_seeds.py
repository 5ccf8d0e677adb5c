"""Seeds of parts, and that calls leave random generators, modes, grad mode and threads as they found them."""

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.core.seeds import derived_seed, generators_kept
from quickstudy.data.pool import ClassPool
from quickstudy.optimizer.problems.quadratics import Quadratics
from quickstudy.optimizer.problems.supervised import Supervised, digits, mlp
from quickstudy.optimizer.race import unroll
from quickstudy.optimizer.rule_learner import RuleLearner
from quickstudy.optimizer.rules.mlp import MLPRule
from quickstudy.optimizer.torch_optimizer import LearnedOptimizer
from quickstudy.optimizer.truncation import ProblemSeeds
from quickstudy.optimizer.weights import load_rule


def test_a_derived_seed_is_the_same_everywhere() -> None:
    """Frozen: a training begun under one version must go on under the next."""
    assert derived_seed(0) == 7896617691693857887
    assert derived_seed(12345, 6, 7) == 7999173082485798569
    seeds = {derived_seed(s, *key) for s in range(20) for key in ((), (0,), (1,), (0, 0), (0, 1), (1, 0))}
    assert len(seeds) == 120
    assert all(0 <= s < 2**63 for s in seeds)


def global_state() -> tuple[Any, ...]:
    return (
        torch.get_rng_state().tolist(),
        [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002
        random.getstate(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
    )


@contextmanager
def nothing_changes(*modules: nn.Module) -> Generator[None]:
    modes = [[m.training for m in module.modules()] for module in modules]
    before = global_state()
    yield
    assert global_state() == before
    assert [[m.training for m in module.modules()] for module in modules] == modes


def pool(classes: int = 8) -> ClassPool:
    items = np.random.default_rng(0).integers(0, 256, (classes * 8, 1, 16, 16), dtype=np.uint8)
    return ClassPool.from_grouped(items, [f"c{i}" for i in range(classes)], [8] * classes)


def episodes(seed: int = 0) -> qs.Episodes:
    return qs.Episodes(pool(), qs.Setting(3, 1, 2), 2, seed)


class Restless(nn.Module):
    """An encoder that draws from every global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = qs.Conv4(1, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002
        return self.inner(x) * (1 + 0.1 * noise)


def head() -> nn.Module:
    return qs.Classifier(qs.Conv4(1, 4, running_statistics=False), 3, 4)


LEARNERS: dict[str, Callable[[], qs.Learner]] = {
    "prototypical": lambda: qs.Prototypical(Restless()),
    "maml": lambda: qs.MAML(head(), lr=0.1, steps=1),
    "reptile": lambda: qs.Reptile(head(), steps=2, batch=3, test_steps=2),
}


@pytest.mark.medium
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", LEARNERS)
def test_training_and_evaluation_leave_everything_as_it_was(name: str, mode: bool, tmp_path: Path) -> None:
    learner = LEARNERS[name]().train(mode)
    with nothing_changes(learner):
        qs.fit(learner, episodes(), 3, validation=episodes(1), validation_episodes=4, every=2, out=tmp_path)
    with nothing_changes(learner):
        qs.evaluate(learner, episodes(2), 4, "transductive")


def test_a_failing_training_leaves_everything_as_it_was() -> None:
    learner = LEARNERS["prototypical"]()

    def fail(step: int, report: object) -> None:
        raise RuntimeError("stop")

    with nothing_changes(learner), pytest.raises(RuntimeError, match="stop"):
        qs.fit(learner, episodes(), 3, report=fail)


def test_a_frozen_part_stays_frozen() -> None:
    """In training it neither leaves evaluation mode nor moves its running statistics."""
    backbone = qs.Conv4(1, 4).eval().requires_grad_(False)
    learner = qs.Prototypical(nn.Sequential(backbone, nn.Linear(4, 4)))
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    for _ in range(2):
        qs.fit(learner, episodes(), 3)
        qs.evaluate(learner, episodes(1), 4)
        assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
        assert not backbone.training
        learner.eval()  # as a loaded one is: what is frozen is known by its parameters then


def test_a_learner_in_evaluation_mode_is_trained_all_the_same() -> None:
    learner = qs.Prototypical(qs.Conv4(1, 4)).eval()
    before = learner.encoder.norms[0].running_mean.clone()
    qs.fit(learner, episodes(), 3)
    assert not torch.equal(learner.encoder.norms[0].running_mean, before)
    assert not any(m.training for m in learner.modules())


def test_randomness_of_any_generator_is_repeated_in_training() -> None:
    weights = []
    for k in range(2):
        torch.manual_seed(5)
        learner = qs.Prototypical(Restless())
        torch.manual_seed(k)
        np.random.seed(k)  # noqa: NPY002
        random.seed(k)
        qs.fit(learner, episodes(), 3)
        weights.append(torch.cat([p.flatten() for p in learner.parameters()]))
    assert torch.equal(*weights)


def test_five_trainings_in_a_loop_are_five() -> None:
    def trained(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        learner = qs.Prototypical(qs.Conv4(1, 4))
        qs.fit(learner, episodes(seed), 3)
        return torch.cat([p.flatten() for p in learner.parameters()])

    together = [trained(seed) for seed in range(5)]
    assert len({w.sum().item() for w in together}) == 5
    for seed in (3, 0):
        assert torch.equal(trained(seed), together[seed])
    unseeded = []
    for _ in range(2):
        learner = qs.Prototypical(qs.Conv4(1, 4))
        qs.fit(learner, episodes(), 3)
        unseeded.append(torch.cat([p.flatten() for p in learner.parameters()]))
    assert not torch.equal(*unseeded)


def test_other_calls_leave_everything_as_it_was() -> None:
    with nothing_changes():
        learner, _ = qs.load_learner("prototypical-glyphs")
    rule, _ = load_rule("mlp-optimizer-digits")
    with nothing_changes(learner, rule):
        load_rule("rnnprop-optimizer-digits")
        Supervised(lambda: mlp(64), digits("train"), digits("validation")).sample(3, 1)
        unroll(rule, Quadratics(3).sample(2, 0), 3)
    for estimator in ("backprop", "es", "pes"):
        learned = RuleLearner(MLPRule(), Quadratics(3), 4, 2, estimator=estimator)
        with nothing_changes(learned):
            learned(ProblemSeeds(4).part(0)).backward()
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    with nothing_changes():
        LearnedOptimizer([parameter], "rnnprop-optimizer-digits").step()
    maml = LEARNERS["maml"]()
    episode = episodes()[0]
    with nothing_changes(maml):
        maml(episode).backward()
        maml.predict(episode.support, episode.query_x)
        maml.adapted(episode[:1].support)


def test_generators_are_seeded_inside_and_restored_after() -> None:
    with nothing_changes():
        with generators_kept(3):
            first = torch.rand(()).item(), float(np.random.rand()), random.random()  # noqa: NPY002
        with generators_kept(3):
            assert first == (torch.rand(()).item(), float(np.random.rand()), random.random())  # noqa: NPY002
