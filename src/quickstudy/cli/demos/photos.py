"""`quickstudy demo photos`: pictures told apart from three of each, with a network pretrained on ImageNet."""

import random
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from rich.panel import Panel
from rich.text import Text
from torch import nn

from quickstudy.cli.predict import LETTERS
from quickstudy.cli.terminal import Terminal, table
from quickstudy.core.consoles import console
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.learner import Learner
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.formats.items import ItemFormat
from quickstudy.encoders.photos import MISSING, photos_installed
from quickstudy.metric.prototypical import Prototypical
from quickstudy.recipes import weights
from quickstudy.training.predict import predict_folders

LABELLED, FRESH = 3, 6
"""Pictures of each class that are labelled, and that are asked for."""
SIDE, PART = 320, 220
"""Side in pixels of the drawn pictures, and the least of a part of a photograph."""

Color = tuple[int, int, int]
Draw = Callable[[ImageDraw.ImageDraw, random.Random, float, float, float], None]
"""Draws a thing with a generator, its middle and its size in pixels."""


def run(out: Path) -> None:
    """Write pictures, tell them apart, say how well and what to do next."""
    if not photos_installed():
        raise ValueError(MISSING)
    keep_freed_memory()
    started = time.monotonic()
    known, unknown = out / "known", out / "unknown"
    for folder in (known, unknown):
        shutil.rmtree(folder, ignore_errors=True)
    classes = _write(known, unknown)
    console.print(
        Panel(
            Text(
                f"{LABELLED} pictures each of {', '.join(classes)} are labelled: parts of photographs that "
                "come with scikit-learn, and drawings. A network that has learned from the photographs of "
                f"ImageNet, and is not trained any further, tells {FRESH} others of each apart."
            ),
            title="quickstudy: photographs",
        )
    )
    learner, manifest = weights.load_learner("photos")
    letters, of_letters = weights.load_learner(LETTERS)
    sides: list[tuple[str, Learner, ItemFormat]] = [
        ("raw pixels, nearest", Prototypical(nn.Flatten()), ImageFormat(32, 3)),
        (f"{LETTERS}, of letters", letters, weights.item_format_of(of_letters)),
        ("photos, pretrained on ImageNet", learner, weights.item_format_of(manifest)),
    ]
    rows = table("told by", "right of " + str(FRESH * len(classes)), "stated, on average", wraps=("told by",))
    rows.add_row("guessing", str(FRESH), f"{1 / len(classes):.0%}")
    for name, model, form in sides:
        with Terminal().counting("decoding") as progress:
            found = predict_folders(model, form, known, unknown, progress=progress)
        right = sum(p.label == Path(str(p.file)).stem.rpartition("-")[0] for p in found)
        sure = float(np.mean([max(p.probabilities.values()) for p in found]))
        rows.add_row(name, str(right), f"{sure:.0%}")
    console.print(rows)
    console.print(f"All in {time.monotonic() - started:.0f} seconds. Next:\n", highlight=False)
    arguments = ["--support", str(known), "--query", str(unknown)]
    for command, what in (
        (shlex.join(["quickstudy", "predict", *arguments]), "the same, picture by picture"),
        (
            "quickstudy predict --support DIR --query DIR",
            "your own photographs: a folder of a few for each class",
        ),
        (
            shlex.join(["quickstudy", "predict", *arguments, "--reject", "0.1"]),
            "unsure rather than wrong",
        ),
    ):
        console.print(f"  {command}", style="bold cyan", highlight=False, soft_wrap=True)
        console.print(f"      {what}", highlight=False, soft_wrap=True)


def _write(known: Path, unknown: Path) -> list[str]:
    """Write the pictures of each class into both folders; the names of the classes."""
    names: list[str] = []
    for name, pictures in _classes():
        (known / name).mkdir(parents=True)
        unknown.mkdir(parents=True, exist_ok=True)
        for i in range(LABELLED + FRESH):
            path = known / name / f"{i}.jpg" if i < LABELLED else unknown / f"{name}-{i}.jpg"
            next(pictures).save(path, quality=90)
        names.append(name)
    return names


def _classes() -> Iterator[tuple[str, Iterator[Image.Image]]]:
    from sklearn.datasets import load_sample_image

    for name, file in (("temple", "china.jpg"), ("flower", "flower.jpg")):
        whole: Any = load_sample_image(file)
        yield name, _parts(Image.fromarray(whole), random.Random(name))
    for name, draw in (("house", _house), ("tree", _tree), ("boat", _boat), ("balloon", _balloon)):
        yield name, _drawings(draw, random.Random(name))


def _parts(picture: Image.Image, rng: random.Random) -> Iterator[Image.Image]:
    """Parts of a photograph, some of them mirrored."""
    while True:
        side = rng.randint(PART, min(picture.size))
        left, top = rng.randint(0, picture.width - side), rng.randint(0, picture.height - side)
        part = picture.crop((left, top, left + side, top + side))
        yield part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def _drawings(draw: Draw, rng: random.Random) -> Iterator[Image.Image]:
    """A thing in front of sky and ground, of other colours, place and size each time."""
    while True:
        picture = Image.new("RGB", (SIDE, SIDE), _color(rng, (90, 140, 190), 50))
        pen = ImageDraw.Draw(picture)
        pen.rectangle((0, SIDE * rng.uniform(0.6, 0.8), SIDE, SIDE), fill=_color(rng, (90, 130, 70), 50))
        size = SIDE * rng.uniform(0.35, 0.6)
        draw(pen, rng, SIDE * rng.uniform(0.35, 0.65), SIDE * rng.uniform(0.45, 0.6), size)
        yield picture


def _color(rng: random.Random, around: Color, spread: int) -> Color:
    red, green, blue = (max(0, min(255, value + rng.randint(-spread, spread))) for value in around)
    return red, green, blue


def _any_color(rng: random.Random) -> Color:
    return _color(rng, (150, 120, 110), 100)


def _house(pen: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, size: float) -> None:
    half = size / 2
    pen.rectangle((x - half, y - half / 3, x + half, y + half), fill=_any_color(rng))
    pen.polygon(
        [(x - 0.6 * size, y - half / 3), (x, y - half), (x + 0.6 * size, y - half / 3)], fill=_any_color(rng)
    )
    pen.rectangle((x - size / 10, y + half / 3, x + size / 10, y + half), fill=_any_color(rng))
    for side in (-1, 1):
        at = x + side * size / 3.2
        pen.rectangle((at - size / 12, y - size / 20, at + size / 12, y + size / 10), fill=(240, 240, 200))


def _tree(pen: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, size: float) -> None:
    pen.rectangle((x - size / 14, y, x + size / 14, y + size / 2), fill=_color(rng, (100, 70, 40), 25))
    for _ in range(14):
        at, up, r = (
            rng.uniform(-0.35, 0.35) * size,
            rng.uniform(-0.5, 0.15) * size,
            size * rng.uniform(0.1, 0.2),
        )
        pen.ellipse((x + at - r, y + up - r, x + at + r, y + up + r), fill=_color(rng, (60, 120, 40), 40))


def _boat(pen: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, size: float) -> None:
    half, low = size / 2, y + size / 4
    hull = [
        (x - half, low),
        (x + half, low),
        (x + 0.3 * size, low + size / 5),
        (x - 0.3 * size, low + size / 5),
    ]
    pen.rectangle((0, low + size / 8, SIDE, SIDE), fill=_color(rng, (40, 90, 150), 30))
    pen.polygon(hull, fill=_any_color(rng))
    pen.line((x, low, x, y - half), fill=(60, 40, 30), width=5)
    for side, wide in ((1, rng.uniform(0.3, 0.45)), (-1, rng.uniform(0.2, 0.35))):
        sail = [(x + 6 * side, y - half), (x + 6 * side, low - 8), (x + side * wide * size, low - 8)]
        pen.polygon(sail, fill=_color(rng, (230, 230, 220), 25))


def _balloon(pen: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, size: float) -> None:
    r, y = 0.4 * size, y - 0.15 * size
    pen.ellipse((x - r, y - r, x + r, y + 1.15 * r), fill=_any_color(rng))
    for share, color in ((0.66, _any_color(rng)), (0.25, _any_color(rng))):
        pen.ellipse((x - share * r, y - r, x + share * r, y + 1.15 * r), fill=color)
    for side in (-1, 1):
        pen.line((x + side * 0.6 * r, y + r, x + side * size / 12, y + 1.7 * r), fill=(50, 40, 30), width=2)
    pen.rectangle(
        (x - size / 11, y + 1.7 * r, x + size / 11, y + 2.1 * r), fill=_color(rng, (130, 90, 50), 20)
    )
