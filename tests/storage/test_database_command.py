import argparse
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from daemon.cli.database import add_commands
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
