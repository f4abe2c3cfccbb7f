"""What goes around SQLAlchemy to be fast fails as everything else does."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from daemon.core import FrameId, Inspection
from daemon.storage import bulk, repository, rows
from daemon.storage.database import is_temporary, write_transaction
from daemon.storage.tables import InspectionRow, RegionRow, ThumbnailRow


def picture(inspection: Inspection, inspection_id: int = 1) -> rows.Values:
    assert inspection.thumbnails is not None
    return rows.of_thumbnails(inspection_id, inspection, inspection.thumbnails)


def test_pictures_of_no_inspection_are_refused_for_good(
    line_engine: Engine, make_inspection: Callable[..., Inspection]
) -> None:
    with (
        pytest.raises(IntegrityError) as refused,
        write_transaction(line_engine) as connection,
    ):
        bulk.insert_rows(connection, ThumbnailRow, [picture(make_inspection(), inspection_id=99)])

    assert not is_temporary(refused.value)


def test_a_server_that_goes_away_while_pictures_are_copied_is_a_reason_to_try_again(
    postgres_engine: Engine, make_inspection: Callable[..., Inspection]
) -> None:
    def copy_to_a_server_that_hangs_up() -> None:
        with write_transaction(postgres_engine) as connection, postgres_engine.connect() as other:
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
            bulk.insert_rows(connection, ThumbnailRow, [picture(make_inspection())])

    with pytest.raises(DBAPIError) as lost:
        copy_to_a_server_that_hangs_up()

    assert is_temporary(lost.value)
    with postgres_engine.connect() as connection:  # the pool has noticed
        assert connection.scalar(select(func.count()).select_from(ThumbnailRow)) == 0


def test_a_time_without_a_zone_is_not_copied(
    postgres_engine: Engine, make_inspection: Callable[..., Inspection]
) -> None:
    naive = picture(make_inspection())
    naive["received_utc"] = naive["received_utc"].replace(tzinfo=None)

    with (
        pytest.raises(ValueError, match="naive datetime"),
        write_transaction(postgres_engine) as connection,
    ):
        bulk.insert_rows(connection, ThumbnailRow, [naive])


def test_a_frame_that_another_process_is_storing_is_stored_once(
    postgres_engine: Engine,
    register: Callable[[Engine], None],
    make_inspection: Callable[..., Inspection],
) -> None:
    register(postgres_engine)

    def store(seqs: list[int]) -> repository.Stored:
        with write_transaction(postgres_engine) as connection:
            return repository.add_results(connection, "line1", [*map(make_inspection, seqs)])

    with ThreadPoolExecutor(1) as pool:
        with write_transaction(postgres_engine) as first:
            repository.add_results(first, "line1", [make_inspection(1)])
            second = pool.submit(store, [0, 1, 2, 2])
            wait_until_one_waits(postgres_engine)
        stored = second.result(timeout=10)

    twice = FrameId("cam1", 7, 1), FrameId("cam1", 7, 2)
    assert stored == repository.Stored(inspections=2, losses=0, duplicates=twice)
    with postgres_engine.connect() as connection:
        with_children = select(InspectionRow.seq).join(RegionRow).join(ThumbnailRow)
        assert sorted(connection.scalars(with_children)) == [0, 1, 2]


def wait_until_one_waits(engine: Engine) -> None:
    """For a lock that another transaction holds."""
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    for _ in range(500):
        with engine.connect() as connection:
            if connection.scalar(waiting):
                return
        time.sleep(0.01)
    pytest.fail("nobody waits")
