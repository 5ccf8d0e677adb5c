"""Gallery: named embeddings in a SQL database."""

import contextlib
import itertools
import json
import time
import unicodedata
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

from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.recognition.gallery.database import WIRE, Database
from quickstudy.recognition.gallery.exchange import SCHEMA, Kind, Samples, read_export, write_export
from quickstudy.recognition.gallery.index import EXACT, Finder
from quickstudy.recognition.gallery.pooling import Pooling
from quickstudy.recognition.gallery.records import Entry, Match, Sample, Stats
from quickstudy.recognition.gallery.search import Floats, Ints

LONGEST = 200
"""Characters of a name or a source."""
TOLERANCE = 1e-3
"""Of the length of a unit vector."""


class Gallery:
    """Named embeddings in a SQL database; no model, no pictures, no sound.

    It is made when first written to, for one encoder, and takes no embeddings of another. Any number of
    programs may use it at once. Whatever writes does so whole or, after an error or the end of the program,
    not at all. Names are kept in Unicode's NFC.

    What is removed leaves no traces in a SQLite file or its log: it is overwritten, and the file rewritten.
    A PostgreSQL server is asked to VACUUM; its own log and backups are up to whoever runs it.

    A search is exact and in memory, see `quickstudy.recognition.gallery.search` for how much. What is in
    memory follows the changes of other programs; after additions only the names that got samples are read
    again. In PostgreSQL, beyond `exact` samples, candidates are the names of the nearest 200 samples (20 k if
    that is more, at most 1,000) that an HNSW index finds, and only these are measured exactly.

    Args:
        where: path of a SQLite file, or a URL such as `postgresql://USER@HOST/DATABASE`, with pgvector, one
            gallery a database.
        encoder: fingerprint of the encoder; without it, that of the gallery, which must then be there.
        dimensions: D; without it, that of the gallery or of the first embeddings.
        cosine: whether embeddings are unit vectors, and centroids too; without it, as the gallery has it, and
            False for a new one.
        exact: see above.

    Raises:
        ValueError: if the gallery is of another encoder, D or energy, by a newer version, damaged, or none.
        OSError: if it can't be read or written.

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
        """Where it is, without a password."""
        return str(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and free the memory; a later use opens it again."""
        self._database.engine.dispose()
        self._finder.clear()

    def exists(self) -> bool:
        """Whether it has been written to yet."""
        if not self._there and self._database.exists():
            self._open()
            self._there = True
        return self._there

    # Enrolment

    def enroll(self, name: str, embeddings: npt.ArrayLike, sources: Sequence[str]) -> int:
        """Add samples of one name, in one transaction.

        Args:
            name: up to 200 characters, none of them control characters.
            embeddings: [n, D] float32.
            sources: [n] digests of what the embeddings came from. A digest that the name has already is
                passed over.

        Returns:
            How many were new.

        Raises:
            ValueError: if a name, a source or the embeddings don't fit.
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
            samples: name, embedding [D], source; as in `enroll`. They are taken into memory first, so that
                others can write while they are made.

        Returns:
            How many were new.

        Raises:
            ValueError: if a name, a source or an embedding doesn't fit.
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
        names = {n: _text(n, "name") for part in parts for n in part.names}
        sources = {s: _text(s, "source") for part in parts for s in part.sources}
        self._make(parts)
        name, sample = self._tables.name, self._tables.sample
        insert = postgresql.insert if self._database.backend == "postgresql" else sqlite.insert
        of_name = select(name.c.id).where(name.c.name == bindparam("of")).scalar_subquery()
        add_name = insert(name).on_conflict_do_nothing()
        add_sample = insert(sample).values(name_id=of_name).on_conflict_do_nothing()
        with self._database.writing() as c:
            before = self._finder.last(c)
            for part in parts:
                c.execute(add_name, [{"name": names[n]} for n in dict.fromkeys(part.names)])
                embeddings = (e.tobytes() for e in part.embeddings.astype(WIRE, copy=False))
                columns = zip(part.names, part.sources, part.times, embeddings, strict=True)
                c.execute(
                    add_sample,
                    [
                        {"of": names[n], "source": sources[s], "time": t, "embedding": e}
                        for n, s, t, e in columns
                    ],
                )
            new = c.scalar(select(func.count()).where(sample.c.id > before)) or 0
            self._finder.grown(c)
        self._database.wipe()  # what a removal may have left that was killed
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
        for part in parts:  # another program may have been quicker, and its gallery be of another kind
            self._checked(part.embeddings, "embeddings")

    # What is in it

    def names(self) -> list[Entry]:
        """All names in order, with their samples counted.

        Raises:
            FileNotFoundError: if the gallery hasn't been written to, as everything below does.
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
        """The samples of a name, the first enrolled first.

        Raises:
            ValueError: if there is no such name.
        """
        sample = self._tables.sample
        with self._reading() as (c, _):
            query = select(sample.c.source, sample.c.time).where(sample.c.name_id == self._id(c, name))
            return [Sample(source, _date(at)) for source, at in c.execute(query.order_by(sample.c.id))]

    def embeddings(self) -> tuple[Floats, Ints, tuple[str, ...]]:
        """All of it, to calibrate on: embeddings [I, D], labels [I], and the name of each label."""
        names: list[str] = []
        parts: list[Floats] = []
        counts: list[Ints] = []
        with self._reading() as (c, row):
            for ids, count, rows in self._finder.whole_names(c, row):
                names += self._finder.names(c, ids).values()
                parts.append(rows)
                counts.append(count)
        labels = np.repeat(np.arange(len(names)), np.concatenate([np.empty(0, np.int64), *counts]))
        return np.concatenate([np.empty((0, row.dimensions), np.float32), *parts]), labels, tuple(names)

    def size(self) -> tuple[int, int]:
        """Names and samples, counted anew only after a change."""
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
        """Give a name's samples another name.

        Raises:
            ValueError: if there is no such name, or the new one is taken.
        """
        name, new = self._tables.name, _text(new, "name")
        with self._writing(removes=True) as c:
            at = self._id(c, old)
            if c.scalar(select(name.c.id).where(name.c.name == new)) not in (None, at):
                raise ValueError(f"{new!r} is enrolled already: remove it first, or choose another name")
            c.execute(name.update().where(name.c.id == at).values(name=new))
        self._wipe(old)

    def remove(self, name: str, source: str | None = None) -> int:
        """Remove a name, or one of its samples (and the name with the last one), for good.

        Returns:
            How many samples were removed.

        Raises:
            ValueError: if there is no such name or sample.
            OSError: if it is removed, but traces are left in the log because another program kept reading for
                a minute; the next change removes them.
        """
        names, sample = self._tables.name, self._tables.sample
        with self._writing(removes=True) as c:
            at = self._id(c, name)
            unwanted = sample.c.name_id == at
            if source is not None:
                unwanted &= sample.c.source == _text(source, "source")
            count = c.execute(sample.delete().where(unwanted)).rowcount
            if not count:
                raise ValueError(f"{name!r} has no sample {source!r}: see its samples")
            if not c.scalar(select(func.count()).where(sample.c.name_id == at)):
                c.execute(names.delete().where(names.c.id == at))
        self._wipe(name)
        return count

    def _wipe(self, name: str) -> None:
        if not self._database.wipe():
            raise OSError(
                f"{name!r} is removed, but another program keeps reading {self}: when it has ended, the next "
                "change wipes out the traces"
            )

    # Settings

    def get_setting(self, key: str) -> Any:
        """What was put under a key, such as a calibration of the gallery's own; None if nothing was."""
        setting = self._tables.setting
        with self._reading() as (c, _):
            value = c.scalar(select(setting.c.value).where(setting.c.key == key))
        return None if value is None else json.loads(value)

    def put_setting(self, key: str, value: Any) -> None:
        """Keep something JSON-able under a key, in place of what was there; None removes that."""
        setting, content = self._tables.setting, json.dumps(value, ensure_ascii=False, allow_nan=False)
        with self._writing() as c:
            c.execute(setting.delete().where(setting.c.key == key))
            if value is not None:
                c.execute(setting.insert().values(key=key, value=content))

    # Files

    def export(self, path: str | Path) -> int:
        """Write all samples into a `.safetensors` file, whole or not at all.

        Settings stay behind. `quickstudy.recognition.gallery.exchange` says what is in it.

        Returns:
            How many samples it has.

        Raises:
            OSError: if it can't be written.
        """
        name, sample = self._tables.name, self._tables.sample
        query = select(name.c.name, sample.c.source, sample.c.time, sample.c.embedding)
        query = query.join_from(name, sample).order_by(name.c.id, sample.c.id)
        with self._reading() as (c, row):
            found = c.execute(query.execution_options(yield_per=sizes_on().database_rows))
            return write_export(Path(path), Kind(row.encoder, row.dimensions, row.cosine), found)

    def import_(self, path: str | Path) -> int:
        """Add all samples of an exported file, in one transaction; those that are there are passed over.

        A gallery that hasn't been written to, and was opened without an encoder, takes that of the file.

        Returns:
            How many were new.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, no export, or of another encoder.
        """
        kind, samples = read_export(Path(path))
        if not self.exists():
            self._encoder = kind.encoder if self._encoder is None else self._encoder
            self._cosine = kind.cosine if self._cosine is None else self._cosine
        self._same(str(path), kind)
        self._checked(samples.embeddings, "embeddings")
        size = sizes_on().database_rows
        return self._add([samples[i : i + size] for i in range(0, len(samples), size)])

    # Search

    def search(self, probes: npt.ArrayLike, k: int = 5, pooling: Pooling = "centroid") -> list[list[Match]]:
        """The names nearest to each probe, nearest first.

        Args:
            probes: [B, D] embeddings.
            k: how many names; fewer if there are no more.
            pooling: "centroid", the distance ‖p − g‖ to the mean of a name's samples; "nearest", the least
                distance to one of them; "top", the root mean square of the three least.

        Raises:
            ValueError: if the probes, k or the pooling don't fit.
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

    def distances(self, probes: npt.ArrayLike, name: str, pooling: Pooling = "centroid") -> Floats:
        """Distances of probes [B, D] to one name, [B], as in `search`, reading that name only.

        Raises:
            ValueError: if there is no such name, or the probes or the pooling don't fit.
        """
        with self._reading() as (c, row):
            p, at = self._checked(probes, "probes"), self._id(c, name)
            return self._finder.distances(c, row, p, [at], pooling)[at][0]

    # Reading and checking

    def _open(self) -> None:
        with self._database.reading() as c:
            schema = c.scalar(select(self._tables.gallery.c.schema))
            if schema is None:
                raise ValueError(f"{self} is damaged: it does not say what it holds; restore it")
            if schema > SCHEMA:
                raise ValueError(f"{self} was written by a newer quickstudy: update this one")
            row = self._row(c)
        self._same(str(self), Kind(row.encoder, row.dimensions, row.cosine))
        self._encoder, self._dimensions, self._cosine = row.encoder, row.dimensions, row.cosine

    def _same(self, whose: str, kind: Kind) -> None:
        fix = "use the model it was enrolled with, enrol anew, or name another gallery"
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
            raise FileNotFoundError(f"no gallery at {self}: enrol somebody first")
        with self._database.reading() as c:
            yield c, self._row(c)

    @contextlib.contextmanager
    def _writing(self, removes: bool = False) -> Generator[Connection]:
        if not self.exists():
            raise FileNotFoundError(f"no gallery at {self}: enrol somebody first")
        with self._database.writing(removes) as c:
            yield c

    def _row(self, c: Connection) -> Row[Any]:
        return c.execute(self._tables.gallery.select()).one()

    def _id(self, c: Connection, name: str) -> int:
        found = c.scalar(
            select(self._tables.name.c.id).where(self._tables.name.c.name == _text(name, "name"))
        )
        if found is None:
            raise ValueError(
                f"nothing is enrolled as {name!r} in {self}: enrol it, or see the names there are"
            )
        return found

    def _checked(self, embeddings: npt.ArrayLike, what: str) -> Floats:
        """Embeddings [n, D] of this gallery's kind."""
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


def _text(text: str, what: str) -> str:
    normal = unicodedata.normalize("NFC", text)
    if not normal.strip():
        raise ValueError(f"a {what} is empty: give it one")
    if len(normal) > LONGEST:
        raise ValueError(f"{what} {normal[:20]!r}… has {len(normal)} characters: {LONGEST} is the most")
    if not normal.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in normal):
        raise ValueError(f"{what} {normal!r} has control characters: leave them out")
    return normal


def _now() -> int:
    return time.time_ns() // 1000


def _date(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)
