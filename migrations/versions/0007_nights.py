"""What is learnt at night: kept frames, snapshots, runs of the job, models and their changes."""

# ruff: noqa: S608 - SQL is put together from constants of this file only

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TABLES = (
    "frame_file",
    "calibration_image",
    "snapshot",
    "snapshot_item",
    "split_group",
    "job_run",
    "model_change",
    "active_model",
    "candidate_model",
    "shadow_score",
    "audit_draw",
)


def upgrade() -> None:
    op.create_table(
        "frame_file",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("camera", sa.String(64), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("category", sa.String(64), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("received_utc", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_frame_file"),
        sa.UniqueConstraint("camera", "epoch", "seq", name="uq_frame_file_camera_epoch_seq"),
    )
    op.create_index("ix_frame_file_received_utc", "frame_file", ["received_utc"])
    op.create_table(
        "calibration_image",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("category", sa.String(64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("kept_utc", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_calibration_image"),
        sa.UniqueConstraint(
            "line", "category", "sha256", name="uq_calibration_image_line_category_sha256"
        ),
    )
    op.create_table(
        "snapshot",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("made_utc", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_snapshot"),
    )
    op.create_table(
        "snapshot_item",
        sa.Column("snapshot_id", _BIG_ID, autoincrement=False, nullable=False),
        sa.Column("inspection_id", _BIG_ID, autoincrement=False, nullable=False),
        sa.Column("label_id", _BIG_ID, nullable=False),
        sa.Column("category", sa.String(64), nullable=False),
        sa.Column("group_key", sa.String(200), nullable=False),
        sa.Column("is_held_out", sa.Boolean(), nullable=False),
        sa.Column("frame_path", sa.Text(), nullable=False),
        sa.Column("frame_sha256", sa.String(64), nullable=False),
        sa.Column("mask_sha256", sa.String(64), nullable=True),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshot.id"], name="fk_snapshot_item_snapshot_id_snapshot"
        ),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspection.id"], name="fk_snapshot_item_inspection_id_inspection"
        ),
        sa.ForeignKeyConstraint(["label_id"], ["label.id"], name="fk_snapshot_item_label_id_label"),
        sa.PrimaryKeyConstraint("snapshot_id", "inspection_id", name="pk_snapshot_item"),
    )
    op.create_table(
        "split_group",
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("category", sa.String(64), nullable=False),
        sa.Column("group_key", sa.String(200), nullable=False),
        sa.Column("is_held_out", sa.Boolean(), nullable=False),
        sa.Column("since_utc", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("line", "category", "group_key", name="pk_split_group"),
    )
    op.create_table(
        "job_run",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("due_utc", sa.BigInteger(), nullable=False),
        sa.Column("started_utc", sa.BigInteger(), nullable=False),
        sa.Column("ended_utc", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("step", sa.String(32), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("snapshot_id", _BIG_ID, nullable=True),
        sa.Column("candidate", sa.String(200), nullable=True),
        sa.Column("report_json", sa.Text(), nullable=True),
        sa.Column("latency_before_ms", sa.Float(), nullable=True),
        sa.Column("latency_during_ms", sa.Float(), nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (ended_utc IS NULL)", name=op.f("ck_job_run_ended_or_running")
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshot.id"], name="fk_job_run_snapshot_id_snapshot"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_job_run"),
        sa.UniqueConstraint("line", "kind", "due_utc", name="uq_job_run_line_kind_due_utc"),
    )
    op.create_table(
        "model_change",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("at_utc", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("version", sa.String(200), nullable=False),
        sa.Column("previous", sa.String(200), nullable=True),
        sa.Column("author", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model_change"),
    )
    op.create_index("ix_model_change_at_utc", "model_change", ["at_utc"])
    op.create_table(
        "active_model",
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("version", sa.String(200), nullable=False),
        sa.Column("previous", sa.String(200), nullable=False),
        sa.Column("since_utc", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("line", name="pk_active_model"),
    )
    op.create_table(
        "candidate_model",
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("version", sa.String(200), nullable=False),
        sa.Column("since_utc", sa.BigInteger(), nullable=False),
        sa.Column("wanted_frames", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("line", name="pk_candidate_model"),
    )
    op.create_table(
        "shadow_score",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("version", sa.String(200), nullable=False),
        sa.Column("camera", sa.String(64), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("category", sa.String(64), nullable=False),
        sa.Column("at_utc", sa.BigInteger(), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("pred_score", sa.Float(), nullable=False),
        sa.Column("shadow_verdict", sa.String(16), nullable=False),
        sa.Column("shadow_score", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_shadow_score"),
        sa.UniqueConstraint(
            "version", "camera", "epoch", "seq", name="uq_shadow_score_version_camera_epoch_seq"
        ),
    )
    op.create_table(
        "audit_draw",
        sa.Column("inspection_id", _BIG_ID, autoincrement=False, nullable=False),
        sa.Column("drawn_utc", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["inspection_id"],
            ["inspection.id"],
            name="fk_audit_draw_inspection_id_inspection",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("inspection_id", name="pk_audit_draw"),
    )
    dialect = op.get_bind().dialect.name
    op.execute(sa.text(_view_job_run(dialect)))
    op.execute(sa.text(_view_model_change(dialect)))


def downgrade() -> None:
    op.execute(sa.text("DROP VIEW v_model_change"))
    op.execute(sa.text("DROP VIEW v_job_run"))
    for table in reversed(_TABLES):
        op.drop_table(table)


def _view_job_run(dialect: str) -> str:
    return f"""
    CREATE VIEW v_job_run AS
    SELECT id AS job_run_id, line, kind, state, step, done, total, attempts, detail, snapshot_id,
           candidate, latency_before_ms, latency_during_ms,
           {_iso("due_utc", dialect)} AS due_utc, due_utc AS due_us,
           {_iso("started_utc", dialect)} AS started_utc, started_utc AS started_us,
           {_iso("ended_utc", dialect)} AS ended_utc, ended_utc AS ended_us
    FROM job_run
    """


def _view_model_change(dialect: str) -> str:
    return f"""
    CREATE VIEW v_model_change AS
    SELECT id AS model_change_id, line, kind, version, previous, author, reason,
           {_iso("at_utc", dialect)} AS at_utc, at_utc AS at_us
    FROM model_change
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
