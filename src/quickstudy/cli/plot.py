"""The command `plot`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from quickstudy.cli.options import DataRoot, OwnRecipe, as_setting


def plot(
    checkpoint: Annotated[str, typer.Argument(help="A training's folder, a checkpoint, or a model's name.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("plots"),
    setting: Annotated[str, typer.Option(help="Ways and shots of the episode that is drawn.")] = "5w1s",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episode.")] = 0,
    own_recipe: OwnRecipe = None,
    data_root: DataRoot = None,
) -> None:
    """Draw the learning curve, an episode with right and wrong predictions, and the embedding."""
    from quickstudy.cli.terminal import Terminal
    from quickstudy.core.consoles import console
    from quickstudy.recipes import pictures, weights
    from quickstudy.recipes.recipe import clip_ways

    learner, manifest = weights.load_learner(checkpoint, recipe=own_recipe)
    recipe = weights.recipe_of(manifest, own_recipe)
    with Terminal().counting("decoding") as progress:
        pool = recipe.pool(root=weights.data_root_of(manifest, data_root), progress=progress)
    log = weights.find(checkpoint).with_name("log.jsonl")
    wanted = as_setting(setting, 1)
    spare = int(pool.split("test").counts.min(initial=wanted.items)) - wanted.most.shots
    classes, size = clip_ways(pool.split("test"), replace(wanted, queries=max(1, min(5, spare))))
    inverted = getattr(recipe.item_format, "invert", False)
    kept = manifest.get("training", {}).get("steps")
    for path in pictures.draw_all(learner, classes, size, log, out, seed, inverted, kept):
        console.print(str(path), highlight=False, soft_wrap=True)
