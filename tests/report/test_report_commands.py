import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from daemon.cli import query, report
from daemon.core import Event, EventKind, Severity
from daemon.errors import ConfigError
from daemon.storage import repository

CONFIG = """
line: l1
timezone: Europe/Berlin
run_dir: run
sources: [{endpoint: "tcp://127.0.0.1:5555"}]
cameras: {cam1: {}, cam2: {}}
categories: {fabric: {class_name: fabric}}
storage: {url: "sqlite:///zsad.db"}
shifts: [{name: early, start: "06:00"}, {name: late, start: "14:00"}]
"""


@pytest.fixture
def config_path(sqlite_line: Any, tmp_path: Path) -> Path:
    """A configuration of the line, whose database holds three inspections and a loss."""
    model = sqlite_line.model("v1")
    sqlite_line.frame("OK", 1, model=model, score=0.1)
    sqlite_line.frame("NG", 2, model=model, score=0.8, part_id="P1")
    sqlite_line.frame("NG", 3, model=model, score=0.9, camera="cam2", part_id="P2")
    sqlite_line.loss("gap", 4, seqs=(2, 5))
    path = tmp_path / "daemon.yaml"
    path.write_text(CONFIG)
    return path


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    report.add_commands(commands)
    query.add_commands(commands)
    args = parser.parse_args([str(argument) for argument in arguments])
    return int(args.run(args))


def shift(config_path: Path, *more: object) -> int:
    day = ("--date", "2026-01-31", "--shift", "early")
    return run("report", "shift", "--config", config_path, "--line", "l1", *day, *more)


@pytest.mark.parametrize(
    ("name", "beginning"),
    [("text", "Line l1"), ("json", "{"), ("csv", "scope,line"), ("html", "<!doctype html>")],
)
def test_shift_is_written_in_every_format(
    config_path: Path, tmp_path: Path, name: str, beginning: str
) -> None:
    out = tmp_path / "new" / f"report.{name}"

    assert shift(config_path, "--format", name, "--out", out) == 0

    assert out.read_text(encoding="utf-8").startswith(beginning)


def test_json_on_stdout_is_one_document(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shift(config_path, "--json") == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["totals"]["ok"], found["totals"]["ng"], found["gaps"]) == (1, 2, 4)


def test_text_is_the_default(config_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shift(config_path) == 0

    assert "Every frame is accounted for" in capsys.readouterr().out


def test_range_takes_local_times(config_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = ("--from", "2026-01-31T06:02", "--to", "2026-01-31T05:03:00Z")
    assert run("report", "range", "--config", config_path, *times, "--json") == 0

    found = json.loads(capsys.readouterr().out)
    assert found["totals"]["ng"] == 1
    assert found["window"]["title"] == "2026-01-31 06:02 to 2026-01-31 06:03"


def test_another_line_is_refused(config_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--line 'l2': .* configures line 'l1'"):
        run("query", "losses", "--config", config_path, "--line", "l2")


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (("--from", "yesterday"), "'yesterday' is not a time such as"),
        (("--from", "2026-02-01", "--to", "2026-01-31"), "is not before --to"),
    ],
)
def test_impossible_times_are_refused(
    config_path: Path, times: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run("report", "range", "--config", config_path, *times)


def test_date_that_is_none_is_wrong_usage(config_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        run("report", "shift", "--config", config_path, "--date", "2026-02-30", "--shift", "early")

    assert stop.value.code == 2


def test_query_gives_the_newest_that_match(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ("--verdict", "ng", "--camera", "cam1", "--from", "2026-01-31", "--to", "2026-02-01")
    assert run("query", "inspections", "--config", config_path, *wanted, "--json") == 0

    (found,) = json.loads(capsys.readouterr().out)["inspections"]
    assert (found["pred_score"], found["part_id"], found["camera"]) == (0.8, "P1", "cam1")
    assert found["received_utc"] == "2026-01-31T05:02:00+00:00"


def test_query_stops_at_its_limit_newest_first(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("query", "inspections", "--config", config_path, "--limit", 2, "--json") == 0

    found = json.loads(capsys.readouterr().out)["inspections"]
    assert [row["part_id"] for row in found] == ["P2", "P1"]


def test_query_events_filters_by_severity(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = create_engine(f"sqlite:///{config_path.parent / 'zsad.db'}")
    at_utc = datetime(2026, 1, 31, 6, tzinfo=UTC)
    events = [
        Event(EventKind.STARTED, Severity.INFO, at_utc, "inspecting with v1"),
        Event(EventKind.STOPPED, Severity.ALARM, at_utc, "failed"),
    ]
    with engine.begin() as connection:
        repository.add_results(connection, "l1", events)
    engine.dispose()

    assert run("query", "events", "--config", config_path, "--severity", "alarm", "--json") == 0

    (found,) = json.loads(capsys.readouterr().out)["events"]
    assert (found["kind"], found["detail"]) == ("stopped", "failed")
    assert run("query", "events", "--config", config_path) == 0
    assert "inspecting" in capsys.readouterr().out


def test_query_prints_local_times_for_people(
    config_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert run("query", "inspections", "--config", config_path, "--part", "P1") == 0
    assert run("query", "losses", "--config", config_path, "--reason", "gap") == 0
    assert run("query", "losses", "--config", config_path, "--camera", "cam2") == 0

    text = capsys.readouterr().out
    assert "2026-01-31 06:02:00.000" in text
    assert "because" in text
    assert "2-5" in text  # the missing numbers
    assert "no loss matches" in text
