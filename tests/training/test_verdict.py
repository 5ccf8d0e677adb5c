"""Figures come with their meaning where they mean that nothing was learned."""

import pytest

from quickstudy.core.wording import of_ten
from quickstudy.training.verdict import of_chance, verdict


def score(accuracy: float, setting: str = "2w1s", **more: object) -> dict:
    return {"accuracy": accuracy, "ci95": 0.03, "setting": setting} | more


def test_what_was_learned_by_heart_is_said_so() -> None:
    told = verdict(0.0, score(0.454))
    assert told.startswith("learned by heart: the training loss is 0.000, and on other classes 45.4 % is no")
    assert "guessing, 50 %; more classes would help, more steps would not" in told
    assert verdict(0.69, score(0.51)).startswith("nothing learned that holds for other classes: 51.0 %")


def test_what_is_better_than_chance_needs_no_word() -> None:
    assert verdict(0.0, score(0.6)) == of_chance(score(0.6)) == ""
    assert of_chance(score(0.24, "5w1s")) == ""
    assert of_chance(score(0.22, "5w1s")) == "22.0 % is no better than guessing, 20 %"
    assert of_chance(score(0.6, data95=[0.45, 0.7])) != "", "the wider interval counts"
    assert of_chance({"mean": 0.1, "setting": "digits"}) == "", "a loss has no chance"


@pytest.mark.parametrize(
    ("share", "told"),
    [(0.9, "nine of ten"), (0.97, "nearly all"), (0.5, "five of ten"), (0.31, "three of ten")],
)
def test_shares_in_words(share: float, told: str) -> None:
    assert of_ten(share) == told
