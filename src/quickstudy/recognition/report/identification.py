"""Rates of closed-set and open-set identification, with confidence intervals.

Probes [B] are compared with M enrolled names; the higher a score, the likelier a probe is of the name. Other
terms and letters are those of `recognition/calibration.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from quickstudy.core.arrays import Float64Array, IntArray
from quickstudy.core.scores import mean_ci95
from quickstudy.recognition.pairs import Interval, Scorer, draw_enrollment, share_interval, shown

FPIRS = (0.01, 0.1)
"""False-positive identification rates that are usually reported."""


@dataclass(frozen=True)
class Identification:
    """Closed-set identification: every probe is of an enrolled name.

    Args:
        rank1: Share of probes for which their own name has strictly the highest score.
        rank1_95: 95 % interval of the rank-1 share over identities, as in `share_interval`.
        cmc: Share of probes for which their own name is among the k best, for k = 1 … M, [M].
        probes: Number B of probes.
        names: Number M of enrolled names.
    """

    rank1: float
    rank1_95: Interval
    cmc: Float64Array = field(repr=False, compare=False)
    probes: int
    names: int

    def __str__(self) -> str:
        """`rank 1 97.00 % (94.10 … 99.20), rank 5 99.50 % (10 names, 900 probes)`."""
        fifth = f", rank 5 {100 * self.cmc[4]:.2f} %" if self.names > 5 else ""
        return f"rank 1 {shown(self.rank1, self.rank1_95)}{fifth} ({self.names} names, {self.probes} probes)"

    def as_dict(self) -> dict[str, Any]:
        """All fields but the curve, for a manifest or a log."""
        return {name: value for name, value in vars(self).items() if name != "cmc"}


def closed_set(
    scores: npt.ArrayLike, labels: npt.ArrayLike, names: npt.ArrayLike | None = None
) -> Identification:
    """Rank-1 identification and the cumulative match characteristic.

    The rank of a probe's own name is 1 + the number of other names that score as high or higher: a tie is
    an error.

    Args:
        scores: Scores of probes against names, [B, M].
        labels: Identity of each probe, [B].
        names: Identity of each column, [M]; by default 0 … M − 1.

    Returns:
        The rank-1 share and the CMC curve.

    Raises:
        ValueError: If a probe is of no enrolled name, names repeat, shapes differ or a score isn't finite.

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
    """Open-set identification: some probes are of no enrolled name.

    DIR is the share of known probes for which their own name is best and reaches the threshold; FPIR is the
    share of unknown probes for which any name reaches the threshold.

    Args:
        dir: DIR by FPIR.
        curve: FPIR [L], DIR [L] and threshold [L], from the highest threshold to the lowest.
        known: Number of known probes.
        unknown: Number of unknown probes.
        names: Number M of enrolled names.
    """

    dir: dict[float, float]
    curve: tuple[Float64Array, Float64Array, Float64Array] = field(repr=False, compare=False)
    known: int
    unknown: int
    names: int

    def at(self, threshold: float) -> tuple[float, float]:
        """DIR and FPIR at a threshold.

        Args:
            threshold: Score from which on a name is accepted.
        """
        fpir, dir_, thresholds = self.curve
        i = int((thresholds >= threshold).sum()) - 1
        return float(dir_[i]), float(fpir[i])

    def __str__(self) -> str:
        """`DIR 90.00 % at FPIR 1 %, 95.00 % at FPIR 10 % (10 names, 90 known + 100 unknown probes)`."""
        rates = ", ".join(f"{100 * d:.2f} % at FPIR {100 * f:g} %" for f, d in self.dir.items())
        return f"DIR {rates} ({self.names} names, {self.known} known + {self.unknown} unknown probes)"

    def as_dict(self) -> dict[str, Any]:
        """All fields but the curve, for a manifest or a log; FPIRs as texts such as "0.01"."""
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
        scores: Scores of probes against names, [B, M].
        labels: Identity of each probe, [B]; −1, or any that is not among the names, for unknown ones.
        fpirs: FPIRs to report the DIR at, each in [0, 1].
        names: Identity of each column, [M]; by default 0 … M − 1.

    Returns:
        The DIR at each FPIR, and the whole curve.

    Raises:
        ValueError: If there is no known or no unknown probe, an FPIR is out of range, or as in `closed_set`.

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
    dir_ = _at_least(hits, thresholds) / len(known)
    fpir = _at_least(stranger, thresholds) / len(stranger)
    at = {f: float(dir_[np.searchsorted(fpir, f, side="right") - 1]) for f in fpirs}
    return OpenSet(at, (fpir, dir_, thresholds), len(known), len(stranger), s.shape[1])


def _at_least(scores: Float64Array, thresholds: Float64Array) -> Float64Array:
    """Number of scores at or above each threshold."""
    return (len(scores) - np.searchsorted(np.sort(scores), thresholds)).astype(np.float64)


def _own(
    scores: npt.ArrayLike, labels: npt.ArrayLike, names: npt.ArrayLike | None
) -> tuple[Float64Array, IntArray]:
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


@dataclass(frozen=True)
class RepeatedIdentification:
    """Accuracy of identification from few samples, averaged over random enrollments.

    Args:
        accuracy: Mean accuracy over the draws, in [0, 1].
        ci95: Half-width of the 95 % interval of the mean, as in `mean_ci95`: over random draws from these
            identities, not over other identities.
        ways: Number of names enrolled in each draw; the largest, if it depends on the source drawn.
        shots: Number of samples enrolled of each name.
        draws: Number of draws.
        seed: Seed of the draws.
        cross_source: Whether probes were of other sources than the enrolled samples.
    """

    accuracy: float
    ci95: float
    ways: int
    shots: int
    draws: int
    seed: int
    cross_source: bool = False

    def __str__(self) -> str:
        """`97.91 ± 0.28 % (10-way 1-shot, 100 draws, seed 0)`."""
        cross_source = ", sources apart" if self.cross_source else ""
        return (
            f"{100 * self.accuracy:.2f} ± {100 * self.ci95:.2f} % "
            f"({self.ways}-way {self.shots}-shot{cross_source}, {self.draws} draws, seed {self.seed})"
        )

    def as_dict(self) -> dict[str, Any]:
        """All fields, for a manifest or a log."""
        return dict(vars(self))


def enrollable(
    labels: npt.ArrayLike, shots: int, sources: npt.ArrayLike | None = None
) -> npt.NDArray[np.bool_]:
    """Which names have enough items to enroll and to leave a probe.

    Args:
        labels: Identity of each item, [I].
        shots: Number of samples to enroll of each name.
        sources: Source of each item, [I]; if given, probes are of one source, enrolled samples of others.

    Returns:
        Whether a name can be enrolled, [K, sources], names sorted, for each source that the probes may be of;
        one column if no sources are given.
    """
    names, y = np.unique(labels, return_inverse=True)
    found, of = np.unique(np.zeros_like(y) if sources is None else sources, return_inverse=True)
    items = np.bincount(y * len(found) + of, minlength=len(names) * len(found)).reshape(len(names), -1)
    total = items.sum(1, keepdims=True)
    return total > shots if sources is None else (items > 0) & (total - items >= shots)


def enrollment_draws(
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    scorer: Scorer,
    shots: int,
    draws: int = 100,
    seed: int = 0,
    ways: int | None = None,
    sources: npt.ArrayLike | None = None,
) -> RepeatedIdentification:
    """Identification from few enrolled samples, averaged over random draws.

    In each draw some samples of each name are enrolled, and all other items of these names are probes. With
    sources, one source is drawn: its items are the probes, and samples of other sources are enrolled. A tie
    is an error.

    Args:
        embeddings: Embeddings [I, D].
        labels: Identity of each item, [I].
        scorer: Scorer of probes against names, such as `pooled_scores(…)`.
        shots: Number of samples to enroll of each name.
        draws: Number of draws, at least 2.
        seed: Seed of the draws.
        ways: Number of names to draw each time; by default all names with enough items.
        sources: Source of each item, [I], such as the speaker of a word.

    Returns:
        The mean accuracy, with its interval.

    Raises:
        ValueError: If fewer names than `ways`, or than two, have enough items; or as in `calibrate`.

    Example:
        >>> from quickstudy.recognition.pairs import pooled_scores
        >>> z = np.eye(3)[[0, 0, 1, 1, 2, 2]]
        >>> print(enrollment_draws(z, [0, 0, 1, 1, 2, 2], pooled_scores("cosine"), 1, draws=5))
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
            enrolled, tried = draw_enrollment(y[there], chosen, shots, rng)
            enrolled, tried = there[enrolled], there[tried]
        else:
            others, tried = there[of[there] != source], there[of[there] == source]
            enrolled = others[draw_enrollment(y[others], chosen, shots, rng)[0]]
        scores = np.asarray(scorer(x[enrolled], x[tried]))
        mine = np.take_along_axis(scores, np.searchsorted(chosen, y[tried])[:, None], 1)
        right[i] = ((scores >= mine).sum(1) == 1).mean()
    names_enrolled = int(fit.sum(0)[asked].max()) if ways is None else ways
    accuracy, half = mean_ci95(torch.from_numpy(right))
    return RepeatedIdentification(accuracy, half, names_enrolled, shots, draws, seed, sources is not None)
