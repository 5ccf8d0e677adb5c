"""Plots of metric learners: embeddings, refinement by unlabelled items, ROC curves."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from torch import nn

from quickstudy.core.learner import embed, embed_together, evaluation_mode
from quickstudy.core.wording import label_text
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import LabelFraction, Setting
from quickstudy.metric.distances import prototypes
from quickstudy.metric.semi_supervised import SemiPrototypical
from quickstudy.metric.verification import Verification
from quickstudy.training.plots import RIGHT, WRONG, despine

EMBEDDED_WAYS = 10
"""Classes in the plot of embeddings: more colours are hard to tell apart."""


@torch.no_grad()
def embedding(encoder: nn.Module, classes: ClassPool, seed: int = 0) -> Figure:
    """Embeddings of ten classes and their prototypes, on the first two principal components.

    Args:
        encoder: The trained encoder, from items [B, ...] to embeddings [B, D].
        classes: Test classes.
        seed: Seed of the draw of classes and items.

    Returns:
        The figure.
    """
    items = int(min(20, classes.counts.min()))
    ways = min(EMBEDDED_WAYS, len(classes))
    setting = Setting(ways, items - 1, 1)
    support = Episodes(classes, setting, 1, seed)[0].support
    with evaluation_mode(encoder):
        z = embed(encoder, support.x)
    centres = prototypes(z, support.y, ways)[0].numpy()
    pca = PCA(2).fit(z[0].numpy())
    points, middles = pca.transform(z[0].numpy()), pca.transform(centres)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    colors = mpl.colormaps["tab10"](np.arange(ways) % 10)
    axes.scatter(points[:, 0], points[:, 1], c=colors[support.y[0].numpy()], s=14, alpha=0.6, lw=0)
    axes.scatter(
        middles[:, 0], middles[:, 1], c=colors, s=160, marker="*", edgecolors="black", label="prototypes"
    )
    share = 100 * pca.explained_variance_ratio_
    axes.set(
        title=f"{ways} unseen classes, {len(points)} items",
        xlabel=f"first principal component ({share[0]:.0f} % of the variance)",
        ylabel=f"second ({share[1]:.0f} %)",
    )
    axes.legend(frameon=False)
    despine(axes)
    return figure


@torch.no_grad()
def refinement(
    learner: SemiPrototypical,
    classes: ClassPool,
    setting: Setting,
    seed: int = 0,
    labels: LabelFraction | None = None,
) -> Figure:
    """Prototypes before and after refinement by unlabelled items, on two principal components.

    With distractors there are two panels of the same task: without them, and with them.

    Args:
        learner: The trained learner.
        classes: Test classes.
        setting: Shape of the task, with unlabelled items.
        seed: Seed of the task.
        labels: Which items of the classes are labelled.

    Returns:
        The figure.
    """
    episodes = Episodes(classes, setting, 1, seed, labels=labels)
    size = episodes.size(0)
    support, by_class = episodes[0].support, episodes.unlabelled_y(0)[0].argsort(stable=True)
    with evaluation_mode(learner):
        shots, others = embed_together(learner.encoder, support.x, support.unlabelled[:, by_class])
    own = size.ways * setting.unlabelled
    before = prototypes(shots, support.y, size.ways)
    pca = PCA(2).fit(torch.cat([shots[0], others[0]]).numpy())
    items = pca.transform(others[0].numpy())
    start = pca.transform(before[0].numpy())
    panels = {"without distractors": own, "with distractors": others.shape[1]}
    if not setting.distractors:
        panels = {f"{size.ways} unseen classes": own}
    colors = mpl.colormaps["tab10"](np.arange(size.ways) % 10)
    figure = Figure(figsize=(4.6 * len(panels), 4.4), layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (title, count) in zip(drawn, panels.items(), strict=True):
        after = learner.refined(shots, support.y, support.ways, others[:, :count])
        end = pca.transform(after[0].numpy())
        of_class = colors.repeat(setting.unlabelled, 0)
        axes.scatter(*items[:own].T, c=of_class, s=22, alpha=0.6, lw=0, label="unlabelled items")
        if count > own:
            axes.scatter(*items[own:].T, color="#8c959f", marker="x", s=22, lw=1, label="distractors")
        for way, color in zip(np.stack([start, end], 1), colors, strict=True):
            axes.plot(*way.T, color=color, lw=1.5, zorder=2)
        axes.scatter(*start.T, c="white", edgecolors=colors, lw=1.5, s=70, zorder=3, label="before")
        axes.scatter(*end.T, c=colors, edgecolors="black", s=170, marker="*", zorder=4, label="after")
        axes.set(title=label_text(title), xlabel="first principal component", xticks=[], yticks=[])
        despine(axes)
    drawn[0].set_ylabel("second")
    handles, names = drawn[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def plot_roc(verification: Verification, path: str | Path, title: str = "pairs of unseen classes") -> Figure:
    """Write the plot that `roc` draws to a file.

    Args:
        verification: Verification figures and their curve.
        path: Path of the image to write, such as `roc.png`.
        title: Title of the plot.

    Returns:
        The figure.
    """
    figure = roc(verification, title)
    figure.savefig(path, dpi=150)
    return figure


def roc(verification: Verification, title: str = "pairs of unseen classes") -> Figure:
    """ROC curve: TAR over FAR, on a logarithmic axis down to half of one impostor pair, with the EER marked.

    Args:
        verification: Verification figures and their curve.
        title: Title of the plot.

    Returns:
        The figure.
    """
    far, tar = verification.curve
    least = min(0.01, 0.5 / verification.impostor)
    even = np.geomspace(least, 1, 500)  # segments of the curve are not straight on a logarithmic axis
    x, y = even, np.interp(even, far, tar)
    if len(far) < 1000:  # draw the corners of the curve exactly, unless there are too many to see
        x, y = np.concatenate([far, x]), np.concatenate([tar, y])
    order = np.lexsort((y, x))
    shown = order[x[order] >= least]
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(100 * x[shown], 100 * y[shown], color=RIGHT, label=f"AUC {verification.auc:.4f}")
    axes.plot(100 * even, 100 * even, color="#8c959f", lw=1, ls=":", label="chance")
    axes.plot(
        100 * max(verification.eer, least),
        100 * (1 - verification.eer),
        "o",
        color=WRONG,
        clip_on=False,
        label=f"EER {100 * verification.eer:.2f} %",
    )
    axes.set(title=label_text(title), xlabel="FAR, %", ylabel="TAR, %", xscale="log", xlim=(100 * least, 100))
    axes.set_ylim(-2, 102)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    despine(axes)
    return figure
