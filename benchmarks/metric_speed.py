"""Tasks per second and peak memory of each metric learner, in training and in inductive evaluation.

Timed are the steps of `fit`, of one task (draw, forward, backward, Adam), and the meta-batches of `evaluate`,
of 10 tasks: all in float32, in each learner's default form, with freed memory kept, as on the command line.
The semi-supervised learner has 5 unlabelled items a class, and 14 queries: Omniglot's characters have 20
items. Every learner has, for each setting and phase, processes of its own, by turns; so its peak memory is
that of nothing else. That of a training of relation networks with 20 ways and 5 shots must not exceed 4 GiB.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product

import torch

from benchmarks.children import Child, alternate, pooled
from benchmarks.plain import characters
from benchmarks.rows import Row, write
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.learner import Learner
from quickstudy.data.episodes import Episodes
from quickstudy.data.setting import Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.gaussian import GaussianPrototypical, gaussian_encoder
from quickstudy.metric.matching import FullContext, Matching
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.relation import Comparison, Relation, relation_encoder
from quickstudy.metric.semi_supervised import SemiPrototypical
from quickstudy.metric.siamese import Siamese
from quickstudy.recipes.recipe import TASKS
from quickstudy.training.evaluate import evaluate
from quickstudy.training.fit import fit
from quickstudy.training.launch import launch

WARM_UP = 3
"""Steps and meta-batches that are not timed: the first ones allocate."""
PHASES = "training", "evaluation"
SMALL, LARGE, UNLABELLED = Setting(5, 1, 15), Setting(20, 5, 5), Setting(5, 1, 14, unlabelled=5)
RELATION = "relation"
MOST_MEMORY = 4096
"""MiB, of a training of relation networks in the large setting."""
LEARNERS: Mapping[str, Callable[[], Learner]] = {
    "prototypical": lambda: Prototypical(Conv4()),
    "matching": lambda: Matching(Conv4()),
    "matching, full context": lambda: Matching(Conv4(), FullContext()),
    RELATION: lambda: Relation(relation_encoder(), Comparison()),
    "Gaussian prototypical, radius": lambda: GaussianPrototypical(gaussian_encoder()),
    "Siamese, contrastive": lambda: Siamese(Conv4()),
    "semi-supervised prototypical, masked": lambda: SemiPrototypical(Conv4(), "masked"),
}


@dataclass(frozen=True)
class Work:
    """What a process does.

    Args:
        learner: its name.
        setting: of the tasks.
        phase: "training" or "evaluation".
    """

    learner: str
    setting: Setting
    phase: str

    @property
    def size(self) -> str:
        """`5w1s with 15 queries`."""
        s = self.setting
        return f"{s} with {s.queries} queries" + f" and {s.unlabelled} unlabelled" * bool(s.unlabelled)

    @property
    def tasks(self) -> int:
        """In what is timed at once."""
        return 1 if self.phase == "training" else TASKS


WORKS = {
    f"{work.learner}, {work.size}, {work.phase}": work
    for learner in LEARNERS
    for setting, phase in product(
        [UNLABELLED] if learner.startswith("semi-supervised") else [SMALL, LARGE], PHASES
    )
    for work in [Work(learner, setting, phase)]
}


def measure(work: Work, steps: int, seed: int) -> list[float]:
    """Seconds a task, of each training step or meta-batch."""
    keep_freed_memory()
    torch.manual_seed(seed)
    learner = LEARNERS[work.learner]()
    episodes = Episodes(characters(), work.setting, work.tasks, seed)
    ends: list[float] = []

    def lap(step: int, report: object) -> None:
        ends.append(time.perf_counter())

    count = WARM_UP + steps
    if work.phase == "training":
        fit(learner, episodes, count, fabric=launch("cpu"), report=lap)
    else:
        evaluate(learner, episodes, count * work.tasks, report=lap)
    return [(b - a) / work.tasks for a, b in pairwise(ends[WARM_UP - 1 :])]


def rows_of(children: Mapping[str, Sequence[Child]], row: Callable[..., Row]) -> list[Row]:
    """The rows of what was measured.

    Args:
        children: the processes of each work, by its name.
        row: makes a row, with what all of them have in common.

    Raises:
        ArithmeticError: if relation networks take more memory than they may.
    """
    rows: list[Row] = []
    for name, done in children.items():
        work, seconds, peaks = WORKS[name], pooled(done, "seconds"), [child.peak for child in done]
        if work == Work(RELATION, LARGE, "training") and max(peaks) > MOST_MEMORY:
            raise ArithmeticError(f"{name}: the peak is {max(peaks):,.0f} MiB, more than {MOST_MEMORY:,}")
        of = partial(row, method=work.learner, setting=work.size, mode=work.phase)
        rows += [
            of(metric="tasks/s", value=1 / statistics.median(seconds), n=len(seconds)),
            of(metric="peak MiB", value=statistics.median(peaks), n=len(peaks)),
        ]
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--rounds", type=int, default=3, help="processes of each learner, setting and phase")
    parser.add_argument("--steps", type=int, default=10, help="timed steps and meta-batches a process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write no results")
    parser.add_argument("--variant", choices=WORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps({"seconds": measure(WORKS[options.variant], options.steps, options.seed)}))
        return
    works = [name for name, work in WORKS.items() if work.learner in options.learners]
    if len(options.learners) < len(LEARNERS) and not options.dry:
        sys.exit("results are of all learners: with --learners, say --dry")
    given = "--steps", str(options.steps), "--seed", str(options.seed)
    children = alternate("benchmarks.metric_speed", works, options.rounds, *given)
    dataset, split = characters().name.split(".")  # not before: a child's peak is at least its parent's
    row = partial(Row, benchmark="metric_speed", dataset=dataset, split=split, seed=options.seed)
    rows = rows_of(children, row)
    for r in rows:
        print(f"{r.method}, {r.setting}, {r.mode}: {r.value:,.4g} {r.metric}")
    if not options.dry:
        write("metric_speed", rows)


if __name__ == "__main__":
    main()
