"""Where something is wrong with names, files or thresholds of a gallery, or is there already."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quickstudy.core import checkpoint
from quickstudy.recipes import weights
from quickstudy.recognition.gallery.gallery import Gallery
from quickstudy.recognition.recognizer import Identity, Recognizer
from tests.recognition.test_recognition import (
    PICTURES,
    calibrated,
    draw,
    enrolled,
    model,
    people,
    run,
    untrained,
)
from tests.support.gallery_programs import enroll_by_command, processes

__all__ = ["model", "people"]  # fixtures


def test_a_deleted_person_is_not_recognised_by_a_running_recognizer(model: Path, people: Path) -> None:
    recognizer = enrolled(model, people, names=3)
    path = people.parent / "people.db"
    assert recognizer.identify(people / "p1" / "5.png")[0].name == "p1"
    shutil.copyfile(path, people.parent / "other.db")
    with Gallery(people.parent / "other.db") as other:
        other.remove("p1")
    (people.parent / "other.db").replace(path)
    assert recognizer.identify(people / "p1" / "5.png")[0].name is None
    path.unlink()
    with pytest.raises(FileNotFoundError, match="removed or moved while in use"):
        recognizer.identify(people / "p1" / "5.png")
    with pytest.raises(FileNotFoundError, match="removed or moved while in use"):
        recognizer.enroll("p1", people / "p1" / "5.png")
    assert not path.exists()


def test_copies_count_once_in_a_calibration(people: Path, tmp_path: Path) -> None:
    run_folder = untrained(tmp_path / "run", images="DIR", grey=True)
    for folder in people.iterdir():
        for j in range(1, PICTURES):
            (folder / f"{j}.png").unlink()
        for copy in ("a", "b"):
            shutil.copyfile(folder / "0.png", folder / f"{copy}.png")
    with pytest.raises(ValueError, match=r"9 items of 9 identities: it takes .* two items of one"):
        calibrated(run_folder, people)
    assert "calibration" not in checkpoint.load(run_folder / "best.safetensors")[1]
    others = draw(tmp_path / "others", 12, seed=1)
    plain = calibrated(run_folder, others, force=True)
    for folder in others.iterdir():
        shutil.copyfile(folder / "0.png", folder / "copy.png")
    shutil.copyfile(others / "p0" / "1.png", others / "p1" / "stray.png")
    twice = calibrated(run_folder, others, force=True)
    assert twice.warnings[0] == "12 of the items are copies of others of their name, and count once"
    assert "1 items lie under several names ('p0' and 'p1')" in twice.warnings[1]
    assert plain.tables[0].genuine == 12 * 15
    assert twice.tables[0].genuine == 12 * 15 + 6, "the stray one is another of p1"


def test_one_file_under_several_names_is_said(model: Path, people: Path, capsys) -> None:
    db = ["--gallery", people.parent / "people.db"]
    for name in ("p1", "p2"):
        shutil.copyfile(people / "p0" / "0.png", people / name / "stray.png")
    code, out, _ = run(["enroll", people, "--model", model, *db, "--json"], capsys)
    assert code == 0
    said = {(Path(e["file"]).parent.name, e["reason"]) for e in json.loads(out)["elsewhere"]}
    assert said == {
        ("p0", "is enrolled as 'p1' and 'p2', too"),
        ("p1", "is enrolled as 'p0' and 'p2', too"),
        ("p2", "is enrolled as 'p0' and 'p1', too"),
    }
    _, out, _ = run(["enroll", people / "p0" / "0.png", "--name", "p3", *db], capsys)
    assert "is enrolled as 'p0' and 'p1' and 'p2', too" in out


@pytest.mark.parametrize("how", ["name", "path", "link", "hard link"])
def test_what_ships_is_calibrated_as_a_copy_only(tmp_path: Path, monkeypatch, how: str) -> None:
    home = tmp_path / "shipped"
    untrained(home, images="DIR", grey=True)
    (home / "best.safetensors").rename(home / "faces.safetensors")
    (home / "best.json").unlink()
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "models", lambda: {"faces": home / "faces.safetensors"})
    others = draw(tmp_path / "others", 12, seed=1)
    asked = {"name": "faces", "path": home / "faces.safetensors"}.get(how, tmp_path / "mine.safetensors")
    if how == "link":
        Path(asked).symlink_to(home / "faces.safetensors")
    if how == "hard link":
        Path(asked).hardlink_to(home / "faces.safetensors")
    before = (home / "faces.safetensors").read_bytes()
    with pytest.raises(ValueError, match="ships with the library and can't be written to: calibrate a copy"):
        calibrated(asked, others)  # pyright: ignore[reportArgumentType]
    calibrated(asked, others, copy=tmp_path / "mine")  # pyright: ignore[reportArgumentType]
    assert "calibration" in checkpoint.load(tmp_path / "mine" / "best.safetensors")[1]
    assert (home / "faces.safetensors").read_bytes() == before
    assert [p.name for p in home.iterdir()] == ["faces.safetensors"], "no side file"
    with pytest.raises(FileExistsError, match="is there already: calibrate that"):
        calibrated(asked, others, copy=tmp_path / "mine")  # pyright: ignore[reportArgumentType]


def test_better_thresholds_are_not_replaced_unasked(
    model: Path, people: Path, tmp_path: Path, capsys
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(model, mine)
    before = checkpoint.load(mine / "best.safetensors")[1]["calibration"]
    few = draw(tmp_path / "few", 5, seed=3)
    code, _, _ = run(["calibrate", mine, "--images", few], capsys)
    assert "the 30 items of few are too few" in str(code)
    assert "The thresholds stay as they are" in str(code)
    assert checkpoint.load(mine / "best.safetensors")[1]["calibration"] == before
    assert run(["calibrate", mine, "--images", few, "--force"], capsys)[0] == 0
    assert checkpoint.load(mine / "best.safetensors")[1]["calibration"] != before
    assert run(["calibrate", mine, "--images", draw(tmp_path / "more", 13, seed=4)], capsys)[0] == 0


def test_a_file_of_the_same_name_beside_a_checkpoint_is_left_alone(people: Path, tmp_path: Path) -> None:
    folder = untrained(tmp_path / "run", images="DIR", grey=True)
    (folder / "best.json").write_text('{"mine": 1}')
    calibrated(folder, draw(tmp_path / "others", 12, seed=1))
    assert (folder / "best.json").read_text() == '{"mine": 1}'


def test_two_forms_of_a_name_are_one_and_bad_names_cost_their_files_alone(
    model: Path, people: Path, capsys
) -> None:
    (people / "p0").rename(people / "Jos\u00e9")
    (people / "p1").rename(people / "Jose\u0301")
    (people / "p2").rename(people / "unknown")
    (people / "p3").rename(people / "A\u200bda")
    (people / "p4").rename(people / "-x")
    (people / "p5").rename(people / "P6")
    db = ["--gallery", people.parent / "people.db"]
    code, out, err = run(["enroll", people, "--model", model, *db, "--json"], capsys)
    done = json.loads(out)
    assert code == 0
    assert done["added"] == {
        "Jos\u00e9": 2 * PICTURES,
        "P6": PICTURES,
        "p6": PICTURES,
        "p7": PICTURES,
        "p8": PICTURES,
    }
    assert len(done["refused"]) == 3 * PICTURES
    reasons = {r["reason"].split(":")[0] for r in done["refused"]}
    assert reasons == {
        "name 'unknown' is the answer for strangers",
        "name 'A\\u200bda' has characters that can't be seen",
        "name '-x' would be read as an option",
    }
    assert "'p6' looks like 'P6', enrolled as well" in done["warnings"]
    assert err.count("warning: 'P6' looks like 'p6', enrolled as well\n") == 1
    code, _, _ = run(["enroll", people / "p7" / "0.png", "--name", "../evil", *db], capsys)
    assert "name '../evil' would be read as a path" in str(code)


def test_thresholds_that_do_not_hold_for_what_is_enrolled_are_said(
    model: Path, people: Path, tmp_path: Path
) -> None:
    assert Recognizer(model, tmp_path / "same.db").enroll_folder(people).warnings == []
    # people that all look much alike, as other recordings do to an encoder that never heard such
    rng = np.random.default_rng(0)
    page = rng.normal(128, 60, (64, 64))
    for i in range(6):
        (tmp_path / "alike" / f"q{i}").mkdir(parents=True)
        for j in range(3):
            noisy = (page + rng.normal(0, 10, page.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / "alike" / f"q{i}" / f"{j}.png")
    (warning,) = Recognizer(model, tmp_path / "other.db").enroll_folder(tmp_path / "alike").warnings
    assert warning.startswith("1e+02 % of the pairs") or warning.startswith("100 % of the pairs")
    assert "measured on another kind of data" in warning


def test_several_names_above_the_threshold_are_all_named(model: Path, people: Path, capsys) -> None:
    for name in ("theo", "lucas"):
        Recognizer(model, people.parent / "people.db").enroll(
            name, [people / "p0" / f"{j}.png" for j in range(3)]
        )
    recognizer = Recognizer(model, people.parent / "people.db")
    recognizer.enroll("other", [people / "p1" / f"{j}.png" for j in range(3)])
    (found,) = recognizer.identify(people / "p0" / "5.png", top=1)
    assert set(found.names) == {"theo", "lucas"}
    assert found.shares == pytest.approx({"theo": 0.5, "lucas": 0.5})
    (stranger,) = recognizer.identify(people / "p5" / "5.png")
    assert (stranger.names, stranger.shares) == ((), {})
    ask = [
        "identify",
        people / "p0" / "5.png",
        people / "p5" / "5.png",
        "--gallery",
        people.parent / "people.db",
    ]
    monkey = pytest.MonkeyPatch()
    monkey.setenv("COLUMNS", "200")
    _, out, _ = run(ask, capsys)
    monkey.undo()
    two, unknown = (line for line in out.splitlines() if "5.png" in line)
    assert "theo or lucas" in two or "lucas or theo" in two
    assert "unknown (nearest" in unknown
    assert "%" not in unknown, "no probability is shown of who isn't named"
    assert "theo 50%" in out
    assert "lucas 50%" in out
    assert "which of them it is, if it is one of these" in out
    _, out, _ = run([*ask, "--format", "csv"], capsys)
    head, first, second = out.splitlines()
    assert head == "file,name,nearest,score,threshold,probability"
    assert " or " in first
    assert second.split(",")[1] == ""
    assert isinstance(found, Identity)


def test_without_thresholds_the_nearest_are_named_all_the_same(people: Path, tmp_path: Path, capsys) -> None:
    bare = untrained(tmp_path / "bare", images="DIR", grey=True)
    recognizer = Recognizer(bare, tmp_path / "bare.db")
    for i in range(2):
        recognizer.enroll(f"p{i}", people / f"p{i}" / "0.png")
    ask = ["identify", people / "p1" / "1.png", "--gallery", tmp_path / "bare.db"]
    assert "has no thresholds yet" in str(run(ask, capsys)[0])
    code, out, _ = run([*ask, "--no-unknown", "--json"], capsys)
    assert code == 0
    assert json.loads(out)[0]["name"] == "p1"
    assert "p1" in run([*ask, "--no-unknown"], capsys)[1]
    assert run([*ask, "--no-unknown", "--format", "csv"], capsys)[1].startswith("file,name,score\r\n")


def test_results_go_into_a_file_that_is_not_there_yet(
    model: Path, people: Path, tmp_path: Path, capsys
) -> None:
    enrolled(model, people, names=2)
    out = tmp_path / "found.json"
    ask = [
        "identify",
        people / "p1" / "5.png",
        "--gallery",
        people.parent / "people.db",
        "--json",
        "--out",
        out,
    ]
    code, printed, _ = run(ask, capsys)
    assert (code, printed) == (0, "")
    assert json.loads(out.read_text())[0]["name"] == "p1"
    out.write_text("mine")
    assert "is there already" in str(run(ask, capsys)[0])
    assert out.read_text() == "mine"
    assert run([*ask, "--force"], capsys)[0] == 0
    assert json.loads(out.read_text())
    kept = tmp_path / "kept.safetensors"
    kept.write_text("mine")
    db = ["--gallery", people.parent / "people.db"]
    assert "is there already" in str(run(["gallery", "export", kept, *db], capsys)[0])
    assert run(["gallery", "export", kept, *db, "--force"], capsys)[0] == 0
    page = tmp_path / "r.html"
    page.write_text("mine")
    assert "and no report" in str(run(["report", model, "--images", people, "--out", page], capsys)[0])


def test_a_model_that_was_moved_is_named_by_model(model: Path, people: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(model, tmp_path / "first")
    Recognizer(tmp_path / "first", people.parent / "people.db").enroll("p0", people / "p0" / "0.png")
    (tmp_path / "first").rename(tmp_path / "second")
    ask = ["identify", people / "p0" / "1.png", "--gallery", people.parent / "people.db"]
    code, _, _ = run(ask, capsys)
    assert "nothing is there any more: say where it is now by --model" in str(code)
    assert run([*ask, "--model", tmp_path / "second"], capsys)[0] == 0
    Recognizer(tmp_path / "second", people.parent / "people.db").enroll("p0", people / "p0" / "1.png")
    assert run(ask, capsys)[0] == 0, "it is remembered where it is now"


def test_names_are_merged(model: Path, people: Path, capsys) -> None:
    enrolled(model, people, names=3, samples=2)
    db = ["--gallery", people.parent / "people.db"]
    assert "merge the two" in str(run(["gallery", "rename", "p0", "p1", *db], capsys)[0])
    assert run(["gallery", "rename", "p0", "p1", "--merge", *db], capsys)[0] == 0
    assert run(["gallery", "merge", "p2", "p1", *db], capsys)[1] == "2 samples of p2 are p1's now\n"
    with Gallery(people.parent / "people.db") as gallery:
        assert [(e.name, e.samples) for e in gallery.names()] == [("p1", 6)]
        assert gallery.check() == []
    assert run(["gallery", "check", *db], capsys)[:2] == (0, "6 samples, all as they were enrolled\n")
    assert run(["gallery", "index", *db], capsys)[1] == "no index is needed: searches are in memory\n"


def test_removing_says_what_stays(model: Path, people: Path, tmp_path: Path, capsys) -> None:
    recognizer = enrolled(model, people, names=1)
    (tmp_path / "cache" / "faces-1").mkdir(parents=True)
    db = ["--gallery", people.parent / "people.db", "--yes"]
    source = recognizer.gallery.samples("p0")[0].source
    _, out, _ = run(["gallery", "remove", "p0", "--source", source, *db], capsys)
    assert "it is enrolled again with the folder or archive of its file" in out
    assert f"stay decoded in {tmp_path / 'cache'}" in out.replace("\n", " ")


@pytest.mark.parametrize(
    "kills", [pytest.param(3, marks=pytest.mark.medium), pytest.param(20, marks=pytest.mark.slow)]
)
def test_enroll_killed_at_random_leaves_nothing_half_written(
    model: Path, people: Path, tmp_path: Path, kills: int
) -> None:
    rng, home = np.random.default_rng(kills), tmp_path / "home"
    home.mkdir()
    where, started = home / "people.db", tmp_path / "started"
    for i in range(kills):
        if i % 5 == 0:  # the making of the gallery, too
            where.unlink(missing_ok=True)
        started.unlink(missing_ok=True)
        victim = processes.Process(target=enroll_by_command, args=(people, model, where, started))
        victim.start()
        while not started.exists():
            assert victim.is_alive()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        victim.kill()
        victim.join()
        assert {p.name for p in home.iterdir()} <= {"people.db", "people.db-journal"}
        if where.exists():
            with Gallery(where) as gallery:
                assert gallery.check() == []
                assert {e.samples for e in gallery.names()} <= {PICTURES}, "all samples of a name or none"
            assert [p.name for p in home.iterdir()] == ["people.db"]
    assert sum(Recognizer(model, where).enroll_folder(people).added.values()) <= PICTURES * len(
        list(people.iterdir())
    )
    with Gallery(where) as gallery:
        assert [e.samples for e in gallery.names()] == [PICTURES] * len(list(people.iterdir()))
    assert [p.name for p in home.iterdir()] == ["people.db"]
