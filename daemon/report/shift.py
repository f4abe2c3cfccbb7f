"""Builds a report from the database: one snapshot, a bounded number of statements."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime

from sqlalchemy import Connection, Engine

from daemon.config.line import Config
from daemon.report.contents import ReportWindow, ShiftReport, VerdictCounts
from daemon.report.defects import pareto_of, read_gallery, read_parts
from daemon.report.figures import (
    group_counts,
    hour_counts,
    latency_summaries,
    model_uses,
    score_points,
    score_summaries,
    slice_counts,
)
from daemon.report.frames import instant_of, read_frames
from daemon.report.history import read_calibrations, read_daemon_runs, read_models
from daemon.report.labelled import read_agreement
from daemon.report.ledger import ledger_rows
from daemon.report.losses import read_losses
from daemon.report.nights import read_model_changes, read_nights
from daemon.shift_calendar import shift_window


def build_shift_report(
    engine: Engine, config: Config, day: date, shift_name: str, *, now: datetime
) -> ShiftReport:
    """Report on a planned shift of the configured line.

    Args:
        day: Local date the shift starts on.
        now: Aware; the report says whether the shift was still running.

    Raises:
        ConfigError: no such shift.
        StorageError: more frames than a report can hold.
    """
    shift = shift_window(config.shifts, config.zone, day, shift_name)
    window = ReportWindow(
        title=f"Shift {shift_name}, {day.isoformat()}",
        start_utc=shift.start_utc,
        end_utc=shift.end_utc,
        zone=config.timezone,
        shift_name=shift_name,
        start_date=day,
    )
    return _build(engine, config, window, now)


def build_window_report(
    engine: Engine,
    config: Config,
    start_utc: datetime,
    end_utc: datetime,
    title: str,
    *,
    now: datetime,
) -> ShiftReport:
    """Report on any time [start, end) of the configured line.

    Raises:
        ValueError: start is not before end.
        StorageError: more frames than a report can hold.
    """
    if not start_utc < end_utc:
        raise ValueError(f"start {start_utc.isoformat()} is not before end {end_utc.isoformat()}")
    return _build(engine, config, ReportWindow(title, start_utc, end_utc, config.timezone), now)


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A reading transaction whose statements all see the same rows while the daemon writes on."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        yield connection


def _build(engine: Engine, config: Config, window: ReportWindow, now: datetime) -> ShiftReport:
    line, start_utc, end_utc = config.line, window.start_utc, window.end_utc
    with snapshot(engine) as connection:
        frames = read_frames(connection, line, start_utc, end_utc)
        cameras = {*config.cameras, *(key.camera for key in frames.keys)}
        losses = read_losses(connection, line, start_utc, end_utc, known_cameras=cameras)
        models = read_models(connection)
        groups = group_counts(frames)
        hours = hour_counts(frames, losses, start_utc, end_utc, config.zone)
        totals = sum((group.counts for group in groups), VerdictCounts())
        return ShiftReport(
            line=line,
            window=window,
            created_utc=now,
            first_frame_utc=instant_of(frames.received_us[0]) if len(frames) else None,
            last_frame_utc=instant_of(frames.received_us[-1]) if len(frames) else None,
            groups=groups,
            parts=read_parts(connection, line, start_utc, end_utc, totals.judged)
            if any(key.has_part_id for key in frames.keys)
            else None,
            hours=hours,
            slices=slice_counts(frames, losses, hours, start_utc, end_utc, config.zone),
            ledger=ledger_rows(connection, frames, losses, cameras, (start_utc, end_utc)),
            scores=score_summaries(frames, {key: model[0] for key, model in models.items()}),
            score_points=score_points(frames),
            latency=latency_summaries(frames),
            model_uses=model_uses(frames, models),
            calibrations=read_calibrations(connection, config.categories, start_utc, end_utc),
            daemon_runs=read_daemon_runs(connection, line, start_utc, end_utc),
            pareto=pareto_of(frames),
            gallery=read_gallery(connection, frames),
            model_changes=read_model_changes(connection, line, start_utc, end_utc),
            nights=read_nights(connection, line, start_utc, end_utc),
            agreement=read_agreement(connection, line, start_utc, end_utc, totals.by_verdict),
        )
