"""What one night learns from: labelled frames, frozen with their hashes and sides of the split.

Files are looked at before the transaction, so that no result has to wait for them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine

from daemon.core import LabelVerdict
from daemon.errors import StorageError
from daemon.storage import frame_files, frame_folder, snapshots
from daemon.storage.database import write_transaction
from daemon.storage.frame_files import KeptFile
from daemon.storage.snapshots import LabelledFrame, StoredItem
from daemon.training.split import Group, Member, assign, group_key, shortages


@dataclass(frozen=True, slots=True)
class SnapshotItem:
    """One labelled frame.

    Attributes:
        group_key: The part, lot or hour that it stays on one side of the split with.
        frame: The file as the camera sent it; complete, and what it was when it was kept.
        verdict: OK or NG.
        mask_png: As in `daemon.core.Label`.
    """

    inspection_id: int
    category: str
    group_key: str
    is_held_out: bool
    frame: Path
    verdict: LabelVerdict
    defect: str | None
    mask_png: bytes | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Labelled frames of one line as they were at one instant; never changed.

    Attributes:
        sha256: Of all contents; two snapshots with the same have the same items.
        items: In order of their inspections.
        problems: For people: what was left out (only of a snapshot that was just taken), and
            what this split cannot show.
    """

    id: int
    line: str
    made_utc: datetime
    sha256: str
    items: tuple[SnapshotItem, ...]
    problems: tuple[str, ...]


def take_snapshot(engine: Engine, line: str, now: datetime, frames_dir: Path) -> Snapshot:
    """Freeze the labels OK and NG in force; the same contents give the same snapshot again.

    Labels UNCERTAIN, frames that were not kept, and files that are gone or changed are left out;
    all but the first are told.

    Raises:
        DBAPIError: Nothing was written.
    """
    with engine.connect() as connection:
        labelled = snapshots.labelled_frames(connection, line)
    usable, left_out = _usable(labelled, frames_dir)
    with write_transaction(engine) as connection:
        frozen = snapshots.split_sides(connection, line)
        sides = assign(_groups(usable), frozen)
        new = {group: side for group, side in sides.items() if group not in frozen}
        snapshots.add_sides(connection, line, new, now)
        items = [_stored(frame, file, sides) for frame, file in usable]
        sha256 = _contents(items)
        snapshot_id = snapshots.snapshot_with(connection, line, sha256)
        if snapshot_id is None:
            snapshot_id = snapshots.add_snapshot(connection, line, now, sha256, items)
        row = snapshots.snapshot_row(connection, snapshot_id)
    assert row is not None, "it was just written"  # noqa: S101
    return _snapshot(snapshot_id, row, items, frames_dir, left_out)


def open_snapshot(engine: Engine, snapshot_id: int, frames_dir: Path) -> Snapshot:
    """A snapshot as it was taken.

    Raises:
        StorageError: There is none with this number, or a row or a file is not what it was.
    """
    with engine.connect() as connection:
        row = snapshots.snapshot_row(connection, snapshot_id)
        items = snapshots.stored_items(connection, snapshot_id)
    if row is None:
        raise StorageError(f"there is no snapshot {snapshot_id}: take a new one")
    if _contents(items) != row[2]:
        raise StorageError(f"snapshot {snapshot_id}: its rows were changed: take a new one")
    for item in items:
        problem = frame_folder.problem_of(frames_dir, item.frame_path, item.frame_sha256)
        if problem is not None:
            raise StorageError(f"snapshot {snapshot_id}: {problem}: take a new one")
    return _snapshot(snapshot_id, row, items, frames_dir, ())


def good_images(engine: Engine, line: str, category: str, frames_dir: Path) -> list[Path]:
    """Images of OK parts to calibrate a model with: nothing that it has learnt from.

    Those of the last `zsad calibrate`, and LEARNING frames that made thresholds. Labelled frames
    are not among them: a threshold that a held-out frame has made says nothing of that frame.
    Files that are gone or changed are left out.
    """
    with engine.connect() as connection:
        kept = [
            *frame_files.calibration_images(connection, line, category),
            *frame_files.threshold_frames(connection, line, category),
        ]
    by_content = {file.sha256: file.path for file in kept}
    return [
        frame_folder.locate(frames_dir, path)
        for sha256, path in by_content.items()
        if frame_folder.problem_of(frames_dir, path, sha256) is None
    ]


def _usable(
    labelled: Sequence[LabelledFrame], frames_dir: Path
) -> tuple[list[tuple[LabelledFrame, KeptFile]], tuple[str, ...]]:
    """Frames whose file is as it was kept, and a sentence for each reason to leave others out."""
    usable = []
    not_kept: Counter[str] = Counter()
    problems = []
    for frame in labelled:
        if frame.file is None:
            not_kept[frame.category] += 1
        elif problem := frame_folder.problem_of(frames_dir, frame.file.path, frame.file.sha256):
            problems.append(f"inspection {frame.inspection_id} is left out: {problem}")
        else:
            usable.append((frame, frame.file))
    sentences = [
        f"category {category!r}: {count} labelled frames are left out, for only their thumbnails "
        "were kept (frames.keep, frames.keep_one_ok_of)"
        for category, count in sorted(not_kept.items())
    ]
    return usable, (*sentences, *problems)


def _groups(usable: Iterable[tuple[LabelledFrame, KeptFile]]) -> list[Group]:
    has_ng: dict[tuple[str, str], bool] = {}
    for frame, _ in usable:
        group = frame.category, _key(frame)
        has_ng[group] = has_ng.get(group, False) or frame.verdict is LabelVerdict.NG
    return [Group(category, key, ng) for (category, key), ng in has_ng.items()]


def _key(frame: LabelledFrame) -> str:
    return group_key(
        camera=frame.camera, part_id=frame.part_id, lot=frame.lot, received_utc=frame.received_utc
    )


def _stored(frame: LabelledFrame, file: KeptFile, sides: dict[tuple[str, str], bool]) -> StoredItem:
    key = _key(frame)
    return StoredItem(
        inspection_id=frame.inspection_id,
        label_id=frame.label_id,
        category=frame.category,
        group_key=key,
        is_held_out=sides[frame.category, key],
        frame_path=file.path,
        frame_sha256=file.sha256,
        verdict=frame.verdict,
        defect=frame.defect,
        mask_png=frame.mask_png,
    )


def _contents(items: Iterable[StoredItem]) -> str:
    """SHA-256 of what is learnt and measured; which row says so, who and when is left out."""
    hashed = hashlib.sha256()
    for item in items:
        values = (
            item.inspection_id,
            item.category,
            item.group_key,
            item.is_held_out,
            item.frame_sha256,
            item.verdict.value,
            item.defect,
            item.mask_sha256,
        )
        hashed.update(json.dumps(values).encode() + b"\n")
    return hashed.hexdigest()


def _snapshot(
    snapshot_id: int,
    row: tuple[str, datetime, str],
    items: Iterable[StoredItem],
    frames_dir: Path,
    left_out: tuple[str, ...],
) -> Snapshot:
    line, made_utc, sha256 = row
    found = tuple(
        SnapshotItem(
            inspection_id=item.inspection_id,
            category=item.category,
            group_key=item.group_key,
            is_held_out=item.is_held_out,
            frame=frame_folder.locate(frames_dir, item.frame_path),
            verdict=item.verdict,
            defect=item.defect,
            mask_png=item.mask_png,
        )
        for item in items
    )
    members = [
        Member(item.category, item.group_key, item.is_held_out, item.verdict is LabelVerdict.NG)
        for item in found
    ]
    return Snapshot(
        id=snapshot_id,
        line=line,
        made_utc=made_utc,
        sha256=sha256,
        items=found,
        problems=(*left_out, *shortages(members)),
    )
