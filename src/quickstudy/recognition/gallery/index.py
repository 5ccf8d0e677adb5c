"""Search in a gallery's database: in memory, updated as the database changes, or by PostgreSQL's index."""

import threading
from collections.abc import Collection, Iterator
from typing import Any, get_args

import numpy as np
import torch
from sqlalchemy import func, select
from sqlalchemy.engine import Connection, Row
from sqlalchemy.sql import ColumnElement

from quickstudy.core.arrays import Float32Array, IntArray
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.recognition.gallery.database import WIRE, Database
from quickstudy.recognition.gallery.digests import row_digest
from quickstudy.recognition.gallery.pooling import Pooling, centroids, euclidean, pooled
from quickstudy.recognition.gallery.search import SearchIndex

EXACT = 1_000_000
"""Largest number of samples in PostgreSQL that is searched exactly, in memory, as SQLite always is."""
HNSW_DIMENSIONS = 2000
"""Largest number of dimensions that pgvector's HNSW index takes."""

Last = tuple[int, int]
"""Id and digest of the last sample; zeros if there is none."""
Found = list[list[tuple[int, float, int]]]
"""For each probe the nearest names, nearest first: id, distance, number of samples."""


class Finder:
    """Finds names; every method works within a transaction of its caller.

    Args:
        database: Database of the gallery.
        exact: Number of samples up to which PostgreSQL's index isn't used.
    """

    def __init__(self, database: Database, exact: int = EXACT) -> None:
        self._database, self._tables, self.exact = database, database.tables, exact
        self.lock = threading.Lock()
        """Lock of the data in memory; take it before the transaction of a search begins."""
        self._indices: dict[bool, tuple[int, Last, SearchIndex]] = {}
        """By whether it holds centroids: the gallery's removals and last sample when last read, and the
        index."""
        self._sizes: tuple[tuple[int, Last] | None, int, int] = (None, 0, 0)

    def clear(self) -> None:
        """Free the memory."""
        with self.lock:
            self._indices.clear()

    def search(self, c: Connection, row: Row[Any], probes: Float32Array, k: int, pooling: Pooling) -> Found:
        """Find the names nearest to each probe.

        Args:
            c: Connection with an open transaction.
            row: Row of the gallery's table.
            probes: Embeddings [B, D].
            k: Number of names to find.
            pooling: Pooling of a name's samples.

        Returns:
            Nearest names of each probe, nearest first.
        """
        _check(pooling)
        names, samples = self.size(c, row)
        if not self._database.path and samples > self.exact:
            return [self._indexed(c, row, probe, k, pooling) for probe in probes]
        # if every name has one sample, all poolings are the same
        index = self._index(c, row, centroid=pooling == "centroid" or names == samples)
        distances, at = index.search(torch.from_numpy(probes), k, pooling)
        ids, counts = index.ids[at], index.counts[at]
        columns = zip(ids.tolist(), distances.tolist(), counts.tolist(), strict=True)
        return [list(zip(*of_probe, strict=True)) for of_probe in columns]

    def distances(
        self, c: Connection, row: Row[Any], probes: Float32Array, ids: Collection[int], pooling: Pooling
    ) -> dict[int, tuple[Float32Array, int]]:
        """Distances of probes to some names.

        Args:
            c: Connection with an open transaction.
            row: Row of the gallery's table.
            probes: Embeddings [B, D].
            ids: Database ids of the names.
            pooling: Pooling of a name's samples.

        Returns:
            Distances [B] and number of samples of each name, by id.
        """
        _check(pooling)
        p = torch.from_numpy(probes)
        found: dict[int, tuple[Float32Array, int]] = {}
        for part, counts, rows in self.whole_names(c, row, self._tables.sample.c.name_id.in_(ids)):
            each = np.split(rows, np.cumsum(counts)[:-1])
            for i, count, of_name in zip(part.tolist(), counts.tolist(), each, strict=True):
                if pooling == "centroid":
                    of_name = centroids(of_name, np.array([count]), row.cosine)
                distance = pooled(euclidean(p, torch.tensor(of_name)), pooling)
                found[i] = (distance.numpy(), count)
        return found

    def needs_index(self, c: Connection) -> bool:
        """Whether there are too many samples for the memory, and PostgreSQL's index can take them.

        Args:
            c: Connection with an open transaction.
        """
        dimensions = c.scalar(select(self._tables.gallery.c.dimensions)) or 0
        return not self._database.path and self.last(c) > self.exact and dimensions <= HNSW_DIMENSIONS

    def unindexed(self, c: Connection) -> str | None:
        """What is to be said where there are many samples and no index; None where nothing is.

        Args:
            c: Connection with an open transaction.
        """
        if not self.needs_index(c) or self._database.indexed(c):
            return None
        return (
            f"{self._database} has more than {self.exact} samples and no index, so searches are slow: "
            "build it by "
            "quickstudy gallery index (Gallery.build_index), while others go on reading and writing"
        )

    def last(self, c: Connection) -> int:
        """Highest id of a sample, or 0."""
        return c.scalar(select(func.max(self._tables.sample.c.id))) or 0

    def _last(self, c: Connection) -> "Last":
        """Id and digest of the last sample: a copy of the gallery that has gone other ways has another."""
        sample = self._tables.sample
        row = c.execute(
            select(sample.c.id, sample.c.digest).order_by(sample.c.id.desc()).limit(1)
        ).one_or_none()
        return (row.id, row.digest) if row else (0, 0)

    def counts(self) -> ColumnElement[int]:
        """Column of the numbers of samples of all names."""
        sample = self._tables.sample
        each = select(func.count().label("samples")).select_from(sample).group_by(sample.c.name_id)
        return each.subquery().c.samples

    def names(self, c: Connection, ids: IntArray) -> dict[int, str]:
        """Look up names by their ids.

        Args:
            c: Connection with an open transaction.
            ids: Database ids of the names, ascending.

        Returns:
            Names by id, in the order of the ids.
        """
        name = self._tables.name
        found: dict[int, str] = {}
        size = sizes_on().database_rows
        for start in range(0, len(ids), size):
            query = select(name.c.id, name.c.name).where(name.c.id.in_(ids[start : start + size].tolist()))
            found.update(c.execute(query.order_by(name.c.id)).all())
        return found

    def whole_names(
        self, c: Connection, row: Row[Any], chosen: ColumnElement[bool] | None = None
    ) -> Iterator[tuple[IntArray, IntArray, Float32Array]]:
        """Read all samples, in parts of whole names.

        Args:
            c: Connection with an open transaction.
            row: Row of the gallery's table.
            chosen: Condition on the samples to read; by default all.

        Yields:
            Ids of names [n], ascending; their numbers of samples [n]; and all these samples [M, D].

        Raises:
            ValueError: If a sample isn't what was enrolled.
        """
        name, sample = self._tables.name, self._tables.sample
        columns = (sample.c.name_id, name.c.name, sample.c.source, sample.c.time, sample.c.digest)
        query = select(*columns, sample.c.embedding).join_from(sample, name)
        query = query.order_by(sample.c.name_id, sample.c.source)
        if chosen is not None:
            query = query.where(chosen)
        held: list[Any] = []
        for part in c.execute(query.execution_options(yield_per=sizes_on().database_rows)).partitions():
            held += part
            # more samples of the last name may follow in the next part
            whole = next((end for end in range(len(held), 0, -1) if held[end - 1][0] != held[-1][0]), 0)
            if whole:
                yield self._arrays(held[:whole], row.dimensions)
                held = held[whole:]
        if held:
            yield self._arrays(held, row.dimensions)

    def _arrays(self, rows: list[Any], dimensions: int) -> tuple[IntArray, IntArray, Float32Array]:
        content = b"".join([row[-1] for row in rows])
        if len(content) != len(rows) * dimensions * WIRE.itemsize:
            raise ValueError(
                f"{self._database} is damaged, an embedding has another length: restore it, or enroll anew"
            )
        for _, name, source, at, digest, embedding in rows:
            if row_digest(name, source, at, embedding) != digest:
                raise ValueError(
                    f"{self._database} is damaged, sample {source} of {name!r} isn't what was enrolled: "
                    "quickstudy gallery check tells all that are; restore it, or remove and enroll them anew"
                )
        ids, counts = np.unique(np.array([row[0] for row in rows], np.int64), return_counts=True)
        return ids, counts, np.frombuffer(content, WIRE).reshape(-1, dimensions)

    def size(self, c: Connection, row: Row[Any]) -> tuple[int, int]:
        """Number of names and of samples; counting is slow, so it is repeated only after a change."""
        state = (row.removals, self._last(c))
        if self._sizes[0] != state:
            names = c.scalar(select(func.count()).select_from(self._tables.name)) or 0
            samples = c.scalar(select(func.count()).select_from(self._tables.sample)) or 0
            self._sizes = (state, names, samples)
        return self._sizes[1:]

    def _index(self, c: Connection, row: Row[Any], centroid: bool) -> SearchIndex:
        """The index in memory, after reading what has changed."""
        sample = self._tables.sample
        # taken out of the dict, so that a half-read index doesn't stay if reading fails
        removals, last, index = self._indices.pop(centroid, (None, (0, 0), None))
        now = self._last(c)
        same = c.scalar(select(sample.c.digest).where(sample.c.id == last[0])) == last[1] or last == (0, 0)
        if index and removals == row.removals and same:
            chosen = sample.c.name_id.in_(select(sample.c.name_id).where(sample.c.id > last[0]))
        else:
            index = None  # frees the memory before more is allocated
            each = self.counts()
            expected = c.execute(select(each, func.count()).group_by(each)).all()
            index, chosen, last = (
                SearchIndex(row.dimensions, centroid, row.cosine, dict(expected)),
                None,
                (0, 0),
            )
        if now != last:
            for ids, counts, rows in self.whole_names(c, row, chosen):
                index.put(ids, counts, rows)
        self._indices[centroid] = (row.removals, now, index)
        return index

    def _indexed(
        self, c: Connection, row: Row[Any], probe: Float32Array, k: int, pooling: Pooling
    ) -> list[tuple[int, float, int]]:
        """Search by PostgreSQL's index, if there are too many samples for the memory."""
        sample = self._tables.sample
        count = min(1000, max(200, 20 * k))
        c.exec_driver_sql(f"SET LOCAL hnsw.ef_search = {count}")
        distance = sample.c.embedding.l2_distance(probe.astype(WIRE).tobytes())
        near = set(c.scalars(select(sample.c.name_id).order_by(distance).limit(count)))
        if len(near) < k:
            # the nearest samples are of few names, which have very many: search without the index
            by_name = select(sample.c.name_id).group_by(sample.c.name_id)
            near = set(c.scalars(by_name.order_by(func.min(distance)).limit(k)))
        exact = self.distances(c, row, probe[None], near, pooling)
        nearest = sorted((float(distance[0]), i, samples) for i, (distance, samples) in exact.items())
        return [(i, d, samples) for d, i, samples in nearest[:k]]


def _check(pooling: str) -> None:
    if pooling not in get_args(Pooling):
        raise ValueError(f"pooling is {pooling!r}: it must be 'centroid', 'nearest' or 'top'")
