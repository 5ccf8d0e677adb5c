"""Prototypical networks on the embedded glyphs: what `make demo` trains. No paper's figure."""

from functools import partial
from pathlib import Path

from quickstudy.data.episodes import Setting
from quickstudy.data.glyphs import glyphs
from quickstudy.data.images import ImageFormat, Progress
from quickstudy.data.pool import ClassPool
from quickstudy.encoders import Conv4
from quickstudy.learners.prototypical import Prototypical
from quickstudy.recipes.recipe import Recipe
from quickstudy.schedules import cosine


def prototypical_glyphs() -> Recipe:
    """60-way 1-shot training on some scripts, tested on scripts never seen."""
    return Recipe(
        summary="letters of many scripts; needs no download",
        paper="our own data",
        pool=_pool,
        item_format=ImageFormat(28, 1, invert=True),
        learner=lambda: Prototypical(Conv4(in_channels=1, channels=64)),
        train=Setting(60, 1, 5),
        steps=1000,
        lr=1e-2,
        schedule=partial(cosine, warmup=50),
        precision="bf16-mixed",
        validation=Setting(20, 1, 5),
        every=100,
        tests=(Setting(5, 1, 15), Setting(20, 1, 15)),
    )


def _pool(root: str | Path | None = None, progress: Progress | None = None) -> ClassPool:
    return glyphs(progress=progress)
