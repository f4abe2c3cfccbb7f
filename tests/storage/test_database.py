import sqlite3
import stat
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from daemon.config.storage import StorageConfig
from daemon.errors import StorageError
from daemon.storage.database import is_temporary, open_database, resolve_url, write_transaction


def test_a_sqlite_path_is_relative_to_the_configuration_file(tmp_path: Path) -> None:
    url = resolve_url("sqlite:///data/zsad.db", tmp_path, {})

    assert url.database == str(tmp_path / "data/zsad.db")


def test_variables_need_no_url_quoting(tmp_path: Path) -> None:
    environ = {"DB_PASSWORD": "p@ss:/w%rd", "DB_HOST": "db1"}

    url = resolve_url("postgresql://zsad:${DB_PASSWORD}@${DB_HOST}:5433/line", tmp_path, environ)

    assert (url.password, url.host, url.port) == ("p@ss:/w%rd", "db1", 5433)
    assert url.drivername == "postgresql+psycopg"


def test_the_whole_url_may_be_a_variable(tmp_path: Path) -> None:
    url = resolve_url("${DATABASE_URL}", tmp_path, {"DATABASE_URL": "postgresql://zsad@db1/line"})

    assert (url.username, url.database) == ("zsad", "line")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "need a SQLite file"),
        ("sqlite:///:memory:", "need a SQLite file"),
        ("sqlite:///file:x.db?uri=true", "need a SQLite file"),
        ("mysql://user@host/db", "'mysql' is not supported"),
        ("postgresql+psycopg2://user@host/db", "is not supported"),
        ("no url", "not a database URL"),
        ("postgresql://user@host:port/db", "not a database URL"),
        ("postgresql://user:${NOT_SET}@host/db", "variable 'NOT_SET' is not set"),
    ],
)
def test_an_unusable_url_is_refused(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=message):
        resolve_url(url, tmp_path, {})


def test_a_database_file_and_its_folder_are_closed_to_others(tmp_path: Path) -> None:
    engine = open_database(StorageConfig(url="sqlite:///new/zsad.db"), tmp_path, {})
    with write_transaction(engine) as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))

    modes = [
        stat.S_IMODE((tmp_path / name).stat().st_mode) & 0o007
        for name in ("new", "new/zsad.db", "new/zsad.db-wal", "new/zsad.db-shm")
    ]

    assert modes == [0, 0, 0, 0]
    engine.dispose()


def test_sqlite_is_durable_checks_keys_and_waits_for_locks(tmp_path: Path) -> None:
    storage = StorageConfig(url="sqlite:///zsad.db")
    engine = open_database(storage, tmp_path, {}, busy_timeout_s=0.05)

    with engine.connect() as connection:
        pragmas = [
            connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]

    assert pragmas == ["wal", 2, 1, 50]
    engine.dispose()


def test_a_writer_takes_the_lock_at_begin(sqlite_engine: Engine) -> None:
    with (
        write_transaction(sqlite_engine),
        pytest.raises(OperationalError, match="locked") as raised,
        write_transaction(sqlite_engine),
    ):
        pass

    assert is_temporary(raised.value)


def test_a_reader_is_not_blocked_by_a_writer(sqlite_engine: Engine) -> None:
    with write_transaction(sqlite_engine), sqlite_engine.connect() as reader:
        assert reader.scalar(text("SELECT count(*) FROM inspection")) == 0


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zsad.db").write_bytes(b"not a database" * 100)

    with pytest.raises(StorageError, match="file is not a database"):
        open_database(StorageConfig(url="sqlite:///zsad.db"), tmp_path, {})


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="database file"):
        open_database(StorageConfig(url="sqlite:///file/zsad.db"), tmp_path, {})


def test_an_unreachable_server_is_refused_without_showing_the_password(tmp_path: Path) -> None:
    url = "postgresql://zsad:${SECRET}@127.0.0.1:1/line"

    with pytest.raises(StorageError, match="Connection refused") as raised:
        open_database(StorageConfig(url=url), tmp_path, {"SECRET": "hunter2"})

    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB])
def test_damage_is_not_temporary(code: int) -> None:
    error = sqlite3.DatabaseError("broken")
    error.sqlite_errorcode = code

    assert not is_temporary(DBAPIError("INSERT", None, error))


def test_a_full_disk_is_temporary(tmp_path: Path) -> None:
    engine = open_database(StorageConfig(url="sqlite:///zsad.db"), tmp_path, {})
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 3")
        with pytest.raises(OperationalError, match="full") as raised:
            connection.exec_driver_sql("CREATE TABLE t AS SELECT zeroblob(100000) AS b")

    assert is_temporary(raised.value)
    engine.dispose()


def test_a_broken_constraint_is_not_temporary(engine: Engine) -> None:
    statement = text("INSERT INTO model_version (id, name) VALUES (1, NULL)")

    with pytest.raises(IntegrityError) as raised, write_transaction(engine) as connection:
        connection.execute(statement)

    assert not is_temporary(raised.value)


def test_a_reading_command_leaves_no_database_behind_a_mistyped_path(tmp_path: Path) -> None:
    storage = StorageConfig(url="sqlite:///mistyped.db")

    with pytest.raises(StorageError, match="there is no database"):
        open_database(storage, tmp_path, {}, must_exist=True)

    assert not (tmp_path / "mistyped.db").exists()


def test_a_file_that_was_replaced_under_the_daemon_is_not_written_to(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    file, away = tmp_path / "zsad.db", tmp_path / "away.db"
    with write_transaction(sqlite_engine) as connection:
        connection.execute(text("SELECT 1"))

    for put_there in (None, "another file"):
        file.rename(away)
        if put_there is not None:
            file.write_text(put_there)
        with pytest.raises(OperationalError, match="was moved, replaced or removed") as raised:
            write_transaction(sqlite_engine).__enter__()
        assert is_temporary(raised.value), "so that results wait in the spool"
        away.replace(file)

    with write_transaction(sqlite_engine) as connection:
        connection.execute(text("SELECT 1"))
