"""The network for photographs, whose weights come inside a package."""

import importlib
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import quickstudy as qs
from quickstudy import encoders
from quickstudy.core.learner import batch_statistics, training_mode
from quickstudy.encoders import photos
from quickstudy.encoders.backbone import Backbone, Preprocessing

pytestmark = pytest.mark.skipif(
    not photos.photos_installed(), reason="pip install 'quickstudy[photos]' brings what these need"
)


@pytest.fixture(scope="module")
def encoder() -> encoders.PhotoEncoder:
    return encoders.PhotoEncoder(64)


def test_features_are_those_of_the_network_on_its_own_pixels_most_of_the_middle() -> None:
    """Places are 1 / 3 of the side apart, and weigh as a normal curve says."""
    encoder, x = encoders.PhotoEncoder(96), torch.rand(2, 3, 96, 96)
    z = encoder(x)
    made = importlib.import_module(photos.NETWORK).EfficientNet.from_name("efficientnet-lite0").eval()
    made.load_state_dict(encoder.network.get_submodule("trunk").state_dict(), strict=False)
    seen: list[torch.Tensor] = []

    def keep(_: nn.Module, __: object, found: torch.Tensor) -> None:
        seen.append(found)

    made._blocks[-1].register_forward_hook(keep)
    with torch.no_grad():
        made((255 * x - 127) / 128)
    assert z.shape == seen[0].shape[:2] == (2, 320) == (2, encoder.dimensions)
    expected, total = torch.zeros_like(z), 0.0
    for i in range(3):
        for j in range(3):
            weight = math.exp(-0.5 * ((i - 1) ** 2 + (j - 1) ** 2) / (3 * 0.18) ** 2)
            expected, total = expected + weight * seen[0][:, :, i, j], total + weight
    torch.testing.assert_close(z, expected / total, rtol=1e-4, atol=1e-5)


def test_it_knows_what_it_was_trained_on() -> None:
    """A lion and a flower of scikit-learn's would do; here its own classifier must be sure of a flower."""
    from sklearn.datasets import load_sample_image

    flower = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None] / 255
    china = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None] / 255
    encoder = encoders.PhotoEncoder()
    parts = [
        F.normalize(encoder(picture[:, :, :, left : left + 427]))
        for picture in (flower, china)
        for left in (0, 200)
    ]
    same = [(parts[0] @ parts[1].T).item(), (parts[2] @ parts[3].T).item()]
    other = [(parts[i] @ parts[j].T).item() for i in (0, 1) for j in (2, 3)]
    assert min(same) > max(other) + 0.2


def test_it_stays_frozen_whatever_is_around_it(encoder: encoders.PhotoEncoder) -> None:
    learner = qs.PretrainedFeatures(encoder)
    x = torch.rand(2, 3, 64, 64)
    before = encoder(x)
    for mode in (learner.train, lambda: training_mode(learner)):
        mode()
        assert learner.training
        assert not any(m.training for m in encoder.modules())
        torch.testing.assert_close(encoder(x), before)
    with batch_statistics(learner):
        torch.testing.assert_close(encoder(x), before)
    assert not any(p.requires_grad for p in encoder.parameters())
    learner.eval()


def test_a_learner_of_it_tells_classes_apart_and_is_built_again(tmp_path: Path) -> None:
    from quickstudy.core import checkpoint

    learner, manifest = qs.load_learner("photos")
    assert not learner.training
    assert learner.item_format == qs.ImageFormat(160, 3)
    assert manifest["pretrained"] == "photos"
    checkpoint.save(tmp_path / "mine.safetensors", learner.state_dict(), manifest)
    again, _ = qs.load_learner(tmp_path / "mine.safetensors")
    x, y = torch.rand(1, 4, 3, 160, 160), torch.tensor([[0, 0, 1, 1]])
    asked = qs.Support(x, y, 2), torch.rand(1, 2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(again.predict(*asked), learner.predict(*asked))


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (2, 64, 64), (2, 64, 64, 3)])
def test_what_are_no_colour_pictures_is_refused(
    encoder: encoders.PhotoEncoder, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"photos takes colour pictures \[B, 3, H, W\] in \[0, 1\], not \["):
        encoder(torch.rand(shape))


def test_a_small_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size is 16: it must be at least 32"):
        encoders.PhotoEncoder(16)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "WEIGHTS", "not_there_at_all")
    with pytest.raises(ValueError, match=r"pip install 'quickstudy\[photos\]'"):
        encoders.PhotoEncoder()
    with pytest.raises(ValueError, match=r"pip install 'quickstudy\[photos\]'"):
        qs.load_learner("photos")


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "WEIGHTS", "json")  # a package that is there, and holds none
    with pytest.raises(FileNotFoundError, match=r"weights of photos are missing .*--force-reinstall"):
        encoders.PhotoEncoder()


def test_pictures_of_any_size_are_resized_and_cropped_as_stated() -> None:
    done = Preprocessing(8, (4, 4), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
    x = torch.rand(1, 3, 16, 32)
    smaller = F.interpolate(x, (8, 16), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(done.applied(x), (smaller[:, :, 2:6, 6:10] - 0.5) / 0.25)
    padded = Preprocessing(4, (6, 6), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).applied(torch.ones(1, 3, 4, 4))
    assert padded.shape == (1, 3, 6, 6)
    assert padded.sum() == 3 * 16
    with pytest.raises(ValueError, match="must be at least 1 pixel"):
        Preprocessing(0, None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="deviations must be above 0"):
        Preprocessing(8, None, (0.0, 0.0, 0.0), (1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="nearest, bilinear or bicubic"):
        Preprocessing(8, None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "lanczos")


def test_what_gives_no_features_is_refused() -> None:
    plain = Preprocessing((8, 8), None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"mine gives \[1\] for 1 pictures"):
        Backbone(nn.Sequential(nn.Flatten(), nn.Linear(192, 1), nn.Flatten(0)), plain, "mine")
