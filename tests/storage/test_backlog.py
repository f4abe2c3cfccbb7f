from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.core import FrameLoss
from daemon.storage.backlog import Backlog
from daemon.storage.batch import Batch, Run
from daemon.storage.disk_space import DiskSpace
from daemon.storage.spool import Spool

MakeLoss = Callable[..., FrameLoss]


@pytest.fixture
def backlog(tmp_path: Path) -> Iterator[Backlog]:
    """Crowded with four results in the queue."""
    spool = Spool(tmp_path / "spool", 1 << 30)
    spool.open()
    run = Run("line1", datetime(2026, 1, 31, tzinfo=UTC))
    yield Backlog(run, spool, DiskSpace(spool.folder, 0), max_results=8)
    spool.close()


@pytest.fixture
def put(backlog: Backlog, make_loss: MakeLoss) -> Callable[..., None]:
    def put_all(*seqs: int) -> None:
        for seq in seqs:
            assert backlog.put(make_loss(first=seq))

    return put_all


def take(backlog: Backlog) -> tuple[Batch, ...]:
    return backlog.next_batches(wait=False, on_wait=lambda: None)


def seqs_of(batches: tuple[Batch, ...]) -> list[list[int | None]]:
    return [
        [item.first_seq for item in batch.results if isinstance(item, FrameLoss)]
        for batch in batches
    ]


def test_small_spooled_batches_leave_together(backlog: Backlog, put: Callable[..., None]) -> None:
    put(0)
    assert seqs_of(take(backlog)) == [[0]]
    put(1, 2, 3, 4)
    assert len(backlog.spill()) == 5  # crowded: with the one that is being stored
    put(5)
    assert len(backlog.spill()) == 1  # behind others in the spool
    backlog.done()

    assert seqs_of(take(backlog)) == [[1, 2, 3, 4], [5]]


def test_behind_the_last_of_the_spool_results_wait_in_memory(
    backlog: Backlog, put: Callable[..., None]
) -> None:
    put(0)
    take(backlog)
    put(1, 2, 3, 4)
    backlog.spill()
    backlog.done()

    assert seqs_of(take(backlog)) == [[1, 2, 3, 4]]
    put(5, 6)
    assert backlog.spill() == ()
    backlog.done()

    assert backlog.spooled_batches == 0
    assert seqs_of(take(backlog)) == [[5, 6]]


def test_a_crowd_behind_the_last_of_the_spool_goes_there_too(
    backlog: Backlog, put: Callable[..., None]
) -> None:
    put(0)
    take(backlog)
    put(1, 2, 3, 4)
    backlog.spill()
    backlog.done()
    take(backlog)

    put(5, 6, 7, 8)

    assert len(backlog.spill()) == 4
    backlog.done()
    assert seqs_of(take(backlog)) == [[5, 6, 7, 8]]


def test_what_waits_goes_to_the_spool_at_once_when_the_database_refuses(
    backlog: Backlog, put: Callable[..., None]
) -> None:
    put(0)
    take(backlog)
    put(1)
    assert len(backlog.spill()) == 0  # neither slow nor crowded

    backlog.failed()

    assert backlog.crowded.is_set()
    assert len(backlog.spill()) == 2
