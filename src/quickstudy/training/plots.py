"""Plots for any learner: learning curves, episodes, bars of accuracies."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quickstudy.core.learner import Learner, evaluation_mode
from quickstudy.core.wording import label_text
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.training.run_folder import read_log

RIGHT, WRONG = "#1a7f37", "#cf222e"
"""Colors of right and wrong answers."""


def despine(axes: Axes) -> None:
    """Hide the top and the right edge of a plot, as all plots of the library do.

    Args:
        axes: The plot.
    """
    axes.spines[["top", "right"]].set_visible(False)


def learning_curve(log: str | Path, kept: int | None = None) -> Figure:
    """Learning curves: training loss and validation accuracy over the steps of a training run.

    Args:
        log: Path of the run's `log.jsonl`.
        kept: Step whose weights were kept, to be marked if it was validated; the step of the best accuracy by
            default.
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
        despine(axes)
    return figure


@torch.no_grad()
def episode(
    learner: Learner, classes: ClassPool, setting: Setting, seed: int = 0, inverted: bool = True
) -> Figure:
    """One task as a picture: a row for each class, with its support items left and its queries right.

    Queries are framed green if classified correctly, else red with the predicted class below.

    Args:
        learner: Trained learner.
        classes: Classes from which the task is drawn.
        setting: Setting of the task: ways, shots and queries.
        seed: Seed of the random draw of the task.
        inverted: Whether the pictures were inverted when they were loaded (`ImageFormat.invert`); they are
            drawn as they were before.
    """
    drawn = Episodes(classes, setting, 1, seed)
    one, size = drawn[0], drawn.size(0)
    with evaluation_mode(learner):
        predicted = learner.predict(one.support, one.query_x)[0].argmax(-1)
    # sorted by class, for a row each
    first, then = one.support.y[0].argsort(stable=True), one.query_y[0].argsort(stable=True)
    n, shots, queries = size.ways, size.shots, size.queries
    figure = Figure(figsize=(1.0 * (shots + queries) + 1.2, 1.12 * n + 0.7), layout="constrained")
    grid = figure.subplots(
        n, shots + queries + 1, squeeze=False, width_ratios=[1] * shots + [0.4] + [1] * queries
    )
    support = one.support.x[0, first].unflatten(0, (n, shots))
    asked = one.query_x[0, then].unflatten(0, (n, queries))
    if inverted:
        support, asked = 1 - support, 1 - asked
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
    figure.suptitle(f"{size}: support | queries, {correct:.0%} right", fontsize=11)
    return figure


def bars(title: str, rows: list[tuple[str, list[tuple[float, float]]]], settings: list[str]) -> Figure:
    """Bar plot of accuracies in % with their intervals: a group for each setting, a bar for each method.

    Args:
        title: Title of the plot.
        rows: Name of each method, and for each setting (mean, half-width of the interval), in %.
        settings: Names of the settings, one for each group of bars.
    """
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    shades = ["#afb8c1", "#8c959f", "#54aeff", RIGHT]
    for i, (name, figures) in enumerate(rows):
        x = np.arange(len(settings)) + (i - (len(rows) - 1) / 2) * width
        y = [mean for mean, _ in figures]
        drawn = axes.bar(
            x,
            y,
            width * 0.92,
            yerr=[ci for _, ci in figures],
            label=label_text(name),
            color=shades[i % 4],
            capsize=2,
        )
        axes.bar_label(drawn, fmt="%.1f", fontsize=8, padding=2)
    axes.set_xticks(np.arange(len(settings)), list(map(label_text, settings)))
    axes.set(title=label_text(title), ylabel="accuracy, %", ylim=(0, 108))
    axes.legend(frameon=False, ncols=len(rows), loc="upper center", bbox_to_anchor=(0.5, -0.08), fontsize=9)
    despine(axes)
    return figure


def _picture(axes: Axes, item: torch.Tensor, frame: str) -> None:
    if item.ndim == 3 and len(item) in (1, 3):
        if item.min() < 0 or item.max() > 1:  # floats of any scale
            item = (item - item.min()) / (item.max() - item.min()).clamp_min(1e-6)
        image: npt.NDArray[np.float32] = item.permute(1, 2, 0).numpy()
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
    else:  # a clip, features, or whatever it is: its values in a row
        axes.plot(item.flatten().numpy(), color="black", linewidth=0.3)
        axes.set_box_aspect(1)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=2.5)
