"""Many rows at the price of one statement: what SQLAlchemy would do for each row is left out.

PostgreSQL gets COPY in its binary form: psycopg takes long statements apart anew each time and
sends executemany row by row, and the server writes copied rows a page at a time. SQLite gets the
driver's executemany. Neither leaves out a row whose key is taken and says so, so inspections are
numbered beforehand, and the rare batch with a known frame is inserted again the slow way.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from sqlalchemy import (
    BigInteger,
    Connection,
    Float,
    Integer,
    LargeBinary,
    Select,
    String,
    Text,
    bindparam,
    column,
    func,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import TypeEngine

from daemon.storage.database import driver_cursor
from daemon.storage.rows import Values
from daemon.storage.tables import Base, InspectionRow, UtcMicros

Columns = Mapping[str, Sequence[Any]]
"""Column name to the values of all rows."""

_WIRE_TYPES = (  # of PostgreSQL's binary format; the first that fits
    (UtcMicros, "int8"),
    (BigInteger, "int8"),
    (Integer, "int4"),
    (Float, "float8"),
    (Text, "text"),
    (String, "varchar"),
    (LargeBinary, "bytea"),
)

_NEXT_IDS = {
    "postgresql": "SELECT nextval('inspection_id_seq') FROM generate_series(1, :count)",
    "sqlite": "WITH RECURSIVE number (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM number "
    "WHERE i < :count) SELECT i + (SELECT coalesce(max(id), 0) FROM inspection) FROM number",
}
"""SQLite's writers hold the lock from BEGIN on: nobody else takes the same."""


def insert_rows(connection: Connection, table: type[Base], values: Sequence[Values]) -> None:
    """Insert rows of the same columns.

    Raises:
        DBAPIError: As from any statement, so that the writer knows whether to try again.
        ValueError: A time without a zone.
    """
    _insert_columns(connection, table, _columns(values))


def insert_inspections(connection: Connection, values: Sequence[Values]) -> list[int | None]:
    """Insert rows of `inspection`: the id of each, None where its frame has a row already.

    Of two rows of one frame the first counts.

    Raises:
        DBAPIError, ValueError: As `insert_rows`.
    """
    try:
        with connection.begin_nested():
            next_ids = text(_NEXT_IDS[connection.dialect.name])
            ids = connection.scalars(next_ids, {"count": len(values)}).all()
            _insert_columns(connection, InspectionRow, {"id": ids, **_columns(values)})
            return list(ids)
    except IntegrityError as error:
        if not _is_known(error):
            raise
    return _insert_unknown(connection, values)


def _insert_columns(connection: Connection, table: type[Base], values: Columns) -> None:
    columns = table.__table__.c
    to_micros = UtcMicros().process_bind_param
    rows = zip(
        *(
            [to_micros(instant, connection.dialect) for instant in column]
            if isinstance(columns[name].type, UtcMicros)
            else column
            for name, column in values.items()
        ),
        strict=True,
    )
    target = f"{table.__tablename__} ({', '.join(values)})"
    if connection.dialect.name == "postgresql":
        statement = f"COPY {target} FROM STDIN (FORMAT BINARY)"
        with driver_cursor(connection) as cursor, cursor.copy(statement) as copy:
            copy.set_types([_wire_type(columns[name].type) for name in values])
            for row in rows:
                copy.write_row(row)
    else:
        marks = ", ".join("?" * len(values))
        connection.exec_driver_sql(f"INSERT INTO {target} VALUES ({marks})", list(rows))  # noqa: S608


def _columns(values: Sequence[Values]) -> Columns:
    """Column by column, so that no row's dictionary is copied to add an id or a time to it."""
    return {name: [row[name] for row in values] for name in values[0]}


def _is_known(error: IntegrityError) -> bool:
    """Whether a key was taken."""
    if isinstance(error.orig, sqlite3.Error):
        return error.orig.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_UNIQUE
    return isinstance(error.orig, psycopg.errors.UniqueViolation)


def _insert_unknown(connection: Connection, values: Sequence[Values]) -> list[int | None]:
    row = InspectionRow
    columns = row.id, row.camera, row.epoch, row.seq
    if connection.dialect.name == "postgresql":
        names = list(values[0])
        from_arrays = postgresql.insert(row).from_select(names, _from_arrays(row, names))
        new = from_arrays.on_conflict_do_nothing().returning(*columns)
        inserted = connection.execute(new, _columns(values))
    else:
        new_here = sqlite.insert(row).on_conflict_do_nothing().returning(*columns)
        inserted = connection.execute(new_here, list(values))
    ids = {(camera, epoch, seq): row_id for row_id, camera, epoch, seq in inserted}
    # popped, so that the second of two equal frames finds nothing
    return [ids.pop((one["camera"], one["epoch"], one["seq"]), None) for one in values]


def _from_arrays(table: type[Base], names: Sequence[str]) -> Select[Any]:
    """Rows out of one array for each column: a statement as short for 256 rows as for one."""
    # TEXT: a cast to VARCHAR(n) would cut off what is too long, without a word
    types = {
        name: Text() if isinstance(kind := table.__table__.c[name].type, String) else kind
        for name in names
    }
    parameters = [bindparam(name, type_=postgresql.ARRAY(types[name])) for name in names]
    unnested = func.unnest(*parameters).table_valued(*(column(name, types[name]) for name in names))
    return select(*unnested.render_derived().c)


def _wire_type(kind: TypeEngine[Any]) -> str:
    return next(name for known, name in _WIRE_TYPES if isinstance(kind, known))
