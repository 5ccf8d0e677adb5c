"""What a recipe states."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import nn

from quickstudy.data.augment import Augment
from quickstudy.data.episodes import Labels, Setting
from quickstudy.data.formats import ItemFormat
from quickstudy.data.images import Progress
from quickstudy.data.pool import ClassPool
from quickstudy.learner import Learner, with_embedding
from quickstudy.metrics import Mode
from quickstudy.schedules import MakeOptimizer, Schedule, adam


class MakePool(Protocol):
    """Loads the data; all of it, or from the cache."""

    def __call__(self, *, root: str | Path | None = None, progress: Progress | None = None) -> ClassPool:
        """The pool with its splits train, validation and test."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One experiment: what is trained on what, how, and what the paper reached with it.

    Args:
        summary: one line.
        paper: where it was published.
        pool: loads the data.
        item_format: what the encoder takes.
        learner: makes a fresh learner, with the encoder that is trained.
        embedding: From the trained encoder to how it is used after training: test-time augmentation and
            fitted transforms; the encoder as it is by default.
        train: the tasks trained on.
        fewer_ways: tasks may be of fewer classes in training, where there are no more.
        tasks: how many of them a step takes.
        steps: how many steps.
        lr: learning rate.
        optimizer: from the learning rate to what makes the optimizer; Adam by default.
        schedule: from the number of steps to the multiplier of each.
        validation: the tasks by which weights are selected.
        validation_episodes: how many of them.
        tests: the tasks of the published figures.
        precision: of training, as Lightning Fabric names it; evaluation is float32 always.
        every: steps between validations.
        mode: what batch norm sees in the published figures, and in validation.
        published: the paper's accuracy in % for the tests, by name.
        labels: which items bear labels, in all three splits; all by default.
        augment: changes the items that are trained on at random; nothing does by default.
        augment_classes: changes all items of a class alike, as in `Episodes`.
        recorded: whether a class to train on, by its name, was recorded and not made from others: the
            transforms of `embedding` are fitted on those; all by default.
        apart: support and queries of validation and test come from different sources, such as speakers.
        group: the classes of a task are of one group in training and validation, as in `Episodes`.
    """

    summary: str
    paper: str
    pool: MakePool
    item_format: ItemFormat
    learner: Callable[[], Learner]
    embedding: Callable[[nn.Module], nn.Module] | None = None
    train: Setting
    steps: int
    validation: Setting
    tests: tuple[Setting, ...]
    lr: float = 1e-3
    optimizer: Callable[[float], MakeOptimizer] = adam
    schedule: Callable[[int], Schedule]
    fewer_ways: bool = False
    tasks: int = 1
    precision: str = "32-true"
    every: int = 250
    validation_episodes: int = 200
    mode: Mode = "inductive"
    published: Mapping[str, float] = field(default_factory=dict[str, float])
    labels: Labels | None = None
    augment: Augment | None = None
    augment_classes: Augment | None = None
    recorded: Callable[[str], bool] = lambda _: True
    apart: bool = False
    group: Callable[[str], str] | None = None

    def used(self, learner: Learner) -> Learner:
        """The learner as it is used after training, by `embedding`.

        Args:
            learner: What `learner()` made; it stays as it is, and shares all weights with the one returned.
        """
        return with_embedding(learner, self.embedding) if self.embedding else learner
