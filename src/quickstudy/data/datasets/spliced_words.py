"""New words made from old ones, to train on: more classes than were recorded."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from quickstudy.data.formats.items import Items
from quickstudy.data.pool import ClassPool

FADE = 0.05
"""Share of a clip over which one half gives way to the other."""

SPLICE, REVERSED = "|", "/reversed"
"""What is between the two halves of the name of a spliced word, and behind that of one played backwards."""


def recorded(name: str) -> bool:
    """Whether a class of that name is a word that somebody says, and none of `with_new_words`."""
    return SPLICE not in name and not name.endswith(REVERSED)


def with_new_words(pool: ClassPool, spliced: int, each: int = 2, seed: int = 0) -> ClassPool:
    """The classes of a split named "train" joined by words that nobody says.

    Spliced: the first half of one word and the second half of another, spoken by the same source. Reversed:
    every word, the spliced ones included, played backwards. So what tells words apart is learned from many
    more of them.

    Args:
        pool: of centred clips, with sources.
        spliced: how many ordered pairs of words to splice, drawn at random; at most K (K − 1).
        each: clips of a spliced word by each source, at most.
        seed: of the draw.

    Returns:
        The pool with K + `spliced` words in its training split, and as many backwards; other splits and their
        items are the same.

    Raises:
        ValueError: if the pool has no sources, or not so many pairs of words.

    Departures from what is published: none is known to us that does this to words; Omniglot's quarter turns
    (Santoro et al. 2016) are the same idea.
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
    names = list(train.classes)
    for pair in rng.permutation(k * (k - 1))[:spliced].tolist():
        first, second = pair // (k - 1), pair % (k - 1)
        second += second >= first
        items.append(_spliced(train, first, second, each, rng))
        names.append(f"{train.classes[first]}{SPLICE}{train.classes[second]}")
    counts = [len(x) for x in items]
    forth = np.concatenate(items)
    extra = np.concatenate([forth, forth[:, ::-1]])
    new = [*names, *(f"{name}{REVERSED}" for name in names)]
    return _joined(pool, extra, new, counts * 2)


def _spliced(pool: ClassPool, first: int, second: int, each: int, rng: np.random.Generator) -> Items:
    assert pool.sources is not None
    middle = pool.items.shape[1] // 2
    fade = np.clip((np.arange(pool.items.shape[1]) - middle) / (2 * FADE * middle) + 0.5, 0, 1)
    indices = [np.arange(pool.starts[c], pool.starts[c] + pool.counts[c]) for c in (first, second)]
    of = [pool.sources[i] for i in indices]
    parts: list[Items] = []
    for source in np.intersect1d(of[0], of[1]):
        a, b = (rng.permutation(i[o == source])[:each] for i, o in zip(indices, of, strict=True))
        n = min(len(a), len(b))
        parts.append((pool.items[a[:n]] * (1 - fade) + pool.items[b[:n]] * fade).astype(np.int16))
    return np.concatenate(parts)


def _joined(pool: ClassPool, extra: Items, names: Sequence[str], counts: Sequence[int]) -> ClassPool:
    """The pool with other classes to train on in the place of its own."""
    kept = [s for s in pool.splits if s != "train"]
    old = np.concatenate([pool.splits[s] for s in kept])
    at = {c: i for i, c in enumerate(old.tolist())}
    items = np.concatenate([pool.of_class(pool.classes[c]) for c in old.tolist()] + [extra])
    sources = None
    if pool.sources is not None:
        of_old = [pool.sources[pool.starts[c] : pool.starts[c] + pool.counts[c]] for c in old.tolist()]
        # a new word's source does not matter: tasks to train on mix them
        sources = np.concatenate([*of_old, np.zeros(len(extra), np.int64)])
    splits = {s: np.asarray([at[c] for c in pool.splits[s].tolist()], np.int64) for s in kept}
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
    )
