"""The configurations that were in force, what calibrations were made for, and new loss reasons."""

# ruff: noqa: S608 - SQL is put together from constants of this file only

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_HOUR_US = 3_600_000_000
_OLD_REASONS = (
    "bad_message",
    "too_large",
    "bad_payload",
    "unknown_camera",
    "unknown_category",
    "clock",
    "duplicate",
    "queue_full",
    "inference_failed",
)
_NEW_REASONS = (
    *("flat", "too_dark", "too_bright", "blurred", "frozen", "wrong_size"),
    *("not_allowed", "too_fast"),
)
_CALIBRATION_COLUMNS = (
    ("confidence", sa.Float()),
    ("recipe", sa.String(64)),
    ("median_score", sa.Float()),
    ("review_rank", sa.Integer()),
)


def upgrade() -> None:
    op.create_table(
        "config_version",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("applied_utc", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("recipes_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_config_version"),
    )
    op.create_index("ix_config_version_applied_utc", "config_version", ["applied_utc"])
    for name, kind in _CALIBRATION_COLUMNS:
        op.add_column("calibration", sa.Column(name, kind, nullable=True))
    _replace_view_ledger((*_OLD_REASONS, *_NEW_REASONS))


def downgrade() -> None:
    _replace_view_ledger(_OLD_REASONS)
    for name, _ in reversed(_CALIBRATION_COLUMNS):
        op.drop_column("calibration", name)
    op.drop_table("config_version")


def _replace_view_ledger(reasons: tuple[str, ...]) -> None:
    op.execute(sa.text("DROP VIEW v_ledger"))
    op.execute(sa.text(_view_ledger(op.get_bind().dialect.name, reasons)))


def _view_ledger(dialect: str, reasons: tuple[str, ...]) -> str:
    """Every received frame once: rows of `inspection` (one frame each), then of `frame_loss`."""

    def total(condition: str) -> str:
        # PostgreSQL sums bigint to numeric; frames are whole numbers
        return f"CAST(sum(CASE WHEN {condition} THEN frames ELSE 0 END) AS bigint)"

    lost_by_reason = ",\n           ".join(
        total(f"reason = '{reason}'") + f" AS lost_{reason}" for reason in reasons
    )
    return f"""
    CREATE VIEW v_ledger AS
    SELECT line, camera, category, {_iso("hour_us", dialect)} AS hour_utc, hour_us,
           {total("reason IS NULL OR reason <> 'gap'")} AS received,
           {total("reason IS NULL")} AS inspected,
           {total("verdict = 'OK'")} AS ok,
           {total("verdict = 'NG'")} AS ng,
           {total("verdict = 'REVIEW'")} AS review,
           {total("verdict = 'LEARNING'")} AS learning,
           {total("reason <> 'gap'")} AS lost,
           {total("verdict = 'ERROR'")} AS errors,
           {total("reason = 'gap'")} AS gaps,
           {lost_by_reason}
    FROM (
        SELECT line, camera, category, received_utc - received_utc % {_HOUR_US} AS hour_us,
               verdict, error_reason AS reason, CAST(1 AS bigint) AS frames
        FROM inspection
        UNION ALL
        SELECT line, camera, category, lost_utc - lost_utc % {_HOUR_US} AS hour_us,
               NULL AS verdict, reason, frames
        FROM frame_loss
    ) entry
    GROUP BY line, camera, category, hour_us
    """


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
