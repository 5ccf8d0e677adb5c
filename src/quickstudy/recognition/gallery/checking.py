"""What is damaged in a gallery, told row by row."""

from typing import Any

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import DBAPIError

from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.recognition.gallery.database import WIRE, Database
from quickstudy.recognition.gallery.digests import row_digest
from quickstudy.recognition.gallery.exchange import LATEST
from quickstudy.recognition.gallery.index import Finder
from quickstudy.recognition.gallery.naming import checked_text

TOLERANCE = 1e-3
"""Tolerance of the length of a unit vector."""


def problems_of(database: Database, c: Connection, row: Row[Any], finder: Finder) -> list[str]:
    """Find what is damaged.

    Args:
        database: Database of the gallery.
        c: Connection with an open transaction.
        row: Row of the gallery's table.
        finder: Finder of the gallery.

    Returns:
        A sentence for each thing that is wrong.
    """
    found = _of_file(c) if database.path else _of_server(database, c, finder)
    tables = database.tables
    sample, name, setting = tables.sample, tables.name, tables.setting
    try:
        of = select(sample.c.name_id)
        for (text,) in c.execute(select(name.c.name).where(name.c.id.not_in(of))):
            found.append(f"name {text!r} has no samples")
        if orphans := c.scalar(
            select(func.count()).select_from(sample).where(sample.c.name_id.not_in(select(name.c.id)))
        ):
            found.append(f"{orphans} samples have no name")
        for key, value, digest in c.execute(setting.select()):
            if row_digest(key, value) != digest:
                found.append(f"setting {key!r} isn't what was stored")
        columns = (name.c.name, sample.c.source, sample.c.time, sample.c.digest, sample.c.embedding)
        query = select(*columns).join_from(sample, name).order_by(sample.c.name_id, sample.c.source)
        for of_name, source, time, digest, embedding in c.execute(
            query.execution_options(yield_per=sizes_on().database_rows)
        ):
            reasons = _of_sample(row, of_name, source, time, digest, embedding)
            if reasons:
                found.append(f"sample {source!r} of {of_name!r} {', '.join(reasons)}")
    except (DBAPIError, UnicodeError) as error:  # a page of the file, or letters, can't be read at all
        original = error.orig if isinstance(error, DBAPIError) else error
        found.append(f"not all can be read: {original}")
    return found


def _of_sample(row: Row[Any], name: Any, source: Any, time: Any, digest: Any, embedding: Any) -> list[str]:
    reasons: list[str] = []
    if not isinstance(embedding, bytes) or row_digest(name, source, time, embedding) != digest:
        reasons.append("isn't what was enrolled")
    if not isinstance(embedding, bytes) or len(embedding) != row.dimensions * WIRE.itemsize:
        return [*reasons, "has an embedding of another length"]
    numbers = np.frombuffer(embedding, WIRE)
    if not np.isfinite(numbers).all():
        reasons.append("has numbers that aren't finite")
    elif row.cosine and abs(float(np.linalg.norm(numbers.astype(np.float64))) - 1) > TOLERANCE:
        reasons.append("has an embedding that isn't of length 1")
    if not isinstance(time, int) or not 0 <= time <= LATEST:
        reasons.append("was enrolled at no time")
    try:
        checked_text(name, "name")
        checked_text(source, "source")
    except (ValueError, TypeError) as error:
        reasons.append(str(error))
    return reasons


def _of_file(c: Connection) -> list[str]:
    try:
        told = [str(line) for (line,) in c.exec_driver_sql("PRAGMA integrity_check(20)")]
    except DBAPIError as error:
        return [f"the file: {error.orig}"]
    return [f"the file: {' '.join(line.split())}" for line in told if line != "ok"]


def _of_server(database: Database, c: Connection, finder: Finder) -> list[str]:
    there = c.exec_driver_sql("SELECT to_regclass('gallery_nearest') IS NOT NULL").scalar()
    if there and not database.indexed(c):
        return ["the index was begun and never ended: build it by quickstudy gallery index"]
    return [text] if not there and (text := finder.unindexed(c)) else []
