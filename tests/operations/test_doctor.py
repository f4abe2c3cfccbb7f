"""What `zsad doctor` says of a database must be what a start would do with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.config_file import load_config
from daemon.doctor.finding import Finding, Level
from daemon.doctor.line import check_line
from daemon.errors import StorageError
from daemon.storage import revision
from daemon.storage.database import open_database


@pytest.fixture
def config(write_config: Callable[..., Path]) -> Path:
    return write_config(("tcp://127.0.0.1:5555", "ipc:///tmp/never-bound"))


def database_finding(path: Path) -> Finding:
    found = check_line(load_config(path), path.parent, {})
    (finding,) = (finding for finding in found if finding.name == "database")
    return finding


def start(path: Path) -> None:
    """What the daemon does with its database first."""
    engine = open_database(load_config(path).storage, path.parent, {})
    try:
        revision.prepare(engine)
    finally:
        engine.dispose()


@pytest.mark.parametrize("exists", [False, True], ids=["no file", "an empty file"])
def test_a_new_database_is_built_by_the_start(config: Path, exists: bool) -> None:
    if exists:
        (config.parent / "results.db").touch()

    assert "at the first start" in database_finding(config).text
    start(config)
    finding = database_finding(config)
    assert finding.level is Level.OK
    assert revision.newest_revision() in finding.text


def test_an_older_schema_is_a_failure_for_the_start_refuses_it(config: Path) -> None:
    start(config)
    engine = open_database(load_config(config).storage, config.parent, {})
    revision.downgrade(engine, "-1")
    engine.dispose()

    finding = database_finding(config)
    assert finding.level is Level.FAIL
    assert "zsad db upgrade" in finding.text
    with pytest.raises(StorageError, match="zsad db upgrade"):
        start(config)
