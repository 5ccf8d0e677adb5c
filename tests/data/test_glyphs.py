"""The glyphs data set: its classes, its items and how hard it is."""

import unicodedata

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from quickstudy.data.datasets import glyphs
from quickstudy.data.datasets.glyphs import Rendered, glyphs_fingerprint, render_glyphs

PER_CLASS = 16


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return render_glyphs(per_class=PER_CLASS)


@pytest.fixture
def few_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the search for the classes, for tests about items only."""
    monkeypatch.setattr(glyphs, "glyph_characters", lambda: list("ΩЖg7"))


def script(name: str) -> str:
    return name.split("/")[0]


def test_shapes_and_counts(rendered: Rendered) -> None:
    number = len(rendered.classes)
    assert rendered.items.shape == (number * PER_CLASS, 1, 28, 28)
    assert rendered.items.dtype == np.uint8
    assert rendered.counts.dtype == np.int64
    assert rendered.counts.tolist() == [PER_CLASS] * number


def test_names_are_unique_letters_and_digits(rendered: Rendered) -> None:
    assert len(set(rendered.classes)) == len(rendered.classes) > 500
    characters = [unicodedata.lookup(name.split("/")[1]) for name in rendered.classes]
    assert {unicodedata.category(c) for c in characters} <= {"Lu", "Ll", "Lt", "Lo", "Nd"}


def test_splits_cover_all_classes_once_and_keep_scripts_whole(rendered: Rendered) -> None:
    indices = [index for split in rendered.splits.values() for index in split]
    assert sorted(indices) == list(range(len(rendered.classes)))
    scripts = {
        split: {script(rendered.classes[index]) for index in indices}
        for split, indices in rendered.splits.items()
    }
    assert scripts == {
        "train": {"Latin", "Digit"},
        "validation": {"Cyrillic"},
        "test": {"Armenian", "Georgian", "Greek"},
    }
    assert len(rendered.splits["validation"]) >= 40
    assert len(rendered.splits["test"]) >= 60


def undistorted(name: str, font: ImageFont.FreeTypeFont) -> npt.NDArray[np.float64]:
    """Draw a character filling a 20 × 20 square, as a unit vector of pixels."""
    image = Image.new("L", (200, 200))
    ImageDraw.Draw(image).text((60, 60), unicodedata.lookup(name.split("/")[1]), 255, font)
    pixels = np.asarray(image.resize((20, 20), box=image.getbbox()), dtype=np.float64).ravel()
    return pixels / np.linalg.norm(pixels)


@pytest.mark.medium
def test_no_two_classes_look_alike(rendered: Rendered) -> None:
    """By another measure than the module's own: the cosine of the pixels, averaged over faces."""
    folder = glyphs.font_folder()
    similarity = np.zeros((len(rendered.classes), len(rendered.classes)))
    for face in glyphs.FONT_FACES:
        font = ImageFont.truetype(folder / f"DejaVu{face}.ttf", 64)
        letters = np.stack([undistorted(name, font) for name in rendered.classes])
        similarity += letters @ letters.T / len(glyphs.FONT_FACES)
    np.fill_diagonal(similarity, 0)
    first, second = np.unravel_index(similarity.argmax(), similarity.shape)
    assert similarity.max() < 0.97, (rendered.classes[first], rendered.classes[second])


def test_shapes_shared_by_scripts_stay_in_the_test_split(rendered: Rendered) -> None:
    names = {name.split("/")[1] for name in rendered.classes}
    assert "GREEK CAPITAL LETTER ALPHA" in names
    assert "LATIN CAPITAL LETTER A" not in names
    assert "CYRILLIC CAPITAL LETTER A" not in names
    assert "LATIN CAPITAL LETTER R" in names


def test_every_letter_is_visible_and_whole(rendered: Rendered) -> None:
    images = rendered.items[:, 0]
    assert images.max(axis=(1, 2)).min() > 200
    border = (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1])
    assert max(side.max() for side in border) == 0


@pytest.mark.usefixtures("few_characters")
def test_the_seed_decides_the_items() -> None:
    first = render_glyphs(per_class=3, seed=1)
    np.testing.assert_array_equal(first.items, render_glyphs(per_class=3, seed=1).items)
    assert (first.items != render_glyphs(per_class=3, seed=2).items).any(axis=(1, 2, 3)).all()


@pytest.mark.usefixtures("few_characters")
def test_a_smaller_set_is_the_beginning_of_a_larger_one() -> None:
    small = render_glyphs(per_class=2).items.reshape(4, 2, 28, 28)
    large = render_glyphs(per_class=13).items.reshape(4, 13, 28, 28)
    np.testing.assert_array_equal(small, large[:, :2])
    assert (large[:, 0] != large[:, 12]).any(), "one face, but another distortion"


@pytest.mark.usefixtures("few_characters")
def test_size_and_progress() -> None:
    calls: list[tuple[int, int]] = []
    items = render_glyphs(40, 1, progress=lambda done, total: calls.append((done, total))).items
    assert items.shape == (4, 1, 40, 40)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(("name", "value"), [("size", 15), ("per_class", 0), ("seed", -1)])
def test_bad_arguments_are_named(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; give {name} >= {value + 1}"):
        render_glyphs(**{name: value})  # pyright: ignore[reportArgumentType]


def test_fingerprint_follows_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = glyphs_fingerprint()
    assert before == glyphs_fingerprint()
    monkeypatch.setattr(glyphs, "VERSION", glyphs.VERSION + 1)
    assert glyphs_fingerprint() != before


def test_nearest_neighbor_in_pixels_is_not_enough(rendered: Rendered) -> None:
    """5-way 1-shot on the test scripts by squared Euclidean distance, 15 queries per class."""
    ways, queries, episodes = 5, 15, 600
    pixels = rendered.items.reshape(-1, PER_CLASS, 28 * 28).astype(np.float32) / 255
    rng = np.random.default_rng(0)
    correct = 0
    for _ in range(episodes):
        classes = rng.choice(rendered.splits["test"], ways, replace=False)
        picked = np.stack([rng.permutation(PER_CLASS)[: queries + 1] for _ in range(ways)])
        support = pixels[classes, picked[:, 0]]
        query = pixels[classes[:, None], picked[:, 1:]].reshape(ways * queries, -1)
        distance = (support**2).sum(1) - 2 * query @ support.T  # less a term of the query alone
        correct += (distance.argmin(1) == np.repeat(np.arange(ways), queries)).sum()
    assert 0.40 < correct / (episodes * ways * queries) < 0.65
