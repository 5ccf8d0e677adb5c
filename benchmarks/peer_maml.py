"""MAML beside learn2learn 0.2.0, higher 0.2.1, TorchOpt 0.7.3: same weights, same tasks, same meta-gradients.

Timed are meta-steps: inner steps, queries, meta-gradient, Adam; tasks are drawn beforehand. Either 32 tasks
(5-way 1-shot 28×28) of Conv4 with batch norm by batch statistics and a linear head, inner rate 0.4; or 25
sine waves (10 shots, 10 queries) of an MLP 1-40-40-1, inner rate 0.01. Each variant has processes of its own
for each row, by turns. Ours and the peers are timed as they are and with freed memory kept.

The peers get the encoder as most code bases write it, and run it as their examples do: task by task, with a
`backward` for each. Where there is a choice they are spared the work. First order in higher is
`track_higher_grads=False`, the gradients of the adapted weights being handed to the initial ones (as its
issue 63 advises). TorchOpt's MetaSGD makes a graph of its gradient whether it is wanted or not; so first
order takes its functional `sgd`, which needs none.

Before anything is timed meta-gradients must be equal in float64, in every row; but for the convolutions'
bias, which batch norm cancels.

"% of the floor" is the time that the convolutions alone would take at the machine's ceiling, as a share of
the time measured. `operations` counts them. The ceiling is the rate of one of them, the second layer's of 75
pictures, channels-last and with freed memory kept, measured by turns with the rest.

All of it takes about an hour on two cores. `--rows`, `--peers`, `--rounds` and `--steps` make it shorter;
rows left out keep their figures.

Peers that are absent are left out; one is enough. Their installation could replace torch, so they are used
from unpacked copies (optree and graphviz are what TorchOpt needs):

    python -m pip download --no-deps --dest DIR learn2learn==0.2.0 higher==0.2.1
    python -m pip download --no-deps --dest DIR torchopt==0.7.3 optree graphviz
    for wheel in DIR/*.whl; do python -m zipfile -e $wheel DIR; done
    python -m tarfile -e DIR/learn2learn-0.2.0.tar.gz DIR
    PYTHONPATH=DIR:DIR/learn2learn-0.2.0 python -m benchmarks.peer_maml
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise, product
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.children import Child, alternate, pooled, run
from benchmarks.plain import characters
from benchmarks.rows import Row, read, write
from quickstudy.core.episode import Episode, Support
from quickstudy.core.kernels.convolution import channels_last
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.data.episodes import Episodes
from quickstudy.data.setting import Setting
from quickstudy.encoders.classifier import MLP, Classifier
from quickstudy.encoders.conv4 import Conv4
from quickstudy.initialization.maml import MAML
from tools.tables import RATIO, number, pivot

VERSIONS = {"learn2learn": "0.2.0", "higher": "0.2.1", "torchopt": "0.7.3"}
CHECKED = 3
"""Tasks whose meta-gradients are compared."""
TOLERANCE = 1e-8
"""Relative, of the worst parameter's meta-gradient in float64: sums are taken in another order."""
LAYERS = ((28, 1, 64), (14, 64, 64), (7, 64, 64), (3, 64, 64))
"""Side of the picture, channels in and out of each convolution."""


@dataclass(frozen=True)
class Work:
    """A row: what all sides do in a meta-step.

    Args:
        steps: of the inner loop.
        first_order: take the inner gradients for constants.
        queries: a class.
        sine: of sine waves, not of pictures.
    """

    steps: int
    first_order: bool
    queries: int = 15
    sine: bool = False

    @property
    def setting(self) -> str:
        """`5w1s with 15 queries`."""
        if self.sine:
            return "sinusoid, K = 10"
        return f"{Setting(5, 1)} with {self.queries} {'queries' if self.queries > 1 else 'query'}"

    @property
    def mode(self) -> str:
        """`5 steps, second order`."""
        order = "first order" if self.first_order else "second order"
        return f"{self.steps} {'steps' if self.steps > 1 else 'step'}, {order}"

    @property
    def tasks(self) -> int:
        """In a meta-step."""
        return 25 if self.sine else 32

    @property
    def lr(self) -> float:
        """Of the inner loop."""
        return 0.01 if self.sine else 0.4

    @property
    def repeats(self) -> int:
        """How many meta-steps are timed where one of pictures would be: those of sine waves are short."""
        return 20 if self.sine else 1


ROWS = {
    f"{work.setting}, {work.mode}": work
    for work in (
        *(Work(steps, first, queries) for queries, steps, first in product((15, 1), (1, 5), (False, True))),
        *(Work(1, first, sine=True) for first in (False, True)),
    )
}


@dataclass(frozen=True)
class Variant:
    """A side, and how it is set up.

    Args:
        side: "quickstudy" or a peer.
        plain: ours adapts the very module that the peers get, not what the library has.
        bf16: in bfloat16 autocast.
        keep: keep freed memory.
    """

    side: str = "quickstudy"
    plain: bool = False
    bf16: bool = False
    keep: bool = False

    def does(self, work: Work) -> bool:
        """Whether it is timed: sine waves are too small for memory and bfloat16 to matter."""
        return not (work.sine and (self.keep or self.bf16))


KEPT = ", freed memory kept"
VARIANTS = {
    "quickstudy": Variant(),
    f"quickstudy{KEPT}": Variant(keep=True),
    f"quickstudy, bfloat16{KEPT}": Variant(bf16=True, keep=True),
    "quickstudy, any module": Variant(plain=True),
    f"quickstudy, any module{KEPT}": Variant(plain=True, keep=True),
    **{
        f"{peer}{KEPT * keep}": Variant(peer, plain=True, keep=keep)
        for peer in VERSIONS
        for keep in (False, True)
    },
}
CEILING = "ceiling"
CEILING_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Backward = Callable[[Episode], None]
"""Adds the meta-gradient to `.grad` of a module's parameters."""


class PlainClassifier(nn.Module):
    """Four times convolution with bias, batch norm by batch statistics, ReLU, max-pool; a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(i, o, 3, padding=1),
                    nn.BatchNorm2d(o, track_running_stats=False),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                )
                for i, o in pairwise([1, 64, 64, 64, 64])
            )
        )
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 28, 28] → [B, 5]."""
        return self.head(self.blocks(x).flatten(1))


class PlainMLP(nn.Module):
    """Two hidden layers of 40."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1] → [B, 1]."""
        return self.layers(x)


def compared(module: Any) -> list[Tensor]:
    """Its parameters in an order that ours and the plain modules share, without the convolutions' bias."""
    if isinstance(module, Classifier):
        encoder: Any = module.encoder
        layers = zip(encoder.convs, encoder.norms, strict=True)
    elif isinstance(module, PlainClassifier):
        blocks: Any = module.blocks
        layers = ((conv, norm) for conv, norm, *_ in blocks)
    else:
        return list(module.parameters())
    each = [p for conv, norm in layers for p in (conv.weight, norm.weight, norm.bias)]
    return [*each, module.head.weight, module.head.bias]


@torch.no_grad()
def initial(work: Work, plain: bool, seed: int) -> nn.Module:
    """The module that is adapted: ours or the plain one, with the same weights for the same seed."""
    torch.manual_seed(seed)
    ours = MLP(1, (40, 40), 1) if work.sine else Classifier(Conv4(running_statistics=False), ways=5)
    if not plain:
        return ours
    module = PlainMLP() if work.sine else PlainClassifier()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            layer.bias.zero_()  # ours has none: batch norm would subtract it
    for theirs, p in zip(compared(module), compared(ours), strict=True):
        theirs.copy_(p)
    return module


def draw(work: Work, tasks: int, seed: int) -> Callable[[int], Episode]:
    """From the number of a meta-step to its tasks."""
    if not work.sine:
        return Episodes(characters(), Setting(5, 1, work.queries), tasks, seed).part

    def waves(i: int) -> Episode:
        rng = np.random.default_rng((seed, i))
        size, phase = rng.uniform(0.1, 5, (tasks, 1, 1)), rng.uniform(0, np.pi, (tasks, 1, 1))
        x = rng.uniform(-5, 5, (tasks, 20, 1))
        support_x, query_x = torch.from_numpy(x).float().split(10, 1)
        support_y, query_y = torch.from_numpy(size * np.sin(x - phase)).float().split(10, 1)
        return Episode(Support(support_x, support_y, 0), query_x, query_y)

    return waves


def installed(peer: str) -> bool:
    """Whether it is on the path, in the version of the comparison; another version ends the program."""
    try:
        version = importlib.metadata.version(peer)
    except importlib.metadata.PackageNotFoundError:
        return False
    if version != VERSIONS[peer]:
        sys.exit(f"this is {peer} {version}: the comparison is with {VERSIONS[peer]}")
    return True


@cache
def load(peer: str) -> ModuleType:
    """The module of a peer that has what is used of it, unmodified.

    `learn2learn` imports vision, text and reinforcement learning, which want many packages; bare packages
    in its place let the one module be imported alone.
    """
    try:
        if peer != "learn2learn":
            return importlib.import_module(peer)
        package = importlib.util.find_spec(peer)
        if not package or not package.submodule_search_locations:
            raise ImportError("not on the path")
        for name in (peer, f"{peer}.algorithms"):
            bare = ModuleType(name)
            bare.__path__ = [
                package.submodule_search_locations[0] + name.removeprefix(peer).replace(".", "/")
            ]
            sys.modules[name] = bare
        return importlib.import_module(f"{peer}.algorithms.maml")
    except ImportError as error:
        sys.exit(f"{peer} can't be imported ({error}); how to get it: python -m benchmarks.peer_maml --help")


def each_task(episode: Episode) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Support items and labels, query items and labels of one task after the other."""
    support = episode.support
    return zip(support.x, support.y, episode.query_x, episode.query_y, strict=True)


def loss_of(work: Work) -> Callable[[Tensor, Tensor], Tensor]:
    """What a task is judged by."""
    return F.mse_loss if work.sine else F.cross_entropy


def with_quickstudy(module: nn.Module, work: Work, bf16: bool) -> Backward:
    """As our users write it."""
    learner = MAML(module, lr=work.lr, steps=work.steps, first_order=work.first_order)

    def backward(episode: Episode) -> None:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss = learner(episode)
        loss.backward()

    return backward


def with_learn2learn(module: nn.Module, work: Work) -> Backward:
    """As in its examples."""
    maml = load("learn2learn").MAML(module, lr=work.lr, first_order=work.first_order)
    loss = loss_of(work)

    def backward(episode: Episode) -> None:
        for x, y, query_x, query_y in each_task(episode):
            learner = maml.clone()
            for _ in range(work.steps):
                learner.adapt(loss(learner(x), y))
            (loss(learner(query_x), query_y) / episode.tasks).backward()

    return backward


def with_higher(module: nn.Module, work: Work) -> Backward:
    """As in its examples; first order as its authors advise."""
    higher, loss = load("higher"), loss_of(work)
    sgd = torch.optim.SGD(module.parameters(), work.lr)

    def backward(episode: Episode) -> None:
        for x, y, query_x, query_y in each_task(episode):
            with higher.innerloop_ctx(
                module, sgd, copy_initial_weights=False, track_higher_grads=not work.first_order
            ) as (adapted, inner):
                for _ in range(work.steps):
                    inner.step(loss(adapted(x), y))
                value = loss(adapted(query_x), query_y) / episode.tasks
                if not work.first_order:
                    value.backward()
                    continue
                gradients = torch.autograd.grad(value, list(adapted.parameters()))
                for p, g in zip(module.parameters(), gradients, strict=True):
                    p.grad = g if p.grad is None else p.grad.add_(g)

    return backward


def with_torchopt(module: nn.Module, work: Work) -> Backward:
    """As in its examples: MetaSGD, or its functional optimizer for first order."""
    torchopt, loss = load("torchopt"), loss_of(work)

    if work.first_order:
        rule = torchopt.sgd(work.lr)

        def backward(episode: Episode) -> None:
            for x, y, query_x, query_y in each_task(episode):
                parameters: dict[str, Tensor] = dict(module.named_parameters())
                state = rule.init(parameters)
                for _ in range(work.steps):
                    value = loss(functional_call(module, parameters, (x,)), y)
                    gradients = torch.autograd.grad(value, list(parameters.values()))
                    by_name = dict(zip(parameters, gradients, strict=True))
                    updates, state = rule.update(by_name, state, inplace=False)
                    parameters = torchopt.apply_updates(parameters, updates, inplace=False)
                value = loss(functional_call(module, parameters, (query_x,)), query_y)
                (value / episode.tasks).backward()

        return backward

    inner = torchopt.MetaSGD(module, lr=work.lr)

    def backward_twice(episode: Episode) -> None:
        weights = torchopt.extract_state_dict(module, by="reference", detach_buffers=True)
        state = torchopt.extract_state_dict(inner, by="reference")
        for x, y, query_x, query_y in each_task(episode):
            for _ in range(work.steps):
                inner.step(loss(module(x), y))
            (loss(module(query_x), query_y) / episode.tasks).backward()
            torchopt.recover_state_dict(module, weights)
            torchopt.recover_state_dict(inner, state)

    return backward_twice


PEERS: dict[str, Callable[[nn.Module, Work], Backward]] = {
    "learn2learn": with_learn2learn,
    "higher": with_higher,
    "torchopt": with_torchopt,
}


def build(variant: Variant, module: nn.Module, work: Work) -> Backward:
    """The meta-gradient as a side's users get it."""
    if variant.side == "quickstudy":
        return with_quickstudy(module, work, variant.bf16)
    return PEERS[variant.side](module, work)


def measure(variant: Variant, work: Work, steps: int, seed: int) -> dict[str, list[float]]:
    """Seconds of each meta-step, after one that is not timed: it allocates."""
    if variant.keep:
        keep_freed_memory()
    module = initial(work, variant.plain, seed)
    backward, episodes = build(variant, module, work), draw(work, work.tasks, seed)
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    seconds: list[float] = []
    for i in range((1 + steps) * work.repeats):
        episode = episodes(i)
        started = time.perf_counter()
        optimizer.zero_grad()
        backward(episode)
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds[work.repeats :]}


def ceiling() -> dict[str, list[float]]:
    """GFLOP/s of a convolution as the second layer's, of one task's queries."""
    keep_freed_memory()
    side, i, o = LAYERS[1]
    rates: dict[str, list[float]] = {}
    for name, dtype in CEILING_PRECISIONS.items():
        x = channels_last(torch.randn(75, i, side, side, dtype=dtype))
        w = channels_last(torch.randn(o, i, 3, 3, dtype=dtype))
        seconds: list[float] = []
        with torch.no_grad():
            for _ in range(60):
                started = time.perf_counter()
                F.conv2d(x, w, padding=1)
                seconds.append(time.perf_counter() - started)
        rates[name] = [75 * forward_operations()[1] / s / 1e9 for s in seconds[10:]]
    return rates


def forward_operations() -> list[int]:
    """Of each convolution, for one picture: a multiplication and an addition for each weight and pixel."""
    return [2 * side * side * 9 * i * o for side, i, o in LAYERS]


def operations(work: Work) -> int:
    """Floating-point operations that the convolutions of a meta-step can't do without.

    Counted in convolutions of the forward pass, y = x * w. With g the gradient of y, an inner step takes 3:
    y itself, the gradient of w from (x, g), and that of x from (g, w). Differentiating it again takes 6: each
    of the two gradients is bilinear, so it hands on two; and y hands on two, of what has reached it by then.
    The first layer's x is a picture, which needs no gradient: it takes 2 (y, the gradient of w) and again 2
    (from that to g, and from y to w). Queries take what an inner step does. Forward over reverse takes no
    fewer.
    """
    first, *others = forward_operations()
    once, again = 2 * first + 3 * sum(others), 2 * first + 6 * sum(others)
    step = once if work.first_order else once + again
    return work.tasks * 5 * (work.steps * step + work.queries * once)


def meta_gradients(variant: Variant, work: Work, episode: Episode, seed: int) -> list[Tensor]:
    """In float64, in the order of `compared`."""
    module = initial(work, variant.plain, seed).double()
    build(variant, module, work)(episode)
    gradients: list[Any] = [p.grad for p in compared(module)]
    return gradients


def check(work: Work, peers: Iterable[str], seed: int) -> dict[str, dict[str, float]]:
    """Largest relative difference of ours from each peer, of the worst parameter, by our variant and peer."""
    episode = _double(draw(work, CHECKED, seed)(0))
    theirs = {peer: meta_gradients(VARIANTS[peer], work, episode, seed) for peer in peers}
    differences: dict[str, dict[str, float]] = {}
    for name in ("quickstudy", "quickstudy, any module"):
        ours = meta_gradients(VARIANTS[name], work, episode, seed)
        differences[name] = {
            peer: max(_difference(a, b) for a, b in zip(g, ours, strict=True)) for peer, g in theirs.items()
        }
    return differences


def _double(episode: Episode) -> Episode:
    s = episode.support
    tensors = (
        t.double() if t.is_floating_point() else t for t in (s.x, s.y, episode.query_x, episode.query_y)
    )
    x, y, query_x, query_y = tensors
    return Episode(Support(x, y, s.ways), query_x, query_y)


def _difference(a: Tensor, b: Tensor) -> float:
    """Relative; infinite where it is not a number, which a maximum could miss."""
    difference = ((a - b).norm() / a.norm()).item()
    return math.inf if math.isnan(difference) else difference


@dataclass(frozen=True)
class Measured:
    """What the processes of a row have told.

    Args:
        seconds: of the meta-steps, by variant.
        peaks: MiB of the processes, by variant.
        ceilings: GFLOP/s, by precision.
        differences: as from `check`.
    """

    seconds: Mapping[str, Sequence[float]]
    peaks: Mapping[str, Sequence[float]]
    ceilings: Mapping[str, Sequence[float]]
    differences: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(
        cls, children: Mapping[str, Sequence[Child]], differences: Mapping[str, Mapping[str, float]]
    ) -> "Measured":
        """From the processes, those of the ceiling among them."""
        timed = {v: c for v, c in children.items() if v != CEILING}
        return cls(
            {v: pooled(c, "seconds") for v, c in timed.items()},
            {v: [child.peak for child in c] for v, c in timed.items()},
            {name: pooled(children.get(CEILING, ()), name) for name in CEILING_PRECISIONS},
            differences,
        )


def rows_of(work: Work, measured: Measured, row: Callable[..., Row]) -> list[Row]:
    """The rows of a kind of work, beside the fastest peer; `row` fills in what all of them share.

    Variants that keep freed memory are compared twice: with the fastest peer as it is, and with the fastest
    that keeps it as well.
    """
    row = partial(row, setting=work.setting, mode=work.mode)
    ms = {v: 1000 * statistics.median(s) for v, s in measured.seconds.items()}
    fastest = {
        keep: min((v for v in ms if _is_peer(v, keep)), key=ms.__getitem__, default=None)
        for keep in (False, True)
    }
    peer = fastest[False]
    assert peer
    rows: list[Row] = []
    for v, value in ms.items():
        variant, n, peaks = VARIANTS[v], len(measured.seconds[v]), measured.peaks[v]
        beside = v == "quickstudy"
        rows += [
            row(
                method=v,
                metric="ms a meta-step",
                value=value,
                n=n,
                peer=f"{peer} {ms[peer]:.6g}" if beside else None,
            ),
            row(method=v, metric=RATIO, value=ms[peer] / value, n=n, peer=f"{peer} 1" if beside else None),
        ]
        if variant.keep and (alike := fastest[True]):
            rows.append(row(method=v, metric=f"{RATIO}{KEPT}", value=ms[alike] / value, n=n))
        rows.append(row(method=v, metric="peak MiB", value=statistics.median(peaks), n=len(peaks)))
        if variant.side == "quickstudy" and not work.sine:
            rates = measured.ceilings["bfloat16" if variant.bf16 else "float32"]
            floor = 1000 * operations(work) / (1e9 * statistics.median(rates))
            rows.append(row(method=v, metric="% of the floor", value=100 * floor / value, n=n))
        if v in measured.differences:
            worst = max(measured.differences[v].values())
            rows.append(row(method=v, metric="worst difference, float64", value=worst, n=CHECKED))
    return rows


def _is_peer(variant: str, keep: bool) -> bool:
    return VARIANTS[variant].side != "quickstudy" and VARIANTS[variant].keep == keep


def table(rows: Sequence[Row]) -> str:
    """For the eye, one block a kind of work."""
    blocks: list[str] = []
    for setting, mode in dict.fromkeys((r.setting, r.mode) for r in rows):
        of = [r for r in rows if (r.setting, r.mode) == (setting, mode)]
        head, _, *lines = pivot(of, ("method",), "metric", lambda r: number(r.value))
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (head, *lines)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        blocks.append(", ".join(filter(None, (setting, mode))))
        for name, *figures in cells:
            padded = (f"{cell:>{w}}" for cell, w in zip(figures, widths[1:], strict=True))
            blocks.append("  ".join((f"  {name:<{widths[0]}}", *padded)))
        blocks.append("")
    return "\n".join(blocks)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes of each variant and row")
    parser.add_argument(
        "--steps", type=int, default=5, help="timed meta-steps a process; of sine waves, 20 times as many"
    )
    parser.add_argument(
        "--rows", default="", metavar="TEXT", help="only rows whose name has this in it: " + "; ".join(ROWS)
    )
    parser.add_argument("--peers", nargs="+", choices=VERSIONS, default=list(VERSIONS), help="only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write no results")
    parser.add_argument("--variant", choices=[*VARIANTS, CEILING, "check"], help=argparse.SUPPRESS)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant == CEILING:
        print(json.dumps(ceiling()))
    elif options.variant == "check":
        print(json.dumps(check(ROWS[options.row], options.peers, options.seed)))
    elif options.variant:
        variant, work = VARIANTS[options.variant], ROWS[options.row]
        print(json.dumps(measure(variant, work, options.steps, options.seed)))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Check, measure, and write, row by row."""
    chosen = {name: work for name, work in ROWS.items() if options.rows in name}
    if not chosen:
        sys.exit(f"no row has {options.rows!r} in its name; they are: {'; '.join(ROWS)}")
    peers = [peer for peer in options.peers if installed(peer)]
    if not peers:
        sys.exit(f"none of {', '.join(options.peers)} is on the path; how to get them: --help")
    for peer in options.peers:
        if peer not in peers:
            print(f"{peer} is not on the path: left out (--help says how to get it)", file=sys.stderr)
    module, seed = "benchmarks.peer_maml", str(options.seed)

    def differences(name: str) -> dict[str, dict[str, float]]:
        found = run(
            "-m", module, "--variant", "check", "--row", name, "--seed", seed, "--peers", *peers
        ).report
        for ours, by_peer in found.items():
            for peer, difference in by_peer.items():
                if not difference <= TOLERANCE:
                    sys.exit(f"{name}: meta-gradients of {ours} and {peer} differ by {difference:.1e}: void")
        return found

    checked = {name: differences(name) for name in chosen}  # all of them, before anything is measured
    measured: dict[str, Measured] = {}
    for name, work in chosen.items():
        print(name, file=sys.stderr)
        sides = ("quickstudy", *peers)
        variants = [v for v, variant in VARIANTS.items() if variant.side in sides and variant.does(work)]
        variants += [] if work.sine else [CEILING]
        steps = str(options.steps)
        children = alternate(
            module, variants, options.rounds, "--row", name, "--steps", steps, "--seed", seed
        )
        measured[name] = Measured.of(children, checked[name])

    dataset, split = characters().name.split(".")  # not before: a child's peak is at least its parent's
    common = partial(Row, benchmark="peer_maml", seed=options.seed)
    rows: list[Row] = []
    for name, work in chosen.items():
        of = {} if work.sine else {"dataset": dataset, "split": split}
        rows += rows_of(work, measured[name], partial(common, **of))
    for precision in CEILING_PRECISIONS:
        rates = [rate for m in measured.values() for rate in m.ceilings[precision]]
        if rates:
            value = statistics.median(rates)
            rows.append(
                common(method=f"a convolution, {precision}", metric="GFLOP/s", value=value, n=len(rates))
            )
    print(table(rows))
    if not options.dry:
        write("peer_maml", merged(rows, read("peer_maml")))


def merged(new: Sequence[Row], old: Iterable[Row]) -> list[Row]:
    """The new rows, and the old ones of work that was not measured again, in the order of `ROWS`."""
    again = {(row.setting, row.mode) for row in new}
    places = {(work.setting, work.mode): i for i, work in enumerate(ROWS.values())}
    rows = [*new, *(row for row in old if (row.setting, row.mode) not in again)]
    return sorted(rows, key=lambda row: places.get((row.setting or "", row.mode or ""), len(places)))


if __name__ == "__main__":
    main()
