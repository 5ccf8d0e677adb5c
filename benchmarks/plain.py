"""What we are compared with: the encoder as most code bases write it, and the data both sides see."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.data.glyphs import glyphs
from quickstudy.data.omniglot import ARCHIVES, omniglot
from quickstudy.data.pool import ClassPool, data_root
from quickstudy.encoders import Conv4
from quickstudy.layers import channels_last as to_channels_last


class PlainConv4(nn.Module):
    """Four times convolution with bias, batch norm, ReLU, max-pool.

    Args:
        channels_last: in that memory layout, instead of the usual NCHW.
    """

    def __init__(self, channels_last: bool = False) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
                for i, o in pairwise([1, 64, 64, 64, 64])
            )
        )
        self.channels_last = channels_last
        if channels_last:
            self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 28, 28] → [B, 64]."""
        return self.blocks(to_channels_last(x) if self.channels_last else x).flatten(1)

    @torch.no_grad()
    def take_weights(self, ours: Conv4) -> "PlainConv4":
        """Compute the same function as `ours`."""
        blocks: Any = self.blocks
        for (conv, norm, *_), our_conv, our_norm in zip(blocks, ours.convs, ours.norms, strict=True):
            conv.weight.copy_(our_conv.weight)
            conv.bias.zero_()  # ours has none: batch norm would subtract it
            norm.load_state_dict(our_norm.state_dict())
        return self


def encoder(kind: str, seed: int = 0) -> nn.Module:
    """The encoder "plain", "channels-last" or "ours", each with the same weights for the same seed."""
    torch.manual_seed(seed)
    ours = Conv4()
    return ours if kind == "ours" else PlainConv4(kind == "channels-last").take_weights(ours)


def omniglot_present() -> bool:
    """Whether Omniglot lies in the data root; nothing is fetched."""
    return all((data_root() / "omniglot" / name).exists() for name in ARCHIVES)


def characters() -> ClassPool:
    """Omniglot's training characters of the Vinyals split if Omniglot is there, else those of the glyphs."""
    return (omniglot() if omniglot_present() else glyphs()).split("train")
