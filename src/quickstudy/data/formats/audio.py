"""Sound: any format, rate and length, to 16-bit clips of one length."""

import math
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from quickstudy.core import foreign
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.data.formats.content import FileOrBytes, content_of, stated_size

Clip = npt.NDArray[np.int16]
Place = Literal["strongest", "centered", "middle", "start"]

LONGEST_SECONDS = 600.0
"""Longest recording that is decoded, in seconds."""
SILENCE = 16
"""Smallest range of int16 values that is a sound; below it, under −72 decibels, is rounding noise."""
ENDINGS = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64"}
)
"""File name extensions of the common formats that soundfile reads."""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Format of the clips of a pool, and so of the input of an encoder trained on it.

    A recording is converted by averaging its channels, resampling it, and cutting out a window of the wanted
    length. A shorter recording is padded with silence on both sides.

    Args:
        rate: Sampling rate in samples per second, 1,000 … 192,000.
        seconds: Length of a clip in seconds, 0.01 … 600.
        place: Which window of a longer recording to take. "strongest": the window with the most energy.
            "middle" or "start": the middle or the beginning of the recording. "centered", for words: the
            window around the middle of the sound, padded with silence where it exceeds the recording.

    Raises:
        ValueError: If an argument is out of range.

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
        if not 0.01 <= self.seconds <= LONGEST_SECONDS:
            raise ValueError(f"seconds is {self.seconds}: it must lie in 0.01 … {LONGEST_SECONDS:g}")
        if self.place not in get_args(Place):
            raise ValueError(f"place is {self.place!r}: it must be one of {', '.join(get_args(Place))}")

    @property
    def shape(self) -> tuple[int]:
        """Shape of one clip, [samples]."""
        return (round(self.rate * self.seconds),)

    def as_dict(self) -> dict[str, Any]:
        """JSON-serializable form for a manifest; `AudioFormat(**d)` restores the format."""
        return asdict(self)

    @staticmethod
    def endings() -> frozenset[str]:
        """File name extensions of sound files, in lower case and with the dot."""
        return ENDINGS

    def decode(self, source: FileOrBytes) -> Clip:
        """Decode one clip.

        Args:
            source: Path of a sound file, or function that returns its bytes.

        Returns:
            Clip [samples], int16.

        Raises:
            OSError: If the source can't be read as sound; the message gives the reason.
        """
        with _opened(source) as f, foreign.DECODED.taking(self._memory_for(f)):
            sound, rate = _read(f)
            if rate != self.rate:
                sound = soxr.resample(sound, rate, self.rate)
            whole = np.rint(sound * 32768.0).clip(-32768, 32767).astype(np.int16)
            return self._fit(whole)

    def _memory_for(self, f: soundfile.SoundFile) -> int:
        """Bytes that it takes at most to decode a recording whose header was read, and to fit it.

        Most is taken by a float32 sample of the recording, twice, or by one of the rate wanted and its
        energy in 64 bits.
        """
        frames = min(f.frames, round(LONGEST_SECONDS * f.samplerate))  # as it may state none
        resampled = frames * self.rate / f.samplerate + self.shape[0]
        return round(max(8 * frames + 4 * resampled, 40 * resampled)) + 2**20

    def _fit(self, whole: Clip) -> Clip:
        (length,) = self.shape
        if self.place == "centered":
            around = np.pad(whole, length)
            start = middle_of(around) - length // 2
            return around[start : start + length]
        missing = length - len(whole)
        if missing >= 0:
            return np.pad(whole, (missing // 2, missing - missing // 2))
        if self.place == "start":
            start = 0
        elif self.place == "middle":
            start = (len(whole) - length) // 2
        else:
            energy = np.cumsum(whole.astype(np.int64) ** 2)  # integers: windows of equal energy compare equal
            windows = energy[length - 1 :].copy()
            windows[1:] -= energy[:-length]
            start = int(windows.argmax())
        return whole[start : start + length]


def middle_of(whole: Clip) -> int:
    """Middle of the sound in a recording, halfway between the points of 5 % and 95 % of its energy.

    Args:
        whole: [samples] recording, int16.

    Returns:
        Index of the sample in the middle of the sound; of a silent recording, its middle.
    """
    energy = np.cumsum(whole.astype(np.int64) ** 2)
    begins, ends = np.searchsorted(energy, [0.05 * energy[-1], 0.95 * energy[-1]])
    return int(begins + ends) // 2 if energy[-1] else len(whole) // 2


def is_silent(clip: Clip) -> bool:
    """Whether a clip holds no sound: the range of its values is below `SILENCE`, at any offset.

    Args:
        clip: [samples] clip, int16.
    """
    return int(clip.max(initial=-32768)) - int(clip.min(initial=32767)) < SILENCE


class _Memory(BytesIO):
    """Bytes, in which a place before their beginning is no place, rather than a traceback on the terminal."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a place; stay where there is none."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


@contextmanager
def _opened(source: FileOrBytes) -> Generator[soundfile.SoundFile]:
    """A recording, opened; whatever is thrown about it is an OSError of one line."""
    with foreign.refusing():
        try:
            if isinstance(source, Path):
                if not stated_size(source):
                    raise OSError("the file is empty")
                with soundfile.SoundFile(str(source)) as f:
                    yield f
            else:
                with content_of(source) as raw, soundfile.SoundFile(_Memory(raw)) as f:
                    yield f
        except soundfile.LibsndfileError as error:
            if error.code in (1, 7):  # a file too short to be an MP3 has a code of its own
                raise OSError("not sound in any format soundfile reads") from None
            raise OSError(f"damaged: {error.error_string.rstrip('.')}") from None
        except TypeError as error:  # soundfile wants rate and channels for names that end in .raw
            if "samplerate" not in str(error):
                raise
            raise OSError("samples without a header: say what they are by converting them to WAV") from None


def _read(f: soundfile.SoundFile) -> tuple[npt.NDArray[np.float32], int]:
    """Read a recording: samples [n] in [−1, 1], averaged over the channels, and samples per second.

    A recording of floats that goes beyond ±1 is scaled to fit.
    """
    if f.frames > LONGEST_SECONDS * f.samplerate:
        raise OSError(
            f"{f.frames / f.samplerate:.0f} seconds are more than the {LONGEST_SECONDS:.0f} we dare to decode"
        )
    sound = np.empty(f.frames, np.float32)  # takes no memory before it is filled
    n, size = 0, max(1, min(sizes_on().decoded_frames, 2**20 // f.channels))
    # not f.blocks(), which fills up a file that ends early
    while len(block := f.read(size, dtype="float32", always_2d=True)):
        if n + len(block) > len(sound):  # the header of a compressed one may be an estimate
            if n + len(block) > LONGEST_SECONDS * f.samplerate:
                raise OSError("damaged: it goes on beyond its end")
            sound = np.concatenate([sound[:n], np.empty(max(n, len(block)), np.float32)])
        sound[n : n + len(block)] = block.mean(1, dtype=np.float32)
        n += len(block)
    if not n:
        raise OSError("it holds no sound")
    _check_whole(f, n)
    sound = sound[:n]
    loudest = max(float(sound.max()), -float(sound.min()))
    if not math.isfinite(loudest):
        raise OSError("damaged: it holds values that are no numbers")
    if loudest > 1 and f.subtype in ("FLOAT", "DOUBLE"):  # what others overshoot is an artefact, cut off
        sound *= np.float32(1 / loudest)
    return sound, f.samplerate


def _check_whole(f: soundfile.SoundFile, read: int) -> None:
    """Refuse a file that is shorter than its header says, which libsndfile only notes in its log."""
    # a length near 2³¹ or above means "unknown"; that of an MP3 may be an estimate; Ogg states none
    short = any(
        int(there) < int(said) < 0x7FFF0000
        for said, there in re.findall(r"(\d+) \(should be (\d+)\)", f.extra_info)
    )
    if short or read < (0.9 if f.format == "MP3" else 1) * f.frames:
        raise OSError("damaged: it ends before its end")
