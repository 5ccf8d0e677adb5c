"""Test-time augmentation: embeddings averaged over flips, rotations, shifts or speeds of an item."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable


def _played(x: Tensor, factor: float) -> Tensor:
    """Clips [B, samples] played `factor` times as fast, about their middle, and padded with silence."""
    made = F.interpolate(x[:, None], round(x.shape[1] / factor), mode="linear", align_corners=True)[:, 0]
    room = x.shape[1] - made.shape[1]
    return F.pad(made, (room // 2, room - room // 2))


class TestTimeAugmentation(nn.Module, ABC):
    r"""An encoder with test-time augmentation: the mean embedding of an item and V variants of it.

    $$x \mapsto \frac{1}{1 + V}\Big(f(x) + \sum_{v=1}^V f(x_v)\Big)$$

    The differences between variants, such as the exact start of a word, then matter less. It wraps an encoder
    after training, and is the same function in training and evaluation mode.

    Args:
        encoder: Encoder f, any module from [B, ...] to [B, D].
    """

    __test__ = False  # pytest would collect a class of this name as tests

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def variants(self, x: Tensor) -> Sequence[Tensor]:
        """Variants x₁ … x_V of items, each of the same shape.

        Args:
            x: [B, ...] items.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Items [B, ...] → mean embeddings [B, D]."""
        z: Tensor = self.encoder(x)
        others = self.variants(x)
        for other in others:
            z = z + self.encoder(other)
        return z / (1 + len(others))


@rebuildable
class ShiftSpeedTTA(TestTimeAugmentation):
    """Clips [B, samples] as they are, a little earlier and later, and a little slower and faster.

    Args:
        encoder: Any module from clips [B, samples] to [B, D].
        shift: Shift to earlier and later, as a fraction of the clip's length.
        speed: Change to slower and faster, as a fraction of the speed; it changes the pitch as well.
        reach: Number n of multiples of shift and speed: 1, 2, … n times each.

    Raises:
        ValueError: If n < 1, or if n times the shift or the speed isn't in (0, 0.5].
    """

    def __init__(self, encoder: nn.Module, shift: float = 0.04, speed: float = 0.07, reach: int = 1) -> None:
        super().__init__(encoder)
        if reach < 1 or not (0 < reach * shift <= 0.5 and 0 < reach * speed <= 0.5):
            raise ValueError(
                f"shift is {shift}, speed {speed} and reach {reach}: reach must be at least 1, and "
                "reach × shift and reach × speed must lie in (0, 0.5]"
            )
        self.shift, self.speed, self.reach = shift, speed, reach

    def variants(self, x: Tensor) -> Sequence[Tensor]:
        """The 4n clips that are earlier, later, slower and faster."""
        signs = [sign * k for k in range(1, self.reach + 1) for sign in (-1, 1)]
        moved = [round(k * self.shift * x.shape[1]) for k in signs]
        return [
            *(F.pad(x, (by, -by)) for by in moved),
            *(_played(x, 1 + k * self.speed) for k in signs),
        ]


@rebuildable
class FlipTTA(TestTimeAugmentation):
    """Pictures [B, C, H, W] and their mirror images: faces are nearly symmetric."""

    def variants(self, x: Tensor) -> Sequence[Tensor]:
        """The mirror images."""
        return [x.flip(3)]


@rebuildable
class RotateTTA(TestTimeAugmentation):
    """Pictures [B, C, H, W] as they are and rotated a little both ways: handwriting is rarely upright.

    Args:
        encoder: Any module from pictures [B, C, H, W] to [B, D].
        degrees: Angle of rotation in degrees, in (0, 45].

    Raises:
        ValueError: If the angle isn't in (0, 45].
    """

    def __init__(self, encoder: nn.Module, degrees: float = 8.0) -> None:
        super().__init__(encoder)
        if not 0 < degrees <= 45:
            raise ValueError(f"degrees is {degrees}: it must lie in (0, 45]")
        self.degrees = degrees

    def variants(self, x: Tensor) -> Sequence[Tensor]:
        """The pictures rotated to the left, and to the right."""
        return [_rotated(x, angle) for angle in (-self.degrees, self.degrees)]


def _rotated(x: Tensor, degrees: float) -> Tensor:
    """Pictures rotated clockwise about their center, and padded with 0."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    wide = x.shape[3] / x.shape[2]  # both axes run from −1 to 1
    # the grid says where each pixel comes from, so it takes the inverse
    matrix = torch.tensor([[[cos, sin / wide, 0.0], [-sin * wide, cos, 0.0]]]).to(x)
    grid = F.affine_grid(matrix, [1, *x.shape[1:]], align_corners=False)
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=False)
