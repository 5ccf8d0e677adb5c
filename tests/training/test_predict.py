"""Telling pictures apart by raw pixels: no training, so that the right answers are known."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from quickstudy.core import checkpoint
from quickstudy.core.episode import Support
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.formats.items import decode_items, floats
from quickstudy.encoders.classifier import Classifier
from quickstudy.encoders.conv4 import Conv4
from quickstudy.initialization.maml import MAML
from quickstudy.metric.prototypical import Prototypical
from quickstudy.training import of_embeddings, predict
from quickstudy.training.card import Card, Features
from quickstudy.training.predict import Prediction, predict_folders

COLOR = ImageFormat(16, 3)
COLORS = {"blue": (20, 20, 220), "green (dark)": (10, 120, 10), "rød": (200, 30, 30)}


@pytest.fixture
def learner() -> Prototypical:
    return Prototypical(nn.Flatten())


def picture(path: Path, color: tuple[int, int, int], seed: int = 0, size: tuple[int, int] = (20, 30)) -> Path:
    """A noisy sheet of one colour."""
    noise = np.random.default_rng(seed).normal(0, 8, (*size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.asarray(color) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def support(tmp_path: Path) -> Path:
    """One, two and five pictures of the classes."""
    for (name, color), shots in zip(COLORS.items(), (1, 2, 5), strict=True):
        for j in range(shots):
            picture(tmp_path / "support" / name / f"{j}.png", color, j, (17 + j, 40 - j))
    return tmp_path / "support"


@pytest.fixture
def query(tmp_path: Path) -> Path:
    """Two pictures of each class, named after it."""
    for i, (name, color) in enumerate(COLORS.items()):
        for j in range(2):
            picture(tmp_path / "query" / f"{name} {j}.{('png', 'jpg')[j]}", color, 10 + 2 * i + j)
    return tmp_path / "query"


@pytest.mark.medium
def test_right_labels_and_probabilities(learner: Prototypical, support: Path, query: Path) -> None:
    told: list[tuple[int, int]] = []
    found = predict_folders(
        learner, COLOR, support, query, progress=lambda done, total: told.append((done, total))
    )
    assert [p.file for p in found] == sorted(query.iterdir())
    for p in found:
        assert p.file.name.startswith(p.label)
        assert list(p.probabilities) == list(COLORS)
        assert sum(p.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert p.probabilities[p.label] == max(p.probabilities.values()) > 0.5
    assert told[-1] == (8 + 6, 8 + 6)


def test_a_prototype_is_the_mean_of_its_own_pictures_however_many(
    learner: Prototypical, tmp_path: Path
) -> None:
    """The probabilities are those of the paper's equation, written out."""
    shades = {"a": [0, 40], "b": [100, 120, 140, 200]}
    for name, values in shades.items():
        for j, value in enumerate(values):
            path = tmp_path / "s" / name / f"{j}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), value).save(path)
    Image.new("L", (16, 16), 79).save(tmp_path / "q.png")
    (found,) = predict_folders(learner, ImageFormat(16, 1), tmp_path / "s", tmp_path / "q.png")
    distances = [16 * 16 * ((79 - np.mean(v)) / 255) ** 2 for v in shades.values()]
    expected = torch.tensor(distances).neg().softmax(0).tolist()
    assert list(found.probabilities.values()) == pytest.approx(expected, abs=1e-5)
    assert found.label == "a"


def test_a_query_is_told_alike_alone_and_among_others(
    learner: Prototypical, support: Path, query: Path
) -> None:
    together = predict_folders(learner, COLOR, support, query)
    for p in together:
        (alone,) = predict_folders(learner, COLOR, support, p.file)
        assert alone.label == p.label
        assert alone.probabilities == pytest.approx(p.probabilities, abs=1e-5)


def test_archives_stand_for_folders(learner: Prototypical, support: Path, query: Path) -> None:
    packed = [Path(shutil.make_archive(str(p), kind, p)) for p, kind in ((support, "zip"), (query, "gztar"))]
    found = predict_folders(learner, COLOR, *packed)
    expected = predict_folders(learner, COLOR, support, query)
    assert [p.probabilities for p in found] == [p.probabilities for p in expected]
    assert [str(p.file) for p in found] == [f"{packed[1]}/{p.file.name}" for p in expected]


def test_the_class_folders_of_a_query_folder_are_not_looked_into(
    learner: Prototypical, support: Path, query: Path
) -> None:
    picture(query / "deeper" / "0.png", (0, 0, 0))
    with pytest.warns(UserWarning, match="1 folder in folders of pictures passed over: query/deeper"):
        assert len(predict_folders(learner, COLOR, support, query)) == 6


def test_one_class_is_too_few(learner: Prototypical, tmp_path: Path, query: Path) -> None:
    picture(tmp_path / "s" / "only" / "0.png", (0, 0, 0))
    with pytest.raises(ValueError, match="holds one class folder: classification needs at least two"):
        predict_folders(learner, COLOR, tmp_path / "s", query)


def test_nothing_to_learn_from(learner: Prototypical, tmp_path: Path, query: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        predict_folders(learner, COLOR, tmp_path / "nowhere", query)
    (tmp_path / "s" / "empty").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"1 class folders of .* hold no pictures: empty"):
        predict_folders(learner, COLOR, tmp_path / "s", query)


def test_nothing_to_tell(learner: Prototypical, tmp_path: Path, support: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*nowhere"):
        predict_folders(learner, COLOR, support, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no pictures"):
        predict_folders(learner, COLOR, support, tmp_path / "empty")


# Pictures that can't be read


def test_they_are_named(learner: Prototypical, support: Path, query: Path) -> None:
    (support / "rød" / "1.png").write_bytes(b"no picture")
    (query / "blue 0.png").write_bytes(b"")
    with pytest.raises(OSError, match="2 of 14 pictures can't be read") as raised:
        predict_folders(learner, COLOR, support, query)
    assert str(support / "rød" / "1.png") in str(raised.value)
    assert f"{query / 'blue 0.png'}: the file is empty" in str(raised.value)


def test_they_are_skipped_if_asked(learner: Prototypical, support: Path, query: Path) -> None:
    (support / "rød" / "1.png").write_bytes(b"no picture")
    (query / "blue 0.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="2 of 14 pictures can't be read: .*; skipped"):
        found: list[Prediction] = predict_folders(learner, COLOR, support, query, skip_corrupt=True)
    assert [p.file.name for p in found] == [p.name for p in sorted(query.iterdir()) if p.name != "blue 0.png"]
    assert all(p.file.name.startswith(p.label) for p in found), "the others keep their places"


def test_a_class_that_skipping_leaves_empty(learner: Prototypical, support: Path, query: Path) -> None:
    (support / "blue" / "0.png").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="1 of 14"),
        pytest.raises(ValueError, match="no pictures of class 'blue' can be read: mend or remove them"),
    ):
        predict_folders(learner, COLOR, support, query, skip_corrupt=True)


def test_no_query_is_left(learner: Prototypical, support: Path, tmp_path: Path) -> None:
    (tmp_path / "q.png").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="1 of 9"),
        pytest.raises(ValueError, match=r"no pictures of .*q\.png can be read"),
    ):
        predict_folders(learner, COLOR, support, tmp_path / "q.png", skip_corrupt=True)


class Watched(nn.Module):
    """An encoder that says how many items it has seen, and how many at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        return x.flatten(1)


@pytest.mark.parametrize("features", [False, True])
def test_each_file_is_encoded_once(
    features: bool, support: Path, query: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for what is expected, and for saying whether it is far from what the model knows."""
    known = Features((0.0,), (1.0,), 1.0) if features else None
    card = Card(100, 5, None, {}, known)
    plain = predict_folders(Prototypical(nn.Flatten()), COLOR, support, query, card=card)
    monkeypatch.setattr(of_embeddings, "HELD", 2)
    learner = Prototypical(Watched())
    found = predict_folders(learner, COLOR, support, query, card=card, reject=0.4)
    assert sum(learner.encoder.seen) == 8 + len(found)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert found.expected == plain.expected
    assert found.level == plain.level
    for a, b in zip(found, plain, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities)


def test_few_pictures_are_held_as_floats(
    learner: Prototypical, support: Path, query: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labelled ones, and of the others two at a time."""
    held: list[int] = []

    def watched(items: torch.Tensor) -> torch.Tensor:
        held.append(items.numel() // 768)
        return floats(items)

    monkeypatch.setattr(of_embeddings, "HELD", 2)
    for module in (of_embeddings, predict):
        monkeypatch.setattr(module, "floats", watched)
    assert len(predict_folders(learner, COLOR, support, query)) == 6
    assert held == [8, 2, 2, 2]


class Dark(Prototypical):
    """A learner that looks at more than embeddings: dark pictures are of the first class."""

    def predict(self, support: Support, query_x: torch.Tensor) -> torch.Tensor:
        dark = query_x.mean((2, 3, 4))[..., None] < 1
        return super().predict(support, query_x) + 1e6 * dark * torch.eye(support.ways)[0]


def test_a_learner_that_looks_at_the_items_is_given_them(support: Path, query: Path) -> None:
    found = predict_folders(Dark(nn.Flatten()), COLOR, support, query)
    assert {p.label for p in found} == {"blue"}


@pytest.fixture
def adaptive() -> MAML:
    torch.manual_seed(0)
    return MAML(Classifier(Conv4(3, 8, running_statistics=False), 5, 8), lr=0.1, steps=1, test_steps=3)


def test_adapted_weights_are_saved_and_are_an_ordinary_state_dict(
    adaptive: MAML, support: Path, query: Path, tmp_path: Path
) -> None:
    before = {k: p.clone() for k, p in adaptive.state_dict().items()}
    found = predict_folders(adaptive, COLOR, support, query, save=tmp_path / "out" / "adapted.safetensors")
    assert all(torch.equal(p, before[k]) for k, p in adaptive.state_dict().items())
    weights, manifest = checkpoint.load(tmp_path / "out" / "adapted.safetensors")
    assert manifest["classes"] == list(COLORS)
    model = Classifier(Conv4(3, 8), 5, 8)  # with running statistics, as everybody's are
    model.load_state_dict(weights)
    items = np.empty((len(found), *COLOR.shape), np.uint8)
    decode_items([p.file for p in found], ImageFormat(**manifest["items"]), items)
    with torch.no_grad():
        scores = model.eval()(floats(torch.from_numpy(items)))[:, :3]
    expected = torch.tensor([list(p.probabilities.values()) for p in found])
    torch.testing.assert_close(scores.softmax(-1), expected, atol=1e-5, rtol=1e-4)


def test_learners_that_adapt_nothing_have_nothing_to_save(
    learner: Prototypical, support: Path, query: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"Prototypical learners adapt no weights.*leave out --save"):
        predict_folders(learner, COLOR, support, query, save=tmp_path / "adapted.safetensors")
    assert not (tmp_path / "adapted.safetensors").exists()


@pytest.mark.medium
def test_more_classes_than_the_head_tells(adaptive: MAML, query: Path, tmp_path: Path) -> None:
    for i in range(6):
        picture(tmp_path / "six" / f"class {i}" / "0.png", (40 * i, 10, 10))
    with pytest.raises(ValueError, match="distinguishes 5 classes but a task has 6"):
        predict_folders(adaptive, COLOR, tmp_path / "six", query)


def test_weights_that_are_not_finite_tell_nothing(support: Path, query: Path) -> None:
    """Not the first class with `nan %`, as they would."""
    learner = Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)))
    nn.init.constant_(learner.encoder.get_parameter("1.bias"), float("nan"))
    with pytest.raises(FloatingPointError, match=r"the weights encoder\.1\.bias aren't finite"):
        predict_folders(learner, COLOR, support, query)
