"""The schedule of recipes that ship, by its definition."""

import math

import pytest

from quickstudy.training.schedules import restarted


def test_restarted_is_a_cosine_over_two_thirds_then_one_of_half_the_height() -> None:
    at = restarted(1500)
    assert [at(step) for step in (0, 49, 99)] == pytest.approx([0.01, 0.5, 1.0])
    assert at(100) == 1.0
    assert at(550) == pytest.approx(0.5)
    assert at(999) == pytest.approx(0.5 * (1 + math.cos(math.pi * 899 / 900)))
    assert [at(step) for step in (1000, 1049, 1099)] == pytest.approx([0.005, 0.25, 0.5])
    assert at(1300) == pytest.approx(0.25)
    assert 0 < at(1499) < 1e-4
    assert max(at(step) for step in range(1000, 1500)) == 0.5
