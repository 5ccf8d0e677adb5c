"""Pools of spoken words: who and what is in which split, and what absent or odd data is answered with."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from quickstudy.data.datasets.speech import (
    DIGIT_SPEAKERS,
    DIGITS,
    TEST_WORDS,
    VALIDATION_WORDS,
    arabic_speakers,
    arabic_words,
    fsdd,
)
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.audio import is_silent
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting

POOLS = [fsdd, arabic_words, arabic_speakers]
Load = Callable[..., ClassPool]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def clip(path: Path, level: int, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.tile(np.array([level, -level], np.int16), rate // 40), rate)


def level(pool: ClassPool, item: int) -> int:
    return int(np.abs(pool.items[item]).max())


def digits(root: Path, takes: int = 2) -> Path:
    """Digit d by the s-th speaker, take t, has the level 100 d + 10 s + t + 1."""
    for d in range(10):
        for s, speaker in enumerate(DIGIT_SPEAKERS):
            for t in range(takes):
                path = root / "fsdd" / "recordings" / f"{d}_{speaker}_{t}.wav"
                clip(path, 100 * d + 10 * s + t + 1, 8000)
    return root


WORDS = [*TEST_WORDS, *VALIDATION_WORDS, "one", "zoom in"]
SPEAKERS = {"01": "train", "02": "val", "03": "test", "04": "test", "05": "train"}


def commands(root: Path) -> Path:
    """The w-th word by speaker s, take t, has the level 100 w + 10 s + t."""
    folder = root / "arabic_commands"
    for w, word in enumerate(WORDS):
        for speaker in SPEAKERS:
            for t in (1, 2):
                clip(folder / word / f"{speaker}_0{t}.flac", 100 * w + 10 * int(speaker) + t, 16_000)
    lines = ["speaker,split", *(f"{s},{split}" for s, split in SPEAKERS.items())]
    (folder / "speakers.csv").write_text("\n".join(lines) + "\n")
    return root


def test_digits_are_split_by_speaker(root: Path) -> None:
    pool = fsdd(digits(root))
    assert pool.name == "fsdd"
    assert pool.items.shape == (120, 8000)
    who = dict[str, set[str]]()
    for split, speakers in (("train", 3), ("validation", 1), ("test", 2)):
        part = pool.split(split)
        assert part.classes == tuple(f"{d}@{split}" for d in DIGITS)
        assert part.counts.tolist() == [2 * speakers] * 10
        assert part.sources is not None
        who[split] = set[str]()
        for c, (start, count) in enumerate(zip(part.starts, part.counts, strict=True)):
            for i in range(start, start + count):
                speaker = part.source_names[part.sources[i]]
                who[split].add(speaker)
                expected = 100 * c + 10 * list(DIGIT_SPEAKERS).index(speaker)
                assert level(part, i) in (expected + 1, expected + 2)
    assert who == {
        "train": {"george", "jackson", "lucas"},
        "validation": {"nicolas"},
        "test": {"theo", "yweweler"},
    }


def test_words_and_speakers_of_the_test_are_heard_nowhere_else(root: Path) -> None:
    pool = arabic_words(commands(root))
    assert len(TEST_WORDS) == 8
    assert len(VALIDATION_WORDS) == 4
    expected = {
        "train": ({"one", "zoom in"}, {"01", "05"}),
        "validation": ({*VALIDATION_WORDS}, {"02"}),
        "test": ({*TEST_WORDS}, {"03", "04"}),
    }
    for split, (words, speakers) in expected.items():
        part = pool.split(split)
        assert {*part.classes} == words
        assert part.sources is not None
        for word in part.classes:
            at = part.classes.index(word)
            items = range(part.starts[at], part.starts[at] + part.counts[at])
            heard = [part.source_names[part.sources[i]] for i in items]
            assert heard == sorted(list(speakers) * 2)
            where = 100 * WORDS.index(word)
            assert [level(part, i) for i in items] == [
                where + 10 * int(s) + t for s in sorted(speakers) for t in (1, 2)
            ]


def test_speakers_as_classes_and_words_as_sources(root: Path) -> None:
    pool = arabic_speakers(commands(root))
    assert {s: pool.split(s).classes for s in pool.splits} == {
        "train": ("01", "05"),
        "validation": ("02",),
        "test": ("03", "04"),
    }
    assert pool.source_names == tuple(sorted(WORDS))
    assert pool.counts.tolist() == [2 * len(WORDS)] * 5
    assert pool.sources is not None
    for c in range(5):
        for i in range(pool.starts[c], pool.starts[c] + pool.counts[c]):
            word = WORDS.index(pool.source_names[pool.sources[i]])
            assert level(pool, i) // 10 == 10 * word + int(pool.classes[c])


def test_words_and_speakers_are_two_pools_of_the_same_files(root: Path) -> None:
    words, speakers = arabic_words(commands(root)), arabic_speakers(root)
    assert words.digest != speakers.digest
    assert (words.name, speakers.name) == ("arabic-words", "arabic-speakers")


@pytest.mark.medium
@pytest.mark.parametrize("load", POOLS)
def test_a_second_load_is_the_same(root: Path, load: Load) -> None:
    commands(digits(root))
    told = list[tuple[int, int]]()
    first, second = load(root), load(root, progress=lambda *done: told.append(done))
    assert not told, "decoded once"
    assert first.classes == second.classes
    np.testing.assert_array_equal(first.items, second.items)
    np.testing.assert_array_equal(first.sources, second.sources)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (fsdd, r"no Free Spoken Digit Dataset at .*recordings: put .*Jakobovski.* there, or name another"),
        (arabic_words, r"no Arabic Speech Commands at .*: put WORD/SPEAKER_TAKE.flac .* there"),
        (arabic_speakers, r"no Arabic Speech Commands at"),
    ],
)
def test_absent_data_is_asked_for(root: Path, load: Load, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        load(root)


def test_a_stranger_among_the_digits(root: Path) -> None:
    clip(digits(root, 1) / "fsdd" / "recordings" / "0_somebody_0.wav", 1, 8000)
    with pytest.raises(ValueError, match="has digit '0' by 'somebody', who is none of the six speakers"):
        fsdd(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no list of speakers"),
        ("speaker,split\n01,holdout\n", "is no list of speakers"),
        ("who,split\n01,train\n", "is no list of speakers"),
        ("speaker,split\n01,train\n", "lacks speaker '02'"),
    ],
)
def test_lists_of_speakers_that_are_none(root: Path, text: str, message: str) -> None:
    (commands(root) / "arabic_commands" / "speakers.csv").write_text(text)
    for load in (arabic_words, arabic_speakers):
        with pytest.raises(ValueError, match=message):
            load(root)


def test_no_list_of_speakers(root: Path) -> None:
    (commands(root) / "arabic_commands" / "speakers.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no list of speakers at .*speakers\.csv"):
        arabic_words(root)


# The data themselves


@pytest.mark.parametrize(
    ("load", "folder", "sizes", "sources"),
    [
        (fsdd, "fsdd", {"train": (10, 150), "validation": (10, 50), "test": (10, 100)}, 6),
        (arabic_words, "arabic_commands", {"train": (18, 90), "validation": (4, 30), "test": (8, 30)}, 30),
        (
            arabic_speakers,
            "arabic_commands",
            {"train": (18, 150), "validation": (6, 150), "test": (6, 150)},
            30,
        ),
    ],
)
def test_the_data_themselves(
    load: Load,
    folder: str,
    sizes: dict[str, tuple[int, int]],
    sources: int,
    real_data: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = real_data(folder)
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path_factory.mktemp("cache")))
    pool = load(root)
    for split, (classes, items) in sizes.items():
        assert Counter(pool.split(split).counts.tolist()) == {items: classes}
    assert len(pool.source_names) == sources
    assert not any(map(is_silent, pool.items))
    test = pool.split("test")
    episode = Episodes(test, Setting(len(test), 1, 5), tasks=2, cross_source=True)[0]
    assert 0.1 < episode.query_x.abs().max() <= 1
