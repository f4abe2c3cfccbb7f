"""Tables of what is learnt at night: kept frames, snapshots, runs, and which model is active."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from daemon.storage.tables import Base, BigId


class FrameFileRow(Base):
    """A whole frame on disk; the file is complete before the row is there.

    Not bound to its inspection, which may be stored later (spool), and may be removed earlier.
    """

    __tablename__ = "frame_file"
    __table_args__ = (
        UniqueConstraint("camera", "epoch", "seq"),
        Index("ix_frame_file_received_utc", "received_utc"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    line: Mapped[str] = mapped_column(String(64))
    camera: Mapped[str] = mapped_column(String(64))
    epoch: Mapped[int] = mapped_column(BigInteger)
    seq: Mapped[int] = mapped_column(BigInteger)
    category: Mapped[str] = mapped_column(String(64))
    verdict: Mapped[str] = mapped_column(String(16))
    received_utc: Mapped[datetime]
    path: Mapped[str]
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))


class CalibrationImageRow(Base):
    """An image of an OK part that `zsad calibrate` was given: every later model needs them."""

    __tablename__ = "calibration_image"
    __table_args__ = (UniqueConstraint("line", "category", "sha256"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    line: Mapped[str] = mapped_column(String(64))
    category: Mapped[str] = mapped_column(String(64))
    path: Mapped[str]
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    kept_utc: Mapped[datetime]


class SnapshotRow(Base):
    """What one night learnt from and was measured on; never changed."""

    __tablename__ = "snapshot"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    line: Mapped[str] = mapped_column(String(64))
    made_utc: Mapped[datetime]
    sha256: Mapped[str] = mapped_column(String(64))


class SnapshotItemRow(Base):
    """One labelled frame of a snapshot, with the label that was in force."""

    __tablename__ = "snapshot_item"
    snapshot_id: Mapped[int] = mapped_column(
        ForeignKey("snapshot.id"), primary_key=True, autoincrement=False
    )
    inspection_id: Mapped[int] = mapped_column(
        ForeignKey("inspection.id"), primary_key=True, autoincrement=False
    )
    label_id: Mapped[int] = mapped_column(ForeignKey("label.id"))
    category: Mapped[str] = mapped_column(String(64))
    group_key: Mapped[str] = mapped_column(String(200))
    is_held_out: Mapped[bool] = mapped_column(Boolean)
    frame_path: Mapped[str]
    frame_sha256: Mapped[str] = mapped_column(String(64))
    mask_sha256: Mapped[str | None] = mapped_column(String(64))


class SplitGroupRow(Base):
    """On which side of the split a part, lot or hour stands, for ever."""

    __tablename__ = "split_group"
    line: Mapped[str] = mapped_column(String(64), primary_key=True)
    category: Mapped[str] = mapped_column(String(64), primary_key=True)
    group_key: Mapped[str] = mapped_column(String(200), primary_key=True)
    is_held_out: Mapped[bool] = mapped_column(Boolean)
    since_utc: Mapped[datetime]


class JobRunRow(Base):
    """One run of the nightly job, or a night on which it had nothing to do.

    `due_utc` is the start of the window that the run belongs to, or when a person asked for it.
    """

    __tablename__ = "job_run"
    __table_args__ = (
        UniqueConstraint("line", "kind", "due_utc"),
        CheckConstraint("(state = 'running') = (ended_utc IS NULL)", name="ended_or_running"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    line: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    due_utc: Mapped[datetime]
    started_utc: Mapped[datetime]
    ended_utc: Mapped[datetime | None]
    state: Mapped[str] = mapped_column(String(16))
    step: Mapped[str] = mapped_column(String(32))
    done: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(Integer)
    detail: Mapped[str]
    snapshot_id: Mapped[int | None] = mapped_column(ForeignKey("snapshot.id"))
    candidate: Mapped[str | None] = mapped_column(String(200))
    report_json: Mapped[str | None]
    latency_before_ms: Mapped[float | None] = mapped_column(Float)
    latency_during_ms: Mapped[float | None] = mapped_column(Float)


class ModelChangeRow(Base):
    """Who or what changed the models of a line, and why; never changed itself."""

    __tablename__ = "model_change"
    __table_args__ = (Index("ix_model_change_at_utc", "at_utc"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    line: Mapped[str] = mapped_column(String(64))
    at_utc: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(16))
    version: Mapped[str] = mapped_column(String(200))
    previous: Mapped[str | None] = mapped_column(String(200))
    author: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str]


class ActiveModelRow(Base):
    """The model that a line inspects with; no row: the configured one."""

    __tablename__ = "active_model"
    line: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(200))
    previous: Mapped[str] = mapped_column(String(200))
    since_utc: Mapped[datetime]


class CandidateModelRow(Base):
    """The model that scores live frames beside the active one, and may take its place."""

    __tablename__ = "candidate_model"
    line: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(200))
    since_utc: Mapped[datetime]
    wanted_frames: Mapped[int] = mapped_column(Integer)


class ShadowScoreRow(Base):
    """What the candidate said of a live frame, beside the active model's verdict."""

    __tablename__ = "shadow_score"
    __table_args__ = (UniqueConstraint("version", "camera", "epoch", "seq"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    line: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(200))
    camera: Mapped[str] = mapped_column(String(64))
    epoch: Mapped[int] = mapped_column(BigInteger)
    seq: Mapped[int] = mapped_column(BigInteger)
    category: Mapped[str] = mapped_column(String(64))
    at_utc: Mapped[datetime]
    verdict: Mapped[str] = mapped_column(String(16))
    pred_score: Mapped[float] = mapped_column(Float)
    shadow_verdict: Mapped[str] = mapped_column(String(16))
    shadow_score: Mapped[float | None] = mapped_column(Float)


class AuditDrawRow(Base):
    """A frame that was drawn at random to be labelled: only such labels tell how often we err.

    Frames that somebody chose, for their score say, are no sample of the others.
    """

    __tablename__ = "audit_draw"
    inspection_id: Mapped[int] = mapped_column(
        ForeignKey("inspection.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    drawn_utc: Mapped[datetime]
