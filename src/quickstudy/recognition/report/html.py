"""The page of a report, in HTML: `page.html` beside this file, filled in with figures."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from quickstudy.core.wording import plural
from quickstudy.core.wording import shown as shown_text
from quickstudy.recognition.calibration import least_threshold
from quickstudy.recognition.pairs import shown
from quickstudy.recognition.report.error_rates import achieved

if TYPE_CHECKING:
    from quickstudy.recognition.report.report import RecognitionReport

NAMES = (1, 10, 100, 1000, 10_000)
"""Sizes of a gallery for which the page states thresholds."""


class HtmlTable(NamedTuple):
    """A table of the page.

    Attributes:
        columns: Headings of the columns; if empty, the table has none.
        rows: Texts of the cells, row by row.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def is_report(path: Path) -> bool:
    """Whether a file is a page that was written here, which the next may replace.

    Args:
        path: Path of a file.
    """
    with path.open("rb") as f:
        return b'<meta name="generator" content="quickstudy">' in f.read(2000)


def page(report: "RecognitionReport", figures: Mapping[str, Figure]) -> str:
    """Render the report as one self-contained HTML file; names are escaped.

    Args:
        report: Figures to show.
        figures: Pictures by title.

    Returns:
        The HTML text.
    """
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.finalize = _seen
    environment.filters |= {"per_cent": _per_cent, "ends": _ends}
    return environment.get_template("page.html").render(
        r=report,
        plural=plural,
        facts=HtmlTable((), list(report.facts.items())),
        names=_names(report),
        verification=_verification(report),
        calibration=_calibration(report),
        identification=_identification(report),
        groups=_groups(report),
        pictures={name: _picture(figure) for name, figure in figures.items()},
    )


def _names(r: "RecognitionReport") -> HtmlTable:
    """Thresholds for galleries of several sizes."""
    c = r.calibration
    rows = [
        (
            f"{names:,}",
            f"{c.threshold(r.samples, names):.4g}",
            "yes" if c.support(r.samples, names) else "no: above every impostor score seen",
        )
        for names in NAMES
    ]
    return HtmlTable(("names", "threshold", "enough pairs behind it"), rows)


def _verification(r: "RecognitionReport") -> HtmlTable:
    v, pairs = r.verification, r.pairs
    impostor = np.sort(pairs.scores[~pairs.same])[::-1]
    asked = {f"FAR {100 * far:g} %, set on the test itself": least_threshold(impostor, far) for far in v.tar}
    at = {"calibrated": r.achieved} | {
        name: achieved(pairs.scores, pairs.identities, threshold)
        for name, threshold in {"equal error": v.threshold, **asked}.items()
    }
    rows = [
        (name, f"{a.threshold:.4g}", shown(a.far, a.far95), shown(a.frr, a.frr95)) for name, a in at.items()
    ]
    return HtmlTable(("threshold", "score", "FAR (95 %)", "FRR (95 %)"), rows)


def _calibration(r: "RecognitionReport") -> HtmlTable:
    rows = [
        (
            str(t.samples),
            f"{t.point.threshold:.4g}",
            shown(t.far, t.point.far95),
            _per_cent(t.point.frr),
            f"{t.genuine:,} + {t.impostor:,}",
            str(t.identities),
        )
        for t in r.calibration.tables
    ]
    columns = (
        "samples",
        "threshold",
        "FAR aimed at (95 %)",
        "FRR",
        "genuine + impostor pairs",
        "identities",
    )
    return HtmlTable(columns, rows)


def _identification(r: "RecognitionReport") -> HtmlTable:
    rows = [
        (
            f"{d.ways} names, {plural(d.shots, 'sample')} each{', sources apart' if d.cross_source else ''}",
            f"{100 * d.accuracy:.2f} ± {100 * d.ci95:.2f} %",
            f"{d.draws} draws",
        )
        for d in r.draws
    ]
    if c := r.closed:
        rows.append((f"closed set, rank 1 of {c.names}", shown(c.rank1, c.rank1_95), f"{c.probes:,} probes"))
    if o := r.open:
        behind = f"{o.known:,} known + {o.unknown:,} unknown probes, {o.names} names"
        for fpir, share in o.dir.items():
            rows.append((f"open set, DIR at FPIR {100 * fpir:g} %", _per_cent(share), behind))
        share, fpir = o.at(r.calibration.threshold(r.samples, o.names))
        right = f"DIR {_per_cent(share)} at FPIR {_per_cent(fpir)}"
        rows.append((f"open set, calibrated for {o.names} names", right, behind))
    return HtmlTable(("task", "right", "over"), rows)


def _groups(r: "RecognitionReport") -> HtmlTable:
    rows = [
        (
            group,
            shown(a.far, a.far95),
            shown(a.frr, a.frr95),
            f"{a.genuine:,} + {a.impostor:,}",
            str(a.identities),
        )
        for group, a in r.groups.items()
    ]
    columns = ("group", "FAR within it (95 %)", "FRR (95 %)", "genuine + impostor pairs", "identities")
    return HtmlTable(columns, rows)


def _seen(value: object) -> object:
    """What is put into the page, with what can't be seen as escapes."""
    return shown_text(value, keep="\n") if type(value) is str else value


def _picture(figure: Figure) -> str:
    """A PNG as base64."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    return base64.b64encode(png.getvalue()).decode()


def _per_cent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _ends(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.2f} … {100 * interval[1]:.2f} %"
