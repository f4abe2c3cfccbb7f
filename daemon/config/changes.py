"""What differs between two configurations, and which of it a running daemon can take over."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeGuard

from daemon.config.line import Config

LIVE_KEYS = (
    "categories",
    "cameras",
    "shifts",  # read by the reports, not by the daemon
    "limits.max_pixels",
    "limits.max_clock_skew_s",
    "storage.thumbnail_px",
    "storage.thumbnails",
    "log.level",
)
"""Taken over at once; everything else was built into something at the start."""
ABSENT = "(absent)"
MAX_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs.

    Attributes:
        key: For example `categories.fabric.ng_rate`.
        old, new: As text; ABSENT where there is none.
    """

    key: str
    old: str
    new: str

    @property
    def needs_restart(self) -> bool:
        """Whether only a restart brings it into force."""
        return not any(self.key == live or self.key.startswith(f"{live}.") for live in LIVE_KEYS)

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def changes(old: Mapping[str, object], new: Mapping[str, object]) -> list[Change]:
    """Every setting that differs, in the order of the new configuration.

    Args:
        old, new: Configurations as `config_file.shown` gives them: plain values, secrets hidden.
    """
    return list(_differences(old, new, ""))


def with_live_changes(old: Config, new: Config) -> Config:
    """The old configuration with everything of the new one that may change while it runs."""
    limits, storage = new.limits, new.storage
    return old.model_copy(
        update={
            "categories": new.categories,
            "cameras": new.cameras,
            "shifts": new.shifts,
            "limits": old.limits.model_copy(
                update={
                    "max_pixels": limits.max_pixels,
                    "max_clock_skew_s": limits.max_clock_skew_s,
                }
            ),
            "storage": old.storage.model_copy(
                update={"thumbnail_px": storage.thumbnail_px, "thumbnails": storage.thumbnails}
            ),
            "log": old.log.model_copy(update={"level": new.log.level}),
        }
    )


def _differences(old: object, new: object, key: str) -> Iterator[Change]:
    """Down to what stands on one side only, and to values that are not mappings."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {**new, **old}:
            below = f"{key}.{name}" if key else str(name)
            yield from _differences(old.get(name, ABSENT), new.get(name, ABSENT), below)
    elif _is_sections(old) and _is_sections(new):
        pairs = zip_longest(old, new, fillvalue=ABSENT)
        for index, (before, after) in enumerate(pairs):
            yield from _differences(before, after, f"{key}[{index}]")
    elif old != new:
        yield Change(key, _shown(old), _shown(new))


def _is_sections(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        value = ", ".join(f"{name}: {_shown(inner)}" for name, inner in value.items())
    text = "none" if value is None else str(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."
