"""Minutes of training until 97.5 % on Omniglot's validation characters, on the paper's schedule and on ours.

The goal: mean accuracy of 400 tasks, 5-way 1-shot 15-query, inductive, of the 172 validation characters of
the Vinyals split (in four rotations), looked at every 50 steps of 60-way 1-shot 5-query training.

The paper's: Adam 1e-3 halved every 2,000 steps; once with the plain encoder in float32, once as a good user
of torch sets it up: channels-last, in bfloat16 where the processor has it, freed memory kept. Ours: Adam
1e-2, warm-up over a tenth of the horizon, then along a cosine to 0 at its end; precision and memory the same.
How short the horizon can be is not known beforehand: horizons are tried from the shortest, and the first at
which all seeds reach the goal is reported; its minutes do not include the search. Each training has a process
of its own; they run one after the other.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.children import run
from benchmarks.plain import encoder
from benchmarks.rows import Row, write
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.data.datasets.omniglot import omniglot
from quickstudy.data.episodes import Episodes
from quickstudy.data.setting import Setting
from quickstudy.metric.prototypical import Prototypical
from quickstudy.training.evaluate import evaluate
from quickstudy.training.fit import fit
from quickstudy.training.launch import launch
from quickstudy.training.schedules import cosine_schedule, halve_every

TRAIN, GOAL = Setting(60, 1, 5), Setting(5, 1, 15)
EPISODES, EVERY, TASKS = 400, 50, 10
PLAIN, PAPERS, OURS = "the paper's schedule, plain", "the paper's schedule, well set up", "quickstudy"


class _Reached(Exception):  # noqa: N818 (it is no error)
    pass


def train(variant: str, steps: int, goal: float, seed: int) -> dict[str, Any]:
    """Train until the goal or the last step; says how long that took, validation left out and included."""
    ours, fast = variant == OURS, variant != PLAIN
    if fast:
        keep_freed_memory()
    pool = omniglot()
    episodes = Episodes(pool.split("train"), TRAIN, seed=seed)
    validation = Episodes(pool.split("validation"), GOAL, TASKS, seed + 1)
    learner = Prototypical(encoder("ours" if ours else "channels-last" if fast else "plain", seed))
    result: dict[str, Any] = {}
    validating, started = 0.0, time.perf_counter()

    def after_step(step: int, report: dict[str, Any]) -> None:
        nonlocal validating
        if step % EVERY and step != steps:
            return
        begun = time.perf_counter()
        accuracy = evaluate(learner, validation, EPISODES).accuracy
        ended = time.perf_counter()
        validating += ended - begun
        result.update(step=step, accuracy=accuracy, reached=accuracy >= goal)
        result.update(whole=ended - started, training=ended - started - validating)
        print(f"{variant}, seed {seed}, step {step}: {100 * accuracy:.2f} %", file=sys.stderr)
        if result["reached"]:
            raise _Reached

    with contextlib.suppress(_Reached):
        fit(
            learner,
            episodes,
            steps,
            optimizer=partial(torch.optim.Adam, lr=1e-2 if ours else 1e-3),
            schedule=cosine_schedule(steps, warmup=steps // 10) if ours else halve_every(2000),
            fabric=launch("cpu", precision="bf16-mixed" if fast else "32-true"),
            report=after_step,
        )
    return result


def in_process(variant: str, steps: int, seed: int, goal: float) -> dict[str, Any]:
    """`train` in a process of its own; `goal` in %."""
    sizes = ["--goal", str(goal), "--most-steps", str(steps), "--seed", str(seed)]
    return run("-m", "benchmarks.time_to_accuracy", "--variant", variant, *sizes).report


def shortest(horizons: Sequence[int], seeds: int, goal: float) -> tuple[int, list[dict[str, Any]]]:
    """The first horizon at which all seeds reach the goal, else the last; and its trainings."""
    horizon, runs = 0, list[dict[str, Any]]()
    for horizon in horizons:
        runs = []
        for seed in range(seeds):
            runs.append(in_process(OURS, horizon, seed, goal))
            if not runs[-1]["reached"]:
                break  # no use in its other seeds
        else:
            break
    return horizon, runs


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goal", type=float, default=97.5, help="validation accuracy in %%")
    parser.add_argument("--horizons", type=int, nargs="+", default=[200, 300, 400, 600], help="of ours")
    parser.add_argument("--seeds", type=int, default=3, help="of ours")
    parser.add_argument("--most-steps", type=int, default=4000, help="of the paper's schedule")
    parser.add_argument("--variant", choices=[PLAIN, PAPERS, OURS], help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(train(options.variant, options.most_steps, options.goal / 100, options.seed)))
        return

    horizon, ours = shortest(sorted(options.horizons), options.seeds, options.goal)
    papers, plain = ([in_process(v, options.most_steps, 0, options.goal)] for v in (PAPERS, PLAIN))

    goal = f"to {options.goal:g} %"
    row = partial(
        Row, benchmark="time_to_accuracy", dataset="omniglot", split="validation", setting=str(GOAL)
    )
    rows: list[Row] = []
    minutes: dict[str, float | None] = {}
    for method, runs in ((f"{OURS}, horizon {horizon}", ours), (PAPERS, papers), (PLAIN, plain)):
        reached = all(r["reached"] for r in runs)
        for metric, key, unit in (
            (f"minutes {goal}", "training", 60),
            (f"minutes {goal}, with validation", "whole", 60),
            (f"steps {goal}", "step", 1),
        ):
            value = statistics.median(r[key] for r in runs) / unit if reached else None
            if key == "training":
                minutes[method] = value
            rows.append(row(method=method, metric=metric, value=value, n=len(runs), seed=0))
    (method, mine), (_, peers), _ = minutes.items()
    if mine and peers:
        rows[0] = replace(rows[0], peer=f"{PAPERS} {peers:.6g}")
        rows.append(
            row(method=method, metric="times as fast", value=peers / mine, n=len(ours), peer=f"{PAPERS} 1")
        )
    for r in rows:
        print(f"{r.method}: {'not reached' if r.value is None else f'{r.value:,.4g}'} {r.metric}")
    write("time_to_accuracy", rows)


if __name__ == "__main__":
    main()
