"""What becomes of a gallery that others remove, replace, damage, fill with strange names, or can't write
to."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quickstudy.core.wording import shown
from quickstudy.recognition.gallery.gallery import Gallery
from quickstudy.recognition.gallery.naming import look_alikes
from quickstudy.recognition.gallery.search import SPARE, SearchIndex
from tests.recognition.test_recognition import run
from tests.support.hostile_exports import hostile_exports, sound_export, tried, write

D = 6


def some(count: int, seed: int = 0, dimensions: int = D) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)


def made(path: Path, *names: str, encoder: str = "e", seed: int = 0) -> Path:
    with Gallery(path, encoder=encoder) as gallery:
        for i, name in enumerate(names):
            gallery.enroll(name, some(2, seed + i), [f"{name} {j}" for j in range(2)])
    return path


def who(gallery: Gallery, seed: int) -> str:
    return gallery.search(some(1, seed), 1, "nearest")[0][0].name


# Removed and replaced


@pytest.mark.parametrize("used", [True, False])
def test_a_gallery_that_is_removed_is_an_error_and_gets_nothing_more(tmp_path: Path, used: bool) -> None:
    path = made(tmp_path / "g.db", "Ada", "Bob")
    with Gallery(path) as gallery:
        if used:
            assert who(gallery, 0) == "Ada"
        path.unlink()
        for use in (
            lambda: gallery.search(some(1), 1),
            gallery.names,
            lambda: gallery.enroll("Eve", some(1), ["x"]),
            lambda: gallery.remove("Ada"),
        ):
            with pytest.raises(
                FileNotFoundError, match=r"g\.db any more: it was removed or moved while in use"
            ):
                use()
        assert not path.exists()
        made(path, "Cyd")
        assert [e.name for e in gallery.names()] == ["Cyd"], "another in its place is read anew"


@pytest.mark.parametrize("how", ["renamed", "copied over", "removed and made"])
def test_a_gallery_that_is_replaced_is_read_anew(tmp_path: Path, how: str) -> None:
    """The new one has as many samples and as many changes: only its rows tell."""
    path, other = made(tmp_path / "g.db", "Ada", "Bob"), made(tmp_path / "other.db", "Cyd", "Bob")
    with Gallery(path) as gallery:
        assert who(gallery, 0) == "Ada"
        if how == "renamed":
            other.replace(path)
        elif how == "copied over":
            shutil.copyfile(other, path)
        else:
            path.unlink()
            made(path, "Cyd", "Bob")
        assert who(gallery, 0) == "Cyd", "who was deleted is not found"
        gallery.enroll("Eve", some(1, 9), ["x"])
    with Gallery(path) as again:
        assert [e.name for e in again.names()] == ["Bob", "Cyd", "Eve"], "and new ones go where the name is"


def test_copies_that_went_other_ways_are_told_apart(tmp_path: Path) -> None:
    path = made(tmp_path / "g.db", "Ada", "Bob", "Cyd")
    shutil.copyfile(path, tmp_path / "copy.db")
    with Gallery(tmp_path / "copy.db") as copy:
        copy.remove("Ada")
    with Gallery(path) as gallery:
        gallery.remove("Bob")
        assert who(gallery, 0) == "Ada"
        (tmp_path / "copy.db").replace(path)
        assert who(gallery, 1) == "Bob"
        assert who(gallery, 0) != "Ada"


def test_a_replaced_gallery_of_another_encoder_or_none_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "g.db", "Ada")
    with Gallery(path, encoder="e") as gallery:
        who(gallery, 0)
        made(tmp_path / "other.db", "Ada", encoder="f").replace(path)
        for use in (lambda: who(gallery, 0), lambda: gallery.enroll("Eve", some(1), ["x"])):
            with pytest.raises(ValueError, match="has embeddings of encoder f, not of e"):
                use()
        with closing(sqlite3.connect(tmp_path / "third.db")) as c, c:
            c.execute("CREATE TABLE t (a)")
        (tmp_path / "third.db").replace(path)
        with pytest.raises(ValueError, match="is damaged or no gallery"):
            who(gallery, 0)


def test_replaced_while_it_is_written_to_nothing_is_written(tmp_path: Path) -> None:
    path, other = made(tmp_path / "g.db", "Ada"), made(tmp_path / "other.db", "Cyd")
    with Gallery(path) as gallery:

        def replaced() -> None:
            with gallery._writing() as c:
                c.execute(gallery._tables.name.insert().values(name="Eve"))
                other.replace(path)

        with pytest.raises(FileNotFoundError, match="was replaced while it was written to"):
            replaced()
        assert [e.name for e in gallery.names()] == ["Cyd"]


def test_an_old_gallery_gets_its_digests(tmp_path: Path) -> None:
    path = made(tmp_path / "g.db", "Ada", "Bob")
    with Gallery(path) as gallery:
        gallery.put_setting("model", "m")
    with closing(sqlite3.connect(path)) as c, c:
        c.execute("UPDATE gallery SET schema = 1")
        c.execute("DROP INDEX ix_gallery_sample_source")
        for table in ("gallery_sample", "gallery_setting"):
            c.execute(f"ALTER TABLE {table} DROP COLUMN digest")
    with Gallery(path) as gallery:
        assert who(gallery, 1) == "Bob"
        assert gallery.get_setting("model") == "m"
        assert gallery.check() == []
    with Gallery(path) as gallery:
        assert gallery.stats().revision == 4


# Damaged


def test_thirty_of_thirty_flipped_bits_are_noticed(tmp_path: Path) -> None:
    """One at a time, anywhere in the embeddings, as they lie in the file."""
    rows = some(40, 5, 64)
    with Gallery(tmp_path / "g.db", encoder="e") as gallery:
        gallery.enroll_many((f"n{i // 2}", row, f"s{i}") for i, row in enumerate(rows))
    content = (tmp_path / "g.db").read_bytes()
    rng = np.random.default_rng(0)
    for i in range(30):
        row = rows[rng.integers(len(rows))].tobytes()
        at = content.index(row) + int(rng.integers(len(row)))
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{i}.db"
        path.write_bytes(damaged)
        with Gallery(path) as gallery:
            with pytest.raises(
                ValueError, match=r"is damaged, sample s\d+ of 'n\d+' isn't what was enrolled"
            ):
                gallery.search(some(1, 0, 64), 1)
            (problem,) = gallery.check()
            assert "isn't what was enrolled" in problem


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE gallery_name SET name = 'Adb' WHERE name = 'Ada'", "of 'Adb' isn't what was enrolled"),
        ("UPDATE gallery_sample SET time = time + 1 WHERE id = 1", "isn't what was enrolled"),
        ("UPDATE gallery_sample SET source = 'x' WHERE id = 1", "isn't what was enrolled"),
        ("UPDATE gallery_sample SET embedding = x'00' WHERE id = 1", "has an embedding of another length"),
        ("UPDATE gallery_setting SET value = '\"other\"'", "setting 'model' isn't what was stored"),
        ("INSERT INTO gallery_name (name) VALUES ('Eve')", "name 'Eve' has no samples"),
        ("UPDATE gallery_sample SET name_id = 9 WHERE id = 1", "1 samples have no name"),
        ("UPDATE gallery_name SET name = CAST(x'ff' AS TEXT) WHERE id = 1", "not all can be read"),
    ],
)
def test_what_is_changed_by_others_is_told_by_a_check(tmp_path: Path, change: str, problem: str) -> None:
    path = made(tmp_path / "g.db", "Ada", "Bob")
    with Gallery(path) as gallery:
        gallery.put_setting("model", "m")
        assert gallery.check() == []
    with closing(sqlite3.connect(path)) as c, c:
        c.execute(change)
    with Gallery(path) as gallery:
        assert problem in " ".join(gallery.check())
        if "setting" in change:
            with pytest.raises(ValueError, match="its model isn't what was stored"):
                gallery.get_setting("model")
        elif "isn't" in problem:
            with pytest.raises(ValueError, match="isn't what was enrolled"):
                gallery.distances(some(1), gallery.names()[0].name)


def test_names_and_merges_keep_digests(tmp_path: Path) -> None:
    with Gallery(made(tmp_path / "g.db", "Ada", "Bob", "Cyd")) as gallery:
        gallery.rename("Ada", "Eve")
        gallery.enroll("Cyd", some(1, 0), ["Bob 0"])
        assert gallery.merge("Bob", "Cyd") == 1, "one of the two it has already"
        assert [(e.name, e.samples) for e in gallery.names()] == [("Cyd", 4), ("Eve", 2)]
        assert gallery.check() == []
        assert gallery.search(some(1), 1)[0][0].name in ("Cyd", "Eve")
        with pytest.raises(ValueError, match="can't be merged into itself"):
            gallery.merge("Cyd", "Cyd")
        with pytest.raises(ValueError, match="nothing is enrolled as 'Bob'"):
            gallery.merge("Bob", "Cyd")


# Imports


@settings(max_examples=15)  # python -m tools.fuzz tries more
@given(st.integers(0, 2**32 - 1))
def test_hostile_exports_are_refused_or_imported_whole(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for content in hostile_exports(np.random.default_rng(seed), 3):
            assert tried(content, Path(folder)) in ("refused", "imported")


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("times", np.array([0, 2**63 - 1]), "a time isn't between 1970 and 9999"),
        ("times", np.array([0, -1]), "a time isn't between 1970 and 9999"),
        ("labels", np.array([0, -1]), "its labels aren't those of its 1 names"),
        ("labels", np.array([0, 1]), "its labels aren't those of its 1 names"),
        ("labels", np.array([0.0, 0.0]), r"its labels are float64 \[2\]"),
        ("embeddings", np.full((2, D), np.nan, np.float32), "an embedding isn't finite"),
        ("embeddings", np.zeros((2, D - 1), np.float32), "its embeddings have 5 dimensions, not 6"),
        ("names", np.frombuffer(b"un\xe2\x80\x8bknown", np.uint8), "can't be seen"),
        ("names", np.frombuffer(b"unknown", np.uint8), "is the answer for strangers"),
        ("names", np.frombuffer(b"\xff", np.uint8), "codec can't decode"),
    ],
)
def test_nothing_of_an_export_that_is_not_right_is_imported(
    tmp_path: Path, part: str, value: np.ndarray, reason: str
) -> None:
    tensors, manifest = sound_export(D)
    write(tmp_path / "x.safetensors", tensors | {part: value}, manifest)
    gallery = Gallery(made(tmp_path / "g.db", "Bob"))
    for there in (gallery, Gallery(tmp_path / "new.db")):
        with pytest.raises(
            ValueError, match=rf"x.safetensors is damaged or no export .*{reason}.* nothing was"
        ):
            there.import_(tmp_path / "x.safetensors")
    assert not (tmp_path / "new.db").exists()
    assert [e.name for e in gallery.names()] == ["Bob"]
    write(tmp_path / "x.safetensors", tensors, manifest)
    assert gallery.import_(tmp_path / "x.safetensors") == 2


# Names


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "\u200b",
        "A\u200bda",
        "\u202eadA",
        "a\x1b[31m",
        "a\nb",
        "\ud800",
        "x" * 201,
        "\ufeffAda",
        "\u2066Ada",
        "unknown",
        "Unknown",
        "UNKN\u041eWN",
        "-x",
        " -x",
        "../evil",
        "a/../b",
        "..",
        "/etc/passwd",
        "~root",
        "\\x",
    ],
)
def test_names_that_are_refused(tmp_path: Path, name: str) -> None:
    with Gallery(made(tmp_path / "g.db", "Ada"), encoder="e") as gallery:
        for use in (lambda: gallery.enroll(name, some(1), ["x"]), lambda: gallery.rename("Ada", name)):
            with pytest.raises(ValueError, match=r"^(a )?name ") as error:
                use()
            assert str(error.value).isprintable()
        assert [e.name for e in gallery.names()] == ["Ada"]


@pytest.mark.parametrize("name", ["می\u200cخواهم", "क्\u200dष", "José", "O'Brien", "李 小龙", "AC/DC", "a-b"])
def test_names_that_are_names(tmp_path: Path, name: str) -> None:
    with Gallery(made(tmp_path / "g.db", name)) as gallery:
        assert shown(gallery.names()[0].name) == name


@pytest.mark.parametrize(
    "other",
    ["mum", "MUM", "\u041cum", "Mum ", "\uff2dum", "M um"],
)
def test_names_that_look_alike(other: str) -> None:
    expected = {} if " " in other.strip() or "\u00a0" in other else {other: ["Mum"]}
    assert look_alikes([other], ["Mum", "Dad", other]) == (expected or {})
    assert look_alikes(["p1"], ["pl", "p2"]) == {"p1": ["pl"]}
    assert look_alikes(["José"], ["Jose"]) == {}, "an accent can be seen"


# Passwords


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s%C3%A9cret%40@127.0.0.1:1/d",
        "postgresql://u@127.0.0.1:1/d?password=s%C3%A9cret%40",
        "postgresql://u@127.0.0.1:1/d?sslpassword=x&password=s%C3%A9cret%40&bogus=1",
        "postgresql://127.0.0.1:1/d?user=u&PASSWORD=s%C3%A9cret%40",
        "postgresql+psycopg://u:s%C3%A9cret%40@127.0.0.1:1/d?connect_timeout=x",
        "postgresql://u:sécret@@127.0.0.1:1/d",
        "postgresql://u:sécret@host@127.0.0.1:1/d",
        "postgres://u:sécret@@127.0.0.1/d",
        "postgres://u@127.0.0.1/d?password=sécret@",
        "mysql://u@h/d?password=sécret@",
        "postgresql://u:sécret@/@127.0.0.1:port/d",
        "postgresql:/u:sécret@@127.0.0.1/d",
        "host=127.0.0.1 user=u password=sécret@ dbname=d",
        "host=127.0.0.1 password = 'sécret@ b' dbname=d",
    ],
)
def test_a_password_is_never_shown(url: str, tmp_path: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.chdir(tmp_path)
    texts: list[str] = []
    try:
        Gallery(url, encoder="e").names()
    except (ValueError, OSError) as error:
        texts.append(str(error))
    for line in (
        ["gallery", "list"],
        ["identify", "x.png"],
        ["enroll", "x.png", "--name", "a", "--model", "m"],
    ):
        code, out, err = run([*line, "--gallery", url], capsys)
        texts += [str(code), out, err]
    for text in texts:
        assert "cret" not in text, text
    assert any("error" in text for text in texts)


# Without room, and where nothing may be written


def test_a_removal_without_room_for_the_rewriting_is_a_removal(tmp_path: Path, monkeypatch) -> None:
    with Gallery(made(tmp_path / "g.db", "Ada", "Bob")) as gallery:

        def full() -> bool:
            raise OSError(f"{gallery} can't be written (database or disk is full): free some space")

        with monkeypatch.context() as patch:
            patch.setattr(gallery._database, "_vacuumed", full)
            with pytest.warns(UserWarning, match=r"^'Ada' is removed, but traces .* \(.*disk is full"):
                assert gallery.remove("Ada") == 2
            with pytest.warns(UserWarning, match="^what was added is kept, but traces"):
                assert gallery.enroll("Eve", some(1, 9), ["x"]) == 1
        assert [e.name for e in gallery.names()] == ["Bob", "Eve"]
        assert not gallery._database.wiped()
        gallery.enroll("Eve", some(1, 8), ["y"])
        assert gallery._database.wiped()


def test_without_room_for_the_change_nothing_is_changed(tmp_path: Path) -> None:
    with Gallery(made(tmp_path / "g.db", "Ada")) as gallery:
        with gallery._database.reading() as c:
            pages = c.exec_driver_sql("PRAGMA page_count").scalar()
            c.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(
            OSError, match=r"can't be written, and nothing was changed \(database or disk is full"
        ):
            gallery.enroll("Eve", some(4000, 9), [str(i) for i in range(4000)])
        assert [e.name for e in gallery.names()] == ["Ada"]


def test_a_gallery_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch) -> None:
    path = made(tmp_path / "g.db", "Ada", "Bob")
    before = sorted(p.name for p in tmp_path.iterdir())
    may = os.access
    monkeypatch.setattr("os.access", lambda p, mode: mode != os.W_OK and may(p, mode))
    with Gallery(path, encoder="e") as gallery:
        assert who(gallery, 1) == "Bob"
        assert gallery.check() == []
        assert sorted(p.name for p in tmp_path.iterdir()) == before, "nothing is written beside it"
        for change in (lambda: gallery.enroll("Eve", some(1), ["x"]), lambda: gallery.remove("Ada")):
            with pytest.raises(OSError, match="can only be read: see to the permissions"):
                change()
        assert [e.name for e in gallery.names()] == ["Ada", "Bob"]


# Search


def test_what_the_quick_pass_cannot_tell_apart_the_precise_one_does() -> None:
    """Far from the origin a matrix product in float32 ranks neighbors at random."""
    rng = np.random.default_rng(0)
    base = rng.uniform(500, 1000, 16).astype(np.float32)
    rows = base + rng.normal(0, 0.01, (SPARE + 1, 16)).astype(np.float32)
    index = SearchIndex(16, False, False, {1: len(rows)})
    index.put(np.arange(len(rows)), np.ones(len(rows), np.int64), rows)
    _, found = index.search(torch.from_numpy(rows), 1, "nearest")
    assert found[:, 0].tolist() == list(range(len(rows)))
