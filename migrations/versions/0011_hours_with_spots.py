"""Hours kept as columns get other columns: an inspection's id and where its strongest region lies.

`frame_hour` is derived; it is emptied, and the daemon fills it while it has nothing else to do.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.text("DELETE FROM frame_hour"))


def downgrade() -> None:
    op.execute(sa.text("DELETE FROM frame_hour"))
