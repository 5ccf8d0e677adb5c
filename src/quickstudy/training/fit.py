"""`fit`, the training loop."""

import copy
import math
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast, get_args

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from quickstudy.core import checkpoint
from quickstudy.core.arguments import check_positive, check_whole, checked
from quickstudy.core.episode import Batches, Trials
from quickstudy.core.learner import Learner, modes_kept, training_mode
from quickstudy.core.modes import Mode
from quickstudy.core.progress import Reporter, Terminal, somebody_watches
from quickstudy.core.scores import ValidationResult
from quickstudy.core.seeds import derived_seed, generators_kept, seed_generators
from quickstudy.core.stopping import Stopped, signals_noted
from quickstudy.data.own_tasks import OwnTasks, TaskSource, as_batches, validates
from quickstudy.data.pool import ClassPool
from quickstudy.training.averaging import WeightAverage
from quickstudy.training.card import put_card
from quickstudy.training.contracts import (
    check_batches,
    check_made,
    check_optimizer,
    check_schedule,
    check_trainable,
    check_ways,
    meta_loss,
    said_of_encoders,
)
from quickstudy.training.evaluate import check_queries, evaluate
from quickstudy.training.run_folder import Keep, Run, TrainingState, alone_in, facts_of, unroll_state_of
from quickstudy.training.schedules import MakeOptimizer, Schedule

TRAINING_SEED, VALIDATION_SEED = 0, 1
"""Seeds of tasks of one's own that are given as they are."""

P = ParamSpec("P")
T = TypeVar("T")


def _alone_in_its_folder(fit: Callable[P, T]) -> Callable[P, T]:
    """The function, with a lock on its folder."""

    @wraps(fit)
    def alone(*args: P.args, **options: P.kwargs) -> T:
        out: Any = options.get("out")
        fabric: Any = options.get("fabric")
        with alone_in(out, fabric):
            return fit(*args, **options)

    return alone


@checked
@_alone_in_its_folder
def fit(
    learner: nn.Module,
    episodes: Batches | TaskSource,
    steps: int,
    *,
    optimizer: MakeOptimizer | None = None,
    schedule: Schedule = lambda step: 1.0,
    validation: Trials | TaskSource | Callable[[], ValidationResult] | None = None,
    validation_episodes: int = 200,
    validation_mode: Mode = "inductive",
    keep: Keep = "best",
    every: int = 250,
    patience: int | None = None,
    minutes: float | None = None,
    clip: float | None = None,
    ema_decay: float | None = None,
    fabric: Fabric | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    manifest: checkpoint.Manifest | None = None,
    saved: nn.Module | None = None,
    report: Reporter | None = None,
    show_progress: bool | None = None,
) -> TrainingState:
    """Train a learner on episodes. In the end it has its best weights, or its last ones.

    A second `fit` of the same learner begins at step 0 again, and so sees the same meta-batches: give its
    `episodes` another `seed` to go on with new ones, or call it once with more steps (`out=` and
    `resume=True` go on after an interruption). Optimizer and schedule begin anew as well.

    `fit` is not for several threads: no other may use the learner, or another that shares its modules,
    meanwhile.

    Step i draws meta-batch i, and seeds the randomness inside the model by (seed, i), where the seed is that
    of `episodes`. So a training run that was stopped at any step and resumed gives the same result as one
    without the stop, bit for bit. The global random generators of torch, numpy and Python, and the mode of
    each module, training or evaluation, are restored afterwards.

    Args:
        learner: `Learner`, or any module from a meta-batch to a loss; its weights change in place. Frozen
            submodules stay in evaluation mode, as `training_mode` defines them.
        episodes: Sequence of meta-batches to train on, one per step; `LabelledBatches` for a
            `PlainClassifier`; for tasks of your own a function from i to an `Episode`, a list or a generator,
            as in `OwnTasks`, or any class with the methods of `Batches`.
        steps: Number of steps, at least 1.
        optimizer: Function from the parameters to their optimizer; Adam with learning rate 1e-3 by default.
        schedule: Function from the number of a step to a factor of the learning rate.
        validation: Episodes of validation classes, tasks of your own, or a function without arguments that
            validates the current weights. The weights with the best validation are kept; without validation,
            the last.
        validation_episodes: Number of tasks in each validation on episodes.
        validation_mode: Input of batch norm in validation, "inductive", "transductive" or "authors", as in
            `evaluate`.
        keep: Weights to keep: "best", those of the best validation, or "last", for training that includes
            the validation classes, so that validation cannot select weights.
        every: Number of steps between validations, at least 1; a log line and a checkpoint are written then,
            too.
        patience: Number of validations without improvement after which training stops; never by default.
        minutes: Minutes after which training stops, and the weights it ends with are validated; it can be
            resumed for as many minutes again, as if there had been neither stop nor that validation.
        clip: Largest norm of the gradient, to which a larger one is scaled down; no clipping by default.
        ema_decay: Decay d of an exponential moving average of the weights after each step, running statistics
            included, as `WeightAverage` defines it: that of about the last 1 / (1 − d) steps. It is what is
            validated, kept and left in the learner, while training goes on with the weights themselves. No
            average by default.
        fabric: Fabric with device, precision and processes; one CPU or accelerator in float32 by default.
        out: Folder for `best.safetensors`, `last.safetensors` and `log.jsonl`; by default nothing is written.
        resume: Whether to continue from `out/last.safetensors` if it exists.
        manifest: Further facts for the manifests of the checkpoints. `fit` itself states, under "fit", the
            data, tasks and seeds of training and validation, steps, optimizer, schedule, clip, ema_decay and
            precision, under "classes" the names and digests of the classes, and under "seen" digests of the
            items.
        saved: Module whose `state_dict` is written to the checkpoints, and which gets the best weights in the
            end; it must share the learner's parameters. The learner itself by default.
        report: Callback after every step, such as a progress bar.
        show_progress: Whether progress is shown on standard error: a bar on a terminal, elsewhere a line at
            the first step and every half minute. By default it is on a terminal and in a notebook, unless
            there is a `report`.

    Returns:
        Progress of the training run, with the reason why it stopped: "finished", "minutes" or "patience".

    Raises:
        KeyboardInterrupt: On Ctrl-C, SIGTERM or SIGHUP, after the present step was finished and saved, as
            `Stopped`, which has the signal's number; at once on a second Ctrl-C.
        TypeError: If the learner, the episodes, the optimizer or the schedule is something else; the message
            says what is taken.
        FloatingPointError: If the loss or the weights are not finite; no checkpoint is written after that.
        ValueError: If a number is out of range, or no parameter requires a gradient; if tasks can't be
            divided equally among the processes; if `out` already holds a training
            run and `resume` is False; if `resume` is True without `out`, or for a run with other facts in its
            manifest; if `patience` is combined with keep="last"; if `validation` has several queries a class
            and `validation_mode` is "authors"; if `ema_decay` is out of range; or if `saved` doesn't share
            the learner's parameters.
        OSError: If a file in `out` can't be written.
    """
    check_trainable(learner)
    episodes = cast(Batches, as_batches(episodes, TRAINING_SEED))
    check_batches("episodes", episodes)
    check_ways(learner, episodes)
    check_optimizer(optimizer)
    check_schedule(schedule)
    check_whole(steps=steps, every=every, validation_episodes=validation_episodes, patience=patience)
    check_positive(minutes=minutes, clip=clip)
    if keep not in get_args(Keep):
        raise ValueError(f"keep is {keep!r}: it must be 'best' or 'last'")
    validation = _validation(validation, validation_episodes, learner)
    if isinstance(episodes, OwnTasks):
        episodes.check_enough(steps)
    fabric = fabric or Fabric(devices=1)
    rank, world = fabric.global_rank, fabric.world_size
    if episodes.tasks % world:
        raise ValueError(
            f"{episodes.tasks} tasks or items per step can't be shared by {world} processes: "
            f"choose a multiple of {world}"
        )
    if resume and not out:
        raise ValueError("there is nothing to resume without a folder: name it by out=...")
    if patience and keep == "last":
        raise ValueError("patience needs the best validation, which keep='last' ignores: drop one of the two")
    if validation and not callable(validation):
        check_queries(validation, validation_mode)
    saved = learner if saved is None else saved
    if not set(learner.parameters()) <= set(saved.parameters()):
        raise ValueError(
            f"saved, a {type(saved).__name__}, lacks parameters of the learner: build it around the learner"
        )
    learner.to(fabric.device)  # first, so that a resumed optimizer's state goes there as well
    saved.to(fabric.device)
    bare = (optimizer or torch.optim.Adam)(learner.parameters())
    check_made(bare)
    average = None if ema_decay is None else WeightAverage(learner, ema_decay)
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
            ema_decay=ema_decay,
            precision=fabric.strategy.precision.precision,
        )
        given = manifest or {}
        both = {key: stated[key] | given.get(key, {}) for key in ("classes", "seen")}
        run = Run(Path(out), given | stated | both)
    rates = [group["lr"] for group in bare.param_groups]
    if unroll_state := unroll_state_of(learner):
        unroll_state.load_state_dict({})  # no state of an earlier training run
    progress = TrainingState()
    if run:
        progress = run.begin(learner, bare, resume, write=rank == 0, saved=saved, average=average)
    fabric.barrier()
    best_weights = run.best_weights() if run and progress.best_step else None
    model, wrapped = fabric.setup(learner, bare)

    def validated() -> tuple[ValidationResult, dict[str, Tensor]]:
        """The result of a validation, and the weights that it is of."""
        with average.applied() if average else nullcontext():
            if callable(validation):
                result = validation()
            else:
                tasks, of = cast(Trials, validation), cast(Learner, learner)
                result = evaluate(
                    of, tasks, validation_episodes, validation_mode, fabric=fabric, comparable=False
                )
            return result, {k: v.clone() for k, v in saved.state_dict().items()}

    episodes, before = episodes.on(fabric.device), progress.seconds
    if getattr(learner, "item_format", None) is not None:  # it was loaded, and learns other items now
        vars(learner)["item_format"] = getattr(getattr(episodes, "pool", None), "item_format", None)
    started = time.monotonic() - before
    progress.stopped = "patience" if patience and progress.stale >= patience else ""
    ended = progress

    with (
        generators_kept(),
        modes_kept(learner),
        signals_noted() as signalled,
        _shown(steps, report, show_progress if rank == 0 else False) as show,
    ):
        training_mode(learner)
        while progress.step < steps and not progress.stopped:
            step = progress.step
            seed_generators(derived_seed(episodes.seed, step, rank))
            for group, rate in zip(bare.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step)
            episode = episodes.part(step, rank, world)
            wrapped.zero_grad()
            with said_of_encoders(learner):
                loss = meta_loss(learner, model(episode))
            fabric.backward(loss)
            if clip:
                try:
                    fabric.clip_gradients(model, wrapped, max_norm=clip)
                except RuntimeError:  # by which torch reports a norm that is not finite
                    raise FloatingPointError(_blown_up("gradient", "not finite", step, run)) from None
            wrapped.step()

            news = torch.tensor([loss.item(), time.monotonic() - started, signalled()], dtype=torch.float64)
            if world > 1:
                average_buffers(fabric, learner)
                news = _mean(fabric, news)
            value, progress.seconds, stop = news.tolist()
            if not math.isfinite(value):
                raise FloatingPointError(_blown_up("loss", value, step, run))
            progress.step += 1
            if average:
                average.update(progress.step)
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
                    new["validation"], weights = validated()
                    if progress.record(new["validation"], keep):
                        best_weights = weights
                        if run and rank == 0:
                            run.save_best(best_weights, progress)
                    if patience and progress.stale >= patience and not progress.stopped:
                        progress.stopped = "patience"
                progress.seconds = time.monotonic() - started
                if run and rank == 0:
                    run.log(progress, bare.param_groups[0]["lr"], new)
                progress.losses.clear()
            if run and rank == 0 and (whole or progress.stopped):
                run.save_last(learner, bare, progress, saved, average)
            if progress.stopped == "minutes" and validation and not whole:
                ended = copy.deepcopy(progress)  # the training that is resumed knows nothing of it
                new["validation"], weights = validated()
                if ended.record(new["validation"], keep):
                    best_weights = weights
                    if run and rank == 0:
                        run.end_with(weights, ended)
            show(progress.step, new)

    if progress.stopped == "interrupted":
        raise Stopped(signalled() or signal.SIGINT)  # another process may have got the signal
    ended.stopped = progress.stopped or "finished"
    if average and progress.step:
        average.apply()
    if best_weights:
        saved.load_state_dict(best_weights)
    elif run and rank == 0:
        run.save_best(saved.state_dict(), progress)
    if run and rank == 0 and isinstance(pool := getattr(validation, "pool", None), ClassPool):
        put_card(run.best, saved, pool)
    fabric.barrier()
    return ended


def _validation(
    given: Trials | TaskSource | Callable[[], ValidationResult] | None, count: int, learner: nn.Module
) -> Trials | Callable[[], ValidationResult] | None:
    """What validates, checked, with tasks of one's own as `OwnTasks`."""
    if given is None or validates(given):
        return given
    tasks = cast(Trials, as_batches(given, VALIDATION_SEED))
    check_batches("validation", tasks)
    check_ways(learner, tasks)
    if isinstance(tasks, OwnTasks):
        tasks.check_enough(math.ceil(count / tasks.tasks), repeated=True)
    return tasks


@contextmanager
def _shown(steps: int, asked_for: Reporter | None, asked: bool | None) -> Generator[Reporter]:
    """Context with a function that reports a step to whom it may concern."""
    if asked is None:
        asked = not asked_for and somebody_watches()
    with Terminal(quiet=not asked).training(steps) as show:

        def tell(step: int, report: dict[str, Any]) -> None:
            show(step, report)
            if asked_for:
                asked_for(step, report)

        yield tell


def _blown_up(what: str, value: object, step: int, run: Run | None) -> str:
    saved = run is not None and run.last.exists()
    kept = f"the last good weights are in {run.folder}" if run and saved else "nothing was saved"
    return f"the {what} became {value} at step {step + 1}; {kept}; lower the learning rate or clip gradients"


def average_buffers(fabric: Fabric, learner: nn.Module) -> None:
    """Average the running statistics of batch norm over the processes, as one process would compute them.

    Args:
        fabric: Fabric of the processes.
        learner: Module whose floating-point buffers are averaged in place.
    """
    buffers = [b for b in learner.buffers() if b.is_floating_point()]
    if buffers:
        mean = _mean(fabric, torch.cat([b.flatten() for b in buffers]))
        for b, part in zip(buffers, mean.split([b.numel() for b in buffers]), strict=True):
            b.copy_(part.view_as(b))


def _mean(fabric: Fabric, x: Tensor) -> Tensor:
    """Mean over the processes, on the device and in the shape of `x`."""
    mean: Any = fabric.all_reduce(x, reduce_op="mean")
    return mean
