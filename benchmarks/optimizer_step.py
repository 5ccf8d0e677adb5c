"""How long a step of a learned rule takes, for 100,000 parameters, beside torch's Adam.

In few large tensors and in many small ones; as `LearnedOptimizer` takes it, and with the rule's update
compiled by torch.compile, whose first call is stated apart. The least of some rounds, as these machines are
shared.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.rows import Row, write
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.optimizer.rules.lstm import LSTMRule
from quickstudy.optimizer.rules.mlp import MLPRule
from quickstudy.optimizer.rules.rnnprop import RNNpropRule
from quickstudy.optimizer.torch_optimizer import LearnedOptimizer

PARAMETERS = 100_000
TENSORS = (4, 40)
RULES: dict[str, Callable[[], nn.Module]] = {
    "MLPRule": MLPRule,
    "RNNpropRule": RNNpropRule,
    "LSTMRule": LSTMRule,
}


def parameters(tensors: int) -> list[nn.Parameter]:
    """So many tensors of as many parameters, with gradients."""
    made = [nn.Parameter(torch.randn(PARAMETERS // tensors)) for _ in range(tensors)]
    for p in made:
        p.grad = torch.randn_like(p)
    return made


def milliseconds(step: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Of the first call, and the least of some more."""
    times: list[float] = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - started))
    return times[0], min(times[1:])


def compiled(rule: nn.Module, tensors: int) -> Callable[[], object]:
    """A step of the bare rule on all parameters at once, compiled."""
    theta = {str(i): p.detach() for i, p in enumerate(parameters(tensors))}
    gradients = {k: torch.randn_like(p) for k, p in theta.items()}
    bare: Any = rule
    update, state = torch.compile(bare.update), bare.init(theta)
    loss = torch.zeros(())

    def step() -> object:
        with torch.no_grad():
            return update(gradients, state, theta, loss)

    return step


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--compile", action="store_true", help="with torch.compile too: takes minutes")
    options = parser.parse_args()
    keep_freed_memory()
    rows: list[Row] = []
    for tensors in TENSORS:
        steps: dict[tuple[str, str], Callable[[], object]] = {
            ("torch's Adam", "foreach"): torch.optim.Adam(parameters(tensors), foreach=True).step,
            ("torch's Adam", "tensor by tensor"): torch.optim.Adam(parameters(tensors), foreach=False).step,
        }
        for name, make in RULES.items():
            steps[name, "LearnedOptimizer"] = LearnedOptimizer(parameters(tensors), make()).step
            if options.compile:
                steps[name, "compiled update"] = compiled(make(), tensors)
        for (method, mode), step in steps.items():
            first, least = milliseconds(step, options.rounds)
            print(f"{method}, {mode}, {tensors} tensors: {least:.2f} ms, first {first:.0f} ms", flush=True)
            figures = {"ms a step": least} | ({"ms of the first": first} if "compiled" in mode else {})
            rows += [
                Row(
                    benchmark="optimizer_step",
                    method=method,
                    setting=f"{PARAMETERS:,} parameters in {tensors} tensors",
                    mode=mode,
                    metric=metric,
                    value=value,
                    n=options.rounds,
                )
                for metric, value in figures.items()
            ]
    write("optimizer_step", rows)


if __name__ == "__main__":
    main()
