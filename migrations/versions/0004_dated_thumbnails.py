"""Pictures know verdict and date, so that retention finds them; on PostgreSQL they lie by day.

`thumbnail` holds nearly all bytes. On PostgreSQL pictures of OK and LEARNING frames get one
partition a day, which retention drops whole; all others stay in one partition. The table is
written anew: for a while the database needs twice the space of its pictures.
"""

# ruff: noqa: S608 - SQL is put together from constants of this file only

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_DAY_US = 86_400_000_000
_PICTURES = "photo_jpeg, overlay_jpeg, map_png"
_REFERENCE = "REFERENCES inspection (id) ON DELETE CASCADE"


def upgrade() -> None:
    bind = op.get_bind()
    op.execute(sa.text("ALTER TABLE thumbnail RENAME TO thumbnail_old"))
    if bind.dialect.name == "postgresql":
        op.execute(sa.text("ALTER INDEX pk_thumbnail RENAME TO pk_thumbnail_old"))
        _create_partitioned()
        days = bind.execute(
            sa.text(
                f"SELECT DISTINCT received_utc / {_DAY_US} FROM inspection "
                "WHERE verdict IN ('OK', 'LEARNING')"
            )
        )
        for (day,) in days:
            op.execute(
                sa.text(
                    f"CREATE TABLE thumbnail_day_{day} PARTITION OF thumbnail_routine "
                    f"FOR VALUES FROM ({day * _DAY_US}) TO ({(day + 1) * _DAY_US})"
                )
            )
    else:
        _create_plain()
    op.execute(
        sa.text(
            f"INSERT INTO thumbnail (inspection_id, verdict, received_utc, {_PICTURES}) "
            f"SELECT t.inspection_id, i.verdict, i.received_utc, {_PICTURES} "
            "FROM thumbnail_old t JOIN inspection i ON i.id = t.inspection_id"
        )
    )
    op.drop_table("thumbnail_old")
    op.create_index("ix_thumbnail_verdict_received_utc", "thumbnail", ["verdict", "received_utc"])


def downgrade() -> None:
    op.execute(sa.text("ALTER TABLE thumbnail RENAME TO thumbnail_new"))
    if op.get_bind().dialect.name == "postgresql":
        op.execute(sa.text("ALTER INDEX pk_thumbnail RENAME TO pk_thumbnail_new"))
    op.create_table(
        "thumbnail",
        sa.Column("inspection_id", _big_id(), autoincrement=False, nullable=False),
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
    op.execute(
        sa.text(
            f"INSERT INTO thumbnail (inspection_id, {_PICTURES}) "
            f"SELECT inspection_id, {_PICTURES} FROM thumbnail_new"
        )
    )
    op.drop_table("thumbnail_new")


def _big_id() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _create_plain() -> None:
    """SQLite. The pictures come last: what stands behind them is slow to read."""
    op.create_table(
        "thumbnail",
        sa.Column("inspection_id", _big_id(), autoincrement=False, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("received_utc", sa.BigInteger(), nullable=False),
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


def _create_partitioned() -> None:
    op.execute(
        sa.text(
            f"""
            CREATE TABLE thumbnail (
                inspection_id bigint NOT NULL,
                verdict varchar(16) NOT NULL,
                received_utc bigint NOT NULL,
                photo_jpeg bytea NOT NULL,
                overlay_jpeg bytea NOT NULL,
                map_png bytea NOT NULL,
                CONSTRAINT pk_thumbnail PRIMARY KEY (inspection_id, verdict, received_utc),
                CONSTRAINT fk_thumbnail_inspection_id_inspection
                    FOREIGN KEY (inspection_id) {_REFERENCE}
            ) PARTITION BY LIST (verdict)
            """
        )
    )
    op.execute(sa.text("CREATE TABLE thumbnail_kept PARTITION OF thumbnail DEFAULT"))
    op.execute(
        sa.text(
            "CREATE TABLE thumbnail_routine PARTITION OF thumbnail "
            "FOR VALUES IN ('OK', 'LEARNING') PARTITION BY RANGE (received_utc)"
        )
    )
    op.execute(
        sa.text("CREATE TABLE thumbnail_routine_default PARTITION OF thumbnail_routine DEFAULT")
    )
