"""Put learned rules into the package, each with its card: where learned, what it does, where it fails.

The figures are those of `benchmarks.learned_optimizers`, which must have run. A race counts as a failure
where tuned Adam comes to a lower mean loss.
"""

import argparse
from pathlib import Path

from benchmarks.rows import ROOT, Row, read
from quickstudy.core.checkpoint import Manifest
from quickstudy.optimizer.weights import load_rule, save_rule

FOLDER = ROOT / "src" / "quickstudy" / "optimizer" / "shipped"
ADAM = "of tuned Adam's"


def figures(name: str, rows: list[Row]) -> dict[str, dict[str, float]]:
    """By race, what the rule came to."""
    by_race: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.method == name and row.value is not None:
            by_race.setdefault(f"{row.dataset}, {row.setting}", {})[row.metric] = row.value
    return by_race


def failures(of: dict[str, dict[str, float]]) -> list[str]:
    """Races that tuned Adam wins, in words."""
    return [
        f"{race}: {f[ADAM]:.2f} times the loss of tuned Adam" for race, f in of.items() if f.get(ADAM, 0) > 1
    ]


def fresh_card(manifest: Manifest) -> Manifest:
    """What is told of a rule besides its figures, from the manifest of its training."""
    return {k: manifest[k] for k in ("recipe", "horizon", "seed", "train", "version")} | {
        "families": [manifest["family"]],
        "cpu_seconds": round(60 * manifest["training"]["minutes"]),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "trainings",
        nargs="+",
        type=Path,
        help="folders, named as the rules shall be, or rules that ship, whose figures are brought up to date",
    )
    options = parser.parse_args()
    rows = read("learned_optimizers")
    for folder in options.trainings:
        rule, manifest = load_rule(folder)
        of = figures(folder.name, rows)
        if not of:
            raise SystemExit(
                f"no figures for {folder.name}: run python -m benchmarks.learned_optimizers first"
            )
        card = (fresh_card(manifest) if "training" in manifest else manifest) | {
            "figures": of,
            "known_failures": failures(of),
        }
        save_rule(FOLDER / f"{folder.name}.safetensors", rule, card)
        print(f"{folder.name}: {len(of)} races, {len(card['known_failures'])} lost to tuned Adam")


if __name__ == "__main__":
    main()
