"""`ResNet`, a small residual network for pictures and spectrograms."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.arguments import check_whole
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.kernels.convolution import channels_last


class ResidualBlock(nn.Module):
    """Residual block: two 3×3 convolutions plus a 1×1 shortcut, then a 2×2 max-pool.

    The sum is pooled before it is normalised, which is a quarter of the work.

    Args:
        inputs: Number i of channels of the input.
        outputs: Number o of channels of the output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.beside = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.between, self.last = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Activations [B, i, H, W] → [B, o, H/2, W/2], with odd sizes rounded up."""
        y = self.second(F.relu(self.between(self.first(x)))) + self.beside(x)
        return F.relu(self.last(F.max_pool2d(y, 2, ceil_mode=True)))


@rebuildable
class ResNet(nn.Module):
    """A small residual network for faces and spectrograms, of any height and width.

    A 5×5 convolution of stride 2, then one residual block for each further width, which halves height and
    width; then average pooling to a coarse grid, dropout, and a linear layer with batch norm to D numbers.

    Args:
        in_channels: Number of channels of the input: 1 for grey pictures and spectrograms, 3 for colour.
        widths: Number of filters of the first convolution and of each block.
        dimensions: Length D of an embedding.
        grid: Rows and columns of the grid to which the last features are averaged. Aligned faces need several
            of both, spectrograms of words several columns, which are time; (1, 1) discards all positions.
        dropout: Probability with which a feature is dropped in training, in [0, 1].

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
        check_whole(1, in_channels=in_channels, dimensions=dimensions, rows=grid[0], columns=grid[1])
        if min(widths) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"widths is {tuple(widths)}, dropout {dropout}: widths must be at least 1, dropout in [0, 1)"
            )
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
            return_features: Whether the embedding is followed by the F = widths[-1] · rows · columns features
                from which the linear layer computes it, without dropout.

        Returns:
            [B, D] embeddings; with their features, [B, D + F].

        Raises:
            ValueError: If the input has another shape.
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
    """An encoder that returns each embedding followed by its features, for `ConcatFeatures`.

    Args:
        encoder: Any module that takes `return_features=True`, such as a `ResNet`.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """Items [B, ...] → embeddings with features [B, D + F]."""
        return self.encoder(x, return_features=True)
