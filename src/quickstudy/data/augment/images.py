"""Random changes to the items that are trained on, which leave their class what it is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core.pixels import pixel_places

Augment = Callable[[Tensor, np.random.Generator], Tensor]
"""From items [B, ...] and a source of randomness to as many of the same shape, on the same device."""


@dataclass(frozen=True)
class Affine:
    """Each picture turned, sheared, scaled and shifted at random, about its middle.

    Args:
        degrees: rotation, uniform in ± so many.
        shear: of either axis, uniform in ± so much.
        scale: of either axis, uniform between these two.
        shift: of either axis in pixels, uniform in ± so many.
        probability: of each of these, for each picture and axis.
        padding: what comes in at the edges: "zeros", as around ink, or "border", the nearest pixel.

    Raises:
        ValueError: if a range is negative, a scale not positive, or the probability outside 0 … 1.

    Reference: Koch, Zemel, Salakhutdinov 2015, §3.3, whose numbers these are, for pictures of 105 × 105.
    """

    degrees: float = 10.0
    shear: float = 0.3
    scale: tuple[float, float] = (0.8, 1.2)
    shift: float = 2.0
    probability: float = 0.5
    padding: Literal["zeros", "border"] = "zeros"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if min(self.degrees, self.shear, self.shift) < 0 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"{self}: degrees, shear and shift must be at least 0, and scale two rising positive numbers"
            )
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is {self.probability}: it must lie in 0 … 1")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change square pictures [B, C, H, H], floats."""

        def draw(low: float, high: float, neutral: float, shape: tuple[int, ...]) -> Tensor:
            drawn = rng.uniform(low, high, shape)
            return torch.from_numpy(np.where(rng.random(shape) < self.probability, drawn, neutral))

        b, one = len(x), torch.ones(len(x)).double()
        angle = draw(-self.degrees, self.degrees, 0, (b,)).deg2rad()
        shear = draw(-self.shear, self.shear, 0, (2, b))
        scale = draw(*self.scale, 1, (b, 2))
        shift = draw(-self.shift, self.shift, 0, (b, 2, 1)) * 2 / x.shape[-1]
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(b, 2, 2)
        lean = torch.stack([one, shear[0], shear[1], one], 1).view(b, 2, 2)
        # the grid says where each pixel comes from, so it takes the inverse
        back = torch.linalg.inv(turn @ lean @ torch.diag_embed(scale))
        matrix = torch.cat([back, -back @ shift], 2).to(x)
        places = F.pad(pixel_places(x.shape[2], x.shape[3], x), (0, 1), value=1.0)
        # one product for all: F.affine_grid's batched one takes a hundred times as long on a CPU
        grid = torch.einsum("hwk,bjk->bhwj", places, matrix)
        return F.grid_sample(x, grid, padding_mode=self.padding, align_corners=False)


@dataclass(frozen=True)
class Elastic:
    r"""Each picture bent at random: what is at p comes from p + u(p), with u smooth.

    u is drawn at the nodes of a coarse grid over the whole picture, from a normal distribution, and
    interpolated between them by cubics. How strong it is differs by picture too, uniformly from nothing.

    Args:
        amplitude: the largest standard deviation of u at the nodes, on either axis, in pixels.
        nodes: of the grid, along a side.

    Raises:
        ValueError: if the amplitude is negative, or there are fewer than two nodes.

    Reference: Simard, Steinkraus, Platt 2003, "Best practices for convolutional neural networks applied to
    visual document analysis".

    Departures: there a displacement of each pixel's own is smoothed by a Gaussian.
    """

    amplitude: float = 2.5
    nodes: int = 4

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.amplitude < 0 or self.nodes < 2:
            raise ValueError(f"{self}: the amplitude must be at least 0, and nodes at least 2")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change pictures [B, C, H, W], floats; 0 comes in at the edges."""
        height, width = x.shape[2:]
        pixels = rng.standard_normal((len(x), 2, self.nodes, self.nodes)) * rng.uniform(
            0, self.amplitude, (len(x), 1, 1, 1)
        )
        coarse = torch.from_numpy(pixels).to(x) * 2 / torch.tensor([width, height]).to(x)[:, None, None]
        u = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
        places = pixel_places(height, width, x) + u.permute(0, 2, 3, 1)
        return F.grid_sample(x, places, align_corners=False)


@dataclass(frozen=True)
class Alike:
    """All items changed alike: every draw of the change is the same for all of them.

    With `Episodes(augment_classes=…)` all classes of a task are changed alike, and so a task is of letters as
    like each other as they were, but of another alphabet: a mirrored, a slanted or a wider one.

    Args:
        change: of pictures, of whatever many channels: here the items stand in for these.
    """

    change: Augment

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change pictures [..., C, H, W]."""
        return self.change(x.reshape(1, -1, *x.shape[-2:]), rng).reshape(x.shape)


@dataclass(frozen=True)
class Flip:
    """Each picture mirrored left to right at random, as faces may be and letters may not.

    Args:
        probability: for each picture.
    """

    probability: float = 0.5

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change pictures [B, C, H, W]."""
        mirrored = torch.from_numpy(rng.random(len(x)) < self.probability).to(x.device)
        return torch.where(mirrored[:, None, None, None], x.flip(3), x)


@dataclass(frozen=True)
class Light:
    """The brightness and contrast of each picture changed at random: x ← (x − m) c + m + b, m its mean.

    Args:
        brightness: b, uniform in ± so much, where black is 0 and white 1.
        contrast: c, uniform in 1 ± so much.
    """

    brightness: float = 0.2
    contrast: float = 0.4

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change pictures [B, C, H, W]; they stay in [0, 1]."""
        b, c = (
            torch.from_numpy(rng.uniform(low, high, (len(x), 1, 1, 1))).to(x)
            for low, high in ((-self.brightness, self.brightness), (1 - self.contrast, 1 + self.contrast))
        )
        mean = x.mean((1, 2, 3), keepdim=True)
        return ((x - mean) * c + mean + b).clamp_(0, 1)


@dataclass(frozen=True)
class Erase:
    """A rectangle of each picture made grey at random, so that no one feature is relied upon.

    Args:
        probability: for each picture.
        sides: the least and the greatest length of a side, as a share of the picture's.

    Reference: Zhong et al. 2020, "Random Erasing Data Augmentation".
    """

    probability: float = 0.5
    sides: tuple[float, float] = (0.15, 0.45)

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change pictures [B, C, H, W]."""
        hidden: Tensor | None = None
        for length in x.shape[2:]:  # an interval of rows, and one of columns
            side = rng.uniform(*self.sides, len(x)) * length
            start = rng.uniform(0, length - side)
            place = np.arange(length)
            within = torch.from_numpy((place >= start[:, None]) & (place < (start + side)[:, None]))
            hidden = within if hidden is None else hidden[:, :, None] & within[:, None, :]
        assert hidden is not None
        erased = hidden & torch.from_numpy(rng.random(len(x)) < self.probability)[:, None, None]
        return torch.where(erased[:, None].to(x.device), 0.5, x)


@dataclass(frozen=True)
class Chain:
    """Several changes, one after the other.

    Args:
        changes: in their order.
    """

    changes: tuple[Augment, ...]

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change items [B, ...]."""
        for change in self.changes:
            x = change(x, rng)
        return x


FACES = Chain((Affine(8.0, 0.05, (0.85, 1.15), 4.0, 0.9, "border"), Flip(), Light(), Erase()))
"""What may happen to the picture of a face without its becoming somebody else's."""
