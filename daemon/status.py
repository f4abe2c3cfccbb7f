"""What the daemon says about itself to other processes: one small JSON file, replaced whole."""

import json
import os
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from daemon.core import LossReason, Severity, Stage, Verdict

STATUS_FILE = "status.json"
IN_FORCE_FILE = "config.json"
MAX_STATUS_BYTES = 4 << 20


class State(StrEnum):
    """Where the daemon is in its life."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


class SourceState(StrEnum):
    """What was heard of a source lately."""

    CONNECTING = "connecting"  # nothing yet
    FRESH = "fresh"
    STALE = "stale"  # nothing for longer than `stale_after_s`
    STOPPED = "stopped"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer daemon may say more


class CameraStatus(_Part):
    """Frames of one camera since the daemon started.

    received = inspected + lost without GAP + in flight; `sent = received + gaps`.

    Attributes:
        lost: By reason, GAP included; ERROR rows are in it under their reason.
        last_frame_utc: When the newest frame was received; None if none was.
    """

    received: int = 0
    inspected: int = 0
    lost: dict[LossReason, int] = {}
    last_frame_utc: datetime | None = None

    @property
    def gaps(self) -> int:
        """Frames that were sent but never received."""
        return self.lost.get(LossReason.GAP, 0)

    @property
    def lost_after_receipt(self) -> int:
        """Frames that were received but not inspected."""
        return sum(self.lost.values()) - self.gaps

    @property
    def in_flight(self) -> int:
        """Received, and neither inspected nor lost yet."""
        return self.received - self.inspected - self.lost_after_receipt


class SourceStatus(_Part):
    """One socket that frames arrive on.

    Attributes:
        last_message_utc: When anything was last heard, frame or beat; None if nothing was.
        publishers: Senders in a session with it; None where the transport has no sessions.
    """

    state: SourceState = SourceState.CONNECTING
    last_message_utc: datetime | None = None
    publishers: int | None = None


class ThreadStatus(_Part):
    """When a thread last showed progress, against how long it may take."""

    age_s: float
    max_age_s: float

    @property
    def is_alive(self) -> bool:
        """Whether it showed progress in time."""
        return self.age_s <= self.max_age_s


class StageStatus(_Part):
    """How long frames, or their batches, took in one stage since the start.

    Attributes:
        p50_s, p99_s: By a histogram's buckets; 10 seconds stand for anything longer.
    """

    p50_s: float
    p99_s: float


class ConfigStatus(_Part):
    """The configuration in force, and how the last `zsad reload` went.

    Attributes:
        sha256: Of the file that is in force, but for `needs_restart`.
        applied_utc: Since when.
        reloads: How often the daemon was asked to reload, refusals included.
        problems: Why the last reload was refused; empty if it was not.
        needs_restart: Changes that the file has and the daemon has not taken over.
    """

    file: str
    sha256: str
    applied_utc: datetime
    reloads: int = 0
    problems: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()


class ModelStatus(_Part):
    """Which model inspects, and which one waits beside it.

    Attributes:
        wanted: Named by the database, and being loaded; None where it is the one that inspects.
        watched_until_utc: Until then verdicts that leave their band take the model back.
        candidate: Scores live frames beside it; None without one.
        shadow_frames: Scored by the candidate, of `shadow_wanted`.
        waits_for: What keeps the candidate waiting, apart from frames.
    """

    version: str
    wanted: str | None = None
    watched_until_utc: datetime | None = None
    candidate: str | None = None
    shadow_frames: int = 0
    shadow_wanted: int = 0
    waits_for: str | None = None


class NightStatus(_Part):
    """How nightly training stands.

    Attributes:
        is_running: Whether its process runs now; `is_paused` while inspection is slow.
        state, due_utc, step, done, total, detail: Of the night that runs, or of the last one;
            None and empty before the first.
    """

    next_start_utc: datetime
    is_running: bool = False
    is_paused: bool = False
    state: str | None = None
    due_utc: datetime | None = None
    step: str = ""
    done: int = 0
    total: int = 0
    detail: str = ""


class StatusSnapshot(_Part):
    """The daemon at one instant.

    Attributes:
        database: URL without its password.
        model_version: None until the model is loaded.
        model: None on a line without `training:`, and until the first look at the database.
        config: None until the daemon has read it.
        night: None on a line that does not learn.
        sources: Every configured socket, by its endpoint.
        cameras: Every configured camera, and "(unknown)" for frames of no known camera.
        verdicts: By category.
        latency_p50_s, latency_p99_s: Frame to verdict over the last `latency_frames` frames.
        stages: Those that frames went through already, in the order of their way.
        batch_mean: Mean frames a batch; None before the first.
        troubles: Why frames cannot be handled now, by what is wrong; empty if nothing is.
        refused: Connections and messages without a right, by reason.
        events: Entries of the line's diary, by severity.
        counters: Everything else that is counted, by name.
    """

    v: Literal[1] = 1
    state: State
    pid: int
    line: str
    started_utc: datetime
    written_utc: datetime
    uptime_s: float
    database: str
    model_version: str | None = None
    model: ModelStatus | None = None
    config: ConfigStatus | None = None
    night: NightStatus | None = None
    sources: dict[str, SourceStatus] = {}
    cameras: dict[str, CameraStatus]
    verdicts: dict[str, dict[Verdict, int]]
    latency_frames: int = 0
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    stages: dict[Stage, StageStatus] = {}
    queue_frames: int = 0
    queue_limit: int
    batches: int = 0
    batch_mean: float | None = None
    threads: dict[str, ThreadStatus]
    troubles: dict[str, str] = {}
    refused: dict[str, int] = {}
    events: dict[Severity, int] = {}
    counters: dict[str, int]


def write_status(path: Path, snapshot: StatusSnapshot) -> None:
    """Replace the file; a reader sees the old one or the new one, never half of one.

    It is not synced to disk: it says nothing true after a power cut.

    Raises:
        OSError: if the folder is absent, read-only or full.
    """
    new = path.with_name(path.name + ".new")
    new.write_text(snapshot.model_dump_json(), encoding="utf-8")
    new.replace(path)


def read_status(path: Path) -> StatusSnapshot:
    """Read what `write_status` wrote.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not a status file.
    """
    with path.open("rb") as file:
        raw = file.read(MAX_STATUS_BYTES + 1)
    if len(raw) > MAX_STATUS_BYTES:
        raise ValueError(f"{path} is larger than {MAX_STATUS_BYTES} bytes")
    return StatusSnapshot.model_validate_json(raw)


def write_in_force(run_dir: Path, config: Mapping[str, object]) -> None:
    """Tell what the daemon works by, secrets hidden, as `write_status` tells how it is.

    Raises:
        OSError: as of `write_status`.
    """
    path = run_dir / IN_FORCE_FILE
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(config), encoding="utf-8")
    new.replace(path)


def read_in_force(run_dir: Path) -> Mapping[str, object] | None:
    """What `write_in_force` wrote; None where nothing can be read."""
    try:
        with (run_dir / IN_FORCE_FILE).open("rb") as file:
            found = json.loads(file.read(MAX_STATUS_BYTES))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_process_alive(pid: int) -> bool:
    """Whether a process of that id exists, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists and is someone else's
        return True
    return True
