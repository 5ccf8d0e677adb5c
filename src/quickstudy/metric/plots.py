"""Pictures of metric learners: embeddings, what unlabelled items do, verification."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from quickstudy.core.learner import embed, evaluation_mode
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Labels, Setting
from quickstudy.metric.distances import prototypes
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.semi_supervised import SemiPrototypical
from quickstudy.metric.verification import Verification
from quickstudy.training.plots import RIGHT, WRONG

EMBEDDED_WAYS = 10
"""Classes in the projection: as many colours as people tell apart."""


@torch.no_grad()
def embedding(learner: Prototypical, classes: ClassPool, seed: int = 0) -> Figure:
    """Embeddings of ten classes on their first two principal components, with their prototypes."""
    items = int(min(20, classes.counts.min()))
    setting = Setting(min(EMBEDDED_WAYS, len(classes)), items - 1, 1)
    support = Episodes(classes, setting, 1, seed)[0].support
    with evaluation_mode(learner):
        z = embed(learner.encoder, support.x)
    centres = prototypes(z, support.y, setting.ways)[0].numpy()
    pca = PCA(2).fit(z[0].numpy())
    points, middles = pca.transform(z[0].numpy()), pca.transform(centres)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    colours = mpl.colormaps["tab10"](np.arange(setting.ways) % 10)
    axes.scatter(points[:, 0], points[:, 1], c=colours[support.y[0].numpy()], s=14, alpha=0.6, lw=0)
    axes.scatter(
        middles[:, 0], middles[:, 1], c=colours, s=160, marker="*", edgecolors="black", label="prototypes"
    )
    share = 100 * pca.explained_variance_ratio_
    axes.set(
        title=f"{setting.ways} unseen classes, {len(points)} items",
        xlabel=f"first principal component ({share[0]:.0f} % of the variance)",
        ylabel=f"second ({share[1]:.0f} %)",
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


@torch.no_grad()
def refinement(
    learner: SemiPrototypical,
    classes: ClassPool,
    setting: Setting,
    seed: int = 0,
    labels: Labels | None = None,
) -> Figure:
    """Prototypes before and after the unlabelled items refine them, on two principal components of these.

    With distractors there are two panels of the same task: without them, and with them.

    Args:
        learner: trained.
        classes: test classes.
        setting: of the task, with unlabelled items.
        seed: of the task.
        labels: which items bear labels.
    """
    episodes = Episodes(classes, setting, 1, seed, labels=labels)
    support, by_class = episodes[0].support, episodes.unlabelled_y(0)[0].argsort(stable=True)
    with evaluation_mode(learner):
        z = embed(learner.encoder, torch.cat([support.x, support.unlabelled[:, by_class]], 1))
    shots, others = z.split([support.x.shape[1], support.unlabelled.shape[1]], 1)
    own = setting.ways * setting.unlabelled
    before = prototypes(shots, support.y, setting.ways)
    pca = PCA(2).fit(z[0].numpy())
    items, start = (pca.transform(v[0].numpy()) for v in (others, before))
    panels = {"without distractors": own, "with distractors": others.shape[1]}
    if not setting.distractors:
        panels = {f"{setting.ways} unseen classes": own}
    colours = mpl.colormaps["tab10"](np.arange(setting.ways) % 10)
    figure = Figure(figsize=(4.6 * len(panels), 4.4), layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (title, count) in zip(drawn, panels.items(), strict=True):
        after = learner.refined(shots, support.y, support.ways, others[:, :count])
        end = pca.transform(after[0].numpy())
        of_class = colours.repeat(setting.unlabelled, 0)
        axes.scatter(*items[:own].T, c=of_class, s=22, alpha=0.6, lw=0, label="unlabelled items")
        if count > own:
            axes.scatter(*items[own:].T, color="#8c959f", marker="x", s=22, lw=1, label="distractors")
        for way, colour in zip(np.stack([start, end], 1), colours, strict=True):
            axes.plot(*way.T, color=colour, lw=1.5, zorder=2)
        axes.scatter(*start.T, c="white", edgecolors=colours, lw=1.5, s=70, zorder=3, label="before")
        axes.scatter(*end.T, c=colours, edgecolors="black", s=170, marker="*", zorder=4, label="after")
        axes.set(title=title, xlabel="first principal component", xticks=[], yticks=[])
        axes.spines[["top", "right"]].set_visible(False)
    drawn[0].set_ylabel("second")
    handles, names = drawn[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def plot_roc(verification: Verification, path: Path, title: str = "pairs of unseen classes") -> Figure:
    """`roc`, written to a file.

    Args:
        verification: the figures and their curve.
        path: of the picture, written.
        title: of the picture.
    """
    figure = roc(verification, title)
    figure.savefig(path, dpi=150)
    return figure


def roc(verification: Verification, title: str = "pairs of unseen classes") -> Figure:
    """TAR over FAR, on a logarithmic axis down to half of one impostor pair, with the EER marked.

    Args:
        verification: the figures and their curve.
        title: of the picture.
    """
    far, tar = verification.curve
    least = min(0.01, 0.5 / verification.impostor)
    even = np.geomspace(least, 1, 500)  # what is straight between two points isn't so on this axis
    x, y = even, np.interp(even, far, tar)
    if len(far) < 1000:  # its corners too, unless they are more than can be seen
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
    axes.set(title=title, xlabel="FAR, %", ylabel="TAR, %", xscale="log", xlim=(100 * least, 100))
    axes.set_ylim(-2, 102)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
