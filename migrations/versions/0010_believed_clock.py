"""Up to when the clock was believed; retention asks before it removes by age."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "clock_mark",
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("believed_utc", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("line", name="pk_clock_mark"),
    )


def downgrade() -> None:
    op.drop_table("clock_mark")
