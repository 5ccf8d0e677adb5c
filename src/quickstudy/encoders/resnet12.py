"""`ResNet12`, the residual network of MetaOptNet and RFS, with its DropBlock."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.kernels.convolution import channels_last
from quickstudy.encoders.pictures import check_pictures

SLOPE = 0.1
RISE = 20 * 2000
"""Training steps until DropBlock drops as much as asked for, as in the authors' code."""


@rebuildable
class ResNet12(nn.Module):
    r"""The residual network of twelve convolutions that MetaOptNet and RFS take for natural pictures.

    Four blocks of three 3×3 convolutions with batch norm, leaky ReLU of slope 0.1, a 1×1 shortcut with batch
    norm, 2×2 max-pool, and in training dropout (blocks 1 and 2) or DropBlock (blocks 3 and 4); then the mean
    over all places. D = widths[3].

    Args:
        in_channels: Number of channels of a picture, 1 for grey and 3 for colour.
        widths: Number of filters of each of the four blocks.
        drop_rate: Fraction of the activations that are dropped after each block in training, in [0, 1);
            that of DropBlock rises to it over the first 40,000 steps. 0 for none; the authors take 0.1.
        dropblock_size: Height and width of what DropBlock drops; the authors take 5 for 84×84 pictures and 2
            for 32×32. Where the activations are smaller, they are dropped as a whole.

    Raises:
        ValueError: If a number is out of range, or there are not four widths.

    Example:
        >>> ResNet12(3, (8, 16, 32, 64))(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 64])

    Reference: Lee, Maji, Ravichandran, Soatto: "Meta-learning with differentiable convex optimization", CVPR
    2019 (MetaOptNet); Tian, Wang, Krishnan, Tenenbaum, Isola: "Rethinking few-shot image classification: a
    good embedding is all you need?", ECCV 2020 (RFS). TADAM's network of this name, 64-128-256-512, is
    another one.

    Departures: leaky ReLU is applied after the max-pool, which does not change the function (both are
    monotone, so they commute; a quarter of the work). DropBlock's squares are cut to the size of the
    activations, where the authors' code divides by zero. The steps that it counts are those in training only.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 160, 320, 640),
        drop_rate: float = 0.0,
        dropblock_size: int = 5,
    ) -> None:
        super().__init__()
        if len(widths) != 4 or min(in_channels, dropblock_size, *widths) < 1 or not 0 <= drop_rate < 1:
            raise ValueError(
                f"in_channels is {in_channels}, widths {tuple(widths)}, drop_rate {drop_rate}, "
                f"dropblock_size {dropblock_size}: "
                "four widths, all sizes at least 1, and a rate in [0, 1) are needed"
            )
        self.in_channels = in_channels
        sizes = (None, None, dropblock_size, dropblock_size)
        self.blocks = nn.ModuleList(
            ResNet12Block(i, o, drop_rate, size)
            for (i, o), size in zip(pairwise([in_channels, *widths]), sizes, strict=True)
        )
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="leaky_relu")
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, C, H, W] → embeddings [B, D].

        Raises:
            ValueError: If the pictures have another shape, or are below 16×16.
        """
        check_pictures(self, x)
        x = channels_last(x)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class ResNet12Block(nn.Module):
    """Residual block of `ResNet12`: three 3×3 convolutions plus a 1×1 shortcut, then a 2×2 max-pool.

    Args:
        inputs: Number i of channels of the input.
        outputs: Number o of channels of the output.
        drop_rate: Fraction of the output that is dropped in training, in [0, 1).
        dropblock_size: Height and width of what DropBlock drops; None for plain dropout.
    """

    def __init__(
        self, inputs: int, outputs: int, drop_rate: float = 0.0, dropblock_size: int | None = None
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairwise([inputs, *[outputs] * 3])
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(3))
        self.beside, self.beside_norm = nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.drop_rate, self.dropblock_size = drop_rate, dropblock_size

    def forward(self, x: Tensor) -> Tensor:
        """Activations [B, i, H, W] → [B, o, ⌊H/2⌋, ⌊W/2⌋]."""
        y = x
        for conv, norm in zip(self.convs[:2], self.norms[:2], strict=True):
            y = F.leaky_relu(norm(conv(y)), SLOPE)
        y = self.norms[2](self.convs[2](y)) + self.beside_norm(self.beside(x))
        y = F.leaky_relu(F.max_pool2d(y, 2), SLOPE)
        if not self.training or self.drop_rate == 0:
            return y
        if self.dropblock_size is None:
            return F.dropout(y, self.drop_rate)
        # batch norm counts the steps, and this count goes into checkpoints and from process to process
        steps: Tensor = self.beside_norm.num_batches_tracked  # pyright: ignore[reportAssignmentType]
        return drop_block(y, self.drop_rate * (steps / RISE).clamp(max=1), self.dropblock_size)


def drop_block(x: Tensor, p: Tensor | float, block_size: int) -> Tensor:
    """DropBlock: dropout of whole squares of each channel; what stays is scaled up to the same mean.

    The upper left corner of a square is drawn at each place where the square fits, with probability

    γ = p / b² · H W / ((H − b + 1) (W − b + 1)).

    Args:
        x: [B, C, H, W] activations.
        p: Fraction of the activations to drop, in [0, 1), a number or a scalar; overlaps make it a
            little less.
        block_size: Height and width b of a square, at least 1; cut to H and W where these are smaller.

    Reference: Ghiasi, Lin, Le: "DropBlock: a regularization method for convolutional networks", NeurIPS 2018.
    """
    *batch, h, w = x.shape
    b = min(block_size, h, w)
    exact = torch.promote_types(x.dtype, torch.float32)
    corners = torch.rand(*batch, h - b + 1, w - b + 1, device=x.device)
    gamma = p / b**2 * (h * w) / ((h - b + 1) * (w - b + 1))
    dropped = F.max_pool2d(F.pad((corners < gamma).to(exact), [b - 1] * 4), b, stride=1)
    kept = 1 - dropped
    return x * (kept * (kept.numel() / kept.sum().clamp(min=1))).to(x.dtype)
