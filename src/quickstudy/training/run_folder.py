"""The folder of a training run, and the run's progress."""

import json
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributed.checkpoint.stateful import Stateful

from quickstudy.core import checkpoint, files, foreign
from quickstudy.core.blueprint import NotRebuildableError, blueprint
from quickstudy.core.episode import Batches
from quickstudy.core.scores import ValidationResult
from quickstudy.data.formats.items import ItemFormat
from quickstudy.data.overlap import items_record
from quickstudy.data.pool import ClassPool, described
from quickstudy.training.averaging import WeightAverage

Keep = Literal["best", "last"]
"""Weights to keep: those of the best validation, or the last."""


@dataclass
class TrainingState:
    """Progress of a training run: all that `last.safetensors` holds besides weights and optimizer.

    Args:
        step: Number of steps done.
        seconds: Time spent on the steps, in seconds, over all sessions.
        best: Objective of the validation whose weights are kept: the highest so far, or the last.
        best_step: Number of steps done at that validation; 0 before the first.
        stale: Number of validations since then.
        stopped: Reason why training stopped: "finished", "minutes", "patience" or "interrupted".
        score: All fields of the validation whose weights are kept, by name.
        headline: Short text of that validation.
        losses: Training losses of the steps since the last log line.
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

    def record(self, result: ValidationResult, keep: Keep = "best") -> bool:
        """Record a validation.

        Args:
            result: Result of the validation.
            keep: Weights to keep, "best" or "last".

        Returns:
            Whether the present weights replace those kept so far.
        """
        # no number compares greater than NaN, so a first validation of NaN needs a case of its own
        better = (
            keep == "last"
            or result.objective > self.best
            or (math.isnan(self.best) and not math.isnan(result.objective))
        )
        if self.best_step and not better:
            self.stale += 1
            return False
        self.best, self.best_step, self.stale = result.objective, self.step, 0
        self.score, self.headline = result.as_dict(), result.short
        return True


def unroll_state_of(model: nn.Module) -> Stateful | None:
    """The `unroll_state` of a model that goes on in each step where it stopped in the one before.

    Loading an empty one begins anew. It is no part of the model's own `state_dict`.
    """
    state = getattr(model, "unroll_state", None)
    return state if isinstance(state, Stateful) else None


KEPT = "kept"
"""Key of the manifest, and prefix of the tensors, of weights that regular validations have kept."""
FACTS = "fit"
"""Key of a manifest under which `fit` states the facts of its training run."""


def facts_of(
    learner: nn.Module,
    episodes: Batches,
    steps: int,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    validation: Batches | Callable[..., object] | None,
    **settings: object,
) -> checkpoint.Manifest:
    """Facts of a training run for its manifest: two runs with different facts are different runs.

    Args:
        learner: Module that is trained.
        episodes: Sequence of meta-batches to train on.
        steps: Number of steps, with one meta-batch each.
        optimizer: Optimizer of the learner's parameters, with its settings.
        schedule: Function from the number of a step to a factor of the learning rate.
        validation: Episodes, or a function, by which weights are selected.
        settings: Further numbers and names, which are stated unchanged.

    Returns:
        `{"fit": facts, "classes": {"train": {name: digest}, "validation": …}, "seen": {"train": …}}`, the
        last with what `items_record` keeps of the items.
    """
    groups = [
        {"parameters": len(group["params"])} | {k: _stated(v) for k, v in group.items() if k != "params"}
        for group in optimizer.param_groups
    ]
    # functions can't be compared, but their values can
    places = sorted({round(i * (steps - 1) / 16) for i in range(17)})
    facts: dict[str, Any] = {
        "learner": _built(learner),
        "train": summary_of(episodes),
        "steps": steps,
        "optimizer": type(optimizer).__name__,
        "parameter_groups": groups,
        "schedule": [float(f"{schedule(step):.9g}") for step in places],
        "validation": summary_of(validation) if hasattr(validation, "part") else described(validation),
    }
    of = {"train": episodes, "validation": validation}
    pools = {split: getattr(batches, "pool", None) for split, batches in of.items()}
    known = {split: pool for split, pool in pools.items() if isinstance(pool, ClassPool)}
    classes = {split: pool.class_digests() for split, pool in known.items()}
    seen = {split: items_record(pool) for split, pool in known.items()}
    form: ItemFormat | None = getattr(getattr(episodes, "pool", None), "item_format", None)
    return {FACTS: facts | settings, "classes": classes, "seen": seen} | (
        {"items": form.as_dict()} if form else {}
    )


def _built(learner: nn.Module) -> dict[str, Any]:
    """How a learner is built again; of one that is not of this library alone the name of its class."""
    try:
        return blueprint(learner)
    except NotRebuildableError:
        return {"class": type(learner).__qualname__}


def summary_of(batches: object) -> dict[str, Any]:
    """Facts of meta-batches from their `summary` method; without one, their class, tasks and seed.

    Args:
        batches: Sequence of meta-batches.
    """
    summary: Callable[[], dict[str, Any]] | None = getattr(batches, "summary", None)
    if summary:
        return summary()
    tasks, seed = getattr(batches, "tasks", None), getattr(batches, "seed", None)
    return {"kind": type(batches).__qualname__, "tasks": tasks, "seed": seed}


def _stated(value: object) -> Any:
    """Numbers, names and lists of them unchanged; anything else as its description."""
    if isinstance(value, list | tuple):
        return [_stated(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    return value if isinstance(value, bool | int | float | str | None) else described(value)


@contextmanager
def alone_in(out: str | Path | None, fabric: Fabric | None) -> Generator[None]:
    """Context in which no other training can write to a folder.

    Args:
        out: Path of the folder; None if nothing is written.
        fabric: Fabric of the processes of this training, of which the first writes.

    Raises:
        ValueError: If another training writes to it.
        OSError: If it can't be written to.
    """
    with ExitStack() as held:
        if out:
            _by_the_first(fabric, lambda: held.enter_context(files.folder_taken(Path(out))))
        yield


def refuse_if_taken(out: str | Path, fabric: Fabric) -> None:
    """Refuse a folder that another training writes to, before any work is done for this one.

    Args:
        out: Path of the folder.
        fabric: Fabric of the processes of this training.

    Raises:
        ValueError: If there is another.
    """
    _by_the_first(fabric, lambda: files.refuse_if_taken(Path(out)))


def _by_the_first(fabric: Fabric | None, act: Callable[[], object]) -> None:
    """Let the first process do something; what it raises is raised by all, so that none waits for it."""
    error = None
    if not fabric or fabric.global_rank == 0:
        try:
            act()
        except (ValueError, OSError) as raised:
            error = raised
    if fabric and fabric.world_size > 1:
        error = fabric.broadcast(error)
    if error:
        raise error


class Run:
    """The folder of a training run: `best.safetensors`, `last.safetensors`, `log.jsonl`.

    Args:
        folder: Path of the folder.
        manifest: Facts that every checkpoint of the run states.
    """

    def __init__(self, folder: Path, manifest: checkpoint.Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.best, self.last = folder / "best.safetensors", folder / "last.safetensors"
        self.log_path = folder / "log.jsonl"

    def begin(
        self,
        learner: nn.Module,
        optimizer: torch.optim.Optimizer,
        resume: bool,
        write: bool,
        saved: nn.Module,
        average: WeightAverage | None = None,
    ) -> TrainingState:
        """Resume the training run in the folder, or check that there is none and that it can be written.

        Args:
            learner: Learner that gets its state between steps, if it has one.
            optimizer: Optimizer that gets the saved state.
            resume: Whether a training run in the folder is resumed.
            write: Whether this process writes files.
            saved: Module that gets the saved weights.
            average: Average that is taken up again, if the run has one.

        Returns:
            Progress of the resumed run, or that of a new one.

        Raises:
            ValueError: If the folder holds a training run that is not, or cannot be, resumed.
            OSError: If the log can't be written.
        """
        if self.last.exists():
            if not resume:
                raise ValueError(
                    f"{self.folder} already holds a training run: "
                    "add --resume to continue it, or name another --out"
                )
            tensors, manifest = checkpoint.load(self.last)
            self._check_same(manifest)
            checkpoint.load_weights(saved, checkpoint.without_prefix("learner.", tensors), str(self.last))
            with foreign.naming(self.last):
                checkpoint.unpack_optimizer(
                    optimizer, checkpoint.without_prefix("optimizer.", tensors), manifest["optimizer"]
                )
                if state := unroll_state_of(learner):
                    state.load_state_dict(checkpoint.without_prefix("unroll_state.", tensors))
                if average:
                    average.load(checkpoint.without_prefix("average.", tensors))
                progress = TrainingState(**manifest["progress"])
            if write and KEPT in manifest:
                kept = checkpoint.without_prefix(f"{KEPT}.", tensors)
                checkpoint.save(self.best, kept, self.manifest | {"training": manifest[KEPT]})
        else:
            progress = TrainingState()
        if write:
            kept = [line for line in read_log(self.log_path) if line["step"] <= progress.step]
            files.write_whole(self.log_path, "".join(f"{json.dumps(line)}\n" for line in kept).encode())
        return progress

    def _check_same(self, before: checkpoint.Manifest) -> None:
        """Check that a resumed run has the same facts, so that its results belong to one run."""
        if FACTS not in before:
            raise ValueError(
                f"{self.folder} holds a training run of an earlier version of quickstudy, which made other "
                "random draws: start it anew in another --out"
            )
        # the facts already have a digest of the classes
        apart = ("version", "progress", "optimizer", "classes", "seen", "data_root", KEPT)
        was = _flat({k: v for k, v in before.items() if k not in apart})
        now = _flat({k: v for k, v in self.manifest.items() if k not in apart})
        now = json.loads(json.dumps(now))  # a tuple comes back from a file as a list
        for key in (*now, *was):
            if was.get(key) != now.get(key):
                raise ValueError(
                    f"{self.folder} holds a training run with {key.removeprefix(f'{FACTS}.')} "
                    f"{was.get(key)}, not {now.get(key)}: "
                    "resume it with the same options, or name another --out"
                )

    def end_with(self, weights: dict[str, Tensor], ended: TrainingState) -> None:
        """Write `best.safetensors` with the weights that a session ends with, out of turn.

        The training that is resumed must not know of them. So those that the regular validations have kept
        go into `last.safetensors` first, and are put back from there.

        Args:
            weights: Weights that the session ends with, by name.
            ended: Progress of the training run, as if the validation of these weights were a regular one.
        """
        tensors, manifest = checkpoint.load(self.last)
        if manifest["progress"]["best_step"]:
            kept, trained = checkpoint.load(self.best)
            tensors |= checkpoint.prefixed(f"{KEPT}.", kept)
            checkpoint.save(self.last, tensors, manifest | {KEPT: trained["training"]})
        self.save_best(weights, ended)

    def best_weights(self) -> dict[str, Tensor]:
        """Weights of the best checkpoint so far, by name."""
        return checkpoint.load(self.best)[0]

    def save_best(self, weights: dict[str, Tensor], progress: TrainingState) -> None:
        """Write `best.safetensors`, the checkpoint for later use.

        Args:
            weights: Best weights, by name.
            progress: Progress of the training run.
        """
        trained = {
            "steps": progress.step,
            "minutes": round(progress.seconds / 60, 2),
            "validation": progress.score,
        }
        checkpoint.save(self.best, weights, self.manifest | {"training": trained})

    def save_last(
        self,
        learner: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: TrainingState,
        saved: nn.Module,
        average: WeightAverage | None = None,
    ) -> None:
        """Write `last.safetensors`, with all that is needed to resume.

        Args:
            learner: Learner, whose state between steps is saved if it has one.
            optimizer: Optimizer whose state is saved.
            progress: Progress of the training run.
            saved: Module whose weights are saved.
            average: Average of the weights, which is saved as well if the run has one.
        """
        state, groups = checkpoint.pack_optimizer(optimizer)
        tensors = checkpoint.prefixed("learner.", saved.state_dict()) | checkpoint.prefixed(
            "optimizer.", state
        )
        if unroll_state := unroll_state_of(learner):
            tensors |= checkpoint.prefixed("unroll_state.", unroll_state.state_dict())
        if average:
            tensors |= checkpoint.prefixed("average.", average.average)
        checkpoint.save(
            self.last, tensors, self.manifest | {"progress": asdict(progress), "optimizer": groups}
        )

    def log(self, progress: TrainingState, lr: float, new: dict[str, Any]) -> None:
        """Append a line to the log.

        Args:
            progress: Progress of the training run, with the losses since the last line.
            lr: Learning rate of the last step.
            new: Results of the last step by name, as a `Reporter` gets them.
        """
        result: ValidationResult | None = new.get("validation")
        loss = sum(progress.losses) / len(progress.losses)
        line = {"step": progress.step, "loss": loss, "lr": lr}
        line |= result.to_log() if result else {}
        line |= {"tasks_per_second": round(new["tasks_per_second"], 2), "seconds": round(progress.seconds, 1)}
        try:
            with self.log_path.open("a") as f:
                f.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OSError(f"can't write {self.log_path} ({error.strerror}): free some space") from None


def read_log(path: str | Path) -> list[dict[str, float]]:
    """Read the log of a training run, without a last line that a power cut left incomplete.

    Args:
        path: Path of the run's `log.jsonl`; the log may be absent.

    Returns:
        Numbers by name, for each line.

    Raises:
        ValueError: If a line other than the last is not JSON.
    """
    path = Path(path)
    # not splitlines(), which also splits at what JSON allows within a text
    lines = path.read_bytes().rstrip(b"\n").split(b"\n") if path.exists() else []
    read: list[dict[str, float]] = []
    for number, line in enumerate(lines, start=1):
        try:
            entry: Any = foreign.json_of(line)
        except ValueError:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, is not JSON: repair or delete it") from None
            continue
        step = cast(dict[str, Any], entry).get("step") if isinstance(entry, dict) else None
        if not isinstance(step, int | float):
            raise ValueError(f"{path}, line {number}, is no step of a training: repair or delete it")
        read.append(entry)
    return read


def _flat(manifest: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries flattened: `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in manifest.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
