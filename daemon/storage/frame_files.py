"""Rows of whole frames and of calibration images; in the caller's transaction.

Refuses to know files (`frame_folder`) and how long they stay (`frame_retention`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, exists, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from daemon.core import FrameId, KeptFrame, Verdict
from daemon.storage.night_tables import CalibrationImageRow, FrameFileRow
from daemon.storage.tables import InspectionRow, LabelRow

THRESHOLD_FRAMES = 500
"""Of a category's LEARNING frames so many, the newest, are held to have made its thresholds."""


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file in the folder of frames, as its row describes it.

    Attributes:
        path: Relative to the folder.
    """

    path: str
    n_bytes: int
    sha256: str


def add_frames(connection: Connection, line: str, frames: Sequence[KeptFrame]) -> None:
    """Write rows of files that are complete; a frame that has one keeps it.

    A frame that a camera brings again after a crash may have two files; the one without a row is
    swept.
    """
    values = [
        {
            "line": line,
            "camera": frame.frame_id.camera,
            "epoch": frame.frame_id.epoch,
            "seq": frame.frame_id.seq,
            "category": frame.category,
            "verdict": frame.verdict.value,
            "received_utc": frame.received_utc,
            "path": frame.path,
            "n_bytes": frame.n_bytes,
            "sha256": frame.sha256,
        }
        for frame in frames
    ]
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(FrameFileRow).on_conflict_do_nothing(), values)


def frame_of(connection: Connection, frame_id: FrameId) -> KeptFile | None:
    """The file of a frame; None where it was not kept."""
    row = FrameFileRow
    found = connection.execute(
        select(row.path, row.n_bytes, row.sha256).where(
            row.camera == frame_id.camera, row.epoch == frame_id.epoch, row.seq == frame_id.seq
        )
    ).one_or_none()
    return None if found is None else KeptFile(found.path, found.n_bytes, found.sha256)


def add_calibration_images(
    connection: Connection, line: str, category: str, images: Sequence[KeptFile], now: datetime
) -> None:
    """Note the images of one `zsad calibrate`; one of an earlier call belongs to this one now."""
    row = CalibrationImageRow
    for image in images:
        of_image = row.line == line, row.category == category, row.sha256 == image.sha256
        done = connection.execute(update(row).where(*of_image).values(kept_utc=now))
        if done.rowcount == 0:
            values = {"path": image.path, "n_bytes": image.n_bytes, "sha256": image.sha256}
            connection.execute(
                insert(row).values(line=line, category=category, kept_utc=now, **values)
            )


def calibration_images(connection: Connection, line: str, category: str) -> list[KeptFile]:
    """Those of the last `zsad calibrate` with images, in a fixed order."""
    row = CalibrationImageRow
    newest = _last_calibrated(connection, line, category)
    found = connection.execute(
        select(row.path, row.n_bytes, row.sha256)
        .where(row.line == line, row.category == category, row.kept_utc == newest)
        .order_by(row.sha256)
    )
    return [KeptFile(image.path, image.n_bytes, image.sha256) for image in found]


def threshold_frames(connection: Connection, line: str, category: str) -> list[KeptFile]:
    """LEARNING frames that made thresholds, oldest first.

    Without those from before a person chose other images with `zsad calibrate`, and without
    those that somebody labelled: an OK label may have put them among what is learnt from, any
    other says that they are not good.
    """
    file, row = FrameFileRow, InspectionRow
    query = (
        select(file.path, file.n_bytes, file.sha256)
        .join(row, _same_frame())
        .where(
            file.line == line,
            file.category == category,
            file.verdict == Verdict.LEARNING,
            row.pred_score.is_not(None),
            ~exists().where(LabelRow.inspection_id == row.id),
        )
        .order_by(file.received_utc.desc(), file.id.desc())
        .limit(THRESHOLD_FRAMES)
    )
    chosen_utc = _last_calibrated(connection, line, category)
    if chosen_utc is not None:
        query = query.where(file.received_utc > chosen_utc)
    return [
        KeptFile(found.path, found.n_bytes, found.sha256)
        for found in reversed(connection.execute(query).all())
    ]


def is_protected() -> ColumnElement[bool]:
    """Whether nothing may remove the file of a `FrameFileRow`: its frame is labelled."""
    return exists().where(_same_frame(), LabelRow.inspection_id == InspectionRow.id)


def _same_frame() -> ColumnElement[bool]:
    file, row = FrameFileRow, InspectionRow
    return and_(row.camera == file.camera, row.epoch == file.epoch, row.seq == file.seq)


def _last_calibrated(connection: Connection, line: str, category: str) -> datetime | None:
    row = CalibrationImageRow
    found: datetime | None = connection.scalar(
        select(func.max(row.kept_utc)).where(row.line == line, row.category == category)
    )
    return found
