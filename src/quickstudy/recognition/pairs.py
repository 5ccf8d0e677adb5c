"""Pairs of a probe and an enrolled name: their scores, and confidence intervals of rates over pairs.

The higher a score, the likelier the two are of one identity; negative energies are scores. A genuine pair is
of one identity, an impostor pair of two. Letters beside those of `core/episode.py`: I items, K identities, M
enrolled names, n samples of a name, B probes, P pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from quickstudy.core.arrays import Float64Array, IntArray
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.recognition.gallery.pooling import Energy, Pooling, energies, pooled, unit

Scorer = Callable[[npt.NDArray[Any], npt.NDArray[Any]], npt.NDArray[Any]]
"""From enrolled embeddings [M, n, D] and probes [B, D] to scores [B, M]; higher means likelier the same."""
Interval = tuple[float, float]

MOST_ITEMS, MOST_PAIRS, MOST_DRAWS = 3000, 4_000_000, 20
"""Limits: items to pair, pairs over all draws of enrolled samples, and draws."""
BLOCKS, RESAMPLES = 500, 1000
"""Bootstrap: largest number of blocks of identities, and number of resamples."""


def pooled_scores(energy: Energy = "euclidean", pooling: Pooling = "centroid") -> Scorer:
    """Scorer of probes against the samples of names: the negative energy.

    Args:
        energy: Energy, "euclidean", ‖p − g‖, or "cosine", 1 − cos(p, g).
        pooling: Pooling of a name's samples: "centroid", the energy to their mean (of unit vectors for the
            cosine); "nearest", the least of the energies; "top", the mean of the three least, or of all if
            fewer (for the Euclidean energy the root mean square, as the gallery averages squared distances).

    Returns:
        Function from enrolled embeddings [M, n, D] and probes [B, D] to scores [B, M] ≤ 0.

    Raises:
        ValueError: If the energy or the pooling is none of these.

    Example:
        >>> enrolled = np.array([[[0.0, 0.0], [0.0, 2.0]]])
        >>> pooled_scores("euclidean", "nearest")(enrolled, np.array([[0.0, 3.0]]))
        array([[-1.]])
    """
    if energy not in ("cosine", "euclidean") or pooling not in ("centroid", "nearest", "top"):
        raise ValueError(
            f"energy is {energy!r} and pooling {pooling!r}: they must be 'cosine' or 'euclidean', and "
            "'centroid', 'nearest' or 'top'"
        )

    def scores(gallery: npt.NDArray[Any], probes: npt.NDArray[Any]) -> Float64Array:
        enrolled, asked = np.asarray(gallery, np.float64), np.asarray(probes, np.float64)
        cosine = energy == "cosine"
        if cosine:
            enrolled, asked = unit(enrolled), unit(asked)
        if pooling == "centroid":
            enrolled = enrolled.mean(1, keepdims=True)
        names, n, dimensions = enrolled.shape
        made = np.empty((len(asked), names))
        step = max(1, sizes_on().scored_pairs // max(1, names * n))  # bounds the memory
        for i in range(0, len(asked), step):
            each = energies(asked[i : i + step], enrolled.reshape(-1, dimensions), energy)
            made[i : i + step] = -pooled(each.view(-1, names, n), pooling, squared=cosine).numpy()
        return made

    return scores


@dataclass(frozen=True)
class Pairs:
    """Scored pairs of a probe and an enrolled name.

    Args:
        scores: Scores of the pairs, [P].
        identities: Identities of probe and name, [P, 2], in 0 … K − 1; equal in a genuine pair.
        genuine: Number of different genuine pairs; pairs that later draws repeat count once.
        impostor: Number of different impostor pairs.
    """

    scores: Float64Array
    identities: IntArray
    genuine: int
    impostor: int

    @property
    def same(self) -> npt.NDArray[np.bool_]:
        """Whether each pair is genuine, [P]."""
        return self.identities[:, 0] == self.identities[:, 1]


def score_pairs(
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    scorer: Scorer,
    samples: int = 1,
    seed: int = 0,
    sources: npt.ArrayLike | None = None,
) -> Pairs:
    """Score the genuine and impostor pairs of labelled items, with n enrolled samples a name.

    With n = 1 these are all pairs of different items. With more, n samples of each identity that has more
    than n items are drawn at random and enrolled, and all other items are probes against all names; this is
    repeated for up to 20 draws. More than 3,000 items are first thinned at random, from the largest
    identities on.

    Args:
        embeddings: Embeddings [I, D].
        labels: Identity of each item, [I].
        scorer: Scorer of probes against names; symmetric in its two arguments if n = 1.
        samples: Number n of enrolled samples of each name.
        seed: Seed of the random draws.
        sources: Source of each item, [I], such as the speaker of a word; if given, no probe is paired with a
            name that has a sample from the probe's source, which may leave few genuine pairs, or none.

    Returns:
        The pairs and their scores.

    Raises:
        ValueError: If fewer than two identities have more than n items, embeddings aren't finite [I, D], or
            sources aren't [I].
    """
    x, y = checked(embeddings, labels)
    origin = np.arange(len(x)) if sources is None else np.asarray(sources)
    if origin.shape != y.shape:
        raise ValueError(f"{len(x)} items, but sources {list(origin.shape)}: there must be one of each item")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(samples,)))
    if len(x) > MOST_ITEMS:
        kept = _thinned(y, samples, rng)
        x, y, origin = x[kept], np.unique(y[kept], return_inverse=True)[1], origin[kept]
    if samples == 1:
        first, second = np.triu_indices(len(x), 1)
        apart = origin[first] != origin[second]
        first, second = first[apart], second[apart]
        genuine = int((y[first] == y[second]).sum())
        every = _scored(scorer, x[:, None], x)[first, second]
        return Pairs(every, np.stack([y[first], y[second]], 1), genuine, len(every) - genuine)
    counts = np.bincount(y)
    large = np.flatnonzero(counts > samples)
    if samples < 1 or len(large) < 2:
        raise ValueError(
            f"{len(large)} identities have more than {samples} items: it takes two that have, to enroll "
            f"{samples} of each and try another; bring more items, or ask for fewer samples"
        )
    probes = len(x) - samples * len(large)
    draws = int(np.clip(MOST_PAIRS // (probes * len(large)), 1, MOST_DRAWS))
    scores: list[Float64Array] = []
    identities: list[IntArray] = []
    met = np.zeros((len(x), len(large)), bool)  # whether a probe was tried against a name
    for _ in range(draws):
        enrolled, tried = draw_enrollment(y, large, samples, rng)
        apart = (origin[tried][:, None, None] != origin[enrolled]).all(2)
        scores.append(_scored(scorer, x[enrolled], x[tried])[apart])
        both = np.broadcast_arrays(y[tried][:, None], large)
        identities.append(np.stack([side[apart] for side in both], 1))
        met[tried] |= apart
    of = y[:, None] == large
    return Pairs(np.concatenate(scores), np.concatenate(identities), int(met[of].sum()), int(met[~of].sum()))


def draw_enrollment(
    labels: IntArray, identities: IntArray, samples: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Draw the items to enroll.

    Args:
        labels: Identity of each item, [I], integers ≥ 0.
        identities: Identities to enroll, [M], each with at least n items.
        samples: Number n of items to enroll of each identity.
        rng: Random number generator.

    Returns:
        Indices of the items to enroll, [M, n], and of all others.
    """
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    firsts = np.searchsorted(labels[order], identities)
    enrolled = order[firsts[:, None] + np.arange(samples)]
    left = np.ones(len(labels), bool)
    left[enrolled] = False
    return enrolled, np.flatnonzero(left)


@dataclass(frozen=True)
class Distinct:
    """Items without their copies: what lies twice under one name would match itself.

    Args:
        kept: Indices of the items that count: the first of each content of a name, ascending.
        copies: Number of items left out.
        shared: Names that hold the same content, a tuple of them for each such content.
    """

    kept: IntArray
    copies: int
    shared: tuple[tuple[str, ...], ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what was found; none if every item is there once."""
        said: list[str] = []
        if self.copies:
            said.append(f"{self.copies} of the items are copies of others of their name, and count once")
        if self.shared:
            names = "; ".join(" and ".join(repr(n) for n in names) for names in self.shared[:3])
            more = "; …" if len(self.shared) > 3 else ""
            said.append(
                f"{len(self.shared)} items lie under several names ({names}{more}), which makes strangers "
                "of one: "
                "leave each under its own"
            )
        return tuple(said)


def distinct(contents: Sequence[bytes], labels: npt.ArrayLike) -> Distinct:
    """Find items that are there more than once.

    Args:
        contents: Content of each item, or a digest of it, [I].
        labels: Identity of each item, [I].

    Example:
        >>> distinct([b"a", b"a", b"b", b"a"], ["Ada", "Ada", "Ada", "Bob"]).warnings[0]
        '1 of the items are copies of others of their name, and count once'
    """
    kept: list[int] = []
    names_of: dict[bytes, dict[str, None]] = {}
    for i, (content, label) in enumerate(zip(contents, np.asarray(labels).tolist(), strict=True)):
        names = names_of.setdefault(content, {})
        if str(label) not in names:
            kept.append(i)
        names[str(label)] = None
    shared = tuple(tuple(names) for names in names_of.values() if len(names) > 1)
    return Distinct(np.array(kept, np.int64), len(contents) - len(kept), shared)


def jackknife_interval(hits: npt.NDArray[np.bool_], identities: IntArray) -> Interval:
    r"""Jackknife 95 % interval of the share of hits among pairs, for few identities.

    Each identity i is left out in turn, with all its pairs:

    $$s \pm t_{k-1} \sqrt{\tfrac{k - 1}{k} \sum_i (s_{-i} - \bar s_{-\cdot})^2}$$

    with Student's t, so that of three or five identities, too, it is wide enough.

    Args:
        hits: Whether each pair is a hit, [P].
        identities: Identities of the two sides of each pair, [P, 2], at least three in all.

    Returns:
        Lower and upper end, in [0, 1].

    Reference: J. N. Arvesen: "Jackknifing U-statistics", Annals of Mathematical Statistics 40, 1969.
    """
    _, at = np.unique(identities, return_inverse=True)
    at = at.reshape(-1, 2)
    k = int(at.max()) + 1
    of_pairs = np.bincount(at.ravel(), minlength=k)
    of_hits = np.bincount(at[hits].ravel(), minlength=k)
    left = len(hits) - of_pairs
    without = (hits.sum() - of_hits)[left > 0] / left[left > 0]
    share, k = float(hits.mean()), len(without)
    if k < 2:
        return 0.0, 1.0
    margin = float(
        student.ppf(0.975, k - 1) * np.sqrt((k - 1) / k * np.square(without - without.mean()).sum())
    )
    return max(0.0, share - margin), min(1.0, share + margin)


def _thinned(labels: IntArray, samples: int, rng: np.random.Generator) -> IntArray:
    """Indices of the items to keep: n + 1 of each identity that has them, then of others, then the rest."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    ordered, counts = labels[order], np.bincount(labels)
    place = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    shuffled = rng.permutation(len(counts))[ordered]  # random order of the identities, if not all fit
    # lexsort takes the last key first. That is the place of an item within its identity, where the first
    # n + 1 count as equal; then whether the identity has n + 1 items at all; then the random order.
    first = np.lexsort((shuffled, counts[ordered] <= samples, np.maximum(place, samples)))
    return np.sort(order[first[:MOST_ITEMS]])


def checked(embeddings: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[npt.NDArray[Any], IntArray]:
    """Check that pairs can be made of labelled items.

    Args:
        embeddings: Embeddings [I, D].
        labels: Identity of each item, [I].

    Returns:
        Embeddings [I, D], and identities [I] as numbers 0 … K − 1.

    Raises:
        ValueError: If shapes don't fit, a number isn't finite, or either kind of pair is missing.
    """
    x, names = np.asarray(embeddings), np.asarray(labels)
    if x.ndim != 2 or names.shape != x.shape[:1]:
        raise ValueError(
            f"embeddings have shape {list(x.shape)}, labels {list(names.shape)}: they must be [I, D] and [I]"
        )
    if not np.isfinite(x).all():
        at = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise ValueError(f"embedding {at} isn't finite: look for what blew up in the encoder")
    found, y = np.unique(names, return_inverse=True)
    if len(found) < 2 or len(found) == len(y):
        raise ValueError(
            f"{len(y)} items of {len(found)} identities: it takes two identities for an impostor pair, and "
            "two items of one for a genuine pair; bring more"
        )
    return x, y.astype(np.int64)


def _scored(scorer: Scorer, gallery: npt.NDArray[Any], probes: npt.NDArray[Any]) -> Float64Array:
    scores = np.asarray(scorer(gallery, probes), np.float64)
    if scores.shape != (len(probes), len(gallery)):
        raise ValueError(
            f"the scorer gave {list(scores.shape)} for {len(probes)} probes and {len(gallery)} names: "
            f"it must give [{len(probes)}, {len(gallery)}]"
        )
    return scores


def share_interval(hits: npt.ArrayLike, identities: npt.ArrayLike, seed: int = 0) -> Interval:
    r"""Bootstrap 95 % interval of the share of hits among pairs that have identities in common.

    Pairs that share an identity aren't independent, so identities are resampled, with replacement, 1,000
    times. An identity drawn $c_i$ times gives its genuine pairs the weight $c_i$, and those with identity j
    the weight $c_i c_j$:

    $$s^* = \frac{\sum_i c_i h_{ii} + \sum_{i \ne j} c_i c_j h_{ij}}
                 {\sum_i c_i n_{ii} + \sum_{i \ne j} c_i c_j n_{ij}}$$

    for $h_{ij}$ hits among $n_{ij}$ pairs; the interval is between the 2.5 and the 97.5 % quantiles. Without
    any hit its upper end is 3 / (number of different pairs of identities); if all are hits, 1 minus that is
    its lower end.

    Args:
        hits: Whether each pair is a hit, [P].
        identities: Identities of the two sides of each pair, [P, 2], integers ≥ 0.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end, in [0, 1].

    Example:
        >>> share_interval([True, False, False, False], [[0, 1], [0, 2], [1, 2], [3, 2]])[0]
        0.0

    Reference: R. M. Bolle, N. K. Ratha, S. Pankanti: "Error analysis of pattern recognition systems: the
    subsets bootstrap", Computer Vision and Image Understanding 93, 2004.

    Departures: the paper resamples subsets of the pairs of one finger; here both identities of an impostor
    pair are resampled. More than 500 identities are grouped into 500 blocks, and pairs within a block are
    weighted as genuine ones are. With few identities the interval is too short, as of every bootstrap.
    """
    return Resamples(np.asarray(identities), seed).interval(np.asarray(hits, bool))


def shown(share: float, interval: Interval) -> str:
    """Format a share and its interval, `1.20 % (0.60 … 2.10)`; a dash if the share is NaN.

    Args:
        share: Share in [0, 1], or NaN if there was nothing to count.
        interval: Lower and upper end, in [0, 1].
    """
    if np.isnan(share):
        return "–"
    return f"{100 * share:.2f} % ({100 * interval[0]:.2f} … {100 * interval[1]:.2f})"


class Resamples:
    """Bootstrap resamples of identities, drawn once for several shares of the same pairs.

    Args:
        identities: Identities of the two sides of each pair, [P, 2], integers ≥ 0.
        seed: Seed of the resampling.
    """

    def __init__(self, identities: npt.NDArray[Any], seed: int) -> None:
        _, pairs = np.unique(identities, return_inverse=True)
        self.pairs = pairs.reshape(-1, 2)
        k, rng = int(pairs.max()) + 1, np.random.default_rng(seed)
        blocks = self.pairs
        if k > BLOCKS:
            blocks, k = (rng.permutation(k) % BLOCKS)[self.pairs], BLOCKS
        self.k, self.at = k, blocks[:, 0] * k + blocks[:, 1]
        self.drawn = rng.multinomial(k, np.full(k, 1 / k), RESAMPLES).astype(np.float32)
        self.all = self._weighed(self.at)

    def interval(self, hits: npt.NDArray[np.bool_]) -> Interval:
        """Interval of the share of hits, see `share_interval`.

        Args:
            hits: Whether each pair is a hit, [P].

        Returns:
            Lower and upper end, in [0, 1].
        """
        if hits.all() or not hits.any():
            low, high = self.pairs.min(1), self.pairs.max(1)
            margin = min(1.0, 3 / len(np.unique(low * (int(high.max()) + 1) + high)))
            return (1 - margin, 1.0) if hits.all() else (0.0, margin)
        there = self.all > 0  # with few identities, some resamples have no pair of this kind
        shares = self._weighed(self.at[hits])[there] / self.all[there]
        low, high = np.quantile(shares, [0.025, 0.975])
        return float(low), float(high)

    def _weighed(self, at: IntArray) -> Float64Array:
        """Total weight of some pairs in each resample."""
        k = self.k
        numbers = np.bincount(at, minlength=k * k).reshape(k, k).astype(np.float32)
        every = (self.drawn @ numbers * self.drawn).sum(1, dtype=np.float64)
        return every + (self.drawn - self.drawn**2) @ numbers.diagonal()
