"""MAML on the embedded glyphs: needs no download. No paper's figure."""

from functools import partial
from pathlib import Path

from quickstudy.data.episodes import Setting
from quickstudy.data.glyphs import glyphs
from quickstudy.data.images import ImageFormat, Progress
from quickstudy.data.pool import ClassPool
from quickstudy.encoders import Classifier, Conv4
from quickstudy.learners.maml import MAML
from quickstudy.recipes.recipe import Recipe
from quickstudy.schedules import cosine


def maml_glyphs() -> Recipe:
    """5-way 1-shot training on some scripts, tested on scripts never seen."""
    return Recipe(
        summary="MAML on letters of many scripts; needs no download",
        paper="our own data",
        pool=_pool,
        item_format=ImageFormat(28, 1, invert=True),
        learner=lambda: MAML(Classifier(Conv4(running_statistics=False), 5), lr=0.1, steps=1, test_steps=3),
        train=Setting(5, 1, 5),
        tasks=8,
        steps=1500,
        lr=5e-3,
        schedule=partial(cosine, warmup=50),
        precision="bf16-mixed",
        validation=Setting(5, 1, 5),
        every=250,
        tests=(Setting(5, 1, 15),),
        mode="transductive",
    )


def _pool(root: str | Path | None = None, progress: Progress | None = None) -> ClassPool:
    return glyphs(progress=progress)
