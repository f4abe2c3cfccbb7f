import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from guarded_ingest import (
    Events,
    GuardedIngest,
    Keys,
    OpenDoor,
    StartGuarded,
    free_endpoint,
    run_until_stopped,
)

from daemon.config.sources import CameraConfig, LimitsConfig, QueueConfig, SourceConfig
from daemon.core import FrameLoss
from daemon.ingest.frame_queue import FrameQueue
from daemon.ingest.subscriber import Subscriber
from daemon.security.allow_list import AllowList
from daemon.security.doorkeeper import Doorkeeper
from daemon.security.key_files import new_key_pair, write_key_pair
from daemon.security.refusals import Refusals


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = Keys(tmp_path, new_key_pair())
    write_key_pair(made.server, "daemon", tmp_path)
    made.allowed.mkdir()
    return made


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def open_door(keys: Keys, events: Events) -> Iterator[OpenDoor]:
    """Starts a doorkeeper with the keys allowed by then; it ends after everything that uses it."""
    with ExitStack() as stack:

        def start() -> Doorkeeper:
            refusals = Refusals(events.note)
            door = Doorkeeper(keys.server, AllowList(keys.allowed), refusals, clock=time.monotonic)
            stack.callback(run_until_stopped(door.run))
            return door

        yield start


@pytest.fixture
def start_guarded(open_door: OpenDoor, events: Events) -> Iterator[StartGuarded]:
    with ExitStack() as stack:

        def start(limits: LimitsConfig | None = None, **source: object) -> GuardedIngest:
            endpoint = str(source.pop("endpoint", free_endpoint()))
            frames = FrameQueue(QueueConfig(max_frames=1000), {})
            losses: list[FrameLoss] = []
            subscriber = Subscriber(
                sources=[SourceConfig.model_validate({"endpoint": endpoint, **source})],
                cameras={"cam1": CameraConfig(category="fabric"), "cam2": CameraConfig()},
                categories=("fabric",),
                limits=limits or LimitsConfig(),
                frames=frames,
                on_loss=losses.append,
                on_error=lambda error: None,
                beat=events.turn,
                utc_now=lambda: datetime.now(UTC),
                clock=time.monotonic,
                door=open_door(),
            )
            subscriber.open()
            stack.callback(run_until_stopped(subscriber.run))
            return GuardedIngest(subscriber, frames, losses, endpoint)

        yield start
