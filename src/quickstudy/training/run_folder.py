"""The folder of a training, and how far the training has come."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from quickstudy.core import checkpoint, files
from quickstudy.core.blueprint import NotRebuildableError, blueprint
from quickstudy.core.episode import Batches
from quickstudy.core.scores import Verdict
from quickstudy.data.formats.items import ItemFormat
from quickstudy.data.pool import ClassPool, described

Keep = Literal["best", "last"]


@runtime_checkable
class Carries(Protocol):
    """A model that goes on from one step where it stopped in the one before."""

    def carried(self) -> dict[str, Tensor]:
        """What it goes on with, for a checkpoint."""
        ...

    def carry_on(self, tensors: Mapping[str, Tensor]) -> None:
        """The way back from `carried`."""
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


FACTS = "fit"
"""Key of a manifest under which `fit` states what its training is."""


def facts_of(
    learner: nn.Module,
    episodes: Batches,
    steps: int,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    validation: Batches | Callable[..., object] | None,
    **settings: object,
) -> checkpoint.Manifest:
    """All that makes a training what it is, as a manifest states it: another fact, another training.

    Args:
        learner: What is trained.
        episodes: What it is trained on.
        steps: Number of meta-batches.
        optimizer: Optimizer of the learner's parameters, with its settings.
        schedule: From the number of a step to the multiplier of the learning rate.
        validation: Episodes, or a function, by which weights are selected.
        settings: Further numbers and names, stated as they are.

    Returns:
        `{"fit": facts, "classes": {"train": {name: digest}, "validation": …}}`.
    """
    groups = [
        {"parameters": len(group["params"])} | {k: _stated(v) for k, v in group.items() if k != "params"}
        for group in optimizer.param_groups
    ]
    # a function can't be compared, what it gives can
    places = sorted({round(i * (steps - 1) / 16) for i in range(17)})
    facts: dict[str, Any] = {
        "learner": _built(learner),
        "train": _summary(episodes),
        "steps": steps,
        "optimizer": type(optimizer).__name__,
        "parameter_groups": groups,
        "schedule": [float(f"{schedule(step):.9g}") for step in places],
        "validation": _summary(validation) if hasattr(validation, "part") else described(validation),
    }
    pools = {"train": episodes, "validation": validation}
    classes = {
        split: pool.class_digests()
        for split, of in pools.items()
        if isinstance(pool := getattr(of, "pool", None), ClassPool)
    }
    form: ItemFormat | None = getattr(getattr(episodes, "pool", None), "item_format", None)
    return {FACTS: facts | settings, "classes": classes} | ({"items": form.as_dict()} if form else {})


def _built(learner: nn.Module) -> dict[str, Any]:
    """How a learner is built again; of one that is not of this library alone the name of its class."""
    try:
        return blueprint(learner)
    except NotRebuildableError:
        return {"class": type(learner).__qualname__}


def _summary(batches: object) -> dict[str, Any]:
    """What meta-batches say of themselves; of those that say nothing their kind, tasks and seed."""
    summary: Callable[[], dict[str, Any]] | None = getattr(batches, "summary", None)
    if summary:
        return summary()
    tasks, seed = getattr(batches, "tasks", None), getattr(batches, "seed", None)
    return {"kind": type(batches).__qualname__, "tasks": tasks, "seed": seed}


def _stated(value: object) -> Any:
    """Numbers and names as they are, lists of them too; anything else by its description."""
    if isinstance(value, list | tuple):
        return [_stated(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    return value if isinstance(value, bool | int | float | str | None) else described(value)


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
        self,
        learner: nn.Module,
        optimizer: torch.optim.Optimizer,
        resume: bool,
        write: bool,
        saved: nn.Module,
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
            checkpoint.load_weights(saved, checkpoint.without_prefix("learner.", tensors), str(self.last))
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
            files.write_whole(self.log_path, "".join(f"{json.dumps(line)}\n" for line in kept).encode())
        return progress

    def _check_same(self, before: checkpoint.Manifest) -> None:
        """A resumed training must be the same training, or its figures would belong to neither."""
        if FACTS not in before:
            raise ValueError(
                f"{self.folder} holds a training of an earlier version of quickstudy, whose draws this one "
                "does not repeat: begin it anew in another --out"
            )
        apart = (
            "version",
            "progress",
            "optimizer",
            "classes",
        )  # of the classes there is a digest in the facts
        was, now = (_flat({k: v for k, v in m.items() if k not in apart}) for m in (before, self.manifest))
        now = json.loads(json.dumps(now))  # a tuple comes back from a file as a list
        for key in (*now, *was):
            if was.get(key) != now.get(key):
                raise ValueError(
                    f"{self.folder} holds a training with {key.removeprefix(f'{FACTS}.')} {was.get(key)}, "
                    f"not {now.get(key)}: resume it with the same options, or name another --out"
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

    def save_last(
        self, learner: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, saved: nn.Module
    ) -> None:
        """Write all that resuming takes."""
        state, groups = checkpoint.pack_optimizer(optimizer)
        tensors = checkpoint.prefixed("learner.", saved.state_dict()) | checkpoint.prefixed(
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
