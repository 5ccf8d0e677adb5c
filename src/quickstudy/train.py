"""fit and evaluate: the loop, on the page."""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from quickstudy import checkpoint
from quickstudy.data.episodes import Episodes
from quickstudy.episode import Episode
from quickstudy.learner import Learner, batch_statistics
from quickstudy.metrics import Score, accuracies, mean_ci95

Mode = Literal["inductive", "transductive"]
Keep = Literal["best", "last"]
Schedule = Callable[[int], float]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Batches(Protocol):
    """An endless sequence of meta-batches: `Episodes`, `Sinusoids`, or your own."""

    @property
    def tasks(self) -> int:
        """T, tasks in a meta-batch."""
        ...

    @property
    def seed(self) -> int:
        """Of the draws."""
        ...

    def on(self, device: torch.device | str) -> "Batches":
        """The same on another device."""
        ...

    def part(self, i: int, rank: int = 0, world: int = 1) -> Any:
        """The tasks of meta-batch i that fall to process `rank` of `world`: what the model takes."""
        ...


class Trials(Batches, Protocol):
    """Meta-batches to measure a learner on: `Episodes`, `WithinAlphabets`, or your own."""

    @property
    def setting(self) -> object:
        """What figures on them are labelled with, such as 5w1s."""
        ...

    def on(self, device: torch.device | str) -> "Trials":
        """The same on another device."""
        ...

    def part(self, i: int, rank: int = 0, world: int = 1) -> Episode:
        """The tasks of meta-batch i that fall to process `rank` of `world`."""
        ...


class Verdict(Protocol):
    """What a validation found: a `Score`, or your own."""

    @property
    def goodness(self) -> float:
        """By which weights are selected: higher is better."""
        ...

    def __str__(self) -> str:
        """In words."""
        ...

    @property
    def headline(self) -> str:
        """In few words, for a progress bar."""
        ...

    def logged(self) -> dict[str, float]:
        """For a line of the log."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        ...


@runtime_checkable
class Carries(Protocol):
    """A model that goes on from one step where it stopped in the one before."""

    def carried(self) -> dict[str, Tensor]:
        """What it goes on with, for a checkpoint."""
        ...

    def carry_on(self, tensors: Mapping[str, Tensor]) -> None:
        """The way back from `carried`."""
        ...


class Reporter(Protocol):
    """What a progress bar is told."""

    def __call__(self, step: int, report: dict[str, Any]) -> None:
        """After a step, with what is new: loss, validation, tasks_per_second, …."""
        ...


@dataclass
class Progress:
    """How far a training has come: all that `last.safetensors` holds beside weights and optimizer.

    Args:
        step: steps done.
        seconds: spent on them, over all sessions.
        best: goodness of the validation whose weights are kept: the highest so far, or the last.
        best_step: when that was; 0 before the first.
        stale: validations since then.
        stopped: why it stopped: "finished", "minutes", "patience" or "interrupted".
        score: the validation behind `best`, whole.
        headline: the same in few words.
        losses: of the steps since the last log line.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_step: int = 0
    stale: int = 0
    stopped: str = ""
    score: dict[str, Any] = field(default_factory=dict[str, Any])
    headline: str = ""
    losses: list[float] = field(default_factory=list[float])

    def judge(self, verdict: Verdict, keep: Keep = "best") -> bool:
        """Take note of a validation; whether its weights are to be kept instead of those kept so far."""
        # a first verdict that is nan, of which nothing is greater, must not stay the best
        better = (
            keep == "last"
            or verdict.goodness > self.best
            or (math.isnan(self.best) and not math.isnan(verdict.goodness))
        )
        if self.best_step and not better:
            self.stale += 1
            return False
        self.best, self.best_step, self.stale = verdict.goodness, self.step, 0
        self.score, self.headline = verdict.as_dict(), verdict.headline
        return True


def halve_every(steps: int) -> Schedule:
    """The learning rate's multiplier ½^⌊step / steps⌋, as in the prototypical networks paper."""
    return lambda step: 0.5 ** (step // steps)


def cosine(steps: int, warmup: int = 0) -> Schedule:
    """A multiplier that rises linearly over `warmup` steps and then falls to 0 along a half cosine."""

    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return at


def linear(steps: int) -> Schedule:
    """A multiplier that falls linearly from 1 to 0, as Reptile's outer step does."""
    return lambda step: 1 - step / steps


def restarted(steps: int) -> Schedule:
    """A cosine over two thirds of the steps, then another from half the height; both warmed up."""
    first = steps * 2 // 3
    one, two = cosine(first, warmup=100), cosine(steps - first, warmup=100)
    return lambda step: one(step) if step < first else 0.5 * two(step - first)


def adam(lr: float = 1e-3) -> MakeOptimizer:
    """Adam with the given learning rate."""
    return lambda parameters: torch.optim.Adam(parameters, lr)


def sgd(lr: float = 1.0) -> MakeOptimizer:
    """Plain gradient descent with the given learning rate."""
    return lambda parameters: torch.optim.SGD(parameters, lr)


def fit(
    learner: nn.Module,
    episodes: Batches,
    steps: int,
    *,
    optimizer: MakeOptimizer | None = None,
    schedule: Schedule = lambda step: 1.0,
    validation: Episodes | Callable[[], Verdict] | None = None,
    validation_episodes: int = 200,
    validation_mode: Mode = "inductive",
    keep: Keep = "best",
    every: int = 250,
    patience: int | None = None,
    minutes: float | None = None,
    clip: float | None = None,
    fabric: Fabric | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    manifest: checkpoint.Manifest | None = None,
    report: Reporter | None = None,
) -> Progress:
    """Train a learner on episodes, and leave it with its best weights, or its last.

    Step i draws meta-batch i, and randomness inside the model from (seed, i): a training that was stopped
    anywhere and resumed gives what it would have given without the stop, bit for bit.

    Args:
        learner: a `Learner`, or any module that makes a loss of a meta-batch; changed in place.
        episodes: what to train on, one meta-batch a step.
        steps: how many.
        optimizer: makes one from the parameters; Adam with learning rate 1e-3 by default.
        schedule: multiplies the learning rate of each step.
        validation: episodes of validation classes, or a function that judges the weights as they are; the
            best weights by it are kept. Without it the last are.
        validation_episodes: how many of its tasks each validation takes.
        validation_mode: as in `evaluate`.
        keep: which weights are left, those of the best validation or of the last: the latter where validation
            classes are trained on too, and there is nothing to choose by.
        every: steps between validations; log line and checkpoint are written then too.
        patience: stop after so many validations without a better one.
        minutes: stop after so long; can be resumed, for as long again.
        clip: largest norm of the gradient.
        fabric: device, precision and processes; one CPU or accelerator in float32 by default.
        out: folder for `best.safetensors`, `last.safetensors` and `log.jsonl`; nothing is written without.
        resume: go on from `out/last.safetensors` if it is there.
        manifest: goes into the checkpoints.
        report: told the news after every step.

    Returns:
        How far it came and why it stopped: "finished", "minutes" or "patience".

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the step has been ended and saved; a second Ctrl-C won't wait.
        FloatingPointError: if the loss is not finite; no checkpoint is written from then on.
        ValueError: if tasks can't be shared out equally among the processes, there is a training in `out`
            already and `resume` is not asked for, or there is patience and the last weights are to be kept.
        OSError: if `out` can't be written.
    """
    fabric = fabric or Fabric(devices=1)
    rank, world = fabric.global_rank, fabric.world_size
    if episodes.tasks % world:
        raise ValueError(
            f"{episodes.tasks} tasks a step can't be shared by {world} processes: "
            f"choose a multiple of {world}"
        )
    if patience and keep == "last":
        raise ValueError("there is no better validation to have patience for where the last weights are kept")
    run = Run(Path(out), manifest or {}) if out else None
    learner.to(fabric.device)  # first, so that a resumed optimizer's state goes there as well
    bare = (optimizer or adam())(learner.parameters())
    rates = [group["lr"] for group in bare.param_groups]
    if isinstance(learner, Carries):
        learner.carry_on({})  # nothing of an earlier training
    progress = run.begin(learner, bare, resume, write=rank == 0) if run else Progress()
    fabric.barrier()
    best_weights = run.best_weights() if run and progress.best_step else None
    model, wrapped = fabric.setup(learner, bare)
    episodes, before = episodes.on(fabric.device), progress.seconds
    started = time.monotonic() - before
    if progress.stopped != "patience":
        progress.stopped = ""

    learner.train()
    with _interruptible() as interrupted:
        while progress.step < steps and not progress.stopped:
            step = progress.step
            torch.manual_seed(hash((episodes.seed, step, rank)) % 2**63)
            for group, rate in zip(bare.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step)
            episode = episodes.part(step, rank, world)
            wrapped.zero_grad()
            loss: Tensor = model(episode)
            fabric.backward(loss)
            if clip:
                try:
                    fabric.clip_gradients(model, wrapped, max_norm=clip)
                except RuntimeError:  # which is how torch says that the norm is not finite
                    raise FloatingPointError(_blown_up("gradient", "not finite", step, run)) from None
            wrapped.step()

            news = torch.tensor([loss.item(), time.monotonic() - started, interrupted()], dtype=torch.float64)
            if world > 1:
                average_buffers(fabric, learner)
                news = _mean(fabric, news)
            value, progress.seconds, stop = news.tolist()
            if not math.isfinite(value):
                raise FloatingPointError(_blown_up("loss", value, step, run))
            progress.step += 1
            progress.losses.append(value)
            new: dict[str, Any] = {
                "loss": value,
                "tasks_per_second": progress.step * episodes.tasks / progress.seconds,
            }
            last = progress.step == steps
            if stop:
                progress.stopped = "interrupted"
            elif minutes and progress.seconds - before >= 60 * minutes and not last:
                progress.stopped = "minutes"
            if progress.step % every == 0 or last:
                if validation:
                    if callable(validation):
                        verdict = validation()
                    else:
                        verdict = evaluate(
                            cast(Learner, learner),
                            validation,
                            validation_episodes,
                            validation_mode,
                            fabric=fabric,
                        )
                    new["validation"] = verdict
                    if progress.judge(verdict, keep):
                        best_weights = {k: v.clone() for k, v in learner.state_dict().items()}
                        if run and rank == 0:
                            run.save_best(best_weights, progress)
                    if patience and progress.stale >= patience and not progress.stopped:
                        progress.stopped = "patience"
                progress.seconds = time.monotonic() - started
                if run and rank == 0:
                    run.log(progress, bare.param_groups[0]["lr"], new)
                progress.losses.clear()
            if run and rank == 0 and (progress.step % every == 0 or last or progress.stopped):
                run.save_last(learner, bare, progress)
            if report:
                report(progress.step, new)

    if progress.stopped == "interrupted":
        raise KeyboardInterrupt
    progress.stopped = progress.stopped or "finished"
    if best_weights:
        learner.load_state_dict(best_weights)
    elif run and rank == 0:
        run.save_best(learner.state_dict(), progress)
    learner.eval()
    fabric.barrier()
    return progress


def _blown_up(what: str, value: object, step: int, run: "Run | None") -> str:
    saved = run is not None and run.last.exists()
    kept = f"the last good weights are in {run.folder}" if run and saved else "nothing was saved"
    return f"the {what} became {value} at step {step + 1}; {kept}; lower the learning rate or clip gradients"


@torch.no_grad()
def evaluate(
    learner: Learner,
    episodes: Trials,
    count: int = 1000,
    mode: Mode = "inductive",
    *,
    fabric: Fabric | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Score:
    """Mean accuracy of a learner over the first `count` tasks of `episodes`.

    Args:
        learner: left in the state (training or not) it was in.
        episodes: of classes the learner has never seen.
        count: n, tasks.
        mode: "inductive": each query is told alone, batch norm uses the running statistics of training.
            "transductive": batch norm uses the statistics of the task's support and queries.
        fabric: where several processes share the work; each task is counted once.
        report: called with (tasks done, count).

    Raises:
        ValueError: if count < 1 or the mode is unknown.
    """
    rank, world = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    with evaluation(learner, count, mode):
        episodes = episodes.on(learner.device)
        right = torch.zeros(count + episodes.tasks)
        for i in range(math.ceil(count / episodes.tasks)):
            mine = slice(i * episodes.tasks + rank, (i + 1) * episodes.tasks, world)
            if len(right[mine]):
                episode = episodes.part(i, rank, world)
                scores = learner.predict(episode.support, episode.query_x)
                right[mine] = accuracies(scores, episode.query_y).cpu()
            if report:
                report(min((i + 1) * episodes.tasks, count), count)
    if fabric and world > 1:
        right = _sum(fabric, right)
    accuracy, ci95 = mean_ci95(right[:count])
    return Score(accuracy, ci95, count, episodes.seed, str(episodes.setting), mode)


@contextmanager
def evaluation(learner: Learner, count: int, mode: Mode) -> Generator[None]:
    """Let batch norm see what `mode` says, as in `evaluate`, and leave the learner in the state it was in.

    Raises:
        ValueError: if count < 1 or the mode is unknown.
    """
    if count < 1 or mode not in ("inductive", "transductive"):
        raise ValueError(f"count is {count} and mode {mode!r}: count ≥ 1, mode 'inductive' or 'transductive'")
    statistics: AbstractContextManager[None] = (
        batch_statistics(learner) if mode == "transductive" else nullcontext()
    )
    training = learner.training
    learner.eval()
    try:
        with statistics:
            yield
    finally:
        learner.train(training)


def average_buffers(fabric: Fabric, learner: nn.Module) -> None:
    """Average batch norm's running statistics over the processes: what one process would have."""
    buffers = [b for b in learner.buffers() if b.is_floating_point()]
    if buffers:
        mean = _mean(fabric, torch.cat([b.flatten() for b in buffers]))
        for b, part in zip(buffers, mean.split([b.numel() for b in buffers]), strict=True):
            b.copy_(part.view_as(b))


def _sum(fabric: Fabric, x: Tensor) -> Tensor:
    """Sum over the processes."""
    total: Any = fabric.all_reduce(x, reduce_op="sum")
    return total.cpu()


def _mean(fabric: Fabric, x: Tensor) -> Tensor:
    """Mean over the processes, on the device and in the shape of `x`."""
    mean: Any = fabric.all_reduce(x, reduce_op="mean")
    return mean


class Run:
    """The folder of a training: `best.safetensors`, `last.safetensors`, `log.jsonl`."""

    def __init__(self, folder: Path, manifest: checkpoint.Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.best, self.last, self.log_path = (
            folder / "best.safetensors",
            folder / "last.safetensors",
            folder / "log.jsonl",
        )

    def begin(
        self, learner: nn.Module, optimizer: torch.optim.Optimizer, resume: bool, write: bool
    ) -> Progress:
        """Take up the training that lies here, or make sure that none does and that we can write."""
        if self.last.exists():
            if not resume:
                raise ValueError(
                    f"{self.folder} holds a training already: "
                    "add --resume to go on with it, or name another --out"
                )
            tensors, manifest = checkpoint.load(self.last)
            self._check_same(manifest)
            checkpoint.load_weights(learner, checkpoint.without_prefix("learner.", tensors), str(self.last))
            checkpoint.unpack_optimizer(
                optimizer, checkpoint.without_prefix("optimizer.", tensors), manifest["optimizer"]
            )
            if isinstance(learner, Carries):
                learner.carry_on(checkpoint.without_prefix("carried.", tensors))
            progress = Progress(**manifest["progress"])
        else:
            progress = Progress()
        if write:
            kept = [line for line in read_log(self.log_path) if line["step"] <= progress.step]
            checkpoint.write_whole(self.log_path, "".join(f"{json.dumps(line)}\n" for line in kept).encode())
        return progress

    def _check_same(self, before: checkpoint.Manifest) -> None:
        """A resumed training must be the same training, or its figures would belong to neither."""
        was, now = _flat(before), _flat(self.manifest)
        for key in now:
            if key != "version" and was.get(key) != now[key]:
                raise ValueError(
                    f"{self.folder} holds a training with {key} {was.get(key)}, not {now[key]}: "
                    "resume it with the same options, or name another --out"
                )

    def best_weights(self) -> dict[str, Tensor]:
        """Of the best checkpoint so far."""
        return checkpoint.load(self.best)[0]

    def save_best(self, weights: dict[str, Tensor], progress: Progress) -> None:
        """Write the checkpoint that people use."""
        trained = {
            "steps": progress.step,
            "minutes": round(progress.seconds / 60, 2),
            "validation": progress.score,
        }
        checkpoint.save(self.best, weights, self.manifest | {"training": trained})

    def save_last(self, learner: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write all that resuming takes."""
        state, groups = checkpoint.pack_optimizer(optimizer)
        tensors = checkpoint.prefixed("learner.", learner.state_dict()) | checkpoint.prefixed(
            "optimizer.", state
        )
        if isinstance(learner, Carries):
            tensors |= checkpoint.prefixed("carried.", learner.carried())
        checkpoint.save(
            self.last, tensors, self.manifest | {"progress": asdict(progress), "optimizer": groups}
        )

    def log(self, progress: Progress, lr: float, new: dict[str, Any]) -> None:
        """One line of the log."""
        verdict: Verdict | None = new.get("validation")
        loss = sum(progress.losses) / len(progress.losses)
        line = {"step": progress.step, "loss": loss, "lr": lr}
        line |= verdict.logged() if verdict else {}
        line |= {"tasks_per_second": round(new["tasks_per_second"], 2), "seconds": round(progress.seconds, 1)}
        try:
            with self.log_path.open("a") as f:
                f.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OSError(f"can't write {self.log_path} ({error.strerror}): free some space") from None


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a training's `log.jsonl`, without a last one that a power cut left half written.

    Raises:
        ValueError: if any other line isn't one of a training's log.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    read: list[dict[str, float]] = []
    for number, line in enumerate(lines, start=1):
        try:
            read.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, is not JSON: mend or delete it") from None
    return read


def _flat(manifest: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in manifest.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


@contextmanager
def _interruptible() -> Generator[Callable[[], bool]]:
    """Tell the block that Ctrl-C was pressed instead of stopping it anywhere; a second one does stop it."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
