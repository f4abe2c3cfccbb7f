from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.core import Calibration, Event, EventKind, FrameLoss, Inspection, Severity
from daemon.errors import StorageError
from daemon.storage.batch import Batch, Run
from daemon.storage.spool import Spool, SpoolFullError
from daemon.storage.spool_record import decode, encode

MakeInspection = Callable[..., Inspection]
MakeLoss = Callable[..., FrameLoss]

RUN = Run("line1", datetime(2026, 1, 31, 5, 0, 0, 123456, tzinfo=UTC))


@contextmanager
def opened(folder: Path, max_bytes: int = 1 << 30) -> Iterator[Spool]:
    spool = Spool(folder, max_bytes)
    spool.open()
    try:
        yield spool
    finally:
        spool.close()


def drain(spool: Spool) -> list[Batch]:
    batches: list[Batch] = []
    while found := spool.oldest(1):
        batches += found
        spool.remove_first()
    return batches


@pytest.fixture
def batch(
    make_inspection: MakeInspection, make_loss: MakeLoss, calibration: Calibration
) -> Callable[[int], Batch]:
    def make(number: int) -> Batch:
        event = Event(EventKind.STARTED, Severity.INFO, RUN.started_utc, "up", camera="cam1")
        results = (make_inspection(number), make_loss(first=number), calibration, event)
        return Batch(RUN, number, results)

    return make


def test_a_batch_comes_back_as_it_was(batch: Callable[[int], Batch]) -> None:
    assert decode(encode(batch(7))) == batch(7)


def test_a_text_that_no_database_takes_can_be_spooled(make_loss: MakeLoss) -> None:
    loss = FrameLoss(make_loss().reason, RUN.started_utc, "bad \ud800 text")

    (spooled,) = decode(encode(Batch(RUN, 1, (loss,)))).results

    assert isinstance(spooled, FrameLoss)
    assert spooled.detail == "bad ? text"


@given(st.binary(max_size=200))
def test_bytes_that_are_no_batch_are_refused(content: bytes) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        decode(content)


def test_what_was_appended_comes_back_in_order_after_a_restart(
    tmp_path: Path, batch: Callable[[int], Batch]
) -> None:
    with opened(tmp_path) as spool:
        for number in (1, 2, 3):
            spool.append(batch(number))
        spool.remove_first()
        assert spool.oldest(1) == (batch(2),)
    with opened(tmp_path) as spool:
        spool.append(batch(4))
        again = drain(spool)

    # the file still holds batch 1: its number tells the database
    assert again == [batch(number) for number in (1, 2, 3, 4)]
    assert list(tmp_path.glob("*.spool")) == []


def test_cut_at_any_byte_of_the_last_record_all_earlier_ones_come_back_once(
    tmp_path: Path, make_loss: MakeLoss
) -> None:
    batches = [Batch(RUN, number, (make_loss(first=number),)) for number in (1, 2, 3)]
    with opened(tmp_path) as spool:
        spool.append(batches[0])
        spool.append(batches[1])
        whole = spool.size_bytes
        spool.append(batches[2])
    (path,) = tmp_path.glob("*.spool")
    content = path.read_bytes()

    for cut in range(whole, len(content)):
        path.write_bytes(content[:cut])
        with opened(tmp_path) as spool:
            if cut % 16 == 0:
                spool.append(batches[2])  # goes on behind a torn record
                assert drain(spool) == batches
            else:
                assert drain(spool) == batches[:2]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_byte_changed_on_disk_costs_at_most_what_follows_it_and_is_kept(
    tmp_path_factory: pytest.TempPathFactory, make_loss: MakeLoss, at: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    batches = [Batch(RUN, number, (make_loss(first=number),)) for number in (1, 2, 3)]
    ends = []
    with opened(folder) as spool:
        for item in batches:
            spool.append(item)
            ends.append(spool.size_bytes)
    (path,) = folder.glob("*.spool")
    content = bytearray(path.read_bytes())
    at %= len(content)
    content[at] = byte if content[at] != byte else byte ^ 1
    path.write_bytes(content)

    with opened(folder) as spool:
        found = drain(spool)

    assert found == batches[: sum(end <= at for end in ends)]
    assert not list(folder.glob("*.spool"))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(
    sizes=st.lists(st.integers(1, 5), max_size=12),
    restarts=st.sets(st.integers(0, 11)),
    wanted=st.integers(1, 12),
)
def test_batches_leave_together_in_order_of_one_run_and_no_more_than_needed(
    tmp_path_factory: pytest.TempPathFactory,
    make_loss: MakeLoss,
    sizes: list[int],
    restarts: set[int],
    wanted: int,
) -> None:
    batches, run = [], RUN
    for number, size in enumerate(sizes):
        if number in restarts:
            run = Run("line1", RUN.started_utc + timedelta(hours=number + 1))
        batches.append(Batch(run, number + 1, (make_loss(first=number),) * size))
    taken: list[Batch] = []
    with opened(tmp_path_factory.mktemp("spool")) as spool:
        for item in batches:
            spool.append(item)
        while together := spool.oldest(wanted):
            assert len({item.run for item in together}) == 1
            assert sum(len(item.results) for item in together[:-1]) < wanted
            taken += together
            for _ in together:
                spool.remove_first()

    assert taken == batches


def test_what_cannot_be_read_ends_a_group_and_is_said_when_it_is_the_oldest(
    tmp_path: Path, batch: Callable[[int], Batch]
) -> None:
    with opened(tmp_path) as spool:
        spool.append(batch(1))
        whole = spool.size_bytes
        spool.append(batch(2))
        (path,) = tmp_path.glob("*.spool")
        content = path.read_bytes()
        path.write_bytes(content[: whole + 20] + b"?" + content[whole + 21 :])

        assert spool.oldest(100) == (batch(1),)
        spool.remove_first()
        with pytest.raises(StorageError, match="was changed on disk"):
            spool.oldest(100)


def test_a_full_spool_takes_nothing_and_stays_whole(
    tmp_path: Path, batch: Callable[[int], Batch]
) -> None:
    room = len(encode(batch(1))) + 100
    with opened(tmp_path, room) as spool:
        spool.append(batch(1))

        with pytest.raises(SpoolFullError):
            spool.append(batch(2))

        assert drain(spool) == [batch(1)]
        spool.append(batch(3))
        assert drain(spool) == [batch(3)]


def test_a_rejected_batch_is_kept_apart(tmp_path: Path, batch: Callable[[int], Batch]) -> None:
    with opened(tmp_path) as spool:
        spool.append(batch(1))
        spool.append(batch(2))

        kept = spool.reject_first()

        assert drain(spool) == [batch(2)]
    assert kept.exists()
    with opened(tmp_path) as spool:
        assert drain(spool) == []


def test_two_daemons_cannot_share_a_spool(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(StorageError, match="another daemon uses the spool"):
        Spool(tmp_path, 1 << 20).open()
