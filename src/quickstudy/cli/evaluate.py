"""The command `evaluate`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quickstudy.cli.options import (
    AsJson,
    Checkpoint,
    DataRoot,
    OwnRecipe,
    SkipCorrupt,
    UsageError,
    as_setting,
    results_table,
    terminal,
)
from quickstudy.core.modes import Mode

if TYPE_CHECKING:
    from quickstudy.data.pool import ClassPool
    from quickstudy.data.setting import Setting
    from quickstudy.recipes.on_features import HeadScores
    from quickstudy.recipes.recipe import Recipe


MODES: dict[str, tuple[Mode, ...]] = {
    "inductive": ("inductive",),
    "transductive": ("transductive",),
    "authors": ("authors",),
    "both": ("inductive", "transductive"),
    "all": ("inductive", "transductive", "authors"),
}
"""Modes that --mode stands for."""
QUERIES = 15
"""Query items a class of a setting that the recipe doesn't test."""


def evaluate(
    checkpoint: Checkpoint,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="Ways and shots of the tasks, such as 5w1s; repeatable. (default: the recipe's)",
            show_default=False,
        ),
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Query items a class. (default: the recipe's; 15 of a setting it doesn't state)",
            show_default=False,
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(min=2, help="Number of test tasks.")] = 1000,
    mode: Annotated[
        Literal[Mode, "both", "all"],
        typer.Option(
            help="What batch norm sees: each query by itself (inductive), a task together (transductive), or "
            "so with one query a class, as MAML's authors (authors). both: the first two; all: all three."
        ),
    ] = "inductive",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episodes.")] = 0,
    images: Annotated[
        Path | None, typer.Option(help="Test on the classes of this folder, zip or tar instead.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Test on the test classes of this data set instead, such as cifar-fs or fc100.",
            show_default=False,
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            help="Classify by this head on the features of the model's encoder, such as simpleshot-l2n or "
            "pt-map; repeatable; all: every one.",
            show_default=False,
        ),
    ] = None,
    dirichlet: Annotated[
        float | None,
        typer.Option(
            help="Unequally many queries of each class, their shares drawn from a Dirichlet distribution of "
            "this concentration, as Veilleux et al. 2021 with 2.",
            show_default=False,
        ),
    ] = None,
    skip_corrupt: SkipCorrupt = False,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes or cards that share the tasks.")] = 1,
    as_json: AsJson = False,
    own_recipe: OwnRecipe = None,
    data_root: DataRoot = None,
) -> None:
    """Measure a checkpoint on test classes: mean accuracy with its 95 % interval.

    It says what of the test classes the model has met in training or validation, as far as that is known.

    Of a Siamese network also how well it tells pairs: EER, AUC, TAR at FAR.

    With --head its encoder alone is measured, by a head on its features, which are made once.
    """
    from quickstudy.core.consoles import console, messages, print_json
    from quickstudy.core.kernels.memory import keep_freed_memory
    from quickstudy.data.datasets.layouts import folder_pool
    from quickstudy.data.overlap import overlaps
    from quickstudy.metric.features.catalogue import HEADS, named_head
    from quickstudy.metric.siamese import Siamese
    from quickstudy.recipes import weights
    from quickstudy.recipes.on_features import encoder_of, tested_heads
    from quickstudy.recipes.pretrained import is_pretrained
    from quickstudy.recipes.without import loader
    from quickstudy.training.launch import launch
    from quickstudy.training.verdict import of_chance

    if images and data:
        raise UsageError(f"--images {images} and --data {data} both say what to test on: leave one out")
    if head and (mode != "inductive" or devices > 1):
        raise UsageError(
            "--head takes features of each item by itself, in one process: leave --mode and --devices out"
        )
    heads = [name for asked in head or [] for name in (HEADS if asked == "all" else [asked])]
    for name in heads:
        named_head(name)
    if mode == "authors" and queries not in (None, 1):
        raise ValueError(f"--mode authors takes one query a class, not {queries}: leave --queries out")
    asked_for = [as_setting(s, queries or QUERIES) for s in setting or []]
    learner, manifest = weights.load_learner(checkpoint, recipe=own_recipe)
    recipe = weights.recipe_of(manifest, own_recipe)
    if is_pretrained(checkpoint) and not images and not data:
        raise ValueError(
            f"{checkpoint} was trained on pictures that aren't here: name classes to test on by --images "
            "DIR, or a data set by --data, such as cifar-fs"
        )
    settings = as_tested(recipe, asked_for, queries)
    alike = {str(s) for s in settings if s in recipe.tests}
    if recipe.mode == "authors":  # where the number of queries is that of the mode
        one = [replace(s, queries=1) for s in recipe.tests]
        alike = {str(s) for s in settings if replace(s, queries=1) in one}
    if dirichlet is not None:
        settings = tuple(replace(s, dirichlet=dirichlet) for s in settings)
        alike = set[str]()
    recipe = replace(recipe, published={k: v for k, v in recipe.published.items() if k in alike})
    if images or data:
        pool = recipe.pool
        if images:
            fractions = (0.0, 0.0, 1.0)  # every class is a test class
            form = recipe.item_format if own_recipe else weights.item_format_of(manifest, checkpoint)
            pool = folder_pool(images, form, fractions, skip_corrupt)
        elif data:
            pool = loader(data)
        recipe = replace(recipe, pool=pool, published={}, labels=None, cross_source=False)
    loaded: list[ClassPool] = []

    def once(**how: Any) -> "ClassPool":
        loaded[:] = loaded or [asked_pool(**how)]
        return loaded[0]

    asked_pool, recipe = recipe.pool, replace(recipe, pool=once)
    if accelerator in ("auto", "cpu"):
        keep_freed_memory()
    fabric = launch(accelerator, devices, "32-true")
    learner.to(fabric.device)
    if heads:
        encoder = encoder_of(learner, checkpoint)
        tested = tested_heads(
            recipe,
            encoder,
            heads,
            settings,
            count=episodes,
            seed=seed,
            data_root=weights.data_root_of(manifest, data_root),
            display=terminal(fabric),
        )
        met = overlaps(manifest, loaded[0].split("test"), ("train", "validation"))
        show_heads(tested, as_json, [str(overlap) for overlap in met if not overlap.disjoint])
        return
    asked: Any = {
        "display": terminal(fabric),
        "settings": settings,
        "count": episodes,
        "modes": MODES[mode],
        "seed": seed,
        "data_root": weights.data_root_of(manifest, data_root),
    }
    scores = recipe.test(learner, fabric=fabric, **asked)
    if fabric.global_rank == 0:
        pairs = recipe.test_pairs(learner, **asked) if isinstance(learner, Siamese) else []
        met = overlaps(manifest, loaded[0].split("test"), ("train", "validation"))
        told = [str(overlap) for overlap in met if not overlap.disjoint]
        if as_json:
            over = {"ci95_over": "draws", "data95_over": "classes and items"}
            each = [{"accuracies": [round(a, 6) for a in s.accuracies]} for s in scores]
            parts = [s.as_dict() | over | more for s, more in zip(scores, each, strict=True)]
            parts += [verification.as_dict() for verification in pairs]
            print_json([part | {"not unseen": told} for part in parts])
        else:
            console.print(results_table(recipe.results(scores)))
            for verification in pairs:
                console.print(f"pairs: {verification}", highlight=False, soft_wrap=True)
        for score in scores:
            if guessing := of_chance(score.as_dict()):
                messages.print(f"{score.setting} {score.mode}: {guessing}", highlight=False, soft_wrap=True)
        for sentence in told:
            messages.print(f"not unseen: {sentence}", highlight=False, soft_wrap=True)


def show_heads(tested: "HeadScores", as_json: bool, told: list[str]) -> None:
    """Print what heads came to, and what of the test classes the model has met."""
    from quickstudy.core.consoles import console, messages, print_json
    from quickstudy.recipes.on_features import head_results

    if as_json:
        over: dict[str, Any] = {"ci95_over": "draws", "data95_over": "classes and items", "not unseen": told}
        each = ([round(a, 6) for a in found.score.accuracies] for found in tested.scores)
        print_json([
            found.as_dict() | over | {"accuracies": accuracies}
            for found, accuracies in zip(tested.scores, each, strict=True)
        ])  # fmt: skip
    else:
        console.print(results_table(head_results(tested.scores)))
    if tested.centered:
        line = "no training classes are here, so each task is centered by its support"
        messages.print(f"{', '.join(tested.centered)}: {line}", highlight=False, soft_wrap=True)
    for sentence in told:
        messages.print(f"not unseen: {sentence}", highlight=False, soft_wrap=True)


def as_tested(recipe: "Recipe", settings: "Sequence[Setting]", queries: int | None) -> "tuple[Setting, ...]":
    """Settings as the recipe tests them: with as many queries, unless told, and with its unlabelled items."""
    stated = {str(s): s for s in recipe.tests}
    first = recipe.tests[0]
    tested = [
        stated.get(str(s), replace(s, unlabelled=first.unlabelled, distractors=first.distractors))
        for s in settings or recipe.tests
    ]
    return tuple(replace(s, queries=queries) if queries else s for s in tested)
