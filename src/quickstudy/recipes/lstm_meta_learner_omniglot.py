"""The LSTM meta-learner on Omniglot, 5-way.

The paper has no figure for Omniglot. Its schedule, for mini-ImageNet: Adam at 1e-3, the gradient cut to a
norm of 0.25, one task a step; in the authors' release 75,000 steps 1-shot and 50,000 5-shot.

Departures from it: 4 tasks a step, 4,000 steps; the learning rate rises over 100 steps and falls along a
cosine to 0; gradients are cut by `--clip` only.
"""

from functools import partial

from quickstudy.data.episodes import Setting
from quickstudy.data.images import ImageFormat
from quickstudy.data.omniglot import omniglot
from quickstudy.encoders import Classifier, Conv4
from quickstudy.learners.lstm_meta_learner import LSTMMetaLearner
from quickstudy.recipes.recipe import Recipe
from quickstudy.rules.cell_state import CellStateRule, Gates
from quickstudy.schedules import cosine


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
        schedule=partial(cosine, warmup=100),
        validation=Setting(5, shots, 5),
        every=500,
        tests=(Setting(5, shots, 15),),
        published={},
    )


def _classifier() -> Classifier:
    return Classifier(Conv4(in_channels=1, channels=32, running_statistics=False), 5, dimensions=32)
