"""The whole configuration of one daemon: one line, its cameras and its product categories."""

import difflib
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from daemon.config.categories import CategoryConfig
from daemon.config.detector import BatchConfig, ModelConfig
from daemon.config.section import CrossCheckError, LocalTime, Name, Place, Section
from daemon.config.sources import CameraConfig, LimitsConfig, QueueConfig, SourceConfig
from daemon.config.storage import StorageConfig


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
