"""What `zsad doctor` says of a database must be what a start would do with it."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.config_file import load_config
from daemon.doctor.finding import Finding, Level
from daemon.doctor.line import check_line
from daemon.errors import StorageError
from daemon.storage import clock_guard, revision
from daemon.storage.database import open_database, write_transaction


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


def test_a_clock_that_retention_would_not_believe_is_named(config: Path) -> None:
    start(config)
    engine = open_database(load_config(config).storage, config.parent, {})
    with write_transaction(engine) as connection:
        clock_guard.confirm(connection, load_config(config).line, datetime(2020, 1, 1, tzinfo=UTC))
    engine.dispose()

    found = check_line(load_config(config), config.parent, {})

    (finding,) = (finding for finding in found if finding.name == "clock")
    assert finding.level is Level.WARN
    assert "2020-01-01" in finding.text
    assert "zsad db prune --clock-is-right" in finding.advice


def test_an_ipc_path_in_a_run_dir_that_will_be_made_is_fine(
    write_config: Callable[..., Path],
) -> None:
    path = write_config(("tcp://127.0.0.1:5555", "ipc:///tmp/zsad-none/frames\n    mode: bind"))
    path.write_text(path.read_text().replace("run_dir: run", "run_dir: /tmp/zsad-none"))

    found = check_line(load_config(path), path.parent, {})

    assert [f.level for f in found if f.name == "endpoint"] == [Level.OK]


def test_an_address_that_may_come_up_is_a_warning(write_config: Callable[..., Path]) -> None:
    path = write_config(
        ("tcp://127.0.0.1:5555", "tcp://192.0.2.1:5555")
    )  # nobody has it: it is for documentation
    text = path.read_text().replace(
        "192.0.2.1:5555", "192.0.2.1:5555\n    mode: bind\n    allow_plain: true"
    )
    path.write_text(text)

    found = check_line(load_config(path), path.parent, {})

    (finding,) = (finding for finding in found if finding.name == "endpoint")
    assert finding.level is Level.WARN
    assert "waits for it" in finding.advice


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
