"""What the figures of a training come to, in plain words."""

import math
import re
from collections.abc import Mapping
from typing import Any

BY_HEART = 0.1
"""Training loss, as a share of that of guessing, below which the training tasks are known by heart."""


def chance_of(setting: str) -> float | None:
    """Accuracy of guessing, 1 / N for tasks of N ways; None if the setting doesn't say.

    Args:
        setting: Setting of the tasks, such as 5w1s.
    """
    match = re.match(r"(\d+)w\d+s", setting)
    return 1 / int(match[1]) if match and int(match[1]) > 1 else None


def of_chance(score: Mapping[str, Any]) -> str:
    """A sentence if an accuracy is no better than guessing; empty if it is better.

    Args:
        score: Fields of a `Score` by name; the wider of its intervals counts.
    """
    chance = chance_of(str(score.get("setting", "")))
    if chance is None or "accuracy" not in score:
        return ""
    low: float = score["accuracy"] - score["ci95"]
    low = min(low, *([score["data95"][0]] if score.get("data95") else [low]))
    if low > chance or math.isnan(low):
        return ""
    return f"{100 * score['accuracy']:.1f} % is no better than guessing, {100 * chance:.3g} %"


def verdict(loss: float, score: Mapping[str, Any]) -> str:
    """A sentence if a training has learned nothing that holds for other classes; else empty.

    Args:
        loss: Mean training loss of the last steps, in nats.
        score: Fields of the `Score` of the last validation, by name.
    """
    guessing = of_chance(score)
    if not guessing:
        return ""
    chance = chance_of(score["setting"]) or 1.0
    if loss < BY_HEART * -math.log(chance):
        return (
            f"learned by heart: the training loss is {loss:.3f}, and on other classes {guessing}; more "
            "classes would help, more steps would not"
        )
    return f"nothing learned that holds for other classes: {guessing}"
