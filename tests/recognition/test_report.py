"""The page about a recognizer, and its pictures."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from quickstudy.core import files
from quickstudy.metric.verification import verification
from quickstudy.recognition.calibration import calibrate
from quickstudy.recognition.pairs import pooled_scores, score_pairs
from quickstudy.recognition.report import html, plots
from quickstudy.recognition.report.error_rates import Achieved, achieved
from quickstudy.recognition.report.identification import closed_set, open_set
from quickstudy.recognition.report.report import RecognitionReport, recognition_report
from tests.support.clouds import cloud


@pytest.fixture(scope="module")
def report() -> RecognitionReport:
    z, who = cloud(50, 6)
    development = who < 30
    calibration = calibrate(z[development], who[development], pooled_scores(), samples=(1, 2, 3))
    return recognition_report(
        "Faces & <friends>",
        z[~development],
        who[~development],
        pooled_scores(),
        calibration,
        facts={"model": "a<b>.safetensors", "data": "$test & more"},
        shots=(1, 3, 6),
        ways=5,
        draws=10,
        groups={k: "<i>even</i>" if k % 2 == 0 else "odd" for k in range(30, 48)},
    )


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a second a page."""
    monkeypatch.setattr(RecognitionReport, "figures", lambda _: {})


@pytest.fixture(scope="module")
def saved(report: RecognitionReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "new" / "report.html"
    report.save(path)
    return path


class Page(HTMLParser):
    """Tags, links, pictures and text; fails where tags don't match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs))
        self.links += [str(v) for k, v in attrs if k in ("href", "src", "srcset", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# The figures


def test_the_figures_are_those_of_the_parts(report: RecognitionReport) -> None:
    z, who = cloud(50, 6)
    z, who = z[who >= 30], who[who >= 30]
    pairs = score_pairs(z, who, pooled_scores())
    assert report.verification == verification(pairs.scores, pairs.same)
    assert report.achieved == achieved(pairs.scores, pairs.identities, report.calibration.threshold())
    assert report.closed is not None
    assert report.open is not None
    assert (report.closed.names, report.closed.probes) == (20, 20 * 20 * 5)
    assert (report.open.names, report.open.known, report.open.unknown) == (10, 20 * 50, 20 * 60)
    assert [(d.ways, d.shots) for d in report.draws] == [(5, 1), (5, 3)], "six shots leave no probe"
    assert {g: a.genuine for g, a in report.groups.items()} == {"<i>even</i>": 9 * 15, "odd": 9 * 15}
    # the more names a stranger is tried against, the higher the best score
    at_all = report.open.at(report.calibration.threshold(1, 10))
    assert at_all[1] <= 0.05


def test_the_figures_can_be_logged(report: RecognitionReport) -> None:
    logged = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert logged["achieved"]["far"] == report.achieved.far
    assert logged["calibration"]["tables"][0]["far"] == 0.01
    assert len(logged["draws"]) == 2
    assert "scores" not in str(logged)


def test_single_items_and_few_identities_leave_figures_out() -> None:
    z, who = cloud(40, 5)
    calibration = calibrate(z, who, pooled_scores())
    found = recognition_report("few", z[:7], who[:7], pooled_scores(), calibration, shots=(1, 5))
    assert found.closed is not None, "of two names"
    assert found.open is None
    assert [d.shots for d in found.draws] == [1]
    one = recognition_report("fewer", z[:6], who[:6], pooled_scores(), calibration, shots=(1,))
    assert one.closed is None
    assert one.draws == ()


@pytest.mark.parametrize(
    ("far95", "says"),
    [
        ((0.005, 0.02), "lies within this interval."),
        ((0.0101, 0.02), "the two intervals meet: few identities explain it."),
        ((0.2, 0.3), "these identities aren't like those of the calibration"),
        ((0.0, 0.0), "these identities aren't like those of the calibration"),
    ],
)
@pytest.mark.usefixtures("no_pictures")
def test_drift_is_said(report: RecognitionReport, tmp_path: Path, far95, says: str) -> None:
    low, high = report.calibration.tables[0].point.far95
    assert 0 < low < 0.01 < high < 0.2
    drifted = replace(report, achieved=replace(report.achieved, far95=far95))
    drifted.save(tmp_path / "page.html")
    assert says in " ".join(Page((tmp_path / "page.html").read_text()).text.split())
    assert drifted.kept == (says == "lies within this interval.")


def test_sources_are_kept_apart_as_far_as_there_are_some() -> None:
    z, who = cloud(10, 4)
    calibration = calibrate(z, who, pooled_scores(), samples=[1])
    sources = np.tile([0, 0, 1, 2], 10)

    def shots(sources) -> list[tuple[int, bool]]:
        found = recognition_report(
            "s", z, who, pooled_scores(), calibration, shots=(1, 3, 4), draws=3, sources=sources
        )
        return [(d.shots, d.cross_source) for d in found.draws]

    assert shots(None) == [(1, False), (3, False)]
    assert shots(sources) == [(1, True), (3, True)], "with a probe of source 1 or 2"
    assert shots(np.zeros(40)) == [], "of a single source, nothing is apart"
    whole, cross_source, without = (
        recognition_report("s", z, who, pooled_scores(), calibration, shots=(), sources=s, cross_source=a)
        for s, a in ((sources, False), (sources, True), (None, True))
    )
    assert len(cross_source.pairs.scores) < len(whole.pairs.scores) == len(without.pairs.scores)
    assert [r.facts.get("pairs") for r in (whole, cross_source, without)] == [
        None,
        "of different sources only",
        None,
    ]


# The page


@pytest.mark.medium
def test_the_page_is_whole_and_needs_nothing_else(saved: Path) -> None:
    assert [p.name for p in saved.parent.iterdir()] == ["report.html"]
    text = saved.read_text(encoding="utf-8")
    page = Page(text)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "script" not in page.tags
    assert "http" not in text
    assert not re.search(r"\{[{%#]|[}%#]\}", re.sub(r"<style>.*</style>", "", text, flags=re.DOTALL))
    assert "prefers-color-scheme: dark" in text
    assert len(page.pictures) == 5
    for picture in page.pictures:
        assert picture["alt"]
        content = base64.b64decode(str(picture["src"]).partition(",")[2])
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert min(image.size) >= 300


def test_names_are_escaped(saved: Path) -> None:
    page = Page(saved.read_text(encoding="utf-8"))
    assert not {"friends", "b", "i"} & set(page.tags)
    for given in ("Faces & <friends>", "a<b>.safetensors", "$test & more", "<i>even</i>"):
        assert given in page.text


def test_no_name_becomes_a_part_of_the_page(report: RecognitionReport) -> None:
    attack = '</title><script>alert(\'"1"\')</script>{{ r }}" onerror="x'
    hostile = replace(
        report,
        title=attack,
        facts={attack: attack},
        groups={attack: report.achieved},
        calibration=replace(report.calibration, warnings=(attack,)),
    )
    written = Page(html.page(hostile, {attack: Figure()}))
    assert "script" not in written.tags
    assert written.text.count(attack) == 7
    assert written.pictures[0]["alt"] == attack
    assert set(written.pictures[0]) == {"alt", "src"}


def test_the_page_says_what_was_measured(report: RecognitionReport, saved: Path) -> None:
    text = " ".join(Page(saved.read_text(encoding="utf-8")).text.split())
    a = report.achieved
    assert f"if it scores {a.threshold:.4g} or more" in text
    assert f"{100 * a.far:.2f} % of strangers' attempts were accepted" in text
    assert f"{100 * a.frr:.2f} % of rightful attempts were rejected" in text
    assert f"EER {100 * report.verification.eer:.2f} %" in text
    assert "5 names, 3 samples each" in text
    assert "10,000" in text
    assert "no: above every impostor score seen" in text, "what the pairs can't support is said"
    assert report.closed is not None
    assert f"{100 * report.closed.rank1:.2f} % ({100 * report.closed.rank1_95[0]:.2f}" in text


@pytest.mark.usefixtures("no_pictures")
def test_warnings_are_shown_where_there_are_some(report: RecognitionReport, tmp_path: Path) -> None:
    without = replace(report, calibration=replace(report.calibration, warnings=()))
    without.save(tmp_path / "without.html")
    warned = replace(report, calibration=replace(report.calibration, warnings=("too few <people>",)))
    warned.save(tmp_path / "warned.html")
    assert "What the data can't tell" not in Page((tmp_path / "without.html").read_text()).text
    page = Page((tmp_path / "warned.html").read_text())
    assert "too few <people>" in page.text
    assert "people" not in page.tags


@pytest.mark.usefixtures("no_pictures")
def test_a_page_that_cannot_be_written(report: RecognitionReport, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "page.html"
    path.write_text("what was there")
    monkeypatch.setattr(files.os, "fsync", _full)
    with pytest.raises(OSError, match="can't write"):
        report.save(path)
    assert path.read_text() == "what was there"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def _full(_: int) -> None:
    raise OSError(28, "No space left on device")


# The pictures


def lines_of(figure) -> dict:
    (axes,) = figure.axes
    return {line.get_label(): np.asarray(line.get_xydata(), float) for line in axes.lines}


def test_the_histogram_holds_all_pairs(report: RecognitionReport) -> None:
    figure = plots.score_histogram(report.pairs, {"calibrated": -2.5})
    figure.canvas.draw()
    (axes,) = figure.axes
    for patch in axes.patches:
        assert patch.get_data().values.sum() == pytest.approx(100)
    np.testing.assert_allclose(lines_of(figure)["calibrated: -2.5"][:, 0], -2.5)


def test_normal_scores_make_a_straight_det(report: RecognitionReport) -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(2, 1, 100_000), rng.normal(0, 1, 100_000)])
    figure = plots.det({"test": verification(scores, np.repeat([1, 0], 100_000))}, report.achieved)
    figure.canvas.draw()
    name = next(n for n in lines_of(figure) if n.startswith("test, EER"))
    x, y = lines_of(figure)[name].T
    inner = (x > -2.5) & (y > -2.5)
    np.testing.assert_allclose(x[inner] + y[inner], -2, atol=0.1)


@pytest.mark.parametrize(("far", "frr"), [(0.0006, 0.9), (0.02, 0.3), (0.7, 0.001), (0.0, 0.5)])
def test_the_calibrated_point_lies_within_the_axes_and_no_legend_on_a_curve(far: float, frr: float) -> None:
    rng = np.random.default_rng(0)
    curve = verification(rng.normal(size=600) + np.repeat([1, 0], 300), np.repeat([1, 0], 300))
    at = Achieved(0.0, far, (far / 2, 1.5 * far), frr, (0.9 * frr, min(1.05 * frr, 1)), 300, 300, 20)
    columns = np.repeat([0, 1, 2, -1], 20)
    known = open_set(rng.normal(size=(80, 3)) + np.eye(4)[columns][:, :3], columns)
    for figure in (plots.det({"test": curve}, at), plots.dir_fpir(known, 0.5)):
        figure.canvas.draw()
        (axes,) = figure.axes
        (legend,) = figure.legends
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
        for line in axes.get_lines():
            if line.get_marker() == "o":
                (x,), (y,) = line.get_data()
                assert axes.get_xlim()[0] <= x <= axes.get_xlim()[1]
                assert axes.get_ylim()[0] <= y <= axes.get_ylim()[1]


@pytest.mark.parametrize("names", [2, 10, 80])
def test_cmc(names: int) -> None:
    rng = np.random.default_rng(0)
    columns = np.repeat(np.arange(names), 3)
    found = closed_set(rng.normal(size=(3 * names, names)) + 2 * np.eye(names)[columns], columns)
    figure = plots.cmc(found)
    figure.canvas.draw()
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 100 * found.cmc)
    assert axes.get_xscale() == ("log" if names > 50 else "linear")


@pytest.mark.parametrize("threshold", [None, 1.5, 99.0])
def test_dir_over_fpir(threshold: float | None) -> None:
    rng = np.random.default_rng(0)
    columns = np.repeat([0, 1, 2, -1], 20)
    found = open_set(rng.normal(size=(80, 3)) + 2 * np.eye(4)[columns][:, :3], columns)
    figure = plots.dir_fpir(found, threshold)
    figure.canvas.draw()
    marked = [name for name in lines_of(figure) if "FPIR" in name]
    assert len(marked) == 2 + (threshold is not None)
    if threshold:
        share, fpir = found.at(threshold)
        assert marked[-1] == f"calibrated: {100 * share:.1f} % at FPIR {100 * fpir:.2g} %"
