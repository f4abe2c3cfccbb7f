"""Opens the database of the configuration and hands out transactions. Knows no table.

SQLite runs in WAL mode with synchronous=FULL, so a commit survives a power loss; writers take
the write lock at BEGIN, because a SQLite read transaction cannot become a writing one.
"""

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from daemon.config.storage import StorageConfig
from daemon.errors import DatabaseAwayError, StorageError
from daemon.storage.mounts import network_file_system

SQLITE_MIN = (3, 35, 0)
"""First SQLite with INSERT ... RETURNING."""

PAGE_BYTES = 16 << 10
"""Of a new file. A row's pictures have about 20 kB; SQLite's usual 4 kB cost a third more time."""

WAL_KEPT_BYTES = 64 << 20
"""To this the write-ahead log shrinks again after a large change."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TEMPORARY_SQLITE = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL),
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),  # a sick disk
)
_DISK_FULL_SQLSTATE = "53100"
_TEMPORARY_SQLSTATE = re.compile(
    "08...|53..."  # connection exceptions; out of disk, memory or connections
    "|57P0[123]"  # shut down by an administrator, crashed, starting up
    "|55P03|40001|40P01"  # lock timeout, serialization failure, deadlock
    "|25006|58030"  # read-only (a standby, a full disk's guard), input/output error
)


def open_database(
    storage: StorageConfig,
    base_dir: Path,
    environ: Mapping[str, str],
    *,
    must_exist: bool = False,
    busy_timeout_s: float = 5.0,
) -> Engine:
    """Open the configured database and connect once, so that a wrong one stops the start.

    Args:
        storage: Its `url` is resolved as in `resolve_url`.
        base_dir: Folder of the configuration file.
        environ: Where `${NAME}` is looked up.
        must_exist: Refuse a SQLite file that is not there instead of creating it: what only
            reads must not leave an empty database behind a mistyped path.
        busy_timeout_s: How long one statement waits for another connection's lock.

    Raises:
        DatabaseAwayError: No connection at the moment.
        StorageError: The URL, file, server or credentials cannot be used.
    """
    url = resolve_url(storage.url, base_dir, environ)
    if url.get_backend_name() == "sqlite":
        if must_exist and not _is_there(Path(str(url.database))):
            raise StorageError(
                f"storage.url: there is no database {url.database}; has the daemon run with this "
                "configuration?"
            )
        _prepare_file(Path(str(url.database)))
        engine = _sqlite_engine(url, busy_timeout_s)
    else:
        engine = _postgresql_engine(url, busy_timeout_s)
    try:
        with engine.connect():
            pass
    except DBAPIError as error:
        engine.dispose()
        kind = DatabaseAwayError if is_temporary(error) else StorageError
        shown = url.render_as_string(hide_password=True)
        raise kind(f"storage.url {shown}: {error.orig}") from error
    return engine


def resolve_url(url: str, base_dir: Path, environ: Mapping[str, str]) -> URL:
    """The URL to connect to: variables filled in, driver named, SQLite path absolute.

    `${NAME}` may stand for the whole URL or inside user, password, host, database and query;
    there its value needs no URL quoting.

    Raises:
        StorageError: Unreadable, an unset variable, or neither a SQLite file nor PostgreSQL.
    """

    def fill(text: str) -> str:
        return _VARIABLE.sub(lambda match: _lookup(match[1], environ), text)

    try:
        parsed = make_url(fill(url) if _VARIABLE.fullmatch(url) else url)
    except (ArgumentError, ValueError) as error:
        # not quoted: an unreadable URL may hold a password anywhere
        raise StorageError(
            "storage.url is not a database URL; expected sqlite:///file.db or "
            "postgresql://user:${PASSWORD}@host/database"
        ) from error
    parsed = parsed.set(
        username=fill(parsed.username) if parsed.username else None,
        password=fill(str(parsed.password)) if parsed.password else None,
        host=fill(parsed.host) if parsed.host else None,
        database=fill(parsed.database) if parsed.database else None,
        query={
            key: fill(value) if isinstance(value, str) else tuple(map(fill, value))
            for key, value in parsed.query.items()
        },
    )
    match parsed.drivername:
        case "sqlite" | "sqlite+pysqlite":
            return _resolve_sqlite(parsed, base_dir)
        case "postgresql" | "postgresql+psycopg":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise StorageError(
                f"storage.url: {other!r} is not supported; use sqlite:/// or postgresql://"
            )


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that may write; commits at the end, or rolls back."""
    connection = engine.connect().execution_options(sqlite_begin="IMMEDIATE")
    with connection, connection.begin():
        yield connection


@contextmanager
def driver_cursor(connection: Connection, *, binary: bool = False) -> Iterator[psycopg.Cursor[Any]]:
    """PostgreSQL: a cursor of the driver itself, in the connection's transaction.

    Args:
        binary: Fetch values as they are and not as text.

    Raises:
        DBAPIError: As from any statement, so that callers know whether to try again.
    """
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor(binary=binary) as cursor:
            yield cursor
    except psycopg.Error as error:
        raise DBAPIError.instance(
            None,
            None,
            error,
            psycopg.Error,
            hide_parameters=True,
            connection_invalidated=driver.closed,
            dialect=connection.dialect,
        ) from error


def is_temporary(error: DBAPIError) -> bool:
    """Whether the same statement may succeed later: locked, full, or the connection lost.

    A full or read-only disk counts, because writing goes on by itself once someone has seen to it.
    """
    if isinstance(error.orig, sqlite3.Error):
        code: int = getattr(error.orig, "sqlite_errorcode", 0)
        return code & 0xFF in _TEMPORARY_SQLITE  # the low byte is the primary code
    if error.connection_invalidated:
        return True
    sqlstate: str | None = getattr(error.orig, "sqlstate", None)
    if sqlstate is None:  # an OperationalError without a state never reached the server
        return isinstance(error, OperationalError)
    return _TEMPORARY_SQLSTATE.fullmatch(sqlstate) is not None


def is_disk_full(error: DBAPIError) -> bool:
    """Whether less to write may help."""
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return getattr(error.orig, "sqlstate", None) == _DISK_FULL_SQLSTATE


def _lookup(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise StorageError(f"storage.url: the environment variable {name!r} is not set")
    return environ[name]


def _resolve_sqlite(url: URL, base_dir: Path) -> URL:
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        raise StorageError("storage.url: results need a SQLite file, such as sqlite:///zsad.db")
    path = (base_dir / str(url.database)).resolve()
    return url.set(drivername="sqlite", database=str(path))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # its folder is closed to this user
        text = f"database file {path}: {error.strerror}; run this as root or the daemon's user"
        raise StorageError(text) from error


def _prepare_file(path: Path) -> None:
    """Create the folder and an empty file that others cannot read; refuse a network drive."""
    if sqlite3.sqlite_version_info < SQLITE_MIN:
        wanted = ".".join(map(str, SQLITE_MIN))
        raise StorageError(f"SQLite {sqlite3.sqlite_version} is too old; at least {wanted} needed")
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        mounts = Path("/proc/mounts")
        kind = network_file_system(path, mounts.read_text()) if mounts.exists() else None
        if kind is not None:
            raise StorageError(
                f"{path} is on a network file system ({kind}), where SQLite's locks are not "
                "reliable; use a local disk or PostgreSQL"
            )
        # WAL and shared memory files take over the mode of the database file
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o640))
    except OSError as error:
        raise StorageError(f"database file {path}: {error.strerror}") from error


def _sqlite_engine(url: URL, busy_timeout_s: float) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,
        # A statement for each size of batch would stay prepared: 128 of them are 40 MB and more.
        connect_args={"timeout": busy_timeout_s, "cached_statements": 4},
    )

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # BEGIN comes from `_begin`, not from the driver
        with closing(connection.cursor()) as cursor:
            if cursor.execute("PRAGMA page_count").fetchone() == (0,):
                # of no effect once something is in the file, and then it would wait for writers
                cursor.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA foreign_keys = ON")

    path = Path(str(url.database))
    opened = _identity(path)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options: Mapping[str, Any] = connection.get_execution_options()
        kind = options.get("sqlite_begin", "DEFERRED")
        if kind == "IMMEDIATE" and _identity(path) != opened:
            raise _moved(path)
        connection.exec_driver_sql(f"BEGIN {kind}")

    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file this is; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _moved(path: Path) -> OperationalError:
    """SQLite would go on writing to a file that no path leads to, and say nothing."""
    error = sqlite3.OperationalError(
        f"database file {path} was moved, replaced or removed while it was open: put it back, or "
        "stop the daemon and start it again"
    )
    error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DBMOVED
    return OperationalError("BEGIN IMMEDIATE", None, error)


def _postgresql_engine(url: URL, busy_timeout_s: float) -> Engine:
    return create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,  # a server restart between two batches goes unnoticed
        connect_args={
            "application_name": "zsad",
            "connect_timeout": 10,
            "tcp_user_timeout": 15_000,  # ms; a host that vanished shows after this, not in hours
            "options": f"-c lock_timeout={round(busy_timeout_s * 1000)}",
        },
    )
