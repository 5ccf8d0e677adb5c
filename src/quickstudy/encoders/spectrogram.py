"""Log-mel spectrograms and SpecAugment: the front end of encoders for sound."""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable

FLOOR = 1e-3
"""Energy added before the logarithm, of clips of level one: what is fainter is not heard."""
SILENT = 1e-12
"""Mean square of a clip, of samples in [−1, 1], that counts as silence."""
Normalize = Literal["clip", "none"]
"""Normalisation of a spectrogram: each clip to mean 0 and variance 1, or none."""


def mel_filters(rate: int, n_fft: int, mels: int) -> npt.NDArray[np.float32]:
    r"""Mel filterbank M: triangular filters, each from the peak of the one below to that of the one above.

    The peaks $f_m$ are equally spaced on the mel scale, which is $3f / 200$ below 1,000 Hz and
    $15 + 27 \ln(f / 1000) / \ln 6.4$ above:

    $$M_{mk} = \frac{2}{f_{m+1} - f_{m-1}} \max\Big(0, \min\Big(\frac{f_k - f_{m-1}}{f_m - f_{m-1}},
    \frac{f_{m+1} - f_k}{f_{m+1} - f_m}\Big)\Big)$$

    Args:
        rate: Sampling rate in Hz.
        n_fft: Length of the Fourier transform in samples; the filters apply to its power spectrum.
        mels: Number of filters, between 0 Hz and half the rate.

    Returns:
        [mels, ⌊n_fft / 2⌋ + 1] filters, the same as librosa's `filters.mel`.

    Reference: Slaney 1998, "Auditory Toolbox", version 2; each triangle has area 1.
    """
    highest = rate / 2
    if highest >= 1000:
        highest = 15 + math.log(highest / 1000) / (math.log(6.4) / 27)
    else:
        highest /= 200 / 3
    mel = np.linspace(0, highest, mels + 2)
    hertz = np.where(mel < 15, 200 / 3 * mel, 1000 * np.exp(math.log(6.4) / 27 * (mel - 15)))
    low, peak, high = hertz[:-2, None], hertz[1:-1, None], hertz[2:, None]
    bins = np.fft.rfftfreq(n_fft, 1 / rate)
    triangles = np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)).clip(0)
    # rounded twice, like librosa, so that training with its filters can be reproduced
    return (triangles.astype(np.float32) * (2 / (high - low))).astype(np.float32)


@rebuildable
class LogMel(nn.Module):
    r"""Log-mel spectrogram of clips, [B, samples] → [B, 1, mels, frames]: log energy by frequency and time.

    $$\log(M\,|\mathrm{STFT}(x')|^2 + \epsilon), \qquad x' = \frac{x - \bar x}{\mathrm{rms}(x - \bar x)}$$

    with the mel filterbank M, in which filters are wider at higher frequencies, as in human hearing. The
    level of a clip is brought to one before the floor $\epsilon = 10^{-3}$ is added, so neither its loudness
    nor its offset $\bar x$ matters. Mixed precision does not apply. Window, filterbank and
    floor are buffers, saved with the weights, so that an encoder is used with those it was trained with; of
    weights that have no floor, the spectrogram is the one that they were trained with, of x itself and with
    $\epsilon = 10^{-6}$.

    Args:
        rate: Sampling rate of the clips, in Hz.
        mels: Number of mel filters.
        window: Length of the Hann window of a frame, in seconds.
        hop: Time between frames, in seconds. There are ⌊samples / hop⌋ + 1 frames, with the hop in samples,
            and the first is centered on sample 0.
        normalize: "clip": the spectrogram of each clip has mean 0 and variance 1; "none": as in the equation.

    Raises:
        ValueError: If an argument is out of range, or in `forward` if clips are not [B, samples].

    Example:
        >>> LogMel()(torch.zeros(2, 16_000)).shape
        torch.Size([2, 1, 40, 101])
    """

    def __init__(
        self,
        rate: int = 16_000,
        mels: int = 40,
        window: float = 0.025,
        hop: float = 0.010,
        normalize: Normalize = "clip",
    ) -> None:
        super().__init__()
        if min(rate, mels) < 1 or not 2 <= rate * hop <= rate * window:
            raise ValueError(
                f"rate {rate}, mels {mels}, window {window} and hop {hop}: rate and mels must be positive, "
                "the hop at least two samples, and the window no shorter than the hop"
            )
        if normalize not in get_args(Normalize):
            raise ValueError(f"normalize is {normalize!r}: it must be 'clip' or 'none'")
        self.rate, self.mels, self.normalize = rate, mels, normalize
        self.hop, length = round(rate * hop), round(rate * window)
        self.n_fft = 2 ** math.ceil(math.log2(length))
        filters = mel_filters(rate, self.n_fft, mels)
        if not filters.any(1).all():
            raise ValueError(
                f"{mels} mels are too many for a window of {window} s, because some filters would cover no "
                "frequency: take fewer mels or a longer window"
            )
        self.filters = nn.Buffer(torch.from_numpy(filters))
        self.window = nn.Buffer(torch.hann_window(length))
        self.floor: Tensor | None
        self.register_buffer("floor", torch.tensor(FLOOR))

    def adjust_to(self, weights: Mapping[str, Tensor]) -> None:
        """Become the spectrogram that weights were trained with, before they are loaded.

        Args:
            weights: Weights by their names in this module's `state_dict`.
        """
        if "filters" in weights:
            self.floor = torch.tensor(FLOOR).to(self.filters) if "floor" in weights else None

    def forward(self, x: Tensor) -> Tensor:
        """Clips [B, samples] in [−1, 1] → spectrograms [B, 1, mels, frames]."""
        if x.ndim != 2:
            raise ValueError(f"LogMel takes clips [B, samples], not {list(x.shape)}")
        with torch.autocast(x.device.type, enabled=False):  # powers of sound need a finer dtype than bfloat16
            x = x.to(self.filters.dtype)
            if self.floor is not None:
                x = x - x.mean(1, keepdim=True)
                x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + SILENT)
            spectrum = torch.stft(
                x,
                self.n_fft,
                self.hop,
                len(self.window),
                self.window,
                pad_mode="constant",
                return_complex=True,
            )
            floor = 1e-6 if self.floor is None else self.floor
            picture = torch.log(self.filters @ spectrum.abs().square() + floor)
            if self.normalize == "clip":
                variance, mean = torch.var_mean(picture, (1, 2), correction=0, keepdim=True)
                picture = (picture - mean) * torch.rsqrt(variance + 1e-5)
        return picture.unsqueeze(1)


@rebuildable
class SpecAugment(nn.Module):
    """SpecAugment: masks random intervals of time and of frequency in each spectrogram, in training only.

    The width of a mask is uniform from 0 to its maximum, its position is uniform. Masked values become 0, the
    mean of a normalised spectrogram. Draws are from torch's global generator, which `fit` seeds in each step.

    Args:
        stretches: Number of time masks per spectrogram.
        longest: Maximum width of a time mask, in frames.
        bands: Number of frequency masks per spectrogram.
        widest: Maximum width of a frequency mask, in mel bands.

    Raises:
        ValueError: If an argument is negative.

    Reference: Park et al. 2019, "SpecAugment"; without its time warping.
    """

    def __init__(self, stretches: int = 2, longest: int = 20, bands: int = 2, widest: int = 8) -> None:
        super().__init__()
        if min(stretches, longest, bands, widest) < 0:
            raise ValueError(
                f"{stretches} × {longest} frames, {bands} × {widest} mels: they must be at least 0"
            )
        self.stretches, self.longest, self.bands, self.widest = stretches, longest, bands, widest

    def forward(self, x: Tensor) -> Tensor:
        """Spectrograms [B, C, mels, frames] → masked spectrograms of the same shape."""
        if not self.training:
            return x
        pitch = _hidden(x, x.shape[2], self.bands, self.widest)
        time = _hidden(x, x.shape[3], self.stretches, self.longest)
        return x.masked_fill(pitch[:, None, :, None] | time[:, None, None, :], 0.0)


def _hidden(x: Tensor, length: int, number: int, widest: int) -> Tensor:
    """Mask [B, length], True inside `number` random intervals of each item, of at most `widest` elements."""
    width = torch.randint(min(widest, length) + 1, (len(x), number, 1), device=x.device)
    start = (torch.rand(len(x), number, 1, device=x.device) * (length - width + 1)).long()
    place = torch.arange(length, device=x.device)
    return ((place >= start) & (place < start + width)).any(1)
