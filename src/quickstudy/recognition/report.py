"""One page about a recogniser: what its threshold means, how well it does, and what the data can't tell."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from quickstudy.checkpoint import write_whole
from quickstudy.plots import roc
from quickstudy.recognition import plots
from quickstudy.recognition.calibration import Calibration, least_threshold
from quickstudy.recognition.identification import (
    Draws,
    Identification,
    OpenSet,
    closed_set,
    enrollable,
    enrolment_draws,
    open_set,
)
from quickstudy.recognition.pairs import Floats, Index, Pairs, Scorer, draw_enrolment, score_pairs, shown
from quickstudy.recognition.verification import Achieved, achieved, min_dcf, per_group
from quickstudy.roc import Verification, verification

REPEATS = 20
"""Random enrolments behind the closed-set and open-set figures."""
NAMES = (1, 10, 100, 1000, 10_000)
"""Sizes of a gallery for which the page states thresholds."""


@dataclass(frozen=True)
class RecognitionReport:
    """All figures of a recogniser on identities that neither training nor calibration has seen.

    Args:
        title: of the page.
        facts: what was measured and with what, by name.
        calibration: done beforehand, on other identities.
        pairs: of the test identities.
        verification: of the pairs.
        achieved: at the calibrated threshold.
        min_dcf: least detection cost at a prior of 1 %.
        samples: enrolled samples of a name, in all figures but `draws`.
        closed: closed-set identification; None where no two identities have items enough, as below.
        open: open-set identification.
        draws: identification by numbers of enrolled samples.
        groups: FAR and FRR of groups of identities.
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
    draws: tuple[Draws, ...] = ()
    groups: Mapping[str, Achieved] = field(default_factory=dict[str, Achieved])

    @property
    def aim(self) -> float:
        """The FAR that was aimed at."""
        at = (t.far for t in self.calibration.tables if t.samples == self.samples)
        return next(at, self.calibration.far)

    @property
    def kept(self) -> bool:
        """Whether it lies within the interval of the one achieved."""
        low, high = self.achieved.far95
        return low <= self.aim <= high

    def _drift(self) -> str:
        """How the FAR achieved compares with the one aimed at: both have been measured on some identities."""
        if self.kept:
            return "lies within this interval."
        before = [t.point.far95 for t in self.calibration.tables if t.samples == self.samples]
        low, high = self.achieved.far95
        if before and low <= before[0][1] and before[0][0] <= high:
            return (
                "lies outside this interval, but by the development identities it was known as "
                f"{_ends(before[0])} only, and the two intervals meet: few identities explain it."
            )
        return (
            "<strong>lies outside this interval, and more than chance explains: these identities aren't like "
            "those of the calibration; calibrate on samples of your own.</strong>"
        )

    def as_dict(self) -> dict[str, Any]:
        """All figures, for a log; the scores are left out."""
        parts: dict[str, Any] = {"title": self.title, "facts": dict(self.facts), "samples": self.samples}
        parts |= {"calibration": self.calibration.as_dict(), "min_dcf": self.min_dcf}
        for name in ("verification", "achieved", "closed", "open"):
            figures = getattr(self, name)
            parts[name] = figures.as_dict() if figures else None
        parts["draws"] = [d.as_dict() for d in self.draws]
        parts["groups"] = {group: a.as_dict() for group, a in self.groups.items()}
        return parts

    def __str__(self) -> str:
        """The figures, a line each."""
        lines = [f"pairs: {self.verification}, minDCF {self.min_dcf:.3f}", f"calibrated: {self.achieved}"]
        lines += [f"closed set: {self.closed}"] if self.closed else []
        lines += [f"open set: {self.open}"] if self.open else []
        lines += [f"identified: {draws}" for draws in self.draws]
        lines += [f"{group}: {achieved}" for group, achieved in self.groups.items()]
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """The pictures, by what they show."""
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
        """Write the page, one HTML file that needs nothing else, whole or not at all.

        Raises:
            OSError: if it can't be written.
        """
        sections = [
            _facts(self.facts),
            _warnings(self.calibration.warnings),
            self._meaning(),
            self._verification(),
            self._thresholds(),
            self._identification(),
            self._groups(),
            "<h2>Pictures</h2>" + "".join(_picture(name, f) for name, f in self.figures().items()),
        ]
        page = PAGE.substitute(title=escape(self.title), body="\n".join(sections))
        write_whole(Path(path), page.encode())

    def _meaning(self) -> str:
        a, c = self.achieved, self.calibration
        s = "s" * (self.samples > 1)
        aim = f"{_per_cent(self.aim)} of strangers' attempts to be accepted"
        if c.cost:
            aim = f"the least cost, at which it is {aim}"
        drift = f"The rate aimed at {self._drift()}"
        rows = [
            (
                f"{names:,}",
                f"{c.threshold(self.samples, names):.4g}",
                "yes" if c.support(self.samples, names) else "no: above every impostor score seen",
            )
            for names in NAMES
        ]
        return (
            "<h2>What the threshold means</h2>"
            f"<p>Against {self.samples} enrolled sample{s} of a name, a sample is accepted if it scores "
            f"<strong>{a.threshold:.4g}</strong> or more. This threshold was set for {aim}. On "
            "identities that neither training nor calibration has seen, "
            f"<strong>{_per_cent(a.far)}</strong> of strangers' attempts were accepted (95 % interval "
            f"{_ends(a.far95)}), and <strong>{_per_cent(a.frr)}</strong> of rightful attempts were rejected "
            f"({_ends(a.frr95)}). {drift}</p>"
            "<p>A higher threshold lets fewer strangers in and turns more of the rightful away. To find out "
            "which of many names a sample is of, it must be higher, as a stranger gets a chance with each "
            "name.</p>" + _table(("names", "threshold", "enough pairs behind it"), rows)
        )

    def _verification(self) -> str:
        v, pairs = self.verification, self.pairs
        impostor = np.sort(pairs.scores[~pairs.same])[::-1]
        asked = {
            f"FAR {100 * far:g} %, set on the test itself": least_threshold(impostor, far) for far in v.tar
        }
        at = {"calibrated": self.achieved} | {
            name: achieved(pairs.scores, pairs.identities, threshold)
            for name, threshold in {"equal error": v.threshold, **asked}.items()
        }
        rows = [
            (name, f"{a.threshold:.4g}", shown(a.far, a.far95), shown(a.frr, a.frr95))
            for name, a in at.items()
        ]
        return (
            "<h2>Verification</h2>"
            f"<p>EER {_per_cent(v.eer)}, AUC {v.auc:.4f}, least detection cost (prior 1 %) "
            f"{self.min_dcf:.3f}; {pairs.genuine:,} genuine and {pairs.impostor:,} impostor pairs of "
            f"{self.achieved.identities} identities. Intervals are 95 %, over identities drawn anew.</p>"
            + _table(("threshold", "score", "FAR (95 %)", "FRR (95 %)"), rows)
        )

    def _thresholds(self) -> str:
        rows = [
            (
                str(t.samples),
                f"{t.point.threshold:.4g}",
                shown(t.far, t.point.far95),
                _per_cent(t.point.frr),
                f"{t.genuine:,} + {t.impostor:,}",
                str(t.identities),
            )
            for t in self.calibration.tables
        ]
        columns = (
            "samples",
            "threshold",
            "FAR aimed at (95 %)",
            "FRR",
            "genuine + impostor pairs",
            "identities",
        )
        return (
            "<h2>Calibration</h2><p>On development identities, which are not those of the test.</p>"
            + _table(columns, rows)
        )

    def _identification(self) -> str:
        rows = [
            (f"{d.ways} names, {d.shots} sample{'s' * (d.shots > 1)} each" + ", sources apart" * d.apart,
             f"{100 * d.accuracy:.2f} ± {100 * d.ci95:.2f} %", f"{d.draws} draws")
            for d in self.draws
        ]  # fmt: skip
        if self.closed:
            c = self.closed
            rows.append(
                (f"closed set, rank 1 of {c.names}", shown(c.rank1, c.rank1_95), f"{c.probes:,} probes")
            )
        if self.open:
            o = self.open
            behind = f"{o.known:,} known + {o.unknown:,} unknown probes, {o.names} names"
            for fpir, share in o.dir.items():
                rows.append((f"open set, DIR at FPIR {100 * fpir:g} %", _per_cent(share), behind))
            share, fpir = o.at(self.calibration.threshold(self.samples, o.names))
            rows.append(
                (
                    f"open set, calibrated for {o.names} names",
                    f"DIR {_per_cent(share)} at FPIR {_per_cent(fpir)}",
                    behind,
                )
            )
        return "<h2>Identification</h2>" + _table(("task", "right", "over"), rows) if rows else ""

    def _groups(self) -> str:
        rows = [
            (
                group,
                shown(a.far, a.far95),
                shown(a.frr, a.frr95),
                f"{a.genuine:,} + {a.impostor:,}",
                str(a.identities),
            )
            for group, a in self.groups.items()
        ]
        columns = ("group", "FAR within it (95 %)", "FRR (95 %)", "genuine + impostor pairs", "identities")
        return "<h2>Groups</h2>" + _table(columns, rows) if rows else ""


def recognition_report(
    title: str,
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    scorer: Scorer,
    calibration: Calibration,
    *,
    facts: Mapping[str, str] | None = None,
    samples: int = 1,
    shots: Sequence[int] = (1, 5),
    ways: int | None = None,
    draws: int = 100,
    sources: npt.ArrayLike | None = None,
    apart: bool = False,
    groups: Mapping[Any, str] | None = None,
    seed: int = 0,
) -> RecognitionReport:
    """Measure a recogniser on identities that neither training nor calibration has seen.

    Args:
        title: of the page.
        embeddings: [I, D] of the test items.
        labels: [I] whose each item is.
        scorer: the one calibrated.
        calibration: of other identities.
        facts: what was measured and with what, by name; shown first.
        samples: enrolled samples of a name, for the pairs, the closed and the open set.
        shots: enrolled samples for which identification is averaged over draws, as far as there are items.
        ways: names in each of these draws; all by default.
        draws: how many.
        sources: [I] if probes and enrolled samples of these draws shall be of different sources.
        apart: those of the pairs too, as where they were so for the calibration.
        groups: of labels; those that have none are in no group.
        seed: of all draws.

    Raises:
        ValueError: as in `calibrate`.
    """
    x, names = np.asarray(embeddings), np.asarray(labels)
    apart &= sources is not None
    pairs = score_pairs(x, names, scorer, samples, seed, sources if apart else None)
    at = achieved(pairs.scores, pairs.identities, calibration.threshold(samples), seed)
    found, y = np.unique(names, return_inverse=True)
    rng = np.random.default_rng(seed)
    large = np.flatnonzero(np.bincount(y) > samples)
    closed = open_ = None
    if len(large) >= 2:
        closed = closed_set(*_identified(x, y, scorer, samples, large, len(large), rng, unknown=False))
    if len(large) >= 4:
        open_ = open_set(*_identified(x, y, scorer, samples, large, len(large) // 2, rng, unknown=True))
    averaged: list[Draws] = []
    for n in shots:
        if enrollable(names, n, sources).sum(0).max() >= max(ways or 2, 2):
            averaged.append(enrolment_draws(x, names, scorer, n, draws, seed, ways, sources))
    by_group = per_group(
        pairs.scores, pairs.identities, at.threshold, [groups.get(n, "") for n in found.tolist()]
    ) if groups else {}  # fmt: skip
    return RecognitionReport(
        title=title,
        facts=dict(facts or {}) | ({"pairs": "of different sources only"} if apart else {}),
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
    )


def _identified(
    x: npt.NDArray[Any],
    y: Index,
    scorer: Scorer,
    samples: int,
    large: Index,
    names: int,
    rng: np.random.Generator,
    unknown: bool,
) -> tuple[Floats, Index]:
    """Scores [B, M] and columns [B] of the probes of random enrolments; −1 for what isn't enrolled."""
    scores: list[npt.NDArray[Any]] = []
    columns: list[Index] = []
    for _ in range(REPEATS):
        chosen = np.sort(rng.permutation(large)[:names])
        enrolled, tried = draw_enrolment(y, chosen, samples, rng)
        known = np.isin(y[tried], chosen)
        if not unknown:
            tried, known = tried[known], known[known]
        scores.append(np.asarray(scorer(x[enrolled], x[tried])))
        columns.append(np.where(known, np.searchsorted(chosen, y[tried]), -1))
    return np.concatenate(scores), np.concatenate(columns)


def _per_cent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _ends(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.2f} … {100 * interval[1]:.2f} %"


def _facts(facts: Mapping[str, str]) -> str:
    return _table((), list(facts.items())) if facts else ""


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(w)}</li>" for w in warnings)
    return f'<div class="warning"><strong>What the data can\'t tell</strong><ul>{items}</ul></div>'


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>{f"<tr>{head}</tr>" if head else ""}{body}</table></div>'


def _picture(name: str, figure: Figure) -> str:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    inline = base64.b64encode(png.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{inline}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )


PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark;
        --text: #1f2328; --back: #ffffff; --line: #d1d9e0; --soft: #f6f8fa; --warn: #fff8c5; }
@media (prefers-color-scheme: dark) {
  :root { --text: #f0f6fc; --back: #0d1117; --line: #3d444d; --soft: #151b23; --warn: #3a2d04; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
       max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .8rem; border: 1px solid var(--line); vertical-align: top; }
th { background: var(--soft); }
.warning { background: var(--warn); border: 1px solid var(--line); border-radius: 6px; padding: .7rem 1rem; }
figure { margin: 1.5rem 0; }
figcaption { font-size: .9rem; }
img { max-width: 100%; width: 40rem; height: auto; background: #ffffff; border-radius: 6px; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")
