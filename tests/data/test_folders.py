"""Image folders as people have them: any format, odd names, damaged files."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from quickstudy.core.wording import plural
from quickstudy.data import cache as data_cache
from quickstudy.data.datasets import folders
from quickstudy.data.datasets.folders import (
    audio_folders,
    compiled,
    files_in,
    find_files,
    image_folders,
    report_bad,
)
from quickstudy.data.datasets.layouts import folder_pool
from quickstudy.data.formats import items as formats_items
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.splits import FRACTIONS, SPLITS, random_split, read_split

GREY = ImageFormat(8, 1)
ALL_TEST = (0.0, 0.0, 1.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(path: Path, grey: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    """One shade all over, so that a decoded item still says which file it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path)
    return path


def folder_of(root: Path, counts: dict[str, int]) -> Path:
    """Item j of class c (counted from 0) has the shade 40 c + 5 j + 1."""
    for c, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for j in range(count):
            picture(root / name / f"{j:02}.png", 40 * c + 5 * j + 1)
    return root


def shades(items: np.ndarray) -> list[int]:
    return items[:, 0, 4, 4].tolist()


# What is found


@pytest.mark.parametrize("turned", [False, True])
def test_a_whole_picture_lies_in_the_middle_of_a_square_with_its_edges_repeated(
    tmp_path: Path, turned: bool
) -> None:
    values = np.arange(8 * 4, dtype=np.uint8).reshape(8, 4) * 8
    expected = np.concatenate([values[:, :1]] * 2 + [values] + [values[:, -1:]] * 2, 1)
    Image.fromarray(values.T if turned else values).save(tmp_path / "tall.png")
    decoded = ImageFormat(8, 1, whole=True).decode(tmp_path / "tall.png")
    np.testing.assert_array_equal(decoded[0], expected.T if turned else expected)
    assert ImageFormat(8, 3, invert=True, whole=True).decode(tmp_path / "tall.png").shape == (3, 8, 8)
    cropped, whole = (ImageFormat(4, 1, whole=w).decode(tmp_path / "tall.png") for w in (False, True))
    assert not np.array_equal(cropped, whole)


def test_a_format_without_wishes_is_as_it_was_in_older_manifests() -> None:
    assert ImageFormat(8, 1).as_dict() == {"size": 8, "channels": 1, "invert": False}
    assert ImageFormat(**ImageFormat(8, 1, whole=True).as_dict()).whole


def test_any_format_any_size_any_mode(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    for c, mode in enumerate(("L", "RGB", "RGBA", "P", "1", "CMYK")):
        for ending in ("png", "jpg", "bmp", "gif", "tif", "webp"):
            if mode == "CMYK" and ending != "tif":
                continue
            kept = "RGB" if ending == "jpg" and mode in ("RGBA", "P") else mode
            picture(root / f"class{c}" / f"{mode}.{ending}", 255, (10 + c, 31 - c), kept)
    color = image_folders(root, ImageFormat(8, 3), ALL_TEST)
    assert color.items.shape == (31, 3, 8, 8)
    assert color.items.min() >= 253, "white stays white in every format"
    assert color.name == "pictures"
    assert image_folders(root, GREY, ALL_TEST).items.shape == (31, 1, 8, 8)


def test_odd_names_are_kept(tmp_path: Path) -> None:
    names = ["Zoë (2019) – été", "a [b] & 'c'", "zoom in", "猫"]
    for i, name in enumerate(names):
        picture(tmp_path / "my pictures (1)" / name / f"bild № {i} [copy].PNG", 50 * i)
    data = image_folders(tmp_path / "my pictures (1)", GREY, ALL_TEST)
    assert set(data.classes) == set(names)
    for i, name in enumerate(names):
        assert shades(data.of_class(name)) == [50 * i]
    again = image_folders(tmp_path / "my pictures (1)", GREY, ALL_TEST)
    assert again.classes == data.classes, "also from the cache"


def test_hidden_files_and_other_than_pictures_are_passed_over(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "r", {"a": 2, "b": 1})
    for name in (".DS_Store", "._00.png", "notes.txt", "list.csv", "manual.pdf", "README"):
        (root / "a" / name).write_bytes(b"not a picture")
    (root / "a" / "deeper.png").mkdir()  # a folder is no picture, whatever it is called
    picture(root / "a" / "nested" / "0.png", 9)
    picture(root / ".hidden" / "0.png", 9)
    picture(root / "loose.png", 9)
    with pytest.warns(UserWarning, match="passed over") as said:
        found = find_files(root, GREY)
    assert {c: [p.name for p in ps] for c, ps in found.items()} == {
        "a": ["00.png", "01.png"],
        "b": ["00.png"],
    }
    assert [str(w.message) for w in said] == [
        "1 file beside the class folders passed over: loose.png",
        "4 files of other types passed over: README, .csv, .pdf, .txt",
        "2 folders in folders of pictures passed over: a/deeper.png",
    ]


def test_pictures_of_types_that_are_not_read_are_said(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "r", {"a": 1, "b": 1})
    for i in range(3):
        (root / "a" / f"IMG_{i}.HEIC").write_bytes(b"x")
    (root / "a" / "Thumbs.db").write_bytes(b"x")
    (root / "list.txt").write_text("of the names")
    with pytest.warns(UserWarning, match=r"^3 files of other types passed over: \.heic$") as said:
        find_files(root, GREY)
    assert len(said) == 1
    with pytest.warns(UserWarning, match=r"^3 files of other types passed over: \.heic$"):
        files_in(root / "a", GREY)
    (root / "a" / "00.png").unlink()
    with pytest.raises(
        ValueError, match=r"hold no pictures: a; fill or remove them \(\.heic.* is not read: conv"
    ):
        find_files(root, GREY)


def test_links_are_followed_and_those_that_lead_nowhere_passed_over(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "r", {"a": 1, "b": 1})
    elsewhere = folder_of(tmp_path / "elsewhere", {"c": 1})
    try:
        (root / "c").symlink_to(elsewhere / "c")
    except OSError:
        pytest.skip("no links may be made here")
    (root / "a" / "linked.png").symlink_to(elsewhere / "c" / "00.png")
    for folder in (root, root / "a"):
        (folder / "gone.png").symlink_to(tmp_path / "nowhere")
        (folder / "round.png").symlink_to(folder / "round.png")
    assert {c: [p.name for p in ps] for c, ps in find_files(root, GREY).items()} == {
        "a": ["00.png", "linked.png"],
        "b": ["00.png"],
        "c": ["00.png"],
    }


def test_order_is_by_name(tmp_path: Path) -> None:
    for name in ("10", "9", "B", "a"):
        picture(tmp_path / "r" / "c" / f"{name}.png", 1)
    assert [p.stem for p in files_in(tmp_path / "r" / "c", GREY)] == ["10", "9", "B", "a"]


def test_no_such_root(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder, nor a zip or tar archive: name"):
        find_files(tmp_path / "nowhere", GREY)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        find_files(picture(tmp_path / "a.png", 1), GREY)


def test_a_root_without_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no class folders: expected .*/CLASS/\*\.jpg"):
        find_files(tmp_path, GREY)
    picture(tmp_path / "loose.png", 1)
    with pytest.raises(ValueError, match=r"no class folders \(pictures must lie in folders, whose names"):
        find_files(tmp_path, GREY)


def test_class_folders_without_pictures_are_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "r", {"full": 1, "empty": 0})
    (root / "only words").mkdir()
    (root / "only words" / "a.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"2 class folders of .* hold no pictures: empty, only words; fill"):
        image_folders(root, GREY)


def test_one_class_can_be_tested_on_but_not_split(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "r", {"only": 3})
    assert len(image_folders(root, GREY, ALL_TEST).split("test")) == 1
    with pytest.raises(ValueError, match="1 class can't be split 3 ways: bring more classes"):
        image_folders(root, GREY)


def test_a_class_of_one_picture(tmp_path: Path) -> None:
    data = image_folders(folder_of(tmp_path / "r", {"a": 1, "b": 3, "c": 1}), GREY)
    assert data.counts.tolist() == [1, 3, 1]
    assert [shades(data.of_class(c)) for c in "abc"] == [[1], [41, 46, 51], [81]]


# Pictures that can't be read


def spoil(root: Path) -> None:
    """Three pictures that can't be read, each for a reason of its own, spread over both classes."""
    (root / "a" / "00.png").write_bytes(b"")
    (root / "a" / "02.png").write_bytes(b"hello, I am no picture")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(root / "b" / "01.png")
    whole = (root / "b" / "01.png").read_bytes()
    (root / "b" / "01.png").write_bytes(whole[: len(whole) // 2])


def test_pictures_that_cannot_be_read_are_counted_and_named_with_the_reason(
    tmp_path: Path, cache: Path
) -> None:
    root = folder_of(tmp_path / "r", {"a": 4, "b": 3})
    spoil(root)
    with pytest.raises(OSError, match="3 of 7 pictures can't be read") as raised:
        image_folders(root, GREY, ALL_TEST)
    text = str(raised.value)
    assert f"{root / 'a' / '00.png'}: the file is empty; " in text
    assert f"{root / 'a' / '02.png'}: not a picture in any format that is read; " in text
    assert "truncated" in text.split("01.png: ")[1]
    assert text.endswith("skip them with --skip-corrupt (train: --set skip_corrupt=true)")
    assert not list((cache / "pools").iterdir()), "nothing half-made stays behind"


def test_skipping_keeps_the_others_under_their_own_class(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "r", {"a": 4, "b": 3})
    spoil(root)
    with pytest.warns(UserWarning, match="3 of 7 pictures can't be read: .*; skipped"):
        data = image_folders(root, GREY, ALL_TEST, skip_corrupt=True)
    assert data.counts.tolist() == [2, 2]
    assert shades(data.of_class("a")) == [6, 16]
    assert shades(data.of_class("b")) == [41, 51]
    assert len(data.items) == 4


@pytest.mark.parametrize("skip", [True, False])
def test_a_class_of_which_nothing_can_be_read(tmp_path: Path, skip: bool) -> None:
    root = folder_of(tmp_path / "r", {"good": 2, "bad": 2})
    for path in (root / "bad").iterdir():
        path.write_bytes(b"")
    if skip:
        with (
            pytest.warns(UserWarning, match="2 of 4"),
            pytest.raises(ValueError, match="no pictures of class 'bad' can be read: mend or remove"),
        ):
            image_folders(root, GREY, ALL_TEST, skip_corrupt=True)
    else:
        with pytest.raises(OSError, match="2 of 4 pictures can't be read"):
            image_folders(root, GREY, ALL_TEST)


def test_five_are_named_and_the_rest_counted() -> None:
    bad = {Path(f"p{i}.png"): "why" for i in range(7)}
    with pytest.raises(OSError, match="7 of 9 pictures") as raised:
        report_bad(bad, 9, skip=False)
    assert "p4.png: why; …;" in str(raised.value)
    assert "p5.png" not in str(raised.value)


# Splits


@given(
    st.integers(1, 200),
    st.lists(st.integers(0, 20), min_size=3, max_size=3).filter(any),
    st.integers(0, 2**32 - 1),
)
@example(5, [0, 1, 1], 0)  # halves of an odd number, and nothing for training
@example(3, [1, 1, 18], 0)
def test_dealing_out(classes: int, parts: list[int], seed: int) -> None:
    fractions = [p / sum(parts) for p in parts]
    wanted = sum(p > 0 for p in parts)
    if classes < wanted:
        with pytest.raises(ValueError, match=f"{plural(classes, 'class')} can't be split {wanted} ways"):
            random_split(classes, fractions, seed)
        return
    splits = random_split(classes, fractions, seed)
    assert list(splits) == list(SPLITS)
    assert sorted(i for indices in splits.values() for i in indices) == list(range(classes)), (
        "each class in one split"
    )
    for indices, fraction in zip(splits.values(), fractions, strict=True):
        assert bool(indices) == (fraction > 0)
        if classes >= 60:  # where "one at least" weighs little
            assert abs(len(indices) - fraction * classes) <= 3
    assert splits == random_split(classes, fractions, seed), "repeatable"


def test_another_seed_deals_otherwise() -> None:
    assert random_split(50, FRACTIONS, 0) != random_split(50, FRACTIONS, 1)
    assert [len(v) for v in random_split(100, FRACTIONS, 0).values()] == [64, 16, 20]


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.6, -0.1), (0.5, 0.2, 0.2), (1.0, 1.0, 1.0)])
def test_fractions_that_are_none(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="give three, of train, validation and test, that sum to 1"):
        random_split(10, fractions, 0)


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_split_by_file(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "r", {"a": 1, "b": 1, "c": 1, "d": 1, "été": 1})
    split = written(tmp_path / "s.json", {"test": ["b"], "train": ["été", "a"]})
    data = image_folders(root, GREY, split)
    assert data.split("train").classes == ("été", "a")
    assert data.split("test").classes == ("b",)
    assert len(data.split("validation")) == 0, "c and d are in no split"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["a", "nobody", "x"]}, "names 2 classes without a folder, e.g. 'nobody'"),
        ("{not json", "is no split file: expected"),
        ("", "is no split file: expected"),
        (["a", "b"], "is no split file: expected"),
        ({"train": [["a"]]}, "is no split file: expected"),
        ({"train": 3}, "is no split file: expected"),
        ({"train": ["a"], "val": ["b"]}, r"names splits \['train', 'val'\]: they must be among train, val"),
        ({"train": ["a", "b"], "test": ["b"]}, "class 'b' is in both splits 'train' and 'test'"),
    ],
)
def test_split_files_that_are_none(tmp_path: Path, content: object, message: str) -> None:
    root = folder_of(tmp_path / "r", {"a": 1, "b": 1})
    with pytest.raises(ValueError, match=message):
        image_folders(root, GREY, written(tmp_path / "s.json", content))


def test_no_split_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no split file at .*nowhere\.json"):
        read_split(tmp_path / "nowhere.json", ["a"])


def test_a_recipe_gets_all_splits_and_the_progress(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "r", dict.fromkeys("abcde", 2))
    told: list[tuple[int, int]] = []
    data = folder_pool(root, GREY)(root="not looked at", progress=lambda done, of: told.append((done, of)))
    assert [len(data.split(s)) for s in SPLITS] == [3, 1, 1]
    assert told[-1] == (10, 10)


# Decoding once


def test_a_second_load_decodes_nothing_and_a_changed_file_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of(tmp_path / "r", {"a": 2, "b": 2})
    first = image_folders(root, GREY, ALL_TEST)
    decoded: list[int] = []
    honest = formats_items.decode_items

    def counted(sources: list[Path], *rest: object) -> dict[int, str]:
        decoded.append(len(sources))
        return honest(sources, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(folders, "decode_items", counted)
    second = image_folders(root, GREY, ALL_TEST)
    assert not decoded
    np.testing.assert_array_equal(first.items, second.items)
    assert first.digest == second.digest

    picture(root / "b" / "01.png", 200)
    os.utime(root / "b" / "01.png", ns=(1, 1))  # however coarse the file system's clock is
    third = image_folders(root, GREY, ALL_TEST)
    assert decoded == [4]
    assert shades(third.items) == [1, 6, 41, 200]
    assert third.digest != first.digest

    image_folders(root, ImageFormat(4, 1), ALL_TEST)
    (root / "a" / "00.png").unlink()
    image_folders(root, GREY, ALL_TEST)
    assert decoded == [4, 4, 3], "another size and a removed file, too"


def test_space_is_taken_before_decoding_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory-mapped file without blocks would kill the process where the disk fills up."""
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("this system can't reserve space")
    root = folder_of(tmp_path / "r", {"a": 2})
    blocks: list[int] = []

    def look(sources: object, image_format: ImageFormat, out: np.memmap, progress: object) -> dict[int, str]:
        blocks.append(Path(str(out.filename)).stat().st_blocks * 512)
        return {}

    monkeypatch.setattr(folders, "decode_items", look)
    image_folders(root, ImageFormat(512, 3), ALL_TEST)
    assert blocks[0] >= 2 * 3 * 512 * 512


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of(tmp_path / "r", {"a": 2, "b": 2})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(data_cache.os, "posix_fallocate", full, raising=False)
        with pytest.raises(OSError, match=r"can't write decoded data to .*\(No space left on device\): free"):
            image_folders(root, GREY, ALL_TEST)
    assert not list((cache / "pools").iterdir())
    assert len(image_folders(root, GREY, ALL_TEST).items) == 4, "and it works when there is room again"


# Sound


CLIP = AudioFormat(1000, 0.01)


def clip(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.tile(np.array([value, -value], np.int16), 5), 1000)
    return path


def test_a_folder_of_sound(tmp_path: Path) -> None:
    root = tmp_path / "my sounds"
    for c, name in enumerate(("cat", "dog (big)")):
        for j, ending in enumerate(("wav", "FLAC", "aiff")):
            clip(root / name / f"{j}.{ending}", 10 * c + j + 1)
    picture(root / "cat" / "9.png", 1)
    (root / "cat" / "notes.txt").write_text("no sound")
    with pytest.warns(UserWarning, match=r"2 files of other types passed over: \.png, \.txt"):
        data = audio_folders(root, CLIP, ALL_TEST)
    for other in ("9.png", "notes.txt"):
        (root / "cat" / other).unlink()
    assert data.classes == ("cat", "dog (big)")
    assert data.items.dtype == np.int16
    assert data.items[:, 0].tolist() == [1, 2, 3, 11, 12, 13]
    assert data.sources is None
    (root / "cat" / "0.wav").write_bytes(b"")
    with pytest.raises(OSError, match=r"1 of 6 clips can't be read: .*0\.wav: the file is empty; mend"):
        audio_folders(root, CLIP, ALL_TEST)
    with pytest.warns(UserWarning, match="1 of 6 clips"):
        assert len(audio_folders(root, CLIP, ALL_TEST, skip_corrupt=True).items) == 5


def test_messages_about_sound_speak_of_clips(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no class folders: expected .*/CLASS/\*\.wav"):
        audio_folders(tmp_path, CLIP)
    clip(tmp_path / "loose.wav", 1)
    with pytest.raises(ValueError, match=r"\(clips must lie in folders"):
        audio_folders(tmp_path, CLIP)
    picture(tmp_path / "a" / "1.png", 1)
    with pytest.raises(ValueError, match=r"1 class folders of .* hold no clips: a; fill"):
        audio_folders(tmp_path, CLIP)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{class}_{source}_{take}", "{}_{}_{}.wav"),
        ("{source}/{class}_{take}", "{1}/{0}_{2}.wav"),
        ("{class}/{source}-no{take}", "{0}/{1}-no{2}.wav"),
        ("{class}/{session}/{source} ({take})", "{0}/monday/{1} ({2}).wav"),
    ],
)
def test_class_and_source_by_the_names(tmp_path: Path, pattern: str, name: str) -> None:
    root = tmp_path / "r"
    for c, word in enumerate(("no", "yes")):
        for s, speaker in enumerate(("ann", "zoë")):
            for take in (1, 2):
                clip(root / name.format(word, speaker, take), 100 * c + 10 * s + take)
    clip(root / "a" / "b" / "c" / "too deep.wav", 1)
    for _ in range(2):  # from the cache, too
        data = audio_folders(root, CLIP, ALL_TEST, pattern=pattern)
        assert data.classes == ("no", "yes")
        assert data.source_names == ("ann", "zoë")
        assert data.sources is not None
        assert sorted(data.items[:, 0].tolist()) == [1, 2, 11, 12, 101, 102, 111, 112]
        assert (data.items[:, 0] // 10 % 10 == data.sources).all()
        assert (data.items[:4, 0] < 100).all()


def test_sources_of_what_is_skipped_are_skipped(tmp_path: Path) -> None:
    for i, name in enumerate(("a_x", "a_y", "a_z", "b_x", "b_z")):
        clip(tmp_path / "r" / f"{name}.wav", i)
    (tmp_path / "r" / "a_y.wav").write_bytes(b"")
    with pytest.warns(UserWarning, match="1 of 5"):
        data = audio_folders(tmp_path / "r", CLIP, ALL_TEST, skip_corrupt=True, pattern="{class}_{source}")
    assert data.sources is not None
    assert [data.source_names[s] for s in data.sources] == ["x", "z", "x", "z"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{source}_{take}", "lacks {class}"),
        ("{class}{take}", "is none: name parts such as {class} and {source}"),
        ("{class}_{class}", "each once, with something between them"),
        ("{class}_{Take}", "in lower case"),
        ("{class", "lacks {class}"),
        ("{class}_{take", "is none"),
        ("{class}_{take}", r"zoom_in_1\.wav is not called as the pattern '{class}_{take}' says: rename"),
        ("{class}/{take}", "no clips in .* lie where the pattern '{class}/{take}' says"),
    ],
)
def test_patterns_that_do_not_fit(tmp_path: Path, pattern: str, message: str) -> None:
    clip(tmp_path / "r" / "zoom_in_1.wav", 1)
    with pytest.raises(ValueError, match=message):
        audio_folders(tmp_path / "r", CLIP, ALL_TEST, pattern=pattern)


@given(st.lists(st.text(st.characters(categories=["L", "N", "Zs"]), min_size=1, max_size=6), min_size=3))
def test_a_name_is_read_in_one_way_only(parts: list[str]) -> None:
    expression = compiled("{class}_{source}_{take}")
    match = expression.fullmatch("_".join(parts))
    assert bool(match) == (len(parts) == 3)
    assert not match or [*match.groups()] == parts


def test_a_split_by_names(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "r", dict.fromkeys("abcd", 1))
    data = image_folders(root, GREY, {"test": ["d"], "train": ["c", "a"]})
    assert (data.split("train").classes, data.split("test").classes) == (("c", "a"), ("d",))
    with pytest.raises(ValueError, match=r"the split names 1 class without a folder, e\.g\. 'nobody'"):
        image_folders(root, GREY, {"test": ["nobody"]})


def test_endings_are_known_before_any_picture_was_opened() -> None:
    code = "from quickstudy.data.formats.images import ImageFormat; print('.png' in ImageFormat.endings())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "True\n"
