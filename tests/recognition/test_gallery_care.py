"""What becomes of a gallery that others remove, replace, damage, fill with strange names, or can't write
to."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from quickstudy.recognition.gallery.gallery import Gallery

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
        with pytest.raises(FileNotFoundError, match="was replaced while it was written to"):  # noqa: SIM117
            with gallery._writing() as c:
                c.execute(gallery._tables.name.insert().values(name="Eve"))
                other.replace(path)
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
