"""PostgreSQL keeps pictures uncompressed, in partitions made before and after it was told so."""

import os
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Connection, Engine, select, text

from daemon.core import Inspection, Thumbnails, Verdict
from daemon.storage import partitions, repository, revision
from daemon.storage.database import write_transaction
from daemon.storage.tables import ThumbnailRow

EXTERNAL, EXTENDED = "e", "x"
BIG = os.urandom(20_000)


def storage_of_pictures(connection: Connection) -> dict[str, set[str]]:
    """Letters of `pg_attribute.attstorage`, by table."""
    found: dict[str, set[str]] = {}
    rows = connection.execute(
        text(
            "SELECT c.relname, a.attstorage FROM pg_attribute a JOIN pg_class c "
            "ON c.oid = a.attrelid WHERE c.relkind IN ('r', 'p') AND (c.relname = 'label' "
            "OR c.relname LIKE 'thumbnail%') AND a.attname ~ '_(jpeg|png)$'"
        )
    )
    for table, letter in rows:
        found.setdefault(table, set()).add(letter)
    return found


def test_every_partition_old_and_new_keeps_pictures_as_they_are(
    postgres_engine: Engine,
    register: Callable[[Engine], None],
    make_inspection: Callable[..., Inspection],
) -> None:
    register(postgres_engine)
    day = make_inspection().info.received_utc.date()
    revision.downgrade(postgres_engine, "0007")
    with write_transaction(postgres_engine) as connection:
        partitions.prepare_days(connection, day)
        before = storage_of_pictures(connection)

    revision.upgrade(postgres_engine)

    with write_transaction(postgres_engine) as connection:
        partitions.prepare_days(connection, day + timedelta(days=1))
        after = storage_of_pictures(connection)
    assert all(letters == {EXTENDED} for letters in before.values())
    assert all(letters == {EXTERNAL} for letters in after.values())
    assert len(after) == len(before) + 1


def test_pictures_stay_readable_both_ways(
    line_engine: Engine, make_inspection: Callable[..., Inspection]
) -> None:
    def store(seq: int) -> None:
        pictures = Thumbnails(bytes([seq]) + BIG, BIG, bytes(20_000))
        ok = make_inspection(seq, verdict=Verdict.OK, regions=(), thumbnails=pictures)
        with write_transaction(line_engine) as connection:
            repository.add_results(connection, "line1", [ok])

    store(0)
    store(1)
    revision.downgrade(line_engine, "0007")
    with write_transaction(line_engine) as connection:  # as it was written before
        again = text("UPDATE thumbnail SET map_png = :map WHERE inspection_id = 2")
        connection.execute(again, {"map": bytes(20_001)})
    revision.upgrade(line_engine)
    store(2)

    with line_engine.connect() as connection:
        rows = connection.execute(select(ThumbnailRow.__table__).order_by("inspection_id")).all()
    assert [bytes(row.photo_jpeg) for row in rows] == [bytes([seq]) + BIG for seq in range(3)]
    assert [len(bytes(row.map_png)) for row in rows] == [20_000, 20_001, 20_000]
