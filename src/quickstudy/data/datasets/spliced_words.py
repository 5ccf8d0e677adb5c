"""New training words made from recorded ones: spliced and reversed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from quickstudy.core.arrays import IntArray
from quickstudy.data.formats.items import Items
from quickstudy.data.pool import BoolArray, ClassPool

FADE = 0.05
"""Length of the cross-fade between the two halves, as a fraction of the clip."""

SPLICE, REVERSED = "|", "/reversed"
"""Separator of the two words in the name of a spliced word, and suffix of the name of a reversed word."""


def with_new_words(pool: ClassPool, spliced: int, each: int = 2, seed: int = 0) -> ClassPool:
    """Add artificial words to the split "train", to learn from more words than were recorded.

    Spliced words: the first half of one word and the second half of another, spoken by the same source.
    Reversed words: every word, the spliced ones included, played backwards.

    Args:
        pool: Pool of centered clips, with sources and K words in its split "train".
        spliced: Number of ordered pairs of words to splice, drawn at random, 0 … K (K − 1).
        each: Largest number of clips of a spliced word by each source.
        seed: Seed of the random draws.

    Returns:
        Pool with K + `spliced` words and the same number of reversed words in its split "train"; other splits
        and their items are unchanged. The added words are not `recorded`.

    Raises:
        ValueError: If the pool has no sources, or fewer pairs of words.

    Departures: no publication known to us does this to words; the rotated characters of Omniglot (Santoro et
    al. 2016) are the same idea.
    """
    train = pool.split("train")
    k = len(train)
    if train.sources is None or not 0 <= spliced <= k * (k - 1):
        raise ValueError(
            f"{pool.name} has {k} words to train on and {'no ' if train.sources is None else ''}sources: "
            f"at most {k * (k - 1)} pairs can be spliced, within a source"
        )
    rng = np.random.default_rng(seed)
    items: list[Items] = [train.of_class(c) for c in train.classes]
    sources = [train.sources[start : start + n] for start, n in zip(train.starts, train.counts, strict=True)]
    names = list(train.classes)
    for pair in rng.permutation(k * (k - 1))[:spliced].tolist():
        first, second = pair // (k - 1), pair % (k - 1)
        second += second >= first
        made, by = _spliced(train, first, second, each, rng)
        items.append(made)
        sources.append(by)
        names.append(f"{train.classes[first]}{SPLICE}{train.classes[second]}")
    counts = [len(x) for x in items]
    forth = np.concatenate(items)
    extra = np.concatenate([forth, forth[:, ::-1]])
    new = [*names, *(f"{name}{REVERSED}" for name in names)]
    was_recorded = np.zeros(len(new), np.bool_)
    was_recorded[:k] = True if train.recorded is None else train.recorded
    return _joined(pool, extra, new, counts * 2, was_recorded, np.tile(np.concatenate(sources), 2))


def _spliced(
    pool: ClassPool, first: int, second: int, each: int, rng: np.random.Generator
) -> tuple[Items, IntArray]:
    """Clips of a spliced word, and their sources."""
    assert pool.sources is not None
    middle = pool.items.shape[1] // 2
    fade = np.clip((np.arange(pool.items.shape[1]) - middle) / (2 * FADE * middle) + 0.5, 0, 1)
    beginnings = np.arange(pool.starts[first], pool.starts[first] + pool.counts[first])
    endings = np.arange(pool.starts[second], pool.starts[second] + pool.counts[second])
    parts: list[Items] = []
    sources: list[int] = []
    for source in np.intersect1d(pool.sources[beginnings], pool.sources[endings]):
        a = rng.permutation(beginnings[pool.sources[beginnings] == source])[:each]
        b = rng.permutation(endings[pool.sources[endings] == source])[:each]
        n = min(len(a), len(b))
        parts.append((pool.items[a[:n]] * (1 - fade) + pool.items[b[:n]] * fade).astype(np.int16))
        sources += [int(source)] * n
    return np.concatenate(parts), np.asarray(sources, np.int64)


def _joined(
    pool: ClassPool,
    extra: Items,
    names: Sequence[str],
    counts: Sequence[int],
    recorded: BoolArray,
    extra_sources: IntArray,
) -> ClassPool:
    """The pool with the given classes instead of its own in the split "train"."""
    kept = [s for s in pool.splits if s != "train"]
    old = np.concatenate([pool.splits[s] for s in kept])
    at = {c: i for i, c in enumerate(old.tolist())}
    items = np.concatenate([pool.of_class(pool.classes[c]) for c in old.tolist()] + [extra])
    sources = None
    if pool.sources is not None:
        of_old = [pool.sources[pool.starts[c] : pool.starts[c] + pool.counts[c]] for c in old.tolist()]
        sources = np.concatenate([*of_old, extra_sources])
    splits = {s: np.asarray([at[c] for c in pool.splits[s].tolist()], np.int64) for s in kept}
    old_recorded = np.ones(len(old), np.bool_) if pool.recorded is None else pool.recorded[old]
    splits["train"] = np.arange(len(old), len(old) + len(names))
    sizes = np.asarray([*pool.counts[old].tolist(), *counts], np.int64)
    return replace(
        pool,
        items=items,
        classes=(*(pool.classes[c] for c in old.tolist()), *names),
        starts=np.cumsum(sizes) - sizes,
        counts=sizes,
        splits=splits,
        sources=sources,
        recorded=np.concatenate([old_recorded, recorded]),
    )
