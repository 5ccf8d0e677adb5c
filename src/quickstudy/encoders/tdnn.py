"""TDNN: convolutions over time, for spectrograms."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable

LOW = 0.08
"""Share of the frames by whose level `TDNN` knows what is heard when nobody speaks."""


@rebuildable
class TDNN(nn.Module):
    r"""A time-delay network for voices: convolutions over time, then mean and deviation over time.

    The bands of a spectrogram are its channels. A convolution of 5 frames, then L − 1 of 3 frames, 2, 3, …
    apart, each added to what it is given; a last one of one frame doubles the channels. What is embedded are
    the mean and the standard deviation over time of these, and of the bands themselves, with the level that
    each band is below in so many frames: the noise of a room, and the colour of a voice, as they are.

    $$z = \operatorname{BN}\,W\operatorname{BN}\,
          [\mu(h), \sigma(h), \mu(x), \sigma(x), q_{0.08}(x)]$$

    Args:
        bands: of the spectrogram.
        channels: of each convolution.
        layers: L.
        dimensions: D.
        dropout: share of the statistics that are left out in training.

    Reference: Snyder et al. 2018, "X-vectors: robust DNN embeddings for speaker recognition".

    Departures: there a convolution is not added to what it is given, two layers follow the statistics, of
    which the first makes the embedding, and the bands themselves have no statistics.
    """

    def __init__(
        self,
        bands: int,
        channels: int = 128,
        layers: int = 3,
        dimensions: int = 128,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.bands, self.dropout = bands, dropout
        self.norm = nn.BatchNorm1d(bands)
        widths = [bands] + [channels] * layers
        self.convs = nn.ModuleList(
            nn.Conv1d(i, o, 3 if at else 5, dilation=at + 1, padding=at + 1 if at else 2, bias=False)
            for at, (i, o) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(layers))
        self.wide = nn.Conv1d(channels, 2 * channels, 1, bias=False)
        self.wide_norm = nn.BatchNorm1d(2 * channels)
        statistics = 2 * 2 * channels + 3 * bands
        self.statistics_norm = nn.BatchNorm1d(statistics)
        self.last = nn.Linear(statistics, dimensions, bias=False)
        self.last_norm = nn.BatchNorm1d(dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, bands, frames] spectrograms → [B, D] embeddings."""
        if x.ndim != 4 or x.shape[1:3] != (1, self.bands):
            raise ValueError(f"TDNN takes spectrograms [B, 1, {self.bands}, frames], not {list(x.shape)}")
        x = x.squeeze(1)
        h = self.norm(x)
        for at, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = F.relu(norm(conv(h)))
            h = h + y if at else y
        h = F.relu(self.wide_norm(self.wide(h)))
        low = x.kthvalue(math.ceil(LOW * x.shape[2]), 2).values
        z = self.statistics_norm(torch.cat([*_over_time(h), *_over_time(x), low], 1))
        return self.last_norm(self.last(F.dropout(z, self.dropout, self.training)))


def _over_time(x: Tensor) -> tuple[Tensor, Tensor]:
    """[B, C, frames] → mean and standard deviation [B, C]."""
    variance, mean = torch.var_mean(x, 2, correction=0)
    return mean, (variance + 1e-4).sqrt()
