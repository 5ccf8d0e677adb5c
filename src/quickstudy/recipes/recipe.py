"""What a recipe states."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import nn

from quickstudy.core.learner import Learner, with_embedding
from quickstudy.core.scores import Mode
from quickstudy.data.augment.images import Augment
from quickstudy.data.formats.images import Progress
from quickstudy.data.formats.items import ItemFormat
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Labels, Setting
from quickstudy.optimizer.problems.problem import Family
from quickstudy.optimizer.rule_learner import Objective
from quickstudy.optimizer.truncation import Horizon
from quickstudy.recipes.problems import FAMILIES
from quickstudy.training.schedules import MakeOptimizer, Schedule, adam, cosine

_COSINE = partial(cosine, warmup=20)


@dataclass(frozen=True, kw_only=True)
class RuleRecipe:
    """One learned rule: what is learned on what, how.

    Args:
        summary: one line.
        paper: where it was published.
        rule: makes a fresh one.
        family_name: of the problems, as in `FAMILIES`; those of "test" are never seen in training.
        problems: side by side, in training.
        steps: meta-steps.
        unroll: steps of the optimisees in a meta-step, 20 in the paper. With 3 or 5 there are more meta-steps
            for the same work, which leads farther on quadratics and digits (measured).
        horizon: as in `RuleLearner`.
        race: steps after which rules are compared, and by which weights are selected.
        objective: as in `RuleLearner`.
        log: as in `RuleLearner`.
        lr: of Adam.
        clip: largest norm of the meta-gradient.
        schedule: multiplies the learning rate.
        validation_problems: how many, of each family of a mixture.
        every: meta-steps between validations.
        precision: as Lightning Fabric names it.
    """

    summary: str
    paper: str
    rule: Callable[[], nn.Module]
    family_name: str
    steps: int
    problems: int = 64
    unroll: int = 5
    horizon: Horizon = field(default_factory=Horizon)
    race: int = 100
    objective: Objective = "train"
    log: bool = False
    lr: float = 1e-2
    clip: float = 1.0
    schedule: Callable[[int], Schedule] = _COSINE
    validation_problems: int = 256
    every: int = 250
    precision: str = "32-true"

    def family(self, split: str, root: str | Path | None = None) -> Family:
        """The problems of a split."""
        return FAMILIES[self.family_name](split, root)


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
