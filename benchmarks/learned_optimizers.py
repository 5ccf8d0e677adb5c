"""Learned update rules against tuned ones: quadratics, digits, generalisation, held-out loss, MNIST.

Each race takes problems that neither the rules nor the baselines' learning rates have seen. The learning rate
of each baseline is tuned over 28 values, six a decade, on other problems (16 or 8; of quadratics 1,024): for
that family and that number of steps. Other networks are raced on 256 problems, as a few of these fail by far
and the mean of 64 says little. Rules lie in runs/NAME, other trainings of the same recipe in
runs/NAME-seed1, …; those that ship stand in for what isn't there.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import Row, kept, write
from quickstudy.core.adapt import Rule
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.scores import FinalLoss
from quickstudy.optimizer.plots import race_curves
from quickstudy.optimizer.race import Curve, baselines, race
from quickstudy.optimizer.weights import load_rule, shipped_rules
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.problems import FAMILIES


@dataclass(frozen=True)
class Race:
    """One comparison.

    Args:
        family: of the problems.
        rules: names of recipes.
        steps: of the race.
        problems: how many.
        tuning: how many other problems the baselines are tuned on.
        held_out: whether the loss on data not trained on is what counts.
        full: against all baselines, and with all trainings of a recipe; else against the three best on digits
            (heavy ball, NAG, Adam) and with the first training only.
        picture: name of the file that the curves are drawn into.
    """

    family: str
    rules: tuple[str, ...]
    steps: int = 100
    problems: int = 64
    tuning: int = 16
    held_out: bool = False
    full: bool = False
    picture: str = ""

    @property
    def setting(self) -> str:
        """What a row says of it."""
        return f"{'held-out loss, ' if self.held_out else ''}{self.steps} steps, {self.problems:,} problems"


QUADRATICS = ("lstm-optimizer-quadratics",)
DIGITS = ("lstm-optimizer-digits", "rnnprop-optimizer-digits", "mlp-optimizer-digits")
ALL = (*DIGITS, "rnnprop-optimizer-augmented", "mlp-optimizer-augmented")
RACES = (
    Race("quadratics", QUADRATICS, problems=1024, tuning=1024, full=True, picture="race-quadratics.png"),
    Race("quadratics-twice", QUADRATICS, problems=1024, tuning=1024),
    Race("digits", ALL, full=True, picture="race-digits.png"),
    Race("digits", (*DIGITS, "rnnprop-optimizer-held-out"), held_out=True),
    Race("digits", ALL, 200, tuning=8),
    Race("digits", ALL, 400, problems=32, tuning=8),
    *(Race(f"digits-{kind}", ALL, problems=256) for kind in ("40-units", "2-layers", "tanh", "relu")),
    Race("mnist", ("lstm-optimizer-mnist", *ALL), problems=32, tuning=8, picture="race-mnist.png"),
    Race("letters", ALL, problems=16, tuning=8),
)


def trainings(name: str, runs: Path) -> dict[str, Rule]:
    """The rules that a recipe has given, by what they are called in the rows."""
    found = {path.name: load_rule(path)[0] for path in sorted(runs.glob(f"{name}*")) if _is_of(path, name)}
    return found or ({name: load_rule(name)[0]} if name in shipped_rules() else {})


def _is_of(path: Path, name: str) -> bool:
    return path.name.removeprefix(name).removeprefix("-seed").isdigit() or path.name == name


def rows_of(this: Race, curves: list[Curve], seed: int) -> list[Row]:
    """Loss, median, and how they stand to the tuned baselines."""
    finals = [FinalLoss.of(c.judged(this.held_out)[-1], seed, this.family, this.steps) for c in curves]
    tuned = {c.name: f.mean for c, f in zip(curves, finals, strict=True) if c.lr is not None}
    rows: list[Row] = []
    for curve, final in zip(curves, finals, strict=True):
        figures: dict[str, tuple[float | None, float | None]] = {
            "loss": (final.mean, final.ci95),
            "median": (final.median, None),
            "of tuned Adam's": (final.mean / tuned["Adam"], None),
            "of the best baseline's": (final.mean / min(tuned.values()), None),
            "learning rate": (curve.lr, None),
        }
        rows += [
            Row(
                benchmark="learned_optimizers",
                method=curve.name,
                dataset=this.family,
                split="test",
                setting=this.setting,
                metric=metric,
                value=value,
                ci95=ci95,
                n=this.problems,
                seed=seed,
            )
            for metric, (value, ci95) in figures.items()
            if value is not None and value < float("inf")
        ]
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the problems")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--families", nargs="+", choices=sorted({r.family for r in RACES}), help="only these")
    parser.add_argument(
        "--rules",
        nargs="+",
        choices=sorted(n for n in RECIPES if "-optimizer-" in n),
        help="race only these anew",
    )
    parser.add_argument("--pictures", type=Path, help="folder to draw the curves into")
    parser.add_argument("--dry", action="store_true", help="write no results")
    options = parser.parse_args()
    keep_freed_memory()
    chosen = [r for r in RACES if r.family in (options.families or (r.family,))]
    rows: list[Row] = []
    for this in chosen:
        names = [name for name in this.rules if name in (options.rules or this.rules)]
        rules = {k: v for name in names for k, v in trainings(name, options.runs).items()}
        if not rules:
            continue
        against = baselines(this.steps)
        if not this.full:
            rules = {k: v for k, v in rules.items() if "-seed" not in k}
            against = {k: against[k] for k in ("heavy ball", "NAG", "Adam")}
        family = FAMILIES[this.family]("test", None)
        curves = race(
            rules,
            family,
            this.steps,
            this.problems,
            options.seed,
            held_out=this.held_out,
            tuning=this.tuning,
            against=against,
        )
        new = rows_of(this, curves, options.seed)
        rows += new
        if not options.dry:  # each race, as all of them take long
            write("learned_optimizers", [*kept("learned_optimizers", rows), *rows])
        for row in new:
            if row.metric in ("loss", "of tuned Adam's"):
                print(f"{row.dataset}, {row.setting}: {row.method} {row.metric} {row.value:.4g}", flush=True)
        if options.pictures and this.picture:
            first = [c for c in curves if "-seed" not in c.name]
            figure = race_curves(first, f"{this.family}: {this.problems:,} unseen problems", this.held_out)
            figure.savefig(options.pictures / this.picture, dpi=100)


if __name__ == "__main__":
    main()
