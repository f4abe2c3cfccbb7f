from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, select, text

import daemon.storage.night_tables  # noqa: F401 - its tables belong to Base.metadata
from daemon.config.storage import StorageConfig
from daemon.core import FrameLoss, Inspection, Verdict
from daemon.errors import StorageError
from daemon.storage import repository, revision
from daemon.storage.database import open_database, write_transaction
from daemon.storage.tables import Base, ThumbnailRow


def is_declared(name: str | None, kind: str, _parents: object) -> bool:
    """Partitions are parts of a declared table."""
    return kind != "table" or not str(name).startswith("thumbnail_")


def test_the_migrations_build_exactly_the_declared_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_name": is_declared}
        )

        differences = compare_metadata(context, Base.metadata)

    assert differences == []


def test_a_database_with_rows_goes_down_to_base_and_up_again(
    line_engine: Engine,
    make_inspection: Callable[..., Inspection],
    make_loss: Callable[..., FrameLoss],
    register: Callable[[Engine], None],
) -> None:
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", [make_inspection(0), make_loss(first=1)])

    revision.downgrade(line_engine, "base")
    left = set(inspect(line_engine).get_table_names()) | set(inspect(line_engine).get_view_names())
    revision.upgrade(line_engine)

    assert left == {"alembic_version"}
    register(line_engine)
    with write_transaction(line_engine) as connection:
        stored = repository.add_results(connection, "line1", [make_inspection(0)])
    assert stored.inspections == 1


def test_pictures_survive_the_way_down_and_up_again(
    line_engine: Engine, make_inspection: Callable[..., Inspection]
) -> None:
    ok = make_inspection(1, verdict=Verdict.OK, regions=())
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", [make_inspection(0), ok])

    revision.downgrade(line_engine, "0003")
    with line_engine.connect() as connection:
        old = connection.execute(text("SELECT * FROM thumbnail ORDER BY inspection_id")).all()
    revision.upgrade(line_engine)

    with line_engine.connect() as connection:
        new = connection.execute(select(ThumbnailRow.__table__).order_by("inspection_id")).all()
    assert [bytes(row.photo_jpeg) for row in old] == [b"photo", b"photo"]
    assert [(row.verdict, row.received_utc, row.map_png) for row in new] == [
        ("NG", make_inspection(0).info.received_utc, b"map"),
        ("OK", ok.info.received_utc, b"map"),
    ]


def test_upgrading_a_current_database_keeps_its_rows(
    line_engine: Engine, make_inspection: Callable[..., Inspection]
) -> None:
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", [make_inspection(0)])

    revision.upgrade(line_engine)

    with line_engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM inspection")) == 1


def test_a_failed_migration_leaves_nothing_behind(empty_engine: Engine) -> None:
    with write_transaction(empty_engine) as connection:
        connection.execute(text("CREATE TABLE thumbnail (x INTEGER)"))  # in the way, created last

    with pytest.raises(Exception, match="thumbnail"):
        revision.upgrade(empty_engine)

    assert set(inspect(empty_engine).get_table_names()) == {"thumbnail"}
    assert revision.current_revision(empty_engine) is None


def test_foreign_keys_are_enforced_after_a_migration(sqlite_engine: Engine) -> None:
    with sqlite_engine.connect() as connection:
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1


def test_the_daemon_builds_a_new_sqlite_file_by_itself(tmp_path: Path) -> None:
    engine = open_database(StorageConfig(url="sqlite:///zsad.db"), tmp_path, {})

    revision.prepare(engine)

    assert revision.current_revision(engine) == revision.newest_revision()
    engine.dispose()


def test_the_daemon_asks_before_it_builds_a_postgresql_schema(
    postgres_url: str, tmp_path: Path
) -> None:
    engine = open_database(StorageConfig(url=postgres_url), tmp_path, {})

    with pytest.raises(StorageError, match="no tables yet: run zsad db upgrade"):
        revision.prepare(engine)

    engine.dispose()


def test_a_database_of_a_newer_program_is_refused(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(StorageError, match="schema 9999, which this program does not know"):
        revision.require_current(engine)
    with pytest.raises(StorageError, match="a newer zsad made it"):
        revision.upgrade(engine)


def test_a_database_that_went_back_to_base_needs_an_upgrade(engine: Engine) -> None:
    revision.downgrade(engine, "base")

    with pytest.raises(StorageError, match="run zsad db upgrade"):
        revision.prepare(engine)
