"""What we are compared with: the encoder as most code bases write it, and the data both sides see."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from quickstudy.core.kernels.convolution import channels_last as to_channels_last
from quickstudy.data.cache import data_root
from quickstudy.data.datasets.glyphs import glyphs
from quickstudy.data.datasets.omniglot import ARCHIVES, omniglot
from quickstudy.data.pool import ClassPool
from quickstudy.encoders.conv4 import Conv4


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


def plain_relation_encoder() -> nn.Sequential:
    """The encoder of relation networks as `relation_encoder`, but with bias, in NCHW, its maps not flattened.

    [B, 1, 28, 28] → [B, 64, 5, 5].
    """
    return nn.Sequential(
        *(
            layer
            for i in range(4)
            for layer in (
                nn.Conv2d(64 if i else 1, 64, 3, padding=0 if i < 2 else 1),
                nn.BatchNorm2d(64),
                nn.ReLU(),
                *([nn.MaxPool2d(2)] if i < 2 else []),
            )
        )
    )


def plain_comparison() -> nn.Sequential:
    """The comparing network of relation networks, of concatenated maps: [B, 128, 5, 5] → [B, 1] in 0 … 1."""
    blocks = [
        layer
        for channels in (128, 64)
        for layer in (
            nn.Conv2d(channels, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
    ]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())


@torch.no_grad()
def take_weights(plain: nn.Module, ours: nn.Module) -> nn.Module:
    """Give a module the weights of ours, each of its layers those of the one that does the same there."""
    for kind in (nn.Conv2d, nn.BatchNorm2d, nn.Linear):
        layers = ([m for m in module.modules() if isinstance(m, kind)] for module in (plain, ours))
        for to, of in zip(*layers, strict=True):
            to.load_state_dict(of.state_dict(), strict=kind is not nn.Conv2d)
            if kind is nn.Conv2d:
                to.bias.zero_()  # ours has none: batch norm would subtract it
    return plain


def encoder(kind: str, seed: int = 0) -> nn.Module:
    """The encoder "plain", "channels-last" or "ours", each with the same weights for the same seed."""
    torch.manual_seed(seed)
    ours = Conv4()
    return ours if kind == "ours" else take_weights(PlainConv4(kind == "channels-last"), ours)


def omniglot_present() -> bool:
    """Whether Omniglot lies in the data root; nothing is fetched."""
    return all((data_root() / "omniglot" / name).exists() for name in ARCHIVES)


def characters() -> ClassPool:
    """Omniglot's training characters of the Vinyals split if Omniglot is there, else those of the glyphs."""
    return (omniglot() if omniglot_present() else glyphs()).split("train")
