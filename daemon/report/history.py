"""What changed during a window: model versions, calibrations, starts and crashes of the daemon."""

from collections.abc import Iterable
from datetime import datetime
from itertools import zip_longest

from sqlalchemy import Connection, select

from daemon.report.contents import CalibrationMade, DaemonRun
from daemon.storage.tables import CalibrationRow, DaemonRunRow, ModelVersionRow


def read_models(connection: Connection) -> dict[int, tuple[str, str, str]]:
    """Name, method and backbone of every model version, by its id."""
    row = ModelVersionRow
    return {
        model_id: (name, method, backbone)
        for model_id, name, method, backbone in connection.execute(
            select(row.id, row.name, row.method, row.backbone)
        )
    }


def read_calibrations(
    connection: Connection, categories: Iterable[str], start_utc: datetime, end_utc: datetime
) -> tuple[CalibrationMade, ...]:
    """Calibrations of these categories stored in [start, end), oldest first."""
    row = CalibrationRow
    query = (
        select(
            row.created_utc,
            row.category,
            ModelVersionRow.name,
            row.review_threshold,
            row.ng_threshold,
            row.n_frames,
            row.is_supported,
            row.source,
        )
        .join(ModelVersionRow, ModelVersionRow.id == row.model_version_id)
        .where(
            row.category.in_(sorted(categories)),
            row.created_utc >= start_utc,
            row.created_utc < end_utc,
        )
        .order_by(row.created_utc, row.id)
    )
    return tuple(CalibrationMade(*found) for found in connection.execute(query))


def read_daemon_runs(
    connection: Connection, line: str, start_utc: datetime, end_utc: datetime
) -> tuple[DaemonRun, ...]:
    """Runs of the line's daemon that touch [start, end), oldest first."""
    row = DaemonRunRow
    runs = connection.execute(
        select(row.started_utc, row.stopped_utc).where(row.line == line).order_by(row.started_utc)
    ).all()
    found = []
    for run, next_run in zip_longest(runs, runs[1:]):
        started_utc, stopped_utc = run
        last_alive = stopped_utc or (next_run and next_run.started_utc)
        if started_utc < end_utc and (last_alive is None or last_alive >= start_utc):
            found.append(
                DaemonRun(
                    started_utc=started_utc,
                    stopped_utc=stopped_utc,
                    has_crashed=stopped_utc is None and next_run is not None,
                    is_start_inside=started_utc >= start_utc,
                )
            )
    return tuple(found)
