"""`Conv4`, the standard encoder of few-shot learning for small pictures, and RFS's one of the same name."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.adapt import Tensors
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.kernels.conv4_fused import conv4_per_task
from quickstudy.core.kernels.convolution import channels_last
from quickstudy.encoders.pictures import check_pictures


@rebuildable
class Conv4(nn.Module):
    """The four-block convolutional encoder of the few-shot literature.

    Four blocks of 3×3 convolution, batch norm, ReLU and 2×2 max-pool; the output is flattened. 28×28
    pictures give D = `outputs`, 84×84 pictures give D = 25 × `outputs`.

    Args:
        in_channels: Number of channels of a picture, 1 for grey and 3 for colour.
        channels: Number of filters of each convolution.
        running_statistics: Whether batch norm keeps running statistics and uses them in evaluation. If not,
            it always uses batch statistics, as learners with an inner loop require.
        outputs: Number of filters of the last convolution; the same as of the others by default.

    Raises:
        ValueError: If a number is below 1.

    Reference: Vinyals et al. 2016; Snell et al. 2017.

    Departures, neither of which changes the function: ReLU is applied after the max-pool (both are
    monotone, so they commute; a quarter of the work), and the convolutions have no bias (the batch norm that
    follows would subtract it). Weights and activations are in channels-last layout, in which convolutions are
    fastest; in float32, torch's batch norm has larger rounding errors there (1/σ of the first layer to about
    1e-3, measured).
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 64,
        running_statistics: bool = True,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * 3, channels if outputs is None else outputs]
        if min(widths) < 1:
            raise ValueError(
                f"in_channels is {in_channels}, channels {channels}, outputs {outputs}: "
                "each must be at least 1"
            )
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(o, track_running_stats=running_statistics) for o in widths[1:]
        )
        self.in_channels = in_channels
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, C, H, W] in [0, 1] → embeddings [B, D]."""
        check_pictures(self, x)
        x = channels_last(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(F.max_pool2d(norm(conv(x)), 2))
        return x.flatten(1)

    def forward_per_task(self, parameters: Tensors, x: Tensor) -> Tensor:
        """`forward` for T tasks, each with its own parameters: [T, B, C, H, W] → [T, B, D].

        Args:
            parameters: Parameters of the module by name, each [T, ...].
            x: [T, B, C, H, W] pictures in [0, 1].
        """
        check_pictures(self, x[0])
        return conv4_per_task(parameters, x)


@rebuildable
class AveragedConv4(nn.Module):
    """The four-block convolutional encoder of RFS: three max-pools, and the mean over all places in the end.

    Three blocks of 3×3 convolution, batch norm, ReLU and 2×2 max-pool, a fourth without the pool. Pictures of
    any size give D = `channels`.

    Args:
        in_channels: Number of channels of a picture, 1 for grey and 3 for colour.
        channels: Number of filters of each convolution.

    Raises:
        ValueError: If a number is below 1.

    Example:
        >>> AveragedConv4()(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 64])

    Reference: Tian, Wang, Krishnan, Tenenbaum, Isola: "Rethinking few-shot image classification: a good
    embedding is all you need?", ECCV 2020.

    Departures, neither of which changes the function: ReLU after the max-pool and convolutions without a
    bias, as in `Conv4`.
    """

    def __init__(self, in_channels: int = 3, channels: int = 64) -> None:
        super().__init__()
        if min(in_channels, channels) < 1:
            raise ValueError(f"in_channels is {in_channels}, channels {channels}: each must be at least 1")
        widths = [in_channels, *[channels] * 4]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(4))
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.get_parameter("weight"), mode="fan_out", nonlinearity="relu")
        self.in_channels = in_channels
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, C, H, W] in [0, 1] → embeddings [B, D].

        Raises:
            ValueError: If the pictures have another shape, or are below 8×8.
        """
        check_pictures(self, x, least=8)
        x = channels_last(x)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            x = F.relu(F.max_pool2d(x, 2) if i < 3 else x)
        return x.mean((2, 3))
