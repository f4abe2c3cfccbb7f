"""Alembic's entry: runs migrations on the connection that `daemon.storage.revision` passes.

For developers, `alembic -c migrations/alembic.ini -x url=sqlite:////tmp/x.db revision
--autogenerate -m TEXT` opens the given URL instead.
"""

from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection, create_engine

import daemon.storage.night_tables  # noqa: F401 - its tables belong to Base.metadata
from daemon.storage.tables import Base, UtcMicros


def _render_item(kind: str, item: object, _context: AutogenContext) -> str | Literal[False]:
    """Write our own column type as what it is in the database: migrations import no code."""
    return "sa.BigInteger()" if kind == "type" and isinstance(item, UtcMicros) else False


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite cannot alter most of a table in place
        transactional_ddl=True,  # also on SQLite: the engine sends its own BEGIN
        compare_type=True,
        render_item=_render_item,
    )
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    _migrate(given)
else:
    url = context.get_x_argument(as_dictionary=True)["url"]
    with create_engine(url).begin() as opened:
        _migrate(opened)
