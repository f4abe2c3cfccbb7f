"""The YAML configuration as frozen pydantic models. Reads no file; `daemon.config_file` does."""

import difflib
import re
from datetime import time
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

MAX_IPC_PATH_BYTES = 107
"""What fits into a Unix socket address on Linux, without the closing NUL (unix(7))."""


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError(
            "is not a name: use 1 to 64 letters, digits, '_', '.', '-', a letter or digit first"
        )
    return value


def _endpoint(value: str) -> str:
    scheme, _, address = value.partition("://")
    match scheme:
        case "tcp":
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal() or not 1 <= int(port[:6]) <= 65535:
                raise ValueError("is not tcp://HOST:PORT with a port from 1 to 65535")
        case "ipc":
            if not address.startswith(("/", "@")):
                raise ValueError("is not ipc:///ABSOLUTE/PATH (or ipc://@NAME)")
            if len(address.encode()) > MAX_IPC_PATH_BYTES:
                raise ValueError(
                    f"has a path of {len(address.encode())} bytes, the system's limit is "
                    f"{MAX_IPC_PATH_BYTES}: use a shorter folder"
                )
        case "inproc" if address:
            pass
        case _:
            raise ValueError("is not a ZeroMQ endpoint: use tcp://HOST:PORT or ipc:///PATH")
    return value


def _local_time(value: object) -> object:
    """Only HH:MM or HH:MM:SS: pydantic alone would read 6 as six seconds past midnight."""
    if isinstance(value, time) and value.tzinfo is None:
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", value):
        hour, minute, second = (int(part) for part in f"{value}:00".split(":")[:3])
        if hour < 24 and minute < 60 and second < 60:
            return time(hour, minute, second)
    raise ValueError("is not a time of day such as 06:00 (00:00 to 23:59, local time)")


Name = Annotated[str, AfterValidator(_name)]
"""A camera, category, line or shift: letters, digits, '_', '.', '-'; at most 64."""

Endpoint = Annotated[str, AfterValidator(_endpoint)]
"""A ZeroMQ address; ipc paths are absolute, since they must mean the same to the sender."""

LocalTime = Annotated[time, BeforeValidator(_local_time)]
"""A wall-clock time without a zone."""

Place = tuple[str | int, ...]
"""Keys and indices that lead from the top of the configuration to a value."""


class CrossCheckError(ValueError):
    """Sections that contradict each other.

    Attributes:
        problems: Where each is, and what is wrong there.
    """

    def __init__(self, problems: list[tuple[Place, str]]) -> None:
        super().__init__("; ".join(text for _, text in problems))
        self.problems = problems


class Section(BaseModel):
    """Frozen; an unknown key is an error. A section with nothing in it is all defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_empty(cls, value: object) -> object:
        return {} if value is None else value


class SourceConfig(Section):
    """One ZeroMQ socket that frames arrive on.

    Attributes:
        endpoint: For example `tcp://127.0.0.1:5555` or `ipc:///run/zsad/frames`.
        socket: `sub` may drop under load (gaps are counted), `pull` holds the sender back.
        mode: `connect` to publishers that bind (the default), or `bind`.
        camera: Camera name for imagezmq senders whose message names none.
    """

    endpoint: Endpoint
    socket: Literal["sub", "pull"] = "sub"
    mode: Literal["connect", "bind"] = "connect"
    camera: Name | None = None

    @model_validator(mode="after")
    def _connects_to_somewhere(self) -> Self:
        if self.mode == "connect" and self.endpoint.startswith(("tcp://*:", "tcp://0.0.0.0:")):
            raise CrossCheckError(
                [
                    (
                        ("endpoint",),
                        f"{self.endpoint!r} means every address, which only `mode: bind` can use: "
                        "name the host that publishes",
                    )
                ]
            )
        return self


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
            raise CrossCheckError(
                [
                    (
                        ("ng_rate",),
                        f"{self.ng_rate} is above review_rate {self.review_rate}: parts that are "
                        "NG are among those that are not OK",
                    )
                ]
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

    url: Annotated[str, Field(repr=False)]
    thumbnail_px: Annotated[int, Field(ge=32, le=1024)] = 256
    thumbnails: tuple[Literal["OK", "NG", "REVIEW", "LEARNING"], ...] = ("NG", "REVIEW", "OK")
    max_results: Annotated[int, Field(ge=1, le=10_000)] = 256

    @field_validator("url")
    @classmethod
    def _is_known_database(cls, value: str) -> str:
        known = ("sqlite://", "postgresql://", "postgresql+psycopg://", "${")
        if not value.startswith(known):
            raise ValueError(
                "is not a database this can use: write sqlite:///FILE or "
                "postgresql://USER:PASSWORD@HOST/DATABASE"
            )
        return value


class ShiftConfig(Section):
    """One shift by local wall-clock time; it ends where the next begins."""

    name: Name
    start: LocalTime


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
        zones = available_timezones()
        if value not in zones:
            close = difflib.get_close_matches(value, zones, n=1)
            hint = f"; did you mean {close[0]}?" if close else " such as Europe/Berlin"
            raise ValueError(f"is not an IANA time zone{hint}")
        return value

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if problems := [*self._unknown_names(), *self._repeated_values()]:
            raise CrossCheckError(problems)
        return self

    def _unknown_names(self) -> list[tuple[Place, str]]:
        problems: list[tuple[Place, str]] = []
        for name, camera in self.cameras.items():
            if camera.category is not None and camera.category not in self.categories:
                text = f"{camera.category!r} is not among the categories {list(self.categories)}"
                problems.append((("cameras", name, "category"), text))
        for index, source in enumerate(self.sources):
            if source.camera is not None and source.camera not in self.cameras:
                text = f"{source.camera!r} is not among the cameras {list(self.cameras)}"
                problems.append((("sources", index, "camera"), text))
        return problems

    def _repeated_values(self) -> list[tuple[Place, str]]:
        problems: list[tuple[Place, str]] = []
        seen: set[object] = set()
        places = [
            *((("sources", n, "endpoint"), s.endpoint) for n, s in enumerate(self.sources)),
            *((("shifts", n, "name"), s.name) for n, s in enumerate(self.shifts)),
            *((("shifts", n, "start"), s.start) for n, s in enumerate(self.shifts)),
        ]
        for place, value in places:
            kind = (place[0], place[2], value)
            if kind in seen:
                text = f"{str(value)!r} stands twice in {place[0]}: each needs its own {place[2]}"
                problems.append((place, text))
            seen.add(kind)
        return problems

    @property
    def zone(self) -> ZoneInfo:
        """The line's time zone."""
        return ZoneInfo(self.timezone)
