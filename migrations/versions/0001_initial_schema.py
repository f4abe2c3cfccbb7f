"""The first schema, and the views that people may query.

A later migration that changes a table below a view drops the view first and creates it again:
SQLite refuses to rebuild a table while a view names a missing column.
"""

# ruff: noqa: S608 - SQL is put together from constants of this file only

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_HOUR_US = 3_600_000_000
_LOST_REASONS = (
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


def upgrade() -> None:
    _create_tables()
    dialect = op.get_bind().dialect.name
    for statement in (
        _view_inspection(dialect),
        _view_defect(dialect),
        _view_loss(dialect),
        _view_ledger(dialect),
    ):
        op.execute(sa.text(statement))


def downgrade() -> None:
    for view in ("v_ledger", "v_loss", "v_defect", "v_inspection"):
        op.execute(sa.text(f"DROP VIEW {view}"))
    for table in (
        "thumbnail",
        "region",
        "inspection",
        "calibration",
        "model_version",
        "frame_loss",
        "daemon_run",
    ):
        op.drop_table(table)


def _create_tables() -> None:
    op.create_table(
        "daemon_run",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column("started_utc", sa.BigInteger(), nullable=False),
        sa.Column("stopped_utc", sa.BigInteger(), nullable=True),
        sa.Column("last_batch", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_daemon_run"),
    )
    op.create_table(
        "frame_loss",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("lost_utc", sa.BigInteger(), nullable=False),
        sa.Column("frames", sa.BigInteger(), nullable=False),
        sa.Column("camera", sa.String(64), nullable=True),
        sa.Column("category", sa.String(64), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.Column("first_seq", sa.BigInteger(), nullable=True),
        sa.Column("last_seq", sa.BigInteger(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_frame_loss"),
    )
    op.create_index("ix_frame_loss_lost_utc", "frame_loss", ["lost_utc"])
    op.create_index(
        "ix_frame_loss_camera_epoch_last_seq", "frame_loss", ["camera", "epoch", "last_seq"]
    )
    op.create_table(
        "model_version",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("backbone", sa.Text(), nullable=False),
        sa.Column("card_json", sa.Text(), nullable=False),
        sa.Column("first_used_utc", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model_version"),
        sa.UniqueConstraint("name", name="uq_model_version_name"),
    )
    op.create_table(
        "calibration",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("category", sa.String(64), nullable=False),
        sa.Column("model_version_id", _BIG_ID, nullable=False),
        sa.Column("review_threshold", sa.Float(), nullable=False),
        sa.Column("ng_threshold", sa.Float(), nullable=False),
        sa.Column("map_threshold", sa.Float(), nullable=False),
        sa.Column("n_frames", sa.Integer(), nullable=False),
        sa.Column("review_rate", sa.Float(), nullable=False),
        sa.Column("ng_rate", sa.Float(), nullable=False),
        sa.Column("is_supported", sa.Boolean(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_utc", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_version.id"],
            name="fk_calibration_model_version_id_model_version",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_calibration"),
    )
    _create_inspection_tables()


def _create_inspection_tables() -> None:
    op.create_table(
        "inspection",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("camera", sa.String(64), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("category", sa.String(64), nullable=False),
        sa.Column("captured_utc", sa.BigInteger(), nullable=False),
        sa.Column("received_utc", sa.BigInteger(), nullable=False),
        sa.Column("decided_utc", sa.BigInteger(), nullable=False),
        sa.Column("frame_to_verdict_ms", sa.Float(), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("error_reason", sa.String(32), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("pred_score", sa.Float(), nullable=True),
        sa.Column("map_peak", sa.Float(), nullable=True),
        sa.Column("review_threshold", sa.Float(), nullable=True),
        sa.Column("ng_threshold", sa.Float(), nullable=True),
        sa.Column("map_threshold", sa.Float(), nullable=True),
        sa.Column("model_version_id", _BIG_ID, nullable=False),
        sa.Column("width_px", sa.Integer(), nullable=True),
        sa.Column("height_px", sa.Integer(), nullable=True),
        sa.Column("part_id", sa.String(128), nullable=True),
        sa.Column("lot", sa.String(128), nullable=True),
        sa.Column("trigger_id", sa.String(128), nullable=True),
        sa.CheckConstraint(
            "(verdict = 'ERROR') = (error_reason IS NOT NULL)",
            name=op.f("ck_inspection_error_has_reason"),
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_version.id"],
            name="fk_inspection_model_version_id_model_version",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_inspection"),
        sa.UniqueConstraint("camera", "epoch", "seq", name="uq_inspection_camera_epoch_seq"),
    )
    op.create_index("ix_inspection_received_utc", "inspection", ["received_utc"])
    op.create_index(
        "ix_inspection_ng",
        "inspection",
        ["received_utc", "category", "pred_score"],
        sqlite_where=sa.text("verdict = 'NG'"),
        postgresql_where=sa.text("verdict = 'NG'"),
    )
    op.create_table(
        "region",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("inspection_id", _BIG_ID, nullable=False),
        sa.Column("x_px", sa.Integer(), nullable=False),
        sa.Column("y_px", sa.Integer(), nullable=False),
        sa.Column("width_px", sa.Integer(), nullable=False),
        sa.Column("height_px", sa.Integer(), nullable=False),
        sa.Column("area_px", sa.Integer(), nullable=False),
        sa.Column("peak", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["inspection_id"],
            ["inspection.id"],
            name="fk_region_inspection_id_inspection",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_region"),
    )
    op.create_index("ix_region_inspection_id", "region", ["inspection_id"])
    op.create_table(
        "thumbnail",
        sa.Column("inspection_id", _BIG_ID, autoincrement=False, nullable=False),
        sa.Column("photo_jpeg", sa.LargeBinary(), nullable=False),
        sa.Column("overlay_jpeg", sa.LargeBinary(), nullable=False),
        sa.Column("map_png", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["inspection_id"],
            ["inspection.id"],
            name="fk_thumbnail_inspection_id_inspection",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("inspection_id", name="pk_thumbnail"),
    )


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


def _view_inspection(dialect: str) -> str:
    return f"""
    CREATE VIEW v_inspection AS
    SELECT i.id AS inspection_id, i.line, i.camera, i.epoch, i.seq, i.category, i.verdict,
           i.error_reason, i.error_detail, i.pred_score, i.review_threshold, i.ng_threshold,
           i.map_threshold, i.map_peak,
           (SELECT count(*) FROM region r WHERE r.inspection_id = i.id) AS regions,
           m.name AS model_version,
           {_iso("i.captured_utc", dialect)} AS captured_utc, i.captured_utc AS captured_us,
           {_iso("i.received_utc", dialect)} AS received_utc, i.received_utc AS received_us,
           {_iso("i.decided_utc", dialect)} AS decided_utc, i.decided_utc AS decided_us,
           i.frame_to_verdict_ms, i.width_px, i.height_px, i.part_id, i.lot, i.trigger_id
    FROM inspection i JOIN model_version m ON m.id = i.model_version_id
    """


def _view_defect(dialect: str) -> str:
    return f"""
    CREATE VIEW v_defect AS
    SELECT r.id AS region_id, r.inspection_id, i.line, i.camera, i.category, i.verdict,
           {_iso("i.received_utc", dialect)} AS received_utc, i.received_utc AS received_us,
           r.x_px, r.y_px, r.width_px, r.height_px, r.area_px, r.peak,
           i.pred_score, i.part_id, i.lot
    FROM region r JOIN inspection i ON i.id = r.inspection_id
    """


def _view_loss(dialect: str) -> str:
    return f"""
    CREATE VIEW v_loss AS
    SELECT id AS loss_id, line, camera, category, epoch, first_seq, last_seq, frames, reason,
           detail, {_iso("lost_utc", dialect)} AS lost_utc, lost_utc AS lost_us
    FROM frame_loss
    """


def _view_ledger(dialect: str) -> str:
    """Every received frame once: rows of `inspection` (one frame each), then of `frame_loss`."""

    def total(condition: str) -> str:
        # PostgreSQL sums bigint to numeric; frames are whole numbers
        return f"CAST(sum(CASE WHEN {condition} THEN frames ELSE 0 END) AS bigint)"

    lost_by_reason = ",\n           ".join(
        total(f"reason = '{reason}'") + f" AS lost_{reason}" for reason in _LOST_REASONS
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
