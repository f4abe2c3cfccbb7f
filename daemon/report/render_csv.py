"""A report as CSV for spreadsheets: one row a camera, category and hour, then totals.

`scope` tells rows apart, so that a pivot table does not count a frame twice: `hour` (one camera,
category and local hour), `hour_lost` (frames without a row in that hour, any camera), `group`
(camera and category over the whole window), `camera_lost` (a camera's frames without a row),
`model` and `night` (something that happened), `all`.
Columns are never renamed or reordered; new ones are added behind the last.
"""

import csv
import io
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

from daemon.core import LabelVerdict
from daemon.report.contents import Agreement, ShiftReport, VerdictCounts

HEADER = (
    "scope",
    "line",
    "shift_date",
    "shift",
    "zone",
    "hour_local",
    "hour_utc",
    "camera",
    "category",
    "inspected",
    "ok",
    "ng",
    "review",
    "learning",
    "error",
    "lost_without_row",
    "gaps",
    "yield",
    "ppm_defective",
    "label_ok",
    "label_ng",
    "label_uncertain",
    "escape_rate",
    "escape_low",
    "escape_high",
    "false_reject_rate",
    "false_reject_low",
    "false_reject_high",
    "at_utc",
    "what",
    "detail",
)


def render_csv(report: ShiftReport) -> str:
    """RFC 4180 with a header; hours are local ISO 8601 with offset, and UTC."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(HEADER)
    for row in _rows(report):
        writer.writerow([_inert(cell) for cell in row])
    return out.getvalue()


def _rows(report: ShiftReport) -> Iterator[tuple[object, ...]]:
    for hour in report.hours:
        for group in hour.groups:
            yield _row(
                report, "hour", hour.start_utc, group.camera, group.category, counts=group.counts
            )
        if hour.lost or hour.gap:
            yield _row(report, "hour_lost", hour.start_utc, lost=hour.lost, gaps=hour.gap)
    for group in report.groups:
        yield _row(report, "group", None, group.camera, group.category, counts=group.counts)
    for camera in report.ledger:
        lost = camera.received - camera.counts.rows
        yield _row(report, "camera_lost", None, camera.camera, lost=lost, gaps=camera.gaps)
    for change in report.model_changes:
        more = (change.at_utc, change.kind, f"{change.version}: {change.reason}")
        yield _row(report, "model", None, more=more)
    for night in report.nights:
        yield _row(report, "night", None, more=(night.due_utc, night.state, night.detail))
    lost = report.received - report.totals.rows
    yield _row(
        report,
        "all",
        None,
        counts=report.totals,
        lost=lost,
        gaps=report.gaps,
        labels=_label_figures(report.agreement),
    )


def _row(
    report: ShiftReport,
    scope: str,
    hour: datetime | None,
    camera: str = "",
    category: str = "",
    *,
    counts: VerdictCounts | None = None,
    lost: int | str = "",
    gaps: int | str = "",
    labels: tuple[object, ...] = ("",) * 9,
    more: tuple[datetime, str, str] | None = None,
) -> tuple[object, ...]:
    window = report.window
    start_date = window.start_date.isoformat() if window.start_date else ""
    return (
        scope,
        report.line,
        start_date,
        window.shift_name or window.title,
        window.zone,
        hour.astimezone(ZoneInfo(window.zone)).isoformat() if hour else "",
        hour.isoformat() if hour else "",
        camera,
        category,
        *_figures(counts)[:6],
        lost,
        gaps,
        *_figures(counts)[6:],
        *labels,
        *(("", "", "") if more is None else (more[0].isoformat(), *more[1:])),
    )


def _figures(counts: VerdictCounts | None) -> tuple[object, ...]:
    """Inspected, five verdicts, yield, ppm; empty without counts."""
    if counts is None:
        return ("",) * 8
    return (
        counts.inspected,
        counts.ok,
        counts.ng,
        counts.review,
        counts.learning,
        counts.error,
        "" if counts.yield_rate is None else f"{counts.yield_rate:.6f}",
        "" if counts.ppm_defective is None else f"{counts.ppm_defective:.1f}",
    )


def _label_figures(agreement: Agreement | None) -> tuple[object, ...]:
    """Labelled frames by label, and two rates with their intervals; empty without labels."""
    if agreement is None:
        return ("",) * 9
    of_label = {
        label: sum(found.frames for found in agreement.counts if found.label is label)
        for label in LabelVerdict
    }
    rates = (
        value
        for error in (agreement.escapes, agreement.false_rejects)
        for value in (error.rate, error.low, error.high)
    )
    return (*of_label.values(), *("" if rate is None else f"{rate:.6f}" for rate in rates))


def _inert(cell: object) -> object:
    """Text that a spreadsheet would run as a formula, made plain."""
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{cell}"
    return cell
