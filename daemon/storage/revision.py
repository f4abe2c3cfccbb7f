"""Brings a database to the schema that this program expects, or says why it cannot be used."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from daemon.errors import StorageError
from daemon.storage.database import write_transaction

_UPGRADE_LOCK = 0x7A736164
"""Any fixed number ("zsad"): two upgrades of one PostgreSQL database wait for each other."""


def prepare(engine: Engine) -> None:
    """Make the database usable at the daemon's start.

    A new SQLite file is built, so that a first start needs no other command. Anything that
    already holds data, and every PostgreSQL database, is only upgraded by a person
    (`zsad db upgrade`), who can make a backup first.

    Raises:
        StorageError: As in `require_current`.
    """
    if is_built_at_start(engine):
        upgrade(engine)
    require_current(engine)


def is_built_at_start(engine: Engine) -> bool:
    """Whether `prepare` builds the tables itself: a SQLite file without any."""
    return engine.dialect.name == "sqlite" and not inspect(engine).get_table_names()


def require_current(engine: Engine) -> None:
    """Refuse a database whose schema is not this program's.

    Raises:
        StorageError: Says whether it is empty, older or newer, and what to do.
    """
    current, newest = current_revision(engine), newest_revision()
    if current == newest:
        return
    shown = engine.url.render_as_string(hide_password=True)
    if current is None:
        raise StorageError(f"database {shown} has no tables yet: run zsad db upgrade")
    if current in _known_revisions():
        raise StorageError(
            f"database {shown} has schema {current}, this program needs {newest}: "
            "make a backup (zsad db backup), then run zsad db upgrade"
        )
    raise _unknown(engine, current)


def _unknown(engine: Engine, current: str) -> StorageError:
    shown = engine.url.render_as_string(hide_password=True)
    return StorageError(
        f"database {shown} has schema {current}, which this program does not know (its newest "
        f"is {newest_revision()}): a newer zsad made it; install that version or restore a backup"
    )


def current_revision(engine: Engine) -> str | None:
    """The schema's revision; None where no migration ever ran."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str:
    """The revision that this program needs."""
    with _alembic_config() as config:
        head = ScriptDirectory.from_config(config).get_current_head()
    if head is None:
        raise StorageError("the migrations are missing from this installation; install zsad again")
    return head


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run every missing migration in one transaction: all of them, or none.

    Raises:
        StorageError: A newer program made the database.
    """
    current = current_revision(engine)
    if current is not None and current not in _known_revisions():
        raise _unknown(engine, current)
    with _alembic_config() as config, _migrating(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Go back to `revision` ("base" removes everything) in one transaction."""
    with _alembic_config() as config, _migrating(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


@contextmanager
def _migrating(engine: Engine) -> Iterator[Connection]:
    """A writing transaction in which tables may be rebuilt.

    SQLite rebuilds a table by dropping the old one, which with foreign keys on would delete
    the rows that refer to it. The switch has no effect inside a transaction, so it is set on
    the raw connection before BEGIN, and the keys are checked before COMMIT.
    """
    if engine.dialect.name != "sqlite":
        with write_transaction(engine) as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
            yield connection
        return
    with engine.connect().execution_options(sqlite_begin="IMMEDIATE") as connection:
        raw = connection.connection.cursor()
        raw.execute("PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                yield connection
                broken = connection.execute(text("PRAGMA foreign_key_check")).all()
                if broken:
                    raise StorageError(
                        f"migration undone: {len(broken)} rows would refer to missing rows, "
                        f"first in table {broken[0][0]}"
                    )
        finally:
            raw.execute("PRAGMA foreign_keys = ON")
            raw.close()


def _known_revisions() -> set[str]:
    with _alembic_config() as config:
        return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


@contextmanager
def _alembic_config() -> Iterator[Config]:
    with as_file(files("migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        yield config
