"""Progress where there is no terminal: a line soon, then every half a minute, with the time left."""

import pytest

from quickstudy.core import progress
from quickstudy.core.progress import Pace, Terminal, duration


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def told(seconds: list[float], total: int, before: int = 0) -> dict[int, str]:
    """What is said after which step, with the time that each takes."""
    clock = Clock()
    pace, said = Pace(clock), dict[int, str]()
    for step, took in enumerate(seconds, start=before + 1):
        clock.now += took
        if pace.due(step, total, before):
            said[step] = pace.left(step, total, before)
    return said


def test_the_first_line_comes_at_the_first_step_and_others_every_half_a_minute() -> None:
    assert told([10.0] * 20, 20) == {
        1: "about 3 min left",
        4: "about 3 min left",
        7: "about 2 min left",
        10: "about 2 min left",
        13: "about 70 s left",
        16: "about 40 s left",
        19: "about 10 s left",
    }


def test_a_slow_first_step_does_not_count_for_the_rest() -> None:
    assert told([1.9] + [0.2] * 99, 1000)[2] == "about 3 min left"


def test_brief_work_says_nothing_and_a_resumed_one_counts_what_it_does() -> None:
    assert told([0.1] * 30, 30) == {}
    assert told([3.0, 3.0, 3.0], 103, before=100) == {101: "about 6 s left"}
    assert told([10.0, 10.0], 1000, before=900) == {901: "about 16 min left"}


def test_times_in_words() -> None:
    assert [duration(s) for s in (3.2, 89, 91, 5000, 9000)] == ["3 s", "89 s", "2 min", "83 min", "2.5 h"]


class Slow(Pace):
    """Each step takes twenty seconds."""

    def __init__(self) -> None:
        clock = Clock()
        super().__init__(clock)
        self.clock = clock

    def due(self, done: int, total: int, before: int = 0) -> bool:
        self.clock.now += 20
        return super().due(done, total, before)


def test_without_a_terminal_it_is_told_in_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "Pace", Slow)
    with Terminal().counting("testing") as count:
        for done in range(1, 6):
            count(done, 5)
    with Terminal().training(500) as show:
        for step in (201, 202, 203):
            show(step, {"loss": 0.5, "tasks_per_second": 1.0})
    with Terminal(quiet=True).training(500) as show:
        show(1, {"loss": 0.5, "tasks_per_second": 1.0})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "testing: 1 of 5, about 80 s left",
        "testing: 3 of 5, about 40 s left",
        "step 201 of 500: loss 0.500, about 1.7 h left",
        "step 203 of 500: loss 0.500, about 1.6 h left",
    ]
