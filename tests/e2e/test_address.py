"""Addresses that come up after the daemon, as a camera network may after a power cut."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import own_network
import pytest
from daemon_process import Line, wait_until

from daemon.ingest.publisher import FramePublisher

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

EVENTS = "SELECT kind, severity, detail FROM event WHERE kind NOT IN ('started') ORDER BY id"


@pytest.fixture
def lonely_line(line: Line) -> Line:
    """A line whose daemon starts before its network."""
    program = [sys.executable, str(Path(own_network.__file__)), str(line.folder)]
    if subprocess.run([*program, "--version"], check=False).returncode == own_network.NO_RIGHT:
        pytest.skip("no right to a network of its own")
    line.program = program
    return line


def test_what_has_no_address_yet_waits_for_it_and_the_rest_of_the_line_runs(
    lonely_line: Line,
) -> None:
    line = lonely_line
    late, gates, http = (f"{own_network.ADDRESS}:{own_network.PORT + port}" for port in range(3))
    line.settings |= {
        "model": {"commissioning": True},
        "sources": [
            *line.settings["sources"],
            {"endpoint": f"tcp://{late}", "mode": "bind", "socket": "pull", "allow_plain": True},
        ],
        "outputs": {"verdicts": {"endpoint": f"tcp://{gates}", "allow_plain": True}},
        "http": {"listen": http, "token": "${HOME}"},  # which the test does not need
        "cameras": {"cam1": {"category": "tile"}, "cam2": {"category": "tile"}},
    }
    cv2.imwrite(str(line.folder / "image.jpg"), np.eye(64, dtype=np.uint8) * 255)
    line.start()
    with FramePublisher(line.endpoint, "cam1", mode="connect") as camera:
        assert camera.wait_for_subscriber(10)
        camera.send_encoded((line.folder / "image.jpg").read_bytes(), "jpeg")
        wait_until(lambda: line.count("SELECT count(*) FROM inspection") == 1, "a frame over ipc")
    waiting = line.query(EVENTS)

    (line.folder / "up").touch()

    came = "SELECT count(*) FROM inspection WHERE camera = 'cam2'"
    wait_until(lambda: line.count(came) == 1, "a frame over the address that came up")
    wait_until(lambda: len(line.query(EVENTS)) == 6, "all to be bound")
    assert line.stop() == 0
    assert {(kind, severity) for kind, severity, _ in waiting} == {
        ("source_waits", "alarm"),
        ("output_fails", "alarm"),
        ("http_unavailable", "alarm"),
    }
    assert all("Is the network up?" in detail or "again" in detail for *_, detail in waiting)
    assert {(kind, severity) for kind, severity, _ in line.query(EVENTS)[3:6]} == {
        ("source_open", "info"),
        ("output_recovered", "info"),
        ("http_available", "info"),
    }
