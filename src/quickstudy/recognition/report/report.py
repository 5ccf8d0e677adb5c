"""Report on a recognizer: what its threshold means, its error rates, and what the data are too few for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from quickstudy.core.arrays import Float64Array, IntArray
from quickstudy.core.files import write_whole
from quickstudy.metric.plots import roc
from quickstudy.metric.verification import Verification, verification
from quickstudy.recognition.calibration import Calibration
from quickstudy.recognition.pairs import Pairs, Scorer, draw_enrollment, score_pairs
from quickstudy.recognition.report import html, plots
from quickstudy.recognition.report.error_rates import Achieved, achieved, min_dcf, per_group
from quickstudy.recognition.report.identification import (
    Identification,
    OpenSet,
    RepeatedIdentification,
    closed_set,
    enrollable,
    enrollment_draws,
    open_set,
)

REPEATS = 20
"""Number of random enrollments for the closed-set and open-set figures."""


@dataclass(frozen=True)
class RecognitionReport:
    """All figures of a recognizer on identities that are in neither the training nor the calibration data.

    Args:
        title: Title of the page.
        facts: Facts about model, data and measurement, by name.
        calibration: Calibration on other identities.
        pairs: Scored pairs of the test identities.
        verification: ROC figures of the pairs.
        achieved: Error rates at the calibrated threshold.
        min_dcf: Minimum detection cost at a prior of 1 %.
        samples: Number of enrolled samples of a name, in all figures but `draws`.
        closed: Closed-set identification; None if fewer than two identities have enough items.
        open: Open-set identification; None if fewer than four identities have enough items.
        draws: Identification accuracy for several numbers of enrolled samples.
        groups: Error rates of groups of identities, by group.
        met: Sentences on what training or calibration has met of the test data, or that it isn't known; none
            if it was checked that they share nothing; None if nobody checked.
    """

    title: str
    facts: Mapping[str, str]
    calibration: Calibration
    pairs: Pairs = field(repr=False)
    verification: Verification
    achieved: Achieved
    min_dcf: float
    samples: int = 1
    closed: Identification | None = None
    open: OpenSet | None = None
    draws: tuple[RepeatedIdentification, ...] = ()
    groups: Mapping[str, Achieved] = field(default_factory=dict[str, Achieved])
    met: tuple[str, ...] | None = None

    @property
    def aim(self) -> float:
        """Target FAR of the calibration."""
        at = (t.far for t in self.calibration.tables if t.samples == self.samples)
        return next(at, self.calibration.far)

    @property
    def kept(self) -> bool:
        """Whether the target FAR lies within the interval of the FAR achieved."""
        low, high = self.achieved.far95
        return low <= self.aim <= high

    @property
    def known95(self) -> tuple[float, float] | None:
        """95 % interval of the target FAR on the calibration's identities; None if not measured."""
        return next((t.point.far95 for t in self.calibration.tables if t.samples == self.samples), None)

    @property
    def chance(self) -> bool:
        """Whether chance explains the difference between the target FAR and the FAR achieved.

        Both are measured on a limited number of identities, so it does if their intervals overlap.
        """
        low, high = self.achieved.far95
        return self.known95 is not None and low <= self.known95[1] and self.known95[0] <= high

    def as_dict(self) -> dict[str, Any]:
        """All figures but the scores, for a log."""
        parts: dict[str, Any] = {"title": self.title, "facts": dict(self.facts), "samples": self.samples}
        parts |= {"calibration": self.calibration.as_dict(), "min_dcf": self.min_dcf}
        for name in ("verification", "achieved", "closed", "open"):
            figures = getattr(self, name)
            parts[name] = figures.as_dict() if figures else None
        parts["met"] = None if self.met is None else list(self.met)
        parts["draws"] = [d.as_dict() for d in self.draws]
        parts["groups"] = {group: a.as_dict() for group, a in self.groups.items()}
        return parts

    def __str__(self) -> str:
        """The figures, one a line, and what was met of the test data before."""
        lines = [f"not unseen: {sentence}" for sentence in self.met or ()]
        lines += [f"pairs: {self.verification}, minDCF {self.min_dcf:.3f}", f"calibrated: {self.achieved}"]
        lines += [f"closed set: {self.closed}"] if self.closed else []
        lines += [f"open set: {self.open}"] if self.open else []
        lines += [f"identified: {draws}" for draws in self.draws]
        lines += [f"{group}: {achieved}" for group, achieved in self.groups.items()]
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """The pictures by title."""
        threshold = self.achieved.threshold
        at_eer = self.verification.threshold
        made = {
            "How genuine and impostor scores are spread": plots.score_histogram(
                self.pairs, {"calibrated": threshold, "equal error": at_eer}
            ),
            "False rejects over false accepts (DET)": plots.det({"test": self.verification}, self.achieved),
            "True accepts over false accepts (ROC)": roc(self.verification, "unseen identities"),
        }
        if self.closed:
            made["Own name among the best (CMC)"] = plots.cmc(self.closed)
        if self.open:
            made["Known and named over strangers taken for a name"] = plots.dir_fpir(
                self.open, self.calibration.threshold(self.samples, self.open.names)
            )
        return made

    def save(self, path: str | Path) -> None:
        """Write the page as one self-contained HTML file, whole or not at all.

        Args:
            path: Path of the file.

        Raises:
            OSError: If it can't be written.
        """
        write_whole(Path(path), html.page(self, self.figures()).encode())


def recognition_report(
    title: str,
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    scorer: Scorer,
    calibration: Calibration,
    *,
    facts: Mapping[str, str] | None = None,
    met: tuple[str, ...] | None = None,
    samples: int = 1,
    shots: Sequence[int] = (1, 5),
    ways: int | None = None,
    draws: int = 100,
    sources: npt.ArrayLike | None = None,
    cross_source: bool = False,
    groups: Mapping[Any, str] | None = None,
    seed: int = 0,
) -> RecognitionReport:
    """Measure a recognizer on identities that are in neither the training nor the calibration data.

    Args:
        title: Title of the page.
        embeddings: Embeddings of the test items, [I, D].
        labels: Identity of each item, [I].
        scorer: Scorer that was calibrated.
        calibration: Calibration on other identities.
        facts: Facts about model, data and measurement, by name, shown first.
        met: Sentences on what training or calibration has met of the test data, as in `RecognitionReport`.
        samples: Number of enrolled samples of a name, for the pairs, the closed and the open set.
        shots: Numbers of enrolled samples to average identification for over draws; those with too few items
            are left out.
        ways: Number of names in each of these draws; by default all.
        draws: Number of these draws.
        sources: Source of each item, [I]; if given, probes of these draws are of other sources than enrolled
            samples.
        cross_source: Whether this holds for the pairs too, as it should if it did in the calibration.
        groups: Group of each label; labels without one are in no group.
        seed: Seed of all random draws.

    Returns:
        The report.

    Raises:
        ValueError: As in `calibrate`.
    """
    x, names = np.asarray(embeddings), np.asarray(labels)
    cross_source &= sources is not None
    pairs = score_pairs(x, names, scorer, samples, seed, sources if cross_source else None)
    at = achieved(pairs.scores, pairs.identities, calibration.threshold(samples), seed)
    found, y = np.unique(names, return_inverse=True)
    rng = np.random.default_rng(seed)
    large = np.flatnonzero(np.bincount(y) > samples)
    closed = open_ = None
    if len(large) >= 2:
        closed = closed_set(*_identified(x, y, scorer, samples, large, len(large), rng, unknown=False))
    if len(large) >= 4:
        open_ = open_set(*_identified(x, y, scorer, samples, large, len(large) // 2, rng, unknown=True))
    averaged: list[RepeatedIdentification] = []
    for n in shots:
        if enrollable(names, n, sources).sum(0).max() >= max(ways or 2, 2):
            averaged.append(enrollment_draws(x, names, scorer, n, draws, seed, ways, sources))
    by_group = per_group(
        pairs.scores, pairs.identities, at.threshold, [groups.get(n, "") for n in found.tolist()]
    ) if groups else {}  # fmt: skip
    return RecognitionReport(
        title=title,
        facts=dict(facts or {}) | ({"pairs": "of different sources only"} if cross_source else {}),
        calibration=calibration,
        pairs=pairs,
        verification=verification(pairs.scores, pairs.same),
        achieved=at,
        min_dcf=min_dcf(pairs.scores, pairs.same),
        samples=samples,
        closed=closed,
        open=open_,
        draws=tuple(averaged),
        groups=by_group,
        met=met,
    )


def _identified(
    x: npt.NDArray[Any],
    y: IntArray,
    scorer: Scorer,
    samples: int,
    large: IntArray,
    names: int,
    rng: np.random.Generator,
    unknown: bool,
) -> tuple[Float64Array, IntArray]:
    """Scores [B, M] and own columns [B] of the probes of random enrollments; −1 for unknown probes."""
    scores: list[npt.NDArray[Any]] = []
    columns: list[IntArray] = []
    for _ in range(REPEATS):
        chosen = np.sort(rng.permutation(large)[:names])
        enrolled, tried = draw_enrollment(y, chosen, samples, rng)
        known = np.isin(y[tried], chosen)
        if not unknown:
            tried, known = tried[known], known[known]
        scores.append(np.asarray(scorer(x[enrolled], x[tried])))
        columns.append(np.where(known, np.searchsorted(chosen, y[tried]), -1))
    return np.concatenate(scores), np.concatenate(columns)
