"""Learning from your own pictures, `root/class/*.jpg`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from quickstudy.core.learner import Learner
from quickstudy.data.datasets.layouts import dataset_of, folder_pool
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.setting import Setting
from quickstudy.data.splits import FRACTIONS
from quickstudy.encoders.backbone import Backbone
from quickstudy.encoders.classifier import Classifier
from quickstudy.encoders.conv4 import Conv4
from quickstudy.encoders.pretrained import pretrained
from quickstudy.initialization.maml import MAML
from quickstudy.metric.prototypical import Prototypical
from quickstudy.recipes.recipe import MakePool, Recipe
from quickstudy.training.schedules import cosine_schedule


def prototypical_images(
    images: str | Path,
    size: int | None = None,
    grey: bool = False,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    split: str | Path | Sequence[float] = FRACTIONS,
    skip_corrupt: bool = False,
    within: bool = False,
    encoder: str | None = None,
    tuned: str | None = None,
    rank: int | None = None,
) -> Recipe:
    """Prototypical networks on a folder of class folders, with a class-disjoint split.

    Args:
        images: Folder, zip or tar that holds a folder of pictures for each class; or folder with train/, val/
            and test/ of such, with train.csv, val.csv and test.csv, or with several data sets.
        size: Pixels of height and width that pictures are resized to, and that a pretrained encoder looks at;
            84 by default, or that encoder's own.
        grey: Whether pictures are read without color.
        ways: Classes of a task, in training and test.
        shots: Support pictures of each class.
        queries: Query pictures of each class.
        split: Fractions of the classes for training, validation and test, or a JSON file of their names;
            by default that of the folders or lists, where they have one.
        skip_corrupt: Whether pictures that can't be read are left out, instead of an error.
        within: Whether all classes of a training task are of one of several data sets, DIR/DATASET/CLASS.
        encoder: Name of a pretrained network to begin with, such as photos or timm:resnet18, frozen, with a
            linear map behind it that is trained; by default a Conv4 from scratch.
        tuned: What of the pretrained network is trained too: all, or the number of blocks from the last one.
        rank: Rank of additions to its weights that are trained in their place.
    """
    if encoder is None and (tuned is not None or rank is not None):
        raise ValueError("tuned and rank are for a pretrained encoder: name one, --set encoder=photos")
    if encoder is not None and grey:
        raise ValueError(f"{encoder} takes colour pictures: leave grey out")
    asked = size
    if encoder is not None:
        size = size or _pretrained(encoder, None, tuned, rank).preprocessing.side
    form = ImageFormat(size or 84, 1 if grey else 3)

    def learner() -> Learner:
        if encoder is None:
            return Prototypical(Conv4(in_channels=form.channels, channels=64))
        network = _pretrained(encoder, asked, tuned, rank)
        last = nn.Linear(network.dimensions, network.dimensions)
        with torch.no_grad():  # what is trained begins with the features as they are
            nn.init.eye_(last.weight)
            nn.init.zeros_(last.bias)
        return Prototypical(nn.Sequential(network, last))

    data = folder_pool(images, form, split, skip_corrupt)
    return _images(data, form, learner, Setting(ways, shots, queries), within)


def maml_images(
    images: str | Path,
    size: int = 84,
    grey: bool = False,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    split: str | Path | Sequence[float] = FRACTIONS,
    skip_corrupt: bool = False,
    within: bool = False,
) -> Recipe:
    """MAML on a folder of class folders, with a class-disjoint split.

    Args:
        images: Folder, zip or tar that holds a folder of pictures for each class; or folder with train/, val/
            and test/ of such, with train.csv, val.csv and test.csv, or with several data sets.
        size: Pixels of height and width that pictures are resized to.
        grey: Whether pictures are read without color.
        ways: Classes of a task, in training and test.
        shots: Support pictures of each class.
        queries: Query pictures of each class.
        split: Fractions of the classes for training, validation and test, or a JSON file of their names;
            by default that of the folders or lists, where they have one.
        skip_corrupt: Whether pictures that can't be read are left out, instead of an error.
        within: Whether all classes of a training task are of one of several data sets, DIR/DATASET/CLASS.
    """
    form = ImageFormat(size, 1 if grey else 3)

    def learner() -> Learner:
        encoder = Conv4(in_channels=form.channels, channels=64, running_statistics=False)
        return MAML(
            Classifier(encoder, ways, dimensions=64 * (size // 16) ** 2), lr=0.1, steps=1, test_steps=5
        )

    data = folder_pool(images, form, split, skip_corrupt)
    return _images(data, form, learner, Setting(ways, shots, queries), within)


def _pretrained(name: str, size: int | None, tuned: str | None, rank: int | None) -> Backbone:
    train = int(tuned) if tuned is not None and tuned.isdecimal() else tuned
    with torch.device("cpu"):  # also where only shapes are looked at, on the device meta
        return pretrained(name, size=size, train=train, rank=rank)


def _images(
    pool: MakePool, form: ImageFormat, learner: Callable[[], Learner], setting: Setting, within: bool
) -> Recipe:
    return Recipe(
        summary="your own folders of pictures, --set images=DIR",
        paper="your data",
        pool=pool,
        item_format=form,
        learner=learner,
        train=setting,
        tasks=4,
        steps=2000,
        schedule=partial(cosine_schedule, warmup=50),
        precision="bf16-mixed",
        validation=setting,
        every=100,
        tests=(setting,),
        group=dataset_of if within else None,
    )
