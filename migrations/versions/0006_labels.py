"""What people said of frames: the newest label of an inspection is in force, older ones stay."""

# ruff: noqa: S608 - SQL is put together from constants of this file only

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "label",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("inspection_id", _BIG_ID, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("author", sa.String(64), nullable=False),
        sa.Column("at_utc", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("defect", sa.String(64), nullable=True),
        sa.Column("mask_png", sa.LargeBinary(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "verdict IN ('OK', 'NG', 'UNCERTAIN')", name=op.f("ck_label_verdict_known")
        ),
        sa.CheckConstraint(
            "verdict <> 'OK' OR (defect IS NULL AND mask_png IS NULL)",
            name=op.f("ck_label_ok_has_no_defect"),
        ),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspection.id"], name="fk_label_inspection_id_inspection"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_label"),
    )
    op.create_index("ix_label_inspection_id", "label", ["inspection_id"])
    op.execute(sa.text(_view_label(op.get_bind().dialect.name)))


def downgrade() -> None:
    op.execute(sa.text("DROP VIEW v_label"))
    op.drop_table("label")


def _view_label(dialect: str) -> str:
    """The label in force of each labelled inspection, beside the machine's verdict."""
    return f"""
    CREATE VIEW v_label AS
    SELECT l.id AS label_id, l.inspection_id, i.line, i.camera, i.epoch, i.seq, i.category,
           i.part_id, i.lot, l.verdict AS label, i.verdict, i.pred_score, l.defect,
           CASE WHEN l.mask_png IS NULL THEN 0 ELSE 1 END AS has_mask,
           l.author, l.source, l.note,
           (SELECT count(*) FROM label o WHERE o.inspection_id = l.inspection_id) - 1
               AS corrections,
           {_iso("l.at_utc", dialect)} AS labelled_utc, l.at_utc AS labelled_us,
           {_iso("i.received_utc", dialect)} AS received_utc, i.received_utc AS received_us
    FROM label l JOIN inspection i ON i.id = l.inspection_id
    WHERE l.id = (SELECT max(n.id) FROM label n WHERE n.inspection_id = l.inspection_id)
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
