"""Frozen batch norm: its running statistics are constants, wherever it stands and whatever is asked."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.core.inner_loop import InnerLoop
from quickstudy.core.kernels.switch import kernels
from quickstudy.core.learner import Learner, batch_statistics, frozen_in
from quickstudy.core.modes import Mode
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.encoders import Classifier, Conv4
from quickstudy.initialization import ANIL, MAML, MetaSGD, Reptile
from quickstudy.metric import GaussianPrototypical, Matching, Prototypical, Siamese
from quickstudy.optimizer import LSTMMetaLearner
from quickstudy.training.evaluate import evaluate
from quickstudy.training.fit import fit

LOOPS: dict[str, Callable[[nn.Module], InnerLoop]] = {
    "maml": lambda m: MAML(m, 0.3, 2),
    "anil": lambda m: ANIL(m, 0.3, 2),  # pyright: ignore[reportArgumentType]
    "meta-sgd": lambda m: MetaSGD(m),
    "reptile": lambda m: Reptile(m, 0.01, 2, 5, 3),
    "lstm-meta-learner": lambda m: LSTMMetaLearner(m, steps=2).double(),
}


def experienced(encoder: nn.Module) -> nn.Module:
    """With running statistics, γ and β that are not those of the start."""
    torch.manual_seed(1)
    encoder.double()
    for m in encoder.modules():
        if isinstance(m, nn.BatchNorm2d) and m.affine:
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias)
    for _ in range(3):
        encoder(torch.rand(20, 1, 16, 16, dtype=torch.float64))
    return encoder


def frozen(encoder: nn.Module) -> nn.Module:
    return experienced(encoder).eval().requires_grad_(False)


def own_encoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, 4), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3, affine=False), nn.Flatten()
    )


ENCODERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "conv4": (lambda: Conv4(1, 3), 3),
    "own": (own_encoder, 48),
}


def episode(tasks: int = 2) -> Episode:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(tasks, 12, 1, 16, 16, generator=g, dtype=torch.float64)
    y = torch.tensor([[0, 1, 2, 2, 1, 0]] * tasks)
    return Episode(Support(x[:, :6], y, 3), x[:, 6:], y)


def features(encoder: nn.Module, e: Episode) -> Episode:
    z = [encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2]) for x in (e.support.x, e.query_x)]
    return Episode(Support(z[0], e.support.y, 3), z[1], e.query_y)


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("loop", LOOPS)
def test_an_inner_loop_over_a_frozen_encoder_is_one_over_its_features(
    loop: str, encoder: str, on: bool
) -> None:
    make, dimensions = ENCODERS[encoder]
    backbone = frozen(make())
    torch.manual_seed(0)
    learner = LOOPS[loop](Classifier(backbone, 3, dimensions).double())
    plain = LOOPS[loop](Classifier(nn.Identity(), 3, dimensions).double())
    assert isinstance(learner.model, Classifier)
    assert isinstance(plain.model, Classifier)
    plain.model.head.load_state_dict(learner.model.head.state_dict())
    for name in ("rates", "cell"):
        if isinstance(module := getattr(learner, name, None), nn.Module):
            getattr(plain, name).load_state_dict(module.state_dict())
    before, e = copy.deepcopy(backbone.state_dict()), episode()
    with kernels(enabled=on):
        torch.manual_seed(3)
        loss = learner(e)
        loss.backward()
        torch.manual_seed(3)
        expected = plain(features(backbone, e))
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(
            learner.model.head.weight.grad, plain.model.head.weight.grad, rtol=1e-7, atol=1e-9
        )
        for training in (False, True):
            learner.model.head.train(training)
            learner.training = plain.training = training
            torch.testing.assert_close(
                learner.predict(e.support, e.query_x),
                plain.predict(features(backbone, e).support, features(backbone, e).query_x),
                rtol=1e-8,
                atol=1e-9,
            )
        adapted = learner.adapted(episode(1).support)
        torch.testing.assert_close(
            adapted(e.query_x[0]),
            plain.eval().adapted(features(backbone, episode(1)).support)(features(backbone, e).query_x[0]),
            rtol=1e-8,
            atol=1e-9,
        )
    assert all(torch.equal(v, backbone.state_dict()[k]) for k, v in before.items())
    assert not any(m.training for m in backbone.modules())


class Scaled(nn.Module):
    """What a frozen batch norm is: a scale and a shift, both constant."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        self.scale, self.shift = scale, norm.bias.detach() - scale * norm.running_mean

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale[:, None, None] + self.shift[:, None, None]


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("first_order", [True, False])
def test_filters_are_adapted_under_frozen_batch_norm(first_order: bool, on: bool) -> None:
    """Also beside batch norm that is not frozen."""
    live = nn.BatchNorm2d(3, track_running_stats=False)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, 4), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 3, 2), live, nn.Flatten()
    )
    model = experienced(model.append(nn.Linear(27, 3)))
    norm = model[1].eval().requires_grad_(False)
    plain = copy.deepcopy(model)
    assert isinstance(norm, nn.BatchNorm2d)
    plain[1] = Scaled(norm)
    ours, theirs = (MAML(m, 0.2, 2, first_order=first_order) for m in (model, plain))
    e = episode()
    with kernels(enabled=on):
        losses = [learner(e) for learner in (ours, theirs)]
        for loss in losses:
            loss.backward()
        torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-9)
        for name, p in plain.named_parameters():
            torch.testing.assert_close(model.get_parameter(name).grad, p.grad, rtol=1e-7, atol=1e-9)
        for learner in (ours, theirs):
            learner.eval()
        torch.testing.assert_close(*(m.predict(e.support, e.query_x) for m in (ours, theirs)))
        one = episode(1)
        torch.testing.assert_close(
            ours.adapted(one.support)(one.query_x[0]), ours.predict(one.support, one.query_x)[0]
        )
        with batch_statistics(ours, [norm]), batch_statistics(theirs):
            torch.testing.assert_close(*(m.predict(e.support, e.query_x) for m in (ours, theirs)))


def test_what_would_write_the_statistics_is_refused_when_it_is_made_and_later() -> None:
    with pytest.raises(ValueError, match=r"encoder.norms.0 keeps running statistics"):
        MAML(Classifier(Conv4(1, 3), 3, 3))
    learner = MAML(Classifier(frozen(Conv4(1, 3)), 3, 3).double())
    learner.train()
    for ask in (
        lambda: learner(episode()),
        lambda: learner.predict(episode().support, episode().query_x),
    ):
        with pytest.raises(
            ValueError, match=r"freeze it by encoder\.eval\(\)\.requires_grad_\(False\), after"
        ):
            ask()


LEARNERS: dict[str, Callable[[nn.Module], Learner]] = {
    "prototypical": Prototypical,
    "matching": Matching,
    "gaussian": GaussianPrototypical,
    "siamese": Siamese,
    "maml": lambda e: MAML(Classifier(e, 3, 48).double()),
    "anil": lambda e: ANIL(Classifier(e, 3, 48).double()),
    "reptile": lambda e: Reptile(Classifier(e, 3, 48).double(), test_steps=2),
}


class Doubled:
    """Episodes in float64."""

    def __init__(self, pool: ClassPool) -> None:
        self.of = Episodes(pool, Setting(3, 1, 2), tasks=2)
        self.setting, self.tasks, self.seed, self.pool = self.of.setting, 2, 0, pool

    def on(self, device: object) -> "Doubled":
        return self

    def part(self, i: int, rank: int = 0, world: int = 1) -> Episode:
        e = self.of.part(i, rank, world)
        return Episode(Support(e.support.x.double(), e.support.y, e.ways), e.query_x.double(), e.query_y)

    def summary(self) -> dict[str, object]:
        return self.of.summary()


@pytest.fixture
def pictures() -> ClassPool:
    import numpy as np

    items = np.random.default_rng(0).integers(0, 255, (20, 1, 16, 16), dtype=np.uint8)
    return ClassPool.from_grouped(items, [f"c{i}" for i in range(5)], [4] * 5)


@pytest.mark.parametrize("outer", ["training", "evaluation"])
@pytest.mark.parametrize("name", LEARNERS)
def test_nothing_touches_a_frozen_encoder(name: str, outer: str, pictures: ClassPool) -> None:
    """Neither its statistics nor its modes, and what it makes of items is the same in every mode."""
    backbone = nn.Sequential(frozen(own_encoder()), nn.Dropout(0.5)).eval()
    head = nn.Linear(48, 48).double()
    whole = backbone if name in ("maml", "anil", "reptile") else nn.Sequential(backbone, head)
    learner = LEARNERS[name](whole).double()
    learner.training = outer == "training"
    modes = {k: m.training for k, m in learner.named_modules()}
    before = copy.deepcopy(backbone.state_dict())
    embedded: list[Tensor] = []
    backbone[0].register_forward_hook(lambda m, x, y: embedded.append(y - backbone[0].eval().forward(*x)))
    everything: list[Callable[[], object]] = [
        lambda mode=mode: evaluate(learner, Doubled(pictures), 3, mode)  # pyright: ignore
        for mode in ("inductive", "transductive")
    ]
    everything.append(lambda: fit(learner, Doubled(pictures), 2))
    if isinstance(learner, InnerLoop):
        everything.append(lambda: learner.adapted(Doubled(pictures).part(0)[:1].support))
    for do in everything:
        do()
        assert {k: m.training for k, m in learner.named_modules()} == modes
        assert all(torch.equal(v, backbone.state_dict()[k]) for k, v in before.items())
    assert embedded


@pytest.mark.parametrize("mode", ["inductive", "transductive"])
def test_a_frozen_encoder_scores_the_same_in_every_mode(mode: Mode, pictures: ClassPool) -> None:
    learner = Prototypical(frozen(own_encoder()))
    scores = [learner.predict(e.support, e.query_x) for e in [Doubled(pictures).part(0)]]
    with batch_statistics(learner):
        again = [learner.predict(e.support, e.query_x) for e in [Doubled(pictures).part(0)]]
    torch.testing.assert_close(scores, again)
    assert evaluate(learner, Doubled(pictures), 4, mode).accuracy == evaluate(
        learner, Doubled(pictures), 4
    ).accuracy  # fmt: skip


def test_frozen_submodules() -> None:
    learner = nn.Sequential(frozen(own_encoder()), nn.Linear(48, 3), nn.BatchNorm1d(3))
    assert set(frozen_in(learner)) == set(learner[0].modules())
    learner.eval()
    assert set(frozen_in(learner)) == set(learner[0].modules())
    learner.requires_grad_(requires_grad=True)
    assert not frozen_in(learner)


# ---- adapted models


def dropping() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(256, 8),
        nn.BatchNorm1d(8, track_running_stats=False),
        nn.Dropout(0.5),
    ).double()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("loop", ["maml", "anil", "meta-sgd", "lstm-meta-learner"])
def test_adapted_answers_as_predict_does_whatever_the_mode(loop: str, training: bool) -> None:
    """Dropout before batch norm made its statistics those of noise."""
    learner, e = LOOPS[loop](Classifier(dropping(), 3, 8).double()), episode(1)
    model = learner.train(training).adapted(e.support)
    assert learner.training == training
    torch.testing.assert_close(
        model(e.query_x[0]), learner.eval().predict(e.support, e.query_x)[0], rtol=1e-9, atol=1e-9
    )


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(256, 3), nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.two(self.norm(self.one(x.flatten(1))).tanh()) * 5 + 3)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(nn.functional.dropout(x.flatten(1), 0.5, training=True))


@pytest.mark.parametrize("make", [Twice, Noisy])
def test_a_model_that_no_copy_can_stand_for_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match="the adapted copy differs from the learner by up to"):
        MAML(make().double()).adapted(episode(1).support)
