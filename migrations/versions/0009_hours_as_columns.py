"""Finished hours of inspections once more as columns, and an index of REVIEW frames for reports.

`frame_hour` starts empty; the daemon fills it while it has nothing else to do.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "frame_hour",
        sa.Column("begin_utc", sa.BigInteger(), nullable=False),
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("keys_json", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("begin_utc", "line", name="pk_frame_hour"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # numbers close to random do not get smaller, only slower
        op.execute(sa.text("ALTER TABLE frame_hour ALTER COLUMN content SET STORAGE EXTERNAL"))
    op.create_index(
        "ix_inspection_review",
        "inspection",
        ["received_utc", "category", "pred_score"],
        sqlite_where=sa.text("verdict = 'REVIEW'"),
        postgresql_where=sa.text("verdict = 'REVIEW'"),
    )


def downgrade() -> None:
    op.drop_index("ix_inspection_review", "inspection")
    op.drop_table("frame_hour")
