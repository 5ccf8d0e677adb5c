"""Where in a recording the sound is: silence, level, offset, clicks and other words don't move the window."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quickstudy.data.formats.audio import (
    AudioFormat,
    Place,
    is_silent,
    start_of_window,
    without_clicks,
    without_offset,
)
from quickstudy.data.formats.items import floats, item_format
from quickstudy.encoders.spectrogram import LogMel
from quickstudy.recipes.weights import recipe_of
from tests.data.oracle_sound_window import begin, window
from tests.data.test_audio import file_of

RATE = 8000
PLACES: tuple[Place, ...] = ("strongest", "centered")
both = pytest.mark.parametrize("place", PLACES)


def word(seed: int = 0, seconds: float = 0.4, strength: float = 0.3) -> np.ndarray:
    """Three syllables of a voice in int16: harmonics of a falling pitch, with a closure before the last."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = 2 * np.pi * np.cumsum(140 - 40 * t / seconds + rng.uniform(-10, 10)) / RATE
    voice = sum(np.sin(k * pitch + rng.uniform(0, 6)) / k for k in range(1, 12))
    loud = rng.uniform(0.4, 1, 3)[np.minimum(2, (3 * t / seconds).astype(int))]
    syllables = np.abs(np.sin(3 * np.pi * t / seconds)) * loud
    x = voice * syllables
    return np.rint(32768 * strength * x / np.abs(x).max()).astype(np.int16)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.int16)


def clip(x: np.ndarray, place: Place = "strongest", seconds: float = 1.0) -> np.ndarray:
    return AudioFormat(RATE, seconds, place).decode(file_of(x.astype(np.int16), RATE))


def moved(x: np.ndarray, by: np.ndarray) -> int:
    """Samples by which one clip is later than the other, by their correlation."""
    a, b = np.fft.rfft(x, 2 * len(x)), np.fft.rfft(by, 2 * len(by))
    at = int(np.fft.irfft(a.conj() * b).argmax())
    return at if at < len(x) else at - 2 * len(x)


@given(
    st.lists(st.integers(-300, 300), min_size=1, max_size=90),
    st.lists(st.integers(0, 3), min_size=1, max_size=9),
    st.sampled_from([(1000, 10), (1000, 23), (200, 40), (120, 17)]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_the_window_is_that_of_the_rule(
    values: list[int], gates: list[int], form: tuple[int, int], strongest: bool
) -> None:
    rate, length = form
    # stretches of sound, of silence and of something faint
    gains = np.asarray([(1.0, 0.0, 0.05, 1.0)[g] for g in gates]).repeat(len(values) // len(gates) + 1)
    x = np.rint(np.asarray(values) * gains[: len(values)]).astype(np.int16)
    place = "strongest" if strongest else "centered"
    assert start_of_window(x, rate, length, place) == begin(x.tolist(), rate, length, strongest)
    whole = without_clicks(without_offset(x), rate, length)
    made = AudioFormat(1000, length / 1000, place)
    if rate == 1000:
        expected = window(whole.tolist(), 1000, length, strongest)
        assert made.decode(file_of(x, 1000)).tolist() == expected


@given(st.integers(0, 99), st.floats(0.15, 0.8), st.floats(0, 2), st.floats(0, 2), st.sampled_from(PLACES))
@settings(max_examples=40, deadline=None)
def test_silence_around_a_word_changes_nothing(
    seed: int, seconds: float, before: float, after: float, place: Place
) -> None:
    x = word(seed, seconds)
    around = np.concatenate([silence(before), x, silence(after)])
    np.testing.assert_array_equal(clip(around, place), clip(x, place))


@both
@pytest.mark.parametrize("seconds", [0, 0.5, 1, 2])
def test_all_of_a_word_is_in_the_window_and_it_is_in_the_middle(seconds: float, place: Place) -> None:
    x = word()
    made = clip(np.concatenate([silence(seconds), x, silence(seconds)]), place)
    at = moved(np.pad(x, (0, RATE - len(x))), made)
    np.testing.assert_array_equal(made[at : at + len(x)], x)
    loudness = np.cumsum(np.abs(made.astype(np.int64)))
    assert abs(int(np.searchsorted(loudness, loudness[-1] / 2)) - RATE // 2) < 0.02 * RATE


@given(st.integers(0, 99), st.floats(-40, 6), st.floats(-0.3, 0.3), st.sampled_from(PLACES))
@settings(max_examples=40, deadline=None)
def test_level_and_offset_do_not_move_the_window(
    seed: int, decibels: float, offset: float, place: Place
) -> None:
    x = np.concatenate([silence(1), word(seed), silence(1)])
    other = np.rint(x * 10 ** (decibels / 20) + 32768 * offset).clip(-32768, 32767)
    made, expected = clip(other, place), clip(x, place)
    assert abs(moved(expected, made)) <= 0.005 * RATE
    assert abs(made.mean()) <= max(2, 0.06 * made.std()), "and the offset is gone"


@both
def test_an_offset_is_taken_off_and_nothing_else(place: Place) -> None:
    x = np.concatenate([silence(0.5), word(), silence(0.5)])
    assert np.abs(clip(x + np.int16(655), place).astype(int) - clip(x, place)).max() <= 3
    np.testing.assert_array_equal(without_offset(word()), word())
    assert is_silent(clip(np.full(RATE // 2, 655), place)), (
        "an offset is no sound, where silence is added too"
    )


@both
@pytest.mark.parametrize("level", [-50, -40])
def test_faint_noise_hardly_moves_the_window(level: float, place: Place) -> None:
    x = np.concatenate([silence(1), word(), silence(1)])
    noise = 32768 * 10 ** (level / 20) * np.random.default_rng(0).standard_normal(len(x))
    assert abs(moved(clip(x, place), clip(np.rint(x + noise), place))) <= 0.005 * RATE


@both
@pytest.mark.parametrize("samples", [1, 8, 40, 100])
@pytest.mark.parametrize("before", [0.05, 0.1, 0.3, 0.8])
def test_a_click_before_a_word_does_not_move_the_window(before: float, samples: int, place: Place) -> None:
    for strength in (0.3, 0.01):  # the click is louder than either
        x = np.concatenate([silence(1), word(strength=strength), silence(1)])
        clicked = x.copy()
        at = RATE - round(before * RATE)
        clicked[at : at + samples] = 30_000 * (-1) ** np.arange(samples)
        assert (
            abs(moved(clip(x, place), clip(clicked, place) * (np.abs(clip(clicked, place)) < 20_000))) <= 80
        )


@both
@pytest.mark.parametrize("samples", [1, 8, 40, 150])
def test_a_click_louder_than_the_word_is_not_heard_and_what_is_softer_stays(
    samples: int, place: Place
) -> None:
    for strength in (0.3, 0.01):
        x = np.concatenate([silence(1), word(strength=strength), silence(1)])
        for at in (RATE - 900, RATE - 2000, RATE + round(0.5 * RATE)):
            clicked, soft = x.copy(), x.copy()
            clicked[at : at + samples] = np.abs(x).max() * 1.5 * (-1) ** np.arange(samples)
            soft[at : at + samples] = np.abs(x).max() * 0.7 * (-1) ** np.arange(samples)
            np.testing.assert_array_equal(clip(clicked, place), clip(x, place))
            np.testing.assert_array_equal(without_clicks(soft, RATE, RATE), soft)


@both
def test_where_there_is_only_a_click_it_is_the_sound(place: Place) -> None:
    x = silence(3)
    x[17_000:17_020] = 9000 * (-1) ** np.arange(20)
    at = np.flatnonzero(clip(x, place))
    assert len(at) == 20
    assert at[0] in (3990, 3991)


@both
@pytest.mark.parametrize("pause", [0.25, 0.5, 1, 2])
def test_of_two_words_with_a_pause_between_them_one_is_taken(pause: float, place: Place) -> None:
    for first, second in ((0.3, 0.3), (0.3, 0.1), (0.1, 0.3)):
        one, two = word(1, strength=first), word(2, strength=second)
        made = clip(np.concatenate([silence(0.5), one, silence(pause), two, silence(0.5)]), place)
        alone = [clip(x, place) for x in (one, two)]
        taken = alone[int(abs(moved(alone[0], made)) > 8)]
        assert first == second or taken is alone[int(first < second)]
        near = slice(RATE // 2 - RATE // 5, RATE // 2 + RATE // 5)
        np.testing.assert_array_equal(made[near], taken[near])
        assert not is_silent(made)


@both
def test_of_equal_words_the_first_is_taken(place: Place) -> None:
    x = word()
    twice = np.concatenate([silence(1), x, silence(1), x, silence(1)])
    np.testing.assert_array_equal(clip(twice, place), clip(x, place))


def test_of_equally_loud_windows_of_a_long_sound_the_middle_one_is_taken() -> None:
    steady = np.tile(np.array([5000, -5000], np.int16), RATE)  # two seconds
    around = np.concatenate([silence(1), steady, silence(0.2)])
    for place in PLACES:
        assert start_of_window(steady, RATE, RATE, place) in range(RATE // 2 - 2, RATE // 2 + 3)
        assert start_of_window(around, RATE, RATE, place) in range(3 * RATE // 2 - 2, 3 * RATE // 2 + 3)


def test_of_a_long_sound_the_loudest_part_or_the_middle_is_taken() -> None:
    t = np.arange(3 * RATE)
    x = np.rint(np.where(t < RATE, 12_000, 7000) * np.sin(t)).astype(np.int16)
    assert abs(start_of_window(x, RATE, RATE, "strongest")) <= 0.02 * RATE
    # half of the loudness, 12 + 7 + 7, lies after 1.14 s
    assert abs(start_of_window(x, RATE, RATE, "centered") - 0.64 * RATE) <= 0.02 * RATE


@pytest.mark.parametrize("place", ["strongest", "centered", "middle", "start"])
@pytest.mark.parametrize("seconds", [0.5, 1, 3])
def test_silence_is_silent_at_any_place(place: Place, seconds: float) -> None:
    noise = np.random.default_rng(0).integers(-7, 8, round(seconds * RATE))
    for x in (silence(seconds), noise, noise + 3000):
        made = clip(x, place)
        assert is_silent(made)
        assert LogMel(RATE)(floats(torch.from_numpy(made))[None]).isfinite().all()


@pytest.mark.parametrize("kind", ["one sample", "a frame", "a frame and one"])
def test_the_shortest_recordings(kind: str) -> None:
    n = {"one sample": 1, "a frame": 200, "a frame and one": 201}[kind]
    x = 1000 * (-1) ** np.arange(n)
    for place in PLACES:
        assert np.count_nonzero(clip(x, place)) in ((0,) if n == 1 else (n,)), "one sample is but an offset"


@pytest.mark.parametrize("name", ["digits-fsdd", "words-arabic", "speakers-arabic", "siamese"])
def test_what_was_trained_before_there_were_versions_keeps_its_rule(name: str) -> None:
    arguments = {"audio": "sounds"} if name == "siamese" else {}
    trained = {"recipe": name, "arguments": arguments}
    stated = {"rate": 8000, "seconds": 1.0, "place": "centered"}
    for version, items in ((1, stated), (2, stated | {"version": 2})):
        form = recipe_of(trained | {"items": items}).item_format
        assert isinstance(form, AudioFormat)
        assert form.version == version
    assert item_format(stated).version == 1
    assert item_format(AudioFormat(version=1).as_dict()) == AudioFormat(version=1)


def test_a_format_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version is 3: this quickstudy knows 1 … 2"):
        AudioFormat(version=3)
