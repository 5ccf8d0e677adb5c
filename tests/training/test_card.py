"""Cards of models: what they hold, and that items of another kind are told from those of a model's own."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import nn

from quickstudy.cli.terminal import Terminal
from quickstudy.core import checkpoint
from quickstudy.data.datasets.faces import orl
from quickstudy.data.datasets.glyphs import glyphs
from quickstudy.data.datasets.omniglot import omniglot
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.formats.items import Items
from quickstudy.data.formats.originals import original_of, typical_size, used_of
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.metric.prototypical import Prototypical
from quickstudy.recipes import weights
from quickstudy.training.card import (
    Card,
    card_of,
    features_of,
    hints_of,
    how_far,
    level_of,
    make_card,
    put_card,
    sentence,
    statistics_of,
    summary_of,
)
from quickstudy.training.fit import fit
from quickstudy.training.launch import launch
from quickstudy.training.predict import predict_folders
from tests.support.recipes import train

INK = ImageFormat(28, 1, invert=True)
MODEL = "prototypical-omniglot-1shot"


def noisy(classes: int = 8, items: int = 20, seed: int = 0) -> ClassPool:
    rng = np.random.default_rng(seed)
    x = rng.integers(60, 180, (classes, 1, 1, 12, 12)) + rng.normal(0, 20, (classes, items, 1, 12, 12))
    names = [f"c{i}" for i in range(classes)]
    return ClassPool.from_grouped(
        x.clip(0, 255).astype(np.uint8).reshape(-1, 1, 12, 12), names, [items] * classes
    )


def flat() -> Prototypical:
    return Prototypical(nn.Flatten())


def test_own_items_are_known_and_others_are_far() -> None:
    card, fresh = make_card(flat(), noisy()), noisy(30, seed=1).items
    assert card is not None
    known = how_far(card, fresh, ImageFormat(12, 1), features_of(flat(), fresh))
    assert known.level == "known"
    assert np.mean([r is not None for r in known.reasons]) < 0.02
    dark = how_far(card, fresh // 16, ImageFormat(12, 1), features_of(flat(), fresh // 16))
    assert dark.level == "far"
    assert all("dark" in (r or "") or "hardly" in (r or "") for r in dark.reasons)
    assert min(dark.distances) > 2
    blurred = np.broadcast_to(np.arange(12, dtype=np.uint8) * 10 + 60, fresh.shape).copy()
    assert "blurred" in str(how_far(card, blurred, ImageFormat(12, 1)).reasons[0])


def test_features_tell_what_statistics_do_not() -> None:
    """The same pixels in another order within the rows have all but the same statistics."""
    stripes = np.zeros((200, 1, 12, 12), np.uint8)
    stripes[:, :, ::2] = 200
    noise = np.random.default_rng(0).integers(0, 40, stripes.shape).astype(np.uint8)
    names, counts = [f"c{i}" for i in range(10)], [20] * 10
    card = make_card(flat(), ClassPool.from_grouped(stripes + noise, names, counts))
    assert card is not None
    across = np.ascontiguousarray((stripes + noise).swapaxes(2, 3))
    assert how_far(card, across, ImageFormat(12, 1)).level == "known"
    assert how_far(card, across, ImageFormat(12, 1), features_of(flat(), across)).level == "far"


def test_a_card_survives_its_manifest_and_is_small(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save(path, {"w": torch.ones(2)}, {"recipe": "mine"})
    card = put_card(path, flat(), noisy())
    tensors, manifest = checkpoint.load(path)
    assert (manifest["recipe"], tensors["w"].tolist()) == ("mine", [1, 1])
    found = card_of(manifest)
    assert found is not None
    assert found.as_dict() == card.as_dict() if card else False
    assert len(json.dumps(manifest)) < 20_000


@pytest.mark.parametrize(
    "manifest",
    [{}, {"card": None}, {"card": []}, {"card": {"statistics": {"contrast": [1]}}}, {"card": {"items": "x"}}],
)
def test_a_manifest_without_a_card_or_with_a_foreign_one(manifest: dict[str, object]) -> None:
    assert card_of(manifest) is None


def test_no_embedding_can_be_read_off_a_card() -> None:
    """Five classes at least make up the embeddings' part, each alike, however many items it has."""
    few = make_card(flat(), noisy(4))
    assert few is not None
    assert few.features is None
    assert make_card(flat(), noisy(2, 5)) is None
    pool = noisy(6, 30)
    whole = make_card(flat(), pool)
    assert whole is not None
    assert whole.features is not None
    assert len(whole.features.mean) < 144 / 4, "in fewer directions than an item has"
    z = features_of(flat(), pool.items)
    assert z is not None
    for row in z:
        assert not np.isclose(row[: len(whole.features.mean)], whole.features.mean, atol=1e-3).all()


def test_levels_need_more_than_chance() -> None:
    assert level_of([]) == "known"
    assert level_of(["blurred"]) == "far"
    assert level_of(["blurred", *[None] * 4]) == "known"
    assert level_of(["blurred"] * 2 + [None] * 4) == "unusual"
    assert level_of(["blurred"] * 30 + [None] * 270) == "known"
    assert level_of(["blurred"] * 300 + [None] * 200) == "far"
    text = sentence("far", ["a; b", "a", None], "pictures", colored=True)
    assert text.startswith("2 of 3 pictures are far from what this model knows (in colour")
    assert sentence("known", ["a", None], "pictures") == ""
    assert summary_of([None, None], "clips") == ""
    assert summary_of([None, "x", "y"], "clips") == "2 of 3 clips: x, or the like"


def test_statistics_of_clips() -> None:
    t = np.arange(8000) / 8000
    tone = (8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)
    half = np.where(t < 0.5, tone, 0).astype(np.int16)
    found = statistics_of(np.stack([tone, half, tone // 100]), 8000)
    assert found["loudness"][0] - found["loudness"][2] == pytest.approx(40, abs=0.5)
    assert found["sound"][:2].tolist() == pytest.approx([1, 0.5], abs=0.02)
    assert found["bandwidth"][0] == pytest.approx(440, abs=2)


def test_what_may_be_wrong_with_a_clip_is_told_once() -> None:
    rng = np.random.default_rng(0)
    form = AudioFormat(8000, 1.0)
    loud = np.rint(3000 * rng.normal(size=(40, 8000)) * np.hanning(8000)).astype(np.int16)
    faint = np.rint(100 * np.sin(np.arange(8000)) * np.hanning(8000)).astype(np.int16)[None]
    assert hints_of(faint, form)[0] == "quiet: its loudest sample is at -50 dB"
    ranges = {"loudness": (-40.0, -30.0, -20.0), "bandwidth": (3000.0, 3500.0, 4000.0)}
    hint = how_far(Card(40, 5, None, ranges), np.concatenate([faint, loud[:1]]), form).hints
    assert hint[0] == "quiet: its loudest sample is at -50 dB; narrow band, as of a telephone"
    assert hint[1] is None


def test_how_much_of_a_file_is_used(tmp_path: Path) -> None:
    Image.new("RGB", (1700, 1000), (200, 20, 20)).save(tmp_path / "a.png")
    Image.new("L", (10, 10)).save(tmp_path / "b.png")
    soundfile.write(tmp_path / "c.wav", np.zeros(62 * 800, np.int16), 800)
    (tmp_path / "d.png").write_bytes(b"no picture")
    a = original_of(tmp_path / "a.png", INK, color=True)
    assert a is not None
    assert (a.size, a.longer, a.colored) == (1000, 1700, True)
    assert (
        used_of(a, INK, 58.8)
        == "17 × larger than the pictures it was made for; used the middle square, 59 % of it"
    )
    assert used_of(a, ImageFormat(84, 3), 900.0) == "used the middle square, 59 % of it"
    assert used_of(a, ImageFormat(84, 3, whole=True), 900.0) is None
    assert "tiny: 10 pixels, where 28" in str(used_of(original_of(tmp_path / "b.png", INK), INK))
    clips = AudioFormat(8000, 1.0)
    assert used_of(original_of(tmp_path / "c.wav", clips), clips) == "used 1.0 s of 62 s"
    assert used_of(original_of(tmp_path / "c.wav", clips), clips, 60.0) is None
    assert original_of(tmp_path / "d.png", INK) is None
    assert typical_size([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "d.png"], INK) == 505
    assert typical_size([], INK) is None


def shipped(name: str) -> tuple[Prototypical, Card]:
    learner, manifest = weights.load_learner(name)
    card = card_of(manifest)
    assert isinstance(learner, Prototypical)
    assert card is not None
    return learner, card


def outside(name: str, items: Items) -> float:
    """Share of the items that are outside, in %."""
    learner, card = shipped(name)
    reasons = how_far(card, items, INK, features_of(learner, items)).reasons
    return 100 * float(np.mean([r is not None for r in reasons]))


def test_every_model_that_ships_has_a_card_under_20_kb() -> None:
    for path in weights.models().values():
        manifest = checkpoint.load(path)[1]
        assert card_of(manifest) is not None, path
        assert len(json.dumps(manifest["card"])) < 20_000


@pytest.mark.slow
def test_false_alarms_and_alarms_of_shipped_models(real_data: Callable[[str], Path]) -> None:
    root = real_data("omniglot/images_background.zip")
    rng = np.random.default_rng(0)

    def some(pool: ClassPool) -> Items:
        return pool.items[rng.choice(pool.indices, 1500, replace=False)]

    letters, ink = some(glyphs().split("test")), some(omniglot(root).split("test"))
    files = sorted((real_data("orl_faces") / "orl_faces").rglob("*.pgm"))[:100]
    faces = np.stack([INK.decode(f) for f in files])
    assert outside(MODEL, ink) <= 1
    assert outside("prototypical-glyphs", letters) <= 1
    assert outside("prototypical-glyphs", ink) <= 10, "which it tells apart well (89 % 12w5s)"
    assert outside(MODEL, letters) <= 15, "which it tells apart well (97 % 12w5s)"
    assert outside(MODEL, faces) >= 99
    assert outside("prototypical-glyphs", faces) >= 99
    assert orl(root).original_size == 92


def test_predict_says_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for c in range(3):
        for j in range(6):
            page = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            path = tmp_path / ("asked" if j == 5 else f"few/c{c}") / f"{c}{j}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(page).resize((1200, 900)).save(path)
    learner, card = shipped(MODEL)
    found = predict_folders(learner, INK, tmp_path / "few", tmp_path / "asked", card=card)
    assert found.level == "far"
    assert "18 of 18 pictures are far from what this model knows (in colour" in found.outside
    assert "9 × larger than the pictures it was made for" in found.used
    assert all(p.outside and p.used for p in found)
    assert found.expected is not None
    assert not found.expected.above_chance
    unsure = predict_folders(learner, INK, tmp_path / "few", tmp_path / "asked", reject=0.05)
    assert [p.label for p in unsure] == [None] * 3
    assert unsure.level is None


def test_a_training_ends_with_a_card(tmp_path: Path) -> None:
    """Of `fit` in Python, and of a recipe."""
    learner = Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(144, 4)))
    few = Setting(3, 1, 1)
    validation = Episodes(noisy(8, 10, 1), few, 1, 0)
    fit(
        learner,
        Episodes(noisy(), few, 1, 0),
        1,
        validation=validation,
        validation_episodes=1,
        out=tmp_path / "f",
    )
    rng = np.random.default_rng(0)
    for c in range(30):
        (tmp_path / f"pics/{c}").mkdir(parents=True)
        for j in range(6):
            page = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(page).save(tmp_path / f"pics/{c}/{j}.png")
    options = {"images": str(tmp_path / "pics"), "size": 16, "ways": 3, "queries": 2}
    shown = Terminal(quiet=True)
    train("prototypical-images", options, tmp_path / "r", display=shown, fabric=launch("cpu"), steps=1)
    for folder, size in (("f", None), ("r", 16.0)):
        card = card_of(checkpoint.load(tmp_path / folder / "best.safetensors")[1])
        assert card is not None
        assert card.size == size
