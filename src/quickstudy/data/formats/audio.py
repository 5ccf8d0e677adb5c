"""Sound: any format, rate and length, to 16-bit clips of one length."""

import re
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.data.formats.images import Source

Clip = npt.NDArray[np.int16]
Place = Literal["strongest", "centred", "middle", "start"]

LONGEST = 600.0
"""Seconds of sound that we dare to decode."""
SILENCE = 16
"""A clip that swings by less, of 65,536, holds nothing but the last bits' noise: below −72 decibels."""
ENDINGS = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64"}
)
"""Of the files that soundfile reads and people have."""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """What every sound of a pool is made into, and so what an encoder trained on it expects.

    Channels are averaged, the rate is converted, and a window of the wanted length is cut out; a shorter
    sound comes into the middle of silence.

    Args:
        rate: samples a second.
        seconds: length of a clip.
        place: which window of a longer sound: the "strongest", that of the greatest energy, the "middle" or
            the "start"; or "centred", the one in whose middle the sound has its own, as fits words: silence
            is added where it reaches beyond the recording.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> AudioFormat(rate=8000, seconds=0.5).shape
        (4000,)
    """

    dtype: ClassVar[type[np.uint8 | np.int16]] = np.int16
    noun: ClassVar[str] = "clips"

    rate: int = 16_000
    seconds: float = 1.0
    place: Place = "strongest"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not 1000 <= self.rate <= 192_000:
            raise ValueError(f"rate is {self.rate}: it must lie in 1,000 … 192,000 samples a second")
        if not 0.01 <= self.seconds <= LONGEST:
            raise ValueError(f"seconds is {self.seconds}: it must lie in 0.01 … {LONGEST:g}")
        if self.place not in get_args(Place):
            raise ValueError(f"place is {self.place!r}: it must be one of {', '.join(get_args(Place))}")

    @property
    def shape(self) -> tuple[int]:
        """[samples] of one item."""
        return (round(self.rate * self.seconds),)

    def as_dict(self) -> dict[str, Any]:
        """For a manifest; `AudioFormat(**d)` is the way back."""
        return asdict(self)

    @staticmethod
    def endings() -> frozenset[str]:
        """Of the names of its files, in lower case."""
        return ENDINGS

    def decode(self, source: Source) -> Clip:
        """One clip, int16 [samples].

        Raises:
            OSError: if it can't be read as sound, with the reason.
        """
        sound, rate = _read(source)
        if rate != self.rate:
            sound = soxr.resample(sound, rate, self.rate)
        whole = np.rint(sound * 32768.0).clip(-32768, 32767).astype(np.int16)
        return self._fit(whole)

    def _fit(self, whole: Clip) -> Clip:
        (length,) = self.shape
        if self.place == "centred":
            around = np.pad(whole, length)
            start = middle_of(around) - length // 2
            return around[start : start + length]
        spare = len(whole) - length
        if spare <= 0:
            return np.pad(whole, (-spare // 2, -spare - -spare // 2))
        start = {"start": 0, "middle": spare // 2}.get(self.place)
        if start is None:
            energy = np.cumsum(whole.astype(np.int64) ** 2)  # whole numbers, so that equal windows are equal
            windows = energy[length - 1 :].copy()
            windows[1:] -= energy[:-length]
            start = int(windows.argmax())
        return whole[start : start + length]


def middle_of(whole: Clip) -> int:
    """The sample halfway between where a sound begins and ends: has had 5 % and 95 % of its energy."""
    energy = np.cumsum(whole.astype(np.int64) ** 2)
    begins, ends = np.searchsorted(energy, [0.05 * energy[-1], 0.95 * energy[-1]])
    return int(begins + ends) // 2 if energy[-1] else len(whole) // 2


def is_silent(clip: Clip) -> bool:
    """Whether a clip holds no sound: it stays within `SILENCE` of 65,536 steps, at whatever level."""
    return int(clip.max(initial=-32768)) - int(clip.min(initial=32767)) < SILENCE


def _read(source: Source) -> tuple[npt.NDArray[np.float32], int]:
    """Samples [n] in [−1, 1], the channels averaged, and how many there are a second."""
    if isinstance(source, Path):
        empty, file = not source.stat().st_size, str(source)
    else:
        raw = source()
        empty, file = not raw, BytesIO(raw)
    if empty:
        raise OSError("the file is empty")
    try:
        with soundfile.SoundFile(file) as f:
            if f.frames > LONGEST * f.samplerate:
                raise OSError(
                    f"{f.frames / f.samplerate:.0f} seconds are more than the {LONGEST:.0f} we dare to decode"
                )
            blocks: list[npt.NDArray[np.float32]] = []
            # not f.blocks(), which makes up the rest of a file that ends early
            while len(block := f.read(sizes_on().decoded_frames, dtype="float32", always_2d=True)):
                blocks.append(block.mean(1, dtype=np.float32))
            samples = np.concatenate([np.empty(0, np.float32), *blocks])
            if not len(samples):
                raise OSError("it holds no sound")
            _check_whole(f, len(samples))
            rate = f.samplerate
    except soundfile.LibsndfileError as error:
        if error.code in (1, 7):  # what is so short as to be no MP3 has a message of its own
            raise OSError("not sound in any format soundfile reads") from None
        raise OSError(f"damaged: {error.error_string.rstrip('.')}") from None
    except TypeError:  # a name in .raw
        raise OSError("samples without a header: say what they are by converting them to WAV") from None
    if not np.isfinite(samples).all():
        raise OSError("damaged: it holds values that are no numbers")
    return samples, rate


def _check_whole(f: soundfile.SoundFile, read: int) -> None:
    """Refuse what is shorter than it says, which Ogg never does; libsndfile only notes it in its log."""
    # a length of 2³¹ and more means "as long as it takes"; that of an MP3 may be an estimate
    short = any(
        int(there) < int(said) < 0x7FFF0000
        for said, there in re.findall(r"(\d+) \(should be (\d+)\)", f.extra_info)
    )
    if short or read < (0.9 if f.format == "MP3" else 1) * f.frames:
        raise OSError("damaged: it ends before its end")
