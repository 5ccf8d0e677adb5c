"""Spoken words: the Free Spoken Digit Dataset, and Arabic Speech Commands, by word or by speaker.

Zohar Jackson and others: "Free Spoken Digit Dataset", CC BY-SA 4.0. Abdulkader Ghandoura, Farouk Hjabo,
Oumayma Al Dakkak: "Building and benchmarking an Arabic Speech Commands dataset for small-footprint keyword
spotting", Engineering Applications of Artificial Intelligence 2021, CC BY 4.0.
"""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from quickstudy.core.progress import ProgressCallback
from quickstudy.data.cache import data_root, present
from quickstudy.data.datasets.folders import matching_files, pool_of_files
from quickstudy.data.datasets.spliced_words import with_new_words
from quickstudy.data.formats.archives import File
from quickstudy.data.formats.audio import VERSION, AudioFormat
from quickstudy.data.pool import ClassPool
from quickstudy.data.splits import SPLITS

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_SPEAKERS = {
    "george": "train",
    "jackson": "train",
    "lucas": "train",
    "nicolas": "validation",
    "theo": "test",
    "yweweler": "test",
}
DIGITS_8K = AudioFormat(8000, 1.0, "centered")
WORDS_16K = AudioFormat(16_000, 1.0, "centered")
VOICES_16K = AudioFormat(16_000, 1.0)

# the first eight and the next four of the words in the order of random.Random(0).shuffle
TEST_WORDS = ("digit", "eight", "forward", "left", "no", "right", "send", "yes")
VALIDATION_WORDS = ("previous", "six", "up", "zoom out")


def fsdd(
    root: str | Path | None = None, progress: ProgressCallback | None = None, version: int = VERSION
) -> ClassPool:
    """Load the Free Spoken Digit Dataset: ten English digits by six speakers, 50 times each.

    Three speakers are for training, one for validation and two for the test. As splits consist of classes, a
    class is a digit by the speakers of one split: zero@train, zero@validation, …, 30 in all. The sources of
    the pool are the speakers.

    Args:
        root: Data root, the folder that holds `fsdd/recordings/DIGIT_SPEAKER_TAKE.wav`; None for the default
            of `data_root`.
        progress: Function that is called with (done, total) while decoding.
        version: Version of the rule by which clips are cut out, see `AudioFormat`.

    Raises:
        FileNotFoundError: If the recordings are missing.
        ValueError: If a recording is of an unknown digit or speaker.
    """
    folder = present(
        data_root(root) / "fsdd" / "recordings",
        "Free Spoken Digit Dataset",
        "the recordings of github.com/Jakobovski/free-spoken-digit-dataset",
    )
    names = dict(zip("0123456789", DIGITS, strict=True))

    def class_of(digit: str, speaker: str) -> tuple[str, str]:
        if digit not in names or speaker not in DIGIT_SPEAKERS:
            raise ValueError(f"{folder} has digit {digit!r} by {speaker!r}, who is none of the six speakers")
        split = DIGIT_SPEAKERS[speaker]
        return f"{names[digit]}@{split}", split

    form = replace(DIGITS_8K, version=version)
    return _pool("fsdd", folder, "{word}_{speaker}_{take}", form, class_of, "speaker", progress)


def arabic_words(
    root: str | Path | None = None,
    spliced: int = 0,
    progress: ProgressCallback | None = None,
    version: int = VERSION,
) -> ClassPool:
    """Load Arabic Speech Commands by word: 18 words for training, 4 for validation and 8 for the test.

    Neither the words nor the speakers of the test occur in training: each split has its own words by its own
    speakers, and other combinations are left out. The sources of the pool are the speakers.

    Args:
        root: Data root, the folder that holds `arabic_commands/WORD/SPEAKER_TAKE.flac` and
            `arabic_commands/speakers.csv`; None for the default of `data_root`.
        spliced: Number of spliced words to add for training, as `with_new_words` does, which also adds all
            training words reversed; 0 to add none of either.
        progress: Function that is called with (done, total) while decoding.
        version: Version of the rule by which clips are cut out, see `AudioFormat`.

    Raises:
        FileNotFoundError: If the recordings or the list of speakers are missing.
        ValueError: If the list is damaged or lacks a speaker.
    """
    folder, splits = _arabic(root)

    def class_of(word: str, speaker: str) -> tuple[str, str] | None:
        split = _split_of(speaker, splits)
        own = "test" if word in TEST_WORDS else "validation" if word in VALIDATION_WORDS else "train"
        return (word, own) if split == own else None

    pattern, form = "{word}/{speaker}_{take}", replace(WORDS_16K, version=version)
    pool = _pool("arabic-words", folder, pattern, form, class_of, "speaker", progress)
    return with_new_words(pool, spliced) if spliced else pool


def arabic_speakers(
    root: str | Path | None = None, progress: ProgressCallback | None = None, version: int = VERSION
) -> ClassPool:
    """Load Arabic Speech Commands by speaker: 18 for training, 6 for validation and 6 for the test.

    Each speaker has 150 clips of words. The sources of the pool are the words.

    Args:
        root: Data root, the folder that holds `arabic_commands/WORD/SPEAKER_TAKE.flac` and
            `arabic_commands/speakers.csv`; None for the default of `data_root`.
        progress: Function that is called with (done, total) while decoding.
        version: Version of the rule by which clips are cut out, see `AudioFormat`.

    Raises:
        FileNotFoundError: If the recordings or the list of speakers are missing.
        ValueError: If the list is damaged or lacks a speaker.
    """
    folder, splits = _arabic(root)

    def class_of(_: str, speaker: str) -> tuple[str, str]:
        return speaker, _split_of(speaker, splits)

    pattern, form = "{word}/{speaker}_{take}", replace(VOICES_16K, version=version)
    return _pool("arabic-speakers", folder, pattern, form, class_of, "word", progress)


def _pool(
    name: str,
    folder: Path,
    pattern: str,
    audio_format: AudioFormat,
    class_of: Callable[[str, str], tuple[str, str] | None],
    source: str,
    progress: ProgressCallback | None,
) -> ClassPool:
    """Load a pool of files with word and speaker in their names; `class_of` maps these to class and split."""
    files, sources, split_of = dict[str, list[File]](), dict[File, str](), dict[str, str]()
    for path, parts in matching_files(folder, audio_format, pattern):
        if found := class_of(parts["word"], parts["speaker"]):
            files.setdefault(found[0], []).append(path)
            sources[path] = parts[source]
            split_of[found[0]] = found[1]
    splits = {split: [i for i, c in enumerate(files) if split_of[c] == split] for split in SPLITS}
    pool = pool_of_files(folder, files, audio_format, splits, [splits, source], sources, progress=progress)
    return replace(pool, name=name)


def _arabic(root: str | Path | None) -> tuple[Path, dict[str, str]]:
    """The folder of Arabic Speech Commands, and the split of each speaker."""
    folder = present(
        data_root(root) / "arabic_commands",
        "Arabic Speech Commands",
        "WORD/SPEAKER_TAKE.flac of zenodo.org/records/4662481 with speakers.csv",
    )
    path = folder / "speakers.csv"
    if not path.is_file():
        raise FileNotFoundError(f"no list of speakers at {path}: write lines of speaker,train or val or test")
    with path.open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    try:
        splits = {row["speaker"]: {"val": "validation"}.get(row["split"], row["split"]) for row in rows}
    except KeyError:
        splits = {}
    if not splits or {*splits.values()} - {*SPLITS}:
        raise ValueError(
            f"{path} is no list of speakers: columns must be speaker and split, which is train, val or test"
        )
    return folder, splits


def _split_of(speaker: str, splits: dict[str, str]) -> str:
    if speaker not in splits:
        raise ValueError(f"speakers.csv lacks speaker {speaker!r}: add a line that says train, val or test")
    return splits[speaker]
