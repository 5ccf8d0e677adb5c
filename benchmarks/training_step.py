"""A training step of the prototypical network, as shipped and as most would write it.

The step: draw a 60-way 1-shot 5-query task, forward, backward, Adam. Data, weights and loss are the same
throughout, and the encoders are checked to compute one function. The variants go from the plain encoder to
what ships, one saving at a time. What ours counts beside is the plain encoder as a good user of torch sets it
up: one `.to(memory_format=torch.channels_last)`, the same precision (bfloat16 where the processor has it),
and freed memory kept. Keeping freed memory can't be undone in a process, so each variant runs in processes of
its own, by turns. Reported are the median step, how much of it is the encoder's forward and backward pass,
and the peak memory.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.children import alternate, pooled, run
from benchmarks.plain import characters, encoder
from benchmarks.rows import Row, write
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.kernels.torch_private import cpu_has_bfloat16
from quickstudy.data.episodes import Episodes
from quickstudy.data.setting import Setting
from quickstudy.metric.prototypical import Prototypical
from quickstudy.training.fit import fit
from quickstudy.training.launch import launch

SETTING = Setting(60, 1, 5)
WARM_UP = 3
"""Steps that are not timed: the first ones allocate."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 0.1}
"""Relative, of the worst gradient. Sums are taken in another order. Float32's is wide because torch's batch
norm adds up naively in channels-last: its 1/σ of the first layer's 280,000 values is off by up to 1e-3.
"""


@dataclass(frozen=True)
class Variant:
    """A way to train.

    Args:
        encoder: as in `plain.encoder`.
        bf16: in bfloat16 autocast.
        keep: keep freed memory.
        fit: by `quickstudy.fit`, with all that it does besides; else by a bare loop.
    """

    encoder: str
    bf16: bool = False
    keep: bool = False
    fit: bool = False


BF16 = cpu_has_bfloat16()
"""Whether the processor has bfloat16; where it has not, all variants are in float32, as `launch` has it."""
PEER = "plain, well set up"
VARIANTS = {
    "plain": Variant("plain"),
    "plain, freed memory kept": Variant("plain", keep=True),
    "channels-last": Variant("channels-last"),
    "… and ReLU after the pool, no bias": Variant("ours"),
    **({"… and bfloat16": Variant("ours", bf16=True)} if BF16 else {}),
    PEER: Variant("channels-last", bf16=BF16, keep=True),
    "quickstudy": Variant("ours", bf16=BF16, keep=True, fit=True),
}


def measure(variant: Variant, steps: int, seed: int) -> dict[str, list[float]]:
    """Seconds of each whole step, and of the encoder alone at the same work."""
    if variant.keep:
        keep_freed_memory()
    learner = Prototypical(encoder(variant.encoder, seed))
    episodes = Episodes(characters(), SETTING, seed=seed)
    precision: Any = partial(torch.autocast, "cpu", torch.bfloat16) if variant.bf16 else nullcontext
    encoder_alone = _encoder_alone(learner, episodes, precision)
    whole: list[float] = []
    alone: list[float] = []
    begun = time.perf_counter()

    def after_step(step: int, report: object = None) -> None:
        nonlocal begun
        ended = time.perf_counter()
        encoder_alone()
        whole.append(ended - begun)
        begun = time.perf_counter()
        alone.append(begun - ended)

    if variant.fit:
        fabric = launch("cpu", precision="bf16-mixed")
        fit(learner, episodes, WARM_UP + steps, optimizer=torch.optim.Adam, fabric=fabric, report=after_step)
    else:
        optimizer = torch.optim.Adam(learner.parameters(), 1e-3)
        for step in range(WARM_UP + steps):
            optimizer.zero_grad()
            with precision():
                loss = learner(episodes[step])
            loss.backward()
            optimizer.step()
            loss.item()
            after_step(step)
    return {"whole": whole[WARM_UP:], "alone": alone[WARM_UP:]}


def _encoder_alone(
    learner: Prototypical, episodes: Episodes, precision: Callable[[], Any]
) -> Callable[[], None]:
    """The encoder's forward and backward pass on the input of a step, with that step's upstream gradient."""
    inputs: list[Tensor] = []
    upstream: list[Tensor] = []

    def catch(_: nn.Module, taken: tuple[Tensor], z: Tensor) -> None:
        inputs.append(taken[0])
        z.register_hook(upstream.append)

    handle = learner.encoder.register_forward_hook(catch)
    with precision():
        loss = learner(episodes[0])
    loss.backward()
    handle.remove()
    parameters = list(learner.parameters())

    def work() -> None:
        with precision():
            z = learner.encoder(inputs[0])
        torch.autograd.grad(z, parameters, upstream[0])

    return work


def difference(dtype: torch.dtype, seed: int) -> float:
    """Largest relative difference between plain and ours of the loss and of each gradient."""
    episode = Episodes(characters(), SETTING, seed=seed)[0]
    episode.support.x, episode.query_x = episode.support.x.to(dtype), episode.query_x.to(dtype)
    plain, ours = (Prototypical(encoder(kind, seed)).to(dtype) for kind in ("plain", "ours"))
    losses = [learner(episode) for learner in (plain, ours)]
    for loss in losses:
        loss.backward()
    pairs = [(losses[0], losses[1])]
    encoders: Any = plain.encoder, ours.encoder
    for (conv, norm, *_), c, n in zip(encoders[0].blocks, encoders[1].convs, encoders[1].norms, strict=True):
        layers = (conv.weight, c.weight), (norm.weight, n.weight), (norm.bias, n.bias)
        pairs += [(a.grad, b.grad) for a, b in layers]
    return max(((a - b).norm() / a.norm()).item() for a, b in pairs)


def check(seed: int) -> dict[str, float]:
    """The differences by dtype.

    Raises:
        ArithmeticError: if plain and ours are not one function.
    """
    differences = {}
    for dtype, tolerance in TOLERANCE.items():
        name = str(dtype).removeprefix("torch.")
        differences[name] = difference(dtype, seed)
        if not differences[name] <= tolerance:
            raise ArithmeticError(f"plain and ours differ by {differences[name]:.1e} in {name}")
    return differences


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each variant")
    parser.add_argument("--steps", type=int, default=20, help="timed steps a process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", choices=[*VARIANTS, "check"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        if options.variant == "check":
            print(json.dumps(check(options.seed)))
        else:
            print(json.dumps(measure(VARIANTS[options.variant], options.steps, options.seed)))
        return

    module, seed = "benchmarks.training_step", str(options.seed)
    pool = characters()
    dataset, split = pool.name.split(".")
    row = partial(
        Row,
        benchmark="training_step",
        dataset=dataset,
        split=split,
        setting=str(SETTING),
        seed=options.seed,
    )
    differences = run("-m", module, "--variant", "check", "--seed", seed).report
    children = alternate(module, VARIANTS, options.rounds, "--steps", str(options.steps), "--seed", seed)
    n = options.rounds * options.steps
    medians = {v: 1000 * statistics.median(pooled(c, "whole")) for v, c in children.items()}
    rows: list[Row] = []
    for variant, done in children.items():
        share = 1000 * statistics.median(pooled(done, "alone")) / medians[variant]
        ours = variant == "quickstudy"
        rows += [
            row(
                method=variant,
                metric="ms a step",
                value=medians[variant],
                n=n,
                peer=f"{PEER} {medians[PEER]:.6g}" if ours else None,
            ),
            row(
                method=variant,
                metric="times as fast",
                value=medians[PEER] / medians[variant],
                n=n,
                peer=f"{PEER} 1" if ours else None,
            ),
            row(method=variant, metric="encoder's share %", value=100 * share, n=n),
            row(
                method=variant,
                metric="peak MiB",
                value=statistics.median(c.peak for c in done),
                n=options.rounds,
            ),
        ]
    rows += [
        row(method="quickstudy", metric=f"difference from plain, {dtype}", value=value, n=1)
        for dtype, value in differences.items()
    ]
    for r in rows:
        print(f"{r.method}: {r.value:,.4g} {r.metric}")
    write("training_step", rows)


if __name__ == "__main__":
    main()
