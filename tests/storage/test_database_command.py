import argparse
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ProgrammingError

from daemon.cli.database import add_commands
from daemon.cli.main import main
from daemon.errors import StorageError
from daemon.storage.revision import newest_revision

CONFIG = """\
line: line1
timezone: Europe/Berlin
run_dir: run
sources: [{endpoint: "tcp://127.0.0.1:5555"}]
cameras: {cam1: {category: fabric}}
categories: {fabric: {class_name: woven fabric}}
shifts: [{name: early, start: "06:00"}]
storage: {url: "sqlite:///zsad.db"}
"""


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "daemon.yaml"
    path.write_text(CONFIG)
    return path


def zsad(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    args = parser.parse_args([str(word) for word in words])
    code: int = args.run(args)
    return code


def test_current_fails_until_the_database_is_upgraded(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = [
        zsad("db", command, "--config", config_path)
        for command in ("current", "upgrade", "current")
    ]

    assert codes == [1, 0, 0]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"empty (newest known: {newest_revision()})")
    assert lines[1].endswith(f"zsad.db: empty -> {newest_revision()}")


def test_upgrade_twice_says_that_nothing_was_to_do(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zsad("db", "upgrade", "--config", config_path)
    zsad("db", "upgrade", "--config", config_path)

    assert capsys.readouterr().out.endswith(f"already at {newest_revision()}\n")


def test_backup_names_the_file_it_wrote(
    config_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zsad("db", "upgrade", "--config", config_path)
    out = tmp_path / "copy.db"

    code = zsad("db", "backup", "--config", config_path, "--out", out)

    assert code == 0
    assert str(out) in capsys.readouterr().out
    with closing(sqlite3.connect(out)) as copy:
        assert copy.execute("SELECT count(*) FROM inspection").fetchone() == (0,)


def test_prune_says_what_would_go_and_when_the_disk_is_full(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zsad("db", "upgrade", "--config", config_path)
    capsys.readouterr()

    code = zsad("db", "prune", "--dry-run", "--json", "--config", config_path)

    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert answer["dry_run"] is True
    assert answer["removed"] == [
        {"what": "pictures", "verdict": "LEARNING", "count": 0},
        {"what": "pictures", "verdict": "OK", "count": 0},
    ]
    assert answer["forecast"]["used_bytes"] > 0
    assert zsad("db", "prune", "--config", config_path) == 0
    assert "room for more than ten years" in capsys.readouterr().out


def test_prune_removes_nothing_under_a_clock_that_looks_wrong_until_somebody_says_it_is_right(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zsad("db", "upgrade", "--config", config_path)
    with closing(sqlite3.connect(config_path.parent / "zsad.db")) as database, database:
        database.execute("INSERT INTO clock_mark VALUES ('line1', 1600000000000000)")

    assert zsad("db", "prune", "--config", config_path) == 1
    assert "last believed (2020-09-13 12:26); limit 7 days" in capsys.readouterr().err
    assert zsad("db", "prune", "--clock-is-right", "--config", config_path) == 0
    assert zsad("db", "prune", "--config", config_path) == 0


def test_a_sqlite_file_has_no_readers_to_grant(config_path: Path) -> None:
    zsad("db", "upgrade", "--config", config_path)

    with pytest.raises(StorageError, match="has no roles"):
        zsad("db", "grant-reader", "report", "--config", config_path)


def test_a_granted_reader_reads_views_and_pictures_and_writes_nothing(
    postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "daemon.yaml"
    path.write_text(CONFIG.replace("sqlite:///zsad.db", postgres_url))
    zsad("db", "upgrade", "--config", path)
    owner = create_engine(postgres_url)
    with owner.begin() as connection:
        connection.execute(text('CREATE ROLE "shift report" LOGIN'))
    reader = create_engine(owner.url.set(username="shift report"))
    try:
        assert zsad("db", "grant-reader", "shift report", "--apply", "--config", path) == 0
        assert 'TO "shift report";' in capsys.readouterr().out

        for source in ("v_inspection", "v_defect", "v_loss", "v_ledger", "v_event", "thumbnail"):
            with reader.connect() as connection:
                assert connection.execute(text(f"SELECT * FROM {source}")).all() == []
        for statement in (
            "DELETE FROM inspection",
            "UPDATE daemon_run SET last_batch = 0",
            "INSERT INTO event (line, kind, severity, at_utc, detail) VALUES ('l','k','s',1,'d')",
            "DROP VIEW v_event",
            "CREATE TABLE mine (x integer)",
        ):
            with reader.connect() as connection, pytest.raises(ProgrammingError) as refused:
                connection.execute(text(statement))
            assert refused.value.orig.sqlstate == "42501"  # insufficient privilege
        path.write_text(CONFIG.replace("sqlite:///zsad.db", str(reader.url)))
        assert main(["db", "prune", "--config", str(path)]) == 1
        assert "the database refuses: permission denied for table" in capsys.readouterr().err
    finally:
        reader.dispose()
        with owner.begin() as connection:
            connection.execute(text('DROP OWNED BY "shift report"'))
            connection.execute(text('DROP ROLE "shift report"'))
        owner.dispose()


def test_a_role_that_does_not_exist_is_named(postgres_url: str, tmp_path: Path) -> None:
    path = tmp_path / "daemon.yaml"
    path.write_text(CONFIG.replace("sqlite:///zsad.db", postgres_url))

    with pytest.raises(StorageError, match='role "nobody here" does not exist'):
        zsad("db", "grant-reader", "nobody here", "--apply", "--config", path)
