"""The YAML configuration as frozen pydantic models. Reads no file; `daemon.config_file` does."""

from datetime import time
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""A camera, category, line or shift: letters, digits, '_', '.', '-'; at most 64."""


class Section(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceConfig(Section):
    """One ZeroMQ socket that frames arrive on.

    Attributes:
        endpoint: For example `tcp://127.0.0.1:5555` or `ipc:///run/zsad/frames`.
        socket: `sub` may drop under load (gaps are counted), `pull` holds the sender back.
        mode: `connect` to publishers that bind (the default), or `bind`.
        camera: Camera name for imagezmq senders whose message names none.
    """

    endpoint: Annotated[str, Field(pattern=r"^(tcp|ipc|inproc)://.+")]
    socket: Literal["sub", "pull"] = "sub"
    mode: Literal["connect", "bind"] = "connect"
    camera: Name | None = None


class CameraConfig(Section):
    """One camera that may send frames.

    Attributes:
        category: Used when a frame names none (imagezmq frames never do).
    """

    category: Name | None = None


class CategoryConfig(Section):
    """One product category and its decision policy.

    Attributes:
        class_name: The noun or phrase given to the text encoder ("woven fabric").
        review_rate: Share of OK parts that may score REVIEW or NG.
        ng_rate: Share of OK parts that may score NG (false rejects).
        learn_frames: Calibrate by itself after this many frames, which must all be OK parts;
            None waits for `zsad calibrate`.
        min_region_px: Regions of a smaller area, in frame pixels, are not stored.
    """

    class_name: Annotated[str, Field(min_length=1, max_length=200)]
    review_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    ng_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    learn_frames: Annotated[int, Field(ge=10, le=100_000)] | None = None
    min_region_px: Annotated[int, Field(ge=1)] = 16

    @model_validator(mode="after")
    def _rates_in_order(self) -> Self:
        if self.ng_rate > self.review_rate:
            raise ValueError(
                f"ng_rate {self.ng_rate} must not be above review_rate {self.review_rate}"
            )
        return self


class ModelConfig(Section):
    """Which trained detector runs, and where.

    Attributes:
        checkpoint: Folder with weights.safetensors and card.json; None is the embedded default.
        device: `auto` takes a CUDA device if there is one.
        threads: CPU threads of the detector; None leaves it to torch.
    """

    checkpoint: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] | None = None


class BatchConfig(Section):
    """A batch leaves when it is full or its oldest frame has waited long enough."""

    max_batch_size: Annotated[int, Field(ge=1, le=256)] = 8
    max_queue_delay_ms: Annotated[float, Field(ge=0, le=10_000)] = 40.0


class QueueConfig(Section):
    """The queue between sockets and detector.

    Attributes:
        drop_policy: When it is full: `drop_oldest` keeps what is freshest, `drop_newest` keeps
            what came first, `block` stops reading the sockets (right for `pull`).
    """

    max_frames: Annotated[int, Field(ge=1, le=10_000)] = 64
    drop_policy: Literal["drop_oldest", "drop_newest", "block"] = "drop_oldest"


class LimitsConfig(Section):
    """Bounds on what a frame may cost.

    Attributes:
        max_clock_skew_s: A capture time further ahead of the daemon's clock is an error.
    """

    max_payload_bytes: Annotated[int, Field(ge=1024, le=1 << 31)] = 64 << 20
    max_pixels: Annotated[int, Field(ge=1024, le=400_000_000)] = 32_000_000
    max_clock_skew_s: Annotated[float, Field(gt=0)] = 60.0


class StorageConfig(Section):
    """Where results go.

    Attributes:
        url: SQLAlchemy URL; `sqlite:///relative.db` is relative to the configuration file.
            `${NAME}` is replaced by the environment variable NAME, so no password stands here.
        thumbnail_px: Longer side of stored pictures.
        thumbnails: Which verdicts get pictures.
    """

    url: str
    thumbnail_px: Annotated[int, Field(ge=32, le=1024)] = 256
    thumbnails: tuple[Literal["OK", "NG", "REVIEW", "LEARNING"], ...] = ("NG", "REVIEW", "OK")
    max_results: Annotated[int, Field(ge=1, le=10_000)] = 256


class ShiftConfig(Section):
    """One shift by local wall-clock time; it ends where the next begins."""

    name: Name
    start: time


class LogConfig(Section):
    """`json` for machines and the journal, `text` for a terminal."""

    format: Literal["json", "text"] = "json"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Config(Section):
    """The whole configuration of one daemon."""

    line: Name
    timezone: str
    run_dir: Path
    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    cameras: Annotated[dict[Name, CameraConfig], Field(min_length=1)]
    categories: Annotated[dict[Name, CategoryConfig], Field(min_length=1)]
    storage: StorageConfig
    shifts: Annotated[tuple[ShiftConfig, ...], Field(min_length=1)]
    model: ModelConfig = ModelConfig()
    batch: BatchConfig = BatchConfig()
    queue: QueueConfig = QueueConfig()
    limits: LimitsConfig = LimitsConfig()
    log: LogConfig = LogConfig()

    @field_validator("timezone")
    @classmethod
    def _is_iana_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"{value!r} is not an IANA time zone such as Europe/Berlin")
        return value

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name, camera in self.cameras.items():
            if camera.category is not None and camera.category not in self.categories:
                raise ValueError(f"camera {name!r}: category {camera.category!r} is not configured")
        for source in self.sources:
            if source.camera is not None and source.camera not in self.cameras:
                raise ValueError(
                    f"source {source.endpoint!r}: camera {source.camera!r} is not configured"
                )
        names = [shift.name for shift in self.shifts]
        if len(set(names)) != len(names):
            raise ValueError(f"shift names repeat: {names}")
        starts = [shift.start for shift in self.shifts]
        if len(set(starts)) != len(starts):
            raise ValueError("two shifts start at the same time")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The line's time zone."""
        return ZoneInfo(self.timezone)
