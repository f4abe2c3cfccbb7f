import csv
import io
import json
from datetime import UTC, date, datetime
from typing import Any

from rich.console import Console

from daemon.report import words
from daemon.report.contents import ShiftReport
from daemon.report.render_csv import HEADER, render_csv
from daemon.report.render_json import render_json
from daemon.report.render_terminal import render_terminal
from daemon.report.shift import build_shift_report

LATER = datetime(2026, 2, 1, tzinfo=UTC)


def early(line: Any) -> ShiftReport:
    return build_shift_report(line.engine, line.config, date(2026, 1, 31), "early", now=LATER)


def terminal_text(report: ShiftReport) -> str:
    out = io.StringIO()
    render_terminal(report, Console(file=out, width=100))
    return out.getvalue()


def small_shift(line: Any) -> ShiftReport:
    """Two OK and an NG frame of cam1, an ERROR of cam2, three gaps, one drop."""
    model = line.model("v1")
    line.frame("OK", 10, model=model, score=0.1)
    line.frame("OK", 70, model=model, score=0.1)
    line.frame("NG", 71, model=model, score=0.9, regions=((0, 0, 9, 9, 81, 0.9),))
    line.frame("ERROR", 72, model=model, camera="cam2", error_reason="bad_payload")
    line.loss("gap", 73, seqs=(3, 5))
    line.loss("queue_full", 74, seqs=(6, 6))
    return early(line)


def test_terminal_shows_every_section_within_100_columns(busy_line: Any) -> None:
    text = terminal_text(early(busy_line))

    assert max(len(row) for row in text.splitlines()) <= 100
    for heading in (
        "2026-01-31 06:00 CET to 14:00 CET (8 h), Europe/Berlin",
        "Every frame is accounted for",
        "Verdicts",
        "Ledger",
        "Not inspected, and why",
        "Hours (Europe/Berlin)",
        "Scores against the thresholds in force",
        "Frame to verdict",
        "Where NG frames are defective",
        "What changed",
    ):
        assert heading in text


def test_terminal_obeys_nothing_from_the_wire(sqlite_line: Any) -> None:
    sqlite_line.frame("OK", model=sqlite_line.model("[red]v\x1b[2J1"), score=0.1)

    text = terminal_text(early(sqlite_line))

    assert "[red]" in text
    assert "\x1b" not in text


def test_terminal_says_loudly_that_a_frame_is_unaccounted(sqlite_line: Any) -> None:
    model = sqlite_line.model("v1")
    sqlite_line.frame("OK", model=model, score=0.1, seq=0)
    sqlite_line.frame("OK", model=model, score=0.1, seq=3)

    text = terminal_text(early(sqlite_line))

    assert "✗ The ledger does not add up: cam1: of 4 frames known sent, 2 have no row" in text


def test_yield_is_not_called_fpy_without_part_numbers(sqlite_line: Any) -> None:
    sqlite_line.frame("OK", model=sqlite_line.model("v1"), score=0.1)

    assert words.yield_name(early(sqlite_line)) == "yield, not FPY"


def test_yield_needs_no_such_note_with_part_numbers(sqlite_line: Any) -> None:
    sqlite_line.frame("OK", model=sqlite_line.model("v1"), score=0.1, part_id="p1")

    report = early(sqlite_line)

    assert words.yield_name(report) == "yield"
    assert "FPY 100.00 %: 1 of 1 parts" in terminal_text(report)


def test_empty_shift_prints_no_tables_of_nothing(sqlite_line: Any) -> None:
    text = terminal_text(early(sqlite_line))

    assert "No frames were received" in text
    assert "Verdicts" not in text


def test_json_holds_the_figures_under_stable_keys(sqlite_line: Any) -> None:
    found = json.loads(render_json(small_shift(sqlite_line)))

    assert found["schema"] == 1
    assert found["window"]["zone"] == "Europe/Berlin"
    assert found["window"]["start_utc"] == "2026-01-31T05:00:00+00:00"
    assert found["totals"] == {
        "ok": 2,
        "ng": 1,
        "review": 0,
        "learning": 0,
        "error": 1,
        "inspected": 3,
        "judged": 3,
        "yield": 2 / 3,
        "ppm_defective": 1e6 / 3,
    }
    assert (found["received"], found["gaps"], found["is_ledger_balanced"]) == (5, 3, True)
    assert found["ledger"][0]["sent"] == 7
    assert found["gallery"][0]["pred_score"] == 0.9
    assert "photo_jpeg" not in found["gallery"][0]


def test_csv_rows_of_one_scope_add_up_to_the_whole(sqlite_line: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(render_csv(small_shift(sqlite_line)))))

    assert tuple(rows[0]) == HEADER
    by_scope: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_scope.setdefault(row["scope"], []).append(row)
    (whole,) = by_scope["all"]
    for column in ("inspected", "ok", "ng", "error"):
        for scope in ("hour", "group"):
            assert sum(int(row[column]) for row in by_scope[scope]) == int(whole[column])
    assert (whole["inspected"], whole["lost_without_row"], whole["gaps"]) == ("3", "1", "3")
    for scope in ("hour_lost", "camera_lost"):
        assert sum(int(row["gaps"]) for row in by_scope[scope]) == 3
    assert by_scope["hour"][0]["hour_local"] == "2026-01-31T06:00:00+01:00"


def test_csv_text_cannot_start_a_formula(sqlite_line: Any) -> None:
    sqlite_line.frame("OK", model=sqlite_line.model("v1"), score=0.1, category="=cmd()")

    rows = list(csv.DictReader(io.StringIO(render_csv(early(sqlite_line)))))

    assert {row["category"] for row in rows} == {"'=cmd()", ""}


def test_percentages_are_not_rounded_to_certainty() -> None:
    assert words.percent(0.999_999_9) == "99.99 %"
    assert words.percent(0.000_000_1) == "0.01 %"
    assert (words.percent(1.0), words.percent(0.0)) == ("100.00 %", "0.00 %")
