from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import func, select

from daemon.core import LossReason, Verdict
from daemon.errors import ConfigError, StorageError
from daemon.report.contents import ParetoRow, ShiftReport, VerdictCounts
from daemon.report.defects import NO_REGION
from daemon.report.frames import read_frames
from daemon.report.shift import build_shift_report, build_window_report, snapshot
from daemon.storage.frame_columns import keep_hours
from daemon.storage.tables import FrameHourRow

DAY = date(2026, 1, 31)
LATER = datetime(2026, 2, 1, 12, tzinfo=UTC)


def early(line: Any) -> ShiftReport:
    return build_shift_report(line.engine, line.config, DAY, "early", now=LATER)


def test_verdicts_are_counted_by_camera_and_category(line: Any) -> None:
    model = line.model("v1")
    for verdict in ("OK", "OK", "OK", "NG", "REVIEW"):
        line.frame(verdict, model=model, score=0.5)
    line.frame("LEARNING", model=model, score=0.5, category="bolt")
    line.frame("ERROR", model=model, camera="cam2", error_reason="bad_payload")

    report = early(line)

    assert [(g.camera, g.category, g.counts) for g in report.groups] == [
        ("cam1", "bolt", VerdictCounts(learning=1)),
        ("cam1", "fabric", VerdictCounts(ok=3, ng=1, review=1)),
        ("cam2", "fabric", VerdictCounts(error=1)),
    ]
    assert report.totals == VerdictCounts(ok=3, ng=1, review=1, learning=1, error=1)
    assert report.totals.yield_rate == pytest.approx(3 / 5)
    assert report.totals.ppm_defective == pytest.approx(200_000)


def test_window_takes_its_start_and_leaves_its_end(sqlite_line: Any) -> None:
    model = sqlite_line.model("v1")
    for at_min in (-1 / 60, 0.0, 479.99, 480.0):
        sqlite_line.frame("OK", at_min, model=model, score=0.1)

    report = early(sqlite_line)

    assert report.totals.ok == 2
    assert report.first_frame_utc == sqlite_line.at(0)
    assert report.last_frame_utc == sqlite_line.at(479.99)
    assert report.is_ledger_balanced


def test_rows_of_another_line_are_not_in_the_report(line: Any) -> None:
    model = line.model("v1")
    line.frame("OK", model=model, score=0.1)
    line.frame("NG", model=model, score=0.9, camera="cam9", line="l2")
    line.run(0, 10)

    report = early(line)

    assert report.totals == VerdictCounts(ok=1)
    assert report.pareto == ()
    assert len(report.gallery) == 0


def test_hours_are_local_and_include_empty_ones(sqlite_line: Any) -> None:
    model = sqlite_line.model("v1")
    sqlite_line.frame("OK", 30, model=model, score=0.1)
    sqlite_line.frame("NG", 60, model=model, score=0.9)
    sqlite_line.loss("gap", 130, seqs=(2, 6))
    sqlite_line.loss("queue_full", 135, seqs=(7, 7))

    hours = early(sqlite_line).hours

    assert [hour.label for hour in hours] == [f"{h:02}:00 CET" for h in range(6, 14)]
    assert [hour.counts.ok for hour in hours] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert [hour.counts.ng for hour in hours] == [0, 1, 0, 0, 0, 0, 0, 0]
    assert [hour.gap for hour in hours][:4] == [0, 0, 5, 0]
    assert [hour.lost for hour in hours][:4] == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("day", "labels"),
    [
        (date(2027, 3, 27), ["22:00 CET", "23:00 CET", "00:00 CET", "01:00 CET", "03:00 CEST"]),
        (date(2027, 10, 30), ["00:00 CEST", "01:00 CEST", "02:00 CEST", "02:00 CET", "03:00 CET"]),
    ],
)
def test_night_with_a_clock_change_shows_the_hours_that_were(
    sqlite_line: Any, day: date, labels: list[str]
) -> None:
    report = build_shift_report(sqlite_line.engine, sqlite_line.config, day, "night", now=LATER)

    shown = [hour.label for hour in report.hours]
    assert len(shown) == (7 if day.month == 3 else 9)
    start = shown.index(labels[0])
    assert shown[start : start + len(labels)] == labels


def test_window_that_starts_within_an_hour_names_its_own_start(sqlite_line: Any) -> None:
    report = build_window_report(
        sqlite_line.engine,
        sqlite_line.config,
        sqlite_line.at(10),
        sqlite_line.at(75),
        "demo",
        now=LATER,
    )

    assert [hour.label for hour in report.hours] == ["06:10 CET", "07:00 CET"]


def test_ledger_adds_up_when_every_number_has_a_record(line: Any) -> None:
    model = line.model("v1")
    line.frame("OK", model=model, score=0.1)  # 0
    line.frame("ERROR", model=model, error_reason="clock")  # 1
    line.loss("gap", seqs=(2, 4))
    line.loss("queue_full", seqs=(5, 5))
    line.frame("NG", model=model, score=0.9)  # 6
    line.loss("duplicate", seqs=(6, 6))
    line.loss("bad_message", camera=None, epoch=None)
    line.loss("unknown_camera", camera="cam77", seqs=(3, 3))

    report = early(line)

    cam1, cam2, unknown = report.ledger
    assert (cam1.camera, cam1.sent, cam1.gaps, cam1.received) == ("cam1", 7, 3, 5)
    assert (cam1.counts.inspected, cam1.lost_frames, cam1.unnumbered) == (2, 3, 1)
    assert {loss.reason: loss.frames for loss in cam1.lost} == {
        LossReason.CLOCK: 1,
        LossReason.QUEUE_FULL: 1,
        LossReason.DUPLICATE: 1,
    }
    assert (cam2.camera, cam2.received, cam2.sent) == ("cam2", 0, 0)
    assert (unknown.camera, unknown.received, unknown.lost_frames) == ("(unknown)", 2, 2)
    assert report.is_ledger_balanced
    assert {loss.reason: loss.frames for loss in report.not_inspected}[LossReason.GAP] == 3
    assert report.received == 7


def test_number_without_any_record_is_a_mismatch(line: Any) -> None:
    model = line.model("v1")
    for seq in (0, 1, 4):
        line.frame("OK", model=model, score=0.1, seq=seq)

    report = early(line)

    assert report.ledger[0].sent - report.ledger[0].accounted == 2
    assert report.mismatches == ("cam1: of 5 frames known sent, 2 have no row, loss or gap",)


def test_number_with_two_records_is_a_mismatch(sqlite_line: Any) -> None:
    model = sqlite_line.model("v1")
    sqlite_line.frame("OK", model=model, score=0.1)
    sqlite_line.frame("OK", model=model, score=0.1)
    sqlite_line.loss("queue_full", seqs=(1, 1))

    assert early(sqlite_line).mismatches == ("cam1: 1 of 2 frames known sent are counted twice",)


def test_shift_counts_only_the_numbers_behind_the_shift_before(line: Any) -> None:
    model = line.model("v1")
    line.frame("OK", -5, model=model, score=0.1)  # 0
    line.loss("gap", -4, seqs=(1, 9))
    line.frame("OK", 5, model=model, score=0.1)  # 10
    line.frame("OK", 6, model=model, score=0.1)  # 11

    row = early(line).ledger[0]

    assert (row.sent, row.accounted, row.edge_frames) == (2, 2, 0)
    assert row.mismatches == ()


def test_gap_stored_after_a_crash_and_a_restart_accounts_for_the_shift_before(line: Any) -> None:
    model = line.model("v1")
    for seq in (0, 1, 4):
        line.frame("OK", model=model, score=0.1, seq=seq)
    line.loss("gap", 600, seqs=(2, 3))  # counted at the restart, in the late shift

    row = early(line).ledger[0]

    assert (row.sent, row.accounted, row.edge_frames) == (5, 5, 2)
    assert row.mismatches == ()


def test_new_epoch_counts_from_zero_again(sqlite_line: Any) -> None:
    model = sqlite_line.model("v1")
    sqlite_line.frame("OK", 1, model=model, score=0.1, epoch=1)
    sqlite_line.frame("OK", 2, model=model, score=0.1, epoch=1)
    sqlite_line.frame("OK", 3, model=model, score=0.1, epoch=2)

    row = early(sqlite_line).ledger[0]

    assert (row.sent, row.accounted) == (3, 3)


def test_sender_joined_while_it_counts_is_a_note_and_not_a_mismatch(sqlite_line: Any) -> None:
    model = sqlite_line.model("v1")
    sqlite_line.frame("OK", model=model, score=0.1, seq=500)

    row = early(sqlite_line).ledger[0]

    assert (row.sent, row.accounted, row.joined_at) == (1, 1, 500)


def test_running_numbers_near_the_limit_do_not_overflow(line: Any) -> None:
    top = 2**63 - 1
    line.loss("gap", seqs=(0, top - 1))
    line.loss("gap", epoch=8, seqs=(0, top - 1))

    report = early(line)

    assert report.gaps == 2 * top
    assert report.is_ledger_balanced


def test_scores_are_summarised_by_thresholds_in_force(sqlite_line: Any) -> None:
    old, new = sqlite_line.model("v1"), sqlite_line.model("v2")
    for score in (0.1, 0.2, 0.3):
        sqlite_line.frame("OK", 1, model=old, score=score)
    sqlite_line.frame("LEARNING", 0.5, model=old, score=0.9)
    sqlite_line.frame("NG", 9, model=new, score=0.7, thresholds=(0.5, 0.6))

    learning, calibrated, swapped = early(sqlite_line).scores

    assert (learning.frames, learning.ng_threshold, learning.p50) == (1, None, 0.9)
    assert (calibrated.frames, calibrated.ng_threshold, calibrated.model_version) == (3, 0.6, "v1")
    assert calibrated.p50 == pytest.approx(0.2)
    assert calibrated.p95 == pytest.approx(0.29)
    assert sum(calibrated.histogram) == 3
    assert (swapped.model_version, swapped.ng_threshold) == ("v2", 0.6)
    assert swapped.from_utc == sqlite_line.at(9)


def test_latency_is_over_inspected_frames(sqlite_line: Any) -> None:
    model = sqlite_line.model("v1")
    for latency_ms in (10.0, 20.0, 30.0):
        sqlite_line.frame("OK", model=model, score=0.1, latency_ms=latency_ms)
    sqlite_line.frame("OK", model=model, score=0.1, latency_ms=40.0, camera="cam2")
    sqlite_line.frame("ERROR", model=model, latency_ms=9000.0, error_reason="clock")

    every, cam1, cam2 = early(sqlite_line).latency

    assert (every.camera, every.frames, every.p50_ms, every.max_ms) == (None, 4, 25.0, 40.0)
    assert every.p99_ms == pytest.approx(39.7)
    assert (cam1.camera, cam1.frames, cam1.p50_ms) == ("cam1", 3, 20.0)
    assert (cam2.camera, cam2.p99_ms) == ("cam2", 40.0)


def test_model_versions_are_listed_with_the_times_they_changed(sqlite_line: Any) -> None:
    old, new = sqlite_line.model("v1"), sqlite_line.model("v2")
    for at_min, model in ((1, old), (2, old), (3, new), (4, old)):
        sqlite_line.frame("OK", at_min, model=model, score=0.1)

    uses = early(sqlite_line).model_uses

    assert [(use.name, use.from_utc, use.frames) for use in uses] == [
        ("v1", sqlite_line.at(1), 2),
        ("v2", sqlite_line.at(3), 1),
        ("v1", sqlite_line.at(4), 1),
    ]


def test_categories_with_and_without_reference_banks_are_one_model(sqlite_line: Any) -> None:
    plain, with_bank = sqlite_line.model("v1"), sqlite_line.model("v1+refs-ab12")
    for at_min, model in ((1, with_bank), (2, plain), (3, with_bank)):
        sqlite_line.frame("OK", at_min, model=model, score=0.1)

    (use,) = early(sqlite_line).model_uses

    assert (use.name, use.frames) == ("v1", 3)


def test_calibrations_inside_the_window_are_listed(line: Any) -> None:
    model = line.model("v1")
    line.calibration(-1, model)
    line.calibration(10, model)
    line.calibration(480, model)

    (made,) = early(line).calibrations

    assert (made.created_utc, made.category, made.n_frames) == (line.at(10), "fabric", 100)


def test_runs_tell_a_crash_from_a_clean_stop(line: Any) -> None:
    line.run(-900, -800)  # before
    line.run(-700, None)  # crashed before the window began
    line.run(-600, 60)
    line.run(61, None)  # crashed
    line.run(90, None)  # crashed too, for
    line.run(900, None)  # this one came later

    before, crashed, also_crashed = early(line).daemon_runs

    assert (before.has_crashed, before.is_start_inside) == (False, False)
    assert (crashed.has_crashed, crashed.is_start_inside) == (True, True)
    assert (also_crashed.started_utc, also_crashed.has_crashed) == (line.at(90), True)


def test_run_without_stop_and_successor_is_not_called_a_crash(sqlite_line: Any) -> None:
    sqlite_line.run(5, None)

    (run,) = early(sqlite_line).daemon_runs

    assert not run.has_crashed


def test_pareto_takes_the_strongest_region_of_each_ng_frame(line: Any) -> None:
    model = line.model("v1")
    corner = (0, 0, 30, 30, 80, 0.9)  # 80 of 90 000 px
    centre = (140, 140, 20, 20, 400, 0.7)
    big = (200, 100, 100, 100, 9000, 0.9)
    line.frame("NG", model=model, score=0.9, regions=(corner, centre))
    line.frame("NG", model=model, score=0.9, regions=(centre, corner))
    line.frame("NG", model=model, score=0.9, regions=(centre,))
    line.frame("NG", model=model, score=0.9, regions=(big,), camera="cam2")
    line.frame("NG", model=model, score=0.9)
    line.frame("REVIEW", model=model, score=0.5, regions=(centre,))

    assert early(line).pareto == (
        ParetoRow("cam1", "fabric", "top left", "below 0.1 % of the frame", 2),
        ParetoRow("cam1", "fabric", "centre", "0.1 to 1 %", 1),
        ParetoRow("cam1", "fabric", NO_REGION, "", 1),
        ParetoRow("cam2", "fabric", "middle right", "10 % or more", 1),
    )


def test_pareto_of_a_huge_frame_does_not_overflow(line: Any) -> None:
    region = (0, 0, 20_000, 19_000, 380_000_000, 0.9)
    line.frame(
        "NG",
        model=line.model("v1"),
        score=0.9,
        regions=(region,),
        width_px=20_000,
        height_px=20_000,
    )

    assert early(line).pareto[0].size == "10 % or more"


def test_a_report_from_kept_hours_is_that_of_its_rows(line: Any) -> None:
    model, boxes = line.model("v1"), ((0, 0, 30, 30, 80, 0.9), (200, 100, 100, 100, 9000, 0.9))
    for index in range(60):
        verdict = ("OK", "NG", "REVIEW", "OK", "LEARNING")[index % 5]
        line.frame(
            verdict,
            at_min=5 * index,
            model=model,
            camera=f"cam{1 + index % 2}",
            category="bolt" if index % 3 else "fabric",
            score=(7 * index % 13) / 13,
            latency_ms=1.5**index % 90,
            regions=boxes[: index % 3] if verdict == "NG" else (),
            pictures=(b"p", b"o"),
        )
    line.loss("queue_full", 30, seqs=(30, 33))
    of_rows = early(line)

    for _ in keep_hours(line.engine, "l1", line.at(241)):
        pass

    assert early(line) == of_rows
    with line.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(FrameHourRow)) == 4
    assert len(of_rows.pareto) > 4


def test_gallery_shows_every_category_before_any_second_frame(line: Any) -> None:
    model = line.model("v1")
    for index in range(30):
        line.frame("NG", model=model, score=0.9 - index / 1000, pictures=(b"p", b"o"))
    line.frame("NG", model=model, score=0.65, category="bolt", lot="L1")
    line.frame("REVIEW", model=model, score=0.55)
    line.frame("OK", model=model, score=0.1)

    gallery = early(line).gallery

    assert len(gallery) == 17
    assert {item.category for item in gallery[:2]} == {"bolt", "fabric"}
    assert [item.verdict for item in gallery].count(Verdict.NG) == 16
    fabric = [item for item in gallery if item.category == "fabric"]
    assert (fabric[0].pred_score, fabric[0].overlay_jpeg) == (0.9, b"o")
    assert gallery[-1].verdict == Verdict.REVIEW
    assert gallery[-1].photo_jpeg is None


def test_first_pass_needs_every_frame_of_a_part_ok(line: Any) -> None:
    model = line.model("v1")
    line.frame("OK", model=model, score=0.1, part_id="a")
    line.frame("OK", model=model, score=0.1, part_id="a", camera="cam2")
    line.frame("OK", model=model, score=0.1, part_id="b")
    line.frame("NG", model=model, score=0.9, part_id="b", camera="cam2")
    line.frame("OK", model=model, score=0.1, part_id="c")
    line.frame("ERROR", model=model, part_id="c", error_reason="clock")
    line.frame("LEARNING", model=model, score=0.1, part_id="d")
    line.frame("OK", model=model, score=0.1)

    parts = early(line).parts

    assert parts is not None
    assert (parts.parts, parts.first_pass_ok, parts.judged_frames_without_id) == (3, 1, 1)
    assert parts.first_pass_yield == pytest.approx(1 / 3)


def test_report_without_part_numbers_has_no_first_pass_yield(sqlite_line: Any) -> None:
    sqlite_line.frame("OK", model=sqlite_line.model("v1"), score=0.1)

    assert early(sqlite_line).parts is None


def test_empty_shift_is_a_report_that_says_so(line: Any) -> None:
    report = early(line)

    assert report.is_empty
    assert report.is_ledger_balanced
    assert [row.camera for row in report.ledger] == ["cam1", "cam2"]
    assert len(report.hours) == 8


def test_unknown_shift_is_refused(sqlite_line: Any) -> None:
    with pytest.raises(ConfigError, match="'noon' is not configured"):
        build_shift_report(sqlite_line.engine, sqlite_line.config, DAY, "noon", now=LATER)


def test_more_frames_than_fit_are_refused(line: Any) -> None:
    model = line.model("v1")
    for _ in range(3):
        line.frame("OK", model=model, score=0.1)

    with (
        line.engine.connect() as connection,
        pytest.raises(StorageError, match=r"more than 2 frames .*choose a shorter time"),
    ):
        read_frames(connection, "l1", line.at(0), line.at(9), max_frames=2)


def test_window_must_begin_before_it_ends(sqlite_line: Any) -> None:
    with pytest.raises(ValueError, match="is not before end"):
        build_window_report(
            sqlite_line.engine,
            sqlite_line.config,
            sqlite_line.at(1),
            sqlite_line.at(1),
            "",
            now=LATER,
        )


def test_snapshot_does_not_see_what_is_written_meanwhile(line: Any) -> None:
    model = line.model("v1")
    line.frame("OK", model=model, score=0.1)

    with snapshot(line.engine) as connection:
        before = len(read_frames(connection, "l1", line.at(0), line.at(9)))
        line.frame("OK", model=model, score=0.1)
        meanwhile = len(read_frames(connection, "l1", line.at(0), line.at(9)))

    with snapshot(line.engine) as connection:
        afterwards = len(read_frames(connection, "l1", line.at(0), line.at(9)))
    assert (before, meanwhile, afterwards) == (1, 1, 2)


def test_short_window_is_plotted_in_finer_slices_that_lose_no_frame(sqlite_line: Any) -> None:
    model = sqlite_line.model("v1")
    for at_min in (10.5, 10.9, 11.0, 24.99):
        sqlite_line.frame("OK", at_min, model=model, score=0.1)

    report = build_window_report(
        sqlite_line.engine,
        sqlite_line.config,
        sqlite_line.at(10.5),
        sqlite_line.at(25),
        "demo",
        now=LATER,
    )

    assert [part.label for part in report.slices[:2]] == ["06:10 CET", "06:11 CET"]
    assert len(report.slices) <= 30
    assert [part.counts.ok for part in report.slices if part.counts.ok] == [2, 1, 1]
