"""fit: the training loop, on the page."""

import math
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from quickstudy.core import checkpoint
from quickstudy.core.episode import Batches, Trials
from quickstudy.core.learner import Learner, modes_kept, training_mode
from quickstudy.core.scores import Mode, Verdict
from quickstudy.core.seeds import derived_seed, generators_kept, seed_generators
from quickstudy.training.evaluate import evaluate
from quickstudy.training.run_folder import Carries, Keep, Progress, Run, facts_of
from quickstudy.training.schedules import MakeOptimizer, Schedule, adam


class Reporter(Protocol):
    """What a progress bar is told."""

    def __call__(self, step: int, report: dict[str, Any]) -> None:
        """After a step, with what is new: loss, validation, tasks_per_second, …."""
        ...


def fit(
    learner: nn.Module,
    episodes: Batches,
    steps: int,
    *,
    optimizer: MakeOptimizer | None = None,
    schedule: Schedule = lambda step: 1.0,
    validation: Trials | Callable[[], Verdict] | None = None,
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
    saved: nn.Module | None = None,
    report: Reporter | None = None,
) -> Progress:
    """Train a learner on episodes, and leave it with its best weights, or its last.

    Step i draws meta-batch i, and randomness inside the model from (seed, i): a training that was stopped
    anywhere and resumed gives what it would have given without the stop, bit for bit. The seed is that of
    `episodes`; torch's, numpy's and Python's global generators are left as they were, and so is the mode of
    each module, training or not.

    Args:
        learner: A `Learner`, or any module that makes a loss of a meta-batch; its weights change in place.
            What is frozen stays in evaluation mode: submodules that are in it while the learner is not, and
            those with parameters of which none requires a gradient.
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
        resume: Whether to go on from `out/last.safetensors` if it is there.
        manifest: Further facts for the checkpoints, beside those that `fit` knows: under "fit" the data,
            tasks and seed of training and validation, steps, optimizer, schedule, clip and precision, and
            under "classes" the names and digests of the classes.
        saved: Module whose `state_dict` the checkpoints hold, and which gets the best weights in the end; it
            must share the learner's parameters. The learner itself by default.
        report: told the news after every step.

    Returns:
        How far it came and why it stopped: "finished", "minutes" or "patience".

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the step has been ended and saved; a second Ctrl-C won't wait.
        FloatingPointError: if the loss or the weights are not finite; no checkpoint is written from then on.
        ValueError: if tasks can't be shared out equally among the processes, there is a training in `out`
            already and `resume` is not asked for, `resume` is asked for without `out` or of a training that
            differs in what the manifest states, there is patience and the last weights are to be kept, or
            `saved` doesn't share the learner's parameters.
        OSError: if `out` can't be written.
    """
    fabric = fabric or Fabric(devices=1)
    rank, world = fabric.global_rank, fabric.world_size
    if episodes.tasks % world:
        raise ValueError(
            f"{episodes.tasks} tasks a step can't be shared by {world} processes: "
            f"choose a multiple of {world}"
        )
    if resume and not out:
        raise ValueError("there is nothing to resume without a folder: name it, out=...")
    if patience and keep == "last":
        raise ValueError("there is no better validation to have patience for where the last weights are kept")
    saved = learner if saved is None else saved
    if not set(learner.parameters()) <= set(saved.parameters()):
        raise ValueError(
            f"saved, a {type(saved).__name__}, lacks parameters of the learner: build it around it"
        )
    learner.to(fabric.device)  # first, so that a resumed optimizer's state goes there as well
    saved.to(fabric.device)
    bare = (optimizer or adam())(learner.parameters())
    run = None
    if out:
        stated = facts_of(
            learner,
            episodes,
            steps,
            bare,
            schedule,
            validation,
            validation_episodes=validation_episodes,
            validation_mode=validation_mode,
            keep=keep,
            every=every,
            clip=clip,
            precision=fabric.strategy.precision.precision,
        )
        given = manifest or {}
        classes = {"classes": stated["classes"] | given.get("classes", {})}
        run = Run(Path(out), given | stated | classes)
    rates = [group["lr"] for group in bare.param_groups]
    if isinstance(learner, Carries):
        learner.carry_on({})  # nothing of an earlier training
    progress = run.begin(learner, bare, resume, write=rank == 0, saved=saved) if run else Progress()
    fabric.barrier()
    best_weights = run.best_weights() if run and progress.best_step else None
    model, wrapped = fabric.setup(learner, bare)
    episodes, before = episodes.on(fabric.device), progress.seconds
    started = time.monotonic() - before
    progress.stopped = "patience" if patience and progress.stale >= patience else ""

    with generators_kept(), modes_kept(learner), _interruptible() as interrupted:
        training_mode(learner)
        while progress.step < steps and not progress.stopped:
            step = progress.step
            seed_generators(derived_seed(episodes.seed, step, rank))
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
            whole = progress.step % every == 0 or last
            if (whole or progress.stopped) and not all(p.isfinite().all() for p in learner.parameters()):
                raise FloatingPointError(_blown_up("weights", "not finite", step, run))
            if whole:
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
                        best_weights = {k: v.clone() for k, v in saved.state_dict().items()}
                        if run and rank == 0:
                            run.save_best(best_weights, progress)
                    if patience and progress.stale >= patience and not progress.stopped:
                        progress.stopped = "patience"
                progress.seconds = time.monotonic() - started
                if run and rank == 0:
                    run.log(progress, bare.param_groups[0]["lr"], new)
                progress.losses.clear()
            if run and rank == 0 and (whole or progress.stopped):
                run.save_last(learner, bare, progress, saved)
            if report:
                report(progress.step, new)

    if progress.stopped == "interrupted":
        raise KeyboardInterrupt
    progress.stopped = progress.stopped or "finished"
    if best_weights:
        saved.load_state_dict(best_weights)
    elif run and rank == 0:
        run.save_best(saved.state_dict(), progress)
    fabric.barrier()
    return progress


def _blown_up(what: str, value: object, step: int, run: "Run | None") -> str:
    saved = run is not None and run.last.exists()
    kept = f"the last good weights are in {run.folder}" if run and saved else "nothing was saved"
    return f"the {what} became {value} at step {step + 1}; {kept}; lower the learning rate or clip gradients"


def average_buffers(fabric: Fabric, learner: nn.Module) -> None:
    """Average batch norm's running statistics over the processes: what one process would have."""
    buffers = [b for b in learner.buffers() if b.is_floating_point()]
    if buffers:
        mean = _mean(fabric, torch.cat([b.flatten() for b in buffers]))
        for b, part in zip(buffers, mean.split([b.numel() for b in buffers]), strict=True):
            b.copy_(part.view_as(b))


def _mean(fabric: Fabric, x: Tensor) -> Tensor:
    """Mean over the processes, on the device and in the shape of `x`."""
    mean: Any = fabric.all_reduce(x, reduce_op="mean")
    return mean


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
