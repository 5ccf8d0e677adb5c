"""From files to names: embedder, recognizer, thresholds and their commands."""

import io
import json
import shutil
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

import quickstudy as qs
from quickstudy.__main__ import main
from quickstudy.cli.terminal import Terminal
from quickstudy.core import checkpoint
from quickstudy.core.kernels.sizes import sizes
from quickstudy.data.datasets.folders import class_folders, files_in
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.recipes import catalogue
from quickstudy.recipes import weights as recipes_weights
from quickstudy.recognition import embedder as embedder_module
from quickstudy.recognition.calibration import Calibration
from quickstudy.recognition.embedder import Embedder
from quickstudy.recognition.gallery.gallery import Gallery
from quickstudy.recognition.gallery.pooling import score_of
from quickstudy.recognition.measure import embed_pool, report_on
from quickstudy.recognition.pairs import pooled_scores
from quickstudy.recognition.pooling_choice import Poolings
from quickstudy.recognition.recognizer import Recognizer
from quickstudy.training.launch import launch
from tests.support.recipes import train

SIDE, PEOPLE, PICTURES = 64, 9, 6


def untrained(folder: Path, seed: int = 0, **arguments: object) -> Path:
    """A checkpoint of the recipe `siamese` that has learned nothing: patterns are told apart all the same."""
    recipe = catalogue.RECIPES["siamese"](**arguments)
    torch.manual_seed(seed)
    manifest = {"recipe": "siamese", "arguments": arguments, "items": recipe.item_format.as_dict()}
    manifest |= {"train": asdict(recipe.train), "training": {"minutes": 0.0}, "seed": seed}
    checkpoint.save(folder / "best.safetensors", recipe.used(recipe.learner()).state_dict(), manifest)
    return folder


def draw(folder: Path, people: int, seed: int, pictures: int = PICTURES, noise: float = 20) -> Path:
    """A pattern for each name, seen through noise."""
    rng = np.random.default_rng(seed)
    for i in range(people):
        pattern = np.kron(rng.integers(0, 256, (8, 8)), np.ones((8, 8)))
        (folder / f"p{i}").mkdir(parents=True)
        for j in range(pictures):
            page = (pattern + rng.normal(0, noise, pattern.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(page).save(folder / f"p{i}" / f"{j}.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrated on other patterns."""
    home = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUICKSTUDY_CACHE", str(home / "cache"))
        folder = untrained(home / "run", images="DIR", grey=True)
        calibrated(folder, draw(home / "others", 12, seed=1))
    return folder


def calibrated(folder: Path, others: Path, **options: object) -> Calibration:
    from quickstudy.recognition.measure import calibrate_model

    return calibrate_model(folder, folder=others, display=Terminal(quiet=True), **options)[0]


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return draw(tmp_path / "people", PEOPLE, seed=2)


def enrolled(model: Path, people: Path, names: int = 5, samples: int = 4) -> Recognizer:
    recognizer = Recognizer(model, people.parent / "people.db")
    for i in range(names):
        recognizer.enroll(f"p{i}", [people / f"p{i}" / f"{j}.png" for j in range(samples)])
    return recognizer


@pytest.mark.medium
def test_samples_of_the_enrolled_are_named_and_those_of_strangers_are_unknown(
    model: Path, people: Path
) -> None:
    recognizer = enrolled(model, people)
    known = recognizer.identify([people / f"p{i}" / "5.png" for i in range(5)])
    assert [i.name for i in known] == [f"p{i}" for i in range(5)]
    strangers = recognizer.identify([people / f"p{i}" / "5.png" for i in range(5, PEOPLE)])
    assert [i.name for i in strangers] == [None] * (PEOPLE - 5)
    assert strangers[0].candidates[0].score < strangers[0].candidates[0].threshold
    assert recognizer.verify("p1", people / "p1" / "4.png").accepted
    assert not recognizer.verify("p1", people / "p2" / "4.png").accepted


def test_why_a_sample_is_unknown_and_how_much_of_it_is_used(
    model: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recognizer = enrolled(model, people)
    sharp = Image.open(people / "p7" / "0.png")
    sharp.filter(ImageFilter.GaussianBlur(6)).save(people / "blurred.png")
    sharp.point(lambda v: v // 20).save(people / "dark.png")
    sharp.resize((20, 20)).save(people / "tiny.png")
    sharp.resize((2400, 1200)).save(people / "large.png")
    files = [people / f"{name}.png" for name in ("blurred", "dark", "tiny", "large")]
    found = recognizer.identify(files)
    for one, words in zip(found, ("blurred", "dark", "tiny: 20 pixels, where 64", "9 × larger"), strict=True):
        assert one.name is None
        assert words in str(one.reason)
    expected = "9 × larger than the pictures it was made for; used the middle square, 50 % of it"
    assert found[3].used == expected
    known = recognizer.identify(people / "p1" / "5.png")[0]
    assert (known.name, known.reason, known.outside, known.used) == ("p1", None, None, None)
    line = ["identify", *files, "--gallery", people.parent / "people.db", "--model", model]
    rows = json.loads(run([*line, "--json"], capsys)[1])
    assert [set(row) >= {"reason", "outside", "used"} for row in rows] == [True] * 4
    _, out, err = run(line, capsys)
    assert "blurred" in out
    assert "warning: 2 of 4 pictures: tiny: 20 pixels" in err
    # a claim that is rejected has its reasons, too; of files that are one sample, all count
    line = ["verify", "p1", files[0], files[1], "--gallery", people.parent / "people.db", "--model", model]
    code, out, _ = run(line, capsys)
    assert (code, out.split(":")[0]) == (3, "rejected")
    assert "; 2 of 2 pictures: blurred" in out
    verdict = json.loads(run([*line, "--json"], capsys)[1])
    assert (verdict["reason"], verdict["used"]) == ("2 of 2 pictures: blurred, or the like", "")
    code, out, err = run(["verify", "p1", files[3], *line[4:]], capsys)
    assert "9 × larger than the pictures it was made for" in out + err
    accepted = recognizer.verify("p1", people / "p1" / "5.png")
    assert (accepted.accepted, accepted.reason, accepted.outside, accepted.used) == (True, None, "", "")
    together = recognizer.identify(files[:2], together=True)[0]
    assert together.reason == "2 of 2 pictures: blurred, or the like"


@pytest.mark.medium
def test_enrolling_says_what_is_far_from_what_a_model_knows(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Patterns of grey, given to an encoder of ink."""
    letters = ["--gallery", people.parent / "people.db", "--model", "prototypical-omniglot-1shot"]
    code, _, err = run(["enroll", people / "p0" / "0.png", "--name", "p0", *letters], capsys)
    assert code == 0
    assert "1 of 1 pictures are far from what this model knows (" in err
    page = Image.new("L", (105, 105), 255)
    ImageDraw.Draw(page).line([(20, 20), (80, 50), (30, 90)], fill=0, width=3)
    page.save(tmp_path / "ink.png")
    code, out, err = run(["enroll", tmp_path / "ink.png", "--name", "ink", *letters, "--json"], capsys)
    assert (code, json.loads(out)["outside"], "far from" in err) == (0, None, False)


def test_the_threshold_is_that_of_the_calibration_for_samples_and_names(model: Path, people: Path) -> None:
    recognizer = enrolled(model, people, samples=3)
    calibration = Calibration.from_dict(Embedder(model).manifest["calibration"])
    decision = recognizer.verify("p0", people / "p0" / "5.png")
    assert decision.threshold == calibration.threshold(3, 1)
    assert decision.probability == pytest.approx(float(calibration.probability(decision.score, 3)))
    candidate = recognizer.identify(people / "p0" / "5.png")[0].candidates[0]
    assert candidate.threshold == calibration.threshold(3, 5) >= decision.threshold
    strict = Recognizer(model, people.parent / "people.db", far=0.1)
    assert strict.verify("p0", people / "p0" / "5.png").threshold == calibration.threshold(3, 1, 0.1)


@pytest.mark.medium
@pytest.mark.parametrize("method", ["siamese", "euclidean"])
@pytest.mark.parametrize("pooling", ["centroid", "nearest", "top"])
def test_the_gallery_scores_as_was_calibrated(
    people: Path, method: str, pooling: str, tmp_path: Path
) -> None:
    folder = untrained(tmp_path / "run", images="DIR", grey=True, method=method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calibrated(folder, draw(tmp_path / "others", 6, seed=3), pooling=pooling)
    recognizer = enrolled(folder, people, names=3)
    assert recognizer.pooling == pooling
    embedder = recognizer.embedder
    gallery = [
        embedder.embed_files([people / f"p{i}" / f"{j}.png" for j in range(4)]).embeddings for i in range(3)
    ]
    probe = embedder.embed_files([people / "p1" / "5.png"]).embeddings
    scores = pooled_scores(embedder.energy, pooling)(np.stack(gallery), probe)[0]
    found = recognizer.identify(people / "p1" / "5.png", top=3)[0].candidates
    assert [c.score for c in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)


def test_many_items_are_embedded_as_a_few_are(model: Path) -> None:
    embedder = Embedder(model)
    items = np.random.default_rng(0).integers(0, 256, (200, *embedder.format.shape), np.uint8)
    expected = np.concatenate([embedder.embed(items[i : i + 50]) for i in range(0, 200, 50)])
    np.testing.assert_allclose(embedder.embed(items), expected, atol=1e-6)


def test_the_score_is_the_negative_energy() -> None:
    a, b = np.asarray([0.6, 0.8]), np.asarray([1.0, 0.0])
    assert score_of(float(np.linalg.norm(a - b)), "cosine") == pytest.approx(a @ b - 1)
    assert score_of(2.5, "euclidean") == -2.5


@pytest.mark.medium
def test_several_samples_together_are_one_probe(model: Path, people: Path) -> None:
    recognizer = enrolled(model, people)
    files = [people / "p2" / "4.png", people / "p2" / "5.png"]
    (identity,) = recognizer.identify(files, together=True)
    assert identity.name == "p2"
    z = recognizer.embedder.embed_files(files).embeddings.mean(0)
    own = recognizer.embedder.embed_files([people / "p2" / f"{j}.png" for j in range(4)]).embeddings.mean(0)
    cosine = z @ own / np.linalg.norm(z) / np.linalg.norm(own)
    assert identity.candidates[0].score == pytest.approx(cosine - 1, abs=1e-5)


def test_a_folder_is_enrolled_and_what_is_known_is_passed_over(model: Path, people: Path) -> None:
    recognizer = Recognizer(model, people.parent / "people.db")
    seen: list[tuple[int, int]] = []
    done = recognizer.enroll_folder(people, lambda i, n: seen.append((i, n)))
    assert done.added == {f"p{i}": PICTURES for i in range(PEOPLE)}
    assert not done.refused
    assert not done.known
    assert seen[-1] == (PEOPLE * PICTURES, PEOPLE * PICTURES)
    again = recognizer.enroll_folder(people)
    assert not again.added
    assert again.known == PEOPLE * PICTURES
    assert (
        Recognizer(gallery=people.parent / "people.db").embedder.fingerprint
        == recognizer.embedder.fingerprint
    )


def test_what_cannot_be_used_is_refused_with_the_reason_and_the_rest_enrolled(
    model: Path, people: Path
) -> None:
    folder = people / "p0"
    whole = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no picture")
    Image.new("L", (SIDE, SIDE), 90).save(folder / "blank.png")
    Image.new("1", (10_000, 10_000)).save(folder / "huge.png")
    done = Recognizer(model, people.parent / "people.db").enroll("p0", sorted(folder.iterdir()))
    reasons = {r.file.name: r.reason for r in done.refused}
    assert done.added == {"p0": PICTURES}
    assert sorted(reasons) == ["blank.png", "cut.png", "empty.jpg", "huge.png", "text.jpg"]
    assert "empty" in reasons["empty.jpg"]
    assert "blank" in reasons["blank.png"]
    assert "pixels" in reasons["huge.png"]
    assert not any("\n" in reason for reason in reasons.values())


def test_a_mislabelled_sample_is_pointed_out(model: Path, people: Path) -> None:
    (people / "p3" / "0.png").rename(people / "p4" / "wrong.png")
    done = Recognizer(model, people.parent / "people.db").enroll_folder(people)
    assert [(r.file.name, r.reason) for r in done.likely_mislabelled] == [
        ("wrong.png", "resembles 'p3' more than 'p4'")
    ]


@pytest.mark.parametrize("method", ["siamese", "euclidean"])
def test_doubtful_is_what_is_nearer_to_another_name_than_to_the_rest_of_its_own(
    tmp_path: Path, method: str
) -> None:
    recognizer = Recognizer(
        untrained(tmp_path / "run", images="DIR", grey=True, method=method), tmp_path / "db"
    )
    cosine, rng = method == "siamese", np.random.default_rng(0)
    names = np.repeat(list("abcdef"), [2, 3, 5, 8, 3, 4])
    z = rng.normal(size=(6, 8)).repeat([2, 3, 5, 8, 3, 4], 0) + rng.normal(0, 1.5, (len(names), 8))
    if cosine:
        z /= np.linalg.norm(z, axis=1, keepdims=True)
    else:
        z += 1000.0  # what all have in common must not drown what they differ by
    z = z.astype(np.float32)
    used = [(str(name), Path(f"{i}.png"), of) for i, (name, of) in enumerate(zip(names, z, strict=True))]
    recognizer.gallery.enroll_many([(name, of, file.name) for name, file, of in used])
    expected = []
    for i, own in enumerate(names):
        score = {}
        for name in "abcdef":
            centroid = z[[j for j in range(len(z)) if names[j] == name and j != i]].mean(0)
            length = float(np.linalg.norm(centroid))
            score[name] = z[i] @ centroid / length if cosine else -np.linalg.norm(z[i] - centroid)
        best = max(score, key=score.__getitem__)
        if best != own != "a":  # two samples can't outvote each other
            expected.append((f"{i}.png", f"resembles {best!r} more than {str(own)!r}"))
    with sizes(embedded_files=7):
        found = recognizer._likely_mislabelled(used, None, *recognizer.gallery.embeddings())
    assert [(r.file.name, r.reason) for r in found] == expected
    assert 2 < len(expected) < len(z) - 2


@pytest.mark.medium
@pytest.mark.parametrize("pooling", ["centroid", "nearest", "top"])
def test_doubtful_is_what_would_be_taken_for_another_name_and_not_for_its_own(
    people: Path, tmp_path: Path, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = untrained(tmp_path / "run", images="DIR", grey=True)
    calibrated(folder, draw(tmp_path / "others", 12, seed=1), pooling=pooling, far=0.05)
    (people / "p3" / "0.png").rename(people / "p4" / "wrong.png")

    def likely_mislabelled(gallery: str) -> list[str]:
        done = Recognizer(folder, people.parent / gallery).enroll_folder(people)
        return [r.file.name for r in done.likely_mislabelled]

    assert likely_mislabelled("as-it-is.db") == ["wrong.png"]
    for threshold, why in ((0.1, "it reaches nobody's threshold"), (-3.0, "it reaches its own as well")):
        monkeypatch.setattr(Calibration, "threshold", lambda *_, threshold=threshold, **__: threshold)
        assert likely_mislabelled(f"{threshold}.db") == [], why


@pytest.mark.medium
def test_the_pooling_that_is_found_best_is_calibrated_and_used(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = untrained(tmp_path / "run", images="DIR", grey=True)
    others = draw(tmp_path / "others", 12, seed=1)
    eers = {3: {"centroid": 0.2, "nearest": 0.1, "top": 0.3}}
    given: list[object] = []

    def compare(*arguments: object, **options: object) -> Poolings:
        given.extend((arguments[2], options))
        return Poolings(eers, {3: 12})

    monkeypatch.setattr("quickstudy.recognition.measure.compare_poolings", compare)
    found = calibrated(folder, others, seed=4)
    assert given == ["cosine", {"seed": 4, "sources": None}]
    assert found.pooling == Recognizer(folder, tmp_path / "db").pooling == "nearest"
    assert found.tables == calibrated(folder, others, pooling="nearest", seed=4).tables
    assert found.tables != calibrated(folder, others, pooling="centroid", seed=4).tables
    calibrated(folder, others)
    written = json.loads((folder / "best.json").read_text())["calibration"]
    assert written["eers"] == {"3": eers[3]}


def test_clips_of_any_kind_are_enrolled_and_silence_is_not(people: Path, tmp_path: Path) -> None:
    folder = untrained(tmp_path / "run", audio="DIR", rate=8000)
    recognizer = Recognizer(folder, tmp_path / "sounds.db")
    rng, clips = np.random.default_rng(0), tmp_path / "clips"
    clips.mkdir()
    for name, rate, channels, kind in (
        ("eight-bit", 8000, 1, "PCM_U8"),
        ("stereo", 8000, 2, "PCM_16"),
        ("fast", 96_000, 1, "PCM_24"),
    ):
        soundfile.write(clips / f"{name}.wav", rng.normal(0, 0.2, (rate, channels)), rate, subtype=kind)
    soundfile.write(clips / "silent.wav", np.zeros(8000), 8000)
    soundfile.write(clips / "nothing.wav", np.zeros(0), 8000)
    soundfile.write(clips / "whole.wav", rng.normal(0, 0.2, 8000), 8000)
    whole = (clips / "whole.wav").read_bytes()
    (clips / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (clips / "text.wav").write_text("no sound")
    (clips / "empty.wav").touch()
    done = recognizer.enroll("noise", sorted(clips.iterdir()))
    assert done.added == {"noise": 4}
    reasons = {r.file.stem: r.reason for r in done.refused}
    assert reasons == {
        "cut": "damaged: it ends before its end",
        "empty": "the file is empty",
        "nothing": "it holds no sound",
        "silent": "silent: there is no sound in it",
        "text": "not sound in any format soundfile reads",
    }


def test_chords_are_told_from_each_other_and_from_others(tmp_path: Path, people: Path) -> None:
    rng, t = np.random.default_rng(0), np.arange(8000) / 8000

    def play(folder: Path, names: int) -> Path:
        for i in range(names):
            tones = rng.choice(np.geomspace(150, 3500, 60), 4, replace=False)
            (folder / f"c{i}").mkdir(parents=True)
            for j in range(5):
                sound = sum(0.1 * np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in tones)
                sound = sound + rng.normal(0, 0.005, len(t))
                soundfile.write(folder / f"c{i}" / f"{j}.wav", sound, 8000)
        return folder

    folder = untrained(tmp_path / "run", audio="DIR", rate=8000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calibrated(folder, play(tmp_path / "others", 12), far=0.05)
    recognizer, clips = Recognizer(folder, tmp_path / "chords.db"), play(tmp_path / "chords", 6)
    for i in range(4):
        recognizer.enroll(f"c{i}", [clips / f"c{i}" / f"{j}.wav" for j in range(4)])
    found = recognizer.identify([clips / f"c{i}" / "4.wav" for i in range(6)])
    assert [f.name for f in found] == ["c0", "c1", "c2", "c3", None, None]


@pytest.mark.medium
def test_an_unknown_sound_is_said_to_be_quiet_and_another_place_may_be_taken(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = untrained(tmp_path / "run", audio="DIR", rate=8000)
    rng, t = np.random.default_rng(0), np.arange(8000) / 8000

    chords = [rng.choice(np.geomspace(150, 3500, 60), 4, replace=False) for _ in range(14)]

    def chord(path: Path, number: int, strength: float = 0.1, silence: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        tones = sum(np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in chords[number])
        sound = strength * (np.hanning(8000) * tones + 0.05 * rng.normal(size=8000))
        soundfile.write(path, np.pad(sound, (0, silence)), 8000)
        return path

    for i in range(12):
        for j in range(5):
            chord(tmp_path / "dev" / f"d{i}" / f"{j}.wav", i)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calibrated(folder, tmp_path / "dev", far=0.05)
    word, db = chord(tmp_path / "word.wav", 12, silence=24_000), ["--gallery", tmp_path / "s.db"]
    assert run(["enroll", word, "--name", "hum", "--model", folder, *db], capsys)[0] == 0
    faint = chord(tmp_path / "faint.wav", 13, 0.001)
    decode, decoded = AudioFormat.decode, list[Any]()
    with monkeypatch.context() as patch:
        patch.setattr(AudioFormat, "decode", lambda self, f: decoded.append(f) or decode(self, f))
        code, out, _ = run(["identify", faint, word, *db, "--json"], capsys)
    assert len(decoded) == 2
    unknown, known = json.loads(out)
    assert (code, unknown["name"], known["name"], known["reason"]) == (0, None, "hum", None)
    assert unknown["reason"].startswith("quiet: its loudest sample is at")
    assert "quiet" in run(["identify", faint, *db], capsys)[1]
    code, out, _ = run(["identify", word, *db, "--place", "middle"], capsys)
    assert "silent: there is no sound in it" in str(code), "the middle of that file is silent"
    code, _, _ = run(["calibrate", folder, "--place", "middle"], capsys)
    assert "place middle is for clips of your own" in str(code)


def test_clips_that_are_all_refused_are_one_error(people: Path, tmp_path: Path) -> None:
    recognizer = Recognizer(untrained(tmp_path / "run", audio="DIR", rate=8000), tmp_path / "sounds.db")
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(ValueError, match=r"none of 1 files can be enrolled: .*text\.wav: not sound"):
        recognizer.enroll("x", tmp_path / "text.wav")
    assert not recognizer.gallery.exists()
    with pytest.raises(ValueError, match=r"text\.wav can't be used: not sound"):
        recognizer.verify("x", tmp_path / "text.wav")


def test_a_gallery_of_another_model_is_refused(model: Path, people: Path, tmp_path: Path) -> None:
    enrolled(model, people, names=2)
    other = untrained(tmp_path / "other", seed=1, images="DIR", grey=True)
    with pytest.raises(ValueError, match=r"siamese-[0-9a-f]{16}.*siamese-[0-9a-f]{16}"):
        Recognizer(other, people.parent / "people.db").enroll("p2", people / "p2" / "0.png")


def test_a_fingerprint_is_of_weights_items_and_distance_only(model: Path, tmp_path: Path) -> None:
    def fingerprint(name: str, seed: int = 0, **arguments: object) -> str:
        return Embedder(untrained(tmp_path / name, seed, images="DIR", **arguments)).fingerprint

    same = fingerprint("same", grey=True)
    assert same == Embedder(model).fingerprint, "calibrated or not"
    others = {
        fingerprint("weights", seed=1, grey=True),
        fingerprint("items", grey=False),
        fingerprint("distance", grey=True, method="euclidean"),
    }
    assert len(others | {same}) == 4


def test_a_model_that_was_trained_in_python_recognizes(people: Path, tmp_path: Path) -> None:
    pool = qs.image_folders(people, qs.ImageFormat(32, 1), (1.0, 0.0, 0.0))
    learner = qs.Prototypical(qs.Conv4(1, 8))
    qs.fit(learner, qs.Episodes(pool.split("train"), qs.Setting(5, 1, 1)), 1, out=tmp_path / "run")
    calibrated(tmp_path / "run", draw(tmp_path / "others", 12, seed=1))
    recognizer = enrolled(tmp_path / "run", people, names=2)
    assert recognizer.embedder.fingerprint.startswith("python-")
    found = report_on(tmp_path / "run", folder=people, display=Terminal(quiet=True))
    assert found.title == "Recognition: python"


def test_a_report_claims_only_what_was_checked(people: Path, tmp_path: Path) -> None:
    """Of data that was trained on, calibrated on, or neither, and of a model that doesn't say."""
    pool = qs.image_folders(people, qs.ImageFormat(32, 1), (1.0, 0.0, 0.0))
    qs.fit(
        qs.Prototypical(qs.Conv4(1, 8)), qs.Episodes(pool.split("train"), qs.Setting(5, 1, 1)), 1,
        out=tmp_path / "run",
    )  # fmt: skip
    others = {seed: draw(tmp_path / f"others{seed}", 12, seed=seed) for seed in (1, 3)}
    for seed, folder in others.items():
        for person in list(folder.iterdir()):
            person.rename(folder / f"other {seed} {person.name}")
    claim, quiet = "neither training nor calibration has seen", Terminal(quiet=True)
    assert any("were trained on" in w for w in calibrated(tmp_path / "run", people).warnings)
    assert not any("trained on" in w for w in calibrated(tmp_path / "run", others[1]).warnings)
    for folder, said in ((people, "items were trained on"), (others[1], "items were calibrated on")):
        found = report_on(tmp_path / "run", folder=folder, display=quiet)
        found.save(tmp_path / "page.html")
        assert said in str(found).splitlines()[0]
        assert said in (tmp_path / "page.html").read_text()
        assert claim not in (tmp_path / "page.html").read_text()
    unseen = report_on(tmp_path / "run", folder=others[3], display=quiet)
    unseen.save(tmp_path / "page.html")
    assert unseen.met == ()
    assert claim in (tmp_path / "page.html").read_text()
    weights, manifest = checkpoint.load(tmp_path / "run" / "best.safetensors")
    checkpoint.save(
        tmp_path / "run" / "best.safetensors", weights, {k: v for k, v in manifest.items() if k != "seen"}
    )
    unknown = report_on(tmp_path / "run", folder=others[3], display=quiet)
    assert "not checked whether" in str(unknown)


@pytest.mark.parametrize(
    ("method", "energy"),
    [("siamese", "cosine"), ("supervised-contrastive", "cosine"), ("euclidean", "euclidean"),
     ("prototypical", "euclidean")],
)  # fmt: skip
def test_embeddings_are_of_length_one_for_cosines(
    people: Path, tmp_path: Path, method: str, energy: str
) -> None:
    embedder = Embedder(untrained(tmp_path / "run", images="DIR", grey=True, method=method))
    assert embedder.energy == energy
    z = embedder.embed_files([people / "p0" / "0.png", people / "p1" / "0.png"]).embeddings
    assert (np.abs(np.linalg.norm(z, axis=1) - 1) < 1e-5).all() == (energy == "cosine")


def test_weights_that_blew_up_are_named(people: Path, tmp_path: Path) -> None:
    embedder = Embedder(untrained(tmp_path / "run", images="DIR", grey=True))
    for p in embedder.encoder.parameters():
        p.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="train it anew"):
        embedder.embed_files([people / "p0" / "0.png"])


def test_a_file_too_large_is_not_read(model: Path, people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quickstudy.data.formats.content.LARGEST", 2**20)
    (people / "p0" / "large.png").write_bytes(bytes(3 * 2**20))
    done = Recognizer(model, people.parent / "people.db").enroll("p0", sorted((people / "p0").iterdir()))
    assert [r.reason for r in done.refused] == ["3 MiB are more than the 1 MiB that are read of a file"]


def test_what_was_shown_before_the_program_ended_stays_and_says_its_model(model: Path, people: Path) -> None:

    def stop(done: int, total: int) -> None:
        if done > 2 * PICTURES:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), sizes(embedded_files=2 * PICTURES):
        Recognizer(model, people.parent / "people.db").enroll_folder(people, stop)
    recognizer = Recognizer(gallery=people.parent / "people.db")
    there = {entry.name: entry.samples for entry in recognizer.gallery.names()}
    assert there
    assert set(there.values()) == {PICTURES}
    done = recognizer.enroll_folder(people)
    assert done.added == {f"p{i}": PICTURES for i in range(PEOPLE) if f"p{i}" not in there}
    assert done.known == PICTURES * len(there)


@given(st.lists(st.integers(1, 12), max_size=12))
def test_batches_part_no_group_that_one_can_hold(counts: list[int]) -> None:
    groups = [[Path(f"{g}/{i}") for i in range(n)] for g, n in enumerate(counts)]
    with sizes(embedded_files=5):
        parts = embedder_module._cut(groups)
    assert [f for part in parts for f in part] == [f for group in groups for f in group]
    assert all(0 < len(part) <= 5 for part in parts)
    for group in groups:
        touched = [part for part in parts if {*part} & {*group}]
        assert len(touched) == -(-len(group) // 5)


def test_names_are_told_apart_by_what_they_look_like(model: Path, people: Path) -> None:
    (people / "p0").rename(people / "Zoe\u0308")  # two characters, as some systems have it
    recognizer = Recognizer(model, people.parent / "people.db")
    assert recognizer.enroll_folder(people).added["Zo\u00eb"] == PICTURES
    probe = people / "Zoe\u0308" / "0.png"
    assert recognizer.verify("Zoe\u0308", probe).accepted
    assert recognizer.identify(probe)[0].name == "Zo\u00eb"


def test_a_gallery_emptied_or_of_unknown_model_says_so(model: Path, people: Path, tmp_path: Path) -> None:
    recognizer = enrolled(model, people, names=1)
    recognizer.gallery.export(tmp_path / "kept.safetensors")
    recognizer.gallery.remove("p0")
    with pytest.raises(ValueError, match="nothing is enrolled"):
        recognizer.identify(people / "p0" / "0.png")
    db = tmp_path / "imported.db"
    with Gallery(db) as gallery:
        gallery.import_(tmp_path / "kept.safetensors")
    with pytest.raises(ValueError, match="--model"):
        Recognizer(gallery=db)
    Recognizer(model, db).enroll("p0", people / "p0" / "5.png")
    assert Recognizer(gallery=db).verify("p0", people / "p0" / "4.png").accepted


def test_the_items_of_a_split_are_embedded_with_their_own_labels(model: Path, people: Path) -> None:
    embedder = Embedder(model)
    names = {"train": ["p1", "p4"], "validation": ["p0"], "test": ["p2", "p5", "p8"]}
    pool = class_folders(people, embedder.format, names).split("test")
    seen: list[tuple[int, int]] = []
    with sizes(embedded_files=5):
        labelled = embed_pool(embedder, pool, lambda i, n: seen.append((i, n)))
    assert labelled.labels.tolist() == [n for n in names["test"] for _ in range(PICTURES)]
    assert seen[-1] == (18, 18)
    files = [p for n in names["test"] for p in sorted((people / n).iterdir())]
    np.testing.assert_allclose(labelled.embeddings, embedder.embed_files(files).embeddings, atol=1e-5)


def test_errors_name_what_and_the_fix(model: Path, people: Path, tmp_path: Path) -> None:
    bare = untrained(tmp_path / "bare", images="DIR", grey=True)
    recognizer = Recognizer(bare, tmp_path / "bare.db")
    with pytest.raises(FileNotFoundError, match=r"no file .*nobody\.png"):
        recognizer.enroll("x", people / "nobody.png")
    recognizer.enroll("p0", people / "p0" / "0.png")
    with pytest.raises(ValueError, match="quickstudy calibrate"):
        recognizer.verify("p0", people / "p0" / "1.png")
    with pytest.raises(ValueError, match="far is 2"):
        Recognizer(model, tmp_path / "x.db", far=2)
    with pytest.raises(ValueError, match="nobody"):
        enrolled(model, people, names=1).verify("nobody", people / "p0" / "0.png")
    with pytest.raises(ValueError, match="Matching"):
        Embedder("matching-omniglot")
    (people / "p0" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of 1 files"):
        recognizer.enroll("p9", people / "p0" / "0.png")


def test_a_gallery_is_calibrated_by_its_own_samples(model: Path, people: Path) -> None:
    recognizer = Recognizer(model, people.parent / "people.db")
    recognizer.enroll_folder(draw(people.parent / "more", 10, seed=3))
    before = recognizer.calibration
    with pytest.raises(
        ValueError, match=r"of 10 names .* would lower the threshold .* measured on 12 identities"
    ):
        recognizer.recalibrate(0.05)
    assert recognizer.calibration == before, "a better one isn't replaced unasked"
    own = recognizer.recalibrate(0.05, force=True)
    assert own.far == 0.05
    assert Recognizer(gallery=people.parent / "people.db").calibration == own


@pytest.mark.medium
def test_a_cost_is_aimed_at_again(
    model: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "by-cost"
    shutil.copytree(model, copy)
    cost = (1.0, 10.0, 0.5)
    calibrated(copy, draw(tmp_path / "others", 12, seed=1, noise=400), cost=cost)
    recognizer = Recognizer(copy, tmp_path / "people.db")
    recognizer.enroll_folder(draw(tmp_path / "more", 10, seed=3, noise=400))
    own = recognizer.recalibrate(force=True)
    assert own.cost == cost
    assert 0 < own.far != recognizer.embedder.manifest["calibration"]["far"]
    assert recognizer.recalibrate(0.05, force=True).cost is None
    strict = calibrated(copy, tmp_path / "others", cost=(1e6, 1.0, 0.5), force=True)
    assert strict.far == 0
    recognizer = Recognizer(copy, tmp_path / "strict.db")
    recognizer.enroll_folder(tmp_path / "more")
    with pytest.raises(ValueError, match=r"FAR of 0 %: it takes 10 names; bring more, ask for a higher"):
        recognizer.recalibrate()
    ask = ["identify", people / "p0" / "5.png", "--gallery", tmp_path / "strict.db"]
    _, _, err = run([*ask, "--json"], capsys)
    assert err.startswith("warning: no pairs of strangers that were calibrated on were cheap enough")


@pytest.mark.parametrize(("names", "far", "needed"), [(9, 0.05, "10 names"), (10, 0.0005, "6000 pairs")])
def test_too_few_samples_leave_the_thresholds_as_they_are(
    model: Path, people: Path, names: int, far: float, needed: str
) -> None:
    recognizer = Recognizer(model, people.parent / "people.db")
    recognizer.enroll_folder(draw(people.parent / "more", names, seed=3))
    before = recognizer.calibration
    with pytest.raises(ValueError, match=needed):
        recognizer.recalibrate(far)
    assert recognizer.calibration == before


def test_a_threshold_without_pairs_enough_behind_it_is_said_to_be_so(
    model: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(model, people, samples=1)
    ask = ["identify", people / "p0" / "5.png", "--gallery", people.parent / "people.db"]
    _, out, err = run([*ask, "--far", 0.1, "--json"], capsys)
    assert json.loads(out)[0]["candidates"][0]["supported"]
    assert err == ""
    _, out, err = run([*ask, "--far", 0.0001, "--json"], capsys)
    assert not json.loads(out)[0]["candidates"][0]["supported"]
    assert err.startswith(
        "warning: too few pairs were calibrated on for a FAR of 0.01 %, spread over 5 names"
    )
    assert err.count("\n") == 1
    assert run([*ask, "--far", 0.0001, "--no-unknown"], capsys)[2] == "", "no threshold, no warning of it"
    verify = ["verify", "p0", *ask[1:], "--far", 0.0001]
    assert run(verify, capsys)[2].startswith("warning: too few pairs were calibrated on for a FAR of 0.01 %:")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*-way it is")
def test_what_was_trained_on_the_validation_classes_is_not_calibrated_on_them(
    people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, many = people.parent / "all", draw(people.parent / "many", 14, seed=5)
    line = (
        f"train siamese --set images={many} --set grey=true --steps 2 --test-episodes 0 --out {out}".split()
    )
    assert run([*line, "--set", "trainval=true"], capsys)[0] == 0
    manifest = Embedder(out).manifest
    assert manifest["trainval"] is True
    assert manifest["data"]["name"] == "many.train+validation"
    splits = recipes_weights.recipe_of(manifest).pool().splits
    assert manifest["data"]["classes"] == len(splits["train"]) + len(splits["validation"])
    code, _, _ = run(["calibrate", out], capsys)
    assert str(code).startswith(f"error: {out} was trained on the validation classes too")
    others = draw(people.parent / "others", 6, seed=3)
    assert run(["calibrate", out, "--images", others, "--far", 0.1], capsys)[0] == 0
    for images, met in ((many, True), (draw(people.parent / "fewer", 12, seed=6), None)):
        begun = people.parent / f"from-{images.name}"
        assert (
            run([*line[:3], f"images={images}", *line[4:-1], begun, "--set", f"start={out}"], capsys)[0] == 0
        )
        manifest = Embedder(begun).manifest
        assert manifest["start"] == "siamese, seed 0, 2 steps"
        assert manifest["trainval"] is met, (
            "its encoder has met the validation classes of the one, not the other"
        )
    code, _, _ = run([*line, "--set", "trainval=true", "--patience", 3], capsys)
    assert "leave one of them out" in str(code)
    code, _, _ = run([*line, "--resume"], capsys)
    assert "holds a training run with trainval True, not None" in str(code)


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore:.*-way it is")
def test_what_is_fitted_after_training_travels_with_the_weights(
    people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, many, quiet = people.parent / "out", draw(people.parent / "many", 12, seed=5), Terminal(quiet=True)
    arguments, fabric = {"images": str(many), "grey": True, "size": 32}, launch("cpu")
    learner, _ = train("siamese", arguments, out, display=quiet, fabric=fabric, steps=3)
    whitening, cohort = learner.encoder.transforms
    weights, manifest = checkpoint.load(out / "best.safetensors")
    for key, fitted in (("0.whitening", whitening.whitening), ("1.cohort", cohort.cohort)):
        assert torch.equal(weights[f"encoder.transforms.{key}"], fitted)
    assert not torch.equal(whitening.whitening, torch.eye(128)), "it is not as it began"
    assert cohort.cohort.norm(dim=1).allclose(torch.ones(600)), "and it was fitted"

    recipe = recipes_weights.recipe_of(manifest)
    (tasks,) = recipe.test_episodes((), tasks=2, seed=0, display=quiet, data_root=None)
    episode, again = tasks[0], recipes_weights.load_learner(out)[0]
    assert not again.training
    with torch.no_grad():
        made = again.predict(episode.support, episode.query_x)
        assert torch.equal(made, learner.predict(episode.support, episode.query_x))
    plain = recipes_weights.recipe_of(manifest).learner()
    recipes_weights.start_from(plain, out)
    assert plain.encoder.state_dict().keys() == learner.encoder.encoder.state_dict().keys()
    for name, tensor in plain.encoder.state_dict().items():
        assert torch.equal(tensor, weights[f"encoder.encoder.{name}"])

    tested = ["evaluate", out, "--episodes", 4, "--json"]
    expected = recipe.test(learner, display=quiet, count=4)
    assert json.loads(run(tested, capsys)[1])[0]["accuracy"] == pytest.approx(expected[0].accuracy)
    db = ["--gallery", people.parent / "people.db"]
    assert run(["enroll", people, "--model", out, *db], capsys)[0] == 0
    assert Embedder(out).embed(np.zeros((2, 1, 32, 32), np.uint8)).shape == (2, 129)


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore:.*-way it is")
def test_a_training_with_transforms_resumes_bit_for_bit(people: Path) -> None:
    many, fabric = draw(people.parent / "many", 12, seed=5), launch("cpu")
    arguments = {"images": str(many), "grey": True, "size": 16}
    for out, parts in (("whole", [{}]), ("parts", [{"minutes": 1e-9}, {"resume": True}])):
        for options in parts:
            folder, shown = people.parent / out, Terminal(quiet=True)
            train("siamese", arguments, folder, display=shown, fabric=fabric, steps=2, **options)
    for name in ("best", "last"):
        whole, parts = (
            checkpoint.load(people.parent / f / f"{name}.safetensors")[0] for f in ("whole", "parts")
        )
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_what_is_kept_of_people_can_be_read_by_its_owner_alone(model: Path, people: Path) -> None:
    gallery = people.parent / "people.db"
    recognizer = enrolled(model, people, names=1)
    recognizer.gallery.export(people.parent / "out.safetensors")
    class_folders(people, recognizer.embedder.format, (0.5, 0.2, 0.3))
    (decoded,) = (people.parent / "cache" / "pools").iterdir()
    for path in (gallery, people.parent / "out.safetensors", decoded):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.slow
def test_a_task_of_siamese_has_sixteen_classes_or_as_many_as_there_are(people: Path) -> None:
    fabric = launch("cpu")
    for arguments, ways in (({}, 5), ({"ways": 3}, 3)):
        out = people.parent / f"run{ways}"
        chosen = {"images": str(people), "grey": True, "split": (0.6, 0.2, 0.2), **arguments}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            train("siamese", chosen, out, display=Terminal(quiet=True), fabric=fabric, steps=1)
        assert Embedder(out).manifest["train"]["ways"] == ways
    with pytest.raises(ValueError, match="ask for at most 5 ways"):
        train(
            "siamese",
            {**chosen, "ways": 6},
            people.parent / "no",
            display=Terminal(quiet=True),
            fabric=fabric,
        )


def run(line: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", ["quickstudy", *map(str, line)])
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.medium
def test_the_commands(model: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = ["--gallery", people.parent / "people.db"]
    code, out, _ = run(["enroll", people, "--model", model, *db, "--json"], capsys)
    assert code == 0
    assert json.loads(out)["added"]["p0"] == PICTURES
    code, out, _ = run(["enroll", people / "p0" / "0.png", "--name", "p0", *db], capsys)
    assert code == 0
    assert "1 known already" in out
    code, out, _ = run(["verify", "p0", people / "p0" / "1.png", *db, "--json"], capsys)
    assert code == 0
    assert json.loads(out)["accepted"]
    code, out, _ = run(["verify", "p1", people / "p0" / "1.png", *db], capsys)
    assert code == 3
    assert out.startswith("rejected: p1")
    code, out, _ = run(["identify", people / "p1", *db, "--json", "--top", 2], capsys)
    found = json.loads(out)
    assert code == 0
    assert {f["name"] for f in found} == {"p1"}
    assert len(found[0]["candidates"]) == 2
    run(["gallery", "remove", "p1", "--yes", *db], capsys)
    code, out, _ = run(["identify", people / "p1" / "0.png", *db], capsys)
    assert code == 0
    assert "unknown" in out
    code, out, _ = run(["identify", people / "p1" / "0.png", *db, "--no-unknown", "--json"], capsys)
    assert json.loads(out)[0]["name"] is not None
    assert "renamed" not in run(["gallery", "rename", "p2", "Zoë", *db], capsys)[1]
    names = [e["name"] for e in json.loads(run(["gallery", "list", "--json", *db], capsys)[1])]
    assert names == ["p0", "Zoë"] or set(names) == {f"p{i}" for i in (0, 3, 4, 5, 6, 7, 8)} | {"Zoë"}
    assert len(json.loads(run(["gallery", "show", "Zoë", "--json", *db], capsys)[1])) == PICTURES
    kept = people.parent / "kept.safetensors"
    assert run(["gallery", "export", kept, *db], capsys)[0] == 0
    again = ["--gallery", people.parent / "again.db"]
    assert run(["gallery", "import", kept, *again], capsys)[0] == 0
    stats = json.loads(run(["gallery", "stats", "--json", *again], capsys)[1])
    assert stats["names"] == PEOPLE - 1
    assert stats["samples"] == (PEOPLE - 1) * PICTURES
    for command in (["gallery", "list"], ["gallery", "stats"], ["gallery", "show", "p0"]):
        assert run([*command, *db], capsys)[0] == 0
    assert "too few to measure" in str(run(["gallery", "calibrate", "--far", 0.05, *db], capsys)[0])
    run(["enroll", draw(people.parent / "more", 12, seed=3), *db], capsys)
    assert run(["gallery", "calibrate", "--far", 0.05, *db], capsys)[0] == 0


def packed(folder: Path, kind: str = "zip") -> Path:
    return Path(shutil.make_archive(str(folder), kind, folder.parent, folder.name))


@pytest.mark.medium
def test_archives_stand_for_folders(
    model: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = ["--gallery", tmp_path / "people.db"]
    (people / "p0" / "text.png").write_text("no picture")
    archive = packed(people, "gztar")
    code, out, err = run(["enroll", archive, "--model", model, *db, "--json"], capsys)
    assert (code, err) == (0, "")
    done = json.loads(out)
    assert done["added"] == {f"p{i}": PICTURES for i in range(PEOPLE)}
    assert done["refused"] == [
        {"file": f"{archive}/people/p0/text.png", "reason": "not a picture in any format that is read"}
    ]
    code, out, _ = run(["enroll", packed(people / "p1"), "--name", "p1", *db], capsys)
    assert code == 0
    assert f"{PICTURES} known already" in out, "the same pictures, from another archive"
    code, out, _ = run(["identify", packed(people / "p2"), people / "p3" / "0.png", *db, "--json"], capsys)
    found = json.loads(out)
    assert [Path(f["file"]).name for f in found] == [*(f"{j}.png" for j in range(PICTURES)), "0.png"]
    assert [f["name"] for f in found] == ["p2"] * PICTURES + ["p3"]
    assert run(["identify", packed(people / "p2"), *db], capsys)[0] == 0
    (decided,) = Recognizer(model, tmp_path / "people.db").identify(
        files_in(packed(people / "p4"), Embedder(model).format)[0]
    )
    assert decided.name == "p4"


@pytest.mark.slow
def test_archives_are_calibrated_and_reported_on(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = untrained(tmp_path / "run", images="DIR", grey=True)
    others = draw(tmp_path / "others", 4, seed=7)
    made = []
    for where in (others, packed(others), packed(others, "xztar")):
        code, out, _ = run(
            ["calibrate", folder, "--images", where, "--far", 0.05, "--json", "--force"], capsys
        )
        assert code == 0
        made.append(json.loads(out))
    assert made[0] == made[1] == made[2]
    assert run(["report", folder, "--images", packed(people), "--out", tmp_path / "r.html"], capsys)[0] == 0


def test_enrolling_says_what_became_of_each_file(
    model: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = ["--gallery", people.parent / "people.db"]
    (people / "p3" / "0.png").rename(people / "p4" / "wrong.png")
    (people / "p0" / "0.png").write_text("no picture")
    code, out, _ = run(["enroll", people, "--model", model, *db], capsys)
    first, refused, likely_mislabelled = out.splitlines()
    assert code == 0
    assert first == f"enrolled {PEOPLE * PICTURES - 1} new samples of {PEOPLE} names, 1 refused"
    assert refused == f"refused: {people / 'p0' / '0.png'}: not a picture in any format that is read"
    assert likely_mislabelled == f"look again: {people / 'p4' / 'wrong.png'} resembles 'p3' more than 'p4'"
    code, out, _ = run(["enroll", people / "p4", "--name", "p4", *db, "--json"], capsys)
    assert code == 0
    assert json.loads(out) == {
        "added": {},
        "known": PICTURES + 1,
        "refused": [],
        "likely_mislabelled": [
            {"file": str(people / "p4" / "wrong.png"), "reason": "resembles 'p3' more than 'p4'"}
        ],
        "outside": None,
        "used": None,
        "elsewhere": [],
        "warnings": [],
    }


def test_identifying_several_together_and_unknowns_in_a_table(
    model: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(model, people, names=3)
    db = ["--gallery", people.parent / "people.db"]
    code, out, _ = run(["identify", people / "p1", "--together", "--json", *db], capsys)
    (found,) = json.loads(out)
    assert code == 0
    assert found["name"] == "p1"
    assert [c["accepted"] for c in found["candidates"]] == [True, False, False]
    code, out, _ = run(["identify", people / "p1" / "5.png", people / "p7" / "5.png", *db], capsys)
    known, stranger = (line for line in out.splitlines() if "5.png" in line)
    assert code == 0
    assert "unknown" not in known
    assert "unknown" in stranger


@pytest.mark.filterwarnings("ignore:.*passed over")  # the gallery, in a folder that holds nothing else
def test_removing_asks_first(
    model: Path, people: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolled(model, people, names=2)
    db = ["--gallery", people.parent / "people.db"]

    def samples() -> list[str]:
        return [s["source"] for s in json.loads(run(["gallery", "show", "p0", "--json", *db], capsys)[1])]

    before = samples()
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, _ = run(["gallery", "remove", "p0", *db], capsys)
    assert code == 1
    assert "all 4 samples" in out
    assert samples() == before
    code, out, _ = run(["gallery", "remove", "p0", "--source", before[1], "-y", *db], capsys)
    assert code == 0
    assert out.startswith("removed 1 sample of p0\n")
    assert samples() == [s for s in before if s != before[1]]
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run(["gallery", "remove", "p0", *db], capsys)[0] == 0
    code, _, _ = run(["gallery", "show", "p0", *db], capsys)
    assert "nothing is enrolled as 'p0'" in str(code)
    for line, says in (
        (["gallery", "rename", "p0", "x"], "nothing is enrolled as 'p0'"),
        (["gallery", "remove", "p1", "--source", "none", "-y"], "no sample 'none'"),
        (["identify", people.parent], "holds no pictures"),
        (["verify", "p1", "none.png"], "none.png"),
    ):
        assert says in str(run([*line, *db], capsys)[0])
    code, _, err = run(["enroll", people / "p0", people / "p1", *db], capsys)
    assert code == 2
    assert "--name" in err


@pytest.mark.medium
@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["identify", "x.png", "--gallery", "none.db"], "no gallery at none.db"),
        (["gallery", "list", "--gallery", "none.db"], "no gallery at none.db"),
        (["enroll", "a.png", "--name", "a", "--model", "no-such-model"], "no checkpoint"),
        (["calibrate", "prototypical-glyphs"], "ships with the library"),
        (["verify", "a", "x.png", "--gallery", "none.db"], "no gallery at none.db"),
        (["gallery", "import", "none.safetensors"], "none.safetensors"),
        (["report", "prototypical-glyphs"], "quickstudy calibrate"),
        (["train", "siamese"], "--set images=DIR or --set audio=DIR"),
        (["train", "faces-orl", "--set", "method=magic"], "magic"),
        (["train", "prototypical-glyphs", "--set", "method=siamese"], "no argument 'method'"),
    ],
)
def test_a_wrong_call_is_one_line(
    line: list[object], says: str, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(line, capsys)
    assert isinstance(code, str)
    assert code.startswith("error: ")
    assert says in code
    assert "\n" not in code
    assert not out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["enroll", "a.png", "b.png"], "--name"),
        (["calibrate", "x", "--cost", "1,2"], "10,1,0.01"),
        (["calibrate", "x", "--images", "a", "--audio", "b"], "can't both be"),
        (["report", "x", "--images", "a", "--audio", "b"], "can't both be"),
    ],
)
def test_a_call_that_no_files_could_mend_exits_with_2(
    line: list[object], says: str, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(line, capsys)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_calibrating_and_reporting_from_the_command_line(
    model: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = untrained(tmp_path / "run", images="DIR", grey=True)
    others = draw(tmp_path / "others", 4, seed=7)
    code, out, err = run(["calibrate", folder, "--images", others, "--far", 0.05], capsys)
    assert code == 0
    assert out.startswith("threshold")
    assert "bring more identities" in err
    manifest = json.loads((folder / "best.json").read_text())
    assert manifest["calibration"]["far"] == 0.05
    assert out.splitlines()[-1].startswith("pooling centroid (fewer than 10 names")
    assert manifest["calibration"]["pooling"] == "centroid"
    assert Embedder(folder).fingerprint == Embedder(model).fingerprint, "its weights are as they were"
    cost = ["--cost", "10,1,0.1", "--pooling", "top", "--json", "--force"]
    code, out, _ = run(["calibrate", folder, "--images", others, *cost], capsys)
    assert code == 0
    made = json.loads(out)
    manifest = json.loads((folder / "best.json").read_text())
    assert manifest["calibration"].items() >= made.items()
    assert manifest["calibration"]["pooling"] == "top"
    code, out, _ = run(["report", folder, "--images", people, "--out", tmp_path / "r.html"], capsys)
    assert code == 0
    assert "EER" in out
    assert "<html" in (tmp_path / "r.html").read_text()


@pytest.mark.slow
def test_the_demonstration_runs_on_embedded_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quickstudy.recognition.pairs.MOST_ITEMS", 600)  # a quarter of the time
    monkeypatch.setattr("quickstudy.recognition.report.report.RecognitionReport.figures", lambda _: {})
    code, out, _ = run(["demo", "recognition", "--out", tmp_path / "demo"], capsys)
    assert code == 0
    assert "were named rightly" in out
    assert "unknown" in out
    assert (tmp_path / "demo" / "report.html").is_file()


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (Image.new("L", (8, 8)), "Image"),
        (np.zeros((8, 8), np.uint8), "ndarray"),
        (b"bytes", "bytes"),
        ([Image.new("L", (8, 8))], "Image"),
        (None, "NoneType"),
    ],
)
def test_samples_are_given_by_their_files(model: Path, people: Path, given: Any, kind: str) -> None:
    recognizer = enrolled(model, people, 2, 1)
    for ask in (recognizer.identify, lambda files: recognizer.verify("p0", files)):
        with pytest.raises(TypeError, match=rf"paths of their files, .* type {kind}: .*picture\.save"):
            ask(given)


def test_samples_may_be_given_one_by_one(model: Path, people: Path) -> None:
    recognizer = enrolled(model, people, 2, 1)
    files = [str(people / "p0" / "1.png"), people / "p1" / "1.png"]
    assert len(recognizer.identify(file for file in files)) == 2  # pyright: ignore[reportArgumentType]
