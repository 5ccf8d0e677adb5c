"""Operations are those that autograd does, sides agree, and rows say what was measured."""

import statistics
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peer_maml
from benchmarks.peer_maml import KEPT, PEERS, ROWS, VARIANTS, Measured, Work
from benchmarks.rows import Row
from quickstudy.data.pool import ClassPool

COMMON = partial(Row, benchmark="peer_maml", seed=0)
PICTURES, SINES = Work(steps=5, first_order=False), Work(steps=1, first_order=False, sine=True)


@pytest.fixture(autouse=True)
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that need not be loaded."""
    items = np.random.default_rng(0).integers(0, 256, (24, 1, 28, 28), dtype=np.uint8)
    pool = ClassPool.from_grouped(items, list("abcdef"), [4] * 6, name="noise.train")
    monkeypatch.setattr(peer_maml, "characters", lambda: pool)


def convolutions(work: Work) -> int:
    """Operations of the convolutions that a plain loop does for one task, as torch counts them."""
    module = peer_maml.initial(work, True, 0)
    weights: Any = dict(module.named_parameters())
    x, y, query_x, query_y = next(peer_maml.each_task(peer_maml.draw(work, 1, 0)(0)))
    loss = peer_maml.loss_of(work)
    with FlopCounterMode(display=False) as counter:
        adapted = weights
        for _ in range(work.steps):
            value = loss(torch.func.functional_call(module, adapted, (x,)), y)
            gradients = torch.autograd.grad(value, list(adapted.values()), create_graph=not work.first_order)
            adapted = {k: p - work.lr * g for (k, p), g in zip(adapted.items(), gradients, strict=True)}
        loss(torch.func.functional_call(module, adapted, (query_x,)), query_y).backward()
    counts = counter.get_flop_counts()["Global"]
    return sum(n for operation, n in counts.items() if "convolution" in str(operation))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_operations_are_those_of_autograd(steps: int, first_order: bool) -> None:
    work = Work(steps, first_order, queries=1)
    # torch's second derivative also takes the gradient of the pictures, which nobody asked for
    needless = 0 if first_order else steps * 5 * peer_maml.forward_operations()[0]
    assert peer_maml.operations(work) == work.tasks * (convolutions(work) - needless)


def test_ours_agree_with_a_plain_loop() -> None:
    for work in (Work(2, False, 1), SINES):
        episode = peer_maml._double(peer_maml.draw(work, 2, 0)(0))
        gradients = [
            peer_maml.meta_gradients(VARIANTS[v], work, episode, 0)
            for v in ("quickstudy", "quickstudy, any module")
        ]
        differences = [peer_maml._difference(a, b) for a, b in zip(*gradients, strict=True)]
        assert 0 < max(differences) < peer_maml.TOLERANCE


def test_what_is_not_a_number_differs() -> None:
    assert peer_maml._difference(torch.ones(1), torch.tensor([float("nan")])) == float("inf")


def test_names_of_rows() -> None:
    assert len(ROWS) == 10
    assert PICTURES in ROWS.values()
    assert "5w1s with 15 queries, 5 steps, second order" in ROWS
    assert "5w1s with 1 query, 1 step, first order" in ROWS
    assert "sinusoid, K = 10, 1 step, second order" in ROWS


def measured(work: Work) -> Measured:
    """Ours takes 2 s, the peers 4, 5 and 6 s, and all half of that where freed memory is kept."""
    seconds = {"quickstudy": 2.0} | dict(zip(PEERS, (5.0, 4.0, 6.0), strict=True))
    times = {
        v: [0.9 * s, s, 1.2 * s]
        for v, variant in VARIANTS.items()
        if variant.does(work)
        for s in [seconds[variant.side] / (1 + variant.keep)]
    }
    ceilings = {"float32": [1e3, 1e2, 1e1], "bfloat16": [2e2]}
    differences = {
        v: {"learn2learn": 1e-12, "higher": 2e-12} for v in ("quickstudy", "quickstudy, any module")
    }
    return Measured(times, {v: [300.0, 400.0] for v in times}, ceilings, differences)


def test_rows_say_what_was_measured() -> None:
    rows = peer_maml.rows_of(PICTURES, measured(PICTURES), COMMON)
    by_name = {(r.method, r.metric): r for r in rows}
    assert len(by_name) == len(rows)

    def value(method: str, metric: str) -> Any:
        return by_name[method, metric].value

    for (metric, figure), peer in zip(
        (("ms a meta-step", 2000), ("times as fast", 2)), ("higher 4000", "higher 1"), strict=True
    ):
        assert (value("quickstudy", metric), by_name["quickstudy", metric].peer) == (figure, peer)
    assert {r.method for r in rows if r.peer} == {"quickstudy"}
    assert value("higher", "times as fast") == 1
    assert value("torchopt", "times as fast") == 4 / 6
    assert value(f"quickstudy{KEPT}", "times as fast") == 4
    assert value(f"quickstudy{KEPT}", f"times as fast{KEPT}") == 2
    assert value(f"learn2learn{KEPT}", f"times as fast{KEPT}") == 0.8
    assert ("quickstudy", f"times as fast{KEPT}") not in by_name
    assert value("quickstudy", "peak MiB") == 350
    floor = peer_maml.operations(PICTURES) / 1e11
    assert value("quickstudy", "% of the floor") == pytest.approx(100 * floor / 2)
    assert value(f"quickstudy, bfloat16{KEPT}", "% of the floor") == pytest.approx(100 * floor / 2)
    assert ("higher", "% of the floor") not in by_name
    assert value("quickstudy, any module", "worst difference, float64") == 2e-12
    assert {(r.setting, r.mode) for r in rows} == {("5w1s with 15 queries", "5 steps, second order")}
    assert statistics.median(r.n or 0 for r in rows if r.metric == "ms a meta-step") == 3

    text = peer_maml.table(rows)
    assert text.startswith("5w1s with 15 queries, 5 steps, second order\n")
    assert len({len(line) for line in text.splitlines()[1:-1]}) == 1


def test_sine_waves_have_no_floor_and_no_memory_to_keep() -> None:
    rows = peer_maml.rows_of(SINES, measured(SINES), COMMON)
    assert {r.method for r in rows} == {"quickstudy", "quickstudy, any module", *PEERS}
    assert not [r for r in rows if "floor" in r.metric]


def test_fewer_peers_will_do() -> None:
    m = measured(PICTURES)
    left = {v: s for v, s in m.seconds.items() if not v.startswith(("learn2learn", "higher"))}
    rows = peer_maml.rows_of(PICTURES, Measured(left, m.peaks, m.ceilings, m.differences), COMMON)
    assert {r.peer for r in rows if r.peer} == {"torchopt 6000", "torchopt 1"}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["peer_maml", *arguments])
    peer_maml.main()


def test_work_not_measured_again_keeps_its_rows() -> None:
    one, other = Work(steps=1, first_order=True), Work(steps=5, first_order=False)
    old = [row for work in (one, other) for row in peer_maml.rows_of(work, measured(work), COMMON)]
    old.append(COMMON(method="a convolution, float32", metric="GFLOP/s", value=1.0))
    new = peer_maml.rows_of(one, measured(one), partial(COMMON, commit="later"))
    ceiling = COMMON(method="a convolution, float32", metric="GFLOP/s", value=2.0)
    rows = peer_maml.merged([*new, ceiling], old)
    assert rows == [*new, *peer_maml.rows_of(other, measured(other), COMMON), ceiling]


def test_without_peers_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_maml, "installed", lambda peer: False)
    with pytest.raises(SystemExit, match=r"^none of learn2learn, higher, torchopt is on the path; .*--help$"):
        run(monkeypatch)
    with pytest.raises(SystemExit, match=r"^no row has 'cubes' in its name; they are: 5w1s with"):
        run(monkeypatch, "--rows", "cubes")


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_maml.importlib.metadata, "version", lambda name: "9.9")
    with pytest.raises(SystemExit, match=r"^this is higher 9.9: the comparison is with 0.2.1$"):
        peer_maml.installed("higher")
