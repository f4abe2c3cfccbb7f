"""What goes around SQLAlchemy to be fast fails as everything else does."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from daemon.core import Inspection
from daemon.storage import bulk, rows
from daemon.storage.database import is_temporary, write_transaction
from daemon.storage.tables import ThumbnailRow


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
        bulk.insert_pictures(connection, [picture(make_inspection(), inspection_id=99)])

    assert not is_temporary(refused.value)


def test_a_server_that_goes_away_while_pictures_are_copied_is_a_reason_to_try_again(
    postgres_engine: Engine, make_inspection: Callable[..., Inspection]
) -> None:
    def copy_to_a_server_that_hangs_up() -> None:
        with write_transaction(postgres_engine) as connection, postgres_engine.connect() as other:
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
            bulk.insert_pictures(connection, [picture(make_inspection())])

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
        bulk.insert_pictures(connection, [naive])
