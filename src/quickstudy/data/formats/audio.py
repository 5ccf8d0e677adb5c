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
FRAME = 0.025
"""Length in seconds of the frames over which the energy of a recording is taken."""
SILENCE = 16
"""Smallest range of int16 values that is a sound; below it, under −72 decibels, is rounding noise."""
VERSION = 2
"""Version of the rule by which `AudioFormat` cuts and pads; raise it when a file gives another clip."""
ENDINGS = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64"}
)
"""File name extensions of the common formats that soundfile reads."""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Format of the clips of a pool, and so of the input of an encoder trained on it.

    A recording is converted by averaging its channels, resampling it, removing its offset, and cutting out a
    window of the wanted length. Where the window exceeds the recording, it is silent.

    "strongest" and "centered" follow one rule for short recordings and long ones, of `start_of_window`: the
    window lies around the sound. Silence around a word, its level, an offset, and a click before it change
    nothing, and of two words with a pause between them one is taken.

    Args:
        rate: Sampling rate in samples per second, 1,000 … 192,000.
        seconds: Length of a clip in seconds, 0.01 … 600.
        place: Which window of a recording to take. "strongest", "centered": that around the sound; of a sound
            longer than the window, the loudest part or the middle. "middle", "start": the middle or the
            beginning of the recording, whatever is in it; a shorter one comes into the middle.
        version: Version of this rule. Checkpoints without one have version 1: the offset stays, "strongest"
            is the first of the windows with the most energy, "centered" the window around the middle of all
            energy.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> AudioFormat(rate=8000, seconds=0.5).shape
        (4000,)
    """

    dtype: ClassVar[type[np.uint8 | np.int16 | np.float32]] = np.int16
    noun: ClassVar[str] = "clips"

    rate: int = 16_000
    seconds: float = 1.0
    place: Place = "strongest"
    version: int = VERSION

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not 1000 <= self.rate <= 192_000:
            raise ValueError(f"rate is {self.rate}: it must lie in 1,000 … 192,000 samples a second")
        if not 0.01 <= self.seconds <= LONGEST_SECONDS:
            raise ValueError(f"seconds is {self.seconds}: it must lie in 0.01 … {LONGEST_SECONDS:g}")
        if self.place not in get_args(Place):
            raise ValueError(f"place is {self.place!r}: it must be one of {', '.join(get_args(Place))}")
        if self.version not in (1, VERSION):
            raise ValueError(
                f"version is {self.version}: this quickstudy knows 1 … {VERSION}; a newer one reads it"
            )

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

        Most is taken by a float32 sample of the recording, twice, or by what `start_of_window` keeps of one
        of the rate wanted: five numbers of 64 bits.
        """
        frames = min(f.frames, round(LONGEST_SECONDS * f.samplerate))  # as it may state none
        resampled = frames * self.rate / f.samplerate + self.shape[0]
        return round(max(8 * frames + 4 * resampled, 48 * resampled)) + 2**20

    def _fit(self, whole: Clip) -> Clip:
        (length,) = self.shape
        if self.version == 1:
            return _fitted_once(whole, length, self.place)
        whole = without_offset(whole)
        if self.place == "start" and len(whole) >= length:
            start = 0
        elif self.place in ("start", "middle"):
            start = int((len(whole) - length) / 2)
        else:
            whole = without_clicks(whole, self.rate, length)
            start = start_of_window(whole, self.rate, length, self.place)
        return _cut(whole, start, length)


def without_offset(whole: Clip) -> Clip:
    """Remove the offset of a recording: its mean, where that is at least a twentieth of its deviation.

    A smaller mean is the sound's own: silence around the sound does not have it.

    Args:
        whole: [samples] recording, int16.
    """
    mean = round(float(whole.mean()))
    if abs(mean) < whole.std() / 20:
        return whole
    return (whole.astype(np.int32) - mean).clip(-32768, 32767).astype(np.int16)


def without_clicks(whole: Clip, rate: int, length: int) -> Clip:
    """Silence the clicks of a recording: what lasts no longer than a frame and is louder than all that does.

    Args:
        whole: [n] recording without offset, int16.
        rate: Sampling rate in samples per second.
        length: Length of the window in samples, see `start_of_window`.
    """
    frame, _, runs = _heard(whole, rate, length)
    long = [run for run in runs if len(run) >= 2 * frame]
    if not long or len(long) == len(runs):
        return whole
    size = np.abs(whole.astype(np.int32))
    loudest = max(size[max(0, run.start - frame + 1) : run.stop].max() for run in long)
    cleaned = whole.copy()
    for run in runs:
        # what all of its frames share
        inside = slice(run.start, run.stop - frame + 1)
        if len(run) < 2 * frame and size[inside].max(initial=0) >= loudest:
            cleaned[inside] = 0
    return cleaned


def _heard(whole: Clip, rate: int, length: int) -> tuple[int, npt.NDArray[np.int64], list[range]]:
    """Frame length F, energies of the n + F frames, and the frames that are heard, in runs without a gap."""
    frame = max(1, min(round(FRAME * rate), length // 8))
    sums = np.zeros(len(whole) + 2 * frame, np.int64)
    np.multiply(whole, whole, out=sums[frame:-frame], dtype=np.int64)
    np.cumsum(sums, out=sums)
    energy = sums[frame:] - sums[:-frame]
    lasting = np.minimum(energy[: -2 * frame], energy[2 * frame :]).max(initial=0)
    floor, stretch = 0.0, max(1, length // 4)
    if len(whole) > length:
        inside = sums[frame - 1 : frame + len(whole)]
        floor = (inside[stretch:] - inside[:-stretch]).min() * frame / stretch
    heard = energy > max(lasting / 100, min(4 * floor, energy.max() / 4))
    edges = np.flatnonzero(np.diff(heard, prepend=False, append=False)).tolist()
    return frame, energy, list(map(range, edges[::2], edges[1::2]))


def start_of_window(whole: Clip, rate: int, length: int, place: Literal["strongest", "centered"]) -> int:
    r"""Where the window around the sound begins.

    The energy $e_t$ of a recording x of n samples is taken over frames of F samples, 25 ms. What is heard
    lies above a threshold, and counts by its amplitude:

    $$e_t = \sum_{t - F < i \le t} x_i^2, \qquad
      \theta = \max\Big(\frac{p}{100}, \min\big(4 f, \tfrac14 \max_t e_t\big)\Big), \qquad
      a_t = \sqrt{e_t}\;[e_t > \theta]$$

    - $p = \max_t \min(e_t, e_{t + 2F})$ is the energy of the loudest sound longer than a frame, which no
      click is.
    - f, the noise floor, is that of the quietest stretch of a quarter of the window's length L; it is 0 of a
      recording no longer than the window, where what is quietest may be a part of the word.
    - Of what is heard, stretches up to a frame, such as clicks, do not count, if there are longer ones.
    - What counts falls into sounds, with at least L / 5 between them. The one with the largest sum of
      amplitudes is taken, the first of equal ones.
    - The window is around the middle of the sound, with half of the sum on either side, but moved to hold all
      samples of it; or, if it is longer, to hold no others.
    - If it is longer, "strongest" takes the window with the largest sum, the middle one of equal neighbors.

    Args:
        whole: [n] recording without offset, int16.
        rate: Sampling rate in samples per second.
        length: Length L of the window in samples.
        place: Window of a sound that is longer than the window.

    Returns:
        Index of the first sample, negative if the window begins before the recording does.

    Departures: no publication known to us has this rule. Sums are of integers, with $a_t$ rounded, so that
    equal windows compare equal, and silence before a recording moves the window by just its length.
    """
    frame, energy, runs = _heard(whole, rate, length)
    if not energy.any():
        return (len(whole) - length) // 2
    if max(map(len, runs)) >= 2 * frame:  # n samples lie in n + F - 1 frames
        runs = [run for run in runs if len(run) >= 2 * frame]
    sums = np.zeros(len(energy) + 1, np.int64)
    for run in runs:
        amplitudes = np.sqrt(energy[run.start : run.stop])
        sums[run.start + 1 : run.stop + 1] = np.rint(amplitudes, out=amplitudes)
    np.cumsum(sums, out=sums)
    sounds = [runs[0]]
    for run in runs[1:]:  # frames overlap, so pauses between them are shorter by a frame
        if run.start - sounds[-1][-1] > max(1, length // 5 - frame):
            sounds.append(run)
        else:
            sounds[-1] = range(sounds[-1].start, run.stop)
    loudest = max(sounds, key=lambda s: int(sums[s.stop] - sums[s.start]))
    first, last = loudest.start, loudest[-1]
    begins, ends = max(0, first - frame + 1), min(len(whole), last + 1)
    samples = np.flatnonzero(whole[begins:ends])
    begins, ends = begins + int(samples[0]), begins + int(samples[-1]) + 1
    if ends - begins > length and place == "strongest":
        low, high = begins + frame // 2, ends - length + 1 + frame // 2
        return begins + _middle_of_largest(sums[low + length : high + length] - sums[low:high])
    twice = 2 * sums[first + 1 : last + 2]
    half = int(sums[first] + sums[last + 1])
    left, right = (first + int(np.searchsorted(twice, half, side)) for side in ("left", "right"))
    start = (left + min(right, last) - frame + 1) // 2 - length // 2
    return sorted((begins, start, ends - length))[1]


def _middle_of_largest(values: npt.NDArray[np.int64]) -> int:
    """Index of the largest value, in the middle of its equal neighbors; of the first of several."""
    first = int(values.argmax())
    others = values[first:] != values[first]
    equal = int(others.argmax()) if others.any() else len(others)
    return first + (equal - 1) // 2


def _cut(whole: Clip, start: int, length: int) -> Clip:
    """The window of a recording, with silence where it exceeds it."""
    inside = whole[max(0, start) : max(0, start + length)]
    before = min(max(0, -start), length)
    return np.pad(inside, (before, length - before - len(inside)))


def _fitted_once(whole: Clip, length: int, place: Place) -> Clip:
    """The clip by version 1 of the rule."""
    missing = length - len(whole)
    if place == "centered":
        return _cut(whole, middle_of(whole) - length // 2, length)
    if missing >= 0:
        return _cut(whole, -(missing // 2), length)
    start = {"start": 0, "middle": -missing // 2}.get(place)
    if start is None:
        energy = np.cumsum(whole.astype(np.int64) ** 2)  # integers: windows of equal energy compare equal
        windows = energy[length - 1 :].copy()
        windows[1:] -= energy[:-length]
        start = int(windows.argmax())
    return whole[start : start + length]


def middle_of(whole: Clip) -> int:
    """Middle of a recording by version 1 of the rule: halfway between 5 % and 95 % of its energy.

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


def quality_of(clip: Clip, rate: int) -> list[str]:
    """What makes a clip hard to recognize: it is quiet, clipped, noisy or of a narrow band.

    - Quiet: no sample above −40 dB of the full range, so that rounding noise is heard in it.
    - Clipped: in a thousand samples, more than two lie in runs of three or more at the largest amplitude.
    - Noisy: the loudest twentieth of its frames is less than 12 dB above the softest tenth.
    - Narrow band: less than a millionth of its energy, −60 dB, lies in the upper half of its frequencies.

    Args:
        clip: [samples] clip, int16.
        rate: Sampling rate in samples per second.

    Returns:
        Reasons of a few words each; none if it is a good recording.
    """
    x = clip.astype(np.float64) / 32768
    x -= x.mean()
    peak, reasons = float(np.abs(x).max(initial=0)), list[str]()
    if peak == 0:
        return ["silent: there is no sound in it"]
    if peak < 0.01:
        reasons.append(f"quiet: its loudest sample is at {20 * np.log10(peak):.0f} dB")
    top = np.abs(x) >= 0.998 * peak
    if peak > 0.03 and (top[2:] & top[1:-1] & top[:-2]).sum() > 0.002 * len(x):
        reasons.append("clipped: the tops of its waves are cut off")
    frame = max(1, min(round(FRAME * rate), len(x) // 8))
    levels = np.square(x[: len(x) // frame * frame].reshape(-1, frame)).mean(1)
    soft, loud = np.quantile(levels, [0.1, 0.95])
    if loud < 10**1.2 * soft:
        reasons.append("noisy: what is heard in it is hardly louder than what is around it")
    spectrum = np.square(np.abs(np.fft.rfft(x * np.hanning(len(x)))))
    if spectrum[len(spectrum) // 2 :].sum() < 1e-6 * spectrum.sum():
        reasons.append(f"narrow band: there is nothing in it above {rate / 4:,.0f} Hz")
    return reasons


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
