"""Prototypical networks on your own pictures, `root/class/*.jpg`."""

from collections.abc import Sequence
from functools import partial

from quickstudy.data.episodes import Setting
from quickstudy.data.folders import FRACTIONS, folder_pool
from quickstudy.data.images import ImageFormat
from quickstudy.encoders import Conv4
from quickstudy.learners.prototypical import Prototypical
from quickstudy.recipes.recipe import Recipe
from quickstudy.train import cosine


def prototypical_images(
    images: str,
    size: int = 84,
    grey: bool = False,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    split: str | Sequence[float] = FRACTIONS,
    skip_corrupt: bool = False,
) -> Recipe:
    """Training on a folder of class folders, with a class-disjoint split.

    Args:
        images: the folder.
        size: pixels of height and width that pictures are brought to.
        grey: without colour.
        ways: classes of a task, in training and test.
        shots: support pictures a class.
        queries: query pictures a class.
        split: fractions of the classes, or a JSON file (see `image_folders`).
        skip_corrupt: leave out pictures that can't be read.
    """
    image_format = ImageFormat(size, 1 if grey else 3)

    return Recipe(
        summary="your own folders of pictures, --images DIR",
        paper="your data",
        pool=folder_pool(images, image_format, split, skip_corrupt),
        image_format=image_format,
        learner=lambda: Prototypical(Conv4(in_channels=image_format.channels, channels=64)),
        train=Setting(ways, shots, queries),
        tasks=4,
        steps=2000,
        schedule=partial(cosine, warmup=50),
        precision="bf16-mixed",
        validation=Setting(ways, shots, queries),
        every=100,
        tests=(Setting(ways, shots, queries),),
    )
