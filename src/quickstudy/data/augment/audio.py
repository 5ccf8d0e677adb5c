"""Random changes to the clips that are trained on, which leave word and speaker what they are.

Each is an `Augment` for clips [B, samples]; `augment.Chain` makes several of them one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Shift:
    """Each clip moved in time at random; what comes in is silence.

    Args:
        share: of the length of a clip, uniform in ± so much.

    Raises:
        ValueError: if the share is not in 0 … 1.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        """Check the argument."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}: it must lie in 0 … 1")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change clips [B, samples]."""
        samples = x.shape[1]
        # by whole samples, which changes nothing in what stays
        later = np.rint(rng.uniform(-self.share, self.share, (len(x), 1)) * samples)
        return _sound_at(x, np.arange(samples) - later)


@dataclass(frozen=True)
class Speed:
    """Each clip played faster or slower at random about its middle, which changes its pitch as well.

    For `Episodes(augment_classes=…)` all clips of a class alike: that makes another speaker of each.

    Args:
        low: the least factor; above 1 is faster and higher.
        high: the greatest; factors are uniform between the two.

    Raises:
        ValueError: if these are not two rising positive numbers.

    Reference: Ko et al. 2015, "Audio augmentation for speech recognition", with factors 0.9, 1 and 1.1;
    Yamamoto et al. 2019, "Speaker augmentation and bandwidth extension for deep speaker embedding", who count
    a speaker's clips at another speed as another speaker's.

    Departures: the factor is any, and samples are interpolated linearly, which dulls the highest pitches.
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
        """Change clips [B, samples], or those of N classes, [N, B, samples], each class by one factor."""
        factor = rng.uniform(self.low, self.high, (len(x),) + (1,) * (x.ndim - 1))
        middle = (x.shape[-1] - 1) / 2
        return _sound_at(x, middle + (np.arange(x.shape[-1]) - middle) * factor)


@dataclass(frozen=True)
class Gain:
    """Each clip made louder or softer at random. It may leave [−1, 1], for nothing is cut off.

    Args:
        decibels: uniform in ± so many.

    Raises:
        ValueError: if that is negative.
    """

    decibels: float = 6.0

    def __post_init__(self) -> None:
        """Check the argument."""
        if self.decibels < 0:
            raise ValueError(f"decibels is {self.decibels}: it must be at least 0")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change clips [B, samples]."""
        return x * _ratio(rng.uniform(-self.decibels, self.decibels, (len(x), 1))).to(x)


@dataclass(frozen=True)
class Noise:
    """White noise added to each clip, in proportion to its own power; silence stays silent.

    Args:
        low: the least signal-to-noise ratio in decibels.
        high: the greatest; ratios are uniform between the two.

    Raises:
        ValueError: if these don't rise.
    """

    low: float = 10.0
    high: float = 40.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not self.low <= self.high:
            raise ValueError(f"low is {self.low} and high {self.high}: they must rise")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Change clips [B, samples]."""
        noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32)).to(x)
        strength = x.square().mean(1, keepdim=True).sqrt()
        return x + noise * strength * _ratio(-rng.uniform(self.low, self.high, (len(x), 1))).to(x)


def _ratio(decibels: np.ndarray) -> Tensor:
    """Of amplitudes."""
    return torch.from_numpy(10 ** (decibels / 20))


def _sound_at(x: Tensor, places: np.ndarray) -> Tensor:
    """Clips [..., samples] at places [..., samples] between their samples, linearly; 0 outside."""
    samples = x.shape[-1]
    before = np.floor(places)
    weight = torch.from_numpy(places - before).to(x)
    # one 0 at either end, to which all places outside are moved
    index = torch.from_numpy(before.clip(-1, samples - 1).astype(np.int64) + 1).to(x.device).expand_as(x)
    padded = torch.nn.functional.pad(x, (1, 1))
    inside = torch.from_numpy((before >= -1) & (before < samples)).to(x.device)
    return torch.where(inside, padded.gather(-1, index).lerp(padded.gather(-1, index + 1), weight), 0.0)
