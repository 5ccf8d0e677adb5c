"""Encoders of written characters: moment normalisation and turned pictures."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quickstudy.encoders.moment_norm import MomentNorm
from quickstudy.encoders.test_time import RotateTTA
from tests.support.small_models import Kept


def literal_at(picture: np.ndarray, y: float, x: float) -> float:
    """A picture between its pixels, bilinearly; y and x from −1 to 1; 0 outside."""
    height, width = picture.shape
    row, column = (y + 1) * height / 2 - 0.5, (x + 1) * width / 2 - 0.5
    value = 0.0
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                value += (1 - abs(row - i)) * (1 - abs(column - j)) * picture[i, j]
    return value


def literal_moment_norm(picture: np.ndarray, spread: float) -> np.ndarray:
    height, width = picture.shape
    at = [
        (picture[i, j], (i + 0.5) * 2 / height - 1, (j + 0.5) * 2 / width - 1)
        for i in range(height)
        for j in range(width)
    ]
    total = sum(v for v, _, _ in at)
    y0, x0 = sum(v * y for v, y, _ in at) / total, sum(v * x for v, _, x in at) / total
    squares = sum(v * ((y - y0) ** 2 + (x - x0) ** 2) for v, y, x in at) / total
    s = min(max(math.sqrt(squares / 2) / spread, 0.5), 1.6)
    for v, y, x in at:
        if v > 0.3 * picture.max():
            s = max(s, abs(y - y0) + 1 / height, abs(x - x0) + 1 / width)
    found = [literal_at(picture, y0 + s * y, x0 + s * x) for _, y, x in at]
    return np.array(found).reshape(height, width)


def strokes(height: int = 20, width: int = 20, count: int = 6, scale: float = 0.5) -> Tensor:
    """Random smooth blots somewhere in the picture, each another."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    pictures = []
    for _ in range(count):
        middle, spots = rng.uniform(-0.3, 0.3, 2), rng.uniform(-scale, scale, (5, 2))
        near = [(y - middle[0] - p) ** 2 + (x - middle[1] - q) ** 2 for p, q in spots]
        pictures.append(sum(np.exp(-d / 0.02) for d in near))
    return torch.from_numpy(np.stack(pictures))[:, None]


@pytest.mark.parametrize("shape", [(20, 20), (14, 23)])
@pytest.mark.parametrize("spread", [0.2, 0.32, 0.9])
def test_moment_norm_is_its_equations(shape: tuple[int, int], spread: float) -> None:
    pictures = strokes(*shape)
    expected = [literal_moment_norm(p.numpy(), spread) for p in pictures[:, 0]]
    np.testing.assert_allclose(MomentNorm(spread)(pictures)[:, 0], np.stack(expected), atol=1e-12)


def test_characters_here_and_there_large_and_small_come_to_look_alike() -> None:
    norm = MomentNorm(0.3)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 56)] * 2, indexing="ij")

    def hook(up: float, left: float, size: float) -> Tensor:
        spots = [(0.0, 0.0), (0.2, 0.1), (0.4, 0.0), (0.4, -0.3), (0.1, -0.4)]
        return sum(
            (
                torch.exp(-((y - up - size * p) ** 2 + (x - left - size * q) ** 2) / (0.01 * size**2))
                for p, q in spots
            ),
            torch.zeros(56, 56),
        )[None, None]

    one, other = hook(0, 0, 1.5), hook(-0.3, 0.2, 1.0)
    assert (one - other).abs().mean() > 0.04
    assert (norm(one) - norm(other)).abs().mean() < 0.005
    torch.testing.assert_close(norm(norm(one)), norm(one), atol=0.05, rtol=0)


def test_moment_norm_of_a_dot_of_nothing_and_of_a_full_picture() -> None:
    norm = MomentNorm()
    x = torch.zeros(3, 1, 21, 21)
    x[0, 0, 3, 15] = 1  # no spread at all: made twice as large, and no more
    x[2] = 1
    found = norm(x)
    assert found[0].sum() == pytest.approx(4)
    assert found[0, 0].argmax() == 10 * 21 + 10
    assert not found[1].any()
    assert found.isfinite().all()
    assert found[2].mean() < 1


def test_no_stroke_is_cut_off() -> None:
    x = torch.zeros(1, 1, 40, 40)
    x[0, 0, 14:26, 14:26] = 1  # much ink in one place, …
    x[0, 0, 20, 26:38] = 0.4  # … and a long thin stroke away from it, …
    x[0, 0, 20, 38:40] = 1  # … dark at its end
    found = MomentNorm(0.45)(x)[0, 0]
    middle = float((found * torch.arange(40)[:, None]).sum() / found.sum())
    assert middle == pytest.approx(19.5, abs=0.1)
    assert found[:, 37:].amax() > 0.7, "the end of the stroke is there, at the edge"
    assert found.amax(1).count_nonzero() < 16, "for which all is made smaller, not larger"


def test_every_channel_is_moved_alike() -> None:
    x = strokes()
    colors = torch.cat([x, 0.5 * x, 0 * x], 1)
    norm = MomentNorm()
    torch.testing.assert_close(norm(colors), torch.cat([norm(x), 0.5 * norm(x), 0 * norm(x)], 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_moment_norm_keeps_shape_and_type(dtype: torch.dtype) -> None:
    x = strokes().to(dtype)
    assert MomentNorm()(x).dtype == dtype
    assert MomentNorm()(x).shape == x.shape


@pytest.mark.parametrize("height", [41, 31])
def test_a_picture_is_seen_turned_both_ways(height: int) -> None:
    seen, x = Kept(), torch.zeros(1, 1, height, 41)
    x[0, 0, height // 2, 35:39] = 1  # to the right of the middle
    mean = RotateTTA(seen, 20.0)(x)
    as_it_is, left, right = seen.items
    torch.testing.assert_close(mean, ((as_it_is + left + right) / 3).flatten(1))
    assert torch.equal(as_it_is, x)
    down, across = torch.arange(height) - height // 2, torch.arange(41) - 20
    for turned, degrees in ((left, -20), (right, 20)):
        ink = turned[0, 0] / turned.sum()
        y, x_ = float((ink.sum(1) * down).sum()), float((ink.sum(0) * across).sum())
        assert math.degrees(math.atan2(y, x_)) == pytest.approx(degrees, abs=0.5), "clockwise, y is down"
        assert math.hypot(y, x_) == pytest.approx(16.5, abs=0.1)


def test_moment_norm_names_pictures_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"are \[28, 28\]: MomentNorm takes \[B, C, H, W\]"):
        MomentNorm()(torch.zeros(28, 28))


@pytest.mark.parametrize("spread", [0.0, 1.0, -0.1])
def test_moment_norm_names_a_wrong_spread(spread: float) -> None:
    with pytest.raises(ValueError, match=f"spread is {spread}: it must lie in"):
        MomentNorm(spread)


@pytest.mark.parametrize("degrees", [0.0, 46.0])
def test_rotate_tta_names_wrong_degrees(degrees: float) -> None:
    with pytest.raises(ValueError, match=f"degrees is {degrees}: it must lie in"):
        RotateTTA(nn.Identity(), degrees)
