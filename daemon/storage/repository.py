"""What is written to and asked of the database by the daemon; readers of reports ask elsewhere.

Every function works in the caller's transaction. Nothing here decides or retries.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Function,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute

from daemon.core import (
    Calibration,
    Event,
    FrameId,
    FrameLoss,
    Inspection,
    KeptFrame,
    ShadowScore,
    Verdict,
    base_version,
)
from daemon.errors import StorageError
from daemon.storage import bulk, frame_columns, frame_files, live_counts, rows
from daemon.storage.tables import (
    CalibrationRow,
    DaemonRunRow,
    EventRow,
    FrameLossRow,
    InspectionRow,
    ModelVersionRow,
    RegionRow,
    ThumbnailRow,
)

_MODEL_IDS = select(ModelVersionRow.name, ModelVersionRow.id).where(
    ModelVersionRow.name.in_(bindparam("names", expanding=True))
)


@dataclass(frozen=True, slots=True)
class Stored:
    """What a call of `add_results` wrote.

    Attributes:
        duplicates: Frames that already had an inspection row; that row was left as it was.
    """

    inspections: int
    losses: int
    duplicates: tuple[FrameId, ...]


@dataclass(frozen=True, slots=True)
class LearningScores:
    """Raw scores of LEARNING frames, oldest first; the two have the same length."""

    pred_scores: tuple[float, ...]
    map_peaks: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MissingRange:
    """Numbers of one camera's epoch with neither an inspection nor a loss; both ends inclusive."""

    camera: str
    epoch: int
    first_seq: int
    last_seq: int


def start_run(connection: Connection, line: str, now: datetime) -> int:
    """Note a start of the daemon; the id is needed by `claim_batches` and `stop_run`."""
    statement = (
        insert(DaemonRunRow)
        .values(line=line, started_utc=now, last_batch=0)
        .returning(DaemonRunRow.id)
    )
    return connection.execute(statement).scalar_one()


def crashed_run(connection: Connection, line: str) -> datetime | None:
    """When the newest run of a line began, if it never came to a stop; ask before `start_run`."""
    run = DaemonRunRow
    newest = connection.execute(
        select(run.started_utc, run.stopped_utc)
        .where(run.line == line)
        .order_by(run.started_utc.desc())
        .limit(1)
    ).first()
    return None if newest is None or newest.stopped_utc is not None else newest.started_utc


def adopt_run(connection: Connection, line: str, started_utc: datetime) -> int:
    """The id of a former run; a database that never saw it (a backup) gets to know it now."""
    known = connection.scalar(
        select(DaemonRunRow.id).where(
            DaemonRunRow.line == line, DaemonRunRow.started_utc == started_utc
        )
    )
    return start_run(connection, line, started_utc) if known is None else known


def stop_run(connection: Connection, run_id: int, now: datetime) -> None:
    """Note a clean stop; a run without one crashed or still runs."""
    connection.execute(
        update(DaemonRunRow).where(DaemonRunRow.id == run_id).values(stopped_utc=now)
    )


def claim_batches(connection: Connection, run_id: int, last: int) -> int:
    """Note that batches up to number `last` of this run are written; which was the last before.

    Those up to the number returned were committed by an earlier attempt, although its answer
    may never have arrived, and must not be written again. The first batch is 1; 0 is none.

    Raises:
        StorageError: The run's row is gone.
    """
    run = DaemonRunRow
    before = connection.scalar(select(run.last_batch).where(run.id == run_id).with_for_update())
    if before is None:
        raise StorageError(f"daemon_run {run_id} was deleted while its daemon runs; start it again")
    if before < last:
        connection.execute(update(run).where(run.id == run_id).values(last_batch=last))
    return before


def ensure_model_version(
    connection: Connection,
    *,
    name: str,
    method: str,
    backbone: str,
    card_json: str,
    now: datetime,
) -> int:
    """The id of a model version, registered if it is new; a known one is left as it is."""
    row = {
        "name": name,
        "method": method,
        "backbone": backbone,
        "card_json": card_json,
        "first_used_utc": now,
    }
    connection.execute(_insert_or_skip(connection, ModelVersionRow).values(row))
    return _model_version_ids(connection, {name}, now)[name]


def add_calibration(connection: Connection, calibration: Calibration) -> int:
    """Put a calibration in force for its category and model version; older ones stay as history.

    Raises:
        StorageError: The model version was never registered.
    """
    version = calibration.model_version
    model_version_id = _model_version_ids(connection, {version}, calibration.created_utc)[version]
    statement = (
        insert(CalibrationRow)
        .values(rows.of_calibration(calibration, model_version_id))
        .returning(CalibrationRow.id)
    )
    return connection.execute(statement).scalar_one()


def current_calibrations(connection: Connection, model_version: str) -> list[Calibration]:
    """The newest calibration of each category and recipe under a model version."""
    newest = (
        select(func.max(CalibrationRow.id))
        .join(ModelVersionRow, ModelVersionRow.id == CalibrationRow.model_version_id)
        .where(ModelVersionRow.name == model_version)
        .group_by(CalibrationRow.category, CalibrationRow.recipe)
    )
    found = connection.execute(
        select(CalibrationRow.__table__)
        .where(CalibrationRow.id.in_(newest))
        .order_by(CalibrationRow.id)
    )
    return [rows.to_calibration(row, model_version) for row in found]


def calibrated_recipes(connection: Connection, model_version: str) -> set[tuple[str, str | None]]:
    """(category, recipe) that have thresholds under a model, with or without reference banks."""
    name = ModelVersionRow.name
    found = connection.execute(
        select(CalibrationRow.category, CalibrationRow.recipe)
        .join(ModelVersionRow, ModelVersionRow.id == CalibrationRow.model_version_id)
        .where(or_(name == model_version, name.startswith(f"{model_version}+", autoescape=True)))
        .distinct()
    )
    return {(category, recipe) for category, recipe in found}


def learning_scores(
    connection: Connection, category: str, model_version: str, since_utc: datetime | None = None
) -> LearningScores:
    """Scores of the frames seen while the category had no calibration, oldest first.

    Args:
        since_utc: Only frames received from then on; None takes all.
    """
    query = (
        select(InspectionRow.pred_score, InspectionRow.map_peak)
        .join(ModelVersionRow, ModelVersionRow.id == InspectionRow.model_version_id)
        .where(
            ModelVersionRow.name == model_version,
            InspectionRow.category == category,
            InspectionRow.verdict == Verdict.LEARNING,
            InspectionRow.pred_score.is_not(None),
            InspectionRow.map_peak.is_not(None),
        )
        .order_by(InspectionRow.id)
    )
    if since_utc is not None:
        query = query.where(InspectionRow.received_utc >= since_utc)
    found = connection.execute(query).all()
    return LearningScores(
        pred_scores=tuple(row.pred_score for row in found),
        map_peaks=tuple(row.map_peak for row in found),
    )


def add_results(
    connection: Connection,
    line: str,
    results: Sequence[Inspection | FrameLoss | Event | KeptFrame | ShadowScore],
) -> Stored:
    """Write inspections with their regions and pictures, losses, events, kept frames, and shadows.

    A frame that has a row already is skipped with its regions and pictures, and reported.

    Raises:
        StorageError: An inspection names a model version that was never registered.
    """
    inspections = [result for result in results if isinstance(result, Inspection)]
    losses = [result for result in results if isinstance(result, FrameLoss)]
    events = [result for result in results if isinstance(result, Event)]
    kept = [result for result in results if isinstance(result, KeptFrame)]
    duplicates = _add_inspections(connection, line, inspections) if inspections else ()
    if events:
        connection.execute(insert(EventRow), [rows.of_event(line, event) for event in events])
    if kept:
        frame_files.add_frames(connection, line, kept)
    if shadows := [result for result in results if isinstance(result, ShadowScore)]:
        live_counts.add_shadow_scores(connection, line, shadows)
    if losses:
        connection.execute(insert(FrameLossRow), [rows.of_loss(line, loss) for loss in losses])
    return Stored(
        inspections=len(inspections) - len(duplicates),
        losses=len(losses),
        duplicates=duplicates,
    )


def last_sequences(connection: Connection, since: datetime) -> dict[tuple[str, int], int]:
    """The highest number stored, by (camera, epoch), of epochs with an entry since then."""
    return _outermost_sequences(connection, since, func.max, FrameLossRow.last_seq, max)


def first_sequences(connection: Connection, since: datetime) -> dict[tuple[str, int], int]:
    """The lowest number stored since then, by (camera, epoch)."""
    return _outermost_sequences(connection, since, func.min, FrameLossRow.first_seq, min)


def missing_sequences(
    connection: Connection, since: datetime, depth: int = 4096
) -> list[MissingRange]:
    """Holes below the last stored number of each epoch with an entry since then.

    After a clean stop there are none. After a crash these are the frames that were received
    but not committed while later ones (a loss, another batch) were.

    Args:
        depth: How far below the last number to look; more than all queues can hold together.
    """
    missing: list[MissingRange] = []
    for (camera, epoch), last in sorted(last_sequences(connection, since).items()):
        begin = max(0, last - depth + 1)
        entries = _accounted(connection, camera, epoch, begin)
        expected = max(begin, entries[0][0])  # an epoch's first number may be unknown to us
        for first, end in entries:
            if first > expected:
                missing.append(MissingRange(camera, epoch, expected, first - 1))
            expected = max(expected, end + 1)
    return missing


def _outermost_sequences(
    connection: Connection,
    since: datetime,
    aggregate: Callable[[InstrumentedAttribute[Any]], Function[int]],
    lost_seq: InstrumentedAttribute[int | None],
    choose: Callable[[int, int], int],
) -> dict[tuple[str, int], int]:
    inspected = (
        select(InspectionRow.camera, InspectionRow.epoch, aggregate(InspectionRow.seq))
        .where(InspectionRow.received_utc >= since)
        .group_by(InspectionRow.camera, InspectionRow.epoch)
    )
    lost = (
        select(FrameLossRow.camera, FrameLossRow.epoch, aggregate(lost_seq))
        .where(
            FrameLossRow.lost_utc >= since,
            FrameLossRow.camera.is_not(None),
            FrameLossRow.epoch.is_not(None),
            lost_seq.is_not(None),
        )
        .group_by(FrameLossRow.camera, FrameLossRow.epoch)
    )
    found: dict[tuple[str, int], int] = {}
    for camera, epoch, seq in [*connection.execute(inspected), *connection.execute(lost)]:
        found[camera, epoch] = choose(seq, found.get((camera, epoch), seq))
    return found


def _add_inspections(
    connection: Connection, line: str, inspections: Sequence[Inspection]
) -> tuple[FrameId, ...]:
    """Insert with children; returns the frames that were there already or came twice."""
    model_ids = _model_version_ids(
        connection,
        {item.model_version for item in inspections},
        min(item.decided_utc for item in inspections),
    )
    values = [rows.of_inspection(line, item, model_ids[item.model_version]) for item in inspections]
    regions: list[rows.Values] = []
    thumbnails: list[rows.Values] = []
    duplicates: list[FrameId] = []
    ids = bulk.insert_inspections(connection, values)
    for inspection_id, item in zip(ids, inspections, strict=True):
        if inspection_id is None:
            duplicates.append(item.info.frame_id)
            continue
        regions += [rows.of_region(inspection_id, region) for region in item.regions]
        if item.thumbnails is not None:
            thumbnails.append(rows.of_thumbnails(inspection_id, item, item.thumbnails))
    frame_columns.forget(connection, {item.info.received_utc for item in inspections})
    if regions:
        bulk.insert_rows(connection, RegionRow, regions)
    if thumbnails:
        bulk.insert_rows(connection, ThumbnailRow, thumbnails)
    return tuple(duplicates)


def _accounted(
    connection: Connection, camera: str, epoch: int, begin: int
) -> list[tuple[int, int]]:
    """Inclusive ranges that reach `begin` or beyond, in order of their first number."""
    inspected = select(InspectionRow.seq, InspectionRow.seq).where(
        InspectionRow.camera == camera, InspectionRow.epoch == epoch, InspectionRow.seq >= begin
    )
    lost = select(FrameLossRow.first_seq, FrameLossRow.last_seq).where(
        FrameLossRow.camera == camera,
        FrameLossRow.epoch == epoch,
        FrameLossRow.last_seq >= begin,
        FrameLossRow.first_seq.is_not(None),
    )
    found = [*connection.execute(inspected), *connection.execute(lost)]
    return sorted((first, last) for first, last in found)


def _model_version_ids(
    connection: Connection, names: set[str], first_used_utc: datetime
) -> dict[str, int]:
    ids = {row.name: row.id for row in connection.execute(_MODEL_IDS, {"names": list(names)})}
    for name in sorted(names - ids.keys()):
        if _register_variant(connection, name, first_used_utc):
            return _model_version_ids(connection, names, first_used_utc)
    if missing := names - ids.keys():
        raise StorageError(
            f"model versions {sorted(missing)} are not registered in this database; "
            "results and calibrations belong to a version that has run here"
        )
    return ids


def _register_variant(connection: Connection, name: str, first_used_utc: datetime) -> bool:
    """Register a known version with a reference bank (`base_version`); False if none is known."""
    row = ModelVersionRow
    base = connection.execute(
        select(row.method, row.backbone, row.card_json).where(
            row.name == base_version(name), row.name != name
        )
    ).one_or_none()
    if base is None:
        return False
    values = {"name": name, **base._mapping, "first_used_utc": first_used_utc}
    connection.execute(_insert_or_skip(connection, row).values(values))
    return True


def _insert_or_skip(
    connection: Connection, table: type[ModelVersionRow]
) -> postgresql.Insert | sqlite.Insert:
    """INSERT that leaves out rows whose unique key is taken."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()
