"""Random changes to clips: what each does, to each clip by itself, and that they can be repeated."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quickstudy.data.augment.audio import Gain, Noise, Shift, Speed
from quickstudy.data.augment.images import Augment, Compose
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting

ALL = [Shift(), Speed(), Gain(), Noise(), Compose((Shift(), Speed(), Gain(), Noise()))]


class Highest:
    """In the place of a generator: every draw is the highest."""

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, float(high))


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def tones(hertz: list[float], samples: int = 8000) -> torch.Tensor:
    """[B, samples] at 8 kHz."""
    return torch.stack([torch.sin(2 * torch.pi * h * torch.arange(samples) / 8000) for h in hertz]).double()


def pitches(x: torch.Tensor) -> list[float]:
    window = torch.hann_window(x.shape[1], dtype=x.dtype)
    return (torch.fft.rfft(x * window).abs().argmax(1) * 8000 / x.shape[1]).tolist()


def test_shifted_by_whole_samples_and_silence_comes_in() -> None:
    x = torch.arange(1, 11.0).repeat(2, 1)
    assert Shift(0.3)(x, Highest()).tolist() == [[0, 0, 0, 1, 2, 3, 4, 5, 6, 7]] * 2  # type: ignore[arg-type]
    drawn = Shift(0.4)(torch.arange(1, 11.0).repeat(500, 1), rng())
    assert {tuple(row) for row in drawn.tolist()} == {
        tuple(float(i + 1 - k) if 0 <= i - k < 10 else 0.0 for i in range(10)) for k in range(-4, 5)
    }


def test_faster_is_higher() -> None:
    assert pitches(Speed(1.0, 1.25)(tones([400, 1000]), Highest())) == [500, 1250]  # type: ignore[arg-type]
    slow = pitches(Speed(0.8, 0.8)(tones([400, 1000]), rng()))
    assert slow == pytest.approx([320, 800], abs=1)


def test_the_middle_stays_where_it_is_and_outside_is_silence() -> None:
    x = torch.zeros(1, 101)
    x[0, 50] = 1
    x[0, 0] = x[0, -1] = 1
    fast = Speed(2, 2)(x, rng())
    assert fast[0, 50] == 1
    assert fast[0, :25].abs().sum() == fast[0, 76:].abs().sum() == 0
    assert fast[0, 25] == fast[0, 75] == 1
    torch.testing.assert_close(Speed(1, 1)(x, rng()), x)


def test_speed_of_whole_classes() -> None:
    x = tones([300, 700, 500, 900, 400, 600]).unflatten(0, (3, 2))
    y = Speed(0.7, 1.4)(x, rng(3))
    factors = rng(3).uniform(0.7, 1.4, 3)
    for of_class, was, factor in zip(y, x, factors.tolist(), strict=True):
        torch.testing.assert_close(of_class, Speed(factor, factor)(was, rng()))
    assert len(np.unique(factors)) == 3


def test_gain_in_decibels() -> None:
    x = tones([300, 700])
    torch.testing.assert_close(Gain(20)(x, Highest()), 10 * x)  # type: ignore[arg-type]
    ratio = (Gain(6)(torch.ones(2000, 1), rng()).log10() * 20).squeeze(1)
    assert ratio.min().item() == pytest.approx(-6, abs=0.1)
    assert ratio.max().item() == pytest.approx(6, abs=0.1)
    assert ratio.mean().item() == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("decibels", [0.0, 20.0])
def test_noise_has_the_power_asked_for_whatever_the_clip_has(decibels: float) -> None:
    x = tones([300, 700]) * torch.tensor([[1.0], [0.01]])
    added = Noise(decibels, decibels)(x, rng()) - x
    ratio = 10 * (x.square().mean(1) / added.square().mean(1)).log10()
    assert ratio.tolist() == pytest.approx([decibels] * 2, abs=0.2)
    assert abs(torch.corrcoef(added)[0, 1]) < 0.1, "each has its own"
    assert not Noise()(torch.zeros(2, 100), rng()).any(), "silence stays silent"


def test_noise_of_a_recording_ends_where_it_ends() -> None:
    x = torch.zeros(400, 60)
    x[:, 20:40] = 0.1
    x[:, 30] = 0.0  # within
    changed = Noise(10, 10, recorded=0.5)(x, rng()) != x
    assert changed[:, 20:40].all()
    padding = torch.cat([changed[:, :20], changed[:, 40:]], 1)
    assert torch.equal(padding.any(1), padding.all(1))
    assert 150 < padding.any(1).sum() < 250


@given(st.sampled_from(ALL), st.integers(1, 5), st.integers(2, 50), st.integers(0, 2**32))
def test_shape_type_and_input_are_kept_and_the_draw_is_repeatable(
    change: Augment, number: int, samples: int, seed: int
) -> None:
    x = torch.from_numpy(rng(0).uniform(-1, 1, (number, samples))).float()
    before = x.clone()
    y = change(x, rng(seed))
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert y.isfinite().all()
    assert torch.equal(x, before)
    assert torch.equal(y, change(x, rng(seed)))


@pytest.mark.parametrize("change", ALL)
def test_each_clip_by_itself(change: Augment) -> None:
    y = change(tones([500], 400).repeat(2, 1), rng())
    assert not torch.equal(y[0], y[1])


def test_on_episodes() -> None:
    items = rng().integers(-3000, 3000, (20, 100)).astype(np.int16)
    pool = ClassPool.from_grouped(items, ["a", "b"], [10, 10])
    plain, changed = (Episodes(pool, Setting(2, 2, 3), 2, augment=a)[0] for a in (None, ALL[-1]))
    assert changed.query_x.shape == plain.query_x.shape == (2, 6, 100)
    assert not torch.equal(changed.query_x, plain.query_x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shift(1.5), "share is 1.5"),
        (lambda: Speed(0, 1), "low is 0 and high 1"),
        (lambda: Speed(1.1, 0.9), "low is 1.1 and high 0.9"),
        (lambda: Gain(-1), "decibels is -1"),
        (lambda: Noise(9, 8), "low is 9 and high 8: they must rise"),
        (lambda: Noise(recorded=1.5), "recorded is 1.5: a probability lies in 0 … 1"),
    ],
)
def test_ranges_that_are_none(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
