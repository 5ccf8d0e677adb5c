"""Sound as people have it, made into clips, and the pictures of clips that encoders see."""

import io
import math
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quickstudy.core.checkpoint import load_weights
from quickstudy.core.kernels.sizes import sizes
from quickstudy.data.formats import audio, images
from quickstudy.data.formats.audio import AudioFormat, is_silent, quality_of
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.formats.items import decode_items, item_format, with_place
from quickstudy.encoders.spectrogram import LogMel, SpecAugment, mel_filters
from quickstudy.encoders.test_time import ShiftSpeedTTA
from tests.support.small_models import Kept

SECOND = AudioFormat()
RAW = AudioFormat(place="start")
"""Nothing moves in it; an offset goes."""


def file_of(
    samples: np.ndarray, rate: int = 16_000, kind: str = "WAV", coding: str | None = None
) -> Callable[[], bytes]:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype=coding)
    return out.getvalue


def tone(hertz: float, seconds: float, rate: int = 16_000, strength: float = 0.5) -> np.ndarray:
    return strength * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def pitch(clip: np.ndarray, rate: int = 16_000) -> float:
    """The strongest frequency, in Hz."""
    return np.abs(np.fft.rfft(clip * np.hanning(len(clip)))).argmax() * rate / len(clip)


# Any file becomes the same clip


def test_sixteen_bits_at_the_same_rate_are_kept_to_the_bit() -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 16_000).astype(np.int16)
    for kind in ("WAV", "FLAC", "AIFF"):
        clip = SECOND.decode(file_of(samples, kind=kind))
        assert clip.dtype == np.int16
        np.testing.assert_array_equal(clip, samples)


@pytest.mark.parametrize(
    ("kind", "coding", "error"),
    [
        ("WAV", "PCM_U8", 300),
        ("WAV", "PCM_24", 1),
        ("WAV", "PCM_32", 1),
        ("WAV", "FLOAT", 1),
        ("WAV", "DOUBLE", 1),
        ("WAV", "ULAW", 600),
        ("FLAC", "PCM_S8", 300),
        ("OGG", "VORBIS", 1500),
        ("OGG", "OPUS", 1500),
        ("MP3", "MPEG_LAYER_III", 1500),
        ("CAF", "PCM_16", 1),
        ("W64", "PCM_16", 1),
        ("RF64", "PCM_16", 1),
        ("AU", "PCM_16", 1),
    ],
)
def test_any_coding(kind: str, coding: str, error: int, tmp_path: Path) -> None:
    samples = tone(440, 1)
    raw = file_of(samples, kind=kind, coding=coding)
    clip = SECOND.decode(raw)
    assert np.abs(clip[2000:-2000] - 32768.0 * samples[2000:-2000]).max() <= error
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(raw())
    np.testing.assert_array_equal(SECOND.decode(path), clip)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_any_rate_keeps_pitch_length_and_strength(rate: int) -> None:
    clip = SECOND.decode(file_of(tone(1000, 1, rate), rate))
    assert clip.shape == (16_000,)
    assert pitch(clip) == pytest.approx(1000, abs=1)
    assert np.abs(clip[4000:12_000]).max() == pytest.approx(16_384, rel=0.01)


def test_what_a_lower_rate_cannot_hold_is_gone_and_not_folded_back() -> None:
    clip = AudioFormat(8000).decode(file_of(tone(7000, 1, 48_000), 48_000))
    assert np.abs(clip[400:-400]).max() < 30


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(channels: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (16_000, channels))
    clip = SECOND.decode(file_of(samples, coding="FLOAT"))
    assert np.abs(clip - 32768 * samples.mean(1)).max() <= 0.51


def test_loud_floats_are_scaled_and_values_rounded_to_the_nearest() -> None:
    samples = np.zeros(16_000)
    samples[:5] = [1.0, -1.0, 0.6 / 32768, -0.6 / 32768, 0.4 / 32768]
    assert RAW.decode(file_of(samples, coding="DOUBLE"))[:5].tolist() == [32767, -32768, 1, -1, 0]
    for coding in ("FLOAT", "DOUBLE"):
        loud = RAW.decode(file_of(tone(440, 1, strength=3.0), coding=coding))
        np.testing.assert_allclose(loud, 32768 * tone(440, 1, strength=1.0), atol=2)


def test_many_blocks_are_one_sound() -> None:
    raw = file_of(np.random.default_rng(0).uniform(-0.5, 0.5, (16_000, 2)))
    whole = SECOND.decode(raw)
    with sizes(decoded_frames=777):
        np.testing.assert_array_equal(SECOND.decode(raw), whole)


# Any length


def test_a_short_sound_comes_into_the_middle() -> None:
    for place in ("start", "middle"):
        clip = AudioFormat(1000, 0.01, place).decode(file_of(np.array([1, -2, 1], np.int16), 1000))
        assert clip.tolist() == [0, 0, 0, 1, -2, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(("place", "first"), [("start", 0), ("middle", 2), ("strongest", 4)])
def test_which_window_of_a_long_sound_by_version_1(place: audio.Place, first: int) -> None:
    samples = np.array([1, 2, 3, 4, 5, -9, 9, 6, 6, 6, 6, 6, 6, 2, 0], np.int16)
    stated = {"rate": 1000, "seconds": 0.01, "place": place}
    clip = item_format(stated).decode(file_of(samples, 1000))
    start = 3 if place == "strongest" else first
    np.testing.assert_array_equal(clip, samples[start : start + 10])


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=60), st.integers(10, 30))
def test_by_version_1_no_window_is_stronger_than_the_strongest(values: list[int], length: int) -> None:
    clip = AudioFormat(1000, length / 1000, version=1).decode(file_of(np.array(values, np.int16), 1000))
    energies = [sum(v * v for v in values[i : i + length]) for i in range(max(1, len(values) - length + 1))]
    assert len(clip) == length
    assert (clip.astype(np.int64) ** 2).sum() == max(energies)
    if len(values) > length:
        start = energies.index(max(energies))
        assert clip.tolist() == values[start : start + length], "the first of equals"


# What can't be read is said in one line


def reason(source: images.FileOrBytes) -> str:
    with pytest.raises(OSError) as raised:  # noqa: PT011 (the caller looks)
        SECOND.decode(source)
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_empty_and_soundless_files(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert reason(tmp_path / "a.wav") == reason(lambda: b"") == "the file is empty"
    assert reason(file_of(np.zeros(0))) == "it holds no sound"


@pytest.mark.parametrize("raw", [b"hello, I am no sound", b"\x89PNG\r\n\x1a\n" + bytes(99), b"x"])
def test_what_is_no_sound(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(raw)
    for source in (path, lambda: raw):
        assert reason(source) == "not sound in any format soundfile reads"


def test_samples_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(100))
    assert reason(tmp_path / "a.raw").startswith("samples without a header")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SECOND.decode(tmp_path / "gone.wav")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "AIFF", "AU", "CAF", "W64", "RF64"])
def test_half_a_file(kind: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000)
    raw = file_of(noise, kind=kind)()
    assert reason(lambda: raw[: len(raw) // 2]).startswith("damaged: ")


def test_a_file_of_unknown_length_is_read_to_its_end() -> None:
    """As programs write it that can't go back to the header."""
    raw = bytearray(file_of(np.tile(np.array([77, -77], np.int16), 8_000))())
    at = raw.index(b"data") + 4
    raw[at : at + 4] = raw[4:8] = struct.pack("<I", 0xFFFFFFFF)
    assert SECOND.decode(lambda: bytes(raw)).tolist() == [77, -77] * 8_000


@given(st.data())
def test_damage_anywhere_is_a_clip_or_one_line(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["WAV", "FLAC", "OGG"]))
    raw = bytearray(file_of(tone(300, 0.1), kind=kind)())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, min(len(raw), 300) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert SECOND.decode(lambda: bytes(raw)).shape == (16_000,)
    except OSError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_numbers(value: float) -> None:
    assert "no numbers" in reason(file_of(np.array([0.0, value, 0.0]), coding="FLOAT"))


def test_longer_than_we_dare(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = file_of(np.zeros(601 * 1000, np.int16), 1000, "FLAC")
    assert len(raw()) < 20_000, "a bomb"
    monkeypatch.setattr(soundfile.SoundFile, "read", None)  # it is not even begun
    assert reason(raw) == "601 seconds are more than the 600 we dare to decode"


def test_many_are_decoded_and_the_bad_ones_named(tmp_path: Path) -> None:
    waves = [np.tile(np.array([v, -v], np.int16), 8_000) for v in range(70)]
    sources: list[images.FileOrBytes] = [file_of(wave) for wave in waves]
    sources[3], sources[69] = tmp_path / "gone.wav", lambda: b""
    out, told = np.full((70, 16_000), -1, np.int16), list[tuple[int, int]]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bad = decode_items(sources, SECOND, out, lambda *done: told.append(done))
    assert bad[3].endswith("No such file or directory")
    assert bad[69] == "the file is empty"
    assert out[:, 4].tolist() == [-1 if i in (3, 69) else i for i in range(70)]
    assert told[-1] == (70, 70)


def test_silence_is_decoded_and_known() -> None:
    quiet = np.random.default_rng(0).integers(-7, 8, 16_000).astype(np.int16)
    assert is_silent(SECOND.decode(file_of(np.zeros(16_000, np.int16))))
    assert is_silent(quiet)
    assert is_silent(quiet + np.int16(1000)), "also where the level is off"
    assert not is_silent(SECOND.decode(file_of(tone(300, 0.05, strength=0.01))))


# What makes a clip hard to recognize


def speech() -> np.ndarray:
    """Two seconds of voice-like sound: harmonics that come and go, with some hiss, in [−1, 1]."""
    t = np.arange(16_000) / 16_000
    voice = sum(np.sin(2 * np.pi * 130 * k * t + k * k) / k for k in range(1, 40))
    hiss = 0.02 * np.random.default_rng(0).standard_normal(16_000)
    return 0.15 * (voice + hiss) * np.sin(2 * np.pi * t) ** 2


def told(x: np.ndarray, rate: int = 16_000) -> list[str]:
    made = np.rint(32768 * x).clip(-32768, 32767).astype(np.int16)
    return [reason.split(":")[0] for reason in quality_of(made, rate)]


def test_each_fault_of_a_recording_is_told_and_of_a_good_one_nothing() -> None:
    x, noise = speech(), np.random.default_rng(1).standard_normal(16_000)
    assert told(x) == told(x + 0.02) == told(0.1 * x) == []
    assert told(0.01 * x) == ["quiet"]
    assert told((3 * x).clip(-0.1, 0.1)) == ["clipped"]
    assert told(x + 0.1 * noise) == ["noisy"]
    spectrum = np.fft.rfft(x)
    spectrum[3400:] = 0
    assert told(np.fft.irfft(spectrum)) == ["narrow band"]
    assert told(np.zeros(16_000)) == told(np.full(16_000, 0.02)) == ["silent"]
    assert told(x[:7])  # however short


def test_the_reasons_say_how_much() -> None:
    quiet = np.rint(327.68 * speech()).astype(np.int16)
    level = 20 * np.log10(np.abs(quiet - quiet.mean()).max() / 32768)
    assert quality_of(quiet, 16_000) == [f"quiet: its loudest sample is at {level:.0f} dB"]


# The format


def test_another_place_is_taken_of_sounds_only() -> None:
    assert with_place(SECOND, "start") == AudioFormat(place="start")
    old = AudioFormat(version=1)
    assert with_place(old, "middle") == AudioFormat(place="middle", version=1)
    for form in (SECOND, ImageFormat(32)):
        assert with_place(form, None) is form
    with pytest.raises(ValueError, match="place middle is for sounds, and this model takes pictures"):
        with_place(ImageFormat(32), "middle")


def test_a_format_comes_back_from_its_manifest() -> None:
    for given_format in (AudioFormat(8000, 0.75, "middle"), ImageFormat(84, 3, True)):
        assert item_format(given_format.as_dict()) == given_format
    assert AudioFormat(8000, 0.75).shape == (6000,)


@pytest.mark.parametrize(
    "arguments", [{"rate": 0}, {"rate": 10**6}, {"seconds": 0.0}, {"seconds": 601.0}, {"place": "loudest"}]
)
def test_bad_formats_are_named(arguments: dict[str, object]) -> None:
    (name, value) = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f"{name} is {value!r}: it must"):
        AudioFormat(**arguments)  # pyright: ignore[reportArgumentType]


# Log-mel


def clips(number: int = 3, samples: int = 16_000) -> torch.Tensor:
    return torch.rand(number, samples, generator=torch.Generator().manual_seed(0)) * 2 - 1


def peaks(rate: int, mels: int) -> list[float]:
    """Frequencies of the triangles' peaks, and the ends: 15 mel are 1,000 Hz and 42 are 6,400 by Slaney."""

    def to_mel(f: float) -> float:
        return f * 15 / 1000 if f < 1000 else 15 + 27 * math.log(f / 1000, 6.4)

    def to_hertz(m: float) -> float:
        return m * 1000 / 15 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27)

    return [to_hertz(i * to_mel(rate / 2) / (mels + 1)) for i in range(mels + 2)]


def literal_filters(rate: int, n_fft: int, mels: int) -> np.ndarray:
    """One weight after the other, in float64."""
    f = peaks(rate, mels)
    m = np.zeros((mels, n_fft // 2 + 1))
    for row in range(mels):
        low, peak, high = f[row : row + 3]
        for k in range(n_fft // 2 + 1):
            at = k * rate / n_fft
            if low < at <= peak:
                m[row, k] = (at - low) / (peak - low)
            elif peak < at < high:
                m[row, k] = (high - at) / (high - peak)
        m[row] *= 2 / (high - low)
    return m


RATES = pytest.mark.parametrize(
    ("rate", "n_fft", "mels"),
    [(16_000, 512, 40), (8000, 256, 32), (44_100, 2048, 128), (1000, 64, 4), (1999, 127, 8), (2000, 128, 8)],
)


@RATES
def test_mel_filters_one_by_one(rate: int, n_fft: int, mels: int) -> None:
    made = mel_filters(rate, n_fft, mels)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, literal_filters(rate, n_fft, mels), rtol=1e-6, atol=1e-9)


@RATES
def test_mel_filters_are_librosas(rate: int, n_fft: int, mels: int) -> None:
    librosa = pytest.importorskip("librosa", reason="librosa is not installed")
    theirs = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=mels)
    np.testing.assert_allclose(mel_filters(rate, n_fft, mels), theirs, rtol=1e-7, atol=1e-12)


def test_mel_filters_as_librosa_made_them() -> None:
    """Its version 0.11, at 16,000 Hz, 512 samples and 40 mel."""
    m = mel_filters(16_000, 512, 40)
    frozen = {
        (0, 1): 0.00577360112,
        (0, 2): 0.0115472022,
        (5, 14): 0.0128680663,
        (14, 30): 0,
        (20, 55): 0.00542963389,
        (39, 240): 0.00151894242,
        (39, 256): 0,
        (30, 10): 0,
    }
    assert {at: m[at] for at in frozen} == pytest.approx(frozen, rel=1e-6)
    assert (np.count_nonzero(m), float(m.sum(dtype=np.float64))) == (490, pytest.approx(1.27933313, rel=1e-6))


def literal_powers(x: np.ndarray, n_fft: int, window: int, hop: int) -> np.ndarray:
    """[B, bins, frames], in float64."""
    padded = np.pad(x, ((0, 0), (n_fft // 2, n_fft // 2)))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    hann = np.pad(hann, (n_fft - window) // 2)
    frames = np.stack([padded[:, i : i + n_fft] for i in range(0, x.shape[1] + 1, hop)], 2)
    return abs(np.fft.rfft(frames * hann[:, None], axis=1)) ** 2


def test_log_mel_frame_by_frame() -> None:
    rate, mels, n_fft, window, hop = 8000, 32, 256, 200, 80
    x = 0.1 * clips(2, 2037) + 0.3
    ours = LogMel(rate, mels, normalize="none")(x)
    of_one = x.double().numpy() - x.double().numpy().mean(1, keepdims=True)
    of_one /= np.sqrt((of_one**2).mean(1, keepdims=True))
    literal = literal_filters(rate, n_fft, mels) @ literal_powers(of_one, n_fft, window, hop)
    assert ours.shape == (2, 1, mels, 2037 // hop + 1)
    np.testing.assert_allclose((ours.exp() - 1e-3)[:, 0].numpy(), literal, rtol=1e-4, atol=1e-4)


def before_floors(front: LogMel) -> LogMel:
    """A spectrogram with weights of before there were floors in them."""
    load_weights(front, {k: v for k, v in front.state_dict().items() if k != "floor"}, "old.safetensors")
    return front


def test_weights_without_a_floor_have_the_spectrogram_that_they_were_trained_with() -> None:
    rate, mels, n_fft, window, hop = 8000, 32, 256, 200, 80
    x = 0.1 * clips(2, 2037) + 0.3
    front = before_floors(LogMel(rate, mels, normalize="none"))
    literal = literal_filters(rate, n_fft, mels) @ literal_powers(x.double().numpy(), n_fft, window, hop)
    np.testing.assert_allclose(front(x).exp()[:, 0].numpy(), literal + 1e-6, rtol=1e-4, atol=1e-6)
    assert set(front.state_dict()) == {"filters", "window"}, "so the fingerprint stays, too"
    inside = nn.Sequential(LogMel(rate, mels))
    load_weights(inside, {f"0.{k}": v for k, v in front.state_dict().items()}, "old.safetensors")
    assert inside[0].floor is None
    load_weights(inside, nn.Sequential(LogMel(rate, mels)).state_dict(), "new.safetensors")
    assert inside[0].floor == pytest.approx(1e-3)


@given(st.floats(-60, 20), st.floats(-0.5, 0.5))
@settings(max_examples=20, deadline=None)
def test_neither_level_nor_offset_changes_a_spectrogram(decibels: float, offset: float) -> None:
    x = (clips(1) * torch.hann_window(16_000)).double()
    for normalize in ("clip", "none"):
        front = LogMel(normalize=normalize).double()
        torch.testing.assert_close(front(x * 10 ** (decibels / 20) + offset), front(x), atol=1e-3, rtol=0)


def test_a_higher_tone_is_higher_up() -> None:
    front = LogMel(normalize="none")
    x = torch.stack([torch.from_numpy(tone(h, 1)).float() for h in (200, 1000, 5000)])
    strongest = front(x)[:, 0, :, 50].argmax(1).tolist()
    centers = peaks(16_000, 40)[1:-1]
    assert [abs(np.log(centers[m] / h)) < 0.15 for m, h in zip(strongest, (200, 1000, 5000), strict=True)]
    assert strongest == sorted(strongest)


def test_each_picture_has_mean_0_and_variance_1_however_loud() -> None:
    x, front = clips(), LogMel()
    picture = front(x)
    torch.testing.assert_close(picture.mean((1, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(picture.var((1, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(front(0.1 * x), picture, atol=0.02, rtol=0)


def test_silence_is_finite() -> None:
    for normalize in ("clip", "none"):
        assert LogMel(normalize=normalize)(torch.zeros(2, 16_000)).isfinite().all()
    assert (LogMel()(torch.zeros(1, 16_000)).abs() < 1e-2).all()


def test_mixed_precision_makes_no_difference() -> None:
    x, front = clips(), LogMel()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = front(x)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, front(x))


def test_double_precision_and_each_clip_for_itself() -> None:
    x, front = clips().double(), LogMel().double()
    assert front(x).dtype == torch.float64
    torch.testing.assert_close(front(x)[1:2], front(x[1:2]))
    torch.testing.assert_close(front(x).float(), LogMel()(x.float()), atol=1e-3, rtol=0)


def test_filters_travel_with_the_weights_and_are_not_learned() -> None:
    front = LogMel(8000, 20)
    assert set(front.state_dict()) == {"filters", "window", "floor"}
    assert not list(front.parameters())


def test_it_is_exported_with_the_encoder() -> None:
    model = nn.Sequential(LogMel(), SpecAugment(), nn.Flatten(), nn.Linear(40 * 101, 4)).eval()
    x = clips(2)
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), model(x))


@pytest.mark.parametrize(
    "arguments",
    [
        {"rate": 0},
        {"mels": 0},
        {"hop": 0.05},
        {"hop": 0.0},
        {"mels": 400},
        {"normalize": "loud"},
    ],
)
@pytest.mark.filterwarnings("ignore:Empty filters")
def test_front_ends_that_are_none(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        LogMel(**arguments)  # pyright: ignore[reportArgumentType]


def test_what_is_no_clip() -> None:
    with pytest.raises(ValueError, match=r"takes clips \[B, samples\], not \[2, 1, 16000\]"):
        LogMel()(torch.zeros(2, 1, 16_000))


# SpecAugment


def test_nothing_is_hidden_but_in_training() -> None:
    x = torch.ones(2, 1, 40, 101)
    assert SpecAugment().eval()(x) is x


def test_whole_rows_and_columns_are_hidden_of_each_item_by_itself() -> None:
    torch.manual_seed(0)
    shown = SpecAugment(stretches=2, longest=20, bands=1, widest=8)(torch.ones(500, 2, 40, 101))
    assert set(shown.unique().tolist()) == {0.0, 1.0}
    rows, columns = (shown[:, 0] == 0).all(2), (shown[:, 0] == 0).all(1)
    torch.testing.assert_close(shown[:, 0] == 0, rows[:, :, None] | columns[:, None, :])
    assert torch.equal(shown[:, 0], shown[:, 1]), "of all channels the same"
    assert rows.sum(1).max() == 8
    assert 20 < columns.sum(1).max() <= 40
    assert rows.sum(1).float().mean().item() == pytest.approx(4, abs=0.5)
    assert columns.sum(1).float().mean().item() == pytest.approx(20, abs=1.5)  # less what two share
    assert rows.any(0).all()
    assert columns.any(0).all()
    assert len({tuple(c) for c in columns.tolist()}) > 400


def test_hiding_is_repeatable_by_torchs_seed() -> None:
    def drawn() -> torch.Tensor:
        torch.manual_seed(7)
        return SpecAugment()(torch.ones(4, 1, 40, 101))

    assert torch.equal(drawn(), drawn())


def test_a_width_of_nothing_and_one_beyond_the_picture() -> None:
    x = torch.ones(50, 1, 40, 10)
    assert torch.equal(SpecAugment(0, 20, 2, 0)(x), x)
    assert SpecAugment(1, 99, 0, 0)(x).shape == x.shape
    with pytest.raises(ValueError, match="must be at least 0"):
        SpecAugment(longest=-1)


# ShiftSpeedTTA


def test_a_clip_is_heard_earlier_later_slower_and_faster() -> None:
    clip = torch.from_numpy(tone(440, 1.0) * np.hanning(16_000)).float()[None]
    net = ShiftSpeedTTA(Kept(), shift=0.1, speed=0.05)
    mean = net(clip)
    assert isinstance(net.encoder, Kept)
    as_it_is, earlier, later, slower, faster = net.encoder.items
    torch.testing.assert_close(mean, (as_it_is + earlier + later + slower + faster) / 5)
    assert torch.equal(as_it_is, clip)
    assert torch.equal(earlier[0, :-1600], clip[0, 1600:])
    assert torch.equal(later[0, 1600:], clip[0, :-1600])
    assert not earlier[0, -1600:].any()
    assert not later[0, :1600].any()
    for played, factor in ((slower, 0.95), (faster, 1.05)):
        assert played.shape == clip.shape
        assert pitch(played[0].numpy()) == pytest.approx(factor * 440, abs=1)
        loudest = played[0].square().cumsum(0)
        assert int((loudest < loudest[-1] / 2).sum()) == pytest.approx(8000, abs=8), "its middle stays there"


def test_a_clip_is_heard_as_many_times_as_far_off() -> None:
    clip = torch.from_numpy(tone(440, 1.0) * np.hanning(16_000)).float()[None]
    near, far = ShiftSpeedTTA(Kept(), 0.03, 0.04), ShiftSpeedTTA(Kept(), 0.06, 0.08)
    both = ShiftSpeedTTA(Kept(), 0.03, 0.04, reach=2)
    expected = [
        *near.variants(clip)[:2],
        *far.variants(clip)[:2],
        *near.variants(clip)[2:],
        *far.variants(clip)[2:],
    ]
    for made, same in zip(both.variants(clip), expected, strict=True):
        assert torch.equal(made, same)


@pytest.mark.parametrize(
    ("shift", "speed", "reach"), [(0, 0.1, 1), (0.1, 0.6, 1), (0.1, 0.2, 3), (0.1, 0.1, 0)]
)
def test_shift_speed_tta_names_a_wrong_argument(shift: float, speed: float, reach: int) -> None:
    with pytest.raises(ValueError, match=f"shift is {shift}, speed {speed} and reach {reach}"):
        ShiftSpeedTTA(nn.Identity(), shift, speed, reach)


def test_the_spelling_of_earlier_manifests_is_read() -> None:
    stated = {"rate": 8000, "seconds": 0.5, "place": "centred"}
    assert item_format(stated) == AudioFormat(8000, 0.5, "centered", version=1)
