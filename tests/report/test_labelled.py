"""An error rate is told from frames nobody chose, with its interval; of others it is not told."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import binomtest
from sqlalchemy import insert

from daemon.core import LabelVerdict, Verdict
from daemon.report import words
from daemon.report.contents import ShiftReport
from daemon.report.intervals import wilson
from daemon.report.labelled import agreement_of
from daemon.report.render_csv import render_csv
from daemon.report.render_html import render_html
from daemon.report.render_json import render_json
from daemon.report.render_terminal import render_terminal
from daemon.report.shift import build_shift_report
from daemon.storage.night_tables import AuditDrawRow, JobRunRow, ModelChangeRow
from daemon.storage.tables import LabelRow

DAY = date(2026, 1, 31)
LATER = datetime(2026, 2, 1, tzinfo=UTC)
OK, NG, REVIEW = Verdict.OK, Verdict.NG, Verdict.REVIEW
GOOD, BAD, UNSURE = LabelVerdict.OK, LabelVerdict.NG, LabelVerdict.UNCERTAIN

Say = Callable[[int, str], None]


@pytest.fixture
def say(sqlite_line: Any) -> Say:
    def say_of(inspection_id: int, verdict: str) -> None:
        values = {"inspection_id": inspection_id, "verdict": verdict, "author": "ana"}
        with sqlite_line.engine.begin() as connection:
            connection.execute(insert(LabelRow).values(**values, at_utc=LATER, source="cli"))

    return say_of


def draw(line: Any, *inspection_ids: int) -> None:
    with line.engine.begin() as connection:
        rows = [{"inspection_id": one, "drawn_utc": LATER} for one in inspection_ids]
        connection.execute(insert(AuditDrawRow), rows)


def report_of(line: Any) -> ShiftReport:
    return build_shift_report(line.engine, line.config, DAY, "early", now=LATER)


@given(n=st.integers(1, 500), data=st.data())
def test_the_interval_agrees_with_an_independent_implementation(
    n: int, data: st.DataObject
) -> None:
    found = data.draw(st.integers(0, n))

    theirs = binomtest(found, n).proportion_ci(0.95, method="wilson")
    assert wilson(found, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_chosen_frames_tell_no_rate() -> None:
    labelled = {(OK, GOOD, False): 5, (OK, BAD, False): 15, (NG, GOOD, False): 3}
    found = agreement_of(labelled, {}, {OK: 1000, NG: 50})

    assert (found.escapes.how, found.escapes.rate, found.escapes.low) == ("chosen", None, None)
    assert found.false_rejects.rate is None
    sentence = words.error_sentences(found)[0]
    assert "unknown. The label disagrees on 15 of 20 OK frames, but these were chosen" in sentence


def test_only_randomly_drawn_frames_enter_the_estimate() -> None:
    labelled = {(OK, GOOD, True): 39, (OK, BAD, True): 1, (OK, BAD, False): 60}
    found = agreement_of(labelled, {OK: 50}, {OK: 1000}).escapes

    assert (found.how, found.drawn, found.labelled, found.wrong) == ("random", 50, 40, 1)
    assert found.rate == pytest.approx(1 / 40)
    assert (found.low, found.high) == pytest.approx(wilson(1, 40))


def test_where_every_frame_is_labelled_the_rate_is_counted() -> None:
    labelled = {(NG, GOOD, False): 2, (NG, BAD, False): 8, (OK, GOOD, True): 5}
    found = agreement_of(labelled, {OK: 5}, {NG: 10, OK: 98}).false_rejects

    assert (found.how, found.low) == ("all", None)
    assert found.rate == pytest.approx(2 / 100), "of the good ones, 2 were rejected and 98 passed"


def test_a_false_reject_rate_is_a_share_of_the_good_frames() -> None:
    labelled = {(NG, GOOD, True): 5, (NG, BAD, True): 5}
    found = agreement_of(labelled, {NG: 10}, {NG: 40, OK: 980}).false_rejects

    assert found.rate == pytest.approx(20 / 1000)
    low, high = (share * 40 / (share * 40 + 980) for share in wilson(5, 10))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_uncertain_labels_enter_no_rate_and_leave_review_open() -> None:
    labelled = {(REVIEW, GOOD, False): 3, (REVIEW, BAD, False): 1, (REVIEW, UNSURE, False): 2}
    found = agreement_of(labelled, {}, {REVIEW: 10})

    assert (found.review_ok, found.review_ng, found.review_open) == (3, 1, 6)
    assert "closed 4 (3 OK, 1 NG); 6 are open" in words.review_sentence(found)


def test_the_newest_label_of_the_windows_frames_counts(sqlite_line: Any, say: Say) -> None:
    model = sqlite_line.model("m1")
    frames = [sqlite_line.frame("OK", minute, model=model, score=0.1) for minute in range(1, 6)]
    rejected = sqlite_line.frame("NG", 7, model=model, score=0.9)
    elsewhen = sqlite_line.frame("OK", -60, model=model, score=0.1)
    draw(sqlite_line, frames[0], frames[1], frames[2], elsewhen)
    for frame, verdicts in (
        (frames[0], ["OK"]),
        (frames[1], ["NG", "OK"]),
        (frames[4], ["NG"]),
        (rejected, ["NG"]),
        (elsewhen, ["NG"]),
    ):
        for verdict in verdicts:
            say(frame, verdict)

    agreement = report_of(sqlite_line).agreement

    assert agreement is not None
    assert dict(words.by_verdict(agreement)) == {
        OK: {GOOD: 2, BAD: 1, UNSURE: 0},
        NG: {GOOD: 0, BAD: 1, UNSURE: 0},
    }
    assert (agreement.escapes.drawn, agreement.escapes.labelled, agreement.escapes.wrong) == (
        3,
        2,
        0,
    )
    assert agreement.false_rejects.how == "all"
    assert agreement.false_rejects.rate == 0.0


def test_a_window_without_labels_says_nothing_of_them(sqlite_line: Any) -> None:
    sqlite_line.frame("OK", 1, model=sqlite_line.model("m1"), score=0.1)
    report = report_of(sqlite_line)

    assert report.agreement is None
    assert "Labels against verdicts" not in render_html(report)


def night_of(line: Any) -> None:
    """A model that was promoted, another that was rolled back, and two nights."""
    changes = [
        (100, "proposed", "coop-aaaaaaaaaaaa", None, "night", "better by 0.1"),
        (110, "promoted", "coop-aaaaaaaaaaaa", "zero-bbbbbbbbbbbb", "shadow", "agrees"),
        (130, "rolled_back", "coop-aaaaaaaaaaaa", "zero-bbbbbbbbbbbb", "watch", "NG 6.00 %"),
        (131, "exported", "zero-bbbbbbbbbbbb", None, "ana", "to stick"),
    ]
    names = ("kind", "version", "previous", "author", "reason")
    with line.engine.begin() as connection:
        for at_min, *values in changes:
            row = dict(zip(names, values, strict=True))
            connection.execute(
                insert(ModelChangeRow).values(line="l1", at_utc=line.at(at_min), **row)
            )
        for at_min, state, detail in ((10, "refused", "AUROC -0.05"), (60, "nothing", "2 labels")):
            connection.execute(
                insert(JobRunRow).values(
                    line="l1",
                    kind="night",
                    due_utc=line.at(at_min),
                    started_utc=line.at(at_min),
                    ended_utc=line.at(at_min + 5),
                    state=state,
                    step="gate",
                    done=0,
                    total=0,
                    attempts=2,
                    detail=detail,
                    latency_before_ms=40.0,
                    latency_during_ms=44.0,
                )
            )


def test_model_changes_and_nights_are_in_every_format(busy_line: Any) -> None:
    night_of(busy_line)
    report = report_of(busy_line)

    page = render_html(report)
    text = io.StringIO()
    render_terminal(report, Console(file=text, width=160))
    for shown in (page, text.getvalue()):
        assert "What the night did" in shown
        assert "model rolled back" in shown
        assert "back to zero-bbbbbbbbbbbb" in shown
        assert "40 ms before, 44 ms during" in shown
        assert "to stick" not in shown
    document = json.loads(render_json(report))
    assert [change["kind"] for change in document["model_changes"]] == [
        "proposed",
        "promoted",
        "rolled_back",
    ]
    assert [night["state"] for night in document["nights"]] == ["refused", "nothing"]
    rows = list(csv.DictReader(io.StringIO(render_csv(report))))
    assert [row["what"] for row in rows if row["scope"] in ("model", "night")] == [
        "proposed",
        "promoted",
        "rolled_back",
        "refused",
        "nothing",
    ]
