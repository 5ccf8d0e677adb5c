"""How well people, voices or words are verified and identified: the figures of the field, with intervals.

Probes [B] are compared with M enrolled names; scores are higher the likelier a probe is of the name. The
other words and letters are those of `calibration.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from quickstudy.recognition.pairs import Floats, Index, Interval, Scorer, draw_enrolment, share_interval
from quickstudy.roc import verification

FPIRS = (0.01, 0.1)
"""False-positive identification rates that the field reports."""


def shown(share: float, interval: Interval) -> str:
    """`1.20 % (0.60 … 2.10)` of shares, a dash of what there was nothing to count for."""
    if np.isnan(share):
        return "–"
    return f"{100 * share:.2f} % ({100 * interval[0]:.2f} … {100 * interval[1]:.2f})"


@dataclass(frozen=True)
class Identification:
    """Closed-set identification: every probe is of an enrolled name.

    Args:
        rank1: share of probes whose own name scores strictly highest.
        rank1_95: its 95 % interval over identities, as in `share_interval`.
        cmc: [M] share of probes whose own name is among the k best, for k = 1 … M.
        probes: B.
        names: M.
    """

    rank1: float
    rank1_95: Interval
    cmc: Floats = field(repr=False, compare=False)
    probes: int
    names: int

    def __str__(self) -> str:
        """`rank 1 97.00 % (94.10 … 99.20), rank 5 99.50 % (10 names, 900 probes)`."""
        fifth = f", rank 5 {100 * self.cmc[4]:.2f} %" if self.names > 5 else ""
        return f"rank 1 {shown(self.rank1, self.rank1_95)}{fifth} ({self.names} names, {self.probes} probes)"

    def as_dict(self) -> dict[str, Any]:
        """For a manifest or a log: all but the curve."""
        return {name: value for name, value in vars(self).items() if name != "cmc"}


def closed_set(
    scores: npt.ArrayLike, labels: npt.ArrayLike, names: npt.ArrayLike | None = None
) -> Identification:
    """Rank-1 identification and the cumulative match characteristic.

    The rank of a probe's own name is 1 + the number of other names that score as high or higher: a tie is
    an error.

    Args:
        scores: [B, M].
        labels: [B] whose each probe is.
        names: [M] whose each column is; 0 … M − 1 by default.

    Raises:
        ValueError: if a probe is of no enrolled name, names repeat, shapes differ or a score isn't finite.

    Example:
        >>> print(closed_set([[0.9, 0.1], [0.8, 0.7], [0.1, 0.2]], [0, 1, 1]))
        rank 1 66.67 % (50.00 … 100.00) (2 names, 3 probes)

    Reference: P. J. Phillips, P. Grother, R. Micheals: "Evaluation methods in face recognition", in Handbook
    of Face Recognition, 2nd ed., 2011.
    """
    s, own = _own(scores, labels, names)
    if (own < 0).any():
        at = int(np.flatnonzero(own < 0)[0])
        raise ValueError(
            f"probe {at} is of no enrolled name: closed-set identification has none; use open_set"
        )
    ranks = (s >= np.take_along_axis(s, own[:, None], 1)).sum(1)
    cmc = np.cumsum(np.bincount(ranks, minlength=s.shape[1] + 1)[1:]) / len(s)
    interval = share_interval(ranks == 1, np.stack([own, own], 1))
    return Identification(float(cmc[0]), interval, cmc, *s.shape)


@dataclass(frozen=True)
class OpenSet:
    """Open-set identification: some probes are of nobody enrolled.

    DIR is the share of known probes whose own name is best and scores the threshold or more; FPIR that of
    unknown probes that any name scores the threshold or more for.

    Args:
        dir: DIR by FPIR.
        curve: FPIR [L], DIR [L] and threshold [L], from the highest threshold to the lowest.
        known: number of known probes.
        unknown: number of unknown probes.
        names: M.
    """

    dir: dict[float, float]
    curve: tuple[Floats, Floats, Floats] = field(repr=False, compare=False)
    known: int
    unknown: int
    names: int

    def at(self, threshold: float) -> tuple[float, float]:
        """DIR and FPIR at a threshold."""
        fpir, dir_, thresholds = self.curve
        i = int((thresholds >= threshold).sum()) - 1
        return float(dir_[i]), float(fpir[i])

    def __str__(self) -> str:
        """`DIR 90.00 % at FPIR 1 %, 95.00 % at FPIR 10 % (10 names, 90 known + 100 unknown probes)`."""
        rates = ", ".join(f"{100 * d:.2f} % at FPIR {100 * f:g} %" for f, d in self.dir.items())
        return f"DIR {rates} ({self.names} names, {self.known} known + {self.unknown} unknown probes)"

    def as_dict(self) -> dict[str, Any]:
        """For a manifest or a log: all but the curve, what is by FPIR under names such as "0.01"."""
        parts = {name: value for name, value in vars(self).items() if name != "curve"}
        return parts | {"dir": {f"{fpir:g}": share for fpir, share in self.dir.items()}}


def open_set(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    fpirs: Sequence[float] = FPIRS,
    names: npt.ArrayLike | None = None,
) -> OpenSet:
    """Detection and identification rate at false-positive identification rates.

    DIR at an FPIR is the largest at thresholds with at most this FPIR, never interpolated.

    Args:
        scores: [B, M].
        labels: [B] whose each probe is; −1, or another that is not among the names, for unknown ones.
        fpirs: each in [0, 1].
        names: [M] whose each column is; 0 … M − 1 by default.

    Raises:
        ValueError: if there is no known or no unknown probe, an FPIR is out of range, or as in `closed_set`.

    Example:
        >>> print(open_set([[0.9, 0.1], [0.3, 0.7], [0.1, 0.5]], [0, 1, -1], [0.01]))
        DIR 100.00 % at FPIR 1 % (2 names, 2 known + 1 unknown probes)

    Reference: Phillips et al. 2011, as in `closed_set`; ISO/IEC 19795-1.
    """
    s, own = _own(scores, labels, names)
    wrong = [fpir for fpir in fpirs if not 0 <= fpir <= 1]
    if wrong:
        raise ValueError(f"FPIR {wrong[0]} is not in [0, 1]: it is a share, 0.01 is 1 %")
    known, stranger = s[own >= 0], s[own < 0].max(1)
    if not len(known) or not len(stranger):
        raise ValueError(
            f"there are {len(known)} known and {len(stranger)} unknown probes: it takes some of each"
        )
    mine = np.take_along_axis(known, own[own >= 0][:, None], 1)
    hits = mine[(known >= mine).sum(1) == 1, 0]
    thresholds = np.concatenate([[np.inf], np.unique(np.concatenate([hits, stranger]))[::-1]])
    dir_, fpir = (
        _at_least(kind, thresholds) / n for kind, n in ((hits, len(known)), (stranger, len(stranger)))
    )
    at = {f: float(dir_[np.searchsorted(fpir, f, side="right") - 1]) for f in fpirs}
    return OpenSet(at, (fpir, dir_, thresholds), len(known), len(stranger), s.shape[1])


def _at_least(scores: Floats, thresholds: Floats) -> Floats:
    """How many of the scores lie at each threshold or above."""
    return (len(scores) - np.searchsorted(np.sort(scores), thresholds)).astype(np.float64)


def _own(scores: npt.ArrayLike, labels: npt.ArrayLike, names: npt.ArrayLike | None) -> tuple[Floats, Index]:
    """Scores, and the column of each probe's own name, or −1."""
    s, y = np.asarray(scores, np.float64), np.asarray(labels)
    columns = np.arange(s.shape[-1]) if names is None else np.asarray(names)
    if s.ndim != 2 or y.shape != s.shape[:1] or columns.shape != s.shape[1:] or not s.size:
        raise ValueError(
            f"scores have shape {list(s.shape)}, labels {list(y.shape)}, names {list(columns.shape)}: "
            "they must be [B, M], [B] and [M]"
        )
    if not np.isfinite(s).all():
        at = np.argwhere(~np.isfinite(s))[0]
        raise ValueError(f"the score of probe {at[0]} for name {at[1]} is {s[*at]}: scores must be finite")
    order = np.argsort(columns)
    ordered = columns[order]
    if (ordered[1:] == ordered[:-1]).any():
        twice = ordered[1:][ordered[1:] == ordered[:-1]][0]
        raise ValueError(f"two columns are named {twice}: pool the samples of a name first")
    place = np.minimum(np.searchsorted(ordered, y), len(columns) - 1)
    return s, np.where(ordered[place] == y, order[place], -1)


def min_dcf(
    scores: npt.ArrayLike,
    genuine: npt.ArrayLike,
    prior: float = 0.01,
    false_accept: float = 1.0,
    false_reject: float = 1.0,
) -> float:
    r"""Least detection cost over all thresholds, 1 being that of always answering the same.

    $$\min_t \frac{C_{fr} \pi \, \text{FRR}(t) + C_{fa} (1 - \pi) \, \text{FAR}(t)}
                  {\min(C_{fr} \pi, \, C_{fa} (1 - \pi))}$$

    Args:
        scores: [P].
        genuine: [P] true or 1 where a pair is.
        prior: π of a genuine pair, in (0, 1).
        false_accept: its cost, > 0.
        false_reject: its cost, > 0.

    Raises:
        ValueError: if a cost or the prior is out of range, or as in `verification`.

    Example:
        >>> min_dcf([4.0, 2.0, 3.0, 1.0], [1, 1, 0, 0])
        0.5

    Reference: NIST Speaker Recognition Evaluation plans, 2008 to 2016.
    """
    if not (0 < prior < 1 and min(false_accept, false_reject) > 0):
        raise ValueError(
            f"prior is {prior}, costs {false_accept} and {false_reject}: the prior must be between 0 and 1, "
            "costs positive"
        )
    far, tar = verification(scores, genuine).curve
    reject, accept = false_reject * prior, false_accept * (1 - prior)
    return float((reject * (1 - tar) + accept * far).min() / min(reject, accept))


@dataclass(frozen=True)
class Achieved:
    """What a threshold set beforehand does to pairs of other identities.

    Args:
        threshold: from which pairs are accepted.
        far: share of impostor pairs accepted; NaN if there are none.
        far95: its 95 % interval over identities, as in `share_interval`.
        frr: share of genuine pairs rejected; NaN if there are none.
        frr95: its 95 % interval.
        genuine: number of genuine pairs.
        impostor: number of impostor pairs.
        identities: K.
    """

    threshold: float
    far: float
    far95: Interval
    frr: float
    frr95: Interval
    genuine: int
    impostor: int
    identities: int

    def __str__(self) -> str:
        """`FAR 1.20 % (0.60 … 2.10), FRR 4.00 % (2.00 … 7.00) at -0.8123 (450 genuine + 4500 …)`."""
        return (
            f"FAR {shown(self.far, self.far95)}, FRR {shown(self.frr, self.frr95)} at {self.threshold:.4g} "
            f"({self.genuine} genuine + {self.impostor} impostor pairs of {self.identities} identities)"
        )

    def as_dict(self) -> dict[str, Any]:
        """For a manifest or a log; rates of no pairs are left out."""
        return {name: value for name, value in vars(self).items() if not np.isnan(value).any()}


def achieved(scores: npt.ArrayLike, identities: npt.ArrayLike, threshold: float, seed: int = 0) -> Achieved:
    """FAR and FRR at a threshold that was set elsewhere.

    Args:
        scores: [P], such as those of `score_pairs`.
        identities: [P, 2] integers ≥ 0, of the two sides of a pair; it is genuine where they are the same.
        threshold: a pair is accepted from it on.
        seed: of the bootstrap.

    Raises:
        ValueError: if shapes differ, or a score or the threshold isn't a number.

    Example:
        >>> a = achieved([0.9, 0.2, 0.8, 0.1], [[0, 0], [1, 1], [0, 1], [0, 2]], 0.5)
        >>> a.far, a.frr
        (0.5, 0.5)
    """
    s, pairs = np.asarray(scores, np.float64), np.asarray(identities)
    if s.ndim != 1 or pairs.shape != (len(s), 2) or not len(s):
        raise ValueError(
            f"scores have shape {list(s.shape)}, identities {list(pairs.shape)}: they must be [P] and [P, 2]"
        )
    if np.isnan(s).any() or np.isnan(threshold):
        raise ValueError("scores and threshold must be numbers: look for what blew up in the encoder")
    same = pairs[:, 0] == pairs[:, 1]
    far, far95 = _share(s[~same] >= threshold, pairs[~same], seed)
    frr, frr95 = _share(s[same] < threshold, pairs[same], seed)
    genuine = int(same.sum())
    return Achieved(
        float(threshold), far, far95, frr, frr95, genuine, len(s) - genuine, len(np.unique(pairs))
    )


def _share(hits: npt.NDArray[np.bool_], pairs: npt.NDArray[Any], seed: int) -> tuple[float, Interval]:
    if not len(hits):
        return np.nan, (np.nan, np.nan)
    return float(hits.mean()), share_interval(hits, pairs, seed)


def per_group(
    scores: npt.ArrayLike, identities: npt.ArrayLike, threshold: float, groups: Sequence[str]
) -> dict[str, Achieved]:
    """FAR and FRR of each group of identities: impostor pairs are within the group, which are the hardest.

    Args:
        scores: [P].
        identities: [P, 2] in 0 … K − 1.
        threshold: as in `achieved`.
        groups: [K] the group of each identity; where it is empty, the identity is left out.
    """
    s, pairs, of = np.asarray(scores), np.asarray(identities), np.asarray(groups)
    if pairs.size and int(pairs.max()) >= len(of):
        raise ValueError(f"identity {pairs.max()} has no group: groups are of {len(of)} identities")
    found: dict[str, Achieved] = {}
    for group in sorted({g for g in groups if g}):
        within = (of[pairs] == group).all(1)
        if within.any():
            found[group] = achieved(s[within], pairs[within], threshold)
    return found


@dataclass(frozen=True)
class View2:
    """Accuracy on folds of pairs, each with a threshold from other folds.

    Args:
        accuracies: [folds tested] in [0, 1].
        thresholds: [folds tested].
        mean: of the accuracies.
        error: standard error of the mean, s / √folds; NaN of a single fold.
    """

    accuracies: Floats
    thresholds: Floats
    mean: float
    error: float

    def __str__(self) -> str:
        """`87.50 ± 0.48 % (10 folds, mean ± standard error)`."""
        spread = f" ± {100 * self.error:.2f}" if len(self.accuracies) > 1 else ""
        return f"{100 * self.mean:.2f}{spread} % ({len(self.accuracies)} folds, mean ± standard error)"

    def as_dict(self) -> dict[str, Any]:
        """For a manifest or a log."""
        lists = {"accuracies": self.accuracies.tolist(), "thresholds": self.thresholds.tolist()}
        return lists | {"mean": self.mean, "error": self.error}


def lfw_view2(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    tuned_on: Sequence[int] = (),
    tested_on: Sequence[int] = (),
) -> View2:
    """Accuracy as on View 2 of Labeled Faces in the Wild.

    The threshold of a fold is the one with the greatest accuracy on all other folds, or on those of
    `tuned_on`; of equally good ones the highest, midway between two scores.

    Args:
        scores: [F, P] in LFW [10, 600].
        same: [F, P] true or 1 where both pictures are of one person.
        tuned_on: folds that the threshold is chosen on; by default all but the one tested.
        tested_on: folds; by default all but those of `tuned_on`.

    Raises:
        ValueError: if shapes differ, or a fold would be tuned and tested on.

    Reference: G. B. Huang, M. Ramesh, T. Berg, E. Learned-Miller: "Labeled Faces in the Wild", University of
    Massachusetts, Amherst, technical report 07-49, 2007.
    """
    s, genuine = np.asarray(scores, np.float64), np.asarray(same, bool)
    if s.ndim != 2 or s.shape != genuine.shape or len(s) < 2:
        raise ValueError(
            f"scores have shape {list(s.shape)}, same {list(genuine.shape)}: both must be [F, P], F ≥ 2"
        )
    folds = list(tested_on) or [f for f in range(len(s)) if f not in tuned_on]
    if set(folds) & set(tuned_on) or not all(0 <= f < len(s) for f in [*folds, *tuned_on]) or not folds:
        raise ValueError(
            f"folds {list(tuned_on)} tune and {folds} test: they must differ, and be of 0 … {len(s) - 1}"
        )
    thresholds = np.empty(len(folds))
    for i, fold in enumerate(folds):
        tuning = list(tuned_on) or [f for f in range(len(s)) if f != fold]
        thresholds[i] = _most_accurate(s[tuning].ravel(), genuine[tuning].ravel())
    right = ((s[folds] >= thresholds[:, None]) == genuine[folds]).mean(1)
    error = right.std(ddof=1) / len(folds) ** 0.5 if len(folds) > 1 else np.nan
    return View2(right, thresholds, float(right.mean()), float(error))


def _most_accurate(scores: Floats, genuine: npt.NDArray[np.bool_]) -> float:
    order = np.argsort(-scores, kind="stable")
    s = scores[order]
    right = np.cumsum(np.where(genuine[order], 1, -1))  # beyond those of accepting nothing
    ends = np.flatnonzero(np.append(s[1:] < s[:-1], True))  # a tie is accepted or rejected as one
    best = int(ends[np.argmax(right[ends])])
    if right[best] <= 0:
        return float(np.nextafter(s[0], np.inf))
    return float((s[best] + s[best + 1]) / 2 if best + 1 < len(s) else s[best])


@dataclass(frozen=True)
class Draws:
    """Accuracy of identification from few samples, averaged over random enrolments.

    Args:
        accuracy: mean over the draws, in [0, 1].
        ci95: half-width of its 95 % interval, 1.96 · s / √draws: over what is drawn of these identities. That
            others would do as well, it doesn't say.
        ways: names enrolled in each; the most of any, where sources don't have the same names.
        shots: samples of each name.
        draws: how many.
        seed: of the draws.
        apart: whether probes were of another source than what was enrolled.
    """

    accuracy: float
    ci95: float
    ways: int
    shots: int
    draws: int
    seed: int
    apart: bool = False

    def __str__(self) -> str:
        """`97.91 ± 0.28 % (10-way 1-shot, 100 draws, seed 0)`."""
        apart = ", sources apart" * self.apart
        return (
            f"{100 * self.accuracy:.2f} ± {100 * self.ci95:.2f} % "
            f"({self.ways}-way {self.shots}-shot{apart}, {self.draws} draws, seed {self.seed})"
        )

    def as_dict(self) -> dict[str, Any]:
        """For a manifest or a log."""
        return dict(vars(self))


def enrollable(
    labels: npt.ArrayLike, shots: int, sources: npt.ArrayLike | None = None
) -> npt.NDArray[np.bool_]:
    """Which names have items enough for so many shots and a probe.

    Args:
        labels: [I] whose each item is.
        shots: samples of each name.
        sources: [I] if the probes shall be of one source, and what is enrolled of others.

    Returns:
        [K, sources] for each name, in order, and each source that the probes may be of; one column without.
    """
    names, y = np.unique(labels, return_inverse=True)
    found, of = np.unique(np.zeros_like(y) if sources is None else sources, return_inverse=True)
    items = np.bincount(y * len(found) + of, minlength=len(names) * len(found)).reshape(len(names), -1)
    total = items.sum(1, keepdims=True)
    return total > shots if sources is None else (items > 0) & (total - items >= shots)


def enrolment_draws(
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    scorer: Scorer,
    shots: int,
    draws: int = 100,
    seed: int = 0,
    ways: int | None = None,
    sources: npt.ArrayLike | None = None,
) -> Draws:
    """Identify from so many enrolled samples, over and over with others.

    In each draw so many samples of each name are enrolled, and all other items of these names are probes.
    With sources, one source is drawn, its items are the probes, and what is enrolled is of others. A tie is
    an error.

    Args:
        embeddings: [I, D].
        labels: [I] whose each item is.
        scorer: such as `pooled_scores(…)`.
        shots: samples of each name.
        draws: how many.
        seed: of the draws.
        ways: names, drawn anew each time; all that have items enough by default.
        sources: [I] such as the speaker of a word.

    Raises:
        ValueError: if there are fewer names with items enough than ways, or than two; or as in `calibrate`.

    Example:
        >>> from quickstudy.recognition.pairs import pooled_scores
        >>> z = np.eye(3)[[0, 0, 1, 1, 2, 2]]
        >>> print(enrolment_draws(z, [0, 0, 1, 1, 2, 2], pooled_scores("cosine"), 1, draws=5))
        100.00 ± 0.00 % (3-way 1-shot, 5 draws, seed 0)
    """
    x, names = np.asarray(embeddings), np.asarray(labels)
    of = np.zeros(len(names), np.int64) if sources is None else np.unique(sources, return_inverse=True)[1]
    if x.ndim != 2 or names.shape != x.shape[:1] or of.shape != names.shape:
        raise ValueError(
            f"embeddings have shape {list(x.shape)}, labels {list(names.shape)}, sources {list(of.shape)}: "
            "they must be [I, D], [I] and [I]"
        )
    if shots < 1 or draws < 2:
        raise ValueError(f"shots is {shots} and draws {draws}: they must be at least 1 and 2")
    y = np.unique(names, return_inverse=True)[1]
    fit, least = enrollable(names, shots, sources), max(ways or 2, 2)
    asked = np.flatnonzero(fit.sum(0) >= least)
    if not len(asked):
        raise ValueError(
            f"{int(fit.sum(0).max())} of {len(fit)} names have items enough for {shots} shots and a probe: "
            f"{least} must; ask for fewer shots or ways"
        )
    rng = np.random.default_rng(seed)
    right = np.empty(draws)
    for i in range(draws):
        source = int(rng.choice(asked))
        able = np.flatnonzero(fit[:, source])
        chosen = able if ways is None else np.sort(rng.permutation(able)[:ways])
        there = np.flatnonzero(np.isin(y, chosen))
        if sources is None:
            enrolled, tried = draw_enrolment(y[there], chosen, shots, rng)
            enrolled, tried = there[enrolled], there[tried]
        else:
            others, tried = there[of[there] != source], there[of[there] == source]
            enrolled = others[draw_enrolment(y[others], chosen, shots, rng)[0]]
        scores = np.asarray(scorer(x[enrolled], x[tried]))
        mine = np.take_along_axis(scores, np.searchsorted(chosen, y[tried])[:, None], 1)
        right[i] = ((scores >= mine).sum(1) == 1).mean()
    half = 1.96 * float(right.std(ddof=1)) / draws**0.5
    names_enrolled = int(fit.sum(0)[asked].max()) if ways is None else ways
    return Draws(float(right.mean()), half, names_enrolled, shots, draws, seed, sources is not None)
