"""Damaged and hostile files, a few of each; `python -m tools.fuzz` tries many."""

import pytest

from tools.fuzz import MEMORY, run


@pytest.mark.parametrize(("inputs", "hostile"), [(256, 25), pytest.param(2000, 200, marks=pytest.mark.slow)])
def test_nothing_but_refusals_in_one_line(inputs: int, hostile: int) -> None:
    outcomes, faults, memory = run(inputs, hostile, seed=inputs)
    assert faults == []
    assert memory < MEMORY
    assert outcomes["refused"] > inputs // 4
