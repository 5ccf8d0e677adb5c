"""Calibration: thresholds for a given false-accept rate, measured on development identities.

FAR is the share of impostor pairs that a threshold accepts, FRR the share of genuine pairs that it rejects.
Pairs, scores and letters are those of `pairs.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from quickstudy.core.arrays import Float64Array
from quickstudy.core.wording import plural
from quickstudy.metric.verification import verification
from quickstudy.recognition.gallery.pooling import Pooling
from quickstudy.recognition.pairs import (
    Interval,
    Pairs,
    Resamples,
    Scorer,
    checked,
    jackknife_interval,
    score_pairs,
)

Cost = tuple[float, float, float]
"""Cost of a false accept, cost of a false reject, prior of a genuine pair."""

FARS = tuple(float(f"{m}e-{e}") for e in range(1, 7) for m in (5, 2, 1))
"""FARs for which a table holds a threshold, if there are enough pairs."""
TABLE_SAMPLES = (1, 2, 3, 5, 10)
"""Default numbers of enrolled samples to make tables for."""
EXPECTED = 3
"""Minimum number of accepted impostor pairs for a threshold to be trusted."""
TRIED = 1000
"""Largest number of enrolled samples whose pairs are tried at a threshold."""
FEW = 10
"""Number of identities below which intervals are rough, and a warning says so."""


@dataclass(frozen=True)
class Point:
    """A threshold, and its error rates on the development pairs.

    Args:
        far: FAR that the threshold is for; 0 for the threshold just above every impostor score.
        threshold: Least score that accepts no larger share of the impostor pairs.
        frr: Share of genuine pairs that the threshold rejects, in [0, 1].
        far95: 95 % interval of the FAR at the threshold.
    """

    far: float
    threshold: float
    frr: float
    far95: Interval


@dataclass(frozen=True)
class ThresholdTable:
    """Thresholds for names with a given number of samples.

    Args:
        samples: Number n of samples of a name.
        far: Target FAR.
        points: Thresholds from the highest FAR to 0; all but the last rest on three accepted pairs or more.
        slope: Slope of the logistic function from score to probability, > 0, in 1 / units of the score.
        intercept: Intercept of the logistic function.
        genuine: Number of different genuine pairs.
        impostor: Number of different impostor pairs.
        identities: Number of identities in the pairs.
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
        """Threshold for a FAR, interpolated linearly over the logarithm of the FAR.

        If there are too few pairs for the FAR, it lies just above every impostor score.

        Args:
            far: False-accept rate, in (0, 0.5].
        """
        if not self.supports(far):
            return self.points[-1].threshold
        known = self.points[-2::-1]
        at = np.interp(math.log(far), [math.log(p.far) for p in known], [p.threshold for p in known])
        return float(at)

    def supports(self, far: float) -> bool:
        """Whether there are enough pairs to measure a FAR.

        Args:
            far: False-accept rate, in (0, 0.5].
        """
        return len(self.points) > 1 and far >= self.points[-2].far

    @property
    def point(self) -> Point:
        """Point of the target FAR, or the last one if there are too few pairs for it."""
        return next((p for p in self.points if p.far == self.far), self.points[-1])

    @classmethod
    def from_dict(cls, parts: Mapping[str, Any]) -> "ThresholdTable":
        """Rebuild a table from the dict that `dataclasses.asdict` made of it.

        Args:
            parts: Fields of the table by name.
        """
        points = tuple(Point(**p | {"far95": (p["far95"][0], p["far95"][1])}) for p in parts["points"])
        rest: dict[str, Any] = {name: value for name, value in parts.items() if name != "points"}
        return cls(points=points, **rest)


@dataclass(frozen=True)
class Calibration:
    """Thresholds and probabilities of a scorer, as measured on development identities.

    Args:
        far: Target FAR; that of the first table if a cost was given instead.
        cost: Costs of a false accept and a false reject, prior of a genuine pair; None if a FAR was given.
        tables: Thresholds for each number of samples, ascending.
        warnings: Sentences on what the data are too few for.
        seed: Seed of the random draws.
        pooling: Pooling of a name's samples that the thresholds are for.
    """

    far: float
    cost: Cost | None
    tables: tuple[ThresholdTable, ...]
    warnings: tuple[str, ...] = ()
    seed: int = 0
    pooling: Pooling = "centroid"

    def threshold(self, samples: int = 1, names: int = 1, far: float | None = None) -> float:
        r"""Threshold: the score from which on to accept.

        In identification against M names, the probability f that a stranger is taken for any of them is split
        over the comparisons: each may accept $1 - (1 - f)^{1/M}$, as if scores against different names were
        independent. If a stranger who resembles one name resembles others too, fewer are accepted.

        The same holds if the best of a name's samples count ("nearest", "top"): a name with n samples, more
        than the m of the last table, is treated as n / m names.

        Args:
            samples: Number n of samples of the name; between two tables the higher threshold is taken, and
                beyond the last table that of the last (for centroids unchanged).
            names: Number M of names to identify against; 1 to verify.
            far: False-accept rate f to use instead of the target, in (0, 0.5].

        Returns:
            The threshold, in units of the score.

        Raises:
            ValueError: If an argument is out of range.
        """
        return max(t.threshold(f) for t, f in self._asked(samples, names, far))

    def support(self, samples: int = 1, names: int = 1, far: float | None = None) -> bool:
        """Whether the threshold rests on enough pairs; if not, it lies above all impostor scores measured.

        Args:
            samples: Number of samples of the name, as in `threshold`.
            names: Number of names to identify against; 1 to verify.
            far: False-accept rate to use instead of the target, in (0, 0.5].
        """
        return all(t.supports(f) for t, f in self._asked(samples, names, far))

    def probability(self, scores: npt.ArrayLike, samples: int = 1) -> Float64Array:
        """Probability that pairs are genuine, if genuine and impostor pairs are equally likely a priori.

        Args:
            scores: Scores of any shape.
            samples: Number of samples of the name; between two tables the lower probability is taken.

        Returns:
            Probabilities in (0, 1), in the shape of the scores.
        """
        s = np.asarray(scores, np.float64)
        logits = np.min([t.slope * s + t.intercept for t in self._tables(samples)], axis=0)
        return 0.5 * (1 + np.tanh(logits / 2))  # a logistic function that never overflows

    def _asked(self, samples: int, names: int, far: float | None) -> list[tuple[ThresholdTable, float]]:
        if names < 1:
            raise ValueError(f"names is {names}: it must be at least 1")
        if far is not None:
            _check_far(far)
        last = self.tables[-1].samples
        chances = names * (1 if self.pooling == "centroid" else max(1, samples / last))
        tables = self._tables(samples)
        return [(t, -math.expm1(math.log1p(-(t.far if far is None else far)) / chances)) for t in tables]

    def _tables(self, samples: int) -> list[ThresholdTable]:
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
        """All fields, for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, parts: Mapping[str, Any]) -> "Calibration":
        """Rebuild a calibration from what `as_dict` made of it, also if it was stored as JSON.

        Args:
            parts: Fields of the calibration by name.

        Raises:
            ValueError: If the fields aren't those of a calibration.
        """
        try:
            cost = parts["cost"]
            return cls(
                far=parts["far"],
                cost=None if cost is None else (cost[0], cost[1], cost[2]),
                tables=tuple(ThresholdTable.from_dict(t) for t in parts["tables"]),
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
    samples: Sequence[int] = TABLE_SAMPLES,
    seed: int = 0,
    sources: npt.ArrayLike | None = None,
    pooling: Pooling = "centroid",
) -> Calibration:
    r"""Choose thresholds on items of identities that are in neither the training nor the test data.

    The threshold for a FAR is the least that accepts no larger share of the impostor pairs. With a cost, the
    FAR is the one at which

    $$C_{fr} \cdot \pi \cdot \text{FRR} + C_{fa} \cdot (1 - \pi) \cdot \text{FAR}$$

    is least, for each number of samples. A gallery's own samples can be used as well.

    Args:
        embeddings: Embeddings [I, D].
        labels: Identity of each item, [I]; identities may have unequal numbers of items.
        scorer: Scorer that the thresholds are for, such as `pooled_scores(…)`.
        far: Target false-accept rate, in (0, 0.5].
        cost: Cost of a false accept, cost of a false reject, and prior π of a genuine pair, instead of `far`.
        samples: Numbers of enrolled samples to make a table for; those that fewer than two identities exceed
            are left out.
        seed: Seed of the random choice of enrolled samples, and of the bootstrap.
        sources: Source of each item, [I]; if given, samples and probes come from different sources, as in
            `score_pairs`, and numbers of samples that leave no such probe have no table.
        pooling: Pooling of the scorer; it decides how thresholds extend to more samples than were measured.

    Returns:
        The thresholds, with warnings where the data are too few.

    Raises:
        ValueError: If there are too few identities or items, something isn't finite, `far` or `cost` is out
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
    numbers = usable_samples(y, samples)
    if not numbers:
        largest = np.sort(np.bincount(y))[-2:]
        raise ValueError(
            f"no two identities have more items than any of samples {list(samples)}: "
            f"the largest have {largest[1]} and {largest[0]}; ask for fewer, or bring more items"
        )
    tables: list[ThresholdTable] = []
    for n in numbers:  # one at a time, as each may have millions of pairs
        pairs = score_pairs(embeddings, labels, scorer, n, seed, sources)
        if pairs.genuine and pairs.impostor:
            tables.append(_table(pairs, n, far, cost, seed))
    if not tables:
        raise ValueError(
            "no two items of a name come from different sources, or no names do: bring items of more sources"
        )
    warnings = [sentence for t in tables for sentence in _warnings(t)]
    return Calibration(tables[0].far, cost, tuple(tables), tuple(warnings), seed, pooling)


def refuse_worse(own: Calibration, before: Calibration | None, of: str) -> None:
    """Refuse thresholds that are worse than those they would replace; one rule for all that is calibrated.

    They are worse if they are of too few identities or pairs to measure them at all, or if they are of fewer
    identities than the others and let in more at the same FAR. Where there are none yet all are welcome.

    Args:
        own: Thresholds that were measured.
        before: Thresholds in use; None if there are none.
        of: What they were measured on, for the message, such as "the 24 samples of 8 names in people.db".

    Raises:
        ValueError: If they are worse.
    """
    if before is None:
        return
    first, far = own.tables[0], f"a FAR of {100 * own.far:.3g} %"
    if first.identities < FEW or not first.supports(own.far):
        needed = f", and {math.ceil(EXPECTED / own.far)} pairs of different ones" if own.far else ""
        raise ValueError(
            f"{of} are too few to measure thresholds for {far}: it takes {FEW} names{needed}; bring more, "
            "ask for a "
            "higher FAR, or take them nevertheless by --force (force=True). The thresholds stay as they are"
        )
    others, ours = before.tables[0].identities, own.threshold()
    theirs = before.threshold(far=min(own.far, 0.5))
    if first.identities < others and ours < theirs:
        raise ValueError(
            f"{of} would lower the threshold for {far} from {theirs:.4g}, measured on {others} identities, "
            "to "
            f"{ours:.4g}, on {first.identities}: bring more, or take it by --force (force=True). The "
            "thresholds "
            "stay as they are"
        )


def warning_of_enrolled(
    calibration: Calibration,
    embeddings: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    scorer: Scorer,
    far: float | None = None,
) -> str | None:
    """Whether enrolled names reach each other's threshold more often than strangers were to.

    They do where thresholds were measured on data of another kind, such as other recordings.

    Args:
        calibration: Thresholds in use.
        embeddings: Embeddings [I, D] of the enrolled samples.
        labels: Name of each sample, [I].
        scorer: Scorer that the thresholds are for.
        far: False-accept rate that is asked for instead of the target.

    Returns:
        A sentence, if the lower end of the 95 % interval of the FAR is above what is aimed at; else None.
    """
    if len(labels) > TRIED:
        kept = np.sort(np.random.default_rng(0).choice(len(labels), TRIED, replace=False))
        embeddings, labels = embeddings[kept], labels[kept]
    aimed = far or calibration.far
    if not aimed or len(np.unique(labels)) < 3:
        return None
    first, second = np.triu_indices(len(labels), 1)
    apart = labels[first] != labels[second]
    first, second = first[apart], second[apart]
    hits = scorer(embeddings[:, None], embeddings)[first, second] >= calibration.threshold(far=far)
    low, high = jackknife_interval(hits, np.stack([labels[first], labels[second]], 1))
    if low <= aimed:
        return None
    return (
        f"{_percent(hits.mean())} % of the pairs of different names enrolled here reach the threshold (95 %: "
        f"{_percent(low)} … {_percent(high)} %), where {100 * aimed:.3g} % of strangers are to: it was "
        "measured on "
        "another kind of data, and strangers will be let in; measure it on your own, by quickstudy gallery "
        "calibrate, or calibrate with --images or --audio"
    )


def usable_samples(labels: npt.NDArray[Any], samples: Sequence[int]) -> list[int]:
    """Numbers of samples that at least two identities exceed; 1 is always kept.

    Args:
        labels: Identity of each item as a number ≥ 0, [I].
        samples: Numbers of samples to choose from.

    Returns:
        The usable numbers, ascending.
    """
    most = np.sort(np.bincount(labels))[-2]
    return sorted(n for n in set(samples) if n == 1 or 1 < n < most)


def _check_far(far: float) -> None:
    if not 0 < far <= 0.5:
        raise ValueError(f"far is {far}: it must be above 0 and at most 0.5; it is a share, 0.01 is 1 %")


def _table(pairs: Pairs, samples: int, far: float, cost: Cost | None, seed: int) -> ThresholdTable:
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
    return ThresholdTable(
        samples, far, tuple(points), slope, intercept, pairs.genuine, pairs.impostor, identities
    )


def least_threshold(impostor: Float64Array, far: float) -> float:
    """Least threshold that accepts no more than a share of the impostor scores.

    Args:
        impostor: Scores of impostor pairs, [P], in descending order.
        far: Share to accept at most, in [0, 0.5].

    Returns:
        The threshold, just above the first score to reject.
    """
    allowed = int(np.searchsorted(np.arange(1, len(impostor) + 1) / len(impostor), far, side="right"))
    return float(np.nextafter(impostor[allowed], math.inf))


def _cheapest(scores: Float64Array, same: npt.NDArray[np.bool_], cost: Cost) -> float:
    false_accept, false_reject, prior = cost
    far, tar = verification(scores, same).curve
    return float(far[np.argmin(false_reject * prior * (1 - tar) + false_accept * (1 - prior) * far)])


def _logistic(genuine: Float64Array, impostor: Float64Array) -> tuple[float, float]:
    """Slope and intercept of a logistic regression in which genuine and impostor pairs have equal weight."""
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
    """A share in per cent, to two digits (100 to three)."""
    return f"{100 * share:.2g}" if share < 0.995 else "100"


def _warnings(table: ThresholdTable) -> list[str]:
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
