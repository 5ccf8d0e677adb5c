"""What every recipe is, of a learner or of an update rule: stated, run, tested, described."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict, runtime_checkable

from lightning_fabric import Fabric
from torch import nn

from quickstudy.core.checkpoint import Manifest
from quickstudy.core.scores import ValidationResult
from quickstudy.training.launch import Display
from quickstudy.training.run_folder import TrainingState


class Options(TypedDict, total=False):
    """What may be asked of a training by any recipe."""

    steps: int | None
    """Steps, instead of the recipe's."""
    lr: float | None
    """Learning rate, instead of the recipe's."""
    seed: int
    """Seed of the weights and of what is drawn; 0 by default."""
    tasks: int | None
    """Tasks of a step (for an update rule problems), instead of the recipe's."""
    minutes: float | None
    """Time limit, as in `fit`."""
    patience: int | None
    """Validations without a better one before it stops, as in `fit`."""
    clip: float | None
    """Largest norm of the gradient, as in `fit`."""
    ema_decay: float | None
    """Decay of the average of the last weights, as in `fit`, instead of the recipe's; 0 for none."""
    resume: bool
    """Whether to go on with the training in the folder, as in `fit`."""
    start: str | Path | None
    """Checkpoint, or name of a model, whose encoder a learner of a metric begins with."""
    trainval: bool
    """Whether to train on the validation classes too, and keep the weights of the last validation."""
    data_root: str | Path | None
    """Folder of the data sets."""


def asked_of_fit(options: Options) -> dict[str, Any]:
    """Arguments of `fit` that any recipe takes from the user: when it stops, and whether it resumes.

    Args:
        options: What is asked of the training.
    """
    asked: dict[str, Any] = {name: options.get(name) for name in ("minutes", "patience")}
    return asked | {"resume": options.get("resume", False)}


@dataclass(frozen=True)
class Results:
    """Figures as a table.

    Args:
        headers: One for each column.
        rows: As many texts each as there are headers.
        wraps: Headers of columns whose texts may be broken into lines.
    """

    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    wraps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tested:
    """A test that a recipe states.

    Args:
        what: What is tested, such as 5w1s.
        paper: The published figure; "–" where there is none.
        ours: That of the model that ships; "–" where none does.
    """

    what: str
    paper: str = "–"
    ours: str = "–"


@runtime_checkable
class Experiment(Protocol):
    """One published experiment, stated in full: `Recipe` trains a learner, `RuleRecipe` an update rule."""

    @property
    def summary(self) -> str:
        """What it is, in one line."""
        ...

    @property
    def paper(self) -> str:
        """Where it was published."""
        ...

    @property
    def precision(self) -> str:
        """Precision of the training, as Lightning Fabric names it."""
        ...

    def check(self, options: Options, devices: int) -> None:
        """Refuse options that this kind of training has no use for, before anything is started.

        Raises:
            ValueError: If there is one; it says which to leave out.
        """
        ...

    def run(
        self,
        out: str | Path,
        *,
        name: str,
        arguments: Mapping[str, Any],
        options: Options,
        display: Display,
        fabric: Fabric,
    ) -> tuple[nn.Module, TrainingState]:
        """Train into a folder.

        Args:
            out: Folder of the training.
            name: Name of the recipe, for the manifest.
            arguments: What its function was given, for the manifest.
            options: What is asked of the training.
            display: Where progress is shown.
            fabric: Device, precision and processes, launched.

        Returns:
            What was trained, in evaluation mode with its best weights, and how the training went.
        """
        ...

    def test(
        self,
        trained: Any,
        *,
        count: int,
        seed: int,
        data_root: str | Path | None,
        display: Display,
        fabric: Fabric | None,
    ) -> Sequence[ValidationResult]:
        """The figures of the paper's tests, for what `run` has trained.

        Args:
            trained: What `run` has returned.
            count: Number of test tasks, or problems, at most.
            seed: Seed of the training; that of the test is a function of it.
            data_root: Folder of the data sets.
            display: Where progress is shown.
            fabric: Processes that share the work.
        """
        ...

    def describe(self, manifest: Manifest | None) -> list[Tested]:
        """The tests that it states, with the published figures, and ours by the manifest of a model."""
        ...

    def results(self, figures: Sequence[Any]) -> Results:
        """The figures of `test` as a table, beside the published ones."""
        ...

    def test_command(self, folder: Path) -> list[str]:
        """The words of the command that tests a training's folder."""
        ...
