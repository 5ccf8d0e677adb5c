"""Faces, invented words and voices."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quickstudy.data.augment.images import (
    FACE_AUGMENT,
    BrightnessContrast,
    Compose,
    RandomAffine,
    RandomErasing,
    RandomHorizontalFlip,
)
from quickstudy.data.datasets.faces import FacePair, lfw, orl, pair_items, view2
from quickstudy.data.datasets.spliced_words import with_new_words
from quickstudy.data.pool import ClassPool


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folds of one genuine and one impostor pair each, and people of no fold."""
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    for name, n in (("Ann", 2), ("Bea", 1), ("Cem", 1), ("Dan", 3), ("Eve", 1), ("Fay", 1), ("Gus", 2)):
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for i in range(n):
            page = np.full((20, 20), 10 * i + ord(name[0]), np.uint8)
            Image.fromarray(page).save(tmp_path / "lfw" / name / f"{name}_{i + 1:04}.png")
    lines = ["2\t1", "Ann\t1\t2", "Bea\t1\tCem\t1", "Dan\t1\t3", "Eve\t1\tFay\t1"]
    (tmp_path / "lfw" / "pairs.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_people_of_the_folds_are_held_out_and_all_others_trained_on(root: Path) -> None:
    pool = lfw(root, 16, validation=[1], test=[2])
    assert pool.split("validation").classes == ("Ann", "Bea", "Cem")
    assert pool.split("test").classes == ("Dan", "Eve", "Fay")
    assert pool.split("train").classes == ("Gus",)
    many = lfw(root, 16, validation=[1], test=[2], least=2)
    assert [many.split(s).classes for s in ("train", "validation", "test")] == [("Gus",), ("Ann",), ("Dan",)]


def test_pairs_are_found_among_the_items(root: Path) -> None:
    folds = view2(root)
    assert folds[1] == [FacePair(("Dan", 1), ("Dan", 3)), FacePair(("Eve", 1), ("Fay", 1))]
    assert [p.genuine for p in folds[0]] == [True, False]
    pool = lfw(root, 16, [1], [2])
    first, second = pair_items(pool, folds[1])
    values = [[int(pool.items[i].max()) for i in side] for side in (first, second)]
    assert values == [[ord("D"), ord("E")], [ord("D") + 20, ord("F")]]


@pytest.mark.parametrize("text", ["", "2\t1\nAnn\t1\t2\n", "2\t1\n" + "Ann\tx\t2\n" * 4])
def test_a_damaged_list_of_pairs_is_named(root: Path, text: str) -> None:
    (root / "lfw" / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=r"pairs\.txt"):
        view2(root)


def test_pictures_and_folds_that_are_not_there_are_named(root: Path) -> None:
    pool = lfw(root, 16, [1], [2])
    for pair in (FacePair(("Ann", 1), ("Ann", 3)), FacePair(("Ann", 0), ("Gus", 1))):
        with pytest.raises(ValueError, match=r"picture [03] of Ann"):
            pair_items(pool, [pair])
    with pytest.raises(ValueError, match="picture 1 of Zoe"):
        pair_items(pool, [FacePair(("Ann", 1), ("Zoe", 1))])
    for fold in (0, 3):
        with pytest.raises(ValueError, match=f"no fold {fold}"):
            lfw(root, 16, test=[fold], validation=[1])
    (root / "lfw" / "pairs.txt").write_text("1\t1\nAnn\t1\t2\nBea\t1\tZoe\t1\n")
    with pytest.raises(ValueError, match="'Zoe'"):
        lfw(root, 16, validation=[], test=[1])


def test_people_of_orl_are_split_by_number(root: Path) -> None:
    for i in range(1, 41):
        (root / "orl_faces" / f"s{i}").mkdir(parents=True)
        Image.fromarray(np.full((112, 92), i, np.uint8)).save(root / "orl_faces" / f"s{i}" / "1.pgm")
    pool = orl(root, 32)
    people = {s: {int(c[1:]) for c in pool.split(s).classes} for s in ("train", "validation", "test")}
    assert people["test"] == {*range(31, 41)}
    assert people["validation"] == {*range(26, 31)}
    assert people["train"] == {*range(1, 26)}
    assert [int(pool.of_class(f"s{i}").max()) for i in (1, 10, 40)] == [1, 10, 40]
    (root / "orl_faces" / "s7" / "1.pgm").unlink()
    with pytest.raises(ValueError, match="s7"):
        orl(root, 32)


def test_absent_data_say_where_to_put_them(tmp_path: Path) -> None:
    for pool, where in ((orl, "orl_faces"), (lfw, "lfw")):
        with pytest.raises(FileNotFoundError, match=where):
            pool(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"pairs\.txt"):
        view2(tmp_path)


def test_the_real_folds_share_nobody_with_training(real_data: Callable[[str], Path]) -> None:
    root = real_data("lfw")
    pool, folds = lfw(root, 64), view2(root)
    assert len(pool) == 5749
    assert len(folds) == 10
    assert all(len(f) == 600 for f in folds)
    trained = set(pool.split("train").classes)
    assert not trained & {p.first[0] for f in folds[7:] for p in f}
    people = orl(real_data("orl_faces"))
    assert [len(people.split(s)) for s in ("train", "validation", "test")] == [25, 5, 10]


def spoken(words: int, speakers: int, takes: int) -> ClassPool:
    """Clip of word w by speaker s: w + 1 in its first half, 100 (w + 1) + s in the second."""
    items = [
        [w + 1] * 50 + [100 * (w + 1) + s] * 50
        for w in range(words)
        for s in range(speakers)
        for _ in range(takes)
    ]
    sources = np.tile(np.repeat(np.arange(speakers), takes), words)
    return ClassPool.from_grouped(
        np.asarray(items, np.int16),
        [f"w{w}" for w in range(words)],
        [speakers * takes] * words,
        splits={"train": np.arange(words - 1), "test": np.asarray([words - 1])},
        sources=sources,
        source_names=tuple(f"s{s}" for s in range(speakers)),
    )


def test_new_words_are_halves_of_two_by_one_speaker_and_words_backwards() -> None:
    pool = spoken(4, 3, 4)
    made = with_new_words(pool, spliced=6, each=2)
    train = made.split("train")
    assert len(train) == 2 * (3 + 6)
    for name in (c for c in train.classes if "|" in c and "/" not in c):
        first, second = (int(part[1:]) for part in name.split("|"))
        clips = train.of_class(name)
        assert first != second
        assert len(clips) == 3 * 2
        assert (clips[:, :40] == first + 1).all()
        assert sorted(clips[:, -1] - 100 * (second + 1)) == [0, 0, 1, 1, 2, 2]
        assert np.array_equal(train.of_class(f"{name}/reversed"), clips[:, ::-1])
    assert np.array_equal(train.of_class("w1"), pool.of_class("w1"))
    assert train.recorded_classes().classes == pool.split("train").classes, "the others were made"
    test = made.split("test")
    assert test.recorded_classes().classes == test.classes == ("w3",)
    assert np.array_equal(test.of_class("w3"), pool.of_class("w3"))
    assert made.sources is not None
    assert pool.sources is not None
    start = test.starts[0]
    assert np.array_equal(made.sources[start : start + 12], pool.sources[36:])
    again = with_new_words(replace(pool, recorded=np.array([True, False, True, False])), spliced=6)
    assert again.recorded_classes().classes == ("w0", "w2"), "what was made before stays so"
    with pytest.raises(ValueError, match="at most 6 pairs"):
        with_new_words(pool, 7)


@pytest.mark.parametrize("change", [*FACE_AUGMENT.changes, FACE_AUGMENT, RandomAffine(padding="border")])
def test_faces_are_changed_in_range_and_can_be_repeated(change: Compose) -> None:
    x = torch.rand(8, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    once, again = (change(x, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(x, before)
    assert torch.equal(once, again)
    assert once.shape == x.shape
    assert once.min() >= 0
    assert once.max() <= 1
    assert not torch.equal(once, x)


def test_each_change_does_what_it_says() -> None:
    x, rng = torch.rand(400, 1, 16, 16), np.random.default_rng(0)
    assert torch.equal(RandomHorizontalFlip(1.0)(x, rng), x.flip(3))
    assert torch.equal(RandomHorizontalFlip(0.0)(x, rng), x)
    mirrored = (RandomHorizontalFlip()(x, rng) == x.flip(3)).flatten(1).all(1).float().mean()
    assert 0.4 < mirrored < 0.6
    assert torch.equal(RandomErasing(0.0)(x, rng), x)
    hidden = (RandomErasing(1.0, (0.25, 0.5))(x, rng) == 0.5).float().mean()
    assert 0.1 < hidden < 0.18  # 0.375² in the mean
    torch.testing.assert_close(BrightnessContrast(0.0, 0.0)(x, rng), x)
    ones = torch.ones(1, 1, 16, 16)
    assert torch.allclose(RandomAffine(shift=5.0, probability=1.0, padding="border")(ones, rng), ones)
    assert not torch.allclose(RandomAffine(shift=5.0, probability=1.0)(ones, rng), ones)
