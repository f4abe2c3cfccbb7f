"""What a PostgreSQL role needs to read the database and change nothing."""

from collections.abc import Sequence

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from daemon.errors import StorageError
from daemon.storage.database import write_transaction

MAX_ROLE_CHARS = 63


def grant_statements(engine: Engine, role: str) -> list[str]:
    """SQL that gives `role` the views, and the tables that `zsad report` and `query` read.

    Raises:
        StorageError: A SQLite file has no roles; or the name is none.
    """
    if engine.dialect.name != "postgresql":
        raise StorageError(
            "a SQLite file has no roles; give readers the file's group, or a backup of it"
        )
    if not role or len(role) > MAX_ROLE_CHARS or "\x00" in role:
        raise StorageError(f"{role!r} is not the name of a role (1 to {MAX_ROLE_CHARS} characters)")
    quote = engine.dialect.identifier_preparer.quote_identifier
    name, database = quote(role), quote(str(engine.url.database))
    return [
        f"GRANT CONNECT ON DATABASE {database} TO {name}",
        f"GRANT USAGE ON SCHEMA public TO {name}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}",
        # what later migrations of this owner create
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {name}",
    ]


def apply(engine: Engine, statements: Sequence[str]) -> None:
    """Run them all or none.

    Raises:
        StorageError: The role is not there, or this user may not grant.
    """
    try:
        with write_transaction(engine) as connection:
            for statement in statements:
                connection.execute(text(statement.replace(":", r"\:")))
    except DBAPIError as error:
        raise StorageError(f"not granted: {error.orig}") from error
