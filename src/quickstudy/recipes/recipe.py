"""A recipe that trains a learner: what it states, and how it is run and tested."""

import importlib.metadata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import nn

from quickstudy.core.checkpoint import Manifest
from quickstudy.core.learner import Learner, with_embedding
from quickstudy.core.modes import Mode
from quickstudy.core.progress import ProgressCallback
from quickstudy.core.scores import Score, data_percent, percent
from quickstudy.core.seeds import generators_kept
from quickstudy.data.augment.augment import Augment
from quickstudy.data.batches import LabelledBatches
from quickstudy.data.datasets.glyphs import glyphs
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.items import ItemFormat
from quickstudy.data.overlap import items_record
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import BatchSize, LabelFraction, Setting, ends
from quickstudy.metric.plain import PlainClassifier
from quickstudy.metric.siamese import Siamese
from quickstudy.metric.verification import Verification, verify
from quickstudy.recipes.experiment import Options, Results, Tested, asked_of_fit
from quickstudy.training.card import put_card
from quickstudy.training.evaluate import evaluate, fit_transforms
from quickstudy.training.fit import fit
from quickstudy.training.launch import Display
from quickstudy.training.run_folder import TrainingState, refuse_if_taken
from quickstudy.training.schedules import Schedule

TASKS = 10
"""Tasks in a meta-batch of validation and test."""
NUMBERS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("steps", "tasks", "every", "validation_episodes"), (int,)),
    "lr": (int, float),
}
"""The numbers of a recipe, and what they may be."""
PAIR_TASKS = 100
"""Most tasks that verification figures take their pairs of: some hundred thousand pairs."""


class MakePool(Protocol):
    """Loads the data; all of it, or from the cache."""

    def __call__(
        self, *, root: str | Path | None = None, progress: ProgressCallback | None = None
    ) -> ClassPool:
        """The pool with its splits train, validation and test."""
        ...


def glyph_pool(*, root: str | Path | None = None, progress: ProgressCallback | None = None) -> ClassPool:
    """The embedded glyphs, as a `MakePool`; the data root is not used."""
    return glyphs(progress=progress)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One experiment that trains a learner: on what, how, and what the paper reached with it.

    Args:
        summary: What it is, in one line.
        paper: Where it was published.
        pool: Loads the data, with the splits train, validation and test.
        item_format: What the encoder takes.
        learner: Makes a fresh learner, with the encoder that is trained.
        embedding: From the trained encoder to the one that is used after training, such as an `Embedding`
            with fitted transforms around it; the encoder as it is by default.
        train: Setting of the training tasks; `BatchSize` of a `PlainClassifier`, which learns from batches of
            all training classes.
        fewer_ways: Whether training tasks may have fewer classes, where there are no more.
        tasks: T, training tasks in a step; without meaning where batches are trained on.
        steps: Number of training steps.
        lr: Learning rate.
        optimizer: Class of the optimizer, or another function of the parameters and `lr`; Adam by default.
        schedule: From the number of steps to the multiplier of the learning rate at each step.
        ema_decay: Decay of the average of the last weights, as in `fit`; none by default.
        validation: Setting of the tasks by which weights are selected.
        validation_episodes: Number of these tasks.
        tests: Settings of the published figures.
        precision: Precision of training, as Lightning Fabric names it; evaluation is float32 always.
        every: Steps between validations.
        mode: What batch norm sees in the published figures, and in validation; with "authors" `validation`
            must have one query a class.
        published: The paper's accuracy in %, by the name of the test's setting.
        labels: Which items bear labels, in all three splits; all by default.
        augment: Random change of the items that are trained on; none by default.
        augment_classes: Random change of each class that is trained on, the same for all of its items.
        cross_source: Whether support and queries of validation and test come from different sources, as
            speakers.
        group: From the name of a class to that of its group; training and validation tasks are of one group.
        begins_with: Recipe whose trained encoder it begins with, where `start` names no other: that of the
            folder of this name beside its own, or of the model that ships.
    """

    summary: str
    paper: str
    pool: MakePool
    item_format: ItemFormat
    learner: Callable[[], Learner]
    embedding: Callable[[nn.Module], nn.Module] | None = None
    train: Setting | BatchSize
    steps: int
    validation: Setting
    tests: tuple[Setting, ...]
    lr: float = 1e-3
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    schedule: Callable[[int], Schedule]
    ema_decay: float | None = None
    fewer_ways: bool = False
    tasks: int = 1
    precision: str = "32-true"
    every: int = 250
    validation_episodes: int = 200
    mode: Mode = "inductive"
    published: Mapping[str, float] = field(default_factory=dict[str, float])
    labels: LabelFraction | None = None
    augment: Augment | None = None
    augment_classes: Augment | None = None
    cross_source: bool = False
    group: Callable[[str], str] | None = None
    begins_with: str | None = None

    def __post_init__(self) -> None:
        """Check the kinds of what is given, and the mode.

        Raises:
            ValueError: If something is of another kind than a recipe takes, or the mode is "authors" and the
                validation has several queries a class.
        """
        for name in ("pool", "learner", "schedule", "optimizer"):
            _check_kind(name, getattr(self, name), callable(getattr(self, name)), "a function")
        given: Any = self.item_format
        train: Any = self.train
        validation: Any = self.validation
        known = given is None or hasattr(given, "as_dict")  # None: of a training by `fit` on arrays
        _check_kind("item_format", given, known, "ImageFormat(…) or AudioFormat(…)")
        _check_kind("train", train, isinstance(train, Setting | BatchSize), "Setting(5, 1)")
        _check_kind("validation", validation, isinstance(validation, Setting), "Setting(5, 1)")
        tests: Any = self.tests
        settings = isinstance(tests, tuple | list) and all(isinstance(s, Setting) for s in tests)
        _check_kind("tests", tests, settings, "a tuple of settings, (Setting(5, 1),)")
        for name, kinds in NUMBERS.items():
            number: Any = getattr(self, name)
            right = isinstance(number, kinds) and not isinstance(number, bool)
            right = right and (number > 0 or (name == "steps" and number == 0))  # what needs no training
            _check_kind(
                name, number, right, "a number above 0" if float in kinds else "a whole number above 0"
            )
        if self.mode == "authors" and self.validation.queries != 1:
            raise ValueError(
                f"mode 'authors' validates with one query a class, not {self.validation.queries}: give the "
                "validation's setting queries=1"
            )

    def used(self, learner: Learner) -> Learner:
        """The learner as it is used after training, by `embedding`.

        Args:
            learner: What `learner()` made; it stays as it is, and shares all weights with the one returned.
        """
        return with_embedding(learner, self.embedding) if self.embedding else learner

    def check(self, options: Options, devices: int) -> None:
        """Refuse options that exclude each other.

        Raises:
            ValueError: If there is patience where no classes are left to validate on, or tasks where batches
                are trained on.
        """
        if options.get("tasks") and isinstance(self.train, BatchSize):
            raise ValueError(
                f"this recipe learns from batches of {self.train.batch_size} items, not from tasks: "
                "leave tasks out"
            )
        if options.get("trainval") and options.get("patience"):
            raise ValueError("trainval leaves no classes for patience to go by: leave one of them out")

    def run(
        self,
        out: str | Path,
        *,
        name: str,
        arguments: Mapping[str, Any],
        options: Options,
        display: Display,
        fabric: Fabric,
    ) -> tuple[Learner, TrainingState]:
        """Train into a folder; as in `Experiment`.

        Returns:
            The learner as it is used after training, with its best weights, and how the training went.

        Raises:
            ValueError: If the classes are too few for what is trained, validated or tested on, or what it
                begins with isn't there.
        """
        from quickstudy.recipes.weights import start_from, trained_before  # which know the recipes

        self.check(options, fabric.world_size)
        refuse_if_taken(out, fabric)
        start = options.get("start") or (self.begins_with and trained_before(self.begins_with, out))
        seed = options.get("seed", 0)
        steps, lr = options.get("steps") or self.steps, options.get("lr") or self.lr
        tasks, clip = options.get("tasks") or self.tasks, options.get("clip")
        decay, root = options.get("ema_decay"), options.get("data_root")
        with fabric.rank_zero_first(), display.counting("decoding") as decoding:
            pool = self.pool(root=root, progress=decoding)
        made: Any = pool
        if not isinstance(made, ClassPool):
            raise ValueError(f"{name}: pool gives a {type(made).__name__}: let it return a ClassPool")
        trainval = options.get("trainval", False)
        classes = pool.split("train", "validation") if trainval else pool.split("train")
        training = self._training(classes, tasks, seed)
        validation = self._validation(pool, seed)
        for tested in self.tests:  # what can't be tested should fail now, not in the end
            self.episodes(pool, tested, TASKS, seed)
        recorded = classes.recorded_classes()
        if not len(recorded):
            raise ValueError(
                f"{name}: all {len(classes)} classes to train on were made from others, and transforms are "
                "fitted on recorded ones: bring some"
            )
        with generators_kept(seed):
            learner = self.learner()
        trained: Any = learner
        if not callable(getattr(trained, "predict", None)):
            kind = type(trained).__name__
            raise ValueError(
                f"{name}: learner gives a {kind}: let it return a learner, such as Prototypical(encoder)"
            )
        if isinstance(learner, PlainClassifier):
            learner.check_classes(len(classes))
        before = start_from(learner, start) if start else None
        used = self.used(learner)
        # what an encoder was trained on, it has met, whatever is trained on now
        met = trainval or bool(before and before.get("trainval") and before["data"]["digest"] == pool.digest)
        of_tasks = isinstance(training, Episodes)
        drawn = training.setting.as_dict() | {"tasks": tasks} if of_tasks else asdict(self.train)
        manifest = {
            "recipe": name,
            "arguments": dict(arguments),
            "seed": seed,
            "start": before and _in_few_words(before),
            "trainval": met or None,
            "train": drawn | {"steps": steps, "lr": lr, "clip": clip},
            "precision": fabric.strategy.precision.precision,
            "data": classes.summary(),
            "data_root": root and str(Path(root).expanduser().resolve()),
            "classes": {"validation": validation.pool.class_digests()},
            "seen": {"validation": items_record(validation.pool)},
            "items": self.item_format.as_dict(),
            "version": importlib.metadata.version("quickstudy"),
        }

        def validate() -> Score:
            fit_transforms(used, recorded, seed)
            count, mode = self.validation_episodes, self.mode
            return evaluate(used, validation, count, mode, fabric=fabric, comparable=False)

        with display.training(steps) as report:
            progress = fit(
                learner,
                training,
                steps,
                optimizer=partial(self.optimizer, lr=lr),
                schedule=self.schedule(steps),
                validation=validate,
                keep="last" if met else "best",
                every=self.every,
                clip=clip,
                ema_decay=self.ema_decay if decay is None else decay or None,
                fabric=fabric,
                out=out,
                manifest=manifest,
                saved=used,
                report=report,
                **asked_of_fit(options),
            )
        if fabric.global_rank == 0:
            put_card(Path(out) / "best.safetensors", used, validation.pool)
        fabric.barrier()
        return used.eval(), progress

    def test(
        self,
        trained: Learner,
        *,
        count: int = 1000,
        seed: int = 0,
        data_root: str | Path | None = None,
        display: Display,
        fabric: Fabric | None = None,
        settings: tuple[Setting, ...] = (),
        modes: tuple[Mode, ...] | None = None,
    ) -> list[Score]:
        """Accuracies on the test classes.

        Args:
            trained: The learner, as `run` has returned it.
            count: Number of test tasks for each setting and mode.
            seed: Seed of the test tasks.
            data_root: Folder of the data sets.
            display: Where progress is shown.
            fabric: Processes that share the work.
            settings: Settings to test; those of the recipe by default.
            modes: What batch norm sees; inductive, and what it sees in the published figures, by default. In
                mode "authors" tasks have one query a class, whatever the setting says.
        """
        scores: list[Score] = []
        for stated in self.test_episodes(settings, TASKS, seed, display, data_root):
            for mode in modes or tuple(dict.fromkeys(("inductive", self.mode))):
                tasks = _in_mode(stated, mode)
                with display.counting(f"testing {tasks.setting} {mode}") as report:
                    scores.append(evaluate(trained, tasks, count, mode, fabric=fabric, report=report))
        return scores

    def test_episodes(
        self,
        settings: tuple[Setting, ...],
        tasks: int,
        seed: int,
        display: Display,
        data_root: str | Path | None,
    ) -> Iterator[Episodes]:
        """Tasks of the test classes, of each setting; of those of the recipe where none is given."""
        with display.counting("decoding") as decoding:
            pool = self.pool(root=data_root, progress=decoding)
        for setting in settings or self.tests:
            yield self.episodes(pool, setting, tasks, seed)

    def episodes(self, pool: ClassPool, setting: Setting, tasks: int, seed: int) -> Episodes:
        """Tasks of the test classes of a pool.

        Raises:
            ValueError: If they can't be drawn.
        """
        classes, setting = clip_ways(pool.split("test"), setting)
        return Episodes(classes, setting, tasks, seed, labels=self.labels, cross_source=self.cross_source)

    def _training(self, classes: ClassPool, tasks: int, seed: int) -> Episodes | LabelledBatches:
        setting = self.train
        if isinstance(setting, BatchSize):
            asked = ("labels", "augment_classes", "group", "fewer_ways")
            if needless := [name for name in asked if getattr(self, name)]:
                raise ValueError(
                    f"{needless[0]} does not go with batches of all classes: leave it out of the recipe, or "
                    "train on tasks"
                )
            return LabelledBatches(classes, setting.batch_size, seed, augment=self.augment)
        if self.fewer_ways:
            classes, setting = clip_ways(classes, setting)
        return Episodes(
            classes,
            setting,
            tasks,
            seed,
            labels=self.labels,
            augment=self.augment,
            augment_classes=self.augment_classes,
            group=self.group,
        )

    def _validation(self, pool: ClassPool, seed: int) -> Episodes:
        return Episodes(
            *clip_ways(pool.split("validation"), self.validation),
            TASKS,
            seed + 1,
            labels=self.labels,
            cross_source=self.cross_source,
            group=self.group,
        )

    def test_pairs(
        self,
        trained: Siamese,
        *,
        count: int = PAIR_TASKS,
        seed: int = 0,
        data_root: str | Path | None = None,
        display: Display,
        settings: tuple[Setting, ...] = (),
        modes: tuple[Mode, ...] = ("inductive",),
    ) -> list[Verification]:
        """How well pairs of the test classes are told, for each setting and mode; arguments as in `test`."""
        return [
            verify(trained, _in_mode(tasks, mode), min(count, PAIR_TASKS), mode)
            for tasks in self.test_episodes(settings, 1, seed, display, data_root)
            for mode in modes
        ]

    def describe(self, manifest: Manifest | None = None) -> list[Tested]:
        """The settings that it tests; as in `Experiment`."""
        figures = (manifest or {}).get("figures", [])
        ours = {f["setting"]: percent(f["accuracy"], f["ci95"]) for f in figures if f["mode"] == self.mode}
        paper = {setting: f"{value:.1f}" for setting, value in self.published.items()}
        return [Tested(str(s), paper.get(str(s), "–"), ours.get(str(s), "–")) for s in self.tests]

    def results(self, figures: Sequence[Score]) -> Results:
        """Accuracies as a table, beside those of the paper."""
        wide, data = "accuracy % over draws", "over classes and items"
        rows: list[tuple[str, ...]] = []
        for s in figures:
            paper = self.published.get(s.setting) if s.mode == self.mode else None
            accuracy, told = percent(s.accuracy, s.ci95), "–" if paper is None else f"{paper:g}"
            over = data_percent(s.data95) if s.data95 else "–"
            rows.append((s.setting, s.mode, accuracy, over, str(s.episodes), str(s.seed), told))
        headers = ("setting", "batch norm", wide, data, "episodes", "seed", "paper %")
        return Results(headers, rows, (wide, data))

    def test_command(self, folder: Path) -> list[str]:
        """As in `Experiment`."""
        return ["evaluate", str(folder), "--mode", "all" if self.mode == "authors" else "both"]


def _check_kind(name: str, given: object, right: bool, takes: str) -> None:
    if not right:
        raise ValueError(f"{name} of a recipe is {given!r} of type {type(given).__name__}: give {takes}")


def _in_mode(tasks: Episodes, mode: Mode) -> Episodes:
    """Tasks as they are tested in a mode: in mode "authors" with one query a class."""
    if mode != "authors" or tasks.setting.queries == 1:
        return tasks
    setting = replace(tasks.setting, queries=1)
    how: Any = {"labels": tasks.labels, "cross_source": tasks.cross_source}
    return Episodes(tasks.pool, setting, tasks.tasks, tasks.seed, **how)


def clip_ways(classes: ClassPool, setting: Setting) -> tuple[ClassPool, Setting]:
    """The classes, and the setting with no more ways than there are, with a warning.

    Raises:
        ValueError: If there are fewer than two classes.
    """
    if len(classes) < 2:
        raise ValueError(
            f"{classes.name} has {len(classes)} classes, and telling apart takes two: "
            "bring more classes, or deal them out yourself with --set split=FILE"
        )
    least, most = ends(setting.ways)
    if most > len(classes):
        warnings.warn(f"{classes.name} has {len(classes)} classes: {len(classes)}-way it is", stacklevel=2)
    return classes, replace(setting, ways=(min(least, len(classes)), min(most, len(classes))))


def _in_few_words(manifest: Manifest) -> str:
    """Which training it is of."""
    seed = manifest["seed"] if "seed" in manifest else manifest["fit"]["train"]["seed"]
    return f"{manifest.get('recipe', 'python')}, seed {seed}, {manifest['training']['steps']} steps"
