"""A training step of a plain classifier with ResNet-12 beside that of a plain module, by turns.

The plain module is written as the authors' code is, with leaky ReLU before the max-pool, and set up well:
channels last, the same weights, the same precision (bfloat16 where the processor has it, else float32), the
same optimizer (stochastic gradient descent with Nesterov's momentum), freed memory kept. A round is a step of
each; what counts is the median of the rounds' ratios. Losses and gradients are compared first.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rows import Row, write
from quickstudy.core.episode import LabelledBatch
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.encoders.resnet12 import ResNet12
from quickstudy.metric.plain import PlainClassifier

WIDTHS = {"narrow ResNet-12": (32, 64, 128, 256), "ResNet-12": (64, 160, 320, 640)}
BATCH, CLASSES, SLOPE = 64, 64, 0.1


class PlainBlock(nn.Module):
    """Residual block, as the authors write it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairwise([inputs, *[outputs] * 3])
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(3))
        self.beside, self.beside_norm = nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Activations → half as large ones."""
        y = F.leaky_relu(self.norms[0](self.convs[0](x)), SLOPE)
        y = F.leaky_relu(self.norms[1](self.convs[1](y)), SLOPE)
        y = self.norms[2](self.convs[2](y)) + self.beside_norm(self.beside(x))
        return F.max_pool2d(F.leaky_relu(y, SLOPE), 2)


class Plain(nn.Module):
    """The network and its linear layer."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(PlainBlock(i, o) for i, o in pairwise([3, *widths])))
        self.linear = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Loss of a batch."""
        z = self.blocks(x.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(self.linear(z.mean((2, 3))), y)


def sides(widths: tuple[int, ...], x: Tensor, y: Tensor) -> tuple[nn.Module, nn.Module]:
    """Ours and the plain one, with the same weights, and the same losses and gradients."""
    torch.manual_seed(0)
    ours = PlainClassifier(ResNet12(3, widths), CLASSES, widths[-1])
    plain = Plain(widths).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    plain.load_state_dict({name.removeprefix("encoder."): w for name, w in ours.state_dict().items()})
    losses = ours(LabelledBatch(x, y, CLASSES)), plain(x, y)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
    for loss in losses:
        loss.backward()
    largest = [
        max(float(p.grad.abs().max()) for p in m.parameters() if p.grad is not None) for m in (ours, plain)
    ]
    torch.testing.assert_close(largest[0], largest[1], rtol=1e-3, atol=1e-5)
    return ours, plain


def step(
    module: nn.Module, loss: Callable[[], Tensor], precision: AbstractContextManager[object]
) -> Callable[[], None]:
    """A training step."""
    optimizer = torch.optim.SGD(module.parameters(), 1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def once() -> None:
        optimizer.zero_grad()
        with precision:
            of_batch = loss()
        of_batch.backward()
        optimizer.step()

    return once


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--dry", action="store_true", help="write no results")
    given = parser.parse_args()
    keep_freed_memory()
    has = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    which = "bfloat16" if has else "float32"
    x, y = torch.rand(BATCH, 3, 32, 32), torch.randint(CLASSES, (BATCH,))
    rows: list[Row] = []
    for name, widths in WIDTHS.items():
        ours, plain = sides(widths, x, y)
        precision = torch.autocast("cpu", torch.bfloat16, enabled=has)
        steps = (
            step(ours, lambda ours=ours: ours(LabelledBatch(x, y, CLASSES)), precision),
            step(plain, lambda plain=plain: plain(x, y), precision),
        )
        taken: list[list[float]] = []
        for turn in range(given.rounds + 2):
            seconds = [0.0, 0.0]
            for i in (0, 1) if turn % 2 else (1, 0):
                started = time.perf_counter()
                steps[i]()
                seconds[i] = time.perf_counter() - started
            taken.append(seconds)
        taken = taken[2:]  # warmed up
        rate = [BATCH / statistics.median(t[i] for t in taken) for i in (0, 1)]
        ratio = statistics.median(theirs / own for own, theirs in taken)
        row = partial(
            Row,
            benchmark="resnet12_step",
            dataset="noise",
            setting=f"batches of {BATCH}, {which}",
            mode="training",
        )
        rows.append(
            row(
                method=name,
                metric="pictures/s",
                value=rate[0],
                peer=f"plain module {rate[1]:.4g}",
                n=given.rounds,
            )
        )
        rows.append(
            row(method=name, metric="times as fast", value=ratio, peer="plain module 1", n=given.rounds)
        )
    for r in rows:
        print(f"{r.method}: {r.value:.4g} {r.metric} ({r.peer})")
    if not given.dry:
        write("resnet12_step", rows)


if __name__ == "__main__":
    main()
