"""Words under conditions that must not change them: silence around them, noise, level, offset, a click.

Each test speaker's clips are told by the nearest mean of the clips of the other test speakers, which are as
they were recorded. The clips that are asked about are changed, as files, before they are read. Trainings are
taken from runs/NAME:

    quickstudy train digits-fsdd
    quickstudy train words-arabic
"""

import argparse
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F

from benchmarks.rows import Row, read, write
from quickstudy.core.learner import embed
from quickstudy.data.cache import data_root
from quickstudy.data.datasets.folders import matching_files
from quickstudy.data.datasets.speech import DIGIT_SPEAKERS, TEST_WORDS
from quickstudy.data.formats.audio import AudioFormat, is_silent
from quickstudy.data.formats.items import floats
from quickstudy.recognition.embedder import Embedder

Sound = np.ndarray
"""A recording [samples] in [−1, 1]."""
Change = Callable[[Sound, int, np.random.Generator], Sound]
"""From a recording and its rate to what becomes of it."""


@dataclass(frozen=True)
class Spoken:
    """A recording of a word."""

    sound: Sound
    rate: int
    word: str
    speaker: str


def around(x: Sound, rate: int, rng: np.random.Generator, seconds: float) -> Sound:
    """Silence on both sides."""
    return np.pad(x, round(seconds * rate))


def noisy(
    x: Sound, rate: int, rng: np.random.Generator, seconds: float = 0.0, of_peak: bool = False
) -> Sound:
    """White noise at −50 dB of the full range or of the loudest sample, around the word too."""
    x = np.pad(x, round(seconds * rate))
    return x + 10 ** (-50 / 20) * (np.abs(x).max() if of_peak else 1.0) * rng.standard_normal(len(x))


def fainter(x: Sound, rate: int, rng: np.random.Generator, decibels: float) -> Sound:
    """Another level."""
    return x * 10 ** (-decibels / 20)


def lifted(x: Sound, rate: int, rng: np.random.Generator, seconds: float = 0.0) -> Sound:
    """An offset of 0.02."""
    return np.pad(x, round(seconds * rate)) + 0.02


def clicked(
    x: Sound, rate: int, rng: np.random.Generator, before: float, strength: float | None = None
) -> Sound:
    """A click of a millisecond, of a given strength or as loud as the word, before a word in silence."""
    at, length = round((1 - before) * rate), max(1, rate // 1000)
    x = np.pad(x, rate)
    x[at : at + length] += (strength or np.abs(x).max()) * (-1.0) ** np.arange(length)
    return x


CONDITIONS: dict[str, Change] = {
    "as recorded": partial(around, seconds=0.0),
    "0.5 s of silence on each side": partial(around, seconds=0.5),
    "1 s of silence on each side": partial(around, seconds=1.0),
    "2 s of silence on each side": partial(around, seconds=2.0),
    "noise 50 dB below the loudest sample": partial(noisy, of_peak=True),
    "noise 50 dB below the loudest sample, 1 s on each side": partial(noisy, seconds=1.0, of_peak=True),
    "noise at -50 dB of the full range": noisy,
    "noise at -50 dB of the full range, 1 s on each side": partial(noisy, seconds=1.0),
    "20 dB fainter": partial(fainter, decibels=20.0),
    "40 dB fainter": partial(fainter, decibels=40.0),
    "offset 0.02": lifted,
    "offset 0.02, 1 s on each side": partial(lifted, seconds=1.0),
    "a click 0.6 s before the word": partial(clicked, before=0.6),
    "a click 0.1 s before the word": partial(clicked, before=0.1),
    "a click of 0.9, 0.6 s before the word": partial(clicked, before=0.6, strength=0.9),
    "a click of 0.9, 0.1 s before the word": partial(clicked, before=0.1, strength=0.9),
}
PAUSES = (0.3, 0.5, 1.0)
"""Seconds between two words."""


def spoken(name: str, most: int) -> list[Spoken]:
    """The test words of a data set by its test speakers, at most so many of each word by each speaker."""
    if name == "digits-fsdd":
        folder, pattern = data_root() / "fsdd" / "recordings", "{word}_{speaker}_{take}"
        speakers = {s for s, split in DIGIT_SPEAKERS.items() if split == "test"}
        words = {*"0123456789"}
    else:
        folder, pattern = data_root() / "arabic_commands", "{word}/{speaker}_{take}"
        lines = (folder / "speakers.csv").read_text().splitlines()[1:]
        speakers, words = {line.split(",")[0] for line in lines if line.endswith(",test")}, {*TEST_WORDS}
    found, number = list[Spoken](), dict[tuple[str, str], int]()
    for file, parts in matching_files(folder, AudioFormat(), pattern):
        who = parts["word"], parts["speaker"]
        if who[0] not in words or who[1] not in speakers or number.get(who, 0) == most:
            continue
        number[who] = number.get(who, 0) + 1
        x, rate = soundfile.read(str(file))
        found.append(Spoken(x.mean(1) if x.ndim > 1 else x, rate, *who))
    return found


@torch.no_grad()
def embedded(embedder: Embedder, sounds: Sequence[Sound], rates: Sequence[int]) -> tuple[torch.Tensor, int]:
    """Unit embeddings of recordings, written to 16-bit files and read again; and how many are silent."""
    items = np.empty((len(sounds), *embedder.format.shape), np.int16)
    for i, (x, rate) in enumerate(zip(sounds, rates, strict=True)):
        file = io.BytesIO()
        soundfile.write(file, x.clip(-1, 1), rate, format="WAV")
        items[i] = embedder.format.decode(file.getvalue)
    encoder = embedder.encoder.eval()
    z = [
        embed(encoder, floats(torch.from_numpy(part))[None])[0]
        for part in np.array_split(items, len(items) // 50 + 1)
    ]
    return F.normalize(torch.cat(z), dim=1), sum(map(is_silent, items))


def rows_of(name: str, run: Path, most: int, method: str) -> Iterator[Row]:
    """Accuracy under each condition, and what it differs by from the recordings as they are."""
    embedder, clips = Embedder(run), spoken(name, most)
    rates, words = [c.rate for c in clips], np.asarray([c.word for c in clips])
    speakers, names = np.asarray([c.speaker for c in clips]), sorted({c.word for c in clips})
    row = partial(
        Row,
        benchmark="sound_conditions",
        method=method,
        dataset=name,
        split="test",
        seed=embedder.manifest.get("seed", 0),
        n=len(clips),
    )
    clean, _ = embedded(embedder, [c.sound for c in clips], rates)

    def told(z: torch.Tensor) -> np.ndarray:
        answers = np.empty(len(clips), object)
        for who in sorted({*speakers}):
            mine, others = speakers == who, speakers != who
            means = torch.stack([clean[torch.from_numpy(others & (words == w))].mean(0) for w in names])
            best = (z[torch.from_numpy(mine)] @ F.normalize(means, dim=1).T).argmax(1)
            answers[mine] = np.asarray(names)[best.numpy()]
        return answers

    undisturbed = told(clean) == words
    for condition, change in CONDITIONS.items():
        rng = np.random.default_rng(0)
        z, silent = embedded(embedder, [change(c.sound, c.rate, rng) for c in clips], rates)
        right = told(z) == words
        yield row(setting=condition, metric="accuracy %", value=100 * right.mean(), ci95=_ci95(right))
        lost = undisturbed.astype(float) - right
        yield row(setting=condition, metric="points lost", value=100 * lost.mean(), ci95=_ci95(lost))
        if silent:
            yield row(setting=condition, metric="silent %", value=100 * silent / len(clips))
    for pause in PAUSES:
        rng = np.random.default_rng(0)
        sounds: list[Sound] = []
        others: list[str] = []
        for c in clips:
            following = [o for o in clips if o.speaker == c.speaker and o.word != c.word]
            then = following[rng.integers(len(following))]
            sounds.append(np.concatenate([c.sound, np.zeros(round(pause * c.rate)), then.sound]))
            others.append(then.word)
        z, silent = embedded(embedder, sounds, rates)
        answers, setting = told(z), f"another word after {pause:g} s"
        one = (answers == words) | (answers == np.asarray(others))
        yield row(setting=setting, metric="one of the two %", value=100 * one.mean(), ci95=_ci95(one))
        yield row(setting=setting, metric="silent %", value=100 * silent / len(clips))


def _ci95(values: np.ndarray) -> float:
    return float(196 * values.std(ddof=1) / len(values) ** 0.5)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", nargs="+", default=["digits-fsdd", "words-arabic"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--run", help="name of the training's folder, where it is not that of the recipe")
    parser.add_argument("--most", type=int, default=20, help="clips of each word by each speaker")
    parser.add_argument("--note", default="", help="what is to be said of the training")
    options = parser.parse_args()
    rows = read("sound_conditions")
    for name in options.names:
        method = name + options.note
        made = list(rows_of(name, options.runs / (options.run or name), options.most, method))
        rows = [r for r in rows if r.dataset != name] + made
        for r in made:
            print(f"{r.method}, {r.setting}: {r.metric} {r.value:.2f} ± {r.ci95 or 0:.2f}")
    write("sound_conditions", rows)


if __name__ == "__main__":
    main()
