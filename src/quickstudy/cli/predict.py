"""The command `predict`."""

from pathlib import Path
from typing import Annotated

import typer

from quickstudy.cli.options import (
    AsFormat,
    AsJson,
    Force,
    Format,
    OwnRecipe,
    Place,
    ResultsOut,
    SkipCorrupt,
    UsageError,
    free,
    results_to,
)

LETTERS = "prototypical-omniglot-5shot"
"""Model that is taken where none is named, and the pictures are no photographs."""
UNSURE = "unsure"
"""Answer where --reject gives none."""


def predict(
    ctx: typer.Context,
    support: Annotated[
        Path, typer.Option(help="Folder, zip or tar that holds a folder of a few pictures for each class.")
    ],
    query: Annotated[Path, typer.Option(help="A picture, or a folder, zip or tar of pictures, to classify.")],
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint file, a training's folder, or a name from `quickstudy models`. (default: "
            "photos for colour pictures, where it is installed, else a model of letters)",
            show_default=False,
        ),
    ] = None,
    output: AsFormat = Format.table,
    skip_corrupt: SkipCorrupt = False,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the weights as adapted to the support, as safetensors (MAML and its kin).",
            show_default=False,
        ),
    ] = None,
    reject: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=0.5,
            help="Share of errors to allow among the answers, 0.05 is 5 %: be unsure of the rest.",
            show_default=False,
        ),
    ] = None,
    own_recipe: OwnRecipe = None,
    place: Place = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The same as CHECKPOINT.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    out: ResultsOut = None,
    force: Force = False,
) -> None:
    """Tell your own pictures apart, from a handful of labelled ones. No training."""
    from quickstudy.cli.terminal import Terminal, table
    from quickstudy.core.consoles import console, messages, print_csv, print_json
    from quickstudy.core.wording import shown
    from quickstudy.data.formats.items import with_place
    from quickstudy.recipes import weights
    from quickstudy.training.card import card_of
    from quickstudy.training.predict import predict_folders

    results_to(ctx, out, force)
    output = Format.json if as_json else output
    if save:
        free(save, force)
    if checkpoint and model:
        raise UsageError(f"{checkpoint} and --model {model} both name a model: leave one out")
    checkpoint = checkpoint or model or _fitting(support)
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
            reject=reject,
            card=card_of(manifest),
            progress=progress,
        )
    classes = list(predictions[0].probabilities)
    if reject is not None and UNSURE in classes:
        raise ValueError(f"a class is named {UNSURE!r}, as an answer is by --reject: rename its folder")
    if output is Format.json:
        rows = [
            {
                "file": str(p.file),
                "label": p.label,
                "probabilities": p.probabilities,
                "outside": p.outside,
                "used": p.used,
            }
            for p in predictions
        ]
        print_json(rows)
    elif output is Format.csv:
        figures = (
            [p.file, p.label or UNSURE, *(f"{v:.6f}" for v in p.probabilities.values())] for p in predictions
        )
        print_csv([["file", "label", *classes], *figures])
    else:
        # where nearly all are unlike, one line below says so
        remarks = [
            "; ".join(r for r in ((p.outside, p.used) if predictions.level != "far" else ()) if r)
            for p in predictions
        ]
        headers = ("picture", "class", "probability", "next", *(("remark",) if any(remarks) else ()))
        rows = table(*headers, wraps=("picture", "class", "next", "remark"))
        for p, remark in zip(predictions, remarks, strict=True):
            first, second = sorted(p.probabilities.items(), key=lambda kv: -kv[1])[:2]
            name = f"{UNSURE} (nearest {first[0]})" if p.label is None else first[0]
            cells = [p.file.name, name, f"{first[1]:.1%}", f"{second[0]} {second[1]:.1%}"]
            rows.add_row(*map(shown, [*cells, *([remark] if any(remarks) else [])]))
        console.print(rows)
        for said in (predictions.expected, predictions.reject):
            if said:
                console.print(str(said), highlight=False, soft_wrap=True)
    for said in (predictions.outside, predictions.used):
        if said:
            messages.print(f"warning: {said}", highlight=False, soft_wrap=True)
    if predictions.colored:
        messages.print(_for_photographs(), highlight=False, soft_wrap=True)
    if predictions.expected and not predictions.expected.above_chance:
        messages.print(f"warning: {predictions.expected.warning}", highlight=False, soft_wrap=True)


def _fitting(support: Path) -> str:
    """The model for pictures of this kind, which is said."""
    from quickstudy.core.consoles import messages
    from quickstudy.data.datasets.folders import find_files
    from quickstudy.data.formats.images import ImageFormat
    from quickstudy.encoders.photos import photos_installed
    from quickstudy.training.predict import mostly_colored

    form = ImageFormat()
    colored = mostly_colored([file for found in find_files(support, form).values() for file in found], form)
    if colored and photos_installed():
        messages.print("with photos, pretrained on ImageNet", highlight=False)
        return "photos"
    if colored:
        messages.print(_for_photographs(), highlight=False, soft_wrap=True)
    messages.print(f"with {LETTERS}", highlight=False)
    return LETTERS


def _for_photographs() -> str:
    """How to tell photographs apart."""
    from quickstudy.encoders.photos import MISSING, photos_installed

    return "for photographs take photos: quickstudy predict photos" if photos_installed() else MISSING
