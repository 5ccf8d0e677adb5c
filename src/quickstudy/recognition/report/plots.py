"""Pictures of recognition: DET, score histogram, CMC, DIR over FPIR.

The ROC is in `quickstudy.metric.plots`.
"""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from quickstudy.core.arrays import Float64Array
from quickstudy.core.wording import label_text
from quickstudy.metric.verification import Verification
from quickstudy.recognition.pairs import Pairs
from quickstudy.recognition.report.error_rates import Achieved
from quickstudy.recognition.report.identification import Identification, OpenSet
from quickstudy.training.plots import RIGHT, WRONG, despine

GREY = "#8c959f"
BLUE = "#0969da"
DEVIATES = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
"""Error rates of the tick marks on the axes of a DET curve."""


def det(
    curves: Mapping[str, Verification], at: Achieved | None = None, title: str = "unseen identities"
) -> Figure:
    """Plot the detection error trade-off (DET): FRR over FAR, both on axes of normal deviates.

    Normally distributed scores give a straight line; nearer the lower left is better.

    Args:
        curves: Curves by their names in the legend.
        at: Error rates at a threshold, to mark with their 95 % intervals.
        title: Title of the picture.

    Reference: A. Martin, G. Doddington, T. Kamm, M. Ordowski, M. Przybocki: "The DET curve in assessment of
    detection task performance", Eurospeech 1997.
    """
    figure, axes = _axes(title, "FAR, %", "FRR, %", (5, 5.2))
    least = 0.5 / max(min(v.impostor, v.genuine) for v in curves.values())
    least = min(max(least, 0.0005), 0.02)
    most = 0.5
    if at:  # the axes reach as far as the point and its intervals, on either side
        rates = [at.far, *at.far95, at.frr, *at.frr95]
        most = float(np.clip(1.15 * max(r for r in rates if np.isfinite(r)), most, 0.98))
        least = max(min([least, *(0.7 * r for r in (at.far, at.frr) if r > 0)]), 0.0001)
    colors = mpl.colormaps["tab10"](np.arange(len(curves)) % 10)
    for (name, v), color in zip(curves.items(), colors, strict=True):
        far, tar = v.curve
        x = np.geomspace(least, most, 400)  # no more points than can be seen
        y = 1 - tar[np.searchsorted(far, x, side="right") - 1]
        axes.plot(
            _deviates(x, least),
            _deviates(y, least),
            color=color,
            label=label_text(f"{name}, EER {100 * v.eer:.2f} %"),
        )
    if at:
        x, *across = _deviates(np.array((at.far, *at.far95)), least).tolist()
        y, *up = _deviates(np.array((at.frr, *at.frr95)), least).tolist()
        # a rate below what the axes show lies on their edge, where it must not be cut in half
        axes.plot(x, y, "o", color=WRONG, clip_on=False, label="calibrated threshold, 95 % intervals")
        axes.plot(across, [y, y], color=WRONG, clip_on=False)
        axes.plot([x, x], up, color=WRONG, clip_on=False)
    ends = _deviates(np.array([least, most]), least)
    axes.plot(ends, ends, color=GREY, lw=1, ls=":", label="FAR = FRR")
    ticks = [d for d in DEVIATES if least <= d <= most]
    places = _deviates(np.array(ticks), least)
    axes.set_xticks(places, [f"{100 * d:g}" for d in ticks])
    axes.set_yticks(places, [f"{100 * d:g}" for d in ticks])
    axes.set(xlim=ends, ylim=ends)
    _legend_below(figure, axes)
    return figure


def score_histogram(
    pairs: Pairs, thresholds: Mapping[str, float], title: str = "unseen identities"
) -> Figure:
    """Plot histograms of genuine and impostor scores, and thresholds.

    Args:
        pairs: Scored pairs.
        thresholds: Thresholds by their names in the legend.
        title: Title of the picture.
    """
    figure, axes = _axes(title, "score", "share of the pairs of a kind, %", (6.4, 3.8))
    edges = np.linspace(pairs.scores.min(), pairs.scores.max(), 61)
    kinds = ((pairs.same, "genuine", RIGHT), (~pairs.same, "impostor", WRONG))
    for kind, name, color in kinds:
        shares = 100 * np.histogram(pairs.scores[kind], edges)[0] / max(int(kind.sum()), 1)
        axes.stairs(shares, edges, fill=True, color=color, alpha=0.35)
        axes.stairs(shares, edges, color=color, label=f"{int(kind.sum())} {name} pairs")
    for (name, threshold), style in zip(
        thresholds.items(), ("-", "--", "-.", ":") * len(thresholds), strict=False
    ):
        axes.axvline(threshold, color="black", lw=1.2, ls=style, label=label_text(f"{name}: {threshold:.4g}"))
    axes.set_ylim(0, None)
    axes.legend(frameon=False, fontsize=8)
    return figure


def cmc(identification: Identification, title: str = "closed set") -> Figure:
    """Plot the cumulative match characteristic (CMC): share of probes with their own name among the k best.

    Args:
        identification: Figures of closed-set identification.
        title: Title of the picture.
    """
    names = identification.names
    figure, axes = _axes(title, f"rank (of {names} names)", "own name among the best, % of probes", (5, 3.8))
    ranks = np.arange(1, names + 1)
    axes.plot(ranks, 100 * identification.cmc, color=BLUE, marker="." if names <= 50 else None)
    low, high = identification.rank1_95
    first = 100 * identification.rank1
    label = f"rank 1: {first:.1f} %, 95 %: {100 * low:.1f} … {100 * high:.1f}"
    ends = [[first - 100 * low], [100 * high - first]]
    axes.errorbar(1, first, ends, fmt="o", color=BLUE, capsize=3, clip_on=False, label=label)
    axes.plot(ranks, 100 * ranks / names, color=GREY, lw=1, ls=":", label="chance")
    if names > 50:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xticks(ranks[:: 1 + names // 12])
    axes.set_ylim(min(60.0, 100 * low - 5) if low > 0.5 else 0, 101)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def dir_fpir(open_set: OpenSet, threshold: float | None = None, title: str = "open set") -> Figure:
    """Plot DIR over FPIR, on a logarithmic axis down to half of one unknown probe.

    Args:
        open_set: Figures of open-set identification.
        threshold: Threshold to mark; None for no mark.
        title: Title of the picture.
    """
    figure, axes = _axes(
        title, "FPIR, %: strangers taken for a name", "DIR, %: known and rightly named", (5.5, 4.6)
    )
    fpir, dir_, _ = open_set.curve
    least = min(0.01, 0.5 / open_set.unknown)
    x = np.geomspace(least, 1, 500)
    y = dir_[np.searchsorted(fpir, x, side="right") - 1]
    axes.plot(100 * x, 100 * y, color=RIGHT, drawstyle="steps-post")
    for f, share in open_set.dir.items():
        axes.plot(100 * f, 100 * share, "o", color=RIGHT, label=f"{100 * share:.1f} % at FPIR {100 * f:g} %")
    if threshold is not None:
        share, f = open_set.at(threshold)
        axes.plot(100 * max(f, least), 100 * share, "D", color=WRONG, clip_on=False,
                  label=f"calibrated: {100 * share:.1f} % at FPIR {100 * f:.2g} %")  # fmt: skip
    axes.set(xscale="log", xlim=(100 * least, 100), ylim=(-2, 102))
    axes.xaxis.set_major_formatter("{x:g}")
    _legend_below(figure, axes)
    return figure


def _legend_below(figure: Figure, axes: Axes) -> None:
    """A legend outside the axes: a curve may go anywhere within."""
    figure.legend(
        *axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=2
    )


def _axes(title: str, x: str, y: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(title=label_text(title), xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    despine(axes)
    return figure, axes


def _deviates(rates: Float64Array, least: float) -> Float64Array:
    """Quantiles of the normal distribution; rates outside the axes are drawn on their edge."""
    return ndtri(np.clip(rates, least, 1 - least))
