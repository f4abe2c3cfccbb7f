"""The whole configuration of one daemon: one line, its cameras and its product categories."""

import difflib
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from daemon.config.categories import CategoryConfig
from daemon.config.detector import BatchConfig, ModelConfig
from daemon.config.frames import FramesConfig
from daemon.config.http import HttpConfig
from daemon.config.outputs import OutputsConfig, VerdictSocketConfig
from daemon.config.retention import RetentionConfig
from daemon.config.section import CrossCheckError, LocalTime, Name, Place, Section
from daemon.config.security import PLAIN_PROBLEM, SecurityConfig, is_local
from daemon.config.sources import CameraConfig, LimitsConfig, QueueConfig, SourceConfig
from daemon.config.storage import StorageConfig
from daemon.config.training import TrainingConfig


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
    outputs: OutputsConfig = OutputsConfig()
    retention: RetentionConfig = RetentionConfig()
    frames: FramesConfig | None = None
    training: TrainingConfig | None = None
    security: SecurityConfig | None = None
    http: HttpConfig = HttpConfig()
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
        if problems := self._problems():
            raise CrossCheckError(problems)
        return self

    def _problems(self) -> list[tuple[Place, str]]:
        return [
            *self._unknown_names(),
            *self._repeated_values(),
            *self._open_to_strangers(),
            *self._banks_without_a_place(),
            *self._training_without_frames(),
        ]

    def _banks_without_a_place(self) -> list[tuple[Place, str]]:
        text = "needs model.references_dir: a folder for the reference banks that outlasts a reboot"
        return [
            (("categories", name, "references"), text)
            for name, category in self.categories.items()
            if category.references and self.model.references_dir is None
        ]

    def _training_without_frames(self) -> list[tuple[Place, str]]:
        if self.training is None or self.frames is not None:
            return []
        return [(("training",), "needs `frames:`, a folder where labelled frames are kept")]

    def _open_to_strangers(self) -> list[tuple[Place, str]]:
        """Sockets that other machines reach and that ask for no key."""
        if self.security is not None:
            return []
        sockets: list[tuple[Place, SourceConfig | VerdictSocketConfig]] = [
            (("sources", index), source) for index, source in enumerate(self.sources)
        ]
        if self.outputs.verdicts is not None:
            sockets.append((("outputs", "verdicts"), self.outputs.verdicts))
        return [
            ((*place, "endpoint"), f"{socket.endpoint!r} {PLAIN_PROBLEM}")
            for place, socket in sockets
            if not (is_local(socket.endpoint) or socket.allow_plain)
        ]

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
    def shared_categories(self) -> dict[str, CategoryConfig]:
        """Those that the line's model inspects; each of the others has one of its own."""
        return {name: each for name, each in self.categories.items() if each.checkpoint is None}

    @property
    def own_checkpoints(self) -> tuple[Path, ...]:
        """Folders of the models that single categories have."""
        found = (category.checkpoint for category in self.categories.values())
        return tuple(dict.fromkeys(path for path in found if path is not None))

    @property
    def zone(self) -> ZoneInfo:
        """The line's time zone."""
        return ZoneInfo(self.timezone)
