"""Gallery: named embeddings in a SQL database."""

import contextlib
import itertools
import json
import time
import warnings
from collections.abc import Generator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from quickstudy.core.arrays import Float32Array, IntArray
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.recognition.gallery.checking import TOLERANCE, problems_of
from quickstudy.recognition.gallery.database import SCHEMA, WIRE, Database
from quickstudy.recognition.gallery.digests import row_digest
from quickstudy.recognition.gallery.exchange import Kind, Samples, read_export, write_export
from quickstudy.recognition.gallery.index import EXACT, Finder
from quickstudy.recognition.gallery.naming import checked_name, checked_text, normal
from quickstudy.recognition.gallery.pooling import Pooling
from quickstudy.recognition.gallery.records import Entry, Match, Sample, Stats


class Gallery:
    """Named embeddings in a SQL database; no model, no pictures, no sound.

    It is created when first written to, for one encoder, and refuses embeddings of another. Any number of
    programs may use it at once. Every write is made as a whole or, after an error or the end of the program,
    not at all. Names are stored in Unicode's NFC.

    Every row has a digest, checked when it is read: a gallery with bits flipped is an error, and `check`
    tells them all. A file that is removed or replaced while it is open is noticed at the next use:
    another one in its place is read anew, and without any there is an error, so nobody who was deleted
    goes on being found.

    Removed data leaves no traces in a SQLite file or its log: it is overwritten, and the file rewritten. A
    PostgreSQL server is asked to VACUUM; its log and backups are the responsibility of its operator.

    A search is exact and in memory; `quickstudy.recognition.gallery.search` says how much it takes. Changes
    by other programs are read before each search; after additions, only names with new samples are read
    again. In PostgreSQL, with more than `exact` samples, candidates are the names of the nearest 200 samples
    (20 k if that is more, at most 1,000) that an HNSW index finds, and only these are measured exactly.

    Args:
        where: Path of a SQLite file, or URL such as `postgresql://USER@HOST/DATABASE` of a database with
            pgvector, which holds one gallery.
        encoder: Fingerprint of the encoder; by default that of the gallery, which must then exist.
        dimensions: Dimensions D of an embedding; by default those of the gallery or of the first embeddings.
        cosine: Whether embeddings, and so centroids, are unit vectors; by default as in the gallery, and
            False for a new one.
        exact: Number of samples in PostgreSQL up to which a search is exact, and its index isn't used.

    Raises:
        ValueError: If the gallery is of another encoder, D or energy, written by a newer version, damaged, or
            no gallery at all.
        OSError: If it can't be read or written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder, Gallery(f"{folder}/people.db", encoder="a1b2") as gallery:
        ...     gallery.enroll("Ada", np.eye(2, 4, dtype=np.float32), ["digest 1", "digest 2"])
        ...     gallery.enroll("Bob", np.zeros((1, 4), np.float32), ["digest 3"])
        ...     gallery.search(np.eye(1, 4, dtype=np.float32), k=1, pooling="nearest")
        2
        1
        [[Match(name='Ada', distance=0.0, samples=2)]]
    """

    def __init__(
        self,
        where: str | Path,
        *,
        encoder: str | None = None,
        dimensions: int | None = None,
        cosine: bool | None = None,
        exact: int = EXACT,
    ) -> None:
        self._database = Database(where)
        self._tables = self._database.tables
        self._encoder, self._dimensions, self._cosine = encoder, dimensions, cosine
        self._there = False
        self._finder = Finder(self._database, exact)
        try:
            self.exists()
        except Exception:
            self.close()
            raise

    def __str__(self) -> str:
        """Path or URL, without the password."""
        return str(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and free the memory; later use opens them again."""
        self._database.engine.dispose()
        self._finder.clear()

    def exists(self) -> bool:
        """Whether the gallery has been created, by the first write."""
        if not self._there and self._database.exists():
            self._open()
            self._there = True
        return self._there

    # Enrollment

    def enroll(self, name: str, embeddings: npt.ArrayLike, sources: Sequence[str]) -> int:
        """Add samples of one name, in one transaction.

        Args:
            name: Name to enroll the samples under, up to 200 characters, none of them control characters.
            embeddings: Embeddings [n, D], float32.
            sources: Digest of each embedding's file, or other source, [n]. A digest that the name has already
                is skipped.

        Returns:
            Number of new samples.

        Raises:
            ValueError: If the name, a source or the embeddings are not valid.
        """
        rows = self._checked(embeddings, "embeddings")
        if len(sources) != len(rows):
            raise ValueError(
                f"there are {len(rows)} embeddings and {len(sources)} sources: give one for each"
            )
        return self._add([Samples([name] * len(rows), sources, rows, [_now()] * len(rows))])

    def enroll_many(self, samples: Iterable[tuple[str, npt.ArrayLike, str]]) -> int:
        """Add samples of any names, in one transaction.

        Args:
            samples: Name, embedding [D] and source of each sample, as in `enroll`. All are read into memory
                before the transaction begins, so that other programs can write meanwhile.

        Returns:
            Number of new samples.

        Raises:
            ValueError: If a name, a source or an embedding is not valid.
        """
        parts: list[Samples] = []
        source, now = iter(samples), _now()
        while part := list(itertools.islice(source, sizes_on().database_rows)):
            names, embeddings, sources = zip(*part, strict=True)
            shapes = {np.shape(e) for e in embeddings}
            if len(shapes) > 1:
                raise ValueError(f"embeddings have shapes {sorted(shapes)}: all must be [D]")
            rows = self._checked(embeddings, "embeddings")
            parts.append(Samples(names, sources, rows, [now] * len(part)))
        return self._add(parts)

    def _add(self, parts: Sequence[Samples]) -> int:
        parts = [part for part in parts if len(part)]
        if not parts:
            return 0
        names = {n: checked_name(n) for part in parts for n in part.names}
        sources = {s: checked_text(s, "source") for part in parts for s in part.sources}
        self._make(parts)
        name, sample = self._tables.name, self._tables.sample
        insert = postgresql.insert if self._database.backend == "postgresql" else sqlite.insert
        of_name = select(name.c.id).where(name.c.name == bindparam("of")).scalar_subquery()
        add_name = insert(name).on_conflict_do_nothing()
        add_sample = insert(sample).values(name_id=of_name).on_conflict_do_nothing()
        with self._writing() as c:
            before = self._finder.last(c)
            for part in parts:
                c.execute(add_name, [{"name": names[n]} for n in dict.fromkeys(part.names)])
                embeddings = (e.tobytes() for e in part.embeddings.astype(WIRE, copy=False))
                columns = zip(part.names, part.sources, part.times, embeddings, strict=True)
                c.execute(
                    add_sample,
                    [
                        {
                            "of": names[n],
                            "source": sources[s],
                            "time": t,
                            "embedding": e,
                            "digest": row_digest(names[n], sources[s], t, e),
                        }
                        for n, s, t, e in columns
                    ],
                )
            new = c.scalar(select(func.count()).where(sample.c.id > before)) or 0
            unindexed = self._finder.unindexed(c)
        self._wipe("what was added is kept")  # finishes the work of a removal that was killed
        if unindexed:
            warnings.warn(unindexed, stacklevel=3)
        return new

    def _make(self, parts: Sequence[Samples]) -> None:
        if self.exists():
            return
        if self._encoder is None:
            raise ValueError(f"there is no gallery at {self} yet: give the encoder that it is to be of")
        self._database.create(
            schema=SCHEMA,
            encoder=self._encoder,
            dimensions=parts[0].embeddings.shape[1],
            cosine=bool(self._cosine),
            revision=0,
            removals=0,
            wiped=0,
        )
        self.exists()
        for part in parts:  # another program may have created it first, of another kind
            self._checked(part.embeddings, "embeddings")

    # Contents

    def names(self) -> list[Entry]:
        """All names, sorted, with their numbers of samples.

        Raises:
            FileNotFoundError: If the gallery doesn't exist yet. So do all methods below.
        """
        name, sample = self._tables.name, self._tables.sample
        times = (func.count(), func.min(sample.c.time), func.max(sample.c.time))
        query = select(name.c.name, *times).join_from(name, sample).group_by(name.c.id)
        with self._reading() as (c, _):
            found = c.execute(query).all()
        return sorted(
            (Entry(n, count, _date(first), _date(last)) for n, count, first, last in found),
            key=lambda entry: entry.name,
        )

    def samples(self, name: str) -> list[Sample]:
        """The samples of a name, in the order of their enrollment.

        Args:
            name: Enrolled name.

        Raises:
            ValueError: If there is no such name.
        """
        sample = self._tables.sample
        with self._reading() as (c, _):
            query = select(sample.c.source, sample.c.time).where(sample.c.name_id == self._id(c, name))
            return [Sample(source, _date(at)) for source, at in c.execute(query.order_by(sample.c.id))]

    def names_of(self, sources: Iterable[str]) -> dict[str, list[str]]:
        """The names under which sources are enrolled, sorted, for those that are.

        Args:
            sources: Digests of files, or other sources.
        """
        name, sample = self._tables.name, self._tables.sample
        query = select(sample.c.source, name.c.name).join_from(sample, name)
        found: dict[str, list[str]] = {}
        asked, size = list(dict.fromkeys(sources)), sizes_on().database_rows
        with self._reading() as (c, _):
            for i in range(0, len(asked), size):
                for source, of in c.execute(query.where(sample.c.source.in_(asked[i : i + size]))):
                    found.setdefault(source, []).append(of)
        return {source: sorted(names) for source, names in found.items()}

    def embeddings(self) -> tuple[Float32Array, IntArray, tuple[str, ...]]:
        """All embeddings, for calibration.

        Returns:
            Embeddings [I, D]; labels [I], indices of names; and the names.
        """
        names: list[str] = []
        parts: list[Float32Array] = []
        counts: list[IntArray] = []
        with self._reading() as (c, row):
            for ids, count, rows in self._finder.whole_names(c, row):
                names += self._finder.names(c, ids).values()
                parts.append(rows)
                counts.append(count)
        labels = np.repeat(np.arange(len(names)), np.concatenate([np.empty(0, np.int64), *counts]))
        return np.concatenate([np.empty((0, row.dimensions), np.float32), *parts]), labels, tuple(names)

    def size(self) -> tuple[int, int]:
        """Number of names and of samples, counted again only after a change."""
        with self._finder.lock, self._reading() as (c, row):
            return self._finder.size(c, row)

    def stats(self) -> Stats:
        """Figures of the gallery."""
        each = self._finder.counts()
        with self._reading() as (c, row):
            names, samples, fewest, most = c.execute(
                select(func.count(), func.sum(each), func.min(each), func.max(each))
            ).one()
            return Stats(
                names=names,
                samples=int(samples or 0),
                fewest=fewest or 0,
                most=most or 0,
                dimensions=row.dimensions,
                cosine=row.cosine,
                encoder=row.encoder,
                backend="sqlite" if self._database.path else "postgresql",
                bytes=self._database.size(c),
                revision=row.revision,
            )

    # Changes

    def rename(self, old: str, new: str) -> None:
        """Rename an enrolled name.

        Args:
            old: Enrolled name.
            new: Name to give it, which must not be enrolled yet.

        Raises:
            ValueError: If there is no such name, or the new one is enrolled already.
        """
        name, new = self._tables.name, checked_name(new)
        with self._writing(removes=True) as c:
            at = self._id(c, old)
            if c.scalar(select(name.c.id).where(name.c.name == new)) not in (None, at):
                raise ValueError(
                    f"{new!r} is enrolled already: merge the two (quickstudy gallery merge, "
                    "Gallery.merge), or "
                    "choose another name"
                )
            c.execute(name.update().where(name.c.id == at).values(name=new))
            self._sign(c, at, new)
        self._wipe(f"{old!r} is renamed")

    def merge(self, name: str, into: str) -> int:
        """Put the samples of one name to those of another, and remove the first name.

        Args:
            name: Enrolled name, which is gone afterwards.
            into: Enrolled name that gets its samples; those it has already stay as they are.

        Returns:
            Number of samples that the second name has gained.

        Raises:
            ValueError: If either isn't enrolled, or both are the same.
        """
        names, sample = self._tables.name, self._tables.sample
        with self._writing(removes=True) as c:
            old, new = self._id(c, name), self._id(c, into)
            if old == new:
                raise ValueError(f"{name!r} can't be merged into itself: name two")
            there = select(sample.c.source).where(sample.c.name_id == new)
            moved = sample.update().where(sample.c.name_id == old, sample.c.source.not_in(there))
            gained = c.execute(moved.values(name_id=new)).rowcount
            c.execute(sample.delete().where(sample.c.name_id == old))
            c.execute(names.delete().where(names.c.id == old))
            self._sign(c, new, normal(into))
        self._wipe(f"{name!r} is merged into {into!r}")
        return gained

    def _sign(self, c: Connection, name_id: int, name: str) -> None:
        """Renew the digests of a name's samples, which the name is part of."""
        sample = self._tables.sample
        columns = (sample.c.id, sample.c.source, sample.c.time, sample.c.embedding)
        rows = c.execute(select(*columns).where(sample.c.name_id == name_id)).all()
        renewed = sample.update().where(sample.c.id == bindparam("at")).values(digest=bindparam("new"))
        c.execute(renewed, [{"at": i, "new": row_digest(name, s, t, e)} for i, s, t, e in rows])

    def remove(self, name: str, source: str | None = None) -> int:
        """Remove a name, or one of its samples, for good. With its last sample a name is removed as well.

        Args:
            name: Enrolled name.
            source: Digest of the sample to remove; by default all samples are removed.

        Returns:
            Number of samples removed.

        Raises:
            ValueError: If there is no such name or sample.

        Warns:
            UserWarning: If it is removed, but traces are left because another program kept reading for a
                minute, or there was no room to rewrite the file; the next change removes them.
        """
        names, sample = self._tables.name, self._tables.sample
        with self._writing(removes=True) as c:
            at = self._id(c, name)
            unwanted = sample.c.name_id == at
            if source is not None:
                unwanted &= sample.c.source == normal(source)
            count = c.execute(sample.delete().where(unwanted)).rowcount
            if not count:
                raise ValueError(f"{name!r} has no sample {source!r}: see its samples")
            if not c.scalar(select(func.count()).where(sample.c.name_id == at)):
                c.execute(names.delete().where(names.c.id == at))
        what = f"{name!r} is removed" if source is None else f"a sample of {name!r} is removed"
        self._wipe(what)
        return count

    def _wipe(self, done: str) -> None:
        """Wipe out the traces of what was removed, or say that they are there yet: what was done is done."""
        try:
            reason = None if self._database.wipe() else "another program keeps using it"
        except OSError as error:
            reason = str(error)
        if reason:
            warnings.warn(
                f"{done}, but traces of what was removed are left in the files of {self}, as they couldn't "
                "be "
                f"rewritten ({reason}): the next change wipes them out, where there is room and nobody reads",
                stacklevel=3,
            )

    # Settings

    def get_setting(self, key: str) -> Any:
        """Read a setting, such as the gallery's own calibration.

        Args:
            key: Key of the setting.

        Returns:
            Its value, or None if there is none.
        """
        setting = self._tables.setting
        with self._reading() as (c, _):
            row = c.execute(
                select(setting.c.value, setting.c.digest).where(setting.c.key == key)
            ).one_or_none()
        if row and row.digest != row_digest(key, row.value):
            raise ValueError(
                f"{self} is damaged, its {key} isn't what was stored: restore it, or store that anew"
            )
        return None if row is None else json.loads(row.value)

    def put_setting(self, key: str, value: Any) -> None:
        """Store a setting.

        Args:
            key: Key of the setting.
            value: Value that JSON can represent; it replaces the old one. None removes the setting.
        """
        setting, content = self._tables.setting, json.dumps(value, ensure_ascii=False, allow_nan=False)
        with self._writing() as c:
            c.execute(setting.delete().where(setting.c.key == key))
            if value is not None:
                c.execute(setting.insert().values(key=key, value=content, digest=row_digest(key, content)))

    # Files

    def export(self, path: str | Path) -> int:
        """Write all samples into a `.safetensors` file, whole or not at all.

        Settings aren't exported. `quickstudy.recognition.gallery.exchange` describes the format.

        Args:
            path: Path of the file to write.

        Returns:
            Number of samples in the file.

        Raises:
            OSError: If it can't be written.
        """
        name, sample = self._tables.name, self._tables.sample
        query = select(name.c.name, sample.c.source, sample.c.time, sample.c.embedding)
        query = query.join_from(name, sample).order_by(name.c.id, sample.c.id)
        with self._reading() as (c, row):
            found = c.execute(query.execution_options(yield_per=sizes_on().database_rows))
            return write_export(Path(path), Kind(row.encoder, row.dimensions, row.cosine), found)

    def import_(self, path: str | Path) -> int:
        """Add all samples of an exported file, in one transaction; samples it has already are skipped.

        A gallery that doesn't exist yet, and was opened without an encoder, takes that of the file.

        Args:
            path: Path of the exported file.

        Returns:
            Number of new samples.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, no export, or of another encoder.
        """
        kind, samples = read_export(Path(path))  # which checks all of it
        if not self.exists():
            self._encoder = kind.encoder if self._encoder is None else self._encoder
            self._cosine = kind.cosine if self._cosine is None else self._cosine
        self._same(str(path), kind)
        self._checked(samples.embeddings, "embeddings")
        size = sizes_on().database_rows
        return self._add([samples[i : i + size] for i in range(0, len(samples), size)])

    # Care

    def check(self) -> list[str]:
        """Read all that is stored, and find what is damaged.

        Returns:
            A sentence for each thing that is wrong: digests, lengths and numbers of the embeddings, names
            without samples, settings, and the database's own indices. None if the gallery is sound.
        """
        with self._reading() as (c, row):
            return problems_of(self._database, c, row, self._finder)

    def build_index(self) -> bool:
        """Build PostgreSQL's index for more samples than are searched in memory; others can write meanwhile.

        It takes minutes for each hundred thousand samples. After that, PostgreSQL keeps the index as it
        should be.

        Returns:
            Whether there is an index now; False where none is of use, as there are too few samples, too many
            dimensions, or the gallery is a SQLite file.
        """
        with self._reading() as (c, _):
            needed = self._finder.needs_index(c)
        if needed:
            self._database.build_index()
        return needed

    # Search

    def search(self, probes: npt.ArrayLike, k: int = 5, pooling: Pooling = "centroid") -> list[list[Match]]:
        """Find the names nearest to each probe, nearest first.

        Args:
            probes: Embeddings [B, D].
            k: Number of names to find; if the gallery has fewer, all are returned.
            pooling: Pooling of a name's samples: "centroid", the distance ‖p − g‖ to their mean; "nearest",
                the least of the distances; "top", the root mean square of the three least.

        Returns:
            Nearest names of each probe, with distances.

        Raises:
            ValueError: If the probes, k or the pooling are not valid.
        """
        if k < 1:
            raise ValueError(f"k is {k}: ask for at least one name")
        with self._finder.lock, self._reading() as (c, row):
            found = self._finder.search(c, row, self._checked(probes, "probes"), k, pooling)
            ids = np.unique([i for of_probe in found for i, _, _ in of_probe]).astype(np.int64)
            named = self._finder.names(c, ids)
        return [
            [Match(named[i], distance, samples) for i, distance, samples in of_probe] for of_probe in found
        ]

    def distances(self, probes: npt.ArrayLike, name: str, pooling: Pooling = "centroid") -> Float32Array:
        """Measure distances to one name, as in `search`, reading only that name.

        Args:
            probes: Embeddings [B, D].
            name: Enrolled name.
            pooling: Pooling of the name's samples, as in `search`.

        Returns:
            Distances [B] ≥ 0.

        Raises:
            ValueError: If there is no such name, or the probes or the pooling are not valid.
        """
        with self._reading() as (c, row):
            p, at = self._checked(probes, "probes"), self._id(c, name)
            return self._finder.distances(c, row, p, [at], pooling)[at][0]

    # Reading and checking

    def _open(self) -> None:
        self._database.upgrade()
        with self._database.reading() as c:
            row = self._row(c)
        self._database.clear_journal()
        self._encoder, self._dimensions, self._cosine = row.encoder, row.dimensions, row.cosine

    def _same(self, whose: str, kind: Kind) -> None:
        fix = "use the model it was enrolled with, enroll anew, or name another gallery"
        if self._encoder not in (None, kind.encoder):
            raise ValueError(
                f"{whose} has embeddings of encoder {kind.encoder}, not of {self._encoder}: {fix}"
            )
        if self._dimensions not in (None, kind.dimensions):
            raise ValueError(f"{whose} has {kind.dimensions}-d embeddings, not {self._dimensions}-d: {fix}")
        if self._cosine not in (None, kind.cosine):
            kinds = ("for Euclidean distances", "of length 1, for cosines")
            raise ValueError(
                f"{whose} has embeddings {kinds[kind.cosine]}, not {kinds[not kind.cosine]}: {fix}"
            )

    @contextlib.contextmanager
    def _reading(self) -> Generator[tuple[Connection, Row[Any]]]:
        if not self.exists():
            raise FileNotFoundError(f"no gallery at {self}: enroll somebody first")
        with self._database.reading() as c:
            yield c, self._row(c)

    @contextlib.contextmanager
    def _writing(self, removes: bool = False) -> Generator[Connection]:
        if not self.exists():
            raise FileNotFoundError(f"no gallery at {self}: enroll somebody first")
        with self._database.writing(removes) as c:
            self._row(c)
            yield c

    def _row(self, c: Connection) -> Row[Any]:
        """The gallery's row; another gallery may lie here by now."""
        row = c.execute(self._tables.gallery.select()).one_or_none()
        if row is None:
            raise ValueError(f"{self} is damaged: it does not say what it holds; restore it")
        if row.schema != SCHEMA:
            age, fix = ("a newer", "update this one") if row.schema > SCHEMA else ("an older", "open it anew")
            raise ValueError(f"{self} was written by {age} quickstudy: {fix}")
        self._same(str(self), Kind(row.encoder, row.dimensions, row.cosine))
        return row

    def _id(self, c: Connection, name: str) -> int:
        found = c.scalar(select(self._tables.name.c.id).where(self._tables.name.c.name == normal(name)))
        if found is None:
            raise ValueError(
                f"nothing is enrolled as {name!r} in {self}: enroll it, or see the names there are"
            )
        return found

    def _checked(self, embeddings: npt.ArrayLike, what: str) -> Float32Array:
        """Embeddings as float32 [n, D], if they are of this gallery's kind."""
        given = np.asarray(embeddings)
        if given.dtype.kind not in "fiu":
            raise ValueError(f"{what} are {given.dtype}: they must be numbers, float32")
        if given.ndim != 2 or not given.shape[1] or given.shape[1] != (self._dimensions or given.shape[1]):
            wanted = f"[n, {self._dimensions or 'D'}]"
            raise ValueError(f"{what} have shape {list(given.shape)}: {self} takes {wanted}")
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(given, np.float32)
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(bad):
            raise ValueError(
                f"number {bad[0]} of the {what} is not finite: look for what blew up in the encoder"
            )
        if self._cosine:
            lengths = np.linalg.norm(rows, axis=1)
            bad = np.flatnonzero(np.abs(lengths - 1) > TOLERANCE)
            if len(bad):
                raise ValueError(
                    f"number {bad[0]} of the {what} has length {lengths[bad[0]]:.4g}: {self} takes length 1, "
                    "for cosines; divide by it"
                )
        return rows


def _now() -> int:
    return time.time_ns() // 1000


def _date(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)
