import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from daemon.core import Inspection
from daemon.errors import StorageError
from daemon.storage import repository
from daemon.storage.backup import back_up
from daemon.storage.database import write_transaction


def test_a_sqlite_backup_holds_what_was_committed_while_a_writer_writes(
    sqlite_engine: Engine,
    register: Callable[[Engine], None],
    make_inspection: Callable[..., Inspection],
    tmp_path: Path,
) -> None:
    register(sqlite_engine)
    with write_transaction(sqlite_engine) as connection:
        repository.add_results(connection, "line1", [make_inspection(0)])

    with write_transaction(sqlite_engine) as connection:
        repository.add_results(connection, "line1", [make_inspection(1)])
        back_up(sqlite_engine.url, tmp_path / "copy.db")

    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT seq FROM inspection").fetchall() == [(0,)]
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert list(tmp_path.glob("*.part")) == []


def test_a_postgresql_backup_is_a_restorable_archive(
    postgres_engine: Engine,
    postgres_programs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", f"{postgres_programs}:{os.environ['PATH']}")

    back_up(postgres_engine.url, tmp_path / "copy.dump")

    listing = subprocess.run(
        [postgres_programs / "pg_restore", "--list", tmp_path / "copy.dump"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "TABLE DATA public inspection" in listing.stdout


def test_a_backup_overwrites_nothing(sqlite_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("kept")

    with pytest.raises(StorageError, match="does not overwrite"):
        back_up(sqlite_engine.url, tmp_path / "copy.db")

    assert (tmp_path / "copy.db").read_text() == "kept"


def test_a_backup_to_a_missing_folder_is_refused(sqlite_engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        back_up(sqlite_engine.url, tmp_path / "missing" / "copy.db")


def test_a_missing_pg_dump_is_named(
    postgres_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(StorageError, match="pg_dump is not on the PATH"):
        back_up(postgres_engine.url, tmp_path / "copy.dump")

    assert list(tmp_path.iterdir()) == []
