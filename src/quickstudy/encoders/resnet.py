"""ResNet: a small residual network for pictures and spectrograms."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.kernels.convolution import channels_last


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a 1×1 one, then a 2×2 max-pool: [B, i, H, W] → [B, o, H/2, W/2].

    The sum is pooled first and normalised then, which is a quarter of the work.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.beside = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.between, self.last = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, i, H, W] → [B, o, H/2, W/2], odd sizes rounded up."""
        y = self.second(F.relu(self.between(self.first(x)))) + self.beside(x)
        return F.relu(self.last(F.max_pool2d(y, 2, ceil_mode=True)))


@rebuildable
class ResNet(nn.Module):
    """A small residual network for faces and spectrograms, of any height and width.

    A 5×5 convolution of stride 2, one residual block for each further width, each of which halves height and
    width; the mean over a coarse grid, dropout, and a linear layer with batch norm to D numbers.

    Args:
        in_channels: 1 for grey pictures and spectrograms, 3 for colour.
        widths: filters of the first convolution and of each block.
        dimensions: D.
        grid: rows and columns that the last features are averaged to. Aligned faces want several of both,
            (1, 1) forgets where things are, and spectrograms of words want columns, which are time, in order.
        dropout: share of the features that are left out in training.

    Reference: blocks after He et al. 2016; the last layers after Deng et al. 2019 (ArcFace).
    """

    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (16, 32, 64, 128),
        dimensions: int = 128,
        grid: tuple[int, int] = (4, 4),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.grid, self.dropout = in_channels, grid, dropout
        self.stem = nn.Conv2d(in_channels, widths[0], 5, stride=2, padding=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList(ResidualBlock(i, o) for i, o in pairwise(widths))
        self.last = nn.Linear(widths[-1] * grid[0] * grid[1], dimensions, bias=False)
        self.last_norm = nn.BatchNorm1d(dimensions)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        """Embed pictures or spectrograms.

        Args:
            x: [B, C, H, W] pictures in [0, 1], or spectrograms.
            return_features: Whether what the linear layer is given comes out as well, behind the embedding:
                F = widths[-1] · rows · columns features, none of them left out.

        Returns:
            [B, D] embeddings, or [B, D + F] with their features.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"ResNet takes [B, {self.in_channels}, H, W], not {list(x.shape)}: choose in_channels to fit"
            )
        x = F.relu(self.stem_norm(self.stem(channels_last(x))))
        for block in self.blocks:
            x = block(x)
        f = F.adaptive_avg_pool2d(x, self.grid).flatten(1)
        z = self.last_norm(self.last(F.dropout(f, self.dropout, self.training)))
        return torch.cat([z, f], 1) if return_features else z


@rebuildable
class WithFeatures(nn.Module):
    """An encoder that gives its features behind the embedding, for `ConcatFeatures`.

    Args:
        encoder: Any module that takes `return_features=True`, such as a `ResNet`.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] items → [B, D + F] embeddings and features."""
        return self.encoder(x, return_features=True)
