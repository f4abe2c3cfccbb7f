"""The database schema, the same on SQLite and PostgreSQL. Migrations in `migrations/` build it."""

from datetime import UTC, datetime, timedelta
from typing import ClassVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)  # making one costs more than dividing by it
BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite autoincrements only INTEGER


class UtcMicros(TypeDecorator[datetime]):
    """An aware datetime stored as integer microseconds since 1970 UTC.

    SQLite drops time zones, and integers make the time index small and range scans fast.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Refuses naive datetimes."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}; times are stored in UTC")
        return (value - EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Aware UTC datetime."""
        return None if value is None else EPOCH + timedelta(microseconds=value)


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can drop it on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {datetime: UtcMicros, str: Text}


class DaemonRunRow(Base):
    """One start of the daemon; `stopped_utc` stays null after a crash.

    `last_batch` numbers the writer's transactions: a batch whose COMMIT was sent but never
    acknowledged is recognised when it is repeated.
    """

    __tablename__ = "daemon_run"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    line: Mapped[str]
    started_utc: Mapped[datetime]
    stopped_utc: Mapped[datetime | None]
    last_batch: Mapped[int] = mapped_column(BigInteger)


class ModelVersionRow(Base):
    """A detector that has run here."""

    __tablename__ = "model_version"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    method: Mapped[str]
    backbone: Mapped[str]
    card_json: Mapped[str]
    first_used_utc: Mapped[datetime]


class CalibrationRow(Base):
    """Thresholds of a category and recipe under a model version; the newest is in force."""

    __tablename__ = "calibration"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    category: Mapped[str] = mapped_column(String(64))
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    review_threshold: Mapped[float] = mapped_column(Float)
    ng_threshold: Mapped[float] = mapped_column(Float)
    map_threshold: Mapped[float] = mapped_column(Float)
    n_frames: Mapped[int] = mapped_column(Integer)
    review_rate: Mapped[float] = mapped_column(Float)
    ng_rate: Mapped[float] = mapped_column(Float)
    is_supported: Mapped[bool] = mapped_column(Boolean)
    source: Mapped[str]
    created_utc: Mapped[datetime]
    confidence: Mapped[float | None] = mapped_column(Float)
    recipe: Mapped[str | None] = mapped_column(String(64))
    median_score: Mapped[float | None] = mapped_column(Float)
    review_rank: Mapped[int | None] = mapped_column(Integer)


class InspectionRow(Base):
    """One identified frame: inspected, or ERROR with the reason."""

    __tablename__ = "inspection"
    __table_args__ = (
        UniqueConstraint("camera", "epoch", "seq"),
        CheckConstraint(
            "(verdict = 'ERROR') = (error_reason IS NOT NULL)", name="error_has_reason"
        ),
        Index("ix_inspection_received_utc", "received_utc"),
        Index(
            "ix_inspection_ng",
            "received_utc",
            "category",
            "pred_score",
            sqlite_where=text("verdict = 'NG'"),
            postgresql_where=text("verdict = 'NG'"),
        ),
        Index(
            "ix_inspection_review",
            "received_utc",
            "category",
            "pred_score",
            sqlite_where=text("verdict = 'REVIEW'"),
            postgresql_where=text("verdict = 'REVIEW'"),
        ),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    line: Mapped[str] = mapped_column(String(64))
    camera: Mapped[str] = mapped_column(String(64))
    epoch: Mapped[int] = mapped_column(BigInteger)
    seq: Mapped[int] = mapped_column(BigInteger)
    category: Mapped[str] = mapped_column(String(64))
    captured_utc: Mapped[datetime]
    received_utc: Mapped[datetime]
    decided_utc: Mapped[datetime]
    frame_to_verdict_ms: Mapped[float] = mapped_column(Float)
    verdict: Mapped[str] = mapped_column(String(16))
    error_reason: Mapped[str | None] = mapped_column(String(32))
    error_detail: Mapped[str | None]
    pred_score: Mapped[float | None] = mapped_column(Float)
    map_peak: Mapped[float | None] = mapped_column(Float)
    review_threshold: Mapped[float | None] = mapped_column(Float)
    ng_threshold: Mapped[float | None] = mapped_column(Float)
    map_threshold: Mapped[float | None] = mapped_column(Float)
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    width_px: Mapped[int | None] = mapped_column(Integer)
    height_px: Mapped[int | None] = mapped_column(Integer)
    part_id: Mapped[str | None] = mapped_column(String(128))
    lot: Mapped[str | None] = mapped_column(String(128))
    trigger_id: Mapped[str | None] = mapped_column(String(128))


class FrameHourRow(Base):
    """The inspections of a line's finished hour once more, as columns (`frame_columns.py`).

    Derived: may be deleted at any time, and then rows are read.
    """

    __tablename__ = "frame_hour"
    begin_utc: Mapped[datetime] = mapped_column(primary_key=True)
    line: Mapped[str] = mapped_column(String(64), primary_key=True)
    keys_json: Mapped[str]
    content: Mapped[bytes] = mapped_column(LargeBinary)


class RegionRow(Base):
    """A defect region of an inspection, in pixels of the frame."""

    __tablename__ = "region"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    inspection_id: Mapped[int] = mapped_column(
        ForeignKey("inspection.id", ondelete="CASCADE"), index=True
    )
    x_px: Mapped[int] = mapped_column(Integer)
    y_px: Mapped[int] = mapped_column(Integer)
    width_px: Mapped[int] = mapped_column(Integer)
    height_px: Mapped[int] = mapped_column(Integer)
    area_px: Mapped[int] = mapped_column(Integer)
    peak: Mapped[float] = mapped_column(Float)


class ThumbnailRow(Base):
    """Pictures of an inspection, apart from it so that reports do not read them.

    Verdict and time are those of the inspection: retention finds pictures by them, and on
    PostgreSQL they choose the partition (`partitions.py`).
    """

    __tablename__ = "thumbnail"
    __table_args__ = (Index("ix_thumbnail_verdict_received_utc", "verdict", "received_utc"),)
    inspection_id: Mapped[int] = mapped_column(
        ForeignKey("inspection.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    verdict: Mapped[str] = mapped_column(String(16))
    received_utc: Mapped[datetime]
    photo_jpeg: Mapped[bytes] = mapped_column(LargeBinary)
    overlay_jpeg: Mapped[bytes] = mapped_column(LargeBinary)
    map_png: Mapped[bytes] = mapped_column(LargeBinary)


class FrameLossRow(Base):
    """Frames without an inspection row: gaps, and received frames that could not be inspected."""

    __tablename__ = "frame_loss"
    __table_args__ = (
        Index("ix_frame_loss_lost_utc", "lost_utc"),
        Index("ix_frame_loss_camera_epoch_last_seq", "camera", "epoch", "last_seq"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    line: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(String(32))
    lost_utc: Mapped[datetime]
    frames: Mapped[int] = mapped_column(BigInteger)
    camera: Mapped[str | None] = mapped_column(String(64))
    category: Mapped[str | None] = mapped_column(String(64))
    epoch: Mapped[int | None] = mapped_column(BigInteger)
    first_seq: Mapped[int | None] = mapped_column(BigInteger)
    last_seq: Mapped[int | None] = mapped_column(BigInteger)
    detail: Mapped[str]


class EventRow(Base):
    """The line's diary: starts, alarms, refused clients, everything that is not a frame."""

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_at_utc", "at_utc"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    line: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(32))
    severity: Mapped[str] = mapped_column(String(16))
    at_utc: Mapped[datetime]
    camera: Mapped[str | None] = mapped_column(String(64))
    category: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str]


class ConfigVersionRow(Base):
    """A configuration that came into force; the newest at or before an instant was."""

    __tablename__ = "config_version"
    __table_args__ = (Index("ix_config_version_applied_utc", "applied_utc"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    line: Mapped[str] = mapped_column(String(64))
    applied_utc: Mapped[datetime]
    sha256: Mapped[str] = mapped_column(String(64))
    file: Mapped[str]
    text: Mapped[str]
    recipes_json: Mapped[str]


class LabelRow(Base):
    """What a person said of an inspection; the newest row of an inspection is in force.

    An inspection with a label cannot be deleted: the foreign key has no ON DELETE.
    """

    __tablename__ = "label"
    __table_args__ = (
        CheckConstraint("verdict IN ('OK', 'NG', 'UNCERTAIN')", name="verdict_known"),
        CheckConstraint(
            "verdict <> 'OK' OR (defect IS NULL AND mask_png IS NULL)", name="ok_has_no_defect"
        ),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    inspection_id: Mapped[int] = mapped_column(ForeignKey("inspection.id"), index=True)
    verdict: Mapped[str] = mapped_column(String(16))
    author: Mapped[str] = mapped_column(String(64))
    at_utc: Mapped[datetime]
    source: Mapped[str] = mapped_column(String(64))
    defect: Mapped[str | None] = mapped_column(String(64))
    mask_png: Mapped[bytes | None] = mapped_column(LargeBinary)
    note: Mapped[str | None]


class DeliveryCursorRow(Base):
    """Up to which inspection a receiver of verdicts (mqtt, webhook) has confirmed."""

    __tablename__ = "delivery_cursor"
    line: Mapped[str] = mapped_column(String(64), primary_key=True)
    receiver: Mapped[str] = mapped_column(String(32), primary_key=True)
    last_id: Mapped[int] = mapped_column(BigInteger)


class ClockMarkRow(Base):
    """The latest instant that a line's daemon believed its clock (`clock_guard.py`)."""

    __tablename__ = "clock_mark"
    line: Mapped[str] = mapped_column(String(64), primary_key=True)
    believed_utc: Mapped[datetime]
