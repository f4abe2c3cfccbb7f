import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import zmq
from numpy.typing import NDArray

from daemon.config.sources import CameraConfig, LimitsConfig, QueueConfig, SourceConfig
from daemon.core import Frame, FrameLoss, LossReason
from daemon.ingest.admission import ErrorFrame
from daemon.ingest.frame_queue import FrameQueue
from daemon.ingest.ledger import CameraCounters, IngestCounters
from daemon.ingest.sequence import Gap
from daemon.ingest.subscriber import Subscriber

PATIENCE_S = 20.0


@dataclass
class RunningIngest:
    """A subscriber in its thread, and everything that came out of it."""

    subscriber: Subscriber
    frames: FrameQueue
    stop: threading.Event
    losses: list[FrameLoss]
    errors: list[ErrorFrame]
    turned: threading.Condition
    thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        return self.subscriber.endpoints[0]

    def wait_for(self, is_reached: Callable[[IngestCounters], bool]) -> None:
        assert self._is_reached(is_reached, PATIENCE_S), self.subscriber.counters()

    def wait_for_received(self, frames: int, camera: str | None = "cam1") -> None:
        """Until so many messages were received and decided."""
        assert self.has_received(frames, camera, PATIENCE_S), self.subscriber.counters()

    def has_received(self, frames: int, camera: str | None, within_s: float) -> bool:
        def is_reached(counters: IngestCounters) -> bool:
            counted = counters.cameras[camera]
            return counted.received >= frames and counted.decoding == 0

        return self._is_reached(is_reached, within_s)

    def _is_reached(self, is_reached: Callable[[IngestCounters], bool], within_s: float) -> bool:
        with self.turned:
            return self.turned.wait_for(lambda: is_reached(self.subscriber.counters()), within_s)

    def camera(self, name: str | None = "cam1") -> CameraCounters:
        return self.subscriber.counters().cameras[name]

    def take_all(self) -> list[Frame]:
        return [self.frames.get_nowait() for _ in range(len(self.frames))]

    def finish(self) -> None:
        self.stop.set()
        assert self.thread is not None
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()

    def lost(self, reason: LossReason) -> int:
        return sum(loss.frames for loss in self.losses if loss.reason is reason)


StartIngest = Callable[..., RunningIngest]


@pytest.fixture
def start_ingest() -> Iterator[StartIngest]:
    started: list[RunningIngest] = []

    def start(
        *sources: SourceConfig,
        cameras: Mapping[str, CameraConfig] | None = None,
        queue: QueueConfig | None = None,
        limits: LimitsConfig | None = None,
        last_seqs: Mapping[tuple[str, int], int] | None = None,
        first_seqs: Mapping[tuple[str, int], int] | None = None,
        missing: Mapping[tuple[str, int], Sequence[Gap]] | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
        least_side: Callable[[str], int | None] = lambda _: None,
    ) -> RunningIngest:
        frames = FrameQueue(queue or QueueConfig(max_frames=1000), {})
        losses: list[FrameLoss] = []
        errors: list[ErrorFrame] = []
        turned = threading.Condition()

        def beat() -> None:
            with turned:
                turned.notify_all()

        subscriber = Subscriber(
            sources=sources,
            cameras=cameras or {"cam1": CameraConfig(), "cam2": CameraConfig(category="fabric")},
            categories=("fabric",),
            limits=limits or LimitsConfig(),
            frames=frames,
            on_loss=losses.append,
            on_error=errors.append,
            beat=beat,
            utc_now=utc_now,
            clock=time.monotonic,
            last_seqs=last_seqs,
            first_seqs=first_seqs,
            missing=missing,
            context=context,
            least_side=least_side,
        )
        running = RunningIngest(subscriber, frames, threading.Event(), losses, errors, turned)
        subscriber.open()
        running.thread = threading.Thread(target=subscriber.run, args=(running.stop,))
        running.thread.start()
        started.append(running)
        return running

    yield start
    for running in started:
        running.finish()


@pytest.fixture
def ipc_endpoints(tmp_path: Path) -> Iterator[str]:
    """Endpoints that no other test uses."""
    return (f"ipc://{tmp_path}/{number}" for number in itertools.count())


@pytest.fixture
def image() -> NDArray[np.uint8]:
    """BGR [24, 32, 3] with a different colour everywhere."""
    return np.random.default_rng(7).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def free_tcp_endpoint() -> str:
    """A port that was free a moment ago; the configuration takes no port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"
