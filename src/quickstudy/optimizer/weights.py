"""Learned rules as files: those shipped with the library, and your own."""

import os
from importlib import resources
from pathlib import Path

from quickstudy.core import checkpoint
from quickstudy.core.seeds import generators_kept
from quickstudy.core.wording import one_line, shown
from quickstudy.optimizer.rules.lstm import LSTMRule
from quickstudy.optimizer.rules.mlp import MLPRule
from quickstudy.optimizer.rules.rnnprop import RNNpropRule

LearnedRule = LSTMRule | RNNpropRule | MLPRule
"""Rules that can be saved to a file."""
RULES: dict[str, type[LearnedRule]] = {"LSTMRule": LSTMRule, "RNNpropRule": RNNpropRule, "MLPRule": MLPRule}


def load_rule(name_or_path: str | os.PathLike[str]) -> tuple[LearnedRule, checkpoint.Manifest]:
    """Load a learned rule and its card.

    Args:
        name_or_path: Name in `shipped_rules()`, path of a file, or folder of a training.

    Returns:
        The rule, in evaluation mode, and its card, as in `save_rule`.

    Raises:
        FileNotFoundError: If there is no such file or name.
        ValueError: If the file is damaged or does not hold an update rule.
    """
    shipped = shipped_rules()
    path = shipped.get(str(name_or_path), Path(name_or_path))
    if not path.suffix and not path.exists():
        raise FileNotFoundError(
            f"there is no rule {str(name_or_path)!r}: rules that ship are {', '.join(shipped) or 'none'}"
        )
    path = path / "best.safetensors" if path.is_dir() else path
    weights, card = checkpoint.load(path)
    if card.get("kind") != "rule":
        raise ValueError(
            f"{path} holds no update rule but a model of recipe {card.get('recipe')!r}: "
            "quickstudy.load_learner takes it"
        )
    kind, arguments = card.get("rule"), card.get("arguments", {})
    if kind not in RULES:
        raise ValueError(
            f"{path} holds the rule {shown(kind)}, which this version lacks: it knows {', '.join(RULES)}"
        )
    try:
        with generators_kept():
            rule = RULES[kind](**arguments)
        # in the folder of a training, the rule is a submodule of the `RuleLearner`
        weights = checkpoint.without_prefix("rule.", weights) or weights
        checkpoint.load_weights(rule, weights, "what it holds")
    except Exception as error:  # whatever arguments that don't belong there lead to
        raise ValueError(
            f"{path} is said to hold the rule {kind} with arguments {shown(arguments)}, which does not fit: "
            f"{one_line(error)}"
        ) from None
    return rule.eval(), card


def save_rule(path: str | Path, rule: LearnedRule, card: checkpoint.Manifest) -> None:
    """Write a learned rule and its card to a file, and the card to a readable file beside it.

    Args:
        path: Path of the file, which ends in `.safetensors`.
        rule: The rule; its class and arguments are added to the card.
        card: Description of the rule, JSON-serializable. Cards of shipped rules have the `families` of
            problems that the rule was trained on, the `horizon` of the training in steps, `seed`,
            `cpu_seconds`, `figures` and `known_failures`.

    Raises:
        OSError: If the file cannot be written.
    """
    kind = {"kind": "rule", "rule": type(rule).__name__, "arguments": rule.arguments}
    # the first `kind` puts its entries on top of the card, the last keeps the card from overriding them
    checkpoint.save(path, rule.state_dict(), {**kind, **card, **kind})


def shipped_rules() -> dict[str, Path]:
    """Paths of the learned rules that are shipped with the library, by name."""
    folder = Path(str(resources.files("quickstudy") / "optimizer" / "shipped"))
    return {p.stem: p for p in sorted(folder.glob("*.safetensors"))}
