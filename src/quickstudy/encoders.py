"""Encoders: modules from items [B, ...] to embeddings [B, D]. Any other `nn.Module` does as well."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv4(nn.Module):
    """The four-block convolutional encoder of the few-shot literature.

    Four times: 3×3 convolution, batch norm, ReLU, 2×2 max-pool; then flattened. 28×28 pictures
    give D = `channels`, 84×84 give D = 25 × `channels`.

    Args:
        in_channels: channels of a picture, 1 for grey and 3 for colour.
        channels: filters of each convolution.

    Reference: Vinyals et al. 2016; Snell et al. 2017.

    Departures, neither of which changes the function: ReLU is applied after the max-pool (both are
    monotone, so they commute; a quarter of the work), and the convolutions carry no bias (the batch
    norm that follows would subtract it). Weights and activations are laid out channels-last, which is what
    the processors' convolutions are fastest on; in float32 torch's batch norm rounds more coarsely there (1/σ
    of the first layer to about 1e-3, measured).
    """

    def __init__(self, in_channels: int = 1, channels: int = 64) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * 4
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(4))
        self.in_channels = in_channels
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] pictures in [0, 1] → [B, D] embeddings."""
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < 16:
            raise ValueError(
                f"Conv4 takes pictures [B, {self.in_channels}, H, W] of at least 16×16, "
                f"not {list(x.shape)}: choose in_channels and the picture size to fit each other"
            )
        x = _channels_last(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(F.max_pool2d(norm(conv(x)), 2))
        return x.flatten(1)


def _channels_last(x: Tensor) -> Tensor:
    """The same pictures in channels-last strides.

    With one channel `.contiguous(memory_format=...)` sees nothing to do and leaves strides that make
    the convolution choose the slow layout; so the strides are forced.
    """
    _, c, h, w = x.shape
    if c == 1:
        return x.contiguous().as_strided(x.shape, (h * w, 1, w, 1))
    return x.contiguous(memory_format=torch.channels_last)
