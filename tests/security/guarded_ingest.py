"""A guarded ingest on a real port, its keys, and everything that came out of it."""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from daemon.core import FrameLoss
from daemon.ingest.frame_queue import FrameQueue
from daemon.ingest.subscriber import Subscriber
from daemon.security import allow_list
from daemon.security.allow_list import AllowedKey
from daemon.security.doorkeeper import Doorkeeper
from daemon.security.key_files import KeyPair, new_key_pair, write_key_pair

PATIENCE_S = 8.0


@dataclass
class Events:
    """Sentences of the diary, which a test can wait for."""

    told: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def note(self, detail: str) -> None:
        with self.changed:
            self.told.append(detail)
            self.changed.notify_all()

    def turn(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def wait_for(self, is_reached: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(is_reached, PATIENCE_S), self.told

    def wait_for_words(self, words: str) -> None:
        self.wait_for(lambda: any(words in event for event in self.told))


@dataclass
class Keys:
    """A folder of key files and the folder of allowed keys."""

    folder: Path
    server: KeyPair

    @property
    def allowed(self) -> Path:
        return self.folder / "allowed"

    def new(self, name: str, *cameras: str) -> Path:
        """Make a pair and allow it for some cameras; its secret file."""
        pair = new_key_pair()
        write_key_pair(pair, name, self.folder)
        for camera in cameras:
            allow_list.allow(self.allowed, AllowedKey(camera, pair.public, name))
        return self.folder / f"{name}.key_secret"


@dataclass
class GuardedIngest:
    """A subscriber in its thread."""

    subscriber: Subscriber
    frames: FrameQueue
    losses: list[FrameLoss]
    endpoint: str

    def received(self, camera: str | None = "cam1") -> int:
        return self.subscriber.counters().cameras[camera].received


OpenDoor = Callable[[], Doorkeeper]
StartGuarded = Callable[..., GuardedIngest]


def free_endpoint() -> str:
    """A port that was free a moment ago; the configuration takes no port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def run_until_stopped(run: Callable[[threading.Event], None]) -> Callable[[], None]:
    """Start `run(stop)` in a thread; what ends it and checks that it ended."""
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(stop,))
    thread.start()

    def finish() -> None:
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()

    return finish
