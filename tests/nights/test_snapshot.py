"""Snapshots: frozen, complete, the same again; what cannot be in one is said."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from night_frames import BOTH, LINE, inspection, jpeg
from sqlalchemy import Engine, func, select, text

from daemon.core import LabelVerdict, Verdict
from daemon.errors import StorageError
from daemon.labels.mask import encode_mask
from daemon.storage import frame_files, frame_folder, snapshots
from daemon.storage.database import write_transaction
from daemon.storage.frame_files import KeptFile
from daemon.storage.night_tables import SnapshotRow, SplitGroupRow
from daemon.training.snapshot import good_images, open_snapshot, take_snapshot

Store = Callable[..., None]
Say = Callable[..., None]
MASK = encode_mask(np.eye(24, dtype=np.bool_))


@pytest.fixture
def labelled(store: Store, say: Say) -> None:
    """Sixteen OK and sixteen NG frames of as many parts, and one UNCERTAIN."""
    store(*(inspection(seq) for seq in range(33)))
    for number in range(1, 17):
        say(number, "OK")
        say(16 + number, "NG", MASK)
    say(33, "UNCERTAIN")


@pytest.mark.usefixtures("labelled")
def test_a_snapshot_opens_as_it_was_taken(
    line_engine: Engine, frames_dir: Path, now: datetime
) -> None:
    taken = take_snapshot(line_engine, LINE, now, frames_dir)

    opened = open_snapshot(line_engine, taken.id, frames_dir)

    assert opened == taken
    assert taken.problems == ()
    assert [item.inspection_id for item in taken.items] == list(range(1, 33))
    assert [item.frame.read_bytes() for item in taken.items[:3]] == [jpeg(seq) for seq in range(3)]
    assert {item.mask_png for item in taken.items if item.verdict is LabelVerdict.NG} == {MASK}
    held_out = [item for item in taken.items if item.is_held_out]
    assert sum(item.verdict is LabelVerdict.NG for item in held_out) == 5
    assert len(held_out) == 10


@BOTH
@pytest.mark.usefixtures("labelled")
def test_the_same_labels_are_the_same_snapshot_and_a_new_label_another(
    line_engine: Engine, frames_dir: Path, now: datetime, say: Say
) -> None:
    first = take_snapshot(line_engine, LINE, now, frames_dir)
    say(1, "OK")

    again = take_snapshot(line_engine, LINE, now + timedelta(days=1), frames_dir)
    say(1, "NG")
    third = take_snapshot(line_engine, LINE, now + timedelta(days=2), frames_dir)

    assert again == first
    assert third.id != first.id
    assert [item.is_held_out for item in third.items] == [item.is_held_out for item in first.items]
    assert open_snapshot(line_engine, first.id, frames_dir) == first
    with line_engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(SnapshotRow)) == 2
        assert connection.scalar(select(func.count()).select_from(SplitGroupRow)) == 32


@pytest.mark.usefixtures("labelled")
def test_a_lost_or_changed_file_costs_its_frame_and_is_said(
    line_engine: Engine, frames_dir: Path, now: datetime
) -> None:
    before = take_snapshot(line_engine, LINE, now, frames_dir)
    before.items[0].frame.unlink()
    before.items[1].frame.write_bytes(jpeg(99))

    after = take_snapshot(line_engine, LINE, now, frames_dir)

    assert after.items == before.items[2:]
    assert len(after.problems) == 2
    assert "inspection 1 is left out" in after.problems[0]
    assert "somebody or the disk has changed it" in after.problems[1]
    with pytest.raises(StorageError, match="No such file"):
        open_snapshot(line_engine, before.id, frames_dir)


@pytest.mark.usefixtures("labelled")
def test_changed_rows_and_unknown_numbers_are_refused(
    line_engine: Engine, frames_dir: Path, now: datetime
) -> None:
    taken = take_snapshot(line_engine, LINE, now, frames_dir)
    with write_transaction(line_engine) as connection:
        connection.execute(text("UPDATE snapshot_item SET is_held_out = NOT is_held_out"))

    with pytest.raises(StorageError, match="its rows were changed"):
        open_snapshot(line_engine, taken.id, frames_dir)
    with pytest.raises(StorageError, match="there is no snapshot 99"):
        open_snapshot(line_engine, 99, frames_dir)


def test_frames_of_one_lot_and_thumbnails_only_are_said(
    line_engine: Engine, frames_dir: Path, now: datetime, store: Store, say: Say
) -> None:
    store(*(inspection(seq, part_id=None, lot="A17") for seq in range(4)))
    store(*(inspection(seq) for seq in (8, 9)), keep=False)
    for number in range(1, 7):
        say(number, "NG" if number % 2 else "OK")

    taken = take_snapshot(line_engine, LINE, now, frames_dir)

    assert [item.group_key for item in taken.items] == ["lot:A17"] * 4
    assert not any(item.is_held_out for item in taken.items)
    assert taken.problems[0].startswith("category 'fabric': 2 labelled frames are left out")
    assert "all 4 labelled frames belong together (lot:A17)" in taken.problems[1]


def test_nothing_labelled_is_an_empty_snapshot(
    line_engine: Engine, frames_dir: Path, now: datetime
) -> None:
    taken = take_snapshot(line_engine, LINE, now, frames_dir)

    assert (taken.items, taken.problems) == ((), ())
    assert open_snapshot(line_engine, taken.id, frames_dir) == taken


@pytest.mark.usefixtures("labelled")
def test_a_crash_in_the_middle_leaves_neither_sides_nor_items(
    line_engine: Engine, frames_dir: Path, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "add_snapshot", killed)
        with pytest.raises(KeyboardInterrupt):
            take_snapshot(line_engine, LINE, now, frames_dir)

    with line_engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(SplitGroupRow)) == 0
    assert len(take_snapshot(line_engine, LINE, now, frames_dir).items) == 32


def test_another_line_sees_nothing_of_it(
    line_engine: Engine, frames_dir: Path, now: datetime, store: Store, say: Say
) -> None:
    store(inspection(0))
    say(1, "OK")

    assert take_snapshot(line_engine, "line2", now, frames_dir).items == ()


@BOTH
def test_good_images_are_good_and_neither_learnt_from_nor_measured_on(
    line_engine: Engine, frames_dir: Path, now: datetime, store: Store, say: Say
) -> None:
    learning = {"verdict": Verdict.LEARNING}
    store(*(inspection(seq, **learning) for seq in range(6)))  # 1 to 6
    store(inspection(6, **learning, pred_score=None))  # commissioning: nobody judged it
    store(*(inspection(seq) for seq in range(7, 16)))  # 8 to 16
    store(inspection(16, category="tile", **learning))
    say(1, "NG")
    for number in range(8, 17):
        say(number, "OK")
    taken = take_snapshot(line_engine, LINE, now, frames_dir)

    good = good_images(line_engine, LINE, "fabric", frames_dir)

    assert any(item.is_held_out for item in taken.items)
    assert [path.stem for path in good] == [f"cam1-7-{seq}" for seq in range(1, 6)]


def test_images_that_a_person_chose_replace_what_was_learnt_before(
    line_engine: Engine, frames_dir: Path, now: datetime, store: Store
) -> None:
    store(inspection(0, verdict=Verdict.LEARNING))
    later = now + timedelta(minutes=5)

    def choose(*seeds: int, at: datetime) -> None:
        images = []
        for seed in seeds:
            content = jpeg(seed)
            sha256 = frame_folder.digest(content)
            path = frame_folder.calibration_path(LINE, "fabric", sha256, "jpg")
            frame_folder.write_durably(frames_dir, path, content)
            images.append(KeptFile(str(path), len(content), sha256))
        with write_transaction(line_engine) as connection:
            frame_files.add_calibration_images(connection, LINE, "fabric", images, at)

    choose(100, 101, at=now + timedelta(minutes=1))
    choose(101, 102, at=later)
    store(inspection(1, verdict=Verdict.LEARNING, received_utc=later + timedelta(minutes=1)))

    good = good_images(line_engine, LINE, "fabric", frames_dir)

    assert sorted(path.read_bytes() for path in good) == sorted([jpeg(101), jpeg(102), jpeg(1)])
