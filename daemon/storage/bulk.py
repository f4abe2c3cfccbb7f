"""Many rows into PostgreSQL at the price of one statement; SQLite has executemany, which is enough.

psycopg takes long statements apart anew each time, and sends executemany row by row. Rows of
numbers and short texts therefore go in as one array for each column, pictures by COPY, where
their bytes are neither quoted nor copied.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, String, Text, bindparam, column, func, insert, select
from sqlalchemy.dialects import postgresql

from daemon.storage.database import driver_cursor
from daemon.storage.rows import Values
from daemon.storage.tables import Base, ThumbnailRow, UtcMicros

_PICTURE_TYPES = {
    "inspection_id": "int8",
    "verdict": "varchar",
    "received_utc": "int8",
    "photo_jpeg": "bytea",
    "overlay_jpeg": "bytea",
    "map_png": "bytea",
}
_COPY_PICTURES = (
    f"COPY {ThumbnailRow.__tablename__} ({', '.join(_PICTURE_TYPES)}) FROM STDIN (FORMAT BINARY)"
)


def insert_rows(connection: Connection, table: type[Base], values: Sequence[Values]) -> None:
    """Insert rows of the same columns."""
    if connection.dialect.name == "postgresql":
        names = list(values[0])
        statement = insert(table).from_select(names, from_arrays(table, names))
        connection.execute(statement, arrays(values))
    else:
        connection.execute(insert(table), list(values))


def insert_pictures(connection: Connection, values: Sequence[Values]) -> None:
    """Insert rows of `thumbnail`.

    Raises:
        DBAPIError: As from any statement, so that the writer knows whether to try again.
    """
    if connection.dialect.name == "postgresql":
        _copy_pictures(connection, values)
    else:
        connection.execute(insert(ThumbnailRow), list(values))


def from_arrays(table: type[Base], names: Sequence[str]) -> Select[Any]:
    """Rows out of one array for each column: a statement as short for 256 rows as for one."""
    # TEXT: a cast to VARCHAR(n) would cut off what is too long, without a word
    types = {
        name: Text() if isinstance(kind := table.__table__.c[name].type, String) else kind
        for name in names
    }
    parameters = [bindparam(name, type_=postgresql.ARRAY(types[name])) for name in names]
    unnested = func.unnest(*parameters).table_valued(*(column(name, types[name]) for name in names))
    return select(*unnested.render_derived().c)


def arrays(values: Sequence[Values]) -> dict[str, list[Any]]:
    """Rows as columns."""
    return {name: [row[name] for row in values] for name in values[0]}


def _copy_pictures(connection: Connection, values: Sequence[Values]) -> None:
    to_micros = UtcMicros().process_bind_param
    with driver_cursor(connection) as cursor, cursor.copy(_COPY_PICTURES) as copy:
        copy.set_types(list(_PICTURE_TYPES.values()))
        for row in values:
            received_us = to_micros(row["received_utc"], connection.dialect)
            fields = row | {"received_utc": received_us}
            copy.write_row([fields[name] for name in _PICTURE_TYPES])
