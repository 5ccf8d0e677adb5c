"""Learners asked by many threads at once answer each as if it were alone."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.episode import Support
from quickstudy.core.kernels.switch import kernels
from quickstudy.core.learner import Learner
from quickstudy.core.process import math_attention
from quickstudy.encoders import MLP, Classifier, Conv4
from quickstudy.initialization import ANIL, MAML, MetaSGD, Reptile
from quickstudy.metric import (
    FEAT,
    R2D2,
    FullContext,
    GaussianPrototypical,
    Matching,
    MetaBaseline,
    MetaOptNet,
    PlainClassifier,
    Prototypical,
    SemiPrototypical,
    Siamese,
    baseline,
    baseline_plus_plus,
)
from quickstudy.optimizer import LSTMMetaLearner

THREADS, ASKED = 8, 50


class Recurrent(nn.Module):
    """An LSTM over the rows of a picture, and batch norm of its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 8, batch_first=True)
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.lstm(x.flatten(1, 2))[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1, 2)
        return self.norm(rows + self.attention(rows, rows, rows)[0]).mean(1)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
    )


def dropping() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 12), nn.Dropout(0.5), nn.Tanh(), nn.Linear(12, 6))


def flat_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), MLP(256, [16], 6))


def tied() -> nn.Module:
    layer = nn.Linear(16, 16)
    return nn.Sequential(nn.Flatten(1, 2), layer, nn.Tanh(), layer, nn.Flatten(), nn.Linear(256, 6))


def frozen() -> nn.Module:
    return Conv4(1, 4).eval().requires_grad_(False)


ENCODERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "lstm": (Recurrent, 8),
    "attention": (Attending, 16),
    "cnn": (cnn, 36),
    "dropout": (dropping, 6),
    "mlp": (flat_mlp, 6),
    "tied": (tied, 6),
    "conv4": (lambda: Conv4(1, 4, running_statistics=False), 4),
    "frozen": (frozen, 4),
}
LOOPS: dict[str, Callable[[Classifier], Learner]] = {
    "maml": lambda m: MAML(m, 0.1, 2),
    "anil": lambda m: ANIL(m, 0.1, 2),
    "meta-sgd": lambda m: MetaSGD(m),
    "reptile": lambda m: Reptile(m, 0.01, 1, 5, 2),
    "lstm-meta-learner": lambda m: LSTMMetaLearner(m, steps=2),
}


def asked() -> list[tuple[Support, Tensor]]:
    g = torch.Generator().manual_seed(0)
    y = torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
    return [
        (Support(torch.rand(2, 6, 1, 16, 16, generator=g), y, 3), torch.rand(2, 5, 1, 16, 16, generator=g))
        for _ in range(THREADS)
    ]


def check(ask: Callable[[Support, Tensor], Tensor], times: int) -> None:
    """Each thread asks its own questions, and gets what one thread alone gets."""
    questions = asked()
    expected = [ask(*question) for question in questions]
    expected = [ask(*question) for question in questions]  # ways that fail are tried once

    def work(i: int) -> None:
        torch.set_num_threads(1)
        for _ in range(times):
            torch.testing.assert_close(ask(*questions[i]), expected[i], rtol=1e-6, atol=1e-6)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(work, range(THREADS)))


def inner_loop(loop: str, encoder: str) -> Learner:
    torch.manual_seed(0)
    make, dimensions = ENCODERS[encoder]
    return LOOPS[loop](Classifier(make(), 3, dimensions)).eval()


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_inner_loop_on_any_network(encoder: str, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        learner = inner_loop("maml", encoder)
        check(lambda *q: learner.predict(*q).detach(), 2)


@pytest.mark.parametrize("encoder", ["lstm", "cnn"])
@pytest.mark.parametrize("loop", [*LOOPS])
def test_any_inner_loop(loop: str, encoder: str) -> None:
    check(inner_loop(loop, encoder).predict, 2)


def test_batch_norm_of_each_step() -> None:
    torch.manual_seed(0)
    learner = MAML(Classifier(cnn(), 3, 36), 0.1, 2, per_step_norm=True).eval()
    check(learner.predict, 3)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_inner_loop_on_any_network_many_times(encoder: str) -> None:
    check(inner_loop("maml", encoder).predict, ASKED)


METRICS: dict[str, Callable[[nn.Module, int], Learner]] = {
    "prototypical": lambda e, d: Prototypical(e),
    "matching": lambda e, d: Matching(e, FullContext(d)),
    "gaussian": lambda e, d: GaussianPrototypical(e),
    "siamese": lambda e, d: Siamese(e),
    "semi-supervised": lambda e, d: SemiPrototypical(e),
    "r2d2": lambda e, d: R2D2(e),
    "metaoptnet": lambda e, d: MetaOptNet(e),
    "feat": lambda e, d: FEAT(e, d),
    "meta-baseline": lambda e, d: MetaBaseline(e),
    "plain": lambda e, d: PlainClassifier(e, 5, d),
    "baseline": lambda e, d: PlainClassifier(e, 5, d, head=partial(baseline, epochs=10)),
    "baseline-plus-plus": lambda e, d: PlainClassifier(
        e, 5, d, head=partial(baseline_plus_plus, epochs=10), cosine=True
    ),
}


@pytest.mark.parametrize("metric", METRICS)
def test_learners_of_a_metric(metric: str) -> None:
    torch.manual_seed(0)
    for name in ("lstm", "conv4"):
        make, dimensions = ENCODERS[name]
        check(METRICS[metric](make(), dimensions).eval().predict, 1)


@pytest.mark.slow
@pytest.mark.parametrize("metric", [*METRICS])
def test_learners_of_a_metric_many_times(metric: str) -> None:
    torch.manual_seed(0)
    make, dimensions = ENCODERS["lstm"]
    check(METRICS[metric](make(), dimensions).eval().predict, 20 if metric == "plain" else ASKED)


@pytest.mark.parametrize("encoder", ["lstm", "attention", "conv4"])
def test_adapted_models_and_predictions_at_once(encoder: str) -> None:
    """Also in training mode, which `adapted` leaves, and so it disturbs none of the others."""
    learner = inner_loop("maml", encoder).train()
    turn = iter(range(10**6))

    def ask(support: Support, query_x: Tensor) -> Tensor:
        first = Support(support.x[:1], support.y[:1], 3)
        if next(turn) % 2:
            learner.predict(support, query_x)  # pyright: ignore[reportAttributeAccessIssue]
        return learner.adapted(first)(query_x[0]).detach()  # pyright: ignore

    check(ask, 2)
    assert all(m.training for m in learner.modules())


def test_some_threads_without_the_kernels() -> None:
    learner, turn = inner_loop("maml", "conv4").double(), iter(range(10**6))

    def ask(support: Support, query_x: Tensor) -> Tensor:
        with kernels(enabled=bool(next(turn) % 2)):
            return learner.predict(Support(support.x.double(), support.y, 3), query_x.double()).detach()

    check(ask, 3)


def test_what_torch_and_python_keep_for_the_process_is_left_as_it_was() -> None:
    """Backends of attention and filters of warnings: each thread would restore what another had set."""
    backends = (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled())
    METRICS["plain"](cnn(), 36).eval().predict(*asked()[0])  # imports scikit-learn, which adds filters
    before = list(warnings.filters)
    check(inner_loop("maml", "attention").predict, 3)
    check(METRICS["plain"](cnn(), 36).eval().predict, 2)
    assert backends == (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
    )
    assert warnings.filters == before


def test_the_backend_of_attention_stays_until_the_last_thread_leaves() -> None:
    first, second = math_attention(), math_attention()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.cuda.flash_sdp_enabled()
    second.__exit__(None, None, None)
    assert torch.backends.cuda.flash_sdp_enabled()
