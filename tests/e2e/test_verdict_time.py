"""Verdicts come as fast while the database is away, its disk read-only or full, as before.

    pytest -m soak -s tests/e2e/test_verdict_time.py

A camera with the reliable transport sends at a steady rate, and a gate notes how long after its
capture it heard of each frame. The spool is on another disk than the database.
"""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
import zmq
from daemon_process import Line, wait_until
from own_disk import mounted
from sqlalchemy import create_engine, func, select

from daemon.ingest.reliable_publisher import ReliablePublisher
from daemon.storage.tables import FrameLossRow, InspectionRow

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(600)]

EVERY_S = 0.02
PHASE_S = 30.0
AFTER_S = 15.0
Outage = Callable[[], AbstractContextManager[None]]


class Camera:
    """Sends a frame every EVERY_S."""

    def __init__(self, endpoint: str) -> None:
        self.sent = 0
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> int:
        """Every frame is stored; how many there were."""
        self._stop.set()
        self._thread.join()
        return self.sent

    def _run(self) -> None:
        image = cv2.imencode(".jpg", np.full((48, 64), 127, np.uint8))[1].tobytes()
        with ReliablePublisher(
            self._endpoint, "cam1", category="tile", send_timeout_s=120.0
        ) as publisher:
            while not self._stop.wait(EVERY_S):
                publisher.send_encoded(image, "jpeg", captured_ns=time.time_ns())
                self.sent += 1
            assert publisher.wait_until_stored(120.0)


class Gate:
    """Hears verdicts; knows when and how late."""

    def __init__(self, endpoint: str) -> None:
        self.heard: list[tuple[datetime, float]] = []
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def p99_ms(self, begin: datetime, end: datetime) -> float:
        """Capture to gate, of frames captured in [begin, end)."""
        late_s = [seconds for captured_utc, seconds in self.heard if begin <= captured_utc < end]
        return float(np.percentile(late_s, 99)) * 1000

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.connect(self._endpoint)
            socket.subscribe(b"")
            while not self._stop.is_set():
                if socket.poll(200):
                    message = json.loads(socket.recv_multipart()[2])
                    captured_utc = datetime.fromisoformat(message["captured_utc"])
                    late_s = (datetime.now(UTC) - captured_utc).total_seconds()
                    self.heard.append((captured_utc, late_s))


@pytest.fixture
def steady(line: Line, tmp_path: Path) -> Line:
    """A line without a detector, whose spool and gate socket are where nothing breaks."""
    line.settings["sources"] = [{"endpoint": line.endpoint, "mode": "bind", "socket": "router"}]
    line.settings["model"] = {"commissioning": True}
    line.settings["queue"]["drop_policy"] = "block"
    line.settings["outputs"] = {"verdicts": {"endpoint": f"{line.endpoint}-verdicts"}}
    line.settings["storage"]["spool"] = {"dir": str(tmp_path / "spool")}
    return line


def run(line: Line, outage: Outage, name: str) -> None:
    """Three phases of one line; nothing may be lost or doubled, and the figures are printed."""
    line.start()
    gate = Gate(f"{line.endpoint}-verdicts")
    camera = Camera(line.endpoint)
    pause = threading.Event()
    wait_until(lambda: len(gate.heard) > 100, "the gate to hear")
    begin = datetime.now(UTC)
    pause.wait(PHASE_S)
    with outage():
        away = datetime.now(UTC)
        pause.wait(PHASE_S)
        assert is_spooling(line)
        until = datetime.now(UTC)
    back = datetime.now(UTC)
    wait_until(lambda: not is_spooling(line), "the spool to be empty")
    drained = datetime.now(UTC)
    pause.wait(AFTER_S)
    sent = camera.end()
    end = datetime.now(UTC)
    gate.end()
    assert line.stop() == 0

    before, during, after = (
        gate.p99_ms(*phase) for phase in ((begin, away), (away, until), (back, end))
    )
    print(
        f"{name}: {sent} frames, 0 lost, 0 twice, {sent - len(gate.heard)} not heard by the gate; "
        f"capture to gate p99 {before:.1f} ms before, {during:.1f} ms during, {after:.1f} ms "
        f"after; ratio {during / before:.2f}; spool empty "
        f"{(drained - back).total_seconds():.1f} s after it was back"
    )
    assert_stored_once(line, sent)


def is_spooling(line: Line) -> bool:
    status = line.status()
    return status is not None and status.counters["spool_batches_waiting"] > 0


def assert_stored_once(line: Line, sent: int) -> None:
    engine = create_engine(line.settings["storage"]["url"].replace("sql://", "sql+psycopg://"))
    with engine.connect() as connection:
        seqs = list(connection.scalars(select(InspectionRow.seq).order_by(InspectionRow.seq)))
        losses = connection.scalar(select(func.count()).select_from(FrameLossRow))
    engine.dispose()
    assert (seqs, losses) == (list(range(sent)), 0)


def test_postgresql_away_for_thirty_seconds(
    steady: Line, postgres_url: str, postgres_outage: Outage
) -> None:
    steady.settings["storage"]["url"] = postgres_url
    steady.write_config()
    steady.command("db", "upgrade", "--config", str(steady.config_path))

    run(steady, postgres_outage, "PostgreSQL stopped")


def test_a_full_disk_under_the_database(steady: Line, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=48m", "tmpfs"):
        steady.settings["storage"]["url"] = f"sqlite:///{disk}/zsad.db"

        @contextmanager
        def full() -> Iterator[None]:
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, suppress(OSError):  # full
                while True:
                    file.write(bytes(1 << 16))
            yield
            filler.unlink()

        run(steady, full, "full disk")


def test_a_disk_that_turns_read_only_under_the_database(steady: Line, tmp_path: Path) -> None:
    """As ext4 does on an error of the drive; to be repaired, it needs the daemon stopped."""
    disk, image = tmp_path / "disk", tmp_path / "disk.img"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    with mounted(disk, "-o", "loop", str(image)):
        steady.settings["storage"]["url"] = f"sqlite:///{disk}/zsad.db"

        @contextmanager
        def read_only() -> Iterator[None]:
            subprocess.run(["mount", "-o", "remount,abort", disk], check=True)
            yield
            assert steady.stop() == 0
            subprocess.run(["umount", disk], check=True)
            repaired = subprocess.run(["e2fsck", "-p", image], check=False)
            assert repaired.returncode in (0, 1)  # 1: errors corrected
            subprocess.run(["mount", "-o", "loop", image, disk], check=True)
            steady.start()

        run(steady, read_only, "read-only disk")
