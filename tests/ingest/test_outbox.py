import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.ingest.outbox import DiskOutbox, KeptFrame, MemoryOutbox, Outbox, OutboxFolder
from daemon.ingest.wire import NOTHING


def frame(seq: int) -> KeptFrame:
    return KeptFrame(seq, b'{"camera":"cam1","seq":%d}' % seq, b"pixels" * seq)


def seqs(outbox: Outbox, after: int = NOTHING) -> list[int]:
    found = []
    while (kept := outbox.next_after(after)) is not None:
        found.append(kept.seq)
        after = kept.seq
    return found


def start(folder: Path, *frames: int) -> int:
    """A program that is killed after so many frames; its epoch."""
    outbox = OutboxFolder(folder, "cam1")
    for seq in frames:
        outbox.own.add(frame(seq))
    outbox.close()  # the kernel would
    return outbox.own.epoch


def test_a_restart_finds_every_frame_as_it_was_and_numbers_its_own_anew(tmp_path: Path) -> None:
    first, second = start(tmp_path, 0, 1, 5), start(tmp_path, 0)

    again = OutboxFolder(tmp_path, "cam1")

    assert [outbox.epoch for outbox in again.earlier] == [first, second]
    old = again.earlier[0]
    assert (old.next_seq, len(old), old.acknowledged) == (6, 3, NOTHING)
    assert old.next_after(1) == frame(5)
    assert (again.own.next_seq, len(again.own)) == (0, 0)
    assert again.own.epoch not in (first, second)
    again.close()


def test_nothing_is_left_once_everything_was_acknowledged(tmp_path: Path) -> None:
    start(tmp_path, *range(4))
    again = OutboxFolder(tmp_path, "cam1")

    again.earlier[0].forget_through(2)
    assert seqs(again.earlier[0]) == [3]
    again.earlier[0].forget_through(3)

    assert len(again.earlier[0]) == 0
    assert [*tmp_path.glob("*.frame")] == []
    again.close()
    empty = OutboxFolder(tmp_path, "cam1")
    assert empty.earlier == []
    empty.close()


def test_a_file_that_was_being_written_at_the_kill_is_no_frame(tmp_path: Path) -> None:
    epoch = start(tmp_path, 0)
    (tmp_path / f"{epoch}-{1:013d}.new").write_bytes(b"half")

    again = OutboxFolder(tmp_path, "cam1")

    assert (again.earlier[0].next_seq, seqs(again.earlier[0])) == (1, [0])
    again.close()


@pytest.mark.parametrize("size", [0, 3, 20])
def test_a_damaged_file_is_set_aside_and_the_next_is_given(tmp_path: Path, size: int) -> None:
    outbox = DiskOutbox(tmp_path, 7)
    for seq in range(3):
        outbox.add(frame(seq))
    os.truncate(tmp_path / f"{outbox.epoch}-{1:013d}.frame", size)

    assert seqs(outbox) == [0, 2]
    assert len([*tmp_path.glob("*.damaged")]) == 1
    assert len(outbox) == 2


def test_an_outbox_in_use_is_refused(tmp_path: Path) -> None:
    outbox = OutboxFolder(tmp_path, "cam1")

    with pytest.raises(ValueError, match="used by another program"):
        OutboxFolder(tmp_path, "cam1")
    outbox.close()


def test_another_cameras_frames_are_refused(tmp_path: Path) -> None:
    start(tmp_path, 0)

    with pytest.raises(ValueError, match=r"frames of camera 'cam1'; was it copied\? Give 'cam2'"):
        OutboxFolder(tmp_path, "cam2")
    OutboxFolder(tmp_path, "cam1").close()


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.frame").write_bytes(b"")

    with pytest.raises(ValueError, match="not a file of an outbox"):
        OutboxFolder(tmp_path, "cam1")


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 3)),
            st.tuples(st.just("forget"), st.integers(-1, 30)),
        ),
        max_size=30,
    )
)
def test_disk_and_memory_keep_the_same_frames(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    memory, disk = MemoryOutbox(), DiskOutbox(tmp_path_factory.mktemp("outbox"), 7)

    for step, number in steps:
        for outbox in (memory, disk):
            if step == "add":
                outbox.add(frame(outbox.next_seq + number))
            else:
                outbox.forget_through(min(number, outbox.next_seq - 1))

        assert len(disk) == len(memory)
        assert disk.next_seq == memory.next_seq
        assert seqs(disk, disk.acknowledged) == seqs(memory, memory.acknowledged)
