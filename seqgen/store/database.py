"""Opening the database, and what to tell the user when that or a later statement fails.

A file that cannot be used is never deleted or overwritten. Where nothing can be written, the
records are copied into memory, so that builds still find them.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, inspect, make_url, select, update
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from seqgen.errors import SeqgenError, UsageError
from seqgen.runtime.cache import cache_folder
from seqgen.store.models import SCHEMA_VERSION, Base, Meta

ENVIRONMENT_VARIABLE = "SEQGEN_TUNING_DB"
BUSY_TIMEOUT_MS = 10_000


class StoreError(SeqgenError):
    """The tuning database cannot be used as it is; the message says what to do."""


class ReadOnlyError(StoreError):
    """The database can be read at most."""


def default_location() -> str:
    """Path or URL of the user's database: the environment variable, else the cache folder."""
    configured = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    if configured:
        return configured
    return str(cache_folder() / "tuning.sqlite")


def database_url(location: str) -> URL:
    """``location`` as a URL; anything without ``://`` is the path of a SQLite file.

    Raises:
        UsageError: a URL that cannot be parsed.
    """
    if "://" not in location:
        return URL.create("sqlite", database=str(Path(location).expanduser()))
    try:
        return make_url(location)
    except ArgumentError as error:
        raise UsageError(f"{ENVIRONMENT_VARIABLE} is not a path or a database URL.") from error


def display_name(url: URL) -> str:
    """What messages call the database: the path, or the URL without its password."""
    is_path = url.get_backend_name() == "sqlite" and url.database and not url.query
    return str(url.database) if is_path else url.render_as_string(hide_password=True)


def open_engine(url: URL) -> Engine:
    """An engine on a database that exists, is seqgen's, has this schema and can be written.

    Raises:
        ReadOnlyError: it cannot be created or written.
        StoreError: damaged, not seqgen's, newer, locked, or no driver.
    """
    name = display_name(url)
    try:
        if url.get_backend_name() == "sqlite" and url.database and not url.query:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = _sqlite_engine(url) if url.get_backend_name() == "sqlite" else create_engine(url)
    except OSError as error:
        raise ReadOnlyError(f"Cannot create the folder of the tuning database {name}.") from error
    except (ImportError, SQLAlchemyError) as error:
        raise StoreError(f"Cannot open the tuning database {name}: {error}") from error
    try:
        with write_session(engine, name) as session:
            _check_schema(session, name)
    except StoreError:
        engine.dispose()
        raise
    return engine


def memory_copy(url: URL) -> Engine:
    """An in-memory database with what can be read of the one at ``url``.

    Raises:
        StoreError: the file is there, but damaged or not seqgen's.
    """
    engine = _sqlite_engine(URL.create("sqlite"))
    name = display_name(url)
    if url.get_backend_name() == "sqlite" and url.database:
        path = Path(url.database.removeprefix("file:"))
        try:
            readable = path.is_file() and path.stat().st_size > 0
        except OSError:
            readable = False
        if readable:
            with _naming_faults(name), engine.connect() as connection:
                source = sqlite3.connect(
                    f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True
                )
                with closing(source):
                    source.backup(_driver_connection(connection))
    with write_session(engine, name) as session:
        _check_schema(session, name)
    return engine


def _driver_connection(connection: Any) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _sqlite_engine(url: URL) -> Engine:
    # One connection for a database in memory: with a pool, each would see its own empty one.
    options: dict[str, Any] = {} if url.database else {"poolclass": StaticPool}
    engine = create_engine(url, connect_args={"check_same_thread": False}, **options)

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        # The driver would begin transactions by itself, and too late for BEGIN IMMEDIATE.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        # With WAL, a power cut can then lose the last records, but damages nothing.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")

    return engine


def _check_schema(session: Session, name: str) -> None:
    """Create the tables in an empty database; refuse a foreign or newer one."""
    connection = session.connection()
    tables = set(inspect(connection).get_table_names())
    if tables and Meta.__tablename__ not in tables:
        raise StoreError(
            f"{name} is a database, but not one of seqgen's.\n"
            f"  Hint: name another file in {ENVIRONMENT_VARIABLE}."
        )
    if not tables:
        Base.metadata.create_all(connection)
        session.add(Meta(name="schema_version", value=str(SCHEMA_VERSION)))
        return
    version = session.scalar(select(Meta.value).where(Meta.name == "schema_version"))
    if version != str(SCHEMA_VERSION):
        raise StoreError(
            f"The tuning database {name} has schema version {version}; this seqgen knows "
            f"version {SCHEMA_VERSION}.\n"
            f"  Hint: upgrade seqgen, or name another file in {ENVIRONMENT_VARIABLE}."
        )
    # Changes nothing, but fails here if the database is read-only: a transaction alone does not.
    session.execute(update(Meta).values(value=Meta.value))


@contextmanager
def read_session(engine: Engine, name: str) -> Iterator[Session]:
    """A session for queries; faults become ``StoreError``."""
    with _naming_faults(name), Session(engine) as session:
        yield session


@contextmanager
def write_session(engine: Engine, name: str) -> Iterator[Session]:
    """A session that is written as a whole, or not at all if anything fails."""
    with _naming_faults(name), Session(engine) as session:
        if engine.dialect.name == "sqlite":
            # Take the write lock at once: two writers then wait for each other (busy_timeout)
            # instead of failing when both try to upgrade a read lock.
            if engine.url.database and not engine.url.query:
                _use_wal(session)
            session.connection().exec_driver_sql("BEGIN IMMEDIATE")
        yield session
        session.commit()


def _use_wal(session: Session) -> None:
    """Keep the file in WAL mode; while another process switches, SQLite answers without waiting."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            session.connection().exec_driver_sql("PRAGMA journal_mode = WAL")
            return
        except OperationalError as error:
            if "locked" not in str(error.orig) or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


@contextmanager
def _naming_faults(name: str) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        raise _fault(str(getattr(error, "orig", error)), name) from error


def _fault(cause: str, name: str) -> StoreError:
    """The error for what the database said; SQLite's result codes come as text only."""
    cause = cause.strip().rstrip(".")
    lowered = cause.lower()
    if "not a database" in lowered or "malformed" in lowered:
        return StoreError(
            f"The tuning database {name} is damaged or is no SQLite database ({cause}).\n"
            f"  Hint: move it aside (mv {name} {name}.broken) and run again. Shipped records are "
            f"loaded again; exported ones come back with 'seqgen db import'."
        )
    if "readonly" in lowered or "unable to open" in lowered or "read-only" in lowered:
        return ReadOnlyError(f"The tuning database {name} cannot be written ({cause}).")
    if "full" in lowered or "disk i/o" in lowered:
        return StoreError(
            f"The disk is full or failing: the tuning database {name} was not changed ({cause}).\n"
            f"  Hint: free space there, or name another place in {ENVIRONMENT_VARIABLE}."
        )
    if "locked" in lowered:
        return StoreError(
            f"Another process has been writing to the tuning database {name} for more than "
            f"{BUSY_TIMEOUT_MS // 1000} s.\n  Hint: wait for it, or end it, and run again."
        )
    return StoreError(f"The tuning database {name} reported: {cause}.")


_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Print a warning to stderr, each text once per process."""
    if message not in _warned:
        _warned.add(message)
        print(f"Warning: {message}", file=sys.stderr)
