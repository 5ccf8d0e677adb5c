"""Learned update rules: each recipe one rule on one family of problems.

Departures from Andrychowicz et al. 2016, all in the schedule: Adam's learning rate rises over a short
warm-up and falls along a cosine to 0; the meta-gradient's norm is clipped to 1 or 0.1; validation problems
select the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import nn

from quickstudy.data.omniglot import omniglot
from quickstudy.learning_rules import Horizon, Objective
from quickstudy.problems.letters import Letters
from quickstudy.problems.mnist import mnist
from quickstudy.problems.problem import Family, Mixture, Reparametrised
from quickstudy.problems.quadratics import Quadratics
from quickstudy.problems.supervised import Supervised, digits, mlp
from quickstudy.rules.lstm import LSTMRule
from quickstudy.rules.mlp import MLPRule
from quickstudy.rules.rnnprop import RNNpropRule
from quickstudy.schedules import Schedule, cosine

MakeFamily = Callable[[str, str | Path | None], Family]
"""From a split, "train", "validation" or "test", and the data root to problems."""


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


def _digits(model: Callable[[int], nn.Module], split: str, root: str | Path | None) -> Family:
    """New initialisations, always; what is held out are other digits in testing."""
    return Supervised(
        partial(model, 64), digits("train"), digits("test" if split == "test" else "validation")
    )


def _digits_augmented(split: str, root: str | Path | None) -> Family:
    """Activations, widths, depths and units of all parameters vary."""
    shapes = [(20, 1), (32, 1), (20, 2)]
    return Mixture(
        [
            Reparametrised(
                _digits(partial(mlp, units=units, layers=layers, activation=kind), split, root), 1.0
            )
            for units, layers in shapes
            for kind in (nn.Sigmoid, nn.Tanh, nn.ReLU)
        ]
    )


def _mnist(split: str, root: str | Path | None) -> Family:
    return Supervised(
        partial(mlp, 784), mnist("train", root), mnist("test" if split == "test" else "validation", root)
    )


def _letters(split: str, root: str | Path | None) -> Family:
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

LSTM_PAPER = "Andrychowicz et al. 2016"


def lstm_quadratics() -> RuleRecipe:
    """The LSTM on random quadratics, with logarithms of the gradients (the paper: without)."""
    return RuleRecipe(
        summary="LSTM optimizer on random quadratics",
        paper=f"{LSTM_PAPER}, §3.1",
        rule=LSTMRule,
        family_name="quadratics",
        steps=4_000,
        unroll=3,
        validation_problems=1024,
        every=1_000,
    )


def lstm_digits() -> RuleRecipe:
    """The LSTM on perceptrons that learn 8 × 8 digits, by the logarithm of their loss, with p = 5.

    With the paper's scale of steps and the meta-gradient clipped to 1, most trainings learn to do nothing.
    """
    rule = partial(LSTMRule, p=5.0, scale=0.03)
    return replace(
        _digits_recipe("LSTM optimizer", f"{LSTM_PAPER}, §3.2 with smaller digits", rule),
        problems=4,
        log=True,
        steps=3_000,
        clip=0.1,
        every=100,
    )


def rnnprop_digits() -> RuleRecipe:
    """RNNprop on perceptrons that learn 8 × 8 digits."""
    return _digits_recipe("RNNprop", "Lv et al. 2017 with smaller digits", RNNpropRule)


def mlp_digits() -> RuleRecipe:
    """The small network on perceptrons that learn 8 × 8 digits."""
    return _digits_recipe("MLP optimizer", "after Metz et al. 2022", MLPRule)


def rnnprop_held_out() -> RuleRecipe:
    """As `rnnprop_digits`, but judged by digits that the perceptrons are not trained on."""
    return replace(rnnprop_digits(), summary="RNNprop on digits, by its held-out loss", objective="held_out")


def rnnprop_augmented() -> RuleRecipe:
    """RNNprop on perceptrons of many shapes, in units of many sizes, for 50 to 400 steps."""
    return _augmented(rnnprop_digits())


def mlp_augmented() -> RuleRecipe:
    """The small network on perceptrons of many shapes, in units of many sizes, for 50 to 400 steps."""
    return _augmented(mlp_digits())


def lstm_mnist() -> RuleRecipe:
    """The LSTM on perceptrons that learn MNIST.

    p and the scale of the steps are those of the authors' code. With the paper's scale, and the meta-gradient
    clipped to 1, it was still at chance after 15 minutes.
    """
    return replace(
        lstm_digits(),
        summary="LSTM optimizer on perceptrons learning MNIST",
        paper=f"{LSTM_PAPER}, §3.2",
        rule=partial(LSTMRule, p=5.0, scale=0.01),
        family_name="mnist",
        problems=1,
        unroll=20,
        steps=1_000,
        validation_problems=16,
    )


def _digits_recipe(name: str, paper: str, rule: Callable[[], nn.Module]) -> RuleRecipe:
    return RuleRecipe(
        summary=f"{name} on perceptrons learning 8 × 8 digits",
        paper=paper,
        rule=rule,
        family_name="digits",
        problems=8,
        steps=2_000,
        validation_problems=64,
    )


def _augmented(recipe: RuleRecipe) -> RuleRecipe:
    return replace(
        recipe,
        summary=f"{recipe.summary}, of many shapes and units",
        family_name="digits-augmented",
        horizon=Horizon(50, 400),
        steps=3_000,
        every=100,
        race=200,
        validation_problems=16,
    )


RULE_RECIPES: dict[str, Callable[[], RuleRecipe]] = {
    "lstm-optimizer-quadratics": lstm_quadratics,
    "lstm-optimizer-digits": lstm_digits,
    "rnnprop-optimizer-digits": rnnprop_digits,
    "mlp-optimizer-digits": mlp_digits,
    "rnnprop-optimizer-held-out": rnnprop_held_out,
    "rnnprop-optimizer-augmented": rnnprop_augmented,
    "mlp-optimizer-augmented": mlp_augmented,
    "lstm-optimizer-mnist": lstm_mnist,
}
