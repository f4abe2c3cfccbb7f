import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.ingest.outbox import DiskOutbox, KeptFrame, MemoryOutbox, Outbox
from daemon.ingest.wire import NOTHING


def frame(seq: int) -> KeptFrame:
    return KeptFrame(seq, b'{"seq":%d}' % seq, b"pixels" * seq)


def seqs(outbox: Outbox, after: int = NOTHING) -> list[int]:
    found = []
    while (kept := outbox.next_after(after)) is not None:
        found.append(kept.seq)
        after = kept.seq
    return found


def test_a_restart_finds_every_frame_as_it_was(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path)
    for seq in (0, 1, 5):
        outbox.add(frame(seq))
    outbox.close()

    again = DiskOutbox(tmp_path)

    assert (again.epoch, again.next_seq, len(again)) == (outbox.epoch, 6, 3)
    assert again.next_after(1) == frame(5)
    again.close()


def test_numbers_go_on_after_everything_was_acknowledged(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path)
    for seq in range(4):
        outbox.add(frame(seq))
    outbox.forget_through(3)
    assert len(outbox) == 0
    outbox.close()

    again = DiskOutbox(tmp_path)

    assert (again.epoch, again.next_seq, again.acknowledged) == (outbox.epoch, 4, 2)
    assert len([*tmp_path.glob("*.frame")]) == 1
    again.close()


def test_a_file_that_was_being_written_at_the_kill_is_no_frame(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path)
    outbox.add(frame(0))
    outbox.close()
    (tmp_path / f"{outbox.epoch}-{1:013d}.new").write_bytes(b"half")

    again = DiskOutbox(tmp_path)

    assert (again.next_seq, seqs(again)) == (1, [0])
    again.close()


@pytest.mark.parametrize("size", [0, 3, 20])
def test_a_damaged_file_is_set_aside_and_the_next_is_given(tmp_path: Path, size: int) -> None:
    outbox = DiskOutbox(tmp_path)
    for seq in range(3):
        outbox.add(frame(seq))
    os.truncate(tmp_path / f"{outbox.epoch}-{1:013d}.frame", size)

    assert seqs(outbox) == [0, 2]
    assert len([*tmp_path.glob("*.damaged")]) == 1
    assert len(outbox) == 2
    outbox.close()


def test_an_outbox_in_use_is_refused(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path)

    with pytest.raises(ValueError, match="used by another program"):
        DiskOutbox(tmp_path)
    outbox.close()


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.frame").write_bytes(b"")

    with pytest.raises(ValueError, match="not a file of an outbox"):
        DiskOutbox(tmp_path)


def test_frames_of_two_publishers_are_refused(tmp_path: Path) -> None:
    for epoch in (1, 2):
        (tmp_path / f"{epoch}-0000000000000.frame").write_bytes(b"")

    with pytest.raises(ValueError, match="frames of 2 publishers"):
        DiskOutbox(tmp_path)


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
    memory, disk = MemoryOutbox(), DiskOutbox(tmp_path_factory.mktemp("outbox"))

    for step, number in steps:
        for outbox in (memory, disk):
            if step == "add":
                outbox.add(frame(outbox.next_seq + number))
            else:
                outbox.forget_through(min(number, outbox.next_seq - 1))

        assert len(disk) == len(memory)
        assert disk.next_seq == memory.next_seq
        assert seqs(disk, disk.acknowledged) == seqs(memory, memory.acknowledged)
    disk.close()
