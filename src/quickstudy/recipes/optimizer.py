"""Recipes of learned update rules.

Learned update rules: each recipe one rule on one family of problems.

Departures from Andrychowicz et al. 2016, all in the schedule: Adam's learning rate rises over a short
warm-up and falls along a cosine to 0; the meta-gradient's norm is clipped to 1 or 0.1; validation problems
select the weights.

The LSTM meta-learner on Omniglot, 5-way.

The paper has no figure for Omniglot. Its schedule, for mini-ImageNet: Adam at 1e-3, the gradient cut to a
norm of 0.25, one task a step; in the authors' release 75,000 steps 1-shot and 50,000 5-shot.

Departures from it: 4 tasks a step, 4,000 steps; the learning rate rises over 100 steps and falls along a
cosine to 0; gradients are clipped by `--set clip=…` only.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from quickstudy.data.datasets.omniglot import omniglot
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.setting import Setting
from quickstudy.encoders.classifier import Classifier
from quickstudy.encoders.conv4 import Conv4
from quickstudy.optimizer.lstm_meta_learner import LSTMMetaLearner
from quickstudy.optimizer.rules.cell_state import CellStateRule, Gates
from quickstudy.optimizer.rules.lstm import LSTMRule
from quickstudy.optimizer.rules.mlp import MLPRule
from quickstudy.optimizer.rules.rnnprop import RNNpropRule
from quickstudy.optimizer.truncation import TruncationSchedule
from quickstudy.recipes.recipe import Recipe
from quickstudy.recipes.rule_recipe import RuleRecipe
from quickstudy.training.schedules import cosine_schedule

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
        horizon=TruncationSchedule(50, 400),
        steps=3_000,
        every=100,
        race=200,
        validation_problems=16,
    )


def lstm_omniglot_1shot() -> Recipe:
    """1-shot: 12 inner steps."""
    return _recipe(1, inner=12)


def lstm_omniglot_5shot() -> Recipe:
    """5-shot: 5 inner steps."""
    return _recipe(5, inner=5)


def scalar_gates_omniglot_1shot() -> Recipe:
    """1-shot without the LSTM: learned are the initial state, and one rate and one decay for all."""
    return _recipe(1, inner=12, gates="scalar")


def fixed_gates_omniglot_1shot() -> Recipe:
    """1-shot, the initial state alone learned: rate and decay stay at what the LSTM begins with."""
    return _recipe(1, inner=12, gates="fixed")


def _recipe(shots: int, inner: int, gates: Gates = "learned") -> Recipe:
    kind = "" if gates == "learned" else f", {gates} gates"
    return Recipe(
        summary=f"LSTM meta-learner{kind} on Omniglot, 5-way {shots}-shot, Vinyals split",
        paper="Ravi & Larochelle 2017 (no Omniglot figure)",
        pool=partial(omniglot, split="vinyals", rotations=True),
        item_format=ImageFormat(28, 1, invert=True),
        learner=lambda: LSTMMetaLearner(_classifier(), CellStateRule(gates), inner),
        train=Setting(5, shots, 5),
        tasks=4,
        steps=4_000,
        schedule=partial(cosine_schedule, warmup=100),
        validation=Setting(5, shots, 5),
        every=500,
        tests=(Setting(5, shots, 15),),
        published={},
    )


def _classifier() -> Classifier:
    return Classifier(Conv4(in_channels=1, channels=32, running_statistics=False), 5, dimensions=32)
