"""Calibration: from which score on a sample is accepted, so that strangers get in as seldom as was asked for.

FAR is the share of impostor pairs that a threshold accepts, FRR that of genuine pairs that it rejects. Pairs,
scores and letters are those of `pairs.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from quickstudy.core.wording import plural
from quickstudy.metric.verification import verification
from quickstudy.recognition.gallery.pooling import Pooling
from quickstudy.recognition.pairs import Floats, Interval, Pairs, Resamples, Scorer, checked, score_pairs

Cost = tuple[float, float, float]
"""Cost of a false accept, cost of a false reject, prior of a genuine pair."""

FARS = tuple(float(f"{m}e-{e}") for e in range(1, 7) for m in (5, 2, 1))
"""The thresholds that a table has, as far as there are pairs enough."""
SAMPLES = (1, 2, 3, 5, 10)
"""Numbers of enrolled samples that have a table."""
EXPECTED = 3
"""Accepted impostor pairs, at least, behind a threshold: with fewer it would be luck."""
FEW = 10
"""Identities below which an interval is rough, and said to be."""


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
        pooling: how the samples of a name are taken together.
    """

    far: float
    cost: Cost | None
    tables: tuple[Table, ...]
    warnings: tuple[str, ...] = ()
    seed: int = 0
    pooling: Pooling = "centroid"

    def threshold(self, samples: int = 1, names: int = 1, far: float | None = None) -> float:
        r"""From which score on to accept.

        To identify against M names, a stranger shall be taken for any of them with probability f only, and
        each comparison may accept $1 - (1 - f)^{1/M}$, as if scores against different names were independent.
        Where a stranger who resembles one resembles others too, fewer get in.

        Likewise where the best of a name's samples count ("nearest", "top"): a name with more samples than
        the last table, n of them instead of m, is compared as if it were n / m names.

        Args:
            samples: n of the name; between two tables the higher threshold counts, and beyond the last table
                that of the last, for centroids as it is.
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
        last = self.tables[-1].samples
        chances = names * (1 if self.pooling == "centroid" else max(1, samples / last))
        tables = self._tables(samples)
        return [(t, -math.expm1(math.log1p(-(t.far if far is None else far)) / chances)) for t in tables]

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
            f"(95 %: {_percent(t.point.far95[0])} … {_percent(t.point.far95[1])} %), "
            f"FRR {100 * t.point.frr:.1f} % there "
            f"({plural(t.samples, 'sample')}, {t.genuine} genuine + {t.impostor} impostor pairs "
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
                pooling=parts.get("pooling", "centroid"),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"this is no calibration ({error}): calibrate again") from None


def calibrate(
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    scorer: Scorer,
    far: float = 0.01,
    cost: Cost | None = None,
    samples: Sequence[int] = SAMPLES,
    seed: int = 0,
    sources: npt.ArrayLike | None = None,
    pooling: Pooling = "centroid",
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
        pooling: how the scorer takes samples together, which says what more samples than measured do.

    Raises:
        ValueError: if there are too few identities or items, something isn't finite, `far` or `cost` is out
            of range, or genuine pairs don't score higher than impostor pairs.

    Example:
        >>> from quickstudy.recognition.pairs import pooled_scores
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
    _, y = checked(embeddings, labels)
    numbers = fitting(y, samples)
    if not numbers:
        largest = np.sort(np.bincount(y))[-2:]
        raise ValueError(
            f"no two identities have more items than any of samples {list(samples)}: "
            f"the largest have {largest[1]} and {largest[0]}; ask for fewer, or bring more items"
        )
    tables: list[Table] = []
    for n in numbers:  # one after the other, for each may have millions of pairs
        pairs = score_pairs(embeddings, labels, scorer, n, seed, sources)
        if pairs.genuine and pairs.impostor:
            tables.append(_table(pairs, n, far, cost, seed))
    if not tables:
        raise ValueError(
            "no two items of a name come from different sources, or no names do: bring items of more sources"
        )
    warnings = [sentence for t in tables for sentence in _warnings(t)]
    return Calibration(tables[0].far, cost, tuple(tables), tuple(warnings), seed, pooling)


def fitting(labels: npt.NDArray[Any], samples: Sequence[int]) -> list[int]:
    """The numbers of samples than which two identities have more items, ascending; and one."""
    most = np.sort(np.bincount(labels))[-2]
    return sorted(n for n in set(samples) if n == 1 or 1 < n < most)


def _check_far(far: float) -> None:
    if not 0 < far <= 0.5:
        raise ValueError(f"far is {far}: it must be above 0 and at most 0.5; it is a share, 0.01 is 1 %")


def _table(pairs: Pairs, samples: int, far: float, cost: Cost | None, seed: int) -> Table:
    same = pairs.same
    if cost is not None:
        far = _cheapest(pairs.scores, same, cost)
    genuine, impostor = np.sort(pairs.scores[same]), np.sort(pairs.scores[~same])[::-1]
    slope, intercept = _logistic(genuine, impostor)
    resamples, scores = Resamples(pairs.identities[~same], seed), pairs.scores[~same]
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


def _percent(share: float) -> str:
    """In two digits, but for 100."""
    return f"{100 * share:.2g}" if share < 0.995 else "100"


def _warnings(table: Table) -> list[str]:
    samples = plural(table.samples, "sample")
    these = f"{table.impostor} impostor pairs of {table.identities} identities ({samples})"
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
            f"{_percent(low)} … {_percent(high)} %; bring more identities"
        ]
    return []
