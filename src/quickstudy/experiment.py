"""Running a recipe from data to figures, and getting its learner back from a checkpoint."""

import atexit
import importlib.metadata
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from quickstudy import checkpoint
from quickstudy.data.audio import AudioFormat
from quickstudy.data.episodes import Episodes, Setting
from quickstudy.data.formats import item_format
from quickstudy.data.images import ImageFormat
from quickstudy.data.images import Progress as Decoding
from quickstudy.data.pool import ClassPool
from quickstudy.episode import Batches
from quickstudy.evaluation import evaluate
from quickstudy.learner import Learner
from quickstudy.learners.siamese import Siamese
from quickstudy.measured import fit_transforms
from quickstudy.metrics import Mode, Score
from quickstudy.recipes import RECIPES, Recipe
from quickstudy.roc import Verification, verify
from quickstudy.run import Progress
from quickstudy.schedules import Schedule
from quickstudy.seeds import generators_kept
from quickstudy.torch_private import cpu_has_bfloat16
from quickstudy.train import Reporter, fit

TASKS = 10
"""Tasks in a meta-batch of validation and test."""


class Display(Protocol):
    """Where progress is shown; each method opens a bar for as long as its block lasts."""

    def counting(self, what: str) -> AbstractContextManager[Decoding]:
        """Of so many things done of so many."""
        ...

    def training(self, steps: int) -> AbstractContextManager[Reporter]:
        """Of a training."""
        ...


def launch(accelerator: str = "auto", devices: int = 1, precision: str = "32-true") -> Fabric:
    """Devices, processes and precision: all of it is Fabric's business.

    Args:
        accelerator: auto, cpu, cuda, mps.
        devices: processes or cards.
        precision: as Fabric names it; bf16-mixed falls back to 32-true on a CPU without bfloat16.

    Raises:
        ValueError: if the machine has no such accelerator or precision.
    """
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if on_cpu and precision == "bf16-mixed" and not cpu_has_bfloat16():
        precision = "32-true"
    wanted: Any = precision
    try:
        fabric = Fabric(accelerator="cpu" if on_cpu else accelerator, devices=devices, precision=wanted)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise ValueError(f"can't use {devices} × {accelerator} in {precision}: {error}") from None
    fabric.launch()
    if torch.distributed.is_initialized():  # gloo's threads, left alone, may abort the process as it ends
        atexit.register(torch.distributed.destroy_process_group)
    return fabric


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


def start_from(learner: nn.Module, name_or_path: str | os.PathLike[str]) -> checkpoint.Manifest:
    """Give a learner the encoder of a trained one, which must be made alike, without what is put around it.

    Returns:
        The manifest of the trained one.

    Raises:
        ValueError: if one of them has no encoder, or they differ.
    """
    trained, _, manifest = _load(name_or_path)
    mine, other = (getattr(part, "encoder", None) for part in (learner, trained))
    if not isinstance(mine, nn.Module) or not isinstance(other, nn.Module):
        raise ValueError(
            f"{type(learner).__name__} can't start from {name_or_path}, a {type(trained).__name__}: "
            "both must be learners of a metric; leave out --start"
        )
    checkpoint.load_weights(mine, other.state_dict(), str(name_or_path))
    return manifest


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


def load_learner(name_or_path: str | os.PathLike[str]) -> tuple[Learner, checkpoint.Manifest]:
    """A trained learner, ready to predict, from a checkpoint or a model that ships with the library.

    Args:
        name_or_path: a name that `quickstudy models` lists, a checkpoint file, or a training's folder.

    Returns:
        The learner as it is used after training (see `Recipe.used`), in evaluation mode, and its manifest.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it isn't whole, or its recipe is unknown here.
    """
    _, used, manifest = _load(name_or_path)
    return used, manifest


def _load(name_or_path: str | os.PathLike[str]) -> tuple[Learner, Learner, checkpoint.Manifest]:
    """A trained learner as it was trained and as it is used, and its manifest."""
    path = find(name_or_path)
    weights, manifest = checkpoint.load(path)
    if manifest.get("kind") == "rule":
        raise ValueError(
            f"{path} holds an update rule, not a model: race it with quickstudy optimize --rule, or take its "
            "steps with quickstudy.LearnedOptimizer"
        )
    if manifest.get("recipe") not in RECIPES:
        raise ValueError(
            f"{path} was trained by recipe {manifest.get('recipe')!r}, which this version lacks: build "
            "its learner in Python and use checkpoint.load and checkpoint.load_weights"
        )
    recipe = recipe_of(manifest)
    with generators_kept():
        learner = recipe.learner()
    used = recipe.used(learner)
    checkpoint.load_weights(used, weights, str(path))
    return learner.eval(), used.eval(), manifest


def recipe_of(manifest: checkpoint.Manifest) -> Recipe:
    """The recipe that a checkpoint was trained by."""
    return RECIPES[manifest["recipe"]](**manifest["arguments"])


def item_format_of(manifest: checkpoint.Manifest) -> ImageFormat | AudioFormat:
    """What pictures or clips must become for the encoder of a checkpoint."""
    return item_format(manifest["items"])


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The checkpoint file that a name, file or folder stands for; what lies here goes before what ships."""
    shipped, path = models(), Path(name_or_path)
    if str(name_or_path) in shipped and not path.exists():
        return shipped[str(name_or_path)]
    if path.is_dir():
        if (path / "last.safetensors").exists() and not (path / "best.safetensors").exists():
            raise FileNotFoundError(f"{path} has not come to its first validation: go on with train --resume")
        return path / "best.safetensors"
    if not path.exists() and not path.suffix:
        raise FileNotFoundError(
            f"there is no checkpoint or model {str(name_or_path)!r}: "
            f"shipped models are {', '.join(shipped) or 'none'}"
        )
    return path


def models() -> dict[str, Path]:
    """The trained models that ship with the library, by name."""
    folder = Path(str(resources.files("quickstudy") / "models"))
    return {p.stem: p for p in sorted(folder.glob("*.safetensors"))}
