"""Plots of learned initialisations: the sinusoid experiment."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from quickstudy.core.episode import Episode
from quickstudy.core.scores import mean_ci95
from quickstudy.core.wording import label_text, plural
from quickstudy.training.plots import WRONG, despine


def sinusoid_fits(
    task: Episode,
    truth: torch.Tensor,
    x: torch.Tensor,
    fits: Mapping[str, torch.Tensor],
    steps: Sequence[int],
) -> Figure:
    """A sinusoid, its support points, and the predictions of each method, before and after inner steps.

    Args:
        task: One task, a sinusoid.
        truth: [B] values of the sinusoid at `x`.
        x: [B] points at which curves are drawn.
        fits: [steps, B] predictions at `x`, by name of the method.
        steps: Number of inner steps before each of the predictions.

    Returns:
        The figure, with a panel for each method.
    """
    figure = Figure(figsize=(3.4 * len(fits), 3.4), layout="constrained")
    panels = figure.subplots(1, len(fits), sharex=True, sharey=True, squeeze=False)[0]
    shades = mpl.colormaps["viridis_r"](np.linspace(0.15, 1.0, len(steps)))
    for axes, (name, made) in zip(panels, fits.items(), strict=True):
        axes.plot(x, truth, color=WRONG, lw=2, label="truth")
        for k, y, shade in zip(steps, made, shades, strict=True):
            axes.plot(x, y, color=shade, lw=1.2, ls=":" if k == 0 else "-", label=plural(k, "step"))
        axes.scatter(
            task.support.x[0, :, 0], task.support.y[0, :, 0], color="black", zorder=3, s=22, label="support"
        )
        axes.set(
            title=label_text(name),
            xlabel="x",
            ylim=(-1.6 * float(truth.abs().max()), 1.6 * float(truth.abs().max())),
        )
        despine(axes)
    panels[0].set_ylabel("y")
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def sinusoid_errors(errors: Mapping[str, torch.Tensor]) -> Figure:
    """Mean squared error over tasks, with its 95 % interval, after each number of inner steps.

    The axis ends at ten times the largest error before the first step; a method that diverges leaves it.

    Args:
        errors: [steps + 1, tasks] mean squared errors, by name of the method.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for (name, e), color in zip(errors.items(), mpl.colormaps["tab10"](np.arange(len(errors))), strict=True):
        steps = range(len(e))
        mean, band = torch.tensor([mean_ci95(of_step) for of_step in e]).T
        axes.plot(steps, mean, color=color, marker=".", label=label_text(name))
        axes.fill_between(steps, mean - band, mean + band, color=color, alpha=0.2, lw=0)
    axes.set(title="unseen sinusoids", xlabel="inner steps", ylabel="mean squared error", yscale="log")
    means = torch.stack([e.mean(1) for e in errors.values()])
    axes.set_ylim(0.5 * means[means.isfinite()].min().item(), 10 * means[:, 0].max().item())
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    despine(axes)
    return figure
