"""Running a recipe, from data to figures."""

import importlib.metadata
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack

from lightning_fabric import Fabric
from torch import nn

from quickstudy.core.episode import Batches
from quickstudy.core.learner import Learner
from quickstudy.core.scores import Mode, Score
from quickstudy.core.seeds import generators_kept
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.metric.siamese import Siamese
from quickstudy.metric.verification import Verification, verify
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.recipe import Recipe
from quickstudy.recipes.weights import start_from
from quickstudy.training.evaluate import evaluate, fit_transforms
from quickstudy.training.fit import fit
from quickstudy.training.launch import Display
from quickstudy.training.run_folder import Progress
from quickstudy.training.schedules import Schedule

TASKS = 10
"""Tasks in a meta-batch of validation and test."""


class Options(TypedDict, total=False):
    """What may be asked of a training, of any kind of recipe."""

    steps: int | None
    """Instead of the recipe's."""
    lr: float | None
    """Instead of the recipe's."""
    seed: int
    """Of the weights and of what is drawn; 0 by default."""
    tasks: int | None
    """Of a step, instead of the recipe's."""
    minutes: float | None
    """As in `fit`."""
    patience: int | None
    """As in `fit`."""
    clip: float | None
    """As in `fit`."""
    resume: bool
    """As in `fit`."""
    start: str | Path | None
    """A checkpoint or a model's name, whose encoder a learner of a metric begins with."""
    trainval: bool
    """Whether to train on the validation classes too, and keep the weights of the last validation."""
    data_root: str | Path | None
    """Where data sets lie."""


class Stated(Protocol):
    """What `fit` is told by every kind of recipe."""

    @property
    def schedule(self) -> Callable[[int], Schedule]:
        """From the number of steps to the multiplier of each."""
        ...

    @property
    def every(self) -> int:
        """Steps between validations."""
        ...


def train(
    name: str,
    arguments: Mapping[str, Any],
    out: str | Path,
    *,
    display: Display,
    fabric: Fabric,
    **options: Unpack[Options],
) -> tuple[Learner, Progress]:
    """Train a recipe into a folder.

    Args:
        name: of the recipe.
        arguments: of its function.
        out: folder of the training.
        display: shows the progress.
        fabric: device, precision and processes, launched.
        options: as in `Options`.

    Returns:
        The learner with its best weights, as it is used after training (see `Recipe.used`), and how the
        training went.
    """
    recipe, seed = RECIPES[name](**arguments), options.get("seed", 0)
    steps, lr = options.get("steps") or recipe.steps, options.get("lr") or recipe.lr
    tasks, clip = options.get("tasks") or recipe.tasks, options.get("clip")
    with fabric.rank_zero_first(), display.counting("decoding") as decoding:
        pool = recipe.pool(root=options.get("data_root"), progress=decoding)
    trainval = options.get("trainval", False)
    classes = pool.split("train", "validation") if trainval else pool.split("train")
    setting = recipe.train
    if recipe.fewer_ways:
        classes, setting = fitting(classes, setting)
    training = Episodes(
        classes,
        setting,
        tasks,
        seed,
        labels=recipe.labels,
        augment=recipe.augment,
        augment_classes=recipe.augment_classes,
        group=recipe.group,
    )
    validation = Episodes(
        *fitting(pool.split("validation"), recipe.validation),
        TASKS,
        seed + 1,
        labels=recipe.labels,
        apart=recipe.apart,
        group=recipe.group,
    )
    for tested in recipe.tests:  # what can't be tested should fail now, not in the end
        episodes_of_test(recipe, pool, tested, TASKS, seed)
    recorded = classes.subset([i for i, name in enumerate(classes.classes) if recipe.recorded(name)])
    if not len(recorded):
        raise ValueError(
            f"{name}: recorded() is true of none of the classes to train on, such as {classes.classes[0]!r}"
        )
    with generators_kept(seed):
        learner = recipe.learner()
    start = options.get("start")
    before = start_from(learner, start) if start else None
    used = recipe.used(learner)
    # what an encoder was trained on, it has met, whatever is trained on now
    met = trainval or bool(before and before.get("trainval") and before["data"]["digest"] == pool.digest)
    manifest = {
        "recipe": name,
        "arguments": dict(arguments),
        "seed": seed,
        "start": before and "{recipe}, seed {seed}, {training[steps]} steps".format(**before),
        "trainval": met or None,
        "train": asdict(setting) | {"tasks": tasks, "steps": steps, "lr": lr, "clip": clip},
        "precision": fabric.strategy.precision.precision,
        "data": classes.summary(),
        "classes": {"validation": validation.pool.class_digests()},
        "items": recipe.item_format.as_dict(),
        "version": importlib.metadata.version("quickstudy"),
    }

    def judge() -> Score:
        fit_transforms(used, recorded, seed)
        return evaluate(used, validation, recipe.validation_episodes, recipe.mode, fabric=fabric)

    progress = fit_stated(
        recipe,
        options,
        display,
        learner,
        training,
        steps,
        optimizer=recipe.optimizer(lr),
        validation=judge,
        keep="last" if met else "best",
        clip=clip,
        fabric=fabric,
        out=out,
        manifest=manifest,
        saved=used,
    )
    return used.eval(), progress


def fit_stated(
    recipe: Stated,
    options: Options,
    display: Display,
    model: nn.Module,
    batches: Batches,
    steps: int,
    **how: Any,
) -> Progress:
    """`fit` as recipe and options have it, with its progress shown; `how` is what differs by the kind."""
    with display.training(steps) as report:
        return fit(
            model,
            batches,
            steps,
            schedule=recipe.schedule(steps),
            every=recipe.every,
            patience=options.get("patience"),
            minutes=options.get("minutes"),
            resume=options.get("resume", False),
            report=report,
            **how,
        )


def measure(
    recipe: Recipe,
    learner: Learner,
    *,
    display: Display,
    settings: tuple[Setting, ...] = (),
    episodes: int = 1000,
    modes: tuple[Mode, ...] = ("inductive",),
    seed: int = 0,
    data_root: str | Path | None = None,
    fabric: Fabric | None = None,
) -> list[Score]:
    """Figures on the test classes of a recipe, a score for each setting and mode."""
    scores: list[Score] = []
    for tasks in tasks_of_test(recipe, settings, TASKS, seed, display, data_root):
        for mode in modes:
            with display.counting(f"testing {tasks.setting} {mode}") as report:
                scores.append(evaluate(learner, tasks, episodes, mode, fabric=fabric, report=report))
    return scores


PAIR_TASKS = 100
"""Most tasks that verification figures take their pairs of: some hundred thousand pairs."""


def measure_pairs(
    recipe: Recipe,
    learner: Siamese,
    *,
    display: Display,
    settings: tuple[Setting, ...] = (),
    episodes: int = PAIR_TASKS,
    modes: tuple[Mode, ...] = ("inductive",),
    seed: int = 0,
    data_root: str | Path | None = None,
) -> list[Verification]:
    """Verification figures on pairs of the test classes of a recipe, for each setting and mode."""
    return [
        verify(learner, tasks, min(episodes, PAIR_TASKS), mode)
        for tasks in tasks_of_test(recipe, settings, 1, seed, display, data_root)
        for mode in modes
    ]


def tasks_of_test(
    recipe: Recipe,
    settings: tuple[Setting, ...],
    tasks: int,
    seed: int,
    display: Display,
    data_root: str | Path | None,
) -> Iterator[Episodes]:
    """Tasks of the test classes of a recipe, of each setting; of those of the recipe where none is given."""
    with display.counting("decoding") as decoding:
        pool = recipe.pool(root=data_root, progress=decoding)
    for setting in settings or recipe.tests:
        yield episodes_of_test(recipe, pool, setting, tasks, seed)


def episodes_of_test(recipe: Recipe, pool: ClassPool, setting: Setting, tasks: int, seed: int) -> Episodes:
    """Of the test classes of a recipe's pool.

    Raises:
        ValueError: if they can't be drawn.
    """
    classes, setting = fitting(pool.split("test"), setting)
    return Episodes(classes, setting, tasks, seed, labels=recipe.labels, apart=recipe.apart)


def fitting(classes: ClassPool, setting: Setting) -> tuple[ClassPool, Setting]:
    """The classes, and the setting with no more ways than there are, with a warning.

    Raises:
        ValueError: if there are fewer than two classes.
    """
    if len(classes) < 2:
        raise ValueError(
            f"{classes.name} has {len(classes)} classes, and telling apart takes two: "
            "bring more classes, or deal them out yourself with --split"
        )
    if setting.ways > len(classes):
        warnings.warn(f"{classes.name} has {len(classes)} classes: {len(classes)}-way it is", stacklevel=2)
    return classes, replace(setting, ways=min(setting.ways, len(classes)))
