"""New words and new faces made from old ones, to train on: more classes than were recorded."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from quickstudy.data.formats import Items
from quickstudy.data.pool import ClassPool

FADE = 0.05
"""Share of a clip over which one half gives way to the other."""


def with_new_words(pool: ClassPool, spliced: int, each: int = 2, seed: int = 0) -> ClassPool:
    """The classes of a split named "train" joined by words that nobody says.

    Spliced: the first half of one word and the second half of another, spoken by the same source. Reversed: every
    word, the spliced ones included, played backwards. What tells words apart is learned from many more of them.

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
        names.append(f"{train.classes[first]}|{train.classes[second]}")
    counts = [len(x) for x in items]
    forth = np.concatenate(items)
    extra = np.concatenate([forth, forth[:, ::-1]])
    new = [*names, *(f"{name}/reversed" for name in names)]
    return _joined(pool, extra, new, counts * 2)


def with_new_faces(pool: ClassPool, copies: int, amount: float = 0.035, seed: int = 0) -> ClassPool:
    """The people of a split named "train" joined by people who don't exist.

    Each copy of a person has all pictures bent by one and the same smooth field, so that eyes, nose and mouth lie
    elsewhere, and every second copy is mirrored: somebody else with the same ways of looking.

    Args:
        pool: of pictures.
        copies: of each person.
        amount: how far a place moves, as a standard deviation, in sides of the picture.
        seed: of the fields.

    Returns:
        The pool with K (1 + `copies`) people in its training split; other splits and their items are the same.

    Departures from what is published: the idea is that of Omniglot's quarter turns (Santoro et al. 2016); these
    fields are ours.
    """
    train = pool.split("train")
    rng = np.random.default_rng(seed)
    items: list[Items] = [train.of_class(c) for c in train.classes]
    names, sides = list(train.classes), train.items.shape[2:]
    for copy in range(copies):
        for name in train.classes:
            field = torch.from_numpy(rng.normal(0, 2 * amount, (1, 2, 4, 4)))
            field = F.interpolate(field, sides, mode="bicubic", align_corners=True)
            straight = F.affine_grid(torch.eye(2, 3).double()[None], [1, 1, *sides], align_corners=False)
            pictures = torch.from_numpy(train.of_class(name)).double()
            grid = (straight + field.permute(0, 2, 3, 1)).expand(len(pictures), -1, -1, -1)
            bent = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
            items.append((bent.flip(3) if copy % 2 else bent).round().byte().numpy())
            names.append(f"{name}/copy {copy + 1}")
    return _joined(pool, np.concatenate(items), names, [len(x) for x in items])


def _spliced(pool: ClassPool, first: int, second: int, each: int, rng: np.random.Generator) -> Items:
    assert pool.sources is not None
    middle = pool.items.shape[1] // 2
    fade = np.clip((np.arange(pool.items.shape[1]) - middle) / (2 * FADE * middle) + 0.5, 0, 1)
    indices = [np.arange(pool.starts[c], pool.starts[c] + pool.counts[c]) for c in (first, second)]
    of = [pool.sources[i] for i in indices]
    parts: list[Items] = []
    for source in np.intersect1d(*of):
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
