"""Rows of snapshots and of the split; in the caller's transaction. Decides nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, func, insert, select

from daemon.core import LabelVerdict
from daemon.storage.frame_files import KeptFile
from daemon.storage.frame_folder import digest
from daemon.storage.night_tables import (
    FrameFileRow,
    SnapshotItemRow,
    SnapshotRow,
    SplitGroupRow,
)
from daemon.storage.tables import InspectionRow, LabelRow

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """A frame that is labelled OK or NG.

    Attributes:
        file: None where the whole frame was not kept.
    """

    inspection_id: int
    label_id: int
    category: str
    camera: str
    received_utc: datetime
    part_id: str | None
    lot: str | None
    verdict: LabelVerdict
    defect: str | None
    mask_png: bytes | None
    file: KeptFile | None


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One frame of a snapshot, as its rows describe it."""

    inspection_id: int
    label_id: int
    category: str
    group_key: str
    is_held_out: bool
    frame_path: str
    frame_sha256: str
    verdict: LabelVerdict
    defect: str | None
    mask_png: bytes | None

    @property
    def mask_sha256(self) -> str | None:
        """None without a mask."""
        return None if self.mask_png is None else digest(self.mask_png)


def labelled_frames(connection: Connection, line: str) -> list[LabelledFrame]:
    """Frames whose label in force is OK or NG, in order of their inspections."""
    label, row, file = LabelRow, InspectionRow, FrameFileRow
    newest = select(func.max(label.id)).group_by(label.inspection_id)
    same = and_(file.camera == row.camera, file.epoch == row.epoch, file.seq == row.seq)
    query = (
        select(
            row.id,
            label.id.label("label_id"),
            row.category,
            row.camera,
            row.received_utc,
            row.part_id,
            row.lot,
            label.verdict,
            label.defect,
            label.mask_png,
            file.path,
            file.n_bytes,
            file.sha256,
        )
        .join(label, label.inspection_id == row.id)
        .outerjoin(file, same)
        .where(
            row.line == line,
            label.id.in_(newest),
            label.verdict.in_((LabelVerdict.OK.value, LabelVerdict.NG.value)),
        )
        .order_by(row.id)
    )
    return [
        LabelledFrame(
            inspection_id=found.id,
            label_id=found.label_id,
            category=found.category,
            camera=found.camera,
            received_utc=found.received_utc,
            part_id=found.part_id,
            lot=found.lot,
            verdict=LabelVerdict(found.verdict),
            defect=found.defect,
            mask_png=found.mask_png,
            file=None if found.path is None else KeptFile(found.path, found.n_bytes, found.sha256),
        )
        for found in connection.execute(query)
    ]


def split_sides(connection: Connection, line: str) -> dict[tuple[str, str], bool]:
    """Whether each known group is held out, by (category, key)."""
    row = SplitGroupRow
    found = connection.execute(
        select(row.category, row.group_key, row.is_held_out).where(row.line == line)
    )
    return {(group.category, group.group_key): group.is_held_out for group in found}


def add_sides(
    connection: Connection, line: str, sides: Mapping[tuple[str, str], bool], now: datetime
) -> None:
    """Give new groups their side, for ever."""
    values = [
        {
            "line": line,
            "category": category,
            "group_key": key,
            "is_held_out": is_held_out,
            "since_utc": now,
        }
        for (category, key), is_held_out in sides.items()
    ]
    if values:
        connection.execute(insert(SplitGroupRow), values)


def snapshot_with(connection: Connection, line: str, sha256: str) -> int | None:
    """The newest snapshot with these contents."""
    row = SnapshotRow
    found: int | None = connection.scalar(
        select(func.max(row.id)).where(row.line == line, row.sha256 == sha256)
    )
    return found


def snapshot_row(connection: Connection, snapshot_id: int) -> tuple[str, datetime, str] | None:
    """(line, made_utc, sha256) of a snapshot."""
    row = SnapshotRow
    found = connection.execute(
        select(row.line, row.made_utc, row.sha256).where(row.id == snapshot_id)
    ).one_or_none()
    return None if found is None else (found.line, found.made_utc, found.sha256)


def add_snapshot(
    connection: Connection, line: str, now: datetime, sha256: str, items: Iterable[StoredItem]
) -> int:
    """Write a snapshot with its items; its id."""
    snapshot_id = connection.execute(
        insert(SnapshotRow).values(line=line, made_utc=now, sha256=sha256).returning(SnapshotRow.id)
    ).scalar_one()
    values = [
        {
            "snapshot_id": snapshot_id,
            "inspection_id": item.inspection_id,
            "label_id": item.label_id,
            "category": item.category,
            "group_key": item.group_key,
            "is_held_out": item.is_held_out,
            "frame_path": item.frame_path,
            "frame_sha256": item.frame_sha256,
            "mask_sha256": item.mask_sha256,
        }
        for item in items
    ]
    for begin in range(0, len(values), _CHUNK):
        connection.execute(insert(SnapshotItemRow), values[begin : begin + _CHUNK])
    return snapshot_id


def stored_items(connection: Connection, snapshot_id: int) -> Sequence[StoredItem]:
    """A snapshot's frames with the labels that were in force, in order of their inspections."""
    row, label = SnapshotItemRow, LabelRow
    query = (
        select(row.__table__, label.verdict, label.defect, label.mask_png)
        .join(label, label.id == row.label_id)
        .where(row.snapshot_id == snapshot_id)
        .order_by(row.inspection_id)
    )
    return [
        StoredItem(
            inspection_id=found.inspection_id,
            label_id=found.label_id,
            category=found.category,
            group_key=found.group_key,
            is_held_out=found.is_held_out,
            frame_path=found.frame_path,
            frame_sha256=found.frame_sha256,
            verdict=LabelVerdict(found.verdict),
            defect=found.defect,
            mask_png=found.mask_png,
        )
        for found in connection.execute(query)
    ]
