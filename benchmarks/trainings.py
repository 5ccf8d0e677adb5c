"""The long trainings behind the figures, one after another, hours of one core each.

Each is `quickstudy train` in a process of its own, with one thread, into a folder below --out that also gets
what it prints, `train.log`. A training that was stopped, by Ctrl-C, by SIGTERM or because --minutes are over,
saves first; the next call goes on with it, and skips those that are finished. No training is tested here:
what ships is measured by `tools.ship`, and what has shipped by `benchmarks.accuracy`.

    python -m benchmarks.trainings --group A --out runs --minutes 150
    python -m benchmarks.trainings --out runs --list
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from quickstudy.core import checkpoint, files
from quickstudy.core.stopping import SIGNALS, let_go_of_terminal
from quickstudy.recipes.catalogue import RECIPES


@dataclass(frozen=True)
class Training:
    """One training of the list.

    Args:
        recipe: Name of the recipe, as `quickstudy train` takes it.
        hours: Estimated hours of one quiet core.
        settings: Arguments of the recipe and of any training, as `--set` takes them.
        seed: Seed of weights and episodes.
        folder: Name of its folder; that of the recipe by default.
    """

    recipe: str
    hours: float
    settings: tuple[str, ...] = ()
    seed: int = 0
    folder: str = ""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder or self.recipe

    def command(self, out: Path, options: Sequence[str] = ()) -> list[str]:
        """The command that begins it, or goes on with it."""
        settings = [word for setting in self.settings for word in ("--set", setting)]
        program = [sys.executable, "-m", "quickstudy", "train", self.recipe, *settings]
        folder = ["--out", str(out / self.name), "--seed", str(self.seed), "--resume"]
        return [*program, *folder, "--test-episodes", "0", *options]


PARTS = tuple(
    Training("maml-plus-plus-part-omniglot", 0.4, settings=(f"part={part}",), folder=f"maml-plus-plus-{part}")
    for part in ("none", "rates", "losses", "norms", "order", "all")
)
"""MAML++'s parts one by one."""

GROUPS: dict[str, tuple[Training, ...]] = {
    "A": (
        Training("plain-conv4-cifar-fs", 1.1),
        Training("plain-conv4-fc100", 1.0),
        Training("prototypical-cifar-fs-5shot", 1.5),
        Training("prototypical-cifar-fs-1shot", 1.5),
        Training("plain-resnet12-cifar-fs", 2.7),
        Training("r2d2-cifar-fs", 1.6),
        Training("maml-omniglot-20way", 4.7),
        Training("maml-plus-plus-omniglot-20way", 6.1),
    ),
    "B": (
        Training("fomaml-omniglot-20way", 1.7),
        Training("reptile-omniglot-20way", 3.0),
        Training("meta-sgd-omniglot-20way", 2.5),
        Training("maml-omniglot-5way-5shot", 1.2),
        Training("maml-plus-plus-omniglot", 1.9),
        Training("maml-omniglot-20way-random", 2.4),
        Training("plain-resnet12-fc100", 2.6),
        Training("relation-cifar-fs", 1.5),
    ),
    "C": (
        Training("maml-plus-plus-omniglot-5shot", 2.4),
        Training("maml-omniglot-20way-5shot", 4.4),
        Training("maml-cifar-fs", 2.6),
        Training("matching-cifar-fs", 1.0),
        Training("siamese-cifar-fs", 1.0),
        Training("gaussian-cifar-fs", 1.0),
        *PARTS,
        *(
            Training(recipe, hours, seed=seed, folder=f"{recipe}-seed{seed}")
            for recipe, hours in (("prototypical-omniglot-1shot", 0.4), ("plain-conv4-cifar-fs", 1.1))
            for seed in (1, 2)
        ),
    ),
    "D": (  # FEAT and Meta-Baseline begin with plain-resnet12-cifar-fs, of group A in the same --out
        Training("meta-baseline-resnet12-cifar-fs", 1.2),
        Training("feat-resnet12-cifar-fs", 1.5),
        Training("metaoptnet-resnet12-cifar-fs", 3.0),
        Training("baseline-plus-plus-conv4-cifar-fs", 1.2),
        Training("baseline-plus-plus-resnet12-cifar-fs", 2.8),
    ),
}


@dataclass(frozen=True)
class State:
    """How far a training is.

    Args:
        word: "done", "running", "stopped", "open" (no step saved yet), "damaged" (its checkpoint), or
            "no recipe" (not in the catalogue).
        steps: Steps done and to do, such as 250/1000; "–" before the first checkpoint.
        validation: Validation whose weights are kept, in few words; "–" before the first.
    """

    word: str
    steps: str = "–"
    validation: str = "–"


def state(training: Training, out: Path) -> State:
    """How far a training is, by the checkpoint in its folder."""
    folder = out / training.name
    last = folder / "last.safetensors"
    if training.recipe not in RECIPES and ":" not in training.recipe:
        return State("no recipe")
    # the log is locked by the queue, for its child, the folder by whoever trains
    running = files.is_locked(folder / "train.log") or files.is_locked(folder / files.LOCK)
    if not last.exists():
        return State("running" if running else "open")
    try:
        manifest = checkpoint.load(last)[1]
    except ValueError:
        return State("damaged")
    progress: dict[str, Any] = manifest["progress"]
    step, steps = progress["step"], manifest["fit"]["steps"]
    done = step == steps or progress["stopped"] == "patience"
    word = "running" if running else "done" if done else "stopped"
    return State(word, f"{step}/{steps}", progress["headline"] or "–")


class Queue:
    """Trainings that are run one after another, until there is no time left or somebody says stop.

    Args:
        out: Folder that holds their folders.
        minutes: Minutes for all of them together; no limit by default.
        options: Further options of `quickstudy train` for each.
    """

    def __init__(self, out: Path, minutes: float | None = None, options: Sequence[str] = ()) -> None:
        self.out, self.options = out, options
        self.end = time.monotonic() + 60 * minutes if minutes else None
        self.stopped = False
        self.child: subprocess.Popen[str] | None = None

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Let the running training save and stop, and begin no other; also what signals call."""
        let_go_of_terminal(number)
        again, self.stopped = self.stopped and number not in (0, signal.SIGINT), True
        if self.child and self.child.poll() is None and not again:  # some send the others several times
            self.child.send_signal(signal.SIGINT)

    def run(self, training: Training) -> str:
        """Begin a training or go on with it.

        Returns:
            One line that says how it went: it begins with "failed" if it did.
        """
        before = state(training, self.out)
        if before.word in ("done", "running", "no recipe"):
            return before.word
        if before.word == "damaged":
            return f"failed: {self.out / training.name / 'last.safetensors'} is damaged; restore or delete it"
        folder = self.out / training.name
        folder.mkdir(parents=True, exist_ok=True)
        command = training.command(self.out, self.options)
        with (folder / "train.log").open("a") as log:
            if not files.lock(log):
                return "running"
            log.write(f"$ {' '.join(command[1:])}\n")
            log.flush()
            # a session of its own: Ctrl-C on a terminal would reach it twice, and the second says at once
            self.child = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                env=dict(os.environ) | {"OMP_NUM_THREADS": "1"},
            )
        if self.stopped:  # by a signal before there was a child
            self.stop()
        try:
            code = self.child.wait(None if self.end is None else max(self.end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self.stop()
            code = self.child.wait()
        after = state(training, self.out)
        told = f"{after.word}, {after.steps} steps, validation {after.validation}"
        if after.word == "done" or self.stopped:
            return told
        return f"failed with exit code {code} ({told}): see {folder / 'train.log'}"

    def run_all(self, trainings: Sequence[Training]) -> int:
        """Run all of them, as far as time goes; the number of those that failed.

        SIGINT, SIGTERM and SIGHUP call `stop` meanwhile; a second SIGINT ends the running training without
        saving. The first two are handled even where they were ignored, so children heed them, too.
        """
        heeded = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, self.stop) for number in heeded}
        failed = 0
        try:
            for training in trainings:
                if self.stopped or (self.end is not None and time.monotonic() >= self.end):
                    break
                print(f"{training.name} …", flush=True)
                went = self.run(training)
                failed += went.startswith("failed")
                print(f"{training.name}: {went}", flush=True)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return failed


def listing(groups: Sequence[str], names: Sequence[str], out: Path) -> list[str]:
    """Lines of at most 80 columns: how far each training is, and the hours that are estimated for it."""
    lines = [f"  {'training':33} {'state':9} {'steps':>13} {'validation':>12} hours"]
    for group in groups:
        for training in chosen([group], names):
            now = state(training, out)
            figures = f"{now.steps:>13} {now.validation[:12]:>12} {training.hours:>5.1f}"
            lines.append(f"{group} {training.name[:33]:33} {now.word:9} {figures}")
    return lines


def chosen(groups: Sequence[str], names: Sequence[str]) -> list[Training]:
    """Trainings of these groups, in order; only those with these names if there are any."""
    return [t for group in groups for t in GROUPS[group] if not names or t.name in names]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--group", nargs="+", choices=GROUPS, default=list(GROUPS), help="in this order")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of all trainings")
    parser.add_argument("--minutes", type=float, help="stop after so long; call again to go on")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="only these trainings")
    parser.add_argument("--list", action="store_true", help="say how far each is, and train nothing")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--precision", help="instead of the recipes'")
    options = parser.parse_args()
    known = {training.name for training in chosen(options.group, ())}
    if unknown := [name for name in options.only if name not in known]:
        parser.error(f"there is no training {' or '.join(unknown)}: --list says which there are")
    if options.list:
        print("\n".join(listing(options.group, options.only, options.out)))
        return
    extra = ["--accelerator", options.accelerator]
    extra += ["--precision", options.precision] if options.precision else []
    queue = Queue(options.out, options.minutes, extra)
    failed = queue.run_all(chosen(options.group, options.only))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
