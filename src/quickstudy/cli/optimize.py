"""The command `optimize`."""

from pathlib import Path
from typing import Annotated

import typer

from quickstudy.cli.options import AsJson, DataRoot


def optimize(
    family: Annotated[str, typer.Argument(help="Family of problems: quadratics, digits, mnist, letters, …")],
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="A rule that ships, or a training's folder; repeatable. (default: all that ship)",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the race.")] = 100,
    problems: Annotated[int, typer.Option(min=2, help="Test problems, and as many to tune on.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the problems.")] = 0,
    held_out: Annotated[bool, typer.Option("--held-out", help="Judge by data not trained on.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("plots"),
    as_json: AsJson = False,
    data_root: DataRoot = None,
) -> None:
    """Race learned update rules against SGD, heavy ball, NAG, RMSprop, Adam and AdamW with cosine.

    The baselines' learning rates are tuned on other problems of the family.
    """
    from quickstudy.cli.terminal import Terminal, table
    from quickstudy.core.consoles import console, print_json
    from quickstudy.core.scores import FinalLoss
    from quickstudy.optimizer.plots import race_curves
    from quickstudy.optimizer.race import race
    from quickstudy.optimizer.weights import load_rule, shipped_rules
    from quickstudy.recipes.problems import FAMILIES

    if family not in FAMILIES:
        raise ValueError(f"there is no family {family!r}: choose one of {', '.join(FAMILIES)}")
    learned = {Path(name).name: load_rule(name)[0] for name in rule or shipped_rules()}
    test = FAMILIES[family]("test", data_root)
    with Terminal().counting("racing") as report:
        curves = race(learned, test, steps, problems, seed, held_out=held_out, report=report)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"race-{family}-{steps}{'-held-out' if held_out else ''}.png"
    race_curves(curves, f"{family}: {problems} unseen problems", held_out).savefig(path, dpi=150)
    finals = [FinalLoss.of(c.judged(held_out)[-1], seed, family, steps) for c in curves]
    if as_json:
        rows = [
            {"rule": c.name, "lr": c.lr, "ms": 1e3 * c.own_seconds, **f.as_dict()}
            for c, f in zip(curves, finals, strict=True)
        ]
        print_json(rows)
        return
    lines = table("rule", "rate", f"loss at {steps}", "median", "own ms", wraps=("rule",))
    for c, f in sorted(zip(curves, finals, strict=True), key=lambda cf: cf[1].mean):
        lines.add_row(
            c.name,
            "learned" if c.lr is None else f"{c.lr:.3g}",
            f"{f.mean:.4g} ± {f.ci95:.2g}",
            f"{f.median:.4g}",
            f"{1e3 * c.own_seconds:.2f}",
        )
    console.print(lines)
    console.print(str(path), highlight=False, soft_wrap=True)
