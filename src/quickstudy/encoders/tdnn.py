"""`TDNN`, a time-delay network for the spectrograms of voices."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.arguments import check_whole
from quickstudy.core.blueprint import rebuildable

LOW = 0.08
"""Quantile of each band taken as its noise floor."""


@rebuildable
class TDNN(nn.Module):
    r"""A time-delay network for voices: convolutions over time, then statistics pooling over time.

    The bands of a spectrogram are its channels. The first convolution spans 5 frames, the next L − 1 are
    residual and span 3 frames with dilation 2, 3, …, and the last spans one frame and doubles the channels.
    The embedding is a linear function of the mean and the standard deviation over time of the output h and
    of the bands x themselves, and of the noise floor of each band, its 0.08-quantile q over time. The
    statistics of the bands preserve the noise of the room and the timbre of the voice.

    $$z = \operatorname{BN}\,W\operatorname{BN}\,
          [\mu(h), \sigma(h), \mu(x), \sigma(x), q_{0.08}(x)]$$

    Args:
        bands: Number of bands of the spectrogram.
        channels: Number of filters of each convolution except the last, which has twice as many.
        layers: Number L of convolutions before the last.
        dimensions: Length D of an embedding.
        dropout: Probability with which a statistic is dropped in training, in [0, 1].

    Reference: Snyder et al. 2018, "X-vectors: robust DNN embeddings for speaker recognition".

    Departures: in the paper, convolutions are not residual, two layers follow the statistics, the first of
    which gives the embedding, and the statistics of the bands are not used.
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
        check_whole(1, bands=bands, channels=channels, layers=layers, dimensions=dimensions)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}: it must lie in [0, 1)")
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
        """Spectrograms [B, 1, bands, frames] → embeddings [B, D]."""
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
    """Mean and standard deviation [B, C] over the time of x [B, C, frames]."""
    variance, mean = torch.var_mean(x, 2, correction=0)
    return mean, (variance + 1e-4).sqrt()
