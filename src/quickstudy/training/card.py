"""The card of a model: what its items look like, and whether others are far from them."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import checkpoint
from quickstudy.core.kernels.torch_private import BatchNorm
from quickstudy.core.learner import Learner
from quickstudy.core.seeds import generators_kept
from quickstudy.data.formats.audio import quality_of
from quickstudy.data.formats.items import ItemFormat, Items
from quickstudy.data.pool import ClassPool
from quickstudy.training.of_embeddings import embeddings

Floats = npt.NDArray[np.float64]

ITEMS, CLASSES = 1000, 5
"""Most items that a card is made of, and the fewest classes whose embeddings may be summed up in it."""
FEW = 20
"""Fewest items of a card; of n items the ranges are widened by FEW / n, as their ends are then uncertain."""
DIRECTIONS = 32
"""Directions in the space of embeddings of which mean and covariance are kept."""
ENDS = (0.005, 0.5, 0.995)
"""Quantiles of each statistic that are kept."""
LIMIT = 2.0
"""How far an item may be, in units of what 99.5 % of a model's own items keep to."""
SHARE, RATE, RARE = 0.2, 0.01, 0.01
"""Share of items outside from which a set is unusual, if it is rarer than this where so many are outside."""

Range = tuple[float, float, float]

LEAST = {
    "brightness": 0.03,
    "contrast": 0.02,
    "shades": 0.04,
    "sharpness": 0.05,
    "color": 0.02,
    "loudness": 12.0,
    "sound": 0.1,
    "bandwidth": 300.0,
}
"""Least distance from the median that counts, where a model's own items are nearly all alike."""
WORDS = {
    "brightness": ("dark", "bright"),
    "contrast": ("hardly anything in it", "harsh contrast"),
    "shades": (
        "black and white only, where it knows shades",
        "shades, as in photographs, where it knows ink",
    ),
    "sharpness": ("blurred", "noisy, or of finer detail"),
    "color": ("grey, where it knows colours", "of stronger colours"),
    "loudness": ("quiet", "loud"),
    "sound": ("hardly any sound in it", "sound all through, where it knows pauses"),
    "bandwidth": ("narrow band, as of a telephone", "wider band"),
    "features": ("", "features unlike those of its own"),
}
"""What it means that a statistic is below, and above, those of a model's own items."""
INKED = ("hardly any ink", "dark, or much ink")
"""The same of the brightness of pictures that are inverted."""


@dataclass(frozen=True)
class Features:
    """Distribution of embeddings in a few fixed random directions; an aggregate of many classes.

    Args:
        mean: [R] mean of the projected embeddings, each class counting alike.
        whitening: R (R + 1) / 2 numbers of a lower triangular matrix, row by row, that whitens them.
        distance: Distance that 99.5 % of a model's own items keep to.
    """

    mean: tuple[float, ...]
    whitening: tuple[float, ...]
    distance: float


@dataclass(frozen=True)
class Card:
    """What the items of a model look like, measured on its validation classes.

    No item, and no embedding of one, can be told from it: all numbers are quantiles of plain statistics, and
    mean and covariance of embeddings over five classes at least, each counting alike.

    Args:
        items: Number of items measured.
        classes: Number of classes that they are of.
        size: Median shorter side of the original pictures in pixels, or length of the recordings in seconds;
            None if unknown.
        statistics: Quantiles 0.5 %, 50 % and 99.5 % of each statistic of the items, by name.
        features: Distribution of the embeddings; None for learners without an encoder of single items, and
            where there are fewer than five classes.
    """

    items: int
    classes: int
    size: float | None
    statistics: Mapping[str, Range]
    features: Features | None = None

    def as_dict(self) -> dict[str, Any]:
        """The card for a manifest, JSON-able; `card_of` restores it."""
        stated = asdict(self)
        if self.features:  # as text, so that a readable manifest has not a line for each number
            for name in ("mean", "whitening"):
                stated["features"][name] = " ".join(f"{v:g}" for v in stated["features"][name])
        return stated


def card_of(manifest: Mapping[str, Any]) -> Card | None:
    """The card in a manifest; None where it has none, or not one that is understood.

    Args:
        manifest: Manifest of a checkpoint.
    """
    try:
        stated: dict[str, Any] = dict(manifest["card"])
        of = stated["features"]
        features = of and Features(_numbers(of["mean"]), _numbers(of["whitening"]), float(of["distance"]))
        if features and len(features.whitening) != len(features.mean) * (len(features.mean) + 1) // 2:
            return None
        ranges = {
            str(k): (float(v[0]), float(v[1]), float(v[2]))
            for k, v in stated["statistics"].items()
            if k in LEAST
        }
        size = stated["size"]
        return Card(
            int(stated["items"]),
            int(stated["classes"]),
            None if size is None else float(size),
            ranges,
            features,
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return None


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split())


@torch.no_grad()
def make_card(learner: nn.Module, pool: ClassPool, items: int = ITEMS, seed: int = 0) -> Card | None:
    """Measure the card of a model on classes that it wasn't trained on.

    Args:
        learner: Trained learner.
        pool: Its validation classes.
        items: Number of items to measure, at most; the same number of each class where it has so many.
        seed: Seed of the random draw of items.

    Returns:
        The card, without a distribution of embeddings if there are fewer than five classes; None where there
        are fewer than 20 items.
    """
    if pool.counts.sum() < FEW:
        return None
    rng = np.random.default_rng(seed)
    classes = rng.permutation(len(pool))[: max(CLASSES, items // 2)]
    each = max(2, items // len(classes))
    chosen = [pool.starts[c] + rng.permutation(int(pool.counts[c]))[:each] for c in classes]
    of_item = np.repeat(np.arange(len(chosen)), [len(c) for c in chosen])
    x = pool.items[np.concatenate(chosen)]
    rate = getattr(pool.item_format, "rate", None)
    wider = 1 + FEW / len(x)
    ranges: dict[str, Range] = {}
    for name, values in statistics_of(x, rate).items():
        low, middle, high = np.quantile(values, ENDS).tolist()
        low, middle, high = _rounded(
            [middle - wider * (middle - low), middle, middle + wider * (high - middle)]
        )
        ranges[name] = (low, middle, high)
    with generators_kept():
        z = features_of(learner, x) if len(classes) >= CLASSES else None
    features = None if z is None else _features(z, of_item)
    return Card(len(x), len(chosen), pool.original_size, ranges, features)


def put_card(path: Path, learner: nn.Module, pool: ClassPool, items: int = ITEMS) -> Card | None:
    """Measure the card of a model, and write it into its checkpoint; the weights stay as they are.

    Args:
        path: Path of the checkpoint.
        learner: The learner that it holds.
        pool: Its validation classes.
        items: Number of items to measure, at most.

    Returns:
        The card; None where there are too few items, and none was written.
    """
    card = make_card(learner, pool, items)
    if card:
        weights, manifest = checkpoint.load(path)
        checkpoint.save(path, weights, manifest | {"card": card.as_dict()})
    return card


def statistics_of(items: Items, rate: float | None = None) -> dict[str, Floats]:
    """Simple statistics of items, each [B], by name.

    Of pictures: brightness (mean, in 0 … 1), contrast (standard deviation), shades (share of pixels neither
    black nor white), sharpness (of the Laplacian to the gradient) and, of those with three channels, color
    (difference of the channels). Of clips: loudness (decibels of full scale), sound (share of the clip within
    30 decibels of its loudest part) and, if the rate is known, bandwidth (Hz below which 99 % of the energy
    lie). Of other items nothing is known beforehand: there are none.

    Args:
        items: uint8 pictures [B, C, H, W], int16 clips [B, samples] or other items [B, ...].
        rate: Samples per second of clips.
    """
    if (items.dtype.name, items.ndim) not in (("uint8", 4), ("int16", 2)):
        return {}
    parts = [
        _of_clips(part, rate) if items.dtype == np.int16 else _of_pictures(part)
        for part in np.array_split(items, max(1, math.ceil(items.size / 2_000_000)))
        if len(part)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _of_pictures(items: Items) -> dict[str, Floats]:
    x = items.astype(np.float32) / 255
    g = x.mean(1)
    across, down = np.abs(np.diff(g, axis=2)), np.abs(np.diff(g, axis=1))
    edges = across.mean((1, 2)) + down.mean((1, 2)) if min(g.shape[1:]) > 2 else np.zeros(len(g))
    inner = g[:, 1:-1, 1:-1]
    around = g[:, :-2, 1:-1] + g[:, 2:, 1:-1] + g[:, 1:-1, :-2] + g[:, 1:-1, 2:]
    laplacian = np.abs(4 * inner - around).mean((1, 2)) if inner.size else np.zeros(len(g))
    found = {
        "brightness": g.mean((1, 2)),
        "contrast": g.std((1, 2)),
        "shades": ((g > 0.1) & (g < 0.9)).mean((1, 2)),
        "sharpness": laplacian / np.maximum(edges, 1e-3),
    }
    if items.shape[1] == 3:
        found["color"] = (x.max(1) - x.min(1)).mean((1, 2))
    return {name: values.astype(np.float64) for name, values in found.items()}


def _of_clips(items: Items, rate: float | None) -> dict[str, Floats]:
    x = items.astype(np.float64) / 32768
    x -= x.mean(1, keepdims=True)
    frames = max(1, min(100, x.shape[1] // 80))
    power = np.stack([np.square(part).mean(1) for part in np.array_split(x, frames, axis=1)], 1) + 1e-10
    found = {
        "loudness": 10 * np.log10(power.mean(1)),
        "sound": (power > 1e-3 * power.max(1, keepdims=True)).mean(1),
    }
    if rate:
        spectrum = np.abs(np.fft.rfft(x, axis=1)) ** 2
        energy = np.cumsum(spectrum, axis=1)
        below = (energy < 0.99 * energy[:, -1:]).sum(1)
        found["bandwidth"] = below * (rate / x.shape[1])
    return found


@torch.no_grad()
def features_of(learner: nn.Module, items: Items, known: Tensor | None = None) -> Floats | None:
    """Embeddings [B, D] of items, of unit length where the learner compares them by the cosine.

    Args:
        learner: Learner with an encoder.
        items: Items [B, ...] in its own format.
        known: Their embeddings [B, D], where they are known; None to make them.

    Returns:
        The embeddings; None without an encoder, or with one whose embeddings depend on the rest of the batch.
    """
    encoder = getattr(learner, "encoder", None)
    if not isinstance(encoder, nn.Module):
        return None
    if any(isinstance(m, BatchNorm) and m.running_mean is None for m in encoder.modules()):
        return None
    device = learner.device if isinstance(learner, Learner) else torch.device("cpu")
    z = embeddings(encoder, items, device) if known is None else known
    if getattr(getattr(learner, "distance", None), "name", None) == "cosine":
        z = F.normalize(z, dim=1)
    return z.double().cpu().numpy()


def _directions(dimensions: int, number: int) -> Floats:
    """Fixed random signs [D, R], the same on every machine and with every version."""
    bits = hashlib.shake_128(b"card").digest(-(-dimensions * number // 8))
    signs = np.unpackbits(np.frombuffer(bits, np.uint8))[: dimensions * number].astype(np.float64)
    return (2 * signs - 1).reshape(dimensions, number) / math.sqrt(dimensions)


def _features(z: Floats, of_item: npt.NDArray[np.int64]) -> Features | None:
    number = min(DIRECTIONS, z.shape[1], len(z) // 10)
    if number < 2 or not np.isfinite(z).all():
        return None
    # each class counts alike, so that none is more than a fifth of the mean
    weight = (1 / np.bincount(of_item))[of_item]
    weight /= weight.sum()
    p = z @ _directions(z.shape[1], number)
    mean = weight @ p
    covariance = (p - mean).T @ ((p - mean) * weight[:, None])
    covariance += np.eye(number) * max(1e-3 * float(np.trace(covariance)) / number, 1e-12)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    made = Features(_rounded(mean), _rounded(whitening[np.tril_indices(number)]), 1.0)
    distance = float(np.quantile(_distances(made, z), ENDS[-1])) * (1 + FEW / len(z))
    return Features(made.mean, made.whitening, _rounded([distance])[0])


def _distances(features: Features, z: Floats) -> Floats:
    """Root mean square of the whitened projections, [B]."""
    number = len(features.mean)
    whitening = np.zeros((number, number))
    whitening[np.tril_indices(number)] = features.whitening
    p = z @ _directions(z.shape[1], number) - np.asarray(features.mean)
    return np.sqrt(np.square(p @ whitening.T).mean(1))


def _rounded(values: Sequence[float] | Floats) -> tuple[float, ...]:
    return tuple(float(f"{v:.4g}") for v in np.asarray(values, dtype=np.float64).tolist())


Level = Literal["known", "unusual", "far"]


@dataclass(frozen=True)
class HowFar:
    """How far items are from those that a model knows.

    Args:
        level: "known"; "unusual" where more items are outside than chance has it; "far" where most are.
        distances: [B] distance of each item, in units of what 99.5 % of the model's own items keep to.
        reasons: [B] what is unlike in each item, in a few words; None for those within `LIMIT`.
        hints: [B] the same of items beyond a distance of 1, and what `quality_of` finds in clips: why
            one that isn't recognized may not be.
    """

    level: Level
    distances: list[float]
    reasons: list[str | None]
    hints: list[str | None]


def sentence(level: Level, reasons: Sequence[str | None], noun: str, colored: bool = False) -> str:
    """One line on a set of items; empty where the level is "known".

    Args:
        level: Level of the set.
        reasons: What is unlike in each item; None where nothing is.
        noun: Plural noun for the items.
        colored: Whether the originals have colours, which the model doesn't see.
    """
    if level == "known":
        return ""
    outside = [r.split("; ") for r in reasons if r]
    parts = list(dict.fromkeys(part for r in outside for part in r))
    why = sorted(parts, key=lambda part: -sum(part in r for r in outside))[:3]
    why = ["in colour, of which it sees only the grey", *why[:2]] if colored else why
    far = "far from what this model knows" if level == "far" else "unlike those that this model knows"
    advice = "don't rely on its answers" if level == "far" else "check its answers"
    return f"{len(outside)} of {len(reasons)} {noun} are {far} ({'; '.join(why)}): {advice}"


def how_far(
    card: Card,
    items: Items,
    item_format: ItemFormat,
    features: Floats | npt.NDArray[np.float32] | None = None,
) -> HowFar:
    """Say whether items are outside of what a model knows, and in what.

    An item's distance is the largest of those of its statistics and of its embedding, each in units of what
    99.5 % of the model's own validation items keep to. It is outside beyond `LIMIT` of them, which of items
    of the model's own kind under 1 % are.

    Args:
        card: Card of the model.
        items: Items [B, ...] in the model's format.
        item_format: The model's format.
        features: Their embeddings [B, D], as `features_of` gives them; None to go by the statistics alone.
    """
    found, of = statistics_of(items, getattr(item_format, "rate", None)), len(items)
    words = WORDS | ({"brightness": INKED} if getattr(item_format, "invert", False) else {})
    columns: list[tuple[str, Floats]] = []
    for name, (low, middle, high) in card.statistics.items():
        if name in found:
            below = (middle - found[name]) / max(middle - low, LEAST[name])
            above = (found[name] - middle) / max(high - middle, LEAST[name])
            columns += [(words[name][0], below), (words[name][1], above)]
    if card.features and features is not None:
        z = np.asarray(features, np.float64)
        distance = _distances(card.features, z) / max(card.features.distance, 1e-12)
        columns.append((words["features"][1], distance))
    distances = np.max([np.zeros(of), *(values for _, values in columns)], axis=0)
    reasons, hints = _beyond(columns, LIMIT, of), _beyond(columns, 1.0, of)
    if items.dtype == np.int16:
        hints = [_told_once(*both) for both in zip(hints_of(items, item_format), hints, strict=True)]
    return HowFar(level_of(reasons), distances.tolist(), reasons, hints)


def _told_once(*hints: str | None) -> str | None:
    """Several hints as one; of those that begin with the same words, such as "quiet", the first."""
    parts = [part for hint in hints if hint for part in hint.split("; ")]
    first = {re.split("[:,]", part)[0]: part for part in reversed(parts)}
    return "; ".join(part for part in parts if part in first.values()) or None


def _beyond(columns: Sequence[tuple[str, Floats]], limit: float, of: int) -> list[str | None]:
    """The two farthest of the statistics of each item that are beyond a limit, in words; None if none are."""
    told: list[list[tuple[float, str]]] = [[] for _ in range(of)]
    for text, values in columns:
        for i in np.flatnonzero(values > limit).tolist():
            told[i].append((-float(values[i]), text))
    return ["; ".join(text for _, text in sorted(of_item)[:2]) or None for of_item in told]


def hints_of(items: Items, item_format: ItemFormat) -> list[str | None]:
    """What may be wrong with items whatever model they are for, [B]; None where nothing is.

    Of clips it is what `quality_of` finds; pictures may be dark, blurred, or have hardly anything in them.

    Args:
        items: Items [B, ...] in the model's format.
        item_format: The model's format.
    """
    rate = getattr(item_format, "rate", None)
    if items.dtype == np.int16:
        return ["; ".join(quality_of(clip, rate)) or None for clip in items] if rate else [None] * len(items)
    found = statistics_of(items)
    dark = (found["brightness"] < 0.1) & (not getattr(item_format, "invert", False))
    rules = (
        ("dark", dark),
        ("hardly anything in it", found["contrast"] < 0.04),
        ("blurred", found["sharpness"] < 0.4),
    )
    return ["; ".join(text for text, holds in rules if holds[i]) or None for i in range(len(items))]


def summary_of(said: Sequence[str | None], noun: str) -> str:
    """What was said of some items as one line; empty where nothing was.

    Args:
        said: [B] what there is to say of each item, or None.
        noun: Plural noun for the items.
    """
    given = [text for text in said if text]
    if not given or len(said) == 1:
        return given[0] if given else ""
    return f"{len(given)} of {len(said)} {noun}: {given[0]}" + (", or the like" if len({*given}) > 1 else "")


def level_of(reasons: Sequence[str | None]) -> Level:
    """Level of a set of items, by how many are outside.

    One item in a hundred may be; a set is unusual where that is no explanation for the number outside, and at
    least 20 % are.

    Args:
        reasons: What is unlike in each item; None where nothing is.
    """
    n, outside = len(reasons), sum(1 for r in reasons if r)
    if not outside or outside < SHARE * n:
        return "known"
    tail = 1.0 - sum(math.comb(n, k) * RATE**k * (1 - RATE) ** (n - k) for k in range(min(outside, 40)))
    if n > 1 and tail > RARE:
        return "known"
    return "far" if outside >= n / 2 else "unusual"
