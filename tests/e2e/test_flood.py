"""Sixteen cameras at full speed: every frame ends in one counted state, and memory stays put."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from daemon_process import Line, wait_until

from daemon.ingest.publisher import FramePublisher
from daemon.ingest.reliable_publisher import ReliablePublisher
from daemon.status import CameraStatus

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(1800)]

FRAMES = 100_000
CAMERAS = [f"cam{number}" for number in range(16)]
MOST_GROWTH = 1.05
Transport = Literal["sub", "pull", "router"]
Publisher = FramePublisher | ReliablePublisher


def open_publisher(endpoint: str, camera: str, transport: Transport) -> Publisher:
    if transport == "router":
        return ReliablePublisher(endpoint, camera, category="tile", send_timeout_s=60.0)
    return FramePublisher(
        endpoint,
        camera,
        category="tile",
        socket="pub" if transport == "sub" else "push",
        mode="connect",
        send_timeout_s=60.0,
    )


@contextmanager
def sending(publishers: list[Publisher], frames_each: int) -> Iterator[None]:
    """Every publisher sends in a thread of its own, as fast as it can."""
    image = cv2.imencode(".jpg", np.full((48, 64), 127, np.uint8))[1].tobytes()

    def send(publisher: Publisher) -> None:
        for _ in range(frames_each):
            publisher.send_encoded(image, "jpeg")

    threads = [threading.Thread(target=send, args=(publisher,)) for publisher in publishers]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def resident_mib(process: "subprocess.Popen[bytes]") -> float:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kib) / 1024


def cameras_of(line: Line) -> dict[str, CameraStatus]:
    status = line.status()
    assert status is not None
    return status.cameras


def settled(line: Line) -> int:
    """Frames that have come to an end: inspected or lost."""
    return sum(c.inspected + sum(c.lost.values()) for c in cameras_of(line).values())


@pytest.mark.parametrize("transport", ["sub", "pull", "router"])
def test_a_flood_is_counted_exactly_and_takes_no_memory(line: Line, transport: Transport) -> None:
    line.settings["sources"] = [{"endpoint": line.endpoint, "mode": "bind", "socket": transport}]
    line.settings["cameras"] = {camera: {} for camera in CAMERAS}
    line.settings["model"] = {"commissioning": True}
    line.settings["queue"]["drop_policy"] = "drop_oldest" if transport == "sub" else "block"
    line.start()
    assert line.process is not None
    frames_each = FRAMES // len(CAMERAS)

    with ExitStack() as stack:
        publishers = [open_publisher(line.endpoint, camera, transport) for camera in CAMERAS]
        for publisher in publishers:
            stack.callback(publisher.close)
        assert all(publisher.wait_for_subscriber(30) for publisher in publishers)
        with sending(publishers, frames_each):
            wait_until(lambda: settled(line) >= FRAMES // 10, "the first tenth", 600)
            early_mib = resident_mib(line.process)
        # While the publishers are open, their beats tell of frames that they dropped last.
        wait_until(lambda: settled(line) >= FRAMES, "every frame to be accounted for", 1200)
        late_mib = resident_mib(line.process)
    cameras = cameras_of(line)
    assert line.stop() == 0

    assert_adds_up(line, cameras, frames_each)
    gaps = sum(camera.gaps for camera in cameras.values())
    assert transport == "sub" or all(not camera.lost for camera in cameras.values())
    print(
        f"{transport}: {FRAMES} frames, {gaps} gaps, "
        f"{sum(camera.lost_after_receipt for camera in cameras.values())} lost after receipt; "
        f"{early_mib:.1f} MiB after a tenth, {late_mib:.1f} MiB at the end"
    )
    assert late_mib <= MOST_GROWTH * early_mib


def assert_adds_up(line: Line, cameras: dict[str, CameraStatus], frames_each: int) -> None:
    """In the daemon's own counts, in the report, and row by row in the database."""
    for camera in (cameras[name] for name in CAMERAS):
        assert camera.received + camera.gaps == frames_each
        assert camera.in_flight == 0
    done = line.command(
        *("report", "range", "--config", str(line.config_path)),
        *("--from", "2026-01-01", "--format", "json"),
    )
    assert json.loads(done.stdout)["is_ledger_balanced"]
    stored = dict(line.query("SELECT camera, count(*) FROM inspection GROUP BY camera"))
    lost = dict(line.query("SELECT camera, sum(frames) FROM frame_loss GROUP BY camera"))
    accounted = {camera: stored.get(camera, 0) + lost.get(camera, 0) for camera in CAMERAS}
    assert accounted == dict.fromkeys(CAMERAS, frames_each)
