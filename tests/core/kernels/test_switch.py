"""With the kernels and without: the same losses, gradients and predictions, and nothing left behind."""

import copy
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import get_worker_info

import quickstudy
from quickstudy.core.episode import Episode, Support
from quickstudy.core.inner_loop import InnerLoop
from quickstudy.core.kernels import per_task as per_task_module
from quickstudy.core.kernels import switch as kernel_switch
from quickstudy.core.kernels import task_groups
from quickstudy.core.kernels.overrides import FastOps
from quickstudy.core.kernels.per_task import per_task
from quickstudy.core.kernels.sizes import ACCELERATOR, CPU, sizes, sizes_on
from quickstudy.core.kernels.switch import kernels, kernels_enabled, plain_per_task
from quickstudy.core.kernels.task_norm import Statistics, TaskNorm, is_active
from quickstudy.core.learner import Learner, batch_statistics
from quickstudy.encoders.classifier import MLP, Classifier
from quickstudy.encoders.conv4 import Conv4
from quickstudy.initialization.maml import MAML
from quickstudy.metric.gaussian import GaussianPrototypical
from quickstudy.metric.matching import FullContext, Matching
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.relation import Comparison, Relation, relation_encoder
from quickstudy.metric.semi_supervised import SemiPrototypical
from quickstudy.metric.siamese import Siamese
from quickstudy.metric.supervised_contrastive import SupervisedContrastive
from quickstudy.optimizer.problems.supervised import Dataset, Supervised
from quickstudy.optimizer.rule_learner import RuleLearner
from quickstudy.optimizer.rules import lstm_cell
from quickstudy.optimizer.rules.cell_state import CellStateRule
from quickstudy.optimizer.truncation import ProblemSeed, TruncationSchedule
from tests.core.kernels.test_per_task import (
    MODULES,
    case,
    one_by_one,
    own_parameters,
    shared_layer,
    tied_weights,
)
from tests.initialization.test_initialization import LEARNERS, MODES, evaluated
from tests.optimizer.test_rule_learner import RULES
from tests.support.small_models import NETWORKS, distance, gradients_of, network, pictures, weights_of


@contextmanager
def two_cores() -> Generator[None]:
    """So that groups of tasks run in threads; all else is only slower, on a busy machine very much so."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def both(run: Callable[[], Any]) -> tuple[Any, Any]:
    """What comes of it with the kernels, and without; each with the same random numbers."""
    results = []
    for enabled in (True, False):
        torch.manual_seed(3)
        with kernels(enabled=enabled):
            results.append(run())
    return results[0], results[1]


def same(run: Callable[[], Any], rtol: float = 1e-9) -> None:
    torch.testing.assert_close(*both(run), rtol=rtol, atol=1e-11)


# The inner loops

INNER = LEARNERS | {
    "lstm-second-order": lambda model, **a: LEARNERS["lstm"](model, first_order=False, **a),
    "reptile-minibatches": lambda model, **a: quickstudy.Reptile(
        model, lr=0.01, steps=3, batch=2, test_steps=3, **a
    ),
}


def trained(learner: InnerLoop | Learner, e: Episode) -> tuple[Tensor, dict[str, Tensor]]:
    learner = copy.deepcopy(learner)  # Reptile moves its moments
    loss = learner.train()(e)
    return loss.detach(), gradients_of(loss, learner)


def applies(name: str, kind: str) -> bool:
    return name != "anil" or kind != "own-module"  # ANIL takes a `Classifier`


CASES = [(name, kind) for name in INNER for kind in NETWORKS if applies(name, kind)]
of_all = pytest.mark.parametrize(("name", "kind"), CASES)


@pytest.mark.medium
@pytest.mark.parametrize("chunk_size", [None, 2])
@of_all
def test_losses_and_gradients_of_inner_loops(name: str, kind: str, chunk_size: int | None) -> None:
    learner, e = INNER[name](network(kind), chunk_size=chunk_size), pictures(tasks=5)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        with two_cores() if kernels_enabled() and kind == "conv4" else nullcontext():
            return trained(learner, e)

    (ours, our_gradients), (plain, plain_gradients) = both(run)
    near = 1e-6 if "reptile" in name else 1e-9  # Adam magnifies the rounding of small gradients
    torch.testing.assert_close(ours, plain, rtol=near, atol=1e-12)
    assert distance(our_gradients, plain_gradients) < near


@pytest.mark.medium
@pytest.mark.parametrize("mode", MODES)
@of_all
def test_predictions_of_inner_loops(name: str, kind: str, mode: str) -> None:
    learner, e = INNER[name](network(kind)), pictures(tasks=3)
    near = 1e-5 if "reptile" in name else 1e-8
    same(lambda: evaluated(learner, e.support, e.query_x, mode), near)
    same(lambda: evaluated(learner, e.support, e.query_x[:, :1], mode), near)


@pytest.mark.medium
@of_all
def test_adapted_weights(name: str, kind: str) -> None:
    learner, e = INNER[name](network(kind)), pictures(tasks=1)
    same(lambda: learner.adapted(e.support).state_dict(), 1e-5 if "reptile" in name else 1e-8)


class Normed(nn.Module):
    """Of plain vectors, with a batch norm that is applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.norm(self.first(x)).sin()))


@pytest.mark.medium
@pytest.mark.parametrize("name", [name for name in INNER if name != "anil"])
@pytest.mark.parametrize("make", [Normed, lambda: MLP(4, (5,), 3)], ids=["normed", "mlp"])
def test_inner_loops_of_vectors(make: Callable[[], nn.Module], name: str) -> None:
    torch.manual_seed(0)
    learner = INNER[name](make().double())
    x, y = torch.randn(3, 9, 4).double(), torch.arange(3).repeat(3).expand(3, -1)
    e = Episode(Support(x[:, :6], y[:, :6], 3), x[:, 6:], y[:, 6:])
    near = 1e-5 if "reptile" in name else 1e-9
    (ours, our_gradients), (plain, plain_gradients) = both(lambda: trained(learner, e))
    torch.testing.assert_close(ours, plain, rtol=near, atol=1e-12)
    assert distance(our_gradients, plain_gradients) < near
    for queries in (
        e.query_x,
        e.query_x[:, :1],
    ):  # one alone, which batch norm refuses to normalize by itself
        same(lambda queries=queries: evaluated(learner, e.support, queries, "inductive"), near)


def test_regressions() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(3, 7, 1).double(), torch.randn(3, 7, 1).double()
    e = Episode(Support(x[:, :4], y[:, :4], 0), x[:, 4:], y[:, 4:])
    for first_order in (True, False):
        learner = MAML(MLP(1, (6,), 1).double(), lr=0.1, steps=3, first_order=first_order)
        (ours, our_gradients), (plain, plain_gradients) = both(lambda learner=learner: trained(learner, e))
        torch.testing.assert_close(ours, plain)
        assert distance(our_gradients, plain_gradients) < 1e-9


# The learners of a metric, whose encoders run as they are with the kernels too


def encoder(outputs: int | None = None) -> nn.Module:
    return Conv4(1, 2, outputs=outputs)


METRIC: dict[str, Callable[[], Learner]] = {
    "prototypical": lambda: Prototypical(encoder()),
    "gaussian": lambda: GaussianPrototypical(encoder(3)),
    "soft-k-means": lambda: SemiPrototypical(encoder()),
    "cluster": lambda: SemiPrototypical(encoder(), "cluster"),
    "masked": lambda: SemiPrototypical(encoder(), "masked"),
    "matching": lambda: Matching(encoder(), FullContext(2)),
    "relation": lambda: Relation(relation_encoder(1, 2), Comparison(4, 2, 5)),
    "siamese": lambda: Siamese(encoder()),
    "supervised-contrastive": lambda: SupervisedContrastive(encoder()),
}


@pytest.mark.parametrize("name", METRIC)
def test_learners_of_a_metric(name: str) -> None:
    torch.manual_seed(0)
    e = pictures(shots=(2, 2, 2), queries=6, size=24 if name == "relation" else 16)
    e.support.unlabelled = e.query_x.flip(1)
    learner = METRIC[name]().double()
    (ours, our_gradients), (plain, plain_gradients) = both(lambda: trained(learner, e))
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)
    assert distance(our_gradients, plain_gradients) < 1e-10
    learner.eval()
    with torch.no_grad():
        same(lambda: learner.predict(e.support, e.query_x))
        with batch_statistics(learner):
            same(lambda: learner.predict(e.support, e.query_x))


# The learners of a rule

ALL_RULES: dict[str, Callable[[], nn.Module]] = RULES | {"cell-state": lambda: CellStateRule(hidden=3)}


@pytest.mark.medium
@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("estimator", ["backprop", "es", "pes"])
@pytest.mark.parametrize("name", ALL_RULES)
def test_rule_learners(name: str, estimator: str, first_order: bool) -> None:
    torch.manual_seed(0)
    if name == "cell-state" and (estimator != "backprop" or not first_order):
        pytest.skip("its step is differentiable once, and not by vmap")
    x = torch.randn(20, 6).double()
    data = Dataset(x, torch.arange(20).remainder(3))
    family = Supervised(lambda: Normed6().double(), data, data, batch=5)
    rule = ALL_RULES[name]().double()

    def learned() -> tuple[list[Tensor], dict[str, Tensor]]:
        learner = RuleLearner(
            copy.deepcopy(rule),
            family,
            4,
            3,
            TruncationSchedule(6),
            first_order=first_order,
            estimator=estimator,
        )
        values = [learner(ProblemSeed(i, 7)) for i in range(2)]
        return [v.detach() for v in values], gradients_of(values[-1], learner)

    (ours, our_gradients), (plain, plain_gradients) = both(learned)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)
    assert distance(our_gradients, plain_gradients) < 1e-8


class Normed6(nn.Sequential):
    """A network that runs by vmap."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3))


# What the loop means


@pytest.mark.parametrize("name", MODULES)
def test_the_loop_is_a_plain_call_for_each_task(name: str) -> None:
    module, item = case(name)
    parameters = own_parameters(module, 3)
    x = torch.randn(3, 4, *item, dtype=torch.float64)
    torch.testing.assert_close(
        plain_per_task(module, parameters, x), one_by_one(module, parameters, x), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("make", [shared_layer, tied_weights])
def test_the_loop_leaves_shared_layers_as_they_were(make: Callable[[], nn.Module]) -> None:
    module = make().double()
    parameters, x = own_parameters(module, 2), torch.randn(2, 4, 6, dtype=torch.float64)
    before = dict(module.named_parameters(remove_duplicate=False))
    torch.testing.assert_close(plain_per_task(module, parameters, x), one_by_one(module, parameters, x))
    assert all(module.get_parameter(k) is p for k, p in before.items())


def test_the_loop_keeps_and_uses_statistics() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2, affine=False, track_running_stats=False))
    support, queries = torch.randn(3, 5, 2).double(), torch.randn(3, 4, 2).double()
    kept: list[Statistics] = []
    with kernels(enabled=False):
        with TaskNorm(keep=kept):
            per_task(module, {}, support)
        with TaskNorm(use=kept):
            found = per_task(module.eval(), {}, queries)
    mean, variance = support.mean(1, keepdim=True), support.var(1, correction=0, keepdim=True)
    torch.testing.assert_close(found, (queries - mean) / (variance + 1e-5).sqrt())
    assert module[0].running_mean is None


def test_without_the_kernels_none_of_them_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a kernel runs")

    for owner, name in (
        (Conv4, "forward_per_task"),
        (Classifier, "forward_per_task"),
        (FastOps, "__enter__"),
        (per_task_module, "vmap"),
        (per_task_module, "per_task_linear"),
        (kernel_switch, "vmap"),
        (task_groups, "in_threads"),
        (task_groups._PrecomputedGradient, "apply"),
        (lstm_cell._Step, "apply"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    e = pictures(tasks=4)
    for make in LEARNERS.values():
        learner = make(network(), chunk_size=2)
        with pytest.raises(AssertionError, match="a kernel runs"):
            learner(e)
        with kernels(enabled=False):
            learner(e).backward()
            evaluated(learner, e.support, e.query_x)
            evaluated(learner, e.support, e.query_x, "inductive")


# The switch itself


def test_the_switch_holds_for_its_block_and_its_thread() -> None:
    seen: list[bool] = []
    assert kernels_enabled()
    with kernels(enabled=False):
        assert not kernels_enabled()
        with kernels(enabled=True):
            assert kernels_enabled()
        assert not kernels_enabled()
        other = threading.Thread(target=lambda: seen.append(kernels_enabled()))
        other.start()
        other.join()
    assert kernels_enabled()
    assert seen == [True]
    with pytest.raises(KeyError), kernels(enabled=False):
        raise KeyError
    assert kernels_enabled()


@pytest.mark.medium
@pytest.mark.parametrize(("value", "enabled"), [("0", "False"), ("1", "True")])
def test_the_environment_sets_it(value: str, enabled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKSTUDY_KERNELS", value)
    program = "from quickstudy.core.kernels.switch import kernels_enabled; print(kernels_enabled())"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == enabled


def test_another_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKSTUDY_KERNELS", "off")
    with pytest.raises(ValueError, match="QUICKSTUDY_KERNELS is 'off': set it to 1, the default, or to 0"):
        kernel_switch._from_environment()


# Sizes


def test_sizes_are_those_of_the_device_and_change_for_a_block() -> None:
    assert sizes_on() == sizes_on("cpu") == CPU
    assert sizes_on("cuda") == ACCELERATOR
    with sizes(encoded_items=3, database_rows=5):
        assert sizes_on().encoded_items == sizes_on("cuda").encoded_items == 3
        with sizes(encoded_items=4):
            assert (sizes_on().encoded_items, sizes_on().database_rows) == (4, 5)
        assert sizes_on().encoded_items == 3
    assert sizes_on() == CPU


def test_sizes_out_of_range_are_refused() -> None:
    with (
        pytest.raises(ValueError, match="encoded_items is -1: sizes must be at least 0"),
        sizes(encoded_items=-1),
    ):
        pass
    with pytest.raises(TypeError, match="encoded_item"), sizes(encoded_item=1):
        pass


# What a call changes in the process, it puts back


def state_of_the_process() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "attention": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.cudnn_sdp_enabled(),
        ),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warnings": list(warnings.filters),
        "batch norm": is_active(),
        "switch": kernels_enabled(),
        "sizes": (sizes_on(), sizes_on("cuda")),
        "running": {t.name for t in threading.enumerate()},
        "worker": get_worker_info(),
    }


class Failing(nn.Module):
    """Fails once it has been called some times."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left, self.head = calls, network("own-module")

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("out of calls")
        return self.head(x)


@pytest.mark.medium
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] != "own-encoder"])
def test_every_call_leaves_the_process_as_it_was(name: str, kind: str, enabled: bool) -> None:
    learner, e = INNER[name](network(kind), chunk_size=2), pictures(tasks=4)

    def train() -> None:
        with two_cores() if enabled and kind == "conv4" else nullcontext():
            before = state_of_the_process()
            learner(e).backward()
            assert state_of_the_process() == before

    calls: list[Callable[[], Any]] = [
        train,
        lambda: learner.predict(e.support, e.query_x),
        lambda: learner.adapt(e.support),
        lambda: learner.adapted(e[:1].support),
        lambda: evaluated(learner, e.support, e.query_x, "inductive"),
        lambda: evaluated(learner, e.support, e.query_x),
    ]
    before, weights = state_of_the_process(), dict(learner.named_parameters())
    for call in calls:
        learner.train()
        with kernels(enabled=enabled):
            call()
        assert state_of_the_process() == before
        assert all(learner.get_parameter(k) is p for k, p in weights.items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in learner.modules())


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("left", range(7))
def test_so_does_one_that_fails(left: int, enabled: bool) -> None:
    model, e = Failing(left), pictures(tasks=2)
    learner = MAML(model, steps=1).eval()
    before, weights = state_of_the_process(), weights_of(model)

    def fail() -> None:
        for _ in range(3):
            learner.predict(e.support, e.query_x)

    with pytest.raises(RuntimeError, match="out of calls"), kernels(enabled=enabled):
        fail()
    assert state_of_the_process() == before
    assert all(model.get_parameter(k) is p for k, p in weights.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(m.running_mean is None for m in norms)


# Torch's private parts

PRIVATE = re.compile(
    r"\btorch(?:\.\w+)*\._\w"  # torch._C, torch.utils._pytree
    r"|\bfrom torch[\w.]* import [^#]*\b_\w"  # from torch.x import _y
    r"|\b(?:from|import) torch(?:\.\w+)*\._\w"
    r"|\btorch\.ops\b"
)


def test_private_names_of_torch_are_used_in_one_file() -> None:
    examples = "torch._C.x", "torch.utils._pytree", "from torch.nn import A, _B", "torch.ops.aten"
    assert all(map(PRIVATE.search, examples))
    (root,) = quickstudy.__path__
    users = {
        path.name
        for path in Path(root).rglob("*.py")
        for line in path.read_text().splitlines()
        if PRIVATE.search(line)
    }
    assert users == {"torch_private.py"}
