"""Episodes, batches of few-shot tasks, from which learners learn and by which all are judged.

A `PlainClassifier` alone learns from labelled batches instead: items, and the numbers of their classes.

Shape legend, used in every docstring of the library:

| letter | meaning |
|---|---|
| T | tasks in a meta-batch |
| N | ways, classes in a task |
| S | support items in a task (N × shots if every class has the same number) |
| Q | query items in a task |
| U | unlabelled items in a task (may be 0) |
| D | embedding dimensions |
| P | parameters, flattened |
| B | items in a labelled batch |
| K | classes that are trained on |

`...` stands for the shape of one item, such as `C, H, W` for a picture.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quickstudy.core.errors import WrongTypeError


@dataclass(slots=True)
class Support:
    """Support sets of T tasks: the labelled items from which a learner learns the classes.

    Args:
        x: [T, S, ...] support items, floating point.
        y: [T, S] int64 labels in 0 … N − 1; classes may have different numbers of shots. For regression,
            [T, S, ...] floating-point values.
        ways: Number N of classes in each task; 0 for regression.
        unlabelled: [T, U, ...] items without labels; none (U = 0) by default.
        names: [T, N] names of the classes, an array of texts, for heads that read them; None if unknown.

    Raises:
        ValueError: If shapes disagree, or, for tensors on the CPU only, where the check is free, if a label
            lies outside 0 … N − 1 or a class has no support item.
    """

    x: Tensor
    y: Tensor
    ways: int
    unlabelled: Tensor = field(default_factory=lambda: torch.empty(0))
    names: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        """Check shapes and labels, because a mistake in them would silently give wrong results."""
        check_floats("support", self.x)
        check_tensor("support labels", self.y)
        if self.y.shape[: None if self.ways else 2] != self.x.shape[:2]:
            raise ValueError(
                f"support labels have shape {list(self.y.shape)} but the items {list(self.x.shape)}: "
                "y must be [T, S] where x is [T, S, ...]"
            )
        if not self.unlabelled.numel():
            self.unlabelled = self.x[:, :0]
        if self.unlabelled.shape[:1] + self.unlabelled.shape[2:] != self.x.shape[:1] + self.x.shape[2:]:
            raise ValueError(
                f"unlabelled items have shape {list(self.unlabelled.shape)} but the support "
                f"{list(self.x.shape)}: they may differ in the second dimension only"
            )
        if self.names is not None and np.shape(self.names) != (len(self.y), self.ways):
            raise ValueError(
                f"names of classes are {list(np.shape(self.names))}: they must be "
                f"{[len(self.y), self.ways]}, one for each class of each task"
            )
        _check_labels("support", self.y, self.ways)
        _check_present(self.y, self.ways)


@dataclass(slots=True)
class Episode:
    """A meta-batch of T tasks: support sets to learn from, and query sets to be tested on.

    Args:
        support: Support sets: the labelled (and unlabelled) items.
        query_x: [T, Q, ...] query items, floating point.
        query_y: [T, Q] int64 labels of the queries in 0 … N − 1; for regression, [T, Q, ...] floating-point
            values.

    Raises:
        ValueError: If the shapes of queries, labels and support disagree, or a label is out of range.
    """

    support: Support
    query_x: Tensor
    query_y: Tensor

    def __post_init__(self) -> None:
        """Check that the queries fit their labels and the support."""
        check_floats("query", self.query_x)
        check_tensor("query labels", self.query_y)
        x, support_x = self.query_x, self.support.x
        if self.query_y.shape[: None if self.ways else 2] != x.shape[:2] or x.shape[:1] + x.shape[2:] != (
            support_x.shape[:1] + support_x.shape[2:]
        ):
            raise ValueError(
                f"query items {list(x.shape)} and labels {list(self.query_y.shape)} do not fit a "
                f"support of {list(support_x.shape)}: expected [T, Q, ...] and [T, Q]"
            )
        _check_labels("query", self.query_y, self.ways)

    @property
    def tasks(self) -> int:
        """Number T of tasks."""
        return self.query_x.shape[0]

    @property
    def ways(self) -> int:
        """Number N of classes in each task; 0 for regression."""
        return self.support.ways

    @property
    def shots(self) -> float:
        """Mean number of support items per class, S / N; S for regression."""
        return self.support.x.shape[1] / max(1, self.support.ways)

    def __getitem__(self, tasks: slice) -> "Episode":
        """Episode with a slice of the tasks, as views of the same tensors."""
        s = self.support
        names = None if s.names is None else s.names[tasks]
        return Episode(
            Support(s.x[tasks], s.y[tasks], s.ways, s.unlabelled[tasks], names),
            self.query_x[tasks],
            self.query_y[tasks],
        )


@dataclass(slots=True)
class LabelledBatch:
    """A batch of items of all classes that are trained on, as in ordinary classification: no tasks.

    Args:
        x: [B, ...] items, floating point.
        y: [B] int64 numbers of their classes in 0 … K − 1.
        classes: Number K of classes that are trained on.

    Raises:
        ValueError: If items and labels differ in number, or, on the CPU, a label is out of range.
    """

    x: Tensor
    y: Tensor
    classes: int

    def __post_init__(self) -> None:
        """Check that there is one label for each item."""
        check_floats("batch", self.x)
        check_tensor("batch labels", self.y)
        if self.y.shape != self.x.shape[:1]:
            raise ValueError(
                f"labels have shape {list(self.y.shape)} but the items {list(self.x.shape)}: "
                "y must be [B] where x is [B, ...]"
            )
        _check_labels("batch", self.y, self.classes)


def check_tensor(which: str, x: Any) -> None:
    """Refuse what is no tensor.

    Args:
        which: What it should be, for the message.
        x: Anything.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(x, np.ndarray):
        raise WrongTypeError(f"{which} are an array of numpy: convert them with torch.from_numpy(…)")
    if not isinstance(x, Tensor):
        raise WrongTypeError(f"{which} are a {type(x).__name__}: give a tensor of torch")


def check_floats(which: str, x: Any) -> None:
    """Refuse items as pools store them, and what holds none.

    Args:
        which: Which items they are, for the message.
        x: Anything.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it holds pictures or clips of whole numbers.
    """
    check_tensor(f"{which} items", x)
    if x.dtype in (torch.uint8, torch.int16):
        scaled = "x.float() / 255" if x.dtype == torch.uint8 else "x.float() / 32768"
        raise ValueError(f"{which} items are {x.dtype}: convert them by {scaled}")


def _check_labels(which: str, y: Tensor, ways: int) -> None:
    if not ways and not y.is_floating_point():
        raise ValueError(
            f"{which} values of a regression (ways = 0) are {y.dtype}: convert them with y.float()"
        )
    if not ways:
        return
    if y.dtype != torch.int64:
        raise ValueError(f"{which} labels are {y.dtype}: convert them with y.long()")
    if not _can_be_read(y):
        return
    outside = y[(y < 0) | (y >= ways)]
    if outside.numel():
        raise ValueError(
            f"{which} label {outside[0].item()} is outside 0 … {ways - 1}: "
            f"labels count the {ways} classes from 0"
        )


def _can_be_read(y: Tensor) -> bool:
    """Whether values are there, when not compiled or exported, and reading them waits for no accelerator."""
    return y.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_present(y: Tensor, ways: int) -> None:
    if not ways or not _can_be_read(y):
        return
    present = torch.zeros(len(y), ways, dtype=torch.bool).scatter_(1, y, value=True)
    if not present.all():
        task, missing = (~present).nonzero()[0].tolist()
        raise ValueError(
            f"class {missing} of task {task} has no support item: every class needs at least one"
        )


class Batches(Protocol):
    """An endless sequence of meta-batches: `Episodes`, `LabelledBatches`, or any class with these methods."""

    @property
    def tasks(self) -> int:
        """Number T of tasks in a meta-batch, or B of items in a labelled batch: what processes share."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the random draws."""
        ...

    def on(self, device: torch.device | str) -> "Batches":
        """The same sequence, with its tensors on another device."""
        ...

    def part(self, i: int, rank: int = 0, world: int = 1) -> Any:
        """Share of one process in a meta-batch, in the form that the model takes.

        Args:
            i: Number of the meta-batch, from 0.
            rank: Number of the process, from 0.
            world: Number of processes that share each meta-batch.
        """
        ...


class Trials(Batches, Protocol):
    """Meta-batches for evaluation: `Episodes`, `WithinAlphabets`, or any class with these methods."""

    @property
    def setting(self) -> object:
        """Label of the setting in results, such as 5w1s (5-way 1-shot)."""
        ...

    def on(self, device: torch.device | str) -> "Trials":
        """The same sequence, with its tensors on another device."""
        ...

    def part(self, i: int, rank: int = 0, world: int = 1) -> Episode:
        """Share of one process in a meta-batch.

        Args:
            i: Number of the meta-batch, from 0.
            rank: Number of the process, from 0.
            world: Number of processes that share each meta-batch.
        """
        ...
