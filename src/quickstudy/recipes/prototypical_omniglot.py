"""Prototypical networks on Omniglot: the paper's Table 1.

Departures from the paper, all in the training schedule: Adam's learning rate rises over 200 steps to ten
times the paper's and falls along a cosine to 0, instead of halving every 2,000 episodes; training runs in
bfloat16 where the processor has it; the 172 validation characters select the weights and are never
trained on (the authors train on them in the end).
"""

from functools import partial

from quickstudy.data.episodes import Setting
from quickstudy.data.images import ImageFormat
from quickstudy.data.omniglot import omniglot
from quickstudy.encoders import Conv4
from quickstudy.learners.prototypical import Prototypical
from quickstudy.recipes.recipe import Recipe
from quickstudy.schedules import cosine


def prototypical_omniglot_1shot() -> Recipe:
    """60-way 1-shot training, tested 1-shot."""
    return _prototypical_omniglot(
        1, steps=8_000, validation_episodes=200, published={"5w1s": 98.8, "20w1s": 96.0}
    )


def prototypical_omniglot_5shot() -> Recipe:
    """60-way 5-shot training, tested 5-shot."""
    return _prototypical_omniglot(
        5, steps=8_000, validation_episodes=600, published={"5w5s": 99.7, "20w5s": 98.9}
    )


def _prototypical_omniglot(
    shots: int, steps: int, validation_episodes: int, published: dict[str, float]
) -> Recipe:
    return Recipe(
        summary=f"Omniglot, 60-way {shots}-shot training, Vinyals split",
        paper="Snell et al. 2017, Table 1",
        pool=partial(omniglot, split="vinyals", rotations=True),
        item_format=ImageFormat(28, 1, invert=True),
        learner=lambda: Prototypical(Conv4(in_channels=1, channels=64)),
        train=Setting(60, shots, 5),
        steps=steps,
        lr=1e-2,
        schedule=partial(cosine, warmup=200),
        precision="bf16-mixed",
        validation=Setting(20, shots, 5),
        validation_episodes=validation_episodes,
        every=500,
        tests=(Setting(5, shots, 15), Setting(20, shots, 15)),
        published=published,
    )
