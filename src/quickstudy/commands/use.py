"""The commands that use a checkpoint: `evaluate`, `predict` and `plot`."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quickstudy.commands.shared import (
    AsJson,
    Checkpoint,
    DataRoot,
    SkipCorrupt,
    as_setting,
    score_table,
    terminal,
)

if TYPE_CHECKING:
    from quickstudy.data.episodes import Setting
    from quickstudy.recipes import Recipe

QUERIES = 15
"""Query items a class of a setting that the recipe doesn't test."""


class Mode(StrEnum):
    """What batch norm sees in evaluation."""

    inductive = "inductive"
    transductive = "transductive"
    both = "both"


class Format(StrEnum):
    """How predictions are printed."""

    table = "table"
    json = "json"
    csv = "csv"


def evaluate(
    checkpoint: Checkpoint,
    setting: Annotated[
        list[str] | None,
        typer.Option(help="Such as 5w1s; repeatable. (default: the recipe's)", show_default=False),
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Query items a class. (default: the recipe's; 15 of a setting it doesn't state)",
            show_default=False,
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(min=2, help="Test tasks.")] = 1000,
    mode: Annotated[Mode, typer.Option(help="What batch norm sees.")] = Mode.inductive,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes.")] = 0,
    images: Annotated[Path | None, typer.Option(help="Test on the classes of this folder instead.")] = None,
    skip_corrupt: SkipCorrupt = False,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    devices: Annotated[int, typer.Option(min=1)] = 1,
    as_json: AsJson = False,
    data_root: DataRoot = None,
) -> None:
    """Measure a checkpoint on test classes: mean accuracy with its 95 % interval.

    Of a Siamese network also how well it tells pairs: EER, AUC, TAR at FAR.
    """
    from quickstudy import experiment
    from quickstudy.data.folders import folder_pool
    from quickstudy.display import console
    from quickstudy.learners.siamese import Siamese
    from quickstudy.memory import keep_freed_memory

    asked_for = [as_setting(s, queries or QUERIES) for s in setting or []]
    learner, manifest = experiment.load_learner(checkpoint)
    recipe = experiment.recipe_of(manifest)
    settings = as_tested(recipe, asked_for, queries)
    alike = {str(s) for s in settings if s in recipe.tests}
    recipe = replace(recipe, published={k: v for k, v in recipe.published.items() if k in alike})
    if images:
        fractions = (0.0, 0.0, 1.0)  # every class is a test class
        pool = folder_pool(images, experiment.item_format_of(manifest), fractions, skip_corrupt)
        recipe = replace(recipe, pool=pool, published={}, labels=None, apart=False)
    if accelerator in ("auto", "cpu"):
        keep_freed_memory()
    fabric = experiment.launch(accelerator, devices, "32-true")
    learner.to(fabric.device)
    modes: Any = ("inductive", "transductive") if mode is Mode.both else (mode.value,)
    asked: Any = {
        "display": terminal(fabric),
        "settings": settings,
        "episodes": episodes,
        "modes": modes,
        "seed": seed,
        "data_root": data_root,
    }
    scores = experiment.measure(recipe, learner, fabric=fabric, **asked)
    if fabric.global_rank == 0:
        pairs = experiment.measure_pairs(recipe, learner, **asked) if isinstance(learner, Siamese) else []
        if as_json:
            print(json.dumps([s.as_dict() for s in (*scores, *pairs)], indent=2))
        else:
            console.print(score_table(scores, recipe))
            for verification in pairs:
                console.print(f"pairs: {verification}", highlight=False, soft_wrap=True)


def as_tested(recipe: "Recipe", settings: "Sequence[Setting]", queries: int | None) -> "tuple[Setting, ...]":
    """Settings as the recipe tests them: with as many queries, unless told, and with its unlabelled items."""
    stated = {str(s): s for s in recipe.tests}
    first = recipe.tests[0]
    tested = [
        stated.get(str(s), replace(s, unlabelled=first.unlabelled, distractors=first.distractors))
        for s in settings or recipe.tests
    ]
    return tuple(replace(s, queries=queries) if queries else s for s in tested)


def predict(
    checkpoint: Checkpoint,
    support: Annotated[
        Path, typer.Option(help="Folder whose folders name the classes and hold a few pictures of each.")
    ],
    query: Annotated[Path, typer.Option(help="A picture or a folder of pictures to tell.")],
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    skip_corrupt: SkipCorrupt = False,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the weights as adapted to the support, as safetensors (MAML and its kin).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell your own pictures apart, from a handful of labelled ones. No training."""
    from quickstudy import experiment
    from quickstudy.display import Terminal, console, table
    from quickstudy.predict import predict_folders

    learner, manifest = experiment.load_learner(checkpoint)
    with Terminal().counting("decoding") as progress:
        predictions = predict_folders(
            learner,
            experiment.item_format_of(manifest),
            support,
            query,
            skip_corrupt=skip_corrupt,
            save=save,
            progress=progress,
        )
    classes = list(predictions[0].probabilities)
    if output is Format.json:
        rows = [
            {"file": str(p.file), "label": p.label, "probabilities": p.probabilities} for p in predictions
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif output is Format.csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(["file", "label", *classes])
        writer.writerows(
            [p.file, p.label, *(f"{v:.6f}" for v in p.probabilities.values())] for p in predictions
        )
    else:
        rows = table("picture", "class", "probability", "next", wraps=("picture", "class", "next"))
        for p in predictions:
            first, second = sorted(p.probabilities.items(), key=lambda kv: -kv[1])[:2]
            rows.add_row(p.file.name, first[0], f"{first[1]:.1%}", f"{second[0]} {second[1]:.1%}")
        console.print(rows)


def plot(
    checkpoint: Annotated[str, typer.Argument(help="A training's folder, a checkpoint, or a model's name.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("plots"),
    setting: Annotated[str, typer.Option(help="Of the episode that is drawn.")] = "5w1s",
    seed: Annotated[int, typer.Option(min=0, help="Of the episode.")] = 0,
    data_root: DataRoot = None,
) -> None:
    """Draw the learning curve, an episode with right and wrong predictions, and the embedding."""
    from quickstudy import experiment, plots
    from quickstudy.display import Terminal, console

    learner, manifest = experiment.load_learner(checkpoint)
    with Terminal().counting("decoding") as progress:
        pool = experiment.recipe_of(manifest).pool(root=data_root, progress=progress)
    log = experiment.find(checkpoint).with_name("log.jsonl")
    wanted = as_setting(setting, 1)
    spare = int(pool.split("test").counts.min(initial=wanted.items)) - wanted.shots
    classes, size = experiment.fitting(pool.split("test"), replace(wanted, queries=max(1, min(5, spare))))
    inverted = getattr(experiment.item_format_of(manifest), "invert", False)
    kept = manifest.get("training", {}).get("steps")
    for path in plots.draw_all(learner, classes, size, log, out, seed, inverted, kept):
        console.print(str(path), highlight=False, soft_wrap=True)
