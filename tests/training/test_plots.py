"""The pictures: what is drawn, and that odd sizes are drawn at all."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from quickstudy.core.learner import Learner
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import LabelFraction, Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric import plots as metric_plots
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.semi_supervised import SemiPrototypical
from quickstudy.metric.verification import verification
from quickstudy.recipes import pictures as recipes_pictures
from quickstudy.recognition.pairs import Pairs
from quickstudy.recognition.report import plots as report_plots
from quickstudy.training import plots as training_plots


def shaded_pool(classes: int, items: int = 8, channels: int = 1) -> ClassPool:
    """Class c has the shade 20 c, give or take a little."""
    noise = np.random.default_rng(0).integers(0, 9, (classes, items, channels, 16, 16))
    shades = 20 * np.arange(classes)[:, None, None, None, None] + noise
    pictures = shades.astype(np.uint8).reshape(-1, channels, 16, 16)
    return ClassPool.from_grouped(pictures, [f"c{i}" for i in range(classes)], [items] * classes)


@pytest.fixture
def learner() -> Prototypical:
    return Prototypical(nn.Flatten())


def log_of(path: Path, validations: list[float | None]) -> Path:
    lines = []
    for i, accuracy in enumerate(validations, 1):
        line = {"step": 10 * i, "loss": 2.0 / i, "lr": 0.01}
        if accuracy is not None:
            line |= {"validation": accuracy, "ci95": 0.01}
        lines.append(json.dumps(line) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return path


def drawn(figure: Figure) -> None:
    """Drawing finds what making the figure does not: glyphs that are missing, sizes that don't work."""
    figure.canvas.draw()


# The learning curve


def test_learning_curve(tmp_path: Path) -> None:
    figure = training_plots.learning_curve(log_of(tmp_path / "log.jsonl", [0.5, None, 0.8, 0.7]))
    left, right = figure.axes
    assert (left.get_title(), left.get_xlabel(), left.get_ylabel()) == ("training loss", "step", "nats")
    assert right.get_title() == "validation accuracy, 95 % band; best 80.0 %"
    assert (right.get_xlabel(), right.get_ylabel()) == ("step", "%")
    np.testing.assert_allclose(left.lines[0].get_xydata(), [(10, 2), (20, 1), (30, 2 / 3), (40, 0.5)])
    np.testing.assert_allclose(right.lines[0].get_xydata(), [(10, 50), (30, 80), (40, 70)])
    np.testing.assert_allclose(right.lines[1].get_xydata(), [(30, 80)])
    drawn(figure)


@pytest.mark.parametrize(
    ("kept", "marked", "says"),
    [(40, (40, 70), "kept 70.0 %"), (30, (30, 80), "best 80.0 %"), (20, (30, 80), "best 80.0 %")],
)
def test_the_weights_that_were_kept_are_marked(
    tmp_path: Path, kept: int, marked: tuple[int, int], says: str
) -> None:
    figure = training_plots.learning_curve(log_of(tmp_path / "log.jsonl", [0.5, None, 0.8, 0.7]), kept)
    np.testing.assert_allclose(figure.axes[1].lines[1].get_xydata(), [marked])
    assert figure.axes[1].get_title().endswith(says)


@pytest.mark.parametrize("accuracy", [0.5, None])
def test_a_single_line_of_the_log_can_be_seen(tmp_path: Path, accuracy: float | None) -> None:
    figure = training_plots.learning_curve(log_of(tmp_path / "log.jsonl", [accuracy]))
    drawn(figure)
    left, right = figure.axes
    assert left.lines[0].get_marker() not in ("None", None), "a line of one point has no length"
    assert right.get_title() == (
        "validation accuracy, 95 % band; best 50.0 %" if accuracy else "no validation"
    )


# The episode


@pytest.mark.medium
@pytest.mark.parametrize(("ways", "shots", "queries"), [(5, 1, 4), (2, 1, 1), (3, 3, 2)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("inverted", [True, False])
def test_episode(
    learner: Prototypical, ways: int, shots: int, queries: int, channels: int, inverted: bool
) -> None:
    pool, setting = shaded_pool(8, channels=channels), Setting(ways, shots, queries)
    figure = training_plots.episode(learner, pool, setting, seed=3, inverted=inverted)
    drawn(figure)
    grid = np.array(figure.axes).reshape(ways, shots + 1 + queries)
    assert [row[0].get_ylabel() for row in grid] == [f"class {k + 1}" for k in range(ways)]
    assert figure.get_suptitle() == f"{ways}w{shots}s: support | queries, 100% right"
    one = Episodes(pool, setting, 1, 3)[0]
    by_class = one.query_x[0, one.query_y[0].argsort(stable=True)]
    for k in range(ways):
        for j in range(queries):
            axes = grid[k, shots + 1 + j]
            shown = np.asarray(axes.images[0].get_array())
            item = by_class[k * queries + j].mean().item()
            # what was inverted for the network is shown as it was
            np.testing.assert_allclose(shown.mean(), 1 - item if inverted else item, atol=1e-6)
            assert axes.get_xlabel() == ""
            assert axes.spines["left"].get_edgecolor() == colors.to_rgba(training_plots.RIGHT)
        assert not grid[k, shots].axison, "a gap between support and queries"


def test_wrong_answers_are_framed_and_named() -> None:
    class First(Prototypical):
        """Takes everything for class 1."""

        def predict(self, *args: object) -> object:
            scores = super().predict(*args)  # pyright: ignore
            scores[..., 0] = 1e9
            return scores

    figure = training_plots.episode(First(nn.Flatten()), shaded_pool(3), Setting(3, 1, 2))
    drawn(figure)
    grid = np.array(figure.axes).reshape(3, 4)
    assert figure.get_suptitle() == "3w1s: support | queries, 33% right"
    assert [axes.get_xlabel() for axes in grid[:, 2]] == ["", "as class 1", "as class 1"]
    assert grid[2, 3].spines["left"].get_edgecolor() == colors.to_rgba(training_plots.WRONG)


# The embedding


@pytest.mark.parametrize(("classes", "items", "ways"), [(12, 30, 10), (2, 3, 2), (2, 2, 2)])
def test_embedding(classes: int, items: int, ways: int) -> None:
    figure = metric_plots.embedding(Conv4(1, 4), shaded_pool(classes, items))
    drawn(figure)
    (axes,) = figure.axes
    shown = min(20, items) - 1
    assert axes.get_title() == f"{ways} unseen classes, {ways * shown} items"
    assert axes.get_xlabel().startswith("first principal component (")
    assert axes.get_ylabel().startswith("second (")
    points, stars = axes.collections
    assert len(np.asarray(points.get_offsets())) == ways * shown
    assert len(np.asarray(stars.get_offsets())) == ways
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["prototypes"]


def test_a_prototype_lies_in_the_middle_of_its_items(learner: Prototypical) -> None:
    figure = metric_plots.embedding(learner.encoder, shaded_pool(2, 6))
    points, stars = (np.asarray(c.get_offsets()) for c in figure.axes[0].collections)
    y = Episodes(shaded_pool(2, 6), Setting(2, 5, 1))[0].support.y[0].numpy()
    np.testing.assert_allclose([points[y == k].mean(0) for k in range(2)], stars, atol=1e-5)


# The refinement


@pytest.mark.parametrize(("ways", "unlabelled", "distractors"), [(3, 4, 2), (2, 1, 0), (5, 2, 1)])
@pytest.mark.parametrize("labels", [None, LabelFraction(0.5)])
def test_refinement(ways: int, unlabelled: int, distractors: int, labels: LabelFraction | None) -> None:
    setting = Setting(ways, 1, 1, unlabelled, distractors)
    learner = SemiPrototypical(nn.Flatten())
    figure = metric_plots.refinement(learner, shaded_pool(6), setting, seed=1, labels=labels)
    drawn(figure)
    kinds = ["unlabelled items", "before", "after"]
    titles = [f"{ways} unseen classes"]
    if distractors:
        kinds.insert(1, "distractors")
        titles = ["without distractors", "with distractors"]
    assert [axes.get_title() for axes in figure.axes] == titles
    assert figure.axes[0].get_ylabel() == "second"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == kinds
    *items, start, end = (np.asarray(c.get_offsets()) for c in figure.axes[-1].collections)
    numbers = [ways * unlabelled, distractors * unlabelled][: len(items)]
    assert [len(shown) for shown in items] == numbers
    assert len(start) == len(end) == len(figure.axes[-1].lines) == ways
    for line, a, b in zip(figure.axes[-1].lines, start, end, strict=True):
        np.testing.assert_allclose(line.get_xydata(), [a, b], atol=1e-6)


def test_distractors_are_all_that_the_two_panels_differ_by() -> None:
    setting = Setting(3, 1, 1, 4, 3)
    figure = metric_plots.refinement(SemiPrototypical(nn.Flatten()), shaded_pool(6), setting)
    without, with_them = (
        {c.get_label(): np.asarray(c.get_offsets()) for c in axes.collections} for axes in figure.axes
    )
    assert set(with_them) - set(without) == {"distractors"}
    for kind in ("unlabelled items", "before"):
        np.testing.assert_array_equal(without[kind], with_them[kind])
    assert np.abs(without["after"] - with_them["after"]).max() > 0


# The bars


def test_bars() -> None:
    rows = [("chance", [(20.0, 0.0), (5.0, 0.0)]), ("network", [(98.0, 0.3), (94.5, 0.4)])]
    figure = training_plots.bars("Letters", rows, ["5-way", "20-way"])
    drawn(figure)
    (axes,) = figure.axes
    assert (axes.get_title(), axes.get_ylabel()) == ("Letters", "accuracy, %")
    assert [t.get_text() for t in axes.get_xticklabels()] == ["5-way", "20-way"]
    assert [bar.get_height() for bar in axes.patches] == [20.0, 5.0, 98.0, 94.5]
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["chance", "network"]


def test_names_with_dollars_are_no_mathematics() -> None:
    figure = training_plots.bars("a$b$c", [("_x$\\frac$", [(20.0, 0.0)]), ("\\$", [(1.0, 0.0)])], ["$5$"])
    drawn(figure)
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    texts = [axes.title, *axes.get_xticklabels(), *legend.get_texts()]
    shown = [t._preprocess_math(t.get_text()) for t in texts]  # type: ignore[attr-defined]
    assert shown == [(text, False) for text in ("a$b$c", "$5$", " _x$\\frac$", "\\$")]
    pairs = Pairs(np.arange(4.0), np.array([[0, 0], [1, 1], [0, 1], [1, 0]]), 2, 2)
    with_names = report_plots.score_histogram(pairs, {"a$b$c": 1.5}, "$x$")
    drawn(with_names)
    assert with_names.axes[0].get_title() == r"\$x\$"


# The ROC curve


@pytest.mark.medium
@pytest.mark.parametrize(
    ("scores", "eer"),
    [([5, 4, 3, 2, 1, 0], 0.0), ([5, 2, 1, 4, 3, 0], 2 / 3), ([1] * 6, 0.5), ([0, 1, 2, 3, 4, 5], 1.0)],
)
def test_roc(tmp_path: Path, scores: list[float], eer: float) -> None:
    v = verification(scores, [1, 1, 1, 0, 0, 0])
    figure = metric_plots.plot_roc(v, tmp_path / "roc.png", "faces")
    drawn(figure)
    assert min(sizes([tmp_path / "roc.png"])[0]) >= 300
    (axes,) = figure.axes
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("faces", "FAR, %", "TAR, %")
    assert axes.get_xscale() == "log"
    curve, _, point = (np.asarray(line.get_xydata()) for line in axes.lines)
    assert (np.diff(curve, axis=0) >= 0).all()
    assert curve[-1].tolist() == [100, 100]
    assert axes.get_xlim() == pytest.approx((1, 100)), "two decades at least"
    np.testing.assert_allclose(point, [[max(100 * v.eer, 1), 100 * (1 - v.eer)]])
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == [
        f"AUC {v.auc:.4f}", "chance", f"EER {100 * eer:.2f} %"]  # fmt: skip


def test_a_roc_of_many_pairs_has_no_more_points_than_can_be_seen(tmp_path: Path) -> None:
    genuine = np.arange(40_000) % 2 == 0
    v = verification(np.random.default_rng(0).normal(genuine, 1), genuine)
    assert len(v.curve[0]) > 5000
    (axes,) = metric_plots.plot_roc(v, tmp_path / "roc.png").axes
    curve = np.asarray(axes.lines[0].get_xydata())
    assert len(curve) < 1000, "else matplotlib looks for a place for the legend by the second, and says so"
    at = np.searchsorted(v.curve[0], curve[:, 0] / 100, side="right") - 1
    assert (np.abs(curve[:, 1] / 100 - v.curve[1][at]) < 0.002).all()


# All of them


def sizes(files: list[Path]) -> list[tuple[int, int]]:
    found = []
    for path in files:
        with Image.open(path) as image:
            image.load()
            found.append(image.size)
    return found


@pytest.mark.medium
def test_all_pictures_are_written(learner: Prototypical, tmp_path: Path) -> None:
    log = log_of(tmp_path / "log.jsonl", [0.5, 0.6])
    files = recipes_pictures.draw_all(
        learner, shaded_pool(6), Setting(5, 1, 3), log, tmp_path / "new" / "out"
    )
    assert [p.name for p in files] == ["learning-curve.png", "episode.png", "embedding.png"]
    assert sorted(files) == sorted((tmp_path / "new" / "out").iterdir())
    assert all(min(size) >= 300 for size in sizes(files))


@pytest.mark.parametrize("content", [None, ""])
def test_without_a_log_two_classes_one_shot(
    learner: Prototypical, tmp_path: Path, content: str | None
) -> None:
    """A log is empty until the first validation."""
    log = tmp_path / "log.jsonl"
    if content is not None:
        log.write_text(content)
    files = recipes_pictures.draw_all(learner, shaded_pool(2, 2), Setting(2, 1, 1), log, tmp_path / "out")
    assert [p.name for p in files] == ["episode.png", "embedding.png"]
    assert all(min(size) >= 300 for size in sizes(files))


def test_a_learner_that_embeds_nothing_has_no_embedding_drawn(tmp_path: Path) -> None:
    class Guess(Learner):
        def predict(self, support: object, query_x: object) -> object:
            return Prototypical(nn.Flatten()).predict(support, query_x)  # pyright: ignore

    files = recipes_pictures.draw_all(
        Guess(), shaded_pool(3), Setting(2, 1, 1), tmp_path / "log", tmp_path / "out"
    )
    assert [p.name for p in files] == ["episode.png"]


def test_clips_are_drawn_as_waves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = rng.integers(-9000, 9000, (12, 400)).astype(np.int16)
    pool = ClassPool.from_grouped(items, ["yes", "no", "stop"], [4, 4, 4])
    learner = Prototypical(nn.Linear(400, 8))
    files = recipes_pictures.draw_all(
        learner, pool, Setting(3, 1, 2), tmp_path / "no.jsonl", tmp_path, inverted=False
    )
    assert [f.name for f in files] == ["episode.png", "embedding.png"]
    figure = training_plots.episode(learner, pool, Setting(3, 1, 2), seed=0, inverted=False)
    waves = [line for axes in figure.axes for line in axes.lines]
    assert len(waves) == 3 * (1 + 2)
    shown = {tuple(np.rint(np.asarray(w.get_ydata()) * 32768).astype(int)) for w in waves}
    assert shown <= {tuple(item.astype(int)) for item in items}
