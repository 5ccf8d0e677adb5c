"""Problems that update rules are learned on and raced on, by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from quickstudy.data.datasets.omniglot import omniglot
from quickstudy.optimizer.problems.letters import Letters
from quickstudy.optimizer.problems.mnist import mnist
from quickstudy.optimizer.problems.problem import Mixture, ProblemFamily, Reparametrized
from quickstudy.optimizer.problems.quadratics import Quadratics
from quickstudy.optimizer.problems.supervised import Supervised, digits, mlp

MakeFamily = Callable[[str, str | Path | None], ProblemFamily]
"""From a split, "train", "validation" or "test", and the data root to problems."""


def _digits(model: Callable[[int], nn.Module], split: str, root: str | Path | None) -> ProblemFamily:
    """New initialisations, always; what is held out are other digits in testing."""
    return Supervised(
        partial(model, 64), digits("train"), digits("test" if split == "test" else "validation")
    )


def _digits_augmented(split: str, root: str | Path | None) -> ProblemFamily:
    """Activations, widths, depths and units of all parameters vary."""
    shapes = [(20, 1), (32, 1), (20, 2)]
    return Mixture(
        [
            Reparametrized(
                _digits(partial(mlp, units=units, layers=layers, activation=kind), split, root), 1.0
            )
            for units, layers in shapes
            for kind in (nn.Sigmoid, nn.Tanh, nn.ReLU)
        ]
    )


def _mnist(split: str, root: str | Path | None) -> ProblemFamily:
    return Supervised(
        partial(mlp, 784), mnist("train", root), mnist("test" if split == "test" else "validation", root)
    )


def _letters(split: str, root: str | Path | None) -> ProblemFamily:
    return Letters(omniglot(root, rotations=False).split(split))


FAMILIES: dict[str, MakeFamily] = {
    "quadratics": lambda split, root: Quadratics(),  # all the difference is in the seed
    "quadratics-twice": lambda split, root: Quadratics(scale=2.0),
    "digits": partial(_digits, mlp),
    "digits-40-units": partial(_digits, partial(mlp, units=40)),
    "digits-2-layers": partial(_digits, partial(mlp, layers=2)),
    "digits-tanh": partial(_digits, partial(mlp, activation=nn.Tanh)),
    "digits-relu": partial(_digits, partial(mlp, activation=nn.ReLU)),
    "digits-augmented": _digits_augmented,
    "mnist": _mnist,
    "letters": _letters,
}
"""Problems to learn rules on and to race them on, by name."""
