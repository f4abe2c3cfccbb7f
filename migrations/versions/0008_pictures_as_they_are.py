"""PostgreSQL stops trying to compress pictures: JPEG and PNG do not get smaller, only slower.

Concerns what is written from now on; rows that are there stay as they are, and readable both ways.
SQLite compresses nothing and has nothing to change.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("thumbnail", "photo_jpeg"),
    ("thumbnail", "overlay_jpeg"),
    ("thumbnail", "map_png"),
    ("label", "mask_png"),
)


def upgrade() -> None:
    _store("EXTERNAL")


def downgrade() -> None:
    _store("EXTENDED")


def _store(storage: str) -> None:
    """Reaches the partitions that exist; later ones take it over from their parent."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for table, column in _COLUMNS:
        op.execute(sa.text(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE {storage}"))
