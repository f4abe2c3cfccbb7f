"""The promise of the reliable transport, kept while either side is killed at random moments."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import Line, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CAMERA = Path(__file__).with_name("reliable_camera.py")


class Camera:
    """The camera program as a process that is started again after each kill."""

    def __init__(self, line: Line, rate: float) -> None:
        self.folder = line.folder
        self.words = [sys.executable, str(CAMERA), line.endpoint, str(line.folder), str(rate)]
        self.process: subprocess.Popen[bytes] | None = None

    def sent(self) -> list[tuple[int, int]]:
        """Epoch and number of the frames that the program was told are kept."""
        lines = (self.folder / "sent").read_text().splitlines()
        return [(int(epoch), int(seq)) for epoch, seq in (line.split() for line in lines)]

    def start(self) -> None:
        self.process = subprocess.Popen(self.words)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def finish(self) -> int:
        """Let it stop and wait until everything is stored; its exit code."""
        assert self.process is not None
        (self.folder / "enough").touch()
        return self.process.wait(120)


@pytest.fixture
def reliable(line: Line) -> Line:
    """A line without a detector on one acknowledging socket."""
    line.settings["sources"] = [{"endpoint": line.endpoint, "mode": "bind", "socket": "router"}]
    line.settings["model"] = {"commissioning": True}
    return line


@pytest.fixture
def cameras() -> Iterator[list[Camera]]:
    started: list[Camera] = []
    yield started
    for camera in started:
        if camera.process is not None and camera.process.poll() is None:
            camera.process.kill()
            camera.process.wait(10)


def kill_both_at_random(line: Line, camera: Camera, kills: int, seed: int) -> None:
    """`kills` times each side, in random order, after random pauses."""
    moments, pause = random.Random(seed), threading.Event()
    victims = ["daemon", "camera"] * kills
    moments.shuffle(victims)
    line.start()
    camera.start()
    for victim in victims:
        pause.wait(moments.uniform(0.0, 0.8))
        if victim == "daemon":
            line.kill()
            assert line.query("PRAGMA integrity_check") == [("ok",)]
            line.start()
        else:
            camera.kill()
            camera.start()
    assert camera.finish() == 0, "the camera program saw every frame stored"
    assert line.stop() == 0
    assert line.query("PRAGMA integrity_check") == [("ok",)]


def assert_all_stored_once(line: Line, camera: Camera) -> int:
    """How many frames there were."""
    sent = camera.sent()
    assert len(set(sent)) == len(sent), "no number was given twice"
    stored = line.query(
        "SELECT epoch, seq FROM inspection WHERE verdict='LEARNING' AND part_id='part-' || seq"
    )
    total = len(stored)
    assert set(sent) <= set(stored)
    # One more than noted for each kill between the outbox and the note.
    assert total - len(sent) <= 50
    assert len(set(stored)) == total == line.count("SELECT count(*) FROM inspection")
    assert line.query("SELECT epoch FROM inspection GROUP BY 1 HAVING max(seq) >= count(*)") == []
    assert line.query("SELECT reason, detail FROM frame_loss") == []
    return total


def report(line: Line) -> dict[str, object]:
    done = line.command(
        *("report", "range", "--config", str(line.config_path)),
        *("--from", "2026-01-01", "--format", "json"),
    )
    shown: dict[str, object] = json.loads(done.stdout)
    return shown


def test_kill_9_of_either_side_loses_and_doubles_nothing(
    reliable: Line, cameras: list[Camera]
) -> None:
    camera = Camera(reliable, rate=100.0)
    cameras.append(camera)

    kill_both_at_random(reliable, camera, kills=3, seed=5)

    total = assert_all_stored_once(reliable, camera)
    shown = report(reliable)
    assert shown["is_ledger_balanced"]
    assert shown["received"] == total


def test_frames_taken_before_the_daemon_exists_arrive_when_it_does(
    reliable: Line, cameras: list[Camera]
) -> None:
    camera = Camera(reliable, rate=200.0)
    cameras.append(camera)
    camera.start()
    wait_until(lambda: len([*reliable.folder.glob("outbox/*.frame")]) >= 50, "50 kept frames")
    camera.kill()

    reliable.start()
    camera.start()

    assert camera.finish() == 0
    wait_until(lambda: reliable.status().cameras["cam1"].inspected >= 50, "the status file")
    status = reliable.status()
    assert reliable.stop() == 0
    assert assert_all_stored_once(reliable, camera) >= 50
    assert status is not None
    assert status.model_version == "none (commissioning)"
    assert status.sources[reliable.endpoint].state == "fresh"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_kills_of_each_side(reliable: Line, cameras: list[Camera]) -> None:
    camera = Camera(reliable, rate=150.0)
    cameras.append(camera)

    kill_both_at_random(reliable, camera, kills=50, seed=50)

    total = assert_all_stored_once(reliable, camera)
    assert report(reliable)["is_ledger_balanced"]
    starts = reliable.count("SELECT count(*) FROM daemon_run")
    print(f"{total} frames through {starts} starts of the daemon: 0 lost, 0 twice")
