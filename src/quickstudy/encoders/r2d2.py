"""`R2D2Encoder`, the convolutional encoder of R2-D2, whose last two blocks make the embedding."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.kernels.convolution import channels_last
from quickstudy.encoders.pictures import check_pictures


@rebuildable
class R2D2Encoder(nn.Module):
    """The four-block convolutional encoder of R2-D2: the outputs of the last two blocks side by side.

    Four blocks of 3×3 convolution, batch norm, 2×2 max-pool and leaky ReLU of slope 0.1, with dropout after
    the third and the fourth. The fourth pool has stride 1; the third block's output goes through another one
    and stands before the fourth's. 32×32 pictures give D = 9 · (widths[2] + widths[3]), which is 1,152 at 64
    filters.

    Args:
        in_channels: Number of channels of a picture, 1 for grey and 3 for colour.
        widths: Number of filters of each of the four convolutions; the authors' wide network has 96, 192,
            384, 512, their small one 64 of each.
        dropout: Probability with which an activation is dropped in training, in [0, 1); the authors take 0.4
            for both networks on CIFAR-FS and 0.1 on miniImageNet.

    Raises:
        ValueError: If a number is out of range, or there are not four widths.

    Example:
        >>> R2D2Encoder()(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 1152])

    Reference: Bertinetto, Henriques, Torr, Vedaldi: "Meta-learning with differentiable closed-form solvers",
    ICLR 2019.

    Departures: the convolutions have no bias, which does not change the function (the batch norm that follows
    would subtract it).
    """

    def __init__(
        self, in_channels: int = 3, widths: Sequence[int] = (64, 64, 64, 64), dropout: float = 0.4
    ) -> None:
        super().__init__()
        if len(widths) != 4 or min(in_channels, *widths) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"in_channels is {in_channels}, widths {tuple(widths)}, dropout {dropout}: "
                "four widths, all sizes at least 1, and a dropout in [0, 1) are needed"
            )
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairwise([in_channels, *widths])
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for o in widths)
        self.in_channels, self.dropout = in_channels, dropout
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, C, H, W] in [0, 1] → embeddings [B, D].

        Raises:
            ValueError: If the pictures have another shape, or are below 16×16.
        """
        check_pictures(self, x)
        x = third = channels_last(x)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            third = x  # in the end the input of the fourth block
            x = F.leaky_relu(F.max_pool2d(norm(conv(x)), 2, stride=2 if i < 3 else 1), 0.1)
            if i >= 2:
                x = F.dropout(x, self.dropout, self.training)
        return torch.cat([F.max_pool2d(third, 2, stride=1).flatten(1), x.flatten(1)], 1)
