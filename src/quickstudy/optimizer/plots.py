"""Plots of races between update rules."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from quickstudy.core.wording import label_text
from quickstudy.optimizer.race import Curve
from quickstudy.training.plots import despine


def race_curves(curves: Sequence[Curve], title: str, held_out: bool = False) -> Figure:
    """Losses of update rules by step and by time: the mean over problems, and a band.

    The band holds the middle 80 % of the problems. Learned rules are drawn thick, tuned baselines thin.

    Args:
        curves: Results of `race`.
        title: Title of the figure.
        held_out: Draw the losses on held-out data instead of the training data.

    Returns:
        The figure, with a panel over steps and one over seconds.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    colors = mpl.colormaps["tab10"](np.arange(len(curves)) % 10)
    lowest = last = float("inf")
    for curve, color in zip(curves, colors, strict=True):
        losses = curve.judged(held_out).numpy()
        mean, (low, high) = losses.mean(1), np.quantile(losses, [0.1, 0.9], axis=1)
        lowest, last = min(lowest, 0.8 * low.min()), min(last, mean[-1])
        rate = "" if curve.lr is None else f" (α = {curve.lr:.2g})"
        style = {"lw": 2.4, "zorder": 3} if curve.lr is None else {"lw": 1.2}
        for axes, unit in zip(panels, (1.0, curve.seconds), strict=True):
            x = unit * np.arange(len(losses))
            axes.plot(x, mean, color=color, label=label_text(curve.name + rate), **style)
            axes.fill_between(x, low, high, color=color, alpha=0.1, lw=0)
    first = np.concatenate([c.losses[0].numpy() for c in curves])
    panels[0].set(
        xlabel="steps", ylabel="held-out loss" if held_out else "loss", yscale="log", title=label_text(title)
    )
    panels[0].set_ylim(max(lowest, last / 20), 3 * float(first.mean()))  # rules that diverge leave the axis
    panels[1].set(
        xlabel=f"seconds for {curves[0].losses.shape[1]} problems side by side", title="by the clock"
    )
    panels[1].set_xlim(
        0, max(c.seconds for c in curves if c.lr is None or len(curves) == 1) * (len(curves[0].losses) - 1)
    )
    for axes in panels:
        axes.grid(alpha=0.3)
        despine(axes)
    panels[1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
