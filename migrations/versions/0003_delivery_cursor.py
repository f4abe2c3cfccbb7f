"""Where each receiver of verdicts stands."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "delivery_cursor",
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("receiver", sa.String(32), nullable=False),
        sa.Column("last_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("line", "receiver", name="pk_delivery_cursor"),
    )


def downgrade() -> None:
    op.drop_table("delivery_cursor")
