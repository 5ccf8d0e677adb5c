"""Embeddings averaged over flips, turns, shifts and speeds of an item."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable


def _played(x: Tensor, factor: float) -> Tensor:
    """Clips [B, samples] so many times as fast, about their middle; silence where they end."""
    made = F.interpolate(x[:, None], round(x.shape[1] / factor), mode="linear", align_corners=True)[:, 0]
    room = x.shape[1] - made.shape[1]
    return F.pad(made, (room // 2, room - room // 2))


class TestTimeAugmentation(nn.Module, ABC):
    r"""An encoder that embeds each item and variants of it, and takes the mean.

    $$x \mapsto \frac{1}{1 + V}\Big(f(x) + \sum_{v=1}^V f(x_v)\Big)$$

    In what variants differ, such as where exactly a word begins, matters less then. It is put around an
    encoder after training, and means the same in training and evaluation.

    Args:
        encoder: f, any module from [B, ...] to [B, D].
    """

    __test__ = False  # for pytest, which takes classes of such names for tests

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def variants(self, x: Tensor) -> Sequence[Tensor]:
        """Others that items [B, ...] might as well have been, each of their shape."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] items → [B, D] embeddings."""
        z: Tensor = self.encoder(x)
        others = self.variants(x)
        for other in others:
            z = z + self.encoder(other)
        return z / (1 + len(others))


@rebuildable
class ShiftSpeedTTA(TestTimeAugmentation):
    """Clips [B, samples] as they are, a little earlier and later, and a little slower and faster.

    Args:
        encoder: any module from clips [B, samples] to [B, D].
        shift: how much earlier and later, as a share of the clip's length.
        speed: how much slower and faster, as a share of the speed; it changes the pitch as well.
        reach: n, how many multiples of both there are: clips so far off, twice as far, … n times as far.

    Raises:
        ValueError: if n < 1, or n times either isn't in (0, 0.5].
    """

    def __init__(self, encoder: nn.Module, shift: float = 0.04, speed: float = 0.07, reach: int = 1) -> None:
        super().__init__(encoder)
        if reach < 1 or not (0 < reach * shift <= 0.5 and 0 < reach * speed <= 0.5):
            raise ValueError(
                f"shift is {shift}, speed {speed} and reach {reach}: reach must be at least 1, and "
                "the others so many times lie in (0, 0.5]"
            )
        self.shift, self.speed, self.reach = shift, speed, reach

    def variants(self, x: Tensor) -> Sequence[Tensor]:
        """Earlier, later, slower, faster: 4 n."""
        signs = [sign * k for k in range(1, self.reach + 1) for sign in (-1, 1)]
        moved = [round(k * self.shift * x.shape[1]) for k in signs]
        return [
            *(F.pad(x, (by, -by)) for by in moved),
            *(_played(x, 1 + k * self.speed) for k in signs),
        ]


@rebuildable
class FlipTTA(TestTimeAugmentation):
    """Pictures [B, C, H, W] and their mirror images: faces are much alike on both sides."""

    def variants(self, x: Tensor) -> Sequence[Tensor]:
        """The mirror image."""
        return [x.flip(3)]


@rebuildable
class RotateTTA(TestTimeAugmentation):
    """Pictures [B, C, H, W] as they are and turned a little both ways: nobody writes quite upright.

    Args:
        encoder: any module from pictures to [B, D].
        degrees: how far.

    Raises:
        ValueError: if degrees aren't in (0, 45].
    """

    def __init__(self, encoder: nn.Module, degrees: float = 8.0) -> None:
        super().__init__(encoder)
        if not 0 < degrees <= 45:
            raise ValueError(f"degrees is {degrees}: it must lie in (0, 45]")
        self.degrees = degrees

    def variants(self, x: Tensor) -> Sequence[Tensor]:
        """Turned to the left, and to the right."""
        return [_rotated(x, angle) for angle in (-self.degrees, self.degrees)]


def _rotated(x: Tensor, degrees: float) -> Tensor:
    """Pictures turned clockwise about their middle, with 0 where they end."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    wide = x.shape[3] / x.shape[2]  # both axes run from −1 to 1
    # the grid says where each pixel comes from, so it takes the inverse
    matrix = torch.tensor([[[cos, sin / wide, 0.0], [-sin * wide, cos, 0.0]]]).to(x)
    grid = F.affine_grid(matrix, [1, *x.shape[1:]], align_corners=False)
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=False)
