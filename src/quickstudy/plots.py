"""Pictures: learning curves, episodes, embeddings, what unlabelled items do, verification."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from quickstudy.data.episodes import Episodes, Labels, Setting
from quickstudy.data.pool import ClassPool
from quickstudy.episode import Episode
from quickstudy.learner import Learner, embed, evaluation_mode
from quickstudy.learners.prototypical import Prototypical, prototypes
from quickstudy.learners.semi_supervised import SemiPrototypical
from quickstudy.metrics import mean_ci95
from quickstudy.race import Curve
from quickstudy.roc import Verification
from quickstudy.run import read_log
from quickstudy.wording import plural

RIGHT, WRONG = "#1a7f37", "#cf222e"
EMBEDDED_WAYS = 10
"""Classes in the projection: as many colours as people tell apart."""


def draw_all(
    learner: Learner,
    classes: ClassPool,
    setting: Setting,
    log: Path,
    out: Path,
    seed: int = 0,
    inverted: bool = True,
    kept: int | None = None,
) -> list[Path]:
    """Every picture that a checkpoint allows: the curve if there is a log, an episode, the embedding.

    Args:
        learner: trained.
        classes: test classes.
        setting: of the episode.
        log: of the training; may be absent.
        out: folder for the pictures.
        seed: of the episode.
        inverted: the items are ink on black (`ImageFormat.invert`), and are drawn as they were before.
        kept: step of the log whose weights the learner has; without, the best.

    Returns:
        The files written.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn: list[tuple[str, Figure]] = []
    if read_log(log):  # it is empty until the first validation
        drawn.append(("learning-curve.png", learning_curve(log, kept)))
    drawn.append(("episode.png", episode(learner, classes, setting, seed, inverted)))
    if isinstance(learner, Prototypical):
        drawn.append(("embedding.png", embedding(learner, classes, seed)))
    for name, figure in drawn:
        figure.savefig(out / name, dpi=150)
    return [out / name for name, _ in drawn]


def learning_curve(log: Path, kept: int | None = None) -> Figure:
    """Loss and validation accuracy over the steps of a training's `log.jsonl`.

    Args:
        log: of the training.
        kept: the step that is marked, if it was validated; without, that of the best accuracy.
    """
    lines = read_log(log)
    steps = [line["step"] for line in lines]
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    dot = "." if len(steps) == 1 else None  # a line of one point can't be seen
    left.plot(steps, [line["loss"] for line in lines], color="#0969da", marker=dot)
    left.set(title="training loss", xlabel="step", ylabel="nats")
    seen = [line for line in lines if "validation" in line]
    if seen:
        x = [line["step"] for line in seen]
        y = 100 * np.array([line["validation"] for line in seen])
        band = 100 * np.array([line["ci95"] for line in seen])
        right.plot(x, y, color=RIGHT)
        right.fill_between(x, y - band, y + band, color=RIGHT, alpha=0.2, lw=0)
        best = int(np.argmax(y))
        marked = x.index(kept) if kept in x else best
        right.plot(x[marked], y[marked], "o", color=RIGHT)
        word = "best" if y[marked] == y[best] else "kept"
        right.set(
            title=f"validation accuracy, 95 % band; {word} {y[marked]:.1f} %", xlabel="step", ylabel="%"
        )
    else:
        right.set(title="no validation")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


@torch.no_grad()
def episode(
    learner: Learner, classes: ClassPool, setting: Setting, seed: int = 0, inverted: bool = True
) -> Figure:
    """One task: a row a class, its support left, its queries right, framed green or red.

    What a wrongly told query was taken for stands under it.
    """
    one = Episodes(classes, setting, 1, seed)[0]
    with evaluation_mode(learner):
        predicted = learner.predict(one.support, one.query_x)[0].argmax(-1)
    # row by row
    first, then = one.support.y[0].argsort(stable=True), one.query_y[0].argsort(stable=True)
    n, shots, queries = setting.ways, setting.shots, setting.queries
    figure = Figure(figsize=(1.0 * (shots + queries) + 1.2, 1.12 * n + 0.7), layout="constrained")
    grid = figure.subplots(
        n, shots + queries + 1, squeeze=False, width_ratios=[1] * shots + [0.4] + [1] * queries
    )
    support, asked = one.support.x[0, first], one.query_x[0, then]
    support, asked = (1 - x if inverted else x for x in (support, asked))
    support, asked = support.unflatten(0, (n, shots)), asked.unflatten(0, (n, queries))
    told = predicted[then].unflatten(0, (n, queries))
    for k in range(n):
        for j in range(shots):
            _picture(grid[k, j], support[k, j], "#57606a")
        grid[k, 0].set_ylabel(f"class {k + 1}", fontsize=9)
        grid[k, shots].set_axis_off()
        for j in range(queries):
            axes, was = grid[k, shots + 1 + j], int(told[k, j])
            _picture(axes, asked[k, j], RIGHT if was == k else WRONG)
            if was != k:
                axes.set_xlabel(f"as class {was + 1}", fontsize=8, color=WRONG)
    correct = (predicted == one.query_y[0]).float().mean().item()
    figure.suptitle(f"{setting}: support | queries, {correct:.0%} right", fontsize=11)
    return figure


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


def bars(title: str, rows: list[tuple[str, list[tuple[float, float]]]], settings: list[str]) -> Figure:
    """Accuracies in % with intervals: a group of bars a setting, a bar a method.

    Args:
        title: of the picture.
        rows: method, and for each setting (mean, half-width of the interval).
        settings: names of the groups.
    """
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    shades = ["#afb8c1", "#8c959f", "#54aeff", RIGHT]
    for i, (name, figures) in enumerate(rows):
        x = np.arange(len(settings)) + (i - (len(rows) - 1) / 2) * width
        y = [mean for mean, _ in figures]
        drawn = axes.bar(
            x, y, width * 0.92, yerr=[ci for _, ci in figures], label=name, color=shades[i % 4], capsize=2
        )
        axes.bar_label(drawn, fmt="%.1f", fontsize=8, padding=2)
    axes.set_xticks(np.arange(len(settings)), settings)
    axes.set(title=title, ylabel="accuracy, %", ylim=(0, 108))
    axes.legend(frameon=False, ncols=len(rows), loc="upper center", bbox_to_anchor=(0.5, -0.08), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
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


def _picture(axes: Axes, item: torch.Tensor, frame: str) -> None:
    if item.ndim == 1:  # a clip
        axes.plot(item.numpy(), color="black", linewidth=0.3)
        axes.set_box_aspect(1)
    else:
        image: npt.NDArray[np.float32] = item.permute(1, 2, 0).numpy()
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=2.5)


def sinusoid_fits(
    task: Episode,
    truth: torch.Tensor,
    x: torch.Tensor,
    fits: Mapping[str, torch.Tensor],
    steps: Sequence[int],
) -> Figure:
    """A sinusoid, its support points, and what each method makes of them, before and after inner steps.

    Args:
        task: of one sinusoid.
        truth: [B] its values at x.
        x: [B].
        fits: for each method predictions [steps, B].
        steps: inner steps behind each of the fits.
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
            title=name, xlabel="x", ylim=(-1.6 * float(truth.abs().max()), 1.6 * float(truth.abs().max()))
        )
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("y")
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def sinusoid_errors(errors: Mapping[str, torch.Tensor]) -> Figure:
    """Mean squared error over tasks, with its 95 % band, after each number of inner steps.

    The axis ends at ten times the largest error before the first step; a method that diverges leaves it.

    Args:
        errors: for each method [steps + 1, tasks].
    """
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for (name, e), colour in zip(errors.items(), mpl.colormaps["tab10"](np.arange(len(errors))), strict=True):
        steps = range(len(e))
        mean, band = torch.tensor([mean_ci95(of_step) for of_step in e]).T
        axes.plot(steps, mean, color=colour, marker=".", label=name)
        axes.fill_between(steps, mean - band, mean + band, color=colour, alpha=0.2, lw=0)
    axes.set(title="unseen sinusoids", xlabel="inner steps", ylabel="mean squared error", yscale="log")
    means = torch.stack([e.mean(1) for e in errors.values()])
    axes.set_ylim(0.5 * means[means.isfinite()].min().item(), 10 * means[:, 0].max().item())
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def race_curves(curves: Sequence[Curve], title: str, held_out: bool = False) -> Figure:
    """How rules fare against each other: losses by step and by time, the mean over problems and a band.

    The band holds the middle 80 % of the problems. Learned rules are drawn thick, tuned baselines thin.

    Args:
        curves: of `race`.
        title: above.
        held_out: draw the losses on data not trained on.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    colours = mpl.colormaps["tab10"](np.arange(len(curves)) % 10)
    lowest = last = float("inf")
    for curve, colour in zip(curves, colours, strict=True):
        losses = curve.judged(held_out).numpy()
        mean, (low, high) = losses.mean(1), np.quantile(losses, [0.1, 0.9], axis=1)
        lowest, last = min(lowest, 0.8 * low.min()), min(last, mean[-1])
        rate = "" if curve.lr is None else f" (α = {curve.lr:.2g})"
        style = {"lw": 2.4, "zorder": 3} if curve.lr is None else {"lw": 1.2}
        for axes, unit in zip(panels, (1.0, curve.seconds), strict=True):
            x = unit * np.arange(len(losses))
            axes.plot(x, mean, color=colour, label=curve.name + rate, **style)
            axes.fill_between(x, low, high, color=colour, alpha=0.1, lw=0)
    first = np.concatenate([c.losses[0].numpy() for c in curves])
    panels[0].set(xlabel="steps", ylabel="held-out loss" if held_out else "loss", yscale="log", title=title)
    panels[0].set_ylim(max(lowest, last / 20), 3 * float(first.mean()))  # what diverges leaves the picture
    panels[1].set(
        xlabel=f"seconds for {curves[0].losses.shape[1]} problems side by side", title="by the clock"
    )
    panels[1].set_xlim(
        0, max(c.seconds for c in curves if c.lr is None or len(curves) == 1) * (len(curves[0].losses) - 1)
    )
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
