"""The line's diary: what happened apart from frames, and a view of it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "event",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("at_utc", sa.BigInteger(), nullable=False),
        sa.Column("camera", sa.String(64), nullable=True),
        sa.Column("category", sa.String(64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
    )
    op.create_index("ix_event_at_utc", "event", ["at_utc"])
    op.execute(sa.text(_view_event(op.get_bind().dialect.name)))


def downgrade() -> None:
    op.execute(sa.text("DROP VIEW v_event"))
    op.drop_table("event")


def _view_event(dialect: str) -> str:
    return f"""
    CREATE VIEW v_event AS
    SELECT id AS event_id, line, severity, kind, camera, category, detail,
           {_iso("at_utc", dialect)} AS at_utc, at_utc AS at_us
    FROM event
    """  # noqa: S608 - put together from constants of this file only


def _iso(micros: str, dialect: str) -> str:
    """SQL for UTC microseconds as 2026-01-31T05:00:00.000000Z, exact on both databases."""
    if dialect == "sqlite":
        return (
            f"strftime('%Y-%m-%dT%H:%M:%S', {micros} / 1000000, 'unixepoch')"
            f" || printf('.%06dZ', {micros} % 1000000)"
        )
    return (
        f"to_char(to_timestamp({micros} / 1000000) AT TIME ZONE 'UTC', "
        "'YYYY-MM-DD\"T\"HH24:MI:SS')"
        f" || '.' || lpad(CAST({micros} % 1000000 AS text), 6, '0') || 'Z'"
    )
