"""Learners on pretrained networks, by name: `photos`, `timm:…`, `torchvision:…`, `hf:…`, `onnx:…`."""

import os
from pathlib import Path

from quickstudy.core.blueprint import NotRebuildableError, blueprint
from quickstudy.core.checkpoint import Manifest
from quickstudy.core.learner import Learner
from quickstudy.data.formats.images import ImageFormat
from quickstudy.encoders.pretrained import PHOTOS, is_pretrained_name, pretrained
from quickstudy.metric.pretrained_features import PretrainedFeatures
from quickstudy.training.card import Card

PHOTOGRAPHS = Card(
    items=1200,
    classes=80,
    size=None,
    statistics={
        "brightness": (0.3, 0.47, 0.71),
        "contrast": (0.115, 0.19, 0.3),
        "shades": (0.55, 0.95, 1.0),
        "color": (-0.3, 0.13, 0.53),
    },
)
"""What photographs look like: pictures of the training and validation classes of CIFAR-FS, enlarged. The ends
are half way from the middle to the outermost of them, where so the limit lies, for these are pictures of
anything: ink on paper and empty pictures are outside, grey photographs are not. Sharpness is left out, as
they are small."""
WHAT = "photographs of anything, as they are"
"""What `photos` is for."""
TRAINED_ON = "pretrained on ImageNet"
"""What is to be said of its figures: they never stand beside those of models trained from scratch."""


def is_pretrained(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether a name stands for a pretrained network; a checkpoint that lies here under it goes before.

    A folder called photos that holds no training is taken for pictures, and the name for the network.

    Args:
        name_or_path: Name or path, as `load_learner` takes it.
    """
    path = Path(name_or_path)
    here = path.is_file() or (path / "best.safetensors").exists() or (path / "last.safetensors").exists()
    return is_pretrained_name(str(name_or_path)) and not here


def pretrained_learner(name: str) -> tuple[Learner, Manifest]:
    """A pretrained network with a head that needs no training, and what stands for a manifest.

    Args:
        name: Name of the network, see `pretrained`.

    Raises:
        ValueError: As `pretrained` does.
    """
    encoder = pretrained(name)
    learner = PretrainedFeatures(encoder).eval()
    side = encoder.preprocessing.side
    items = ImageFormat(side, 3)
    try:
        plan = blueprint(learner)
    except NotRebuildableError:
        plan = {"class": type(learner).__name__}  # a checkpoint doesn't have others' networks fetched
    facts = {"learner": plan, "train": {}, "validation": None, "steps": 0}
    manifest: Manifest = {"pretrained": name, "fit": facts, "items": items.as_dict(), "figures": []}
    if name == PHOTOS:
        manifest["card"] = PHOTOGRAPHS.as_dict()
    return learner, manifest
