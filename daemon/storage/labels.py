"""Labels written and read, and file names matched to inspections; in the caller's transaction.

Refuses to know file formats (`daemon.labels`) and what a mask shows.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from daemon.core import FrameId, Label, LabelVerdict
from daemon.errors import StorageError
from daemon.storage.night_tables import AuditDrawRow
from daemon.storage.rows import MAX_NAME, storable
from daemon.storage.tables import InspectionRow, LabelRow

MAX_NOTE = 2000
_MAX_NUMBER = 2**63 - 1
_CHUNK = 500
_FRAME_NAME = re.compile(r"(?P<camera>.+)-(?P<epoch>\d{1,19})-(?P<seq>\d{1,19})", re.ASCII)
_ID_NAME = re.compile(r"(?:inspection-)?(?P<id>\d{1,19})(?:-photo)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Labelled:
    """An inspection with its label in force.

    Attributes:
        verdict: The machine's.
        width_px, height_px: Of the frame; None where it could not be decoded.
    """

    label: Label
    frame_id: FrameId
    category: str
    verdict: str
    pred_score: float | None
    width_px: int | None
    height_px: int | None
    part_id: str | None


def add_labels(connection: Connection, line: str, labels: Sequence[Label]) -> None:
    """Put labels in force; earlier ones of the same inspections stay as history.

    Raises:
        StorageError: An inspection is not of this line or gone, an OK label names a defect, or
            author or note are too long.
    """
    for begin in range(0, len(labels), _CHUNK):
        part = labels[begin : begin + _CHUNK]
        ids = {label.inspection_id for label in part}
        known = connection.scalars(
            select(InspectionRow.id).where(InspectionRow.line == line, InspectionRow.id.in_(ids))
        )
        if missing := sorted(ids - set(known)):
            raise StorageError(
                f"line {line!r} has no inspection {missing[0]}: `zsad query inspections` lists "
                "the newest"
            )
        connection.execute(insert(LabelRow), [_values(label) for label in part])


def note_draws(connection: Connection, inspection_ids: Sequence[int], now: datetime) -> None:
    """Remember which frames were drawn at random: only their labels tell error rates."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    if values := [{"inspection_id": one, "drawn_utc": now} for one in inspection_ids]:
        connection.execute(dialect.insert(AuditDrawRow).on_conflict_do_nothing(), values)


def labels_in_force(
    connection: Connection, line: str, *, limit: int | None = None
) -> Iterator[Labelled]:
    """The newest label of each labelled inspection of a line, newest first."""
    newest = select(func.max(LabelRow.id)).group_by(LabelRow.inspection_id)
    query = _labelled(line).where(LabelRow.id.in_(newest)).limit(limit)
    return _read(connection, query)


def label_history(connection: Connection, line: str, inspection_id: int) -> list[Labelled]:
    """Every label of an inspection, newest first."""
    return list(_read(connection, _labelled(line).where(InspectionRow.id == inspection_id)))


def frame_size(
    connection: Connection, line: str, inspection_id: int
) -> tuple[int | None, int | None] | None:
    """(width, height) in pixels of an inspection's frame; None if there is no such inspection."""
    row = InspectionRow
    found = connection.execute(
        select(row.width_px, row.height_px).where(row.line == line, row.id == inspection_id)
    ).one_or_none()
    return None if found is None else (found.width_px, found.height_px)


def frame_name(frame_id: FrameId) -> str:
    """The name of a frame's files, without a suffix; `match_names` finds the frame again."""
    return f"{frame_id.camera}-{frame_id.epoch}-{frame_id.seq}"


def match_names(
    connection: Connection, line: str, names: Iterable[str]
) -> dict[str, tuple[int, ...]]:
    """Inspections that file names (without suffix) stand for; several where it is ambiguous.

    A name is `camera-epoch-seq`; or else a part_id, or the number of an inspection as in 12,
    12-photo and inspection-12.
    """
    found: dict[str, tuple[int, ...]] = {}
    others = []
    for name in names:
        by_frame = _by_frame_name(connection, line, name)
        if by_frame is None:
            others.append(name)
        else:
            found[name] = (by_frame,)
    for begin in range(0, len(others), _CHUNK):
        found |= _by_part_or_number(connection, line, others[begin : begin + _CHUNK])
    return found


def _by_frame_name(connection: Connection, line: str, name: str) -> int | None:
    match = _FRAME_NAME.fullmatch(name)
    if match is None or max(int(match["epoch"]), int(match["seq"])) > _MAX_NUMBER:
        return None
    row = InspectionRow
    found: int | None = connection.scalar(
        select(row.id).where(
            row.line == line,
            row.camera == storable(match["camera"]),
            row.epoch == int(match["epoch"]),
            row.seq == int(match["seq"]),
        )
    )
    return found


def _by_part_or_number(
    connection: Connection, line: str, names: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    row = InspectionRow
    found: dict[str, set[int]] = {name: set() for name in names}
    numbers = {
        name: int(match["id"])
        for name in names
        if (match := _ID_NAME.fullmatch(name)) and int(match["id"]) <= _MAX_NUMBER
    }
    known = set(
        connection.scalars(select(row.id).where(row.line == line, row.id.in_(numbers.values())))
    )
    for name, number in numbers.items():
        found[name] |= {number} & known
    parts = {storable(name): name for name in names}
    for part_id, inspection_id in connection.execute(
        select(row.part_id, row.id).where(row.line == line, row.part_id.in_(parts))
    ):
        found[parts[part_id]].add(inspection_id)
    return {name: tuple(sorted(ids)) for name, ids in found.items()}


def _values(label: Label) -> dict[str, object]:
    if label.verdict is LabelVerdict.OK and (label.defect or label.mask_png):
        raise StorageError(
            f"inspection {label.inspection_id}: an OK label has no defect and no mask; leave them "
            "out, or say NG or UNCERTAIN"
        )
    for what, text, limit in (("author", label.author, MAX_NAME), ("note", label.note, MAX_NOTE)):
        if len(text or "") > limit:
            raise StorageError(f"the {what} has {len(text or '')} characters, limit {limit}")
    return {
        "inspection_id": label.inspection_id,
        "verdict": label.verdict.value,
        "author": storable(label.author, MAX_NAME),
        "at_utc": label.at_utc,
        "source": storable(label.source, MAX_NAME),
        "defect": storable(label.defect, MAX_NAME),
        "mask_png": label.mask_png,
        "note": storable(label.note, MAX_NOTE),
    }


def _labelled(line: str) -> Select[Any]:
    row = InspectionRow
    return (
        select(
            LabelRow.__table__,
            row.camera,
            row.epoch,
            row.seq,
            row.category,
            row.verdict.label("machine_verdict"),
            row.pred_score,
            row.width_px,
            row.height_px,
            row.part_id,
        )
        .join(row, row.id == LabelRow.inspection_id)
        .where(row.line == line)
        .order_by(LabelRow.id.desc())
    )


def _read(connection: Connection, query: Select[Any]) -> Iterator[Labelled]:
    for found in connection.execute(query.execution_options(yield_per=_CHUNK)):
        yield Labelled(
            label=Label(
                inspection_id=found.inspection_id,
                verdict=LabelVerdict(found.verdict),
                author=found.author,
                at_utc=found.at_utc,
                source=found.source,
                defect=found.defect,
                mask_png=found.mask_png,
                note=found.note,
            ),
            frame_id=FrameId(found.camera, found.epoch, found.seq),
            category=found.category,
            verdict=found.machine_verdict,
            pred_score=found.pred_score,
            width_px=found.width_px,
            height_px=found.height_px,
            part_id=found.part_id,
        )
