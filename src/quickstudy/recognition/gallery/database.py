"""The database of a gallery, a SQLite file or PostgreSQL: tables, transactions, secure deletion."""

import contextlib
import functools
import os
import re
import sqlite3
from collections.abc import Generator
from pathlib import Path
from secrets import randbelow
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
    bindparam,
    create_engine,
    event,
    func,
    inspect,
    select,
)
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError
from sqlalchemy.pool import QueuePool
from sqlalchemy.schema import CreateIndex
from sqlalchemy.types import TypeEngine

from quickstudy.core.files import temporary_beside
from quickstudy.recognition.gallery.digests import row_digest
from quickstudy.recognition.gallery.places import without_passwords

PATIENCE = 60
"""Timeout in seconds while another program writes."""
JOURNALS = ("-journal", "-wal")
"""Endings of files that SQLite keeps beside its own: while it writes; and in galleries of the format 1,
where it outlived its file, and would have been taken for that of another put in the place."""
LOCK_PATIENCE = 0.2
"""Timeout in seconds of wiping, while another program of PostgreSQL vacuums or builds the index."""
PRIVATE = 0o600
"""File mode of a gallery and its exports: only the owner may read them, as these are biometric data."""
WIRE = np.dtype("<f4")
"""Data type of an embedding's numbers as bytes: float32, little-endian."""
SCHEMA = 2
"""Version of the format of galleries; raise it if older releases can't read the new format."""
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
            # … by those that remove, by a random number: if it is the same, others need to read only what is
            # new, even if a copy that has gone other ways was put in this one's place …
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
            Column("source", Text, nullable=False, index=True),
            Column("time", BigInteger, nullable=False),  # microseconds since 1970
            Column("embedding", embedding, nullable=False),
            Column("digest", BigInteger, nullable=False),  # of name, source, time and embedding
            UniqueConstraint("name_id", "source"),
            sqlite_autoincrement=True,
        )
        self.setting = Table(
            "gallery_setting",
            self.metadata,
            Column("key", Text, primary_key=True),
            Column("value", Text, nullable=False),  # JSON
            Column("digest", BigInteger, nullable=False),  # of key and value
        )

    @functools.cached_property
    def nearest(self) -> Index:
        """PostgreSQL's index of the samples; created only when there are many."""
        return Index(
            "gallery_nearest",
            self.sample.c.embedding,
            postgresql_concurrently=True,
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
        """The path, or the URL without its password and what else it says after a question mark."""
        if self.path:
            return str(self.path)
        return _address(self._url)

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
        more = 1 + randbelow(2**32) if removes else 0
        changed = row.update().values(revision=row.c.revision + 1, removals=row.c.removals + more)
        with (
            self._told(),
            self.engine.connect().execution_options(quickstudy_writes=True) as c,
            c.begin(),
        ):
            # PostgreSQL makes other writers wait here; SQLite has done so at the beginning
            c.execute(changed)
            yield c
            if self.path and _stamp(self.path)[:2] != vars(c.connection.driver_connection)["stamp"][:2]:
                raise FileNotFoundError(
                    f"{self} was replaced while it was written to, and nothing was written: try again"
                )

    def wiped(self) -> bool:
        """Whether the files were rewritten since something was removed."""
        row = self.tables.gallery
        with self.reading() as c:
            return bool(c.scalar(select(row.c.removals == row.c.wiped)))

    def wipe(self) -> bool:
        """Overwrite what is left of removed embeddings and names on the disk, if anything.

        Returns:
            Whether nothing is left; False if another program is at the same. The next call tries again.

        Raises:
            OSError: If the file can't be rewritten, as there is no room or another program kept reading.
        """
        if self.wiped():
            return True
        row = self.tables.gallery
        with self.reading() as c:
            removals = c.scalar(select(row.c.removals))
        if not self._vacuumed():
            return False
        with self.writing() as c:
            c.execute(row.update().values(wiped=removals).where(row.c.wiped < removals))
        return True

    def upgrade(self) -> None:
        """Bring a gallery of the format 1, which had no digests, to the present one, whole or not at all."""
        row, sample, name = self.tables.gallery, self.tables.sample, self.tables.name
        with self.reading() as c:
            if c.scalar(select(row.c.schema)) != 1:
                return
        if self.path:
            with self._told(), contextlib.closing(self.engine.raw_connection()) as raw:
                raw.cursor().execute("PRAGMA journal_mode = DELETE")
        with self.writing() as c:
            if c.scalar(select(row.c.schema)) != 1:  # another program has done it
                return
            for table in (sample, self.tables.setting):
                c.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN digest BIGINT NOT NULL DEFAULT 0")
            columns = (sample.c.id, name.c.name, sample.c.source, sample.c.time, sample.c.embedding)
            rows = c.execute(select(*columns).join_from(sample, name)).all()
            for table, key, digests in (
                (sample, sample.c.id, {i: row_digest(*content) for i, *content in rows}),
                (
                    self.tables.setting,
                    self.tables.setting.c.key,
                    {k: row_digest(k, v) for k, v, _ in c.execute(self.tables.setting.select())},
                ),
            ):
                signed = table.update().where(key == bindparam("at")).values(digest=bindparam("new"))
                if digests:
                    c.execute(signed, [{"at": at, "new": new} for at, new in digests.items()])
            for index in sample.indexes:
                index.create(c, checkfirst=True)
            c.execute(row.update().values(schema=SCHEMA))

    def clear_journal(self) -> None:
        """Delete the journal that a killed write left, if there was nothing to undo; else a reader did.

        SQLite deletes it with the next write. So one is made that changes nothing, unless somebody writes
        just now, or nobody may.
        """
        if not self.path or not self.path.with_name(f"{self.path.name}-journal").exists():
            return
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(_opened(self.path, "mode=rw", patience=0)) as c,
        ):
            c.execute("BEGIN IMMEDIATE")
            version = c.execute("PRAGMA user_version").fetchone()[0]
            c.execute(f"PRAGMA user_version = {version}")
            c.execute("COMMIT")

    def indexed(self, c: Connection) -> bool:
        """Whether PostgreSQL's index of the samples is there, and whole.

        Args:
            c: Connection with an open transaction.
        """
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('gallery_nearest')"
        return bool(c.exec_driver_sql(valid).scalar())

    def build_index(self) -> None:
        """Build PostgreSQL's index of the samples, while others read and write."""
        with self._told(), self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
            if self.indexed(c):
                return
            # one that was begun and never ended is there, but of no use
            c.exec_driver_sql("DROP INDEX CONCURRENTLY IF EXISTS gallery_nearest")
            c.execute(CreateIndex(self.tables.nearest))

    def size(self, c: Connection) -> int:
        """Size on the disk, in bytes."""
        if self.path:
            return self.path.stat().st_size
        tables = self.tables.metadata.tables
        return sum(c.scalar(func.pg_total_relation_size(name).select()) or 0 for name in tables)

    def _vacuumed(self) -> bool:
        with self._told():
            if not self.path:
                with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
                    c.exec_driver_sql(f"SET lock_timeout = {int(1000 * LOCK_PATIENCE)}")
                    try:
                        c.exec_driver_sql("VACUUM gallery_name, gallery_sample")
                    except DBAPIError as error:
                        if getattr(error.orig, "sqlstate", None) != "55P03":
                            raise
                        return False  # the index is being built, or another program wipes
                    finally:
                        c.exec_driver_sql("RESET lock_timeout")
                return True
            with contextlib.closing(self.engine.raw_connection()) as raw:
                raw.cursor().execute("VACUUM")
            return True

    def _embedding(self, dimensions: int | None = None) -> TypeEngine[bytes]:
        if self.path:
            return LargeBinary()
        from quickstudy.recognition.gallery.vector import Vector  # not at the top: it needs pgvector

        return Vector(dimensions)

    def _create_file(self, path: Path, row: dict[str, Any]) -> None:
        for journal in (path.with_name(path.name + end) for end in JOURNALS):
            if journal.exists() and not path.exists():
                # SQLite would take its content for that of the new file
                raise ValueError(
                    f"{path} is gone but {journal.name} is there: restore the one or delete the other"
                )
        engine = create_engine("sqlite://")
        with engine.begin() as c:
            self._fill(c, row)
            connection: Any = c.connection.driver_connection
            content: bytes = connection.serialize()
        engine.dispose()
        with contextlib.suppress(FileExistsError):
            _write_new(path, content)

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
            known = _sqlite_error(original) if self.path else _postgres_error(original, _secrets(self._url))
            if not known:
                raise
            kind, message = known
            raise kind(f"{self} {message}") from None


def _url(where: str | Path) -> URL:
    if isinstance(where, Path) or not re.search(r"://|^\w{2,}:/|\b(host|dbname|user|password)\s*=", where):
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
    except ArgumentError:
        url = None
    if url and url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return url
    if url and url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    told = _address(url) if url else "that"
    raise ValueError(f"{told} is no place for a gallery: give a file, or postgresql://USER@HOST/DATABASE")


def _address(url: URL) -> str:
    """The URL without its password and what else it says after a question mark."""
    return without_passwords(url.set(query={}).render_as_string(hide_password=True), _secrets(url))


def _secrets(url: URL) -> list[str]:
    """What is never to be shown: the password, wherever the URL has it."""
    values = [str(url.password or "")]
    for key, value in url.query.items():
        if "pass" in key.lower():
            values += [value] if isinstance(value, str) else value
    return values


def _stamp(path: Path) -> tuple[int, ...]:
    """What tells a file from another, or from itself after a change."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no gallery at {path} any more: it was removed or moved while in use, and nothing is "
            "read or written; put it back, or open it anew to begin another"
        ) from None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


class _Connection(sqlite3.Connection):
    """A connection that knows which file it was opened to."""

    stamp: tuple[int, ...]
    new = True


def _write_new(path: Path, content: bytes) -> None:
    """Write a file whose name is free, whole or not at all; where the system can, nothing is left if killed.

    Raises:
        FileExistsError: If the name is taken.
    """
    nameless = getattr(os, "O_TMPFILE", 0)
    if nameless:
        with contextlib.suppress(OSError):  # some file systems can't; what else is wrong is told below
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path.parent, nameless | os.O_WRONLY, PRIVATE), "wb") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
                os.link(f"/proc/self/fd/{f.fileno()}", path, follow_symlinks=True)
                return
    if path.exists():
        raise FileExistsError(path)
    with temporary_beside(path) as temporary:
        temporary.touch(PRIVATE, exist_ok=False)
        temporary.write_bytes(content)
        os.link(temporary, path)


def _sqlite(path: Path) -> Engine:
    engine = create_engine("sqlite://", creator=functools.partial(_connected, path), poolclass=QueuePool)
    event.listen(engine, "begin", _begin)

    def taken(c: _Connection, record: Any, _: object) -> None:
        """Whether a connection from the pool is to the file that has the name now; else it is made anew."""
        new, c.new = c.new, False
        same = c.stamp[:2] == _stamp(path)[:2] if new else c.stamp == _stamp(path)
        if not same:
            raise InvalidatePoolError(f"{path} has changed")

    event.listen(engine, "checkout", taken)
    return engine


def _connected(path: Path) -> _Connection:
    # rw: a file that was deleted is not created again, empty
    how = "mode=rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "mode=ro"
    while True:
        stamp = _stamp(path)
        c = _opened(path, how)
        if _stamp(path)[:2] == stamp[:2]:
            c.stamp = stamp
            return c
        c.close()


def _opened(path: Path, how: str, patience: float | None = None) -> _Connection:
    # isolation_level=None: the driver would begin its own transactions too late
    c = sqlite3.connect(
        f"file:{quote(str(path))}?{how}",
        uri=True,
        timeout=PATIENCE if patience is None else patience,
        isolation_level=None,
        check_same_thread=False,
        factory=_Connection,
    )
    for pragma in ("foreign_keys = ON", "secure_delete = ON"):
        c.execute(f"PRAGMA {pragma}").close()
    return c


def _begin(c: Connection) -> None:
    # IMMEDIATE: a transaction that reads first and writes later would fail if another has written in between
    c.exec_driver_sql("BEGIN IMMEDIATE" if c.get_execution_options().get("quickstudy_writes") else "BEGIN")


def _sqlite_error(error: object) -> tuple[type[Exception], str] | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    damaged = f"is damaged or no gallery ({error}): restore it, or enroll anew in another"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return OSError, f"has been in use by another program for {PATIENCE} s: try again when that is done"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return ValueError, damaged
    text = str(error)
    if text.startswith(("Could not decode", "no such table", "no such column")):
        return ValueError, damaged
    if code == sqlite3.SQLITE_FULL:
        return OSError, f"can't be written, and nothing was changed ({error}): free some space"
    if code == sqlite3.SQLITE_READONLY:
        return OSError, "can only be read: see to the permissions of the file and its folder, or use a copy"
    if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
        return OSError, f"can't be read or written ({error}): see to its folder, its permissions, free space"
    return None


def _postgres_error(error: object, secrets: list[str]) -> tuple[type[Exception], str] | None:
    state = getattr(error, "sqlstate", None) or ""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    reason = without_passwords(reason, secrets)
    if state in ("58P01", "0A000"):  # the extension or its file is missing
        return ValueError, f"lacks pgvector ({reason}): install it on the server"
    if state == "42501":
        return ValueError, f"does not let this user ({reason}): ask for the right to create, read and write"
    if not state or state.startswith(("08", "28", "3D", "53", "57")):
        return OSError, f"can't be reached ({reason}): see to the URL, the server, and its password"
    return None
