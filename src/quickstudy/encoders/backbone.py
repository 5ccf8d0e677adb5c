"""`Backbone`, a pretrained network as an encoder of pictures, with its own preprocessing."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
"""Ways to resize pictures, as torch names them."""


@dataclass(frozen=True)
class Preprocessing:
    """What pictures become before a pretrained network sees them.

    Args:
        resize: Height and width in pixels that pictures are brought to, or the length of the shorter side,
            the shape kept.
        crop: Height and width in pixels of the middle that is cut out then; None to cut nothing.
        mean: Mean of each channel, of pictures in [0, 1], that is subtracted.
        std: Standard deviation of each channel that is divided by then.
        interpolation: How pictures are resized, as torch names it: "nearest", "bilinear" or "bicubic".

    Raises:
        ValueError: If sizes or deviations aren't positive, or there is no such interpolation.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        """Check the arguments."""
        sides = (self.resize,) if isinstance(self.resize, int) else self.resize
        if min(*sides, *(self.crop or sides), *(self.crop or sides)) < 1:
            raise ValueError(f"resize is {self.resize} and crop {self.crop}: they must be at least 1 pixel")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}: deviations must be above 0")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation is {self.interpolation!r}: it must be nearest, bilinear or bicubic"
            )

    @property
    def side(self) -> int:
        """Side in pixels of the square pictures that lose nothing by it."""
        return self.resize if isinstance(self.resize, int) else max(self.resize)

    def applied(self, x: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] → what the network takes, [B, 3, H′, W′].

        Args:
            x: [B, 3, H, W] pictures.
        """
        height, width = x.shape[2:]
        if isinstance(self.resize, int):
            scale = self.resize / min(height, width)
            to = max(self.resize, int(height * scale)), max(self.resize, int(width * scale))
        else:
            to = self.resize
        if (height, width) != to:
            smooth: dict[str, Any] = (
                {} if self.interpolation == "nearest" else {"antialias": True, "align_corners": False}
            )
            x = F.interpolate(x, to, mode=self.interpolation, **smooth).clamp(0, 1)
        if self.crop and self.crop != to:
            down, across = (round((a - b) / 2) for a, b in zip(to, self.crop, strict=True))
            if min(down, across) < 0:  # smaller than what is cut out: black around it
                x = F.pad(x, (-across, self.crop[1] - to[1] + across, -down, self.crop[0] - to[0] + down))
            else:
                x = x[:, :, down : down + self.crop[0], across : across + self.crop[1]]
        return (x - x.new_tensor(self.mean)[:, None, None]) / x.new_tensor(self.std)[:, None, None]


class Backbone(nn.Module):
    """A pretrained network as an encoder: colour pictures in [0, 1] go in, its features come out.

    It is frozen as it is made: no parameter requires a gradient, and all layers stay in evaluation mode,
    batch norm with its own statistics, also while what is around them is trained. `unfreeze` and `low_rank`
    make parts of it trainable.

    Args:
        network: Module from what `preprocessing` makes to features: [B, D], places [B, D, H, W] or tokens
            [B, L, D], of which the mean is taken.
        preprocessing: What is done to pictures first.
        source: Where the network is from, such as "timm:resnet18".

    Attributes:
        dimensions: Length D of the features.
        preprocessing: What is done to pictures first.
        source: Where the network is from.

    Raises:
        ValueError: If what the network gives is of no such shape.
    """

    in_channels = 3

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, source: str) -> None:
        super().__init__()
        self.network, self.preprocessing, self.source = network, preprocessing, source
        self.requires_grad_(False)
        self.eval()
        with torch.no_grad():
            side = preprocessing.side
            device = next((p.device for p in network.parameters()), torch.device("cpu"))
            self.dimensions = self(torch.zeros(1, 3, side, side, device=device)).shape[1]

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode, but for what is frozen, which stays in evaluation mode.

        Args:
            mode: Whether to train, rather than to evaluate.
        """
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            if (parameters or module is self) and not any(p.requires_grad for p in parameters):
                for inner in module.modules():
                    inner.training = False
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1], of any size → features [B, D].

        Args:
            x: [B, 3, H, W] pictures.

        Raises:
            ValueError: If the pictures have another shape.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            grey = "; repeat the channel of grey ones, x.expand(-1, 3, -1, -1)" if x.ndim == 4 else ""
            raise ValueError(
                f"{self.source} takes colour pictures [B, 3, H, W] in [0, 1], not {list(x.shape)}{grey}"
            )
        x = self.preprocessing.applied(x).contiguous(memory_format=torch.channels_last)
        z: Any = self.network(x)
        if not isinstance(z, Tensor) or z.ndim not in (2, 3, 4) or len(z) != len(x):
            shape = list(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(
                f"{self.source} gives {shape} for {len(x)} pictures: features must be [B, D], [B, D, H, W] "
                "or [B, L, D]; name a network that gives such"
            )
        return z.mean((2, 3)) if z.ndim == 4 else z.mean(1) if z.ndim == 3 else z
