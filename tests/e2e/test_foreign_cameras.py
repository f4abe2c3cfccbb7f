"""Senders that this project did not write, streaming into the daemon itself."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import Line, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "basler_publisher.py"

IMAGEZMQ_SENDER = """
import json, sys, imagezmq, numpy
sender = imagezmq.ImageSender(connect_to=sys.argv[1], REQ_REP=False)
image = numpy.full((90, 120, 3), 90, numpy.uint8)
for line in sys.stdin:  # one frame a line, so that the test says when
    sender.send_image("cam2", image)
    sys.stdout.write("sent\\n")
    sys.stdout.flush()
"""


def need(package: str) -> None:
    """A missing camera package skips on a laptop and fails in CI.

    It is looked for, not imported: pylon's libraries and torch crash in one process.
    """
    if importlib.util.find_spec(package) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{package} is not installed")
        pytest.skip(f"{package} is not installed")


def test_basler_sdk_and_imagezmq_stream_into_one_daemon(line: Line, tmp_path: Path) -> None:
    need("pypylon")
    need("imagezmq")
    folder = line.endpoint.removesuffix("/frames")
    basler, imagezmq = f"{folder}/basler", f"{folder}/imagezmq"
    line.settings["sources"] = [{"endpoint": basler}, {"endpoint": imagezmq}]
    line.settings["cameras"] = {"cam1": {}, "cam2": {"category": "tile"}}
    line.start()

    sdk = subprocess.run(
        [
            sys.executable,
            str(EXAMPLE),
            *("--endpoint", basler, "--camera", "cam1", "--category", "fabric"),
            *("--size", "320", "240", "--rate", "15", "--count", "30"),
        ],
        env={**os.environ, "PYLON_CAMEMU": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    with subprocess.Popen(
        [sys.executable, "-c", IMAGEZMQ_SENDER, imagezmq],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as sender:
        assert sender.stdin is not None
        assert sender.stdout is not None

        def one_more_arrived() -> int:
            sender.stdin.write("\n")
            sender.stdin.flush()
            sender.stdout.readline()
            return line.count("SELECT count(*) FROM inspection WHERE camera='cam2'")

        # imagezmq cannot tell when somebody listens; after the first, none may be missing.
        arrived = wait_until(one_more_arrived, "the first imagezmq frame")
        for _ in range(10):
            sender.stdin.write("\n")
            sender.stdin.flush()
            sender.stdout.readline()
        wait_until(
            lambda: (
                line.count("SELECT count(*) FROM inspection WHERE camera='cam2'") >= arrived + 10
            ),
            "ten more imagezmq frames",
        )
        sender.stdin.close()
        sender.wait(timeout=10)

    assert sdk.returncode == 0, sdk.stderr
    assert "sent 30 of 30 frames" in sdk.stdout
    wait_until(
        lambda: line.count("SELECT count(*) FROM inspection WHERE camera='cam1'") == 30,
        "all frames of the emulated camera",
    )
    report = line.command(
        *("report", "range", "--config", str(line.config_path)),
        *("--from", "2026-01-01", "--format", "json"),
    )
    assert line.stop() == 0
    shown = json.loads(report.stdout)
    assert shown["is_ledger_balanced"]
    assert shown["received"] >= 30 + 11
    assert line.query(
        "SELECT DISTINCT width_px, height_px FROM inspection WHERE camera='cam1'"
    ) == [(320, 240)]
