"""The database of a gallery, a SQLite file or PostgreSQL: tables, transactions, secure deletion."""

import contextlib
import functools
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    func,
    inspect,
)
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import TypeEngine

from quickstudy.core.files import temporary_beside

PATIENCE = 60
"""Timeout in seconds while another program writes."""
PRIVATE = 0o600
"""File mode of a gallery and its exports: only the owner may read them, as these are biometric data."""
WIRE = np.dtype("<f4")
"""Data type of an embedding's numbers as bytes: float32, little-endian."""
_CREATION = 7_839_221_904
"""Key of the PostgreSQL advisory lock under which tables are created."""


class Tables:
    """The tables of a gallery, for either kind of database.

    Args:
        embedding: Column type of embeddings; Python code sees them as bytes of data type `WIRE`.
    """

    def __init__(self, embedding: TypeEngine[bytes]) -> None:
        key = BigInteger().with_variant(Integer(), "sqlite")
        self.metadata = MetaData()
        # a table of one row
        self.gallery = Table(
            "gallery",
            self.metadata,
            Column("schema", Integer, nullable=False),
            Column("encoder", Text, nullable=False),
            Column("dimensions", Integer, nullable=False),
            Column("cosine", Boolean, nullable=False),
            # incremented by every transaction that writes, so that others see that something has changed …
            Column("revision", BigInteger, nullable=False),
            # … by those that remove: if none has, others need to read only what is new …
            Column("removals", BigInteger, nullable=False),
            # … and set to `removals` when all removed data has been overwritten
            Column("wiped", BigInteger, nullable=False),
        )
        # ids increase and are never reused (in SQLite thanks to AUTOINCREMENT)
        self.name = Table(
            "gallery_name",
            self.metadata,
            Column("id", key, primary_key=True),
            Column("name", Text, nullable=False, unique=True),
            sqlite_autoincrement=True,
        )
        self.sample = Table(
            "gallery_sample",
            self.metadata,
            Column("id", key, primary_key=True),
            Column("name_id", key, ForeignKey("gallery_name.id", ondelete="CASCADE"), nullable=False),
            Column("source", Text, nullable=False),
            Column("time", BigInteger, nullable=False),  # microseconds since 1970
            Column("embedding", embedding, nullable=False),
            UniqueConstraint("name_id", "source"),
            sqlite_autoincrement=True,
        )
        self.setting = Table(
            "gallery_setting",
            self.metadata,
            Column("key", Text, primary_key=True),
            Column("value", Text, nullable=False),  # JSON
        )

    @functools.cached_property
    def nearest(self) -> Index:
        """PostgreSQL's index of the samples; created only when there are many."""
        return Index(
            "gallery_nearest",
            self.sample.c.embedding,
            postgresql_using="hnsw",
            postgresql_ops={"embedding": "vector_l2_ops"},
        )


class Database:
    """The database of one gallery.

    Args:
        where: Path of a SQLite file, or URL of a database.

    Raises:
        ValueError: If it is neither, or the driver for PostgreSQL isn't installed.
    """

    def __init__(self, where: str | Path) -> None:
        self._url = _url(where)
        self.backend = self._url.get_backend_name()
        self.path = Path(self._url.database or "") if self.backend == "sqlite" else None
        try:
            self.tables = Tables(self._embedding())
            self.engine = _sqlite(self.path) if self.path else create_engine(self._url, pool_pre_ping=True)
        except ModuleNotFoundError:
            raise ValueError(
                f"{self} needs the driver of PostgreSQL: pip install 'quickstudy[postgres]'"
            ) from None

    def __str__(self) -> str:
        """The path, or the URL without its password."""
        return str(self.path or self._url.render_as_string(hide_password=True))

    def exists(self) -> bool:
        """Whether the database holds a gallery.

        Raises:
            ValueError: If the file or database holds something else.
        """
        if self.path and not self.path.exists():
            return False
        row = self.tables.gallery
        with self.reading() as c:
            inspector = inspect(c)
            found = inspector.has_table(row.name) and inspector.get_columns(row.name)
        if found and {column["name"] for column in found} >= set(row.c.keys()):
            return True
        if found or self.path:
            raise ValueError(f"{self} is no gallery: name another file or database")
        return False

    def create(self, **row: Any) -> None:
        """Create an empty gallery, whole or not at all, unless another program just has.

        Args:
            row: Values of the row of the gallery's table, by column.
        """
        if self.path:
            with self._told():
                self._create_file(self.path, row)
            return
        with self._told(), self.engine.begin() as c:
            c.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CREATION})")
            if not inspect(c).has_table(self.tables.gallery.name):
                c.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector")
                self._fill(c, row)

    @contextlib.contextmanager
    def reading(self) -> Generator[Connection]:
        """Open a transaction that reads: it sees the gallery as it is now, even if others write."""
        with self._told(), self.engine.connect() as c:
            if not self.path:
                c = c.execution_options(isolation_level="REPEATABLE READ")
            with c.begin():
                yield c

    @contextlib.contextmanager
    def writing(self, removes: bool = False) -> Generator[Connection]:
        """Open a transaction that writes, one at a time: committed whole or, after an error, undone.

        Args:
            removes: Whether it removes or renames something, so that readers must read all samples again.
        """
        row = self.tables.gallery
        changed = row.update().values(revision=row.c.revision + 1, removals=row.c.removals + int(removes))
        with (
            self._told(),
            self.engine.connect().execution_options(quickstudy_writes=True) as c,
            c.begin(),
        ):
            # PostgreSQL makes other writers wait here; SQLite has done so at the beginning
            c.execute(changed)
            yield c

    def wipe(self) -> bool:
        """Overwrite what is left of removed embeddings and names on the disk, if anything.

        Returns:
            Whether nothing is left; False if another program kept reading. The next call tries again.
        """
        row = self.tables.gallery
        with self.reading() as c:
            removals, wiped = c.execute(row.select().with_only_columns(row.c.removals, row.c.wiped)).one()
        if removals == wiped:
            return True
        if not self._vacuumed():
            return False
        with self.writing() as c:
            c.execute(row.update().values(wiped=removals).where(row.c.wiped < removals))
        return True

    def size(self, c: Connection) -> int:
        """Size on the disk, in bytes."""
        if self.path:
            files = (self.path, self.path.with_name(self.path.name + "-wal"))
            return sum(f.stat().st_size for f in files if f.exists())
        tables = self.tables.metadata.tables
        return sum(c.scalar(func.pg_total_relation_size(name).select()) or 0 for name in tables)

    def _vacuumed(self) -> bool:
        with self._told():
            if not self.path:
                with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
                    c.exec_driver_sql("VACUUM gallery_name, gallery_sample")
                return True
            raw = self.engine.raw_connection()
            try:
                cursor = raw.cursor()
                cursor.execute("VACUUM")
                # the log still holds the old pages
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                return not cursor.fetchall()[0][0]
            finally:
                raw.close()

    def _embedding(self, dimensions: int | None = None) -> TypeEngine[bytes]:
        if self.path:
            return LargeBinary()
        from quickstudy.recognition.gallery.vector import Vector  # not at the top: it needs pgvector

        return Vector(dimensions)

    def _create_file(self, path: Path, row: dict[str, Any]) -> None:
        log = path.with_name(path.name + "-wal")
        if log.exists() and not path.exists():
            raise ValueError(f"{path} is gone but {log.name} is there: restore the one or delete the other")
        with temporary_beside(path) as temporary:
            temporary.touch(PRIVATE, exist_ok=False)
            engine = _sqlite(temporary)
            with contextlib.closing(engine.raw_connection()) as raw:
                raw.cursor().execute("PRAGMA journal_mode = WAL")
            with engine.begin() as c:
                self._fill(c, row)
            engine.dispose()
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)

    def _fill(self, c: Connection, row: dict[str, Any]) -> None:
        Tables(self._embedding(row["dimensions"])).metadata.create_all(c)
        c.execute(self.tables.gallery.insert().values(row))

    @contextlib.contextmanager
    def _told(self) -> Generator[None]:
        """Turn database errors that a user can fix into exceptions with a message of one line."""
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            original = error.orig if isinstance(error, DBAPIError) else error
            known = _sqlite_error(original) if self.path else _postgres_error(original)
            if not known:
                raise
            kind, message = known
            raise kind(f"{self} {message}") from None


def _url(where: str | Path) -> URL:
    if isinstance(where, Path) or "://" not in where:
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
    except ArgumentError:
        url = None
    if url and url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return url
    if url and url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    shown = url.render_as_string(hide_password=True) if url else "that"
    raise ValueError(f"{shown} is no place for a gallery: give a file, or postgresql://USER@HOST/DATABASE")


def _sqlite(path: Path) -> Engine:
    def connect() -> sqlite3.Connection:
        # mode=rw: a file that was deleted is not created again, empty. isolation_level=None: the driver would
        # begin its own transactions too late.
        c = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw",
            uri=True,
            timeout=PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
        for pragma in ("foreign_keys = ON", "secure_delete = ON", "journal_size_limit = 67108864"):
            c.execute(f"PRAGMA {pragma}").close()
        return c

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)
    event.listen(engine, "begin", _begin)
    return engine


def _begin(c: Connection) -> None:
    # IMMEDIATE: a transaction that reads first and writes later would fail if another has written in between
    c.exec_driver_sql("BEGIN IMMEDIATE" if c.get_execution_options().get("quickstudy_writes") else "BEGIN")


def _sqlite_error(error: object) -> tuple[type[Exception], str] | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return OSError, f"has been in use by another program for {PATIENCE} s: try again when that is done"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return (
            ValueError,
            f"is damaged or no gallery ({error}): restore it, or enroll anew in another",
        )
    if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
        return OSError, f"can't be read or written ({error}): see to its folder, its permissions, free space"
    return None


def _postgres_error(error: object) -> tuple[type[Exception], str] | None:
    state = getattr(error, "sqlstate", None) or ""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if state in ("58P01", "0A000"):  # the extension or its file is missing
        return ValueError, f"lacks pgvector ({reason}): install it on the server"
    if state == "42501":
        return ValueError, f"does not let this user ({reason}): ask for the right to create, read and write"
    if not state or state.startswith(("08", "28", "3D", "53", "57")):
        return OSError, f"can't be reached ({reason}): see to the URL, the server, and its password"
    return None
