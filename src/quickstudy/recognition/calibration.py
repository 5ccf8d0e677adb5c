"""Calibration: from which score on a sample is accepted, so that strangers get in as seldom as was asked for.

Scores are higher the likelier two samples are of one identity, such as negative energies. A genuine pair is
of one identity, an impostor pair of two. FAR is the share of impostor pairs that a threshold accepts, FRR
that of genuine pairs that it rejects. Letters beside those of `episode.py`: I items, K identities, M enrolled
names, n samples of a name, B probes, P pairs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from quickstudy.recognition.search import TOP, Pooling
from quickstudy.roc import verification

Floats = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Scorer = Callable[[npt.NDArray[Any], npt.NDArray[Any]], npt.NDArray[Any]]
"""From enrolled embeddings [M, n, D] and probes [B, D] to scores [B, M], higher where likelier the same."""
Energy = Literal["cosine", "euclidean"]
Interval = tuple[float, float]
Cost = tuple[float, float, float]
"""Cost of a false accept, cost of a false reject, prior of a genuine pair."""

FARS = tuple(float(f"{m}e-{e}") for e in range(1, 7) for m in (5, 2, 1))
"""The thresholds that a table has, as far as there are pairs enough."""
EXPECTED = 3
"""Accepted impostor pairs, at least, behind a threshold: with fewer it would be luck."""
FEW = 10
"""Identities below which an interval is rough, and said to be."""
MOST_ITEMS, MOST_PAIRS, MOST_DRAWS = 3000, 4_000_000, 20
"""Items that are paired at most, pairs of all draws of enrolled samples, and draws."""
BLOCKS, RESAMPLES = 500, 1000
"""Of the bootstrap: blocks of identities at most, and how often they are drawn anew."""


def pooled_scores(energy: Energy = "euclidean", pooling: Pooling = "centroid") -> Scorer:
    """The score of a probe against the samples of a name, the negative energy.

    Args:
        energy: "euclidean", ‖p − g‖, or "cosine", 1 − cos(p, g).
        pooling: "centroid", the energy to the mean of the samples (of unit vectors under the cosine);
            "nearest", the least of the energies; "top", the mean of the three least, or of all if fewer (of
            Euclidean ones the root mean square: squares of distances are what the gallery adds up).

    Raises:
        ValueError: if either is none of these.

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

    def scores(gallery: npt.NDArray[Any], probes: npt.NDArray[Any]) -> Floats:
        enrolled, asked = np.asarray(gallery, np.float64), np.asarray(probes, np.float64)
        if energy == "cosine":
            enrolled, asked = _unit(enrolled), _unit(asked)
        if pooling == "centroid":
            return _energies(enrolled.mean(1), asked, energy)
        names, n, dimensions = enrolled.shape
        made = np.empty((len(asked), names))
        step = max(1, 10_000_000 // (names * n))  # probes at a time, so that memory is bounded
        for i in range(0, len(asked), step):
            each = _energies(enrolled.reshape(-1, dimensions), asked[i : i + step], energy)
            each = np.sort(each.reshape(-1, names, n), 2)
            best = each[:, :, -TOP:]
            if pooling == "nearest":
                made[i : i + step] = each[:, :, -1]
            else:
                made[i : i + step] = best.mean(2) if energy == "cosine" else -np.sqrt((best**2).mean(2))
        return made

    return scores


def _unit(x: Floats) -> Floats:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _energies(gallery: Floats, probes: Floats, energy: Energy) -> Floats:
    """Negative energies [B, M] of single embeddings."""
    if energy == "cosine":
        return probes @ _unit(gallery).T - 1
    squares = (probes**2).sum(1)[:, None] + (gallery**2).sum(1) - 2 * probes @ gallery.T
    return -np.sqrt(np.maximum(squares, 0))


@dataclass(frozen=True)
class Pairs:
    """Scored pairs of a probe and what is enrolled under a name.

    Args:
        scores: [P].
        identities: [P, 2] of the probe and of the name, 0 … K − 1; a pair is genuine where they are the same.
        genuine: number of different genuine pairs; repeated draws pair the same anew, and don't count.
        impostor: number of different impostor pairs.
    """

    scores: Floats
    identities: Index
    genuine: int
    impostor: int

    @property
    def same(self) -> npt.NDArray[np.bool_]:
        """[P] whether each pair is genuine."""
        return self.identities[:, 0] == self.identities[:, 1]


def score_pairs(
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    scorer: Scorer,
    samples: int = 1,
    seed: int = 0,
    sources: npt.ArrayLike | None = None,
) -> Pairs:
    """The pairs that labelled items make, where names have so many enrolled samples.

    With one sample they are all pairs of different items. With more, samples of each identity that has items
    left are drawn at random and enrolled, and all other items are probes against all names; up to 20 draws.
    Of more than 3,000 items, those of the largest identities are thinned out first, at random.

    Args:
        embeddings: [I, D].
        labels: [I] whose each item is.
        scorer: of the names; symmetrical in its two arguments where n = 1.
        samples: n of each name.
        seed: of the draws.
        sources: [I] what each item comes from, such as the speaker of a word: then no probe is paired with a
            name that has a sample from the probe's source, and there may be few genuine pairs, or none.

    Raises:
        ValueError: if fewer than two identities have more than n items, embeddings aren't finite [I, D], or
            sources not [I].
    """
    x, y = _checked(embeddings, labels)
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
            f"{len(large)} identities have more than {samples} items: it takes two that have, to enrol "
            f"{samples} of each and try another; bring more items, or ask for fewer samples"
        )
    probes = len(x) - samples * len(large)
    draws = int(np.clip(MOST_PAIRS // (probes * len(large)), 1, MOST_DRAWS))
    scores: list[Floats] = []
    identities: list[Index] = []
    met = np.zeros((len(x), len(large)), bool)  # which probes were tried against which names
    for _ in range(draws):
        enrolled, tried = draw_enrolment(y, large, samples, rng)
        apart = (origin[tried][:, None, None] != origin[enrolled]).all(2)
        scores.append(_scored(scorer, x[enrolled], x[tried])[apart])
        both = np.broadcast_arrays(y[tried][:, None], large)
        identities.append(np.stack([side[apart] for side in both], 1))
        met[tried] |= apart
    of = y[:, None] == large
    return Pairs(np.concatenate(scores), np.concatenate(identities), int(met[of].sum()), int(met[~of].sum()))


def draw_enrolment(
    labels: Index, identities: Index, samples: int, rng: np.random.Generator
) -> tuple[Index, Index]:
    """Draw the items to enrol.

    Args:
        labels: [I] integers ≥ 0.
        identities: [M] to enrol, each with at least n items.
        samples: n of each.
        rng: source of randomness.

    Returns:
        [M, n] indices of the items to enrol, and of all others.
    """
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    firsts = np.searchsorted(labels[order], identities)
    enrolled = order[firsts[:, None] + np.arange(samples)]
    left = np.ones(len(labels), bool)
    left[enrolled] = False
    return enrolled, np.flatnonzero(left)


def _thinned(labels: Index, samples: int, rng: np.random.Generator) -> Index:
    """Indices of the items kept: n + 1 of each identity that has them, then those of others, then more."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    ordered, counts = labels[order], np.bincount(labels)
    place = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    shuffled = rng.permutation(len(counts))[ordered]  # which identities, if not all have room
    first = np.lexsort((shuffled, counts[ordered] <= samples, np.maximum(place, samples)))
    return np.sort(order[first[:MOST_ITEMS]])


def _checked(embeddings: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[npt.NDArray[Any], Index]:
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


def _scored(scorer: Scorer, gallery: npt.NDArray[Any], probes: npt.NDArray[Any]) -> Floats:
    scores = np.asarray(scorer(gallery, probes), np.float64)
    if scores.shape != (len(probes), len(gallery)):
        raise ValueError(
            f"the scorer gave {list(scores.shape)} for {len(probes)} probes and {len(gallery)} names: "
            f"it must give [{len(probes)}, {len(gallery)}]"
        )
    return scores


def share_interval(hits: npt.ArrayLike, identities: npt.ArrayLike, seed: int = 0) -> Interval:
    r"""95 % interval of the share of hits among pairs that have identities in common.

    Pairs of the same identities are alike, so it is identities that are drawn anew, with replacement, 1,000
    times. An identity drawn $c_i$ times gives its genuine pairs the weight $c_i$, and those with another one
    the weight $c_i c_j$:

    $$s^* = \frac{\sum_i c_i h_{ii} + \sum_{i \ne j} c_i c_j h_{ij}}
                 {\sum_i c_i n_{ii} + \sum_{i \ne j} c_i c_j n_{ij}}$$

    for $h_{ij}$ hits among $n_{ij}$ pairs; the interval is between the 2.5 and the 97.5 % quantiles. Where
    nothing is a hit it ends at 3 / (number of different pairs of identities), likewise where everything is.

    Args:
        hits: [P] true or false.
        identities: [P, 2] integers ≥ 0.
        seed: of the resamples.

    Example:
        >>> share_interval([True, False, False, False], [[0, 1], [0, 2], [1, 2], [3, 2]])[0]
        0.0

    Reference: R. M. Bolle, N. K. Ratha, S. Pankanti: "Error analysis of pattern recognition systems: the
    subsets bootstrap", Computer Vision and Image Understanding 93, 2004.

    Departures: there the subsets are of the pairs of one finger, here both identities of an impostor pair are
    drawn. More than 500 identities are drawn in 500 blocks, pairs within a block counting as genuine ones do.
    An interval of few identities is too short, as every bootstrap's is.
    """
    return _Resamples(np.asarray(identities), seed).interval(np.asarray(hits, bool))


class _Resamples:
    """Identities drawn anew, once for all the shares of the same pairs."""

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
        if hits.all() or not hits.any():
            low, high = self.pairs.min(1), self.pairs.max(1)
            margin = min(1.0, 3 / len(np.unique(low * (int(high.max()) + 1) + high)))
            return (1 - margin, 1.0) if hits.all() else (0.0, margin)
        there = self.all > 0  # of few identities, some resamples have no such pair
        shares = self._weighed(self.at[hits])[there] / self.all[there]
        low, high = np.quantile(shares, [0.025, 0.975])
        return float(low), float(high)

    def _weighed(self, at: Index) -> Floats:
        """The weight of some pairs in each resample."""
        k = self.k
        numbers = np.bincount(at, minlength=k * k).reshape(k, k).astype(np.float32)
        every = (self.drawn @ numbers * self.drawn).sum(1, dtype=np.float64)
        return every + (self.drawn - self.drawn**2) @ numbers.diagonal()


@dataclass(frozen=True)
class Point:
    """A threshold and what it does to the development pairs.

    Args:
        far: asked for; 0 for the threshold just above every impostor score.
        threshold: the least that accepts no larger share of the impostor pairs.
        frr: share of genuine pairs it rejects.
        far95: 95 % interval of its FAR.
    """

    far: float
    threshold: float
    frr: float
    far95: Interval


@dataclass(frozen=True)
class Table:
    """Thresholds for names with so many samples.

    Args:
        samples: n.
        far: aimed at.
        points: from the highest FAR to 0; all but the last rest on three accepted pairs or more.
        slope: of the logistic, > 0, in 1 / units of the score.
        intercept: of the logistic.
        genuine: number of different genuine pairs.
        impostor: number of different impostor pairs.
        identities: that the pairs are of.
    """

    samples: int
    far: float
    points: tuple[Point, ...]
    slope: float
    intercept: float
    genuine: int
    impostor: int
    identities: int

    def threshold(self, far: float) -> float:
        """For a FAR, straight between the points over the logarithm of the FAR.

        Where no pairs support the FAR, it is just above every impostor score.
        """
        if not self.supports(far):
            return self.points[-1].threshold
        known = self.points[-2::-1]
        at = np.interp(math.log(far), [math.log(p.far) for p in known], [p.threshold for p in known])
        return float(at)

    def supports(self, far: float) -> bool:
        """Whether there are pairs enough for a FAR."""
        return len(self.points) > 1 and far >= self.points[-2].far

    @property
    def point(self) -> Point:
        """That of the FAR aimed at, or the last where the pairs don't support it."""
        return next((p for p in self.points if p.far == self.far), self.points[-1])

    @classmethod
    def from_dict(cls, parts: Mapping[str, Any]) -> "Table":
        """The way back from `dataclasses.asdict`."""
        points = tuple(Point(**p | {"far95": (p["far95"][0], p["far95"][1])}) for p in parts["points"])
        rest: dict[str, Any] = {name: value for name, value in parts.items() if name != "points"}
        return cls(points=points, **rest)


@dataclass(frozen=True)
class Calibration:
    """Thresholds and probabilities of a scorer, as measured on development identities.

    Args:
        far: aimed at; where it was a cost that was given, that of the first table.
        cost: of a false accept, of a false reject, and prior of a genuine pair; None where a FAR was given.
        tables: by ascending number of samples.
        warnings: what the data couldn't support, one sentence each.
        seed: of the draws.
    """

    far: float
    cost: Cost | None
    tables: tuple[Table, ...]
    warnings: tuple[str, ...] = ()
    seed: int = 0

    def threshold(self, samples: int = 1, names: int = 1, far: float | None = None) -> float:
        r"""From which score on to accept.

        To identify against M names, a stranger shall be taken for any of them with probability f only, and
        each comparison may accept $1 - (1 - f)^{1/M}$, as if scores against different names were independent.
        Where a stranger who resembles one resembles others too, fewer get in.

        Args:
            samples: n of the name; between two tables the higher threshold counts, and beyond the last table
                that of the last.
            names: M; 1 to verify.
            far: f, instead of the one aimed at, in (0, 0.5].

        Raises:
            ValueError: if an argument is out of range.
        """
        return max(t.threshold(f) for t, f in self._asked(samples, names, far))

    def support(self, samples: int = 1, names: int = 1, far: float | None = None) -> bool:
        """Whether pairs enough are behind that threshold; if not, it is above every impostor score seen."""
        return all(t.supports(f) for t, f in self._asked(samples, names, far))

    def probability(self, scores: npt.ArrayLike, samples: int = 1) -> Floats:
        """Of a genuine pair, in (0, 1), where genuine and impostor pairs are equally likely beforehand.

        Args:
            scores: of any shape.
            samples: n of the name, as in `threshold`; between two tables the lower probability counts.
        """
        s = np.asarray(scores, np.float64)
        logits = np.min([t.slope * s + t.intercept for t in self._tables(samples)], axis=0)
        return 0.5 * (1 + np.tanh(logits / 2))  # which never overflows

    def _asked(self, samples: int, names: int, far: float | None) -> list[tuple[Table, float]]:
        if names < 1:
            raise ValueError(f"names is {names}: it must be at least 1")
        if far is not None:
            _check_far(far)
        tables = self._tables(samples)
        return [(t, -math.expm1(math.log1p(-(t.far if far is None else far)) / names)) for t in tables]

    def _tables(self, samples: int) -> list[Table]:
        if samples < 1:
            raise ValueError(f"samples is {samples}: it must be at least 1")
        fewer = [t for t in self.tables if t.samples <= samples]
        more = [t for t in self.tables if t.samples >= samples]
        return list({t.samples: t for t in fewer[-1:] + more[:1]}.values())

    def __str__(self) -> str:
        """`threshold -0.8123 for FAR 1 % (95 %: 0.6 … 1.5 %), FRR 4.1 % there (1 sample, …)`, a line each."""
        lines = [
            f"threshold {t.point.threshold:.4g} for FAR {100 * t.far:.3g} % "
            f"(95 %: {100 * t.point.far95[0]:.2g} … {100 * t.point.far95[1]:.2g} %), "
            f"FRR {100 * t.point.frr:.1f} % there "
            f"({t.samples} sample{'s' * (t.samples > 1)}, {t.genuine} genuine + {t.impostor} impostor pairs "
            f"of {t.identities} identities)"
            for t in self.tables
        ]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, parts: Mapping[str, Any]) -> "Calibration":
        """The way back, from JSON too.

        Raises:
            ValueError: if it is not what `as_dict` makes.
        """
        try:
            cost = parts["cost"]
            return cls(
                far=parts["far"],
                cost=None if cost is None else (cost[0], cost[1], cost[2]),
                tables=tuple(Table.from_dict(t) for t in parts["tables"]),
                warnings=tuple(parts["warnings"]),
                seed=parts["seed"],
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"this is no calibration ({error}): calibrate again") from None


def calibrate(
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    scorer: Scorer,
    far: float = 0.01,
    cost: Cost | None = None,
    samples: Sequence[int] = (1, 2, 3, 5, 10),
    seed: int = 0,
    sources: npt.ArrayLike | None = None,
) -> Calibration:
    r"""Choose thresholds on items of identities that neither training nor test has seen.

    The threshold for a FAR is the least that accepts no larger share of the impostor pairs. With a cost, the
    FAR is the one at which

    $$C_{fr} \cdot \pi \cdot \text{FRR} + C_{fa} \cdot (1 - \pi) \cdot \text{FAR}$$

    is least, for each number of samples. It serves for a gallery's own samples likewise.

    Args:
        embeddings: [I, D].
        labels: [I] whose each item is; identities may have unequal numbers of items.
        scorer: the one used later, such as `pooled_scores(…)`.
        far: aimed at, in (0, 0.5].
        cost: instead of `far`, of a false accept, of a false reject, and the prior π of a genuine pair.
        samples: a table for each of these numbers of enrolled samples, as far as two identities have more.
        seed: of the draws of enrolled samples, and of the bootstrap.
        sources: [I] what each item comes from: then samples and probes come from different ones, as in
            `score_pairs`, and numbers of samples that leave no such probe have no table.

    Raises:
        ValueError: if there are too few identities or items, something isn't finite, `far` or `cost` is out
            of range, or genuine pairs don't score higher than impostor pairs.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> who = np.repeat(np.arange(40), 5)
        >>> z = rng.normal(size=(40, 8))[who] + 0.3 * rng.normal(size=(200, 8))
        >>> calibration = calibrate(z, who, pooled_scores(), samples=[1, 3])
        >>> calibration.threshold(samples=3, names=100) > calibration.threshold(samples=3)
        True

    Reference: A. Martin, G. Doddington, T. Kamm, M. Ordowski, M. Przybocki: "The DET curve in assessment of
    detection task performance", Eurospeech 1997 (the cost); R. M. Bolle et al. as in `share_interval`.
    """
    _check_far(far)
    if cost is not None and not (min(cost) > 0 and cost[2] < 1):
        raise ValueError(f"cost is {cost}: two costs must be positive, the prior between 0 and 1")
    _, y = _checked(embeddings, labels)
    largest = np.sort(np.bincount(y))[-2:]
    fitting = sorted(n for n in set(samples) if n == 1 or 1 < n < largest[0])
    if not fitting:
        raise ValueError(
            f"no two identities have more items than any of samples {list(samples)}: "
            f"the largest have {largest[1]} and {largest[0]}; ask for fewer, or bring more items"
        )
    tables: list[Table] = []
    for n in fitting:  # one after the other, for each may have millions of pairs
        pairs = score_pairs(embeddings, labels, scorer, n, seed, sources)
        if pairs.genuine and pairs.impostor:
            tables.append(_table(pairs, n, far, cost, seed))
    if not tables:
        raise ValueError(
            "no two items of a name come from different sources, or no names do: bring items of more sources"
        )
    warnings = [sentence for t in tables for sentence in _warnings(t)]
    return Calibration(tables[0].far, cost, tuple(tables), tuple(warnings), seed)


def _check_far(far: float) -> None:
    if not 0 < far <= 0.5:
        raise ValueError(f"far is {far}: it must be above 0 and at most 0.5; it is a share, 0.01 is 1 %")


def _table(pairs: Pairs, samples: int, far: float, cost: Cost | None, seed: int) -> Table:
    same = pairs.same
    if cost is not None:
        far = _cheapest(pairs.scores, same, cost)
    genuine, impostor = np.sort(pairs.scores[same]), np.sort(pairs.scores[~same])[::-1]
    slope, intercept = _logistic(genuine, impostor)
    resamples, scores = _Resamples(pairs.identities[~same], seed), pairs.scores[~same]
    points: list[Point] = []
    for f in sorted({*FARS, far, 0.0}, reverse=True):
        if f and f * pairs.impostor < EXPECTED:
            continue
        threshold = least_threshold(impostor, f)
        frr = float(np.searchsorted(genuine, threshold) / len(genuine))
        points.append(Point(f, threshold, frr, resamples.interval(scores >= threshold)))
    identities = len(np.unique(pairs.identities))
    return Table(samples, far, tuple(points), slope, intercept, pairs.genuine, pairs.impostor, identities)


def least_threshold(impostor: Floats, far: float) -> float:
    """The least threshold that accepts no larger share of impostor scores.

    Args:
        impostor: [P] scores in descending order.
        far: the share, in [0, 0.5].
    """
    allowed = int(np.searchsorted(np.arange(1, len(impostor) + 1) / len(impostor), far, side="right"))
    return float(np.nextafter(impostor[allowed], math.inf))


def _cheapest(scores: Floats, same: npt.NDArray[np.bool_], cost: Cost) -> float:
    false_accept, false_reject, prior = cost
    far, tar = verification(scores, same).curve
    return float(far[np.argmin(false_reject * prior * (1 - tar) + false_accept * (1 - prior) * far)])


def _logistic(genuine: Floats, impostor: Floats) -> tuple[float, float]:
    """Slope and intercept of the logit of a genuine pair, both kinds counting half each."""
    kinds = [kind[:: 1 + len(kind) // 20_000] for kind in (genuine, impostor)]  # sorted: evenly thinned
    s, y = np.concatenate(kinds), np.repeat([1, 0], [len(kind) for kind in kinds])
    mean, spread = s.mean(), s.std() or 1.0
    fit = LogisticRegression(class_weight="balanced").fit(((s - mean) / spread)[:, None], y)
    slope = float(fit.coef_[0, 0] / spread)
    if slope <= 0:
        raise ValueError(
            "scores don't separate: genuine pairs score no higher than impostor pairs; look at the labels, "
            "and that scores are negative energies"
        )
    return slope, float(fit.intercept_[0] - slope * mean)


def _warnings(table: Table) -> list[str]:
    s = "s" * (table.samples > 1)
    these = f"{table.impostor} impostor pairs of {table.identities} identities ({table.samples} sample{s})"
    if not table.far:
        return [
            f"no threshold that accepts one of {these} is as cheap as one that accepts none: it is above all "
            "of their scores; bring more identities"
        ]
    if not table.supports(table.far):
        return [
            f"{these} can't support a FAR of {100 * table.far:.3g} %: the threshold is above all of their "
            "scores; bring more identities or ask for a higher FAR"
        ]
    low, high = table.point.far95
    if high > 2 * table.far or table.identities < FEW:
        return [
            f"{these} leave the FAR uncertain: {100 * table.far:.3g} % is aimed at, the 95 % interval is "
            f"{100 * low:.2g} … {100 * high:.2g} %; bring more identities"
        ]
    return []
