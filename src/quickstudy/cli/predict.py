"""The command `predict`."""

from pathlib import Path
from typing import Annotated

import typer

from quickstudy.cli.options import (
    AsFormat,
    AsJson,
    Checkpoint,
    Force,
    Format,
    OwnRecipe,
    Place,
    ResultsOut,
    SkipCorrupt,
    free,
    results_to,
)


def predict(
    ctx: typer.Context,
    checkpoint: Checkpoint,
    support: Annotated[
        Path, typer.Option(help="Folder, zip or tar that holds a folder of a few pictures for each class.")
    ],
    query: Annotated[Path, typer.Option(help="A picture, or a folder, zip or tar of pictures, to classify.")],
    output: AsFormat = Format.table,
    skip_corrupt: SkipCorrupt = False,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the weights as adapted to the support, as safetensors (MAML and its kin).",
            show_default=False,
        ),
    ] = None,
    own_recipe: OwnRecipe = None,
    place: Place = None,
    as_json: AsJson = False,
    out: ResultsOut = None,
    force: Force = False,
) -> None:
    """Tell your own pictures apart, from a handful of labelled ones. No training."""
    from quickstudy.cli.terminal import Terminal, table
    from quickstudy.core.consoles import console, print_csv, print_json
    from quickstudy.core.wording import shown
    from quickstudy.data.formats.items import with_place
    from quickstudy.recipes import weights
    from quickstudy.training.predict import predict_folders

    results_to(ctx, out, force)
    output = Format.json if as_json else output
    if save:
        free(save, force)
    learner, manifest = weights.load_learner(checkpoint, recipe=own_recipe)
    form = weights.recipe_of(manifest, own_recipe).item_format if own_recipe else None
    if form is None or place:
        form = with_place(weights.item_format_of(manifest, checkpoint), place)
    with Terminal().counting("decoding") as progress:
        predictions = predict_folders(
            learner,
            form,
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
        print_json(rows)
    elif output is Format.csv:
        figures = ([p.file, p.label, *(f"{v:.6f}" for v in p.probabilities.values())] for p in predictions)
        print_csv([["file", "label", *classes], *figures])
    else:
        rows = table("picture", "class", "probability", "next", wraps=("picture", "class", "next"))
        for p in predictions:
            first, second = sorted(p.probabilities.items(), key=lambda kv: -kv[1])[:2]
            figures = (first[0], f"{first[1]:.1%}", f"{second[0]} {second[1]:.1%}")
            rows.add_row(*map(shown, (p.file.name, *figures)))
        console.print(rows)
