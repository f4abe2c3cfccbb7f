"""Copies a database to one file while the daemon goes on writing."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL

from daemon.errors import StorageError


def back_up(url: URL, out: Path) -> None:
    """Write a consistent copy to `out`, which appears only when it is complete.

    SQLite becomes a SQLite file, PostgreSQL an archive for `pg_restore`.

    Raises:
        StorageError: `out` exists or cannot be written, or pg_dump is missing or failed.
    """
    if out.exists():
        raise StorageError(f"{out} exists; a backup does not overwrite, name another file")
    part = out.with_name(f"{out.name}.part")
    try:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
        if url.get_backend_name() == "sqlite":
            _copy_sqlite(Path(str(url.database)), part)
        else:
            _dump_postgresql(url, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.rename(out)
    except OSError as error:
        raise StorageError(f"backup to {out}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _copy_sqlite(source: Path, part: Path) -> None:
    """One read transaction: writers go on, and the copy shows one moment."""
    with closing(sqlite3.connect(source)) as reader, closing(sqlite3.connect(part)) as copy:
        try:
            reader.backup(copy)
        except sqlite3.Error as error:
            raise StorageError(f"backup of {source}: {error}") from error


def _dump_postgresql(url: URL, part: Path) -> None:
    program = shutil.which("pg_dump")
    if program is None:
        raise StorageError(
            "pg_dump is not on the PATH; install the PostgreSQL client of the server's version"
        )
    connection = {
        "PGHOST": url.host or url.query.get("host"),
        "PGPORT": url.port,
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGDATABASE": url.database,
    }
    # in the environment: other users can read the arguments of a process
    environ = os.environ | {name: str(value) for name, value in connection.items() if value}
    done = subprocess.run(  # noqa: S603 - a fixed program with fixed arguments
        [program, "--format=custom", "--no-password", f"--file={part}"],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StorageError(f"pg_dump failed: {done.stderr.strip()}")
