"""Random changes to training clips that keep word and speaker; `Speed` can make other speakers.

Each is an `Augment` of clips [B, samples]; `Compose` applies several of them in sequence.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quickstudy.core.arguments import checked_class
from quickstudy.data.augment.augment import check_clips


@checked_class
@dataclass(frozen=True)
class Shift:
    """Shift each clip in time at random by whole samples; silence fills the gap.

    Args:
        share: Largest shift as a fraction of the clip, in [0, 1]; shifts are uniform in ± this value.

    Raises:
        ValueError: If the share is not in [0, 1].
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        """Check the argument."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}: it must lie in 0 … 1")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Shift clips [B, samples]."""
        check_clips(self, x)
        samples = x.shape[1]
        # whole samples, so that the samples that remain keep their values
        later = np.rint(rng.uniform(-self.share, self.share, (len(x), 1)) * samples)
        return _sound_at(x, np.arange(samples) - later)


@checked_class
@dataclass(frozen=True)
class Speed:
    """Play each clip faster or slower at random about its middle, which changes its pitch as well.

    With `Episodes(augment_classes=…)` all clips of a class share one factor, which makes another speaker of
    each speaker.

    Args:
        low: Smallest speed factor, above 0; a factor above 1 is faster and of higher pitch.
        high: Largest speed factor, at least `low`; factors are uniform between the two.

    Raises:
        ValueError: If `low` is not positive, or greater than `high`.

    Reference: Ko et al. 2015, "Audio augmentation for speech recognition", with factors 0.9, 1 and 1.1;
    Yamamoto et al. 2019, "Speaker augmentation and bandwidth extension for deep speaker embedding", who treat
    a speaker's clips at another speed as another speaker.

    Departures: factors are continuous, and samples are interpolated linearly, which attenuates the highest
    frequencies.
    """

    low: float = 0.9
    high: float = 1.1

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not 0 < self.low <= self.high:
            raise ValueError(
                f"low is {self.low} and high {self.high}: they must be two rising positive numbers"
            )

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change clips [B, samples], or those of N classes [N, B, samples] by one factor a class."""
        check_clips(self, x, 3)
        factor = rng.uniform(self.low, self.high, (len(x),) + (1,) * (x.ndim - 1))
        middle = (x.shape[-1] - 1) / 2
        return _sound_at(x, middle + (np.arange(x.shape[-1]) - middle) * factor)


@checked_class
@dataclass(frozen=True)
class Gain:
    """Make each clip louder or softer at random. The result is not clipped, so it may leave [−1, 1].

    Args:
        decibels: Largest change of level in decibels, at least 0; changes are uniform in ± this value.

    Raises:
        ValueError: If `decibels` is negative.
    """

    decibels: float = 6.0

    def __post_init__(self) -> None:
        """Check the argument."""
        if self.decibels < 0:
            raise ValueError(f"decibels is {self.decibels}: it must be at least 0")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change the level of clips [B, samples]."""
        check_clips(self, x)
        return x * _ratio(rng.uniform(-self.decibels, self.decibels, (len(x), 1))).to(x)


@checked_class
@dataclass(frozen=True)
class Noise:
    """Add white noise to each clip, at a random signal-to-noise ratio; silence stays silent.

    Args:
        low: Smallest signal-to-noise ratio in decibels.
        high: Largest signal-to-noise ratio in decibels, at least `low`; ratios are uniform between the two.
        recorded: Probability, in 0 … 1, that noise is added only where the clip was recorded: from its first
            sample that isn't 0 to its last. So sounds a noisy recording that is shorter than a clip, which
            is padded with silence. Otherwise noise is everywhere. For this, it comes before `Shift`.

    Raises:
        ValueError: If `low` is greater than `high`, or `recorded` is no probability.
    """

    low: float = 10.0
    high: float = 40.0
    recorded: float = 0.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not self.low <= self.high:
            raise ValueError(f"low is {self.low} and high {self.high}: they must rise")
        if not 0 <= self.recorded <= 1:
            raise ValueError(f"recorded is {self.recorded}: a probability lies in 0 … 1")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Add noise to clips [B, samples]."""
        check_clips(self, x)
        noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32)).to(x)
        strength = x.square().mean(1, keepdim=True).sqrt()
        strength = strength * _ratio(-rng.uniform(self.low, self.high, (len(x), 1))).to(x)
        if self.recorded:
            everywhere = torch.from_numpy(rng.random((len(x), 1)) >= self.recorded).to(x.device)
            strength = strength * (_recorded(x) | everywhere)
        return x + noise * strength


def _recorded(x: Tensor) -> Tensor:
    """Where clips [B, samples] lie between their first and last samples that aren't 0."""
    heard = x != 0
    return (heard.cumsum(1) > 0) & (heard.flip(1).cumsum(1).flip(1) > 0)


def _ratio(decibels: np.ndarray) -> Tensor:
    """Ratio of amplitudes for a level in decibels."""
    return torch.from_numpy(10 ** (decibels / 20))


def _sound_at(x: Tensor, places: np.ndarray) -> Tensor:
    """Clips [..., samples] resampled at fractional indices [..., samples], linearly; 0 outside the clip."""
    samples = x.shape[-1]
    before = np.floor(places)
    weight = torch.from_numpy(places - before).to(x)
    # one zero at each end; all indices outside the clip are moved to it
    index = torch.from_numpy(before.clip(-1, samples - 1).astype(np.int64) + 1).to(x.device).expand_as(x)
    padded = torch.nn.functional.pad(x, (1, 1))
    inside = torch.from_numpy((before >= -1) & (before < samples)).to(x.device)
    return torch.where(inside, padded.gather(-1, index).lerp(padded.gather(-1, index + 1), weight), 0.0)
