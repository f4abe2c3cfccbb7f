"""The whole line: camera programs, the daemon process, its database and its commands."""

import contextlib
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import time
from contextlib import closing

import cv2
import numpy as np
import pytest
import yaml
import zmq
from daemon_process import Line, wait_until

from daemon.ingest.publisher import FramePublisher

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

INSPECTED = "verdict IN ('OK', 'NG', 'REVIEW', 'LEARNING')"


def texture(seed: int) -> np.ndarray:
    """A woven-looking surface, different for each seed, without a defect."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(128, 40, (120, 160)).astype(np.float32), (5, 5), 1.5)
    return cv2.merge([np.clip(noise, 0, 255).astype(np.uint8)] * 3)


def decided(line: Line) -> int:
    return line.count(f"SELECT count(*) FROM inspection WHERE {INSPECTED}")


def test_two_cameras_end_as_rows_report_and_clean_stop(line: Line) -> None:
    line.start()
    with (
        FramePublisher(line.endpoint, "cam1", category="fabric", mode="connect") as cam1,
        FramePublisher(line.endpoint, "cam2", category="tile", mode="connect") as cam2,
    ):
        assert cam1.wait_for_subscriber(10)
        assert cam2.wait_for_subscriber(10)
        for seed in range(20):
            cam1.send(texture(seed), part_id=f"part-{seed}")
            cam2.send(texture(100 + seed))
        wait_until(lambda: decided(line) == 40, "40 inspections")
        wait_until(lambda: line.status().cameras["cam1"].inspected == 20, "the status file")
        status = line.command("status", "--config", str(line.config_path), "--json")

    assert line.stop() == 0
    assert json.loads(status.stdout)["status"]["cameras"]["cam1"]["received"] == 20
    verdicts = dict(
        line.query("SELECT category, count(*) FROM inspection WHERE verdict='LEARNING' GROUP BY 1")
    )
    assert verdicts == {"fabric": 10, "tile": 20}, "fabric calibrates after 10 frames, tile waits"
    assert line.count("SELECT count(*) FROM calibration") == 1
    assert line.count("SELECT count(*) FROM frame_loss") == 0
    assert line.count("SELECT count(*) FROM daemon_run WHERE stopped_utc IS NOT NULL") == 1
    assert line.query("SELECT part_id FROM inspection WHERE camera='cam1' AND seq=7") == [
        ("part-7",)
    ]


def test_systemd_hears_ready_watchdog_and_stopping(line: Line) -> None:
    address = line.endpoint.removeprefix("ipc://").removesuffix("frames") + "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(60)
        line.environment["NOTIFY_SOCKET"] = address
        line.start()
        heard = [manager.recv(4096).decode() for _ in range(2)]
        code = line.stop()
        manager.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while True:
                heard.append(manager.recv(4096).decode())

    assert code == 0
    assert heard[0].startswith("READY=1")
    assert heard[1] == "WATCHDOG=1"
    assert any(message.startswith("STOPPING=1") for message in heard)


def test_bad_input_costs_its_frame_and_the_next_is_inspected(line: Line) -> None:
    line.settings["limits"] = {"max_pixels": 1_000_000, "max_payload_bytes": 2_000_000}
    line.start()
    good = texture(1)
    jpeg = cv2.imencode(".jpg", good)[1].tobytes()
    bomb = cv2.imencode(".png", np.zeros((4000, 4000), np.uint8))[1].tobytes()
    context = zmq.Context()
    sender = context.socket(zmq.XPUB)
    sender.linger = 2000
    sender.connect(line.endpoint)
    assert sender.poll(10_000), "the daemon subscribes"

    def header(seq: int, **changes: object) -> bytes:
        fields = {
            "v": 1,
            "camera": "cam1",
            "epoch": 7,
            "seq": seq,
            "ts_ns": time.time_ns(),
            "category": "tile",
            "encoding": "jpeg",
        }
        return json.dumps({**fields, **changes}).encode()

    raw = {"encoding": "raw", "dtype": "uint8", "shape": [10, 10], "pixel_format": "Mono8"}
    hour_ahead_ns = time.time_ns() + 3_600_000_000_000
    messages = [
        [os.urandom(40)],
        [b"t", os.urandom(200), jpeg],
        [b"t", b"[" * 4000, jpeg],
        [b"t", header(0), jpeg],
        [b"t", header(1), jpeg[: len(jpeg) // 2]],
        [b"t", header(2, encoding="png"), bomb],
        [b"t", header(3, **raw), b"\0" * 99],
        [b"t", header(4, **{**raw, "dtype": "float64"}), b"\0" * 800],
        [b"t", header(5, category="unheard-of"), jpeg],
        [b"t", header(6, camera="stranger"), jpeg],
        [b"t", header(6, ts_ns=hour_ahead_ns), jpeg],
        [b"t", header(6), jpeg],
        [b"t", header(7), jpeg],
    ]
    for message in messages:
        sender.send_multipart(message)

    wait_until(lambda: decided(line) == 2, "the two good frames")
    sender.close()
    context.term()
    assert line.stop() == 0
    errors = dict(line.query("SELECT seq, error_reason FROM inspection WHERE verdict='ERROR'"))
    assert errors == {
        1: "bad_payload",
        2: "too_large",
        3: "bad_payload",
        4: "bad_payload",
        5: "unknown_category",
        6: "clock",
    }
    losses = dict(line.query("SELECT reason, sum(frames) FROM frame_loss GROUP BY 1"))
    assert losses == {"bad_message": 3, "unknown_camera": 1, "duplicate": 1}
    assert sorted(line.query(f"SELECT seq FROM inspection WHERE {INSPECTED}")) == [(0,), (7,)]


def test_a_reload_during_the_start_ends_no_daemon(line: Line) -> None:
    line.settings["model"] = {"commissioning": True}
    line.write_config()
    line.process = subprocess.Popen([*line.program, "run", "--config", str(line.config_path)])
    wait_until((line.folder / "run" / "lock").exists, "the start to begin")

    line.process.send_signal(signal.SIGHUP)

    wait_until(line.is_ready, "the daemon to be ready")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = resource.prlimit(line.process.pid, resource.RLIMIT_NOFILE)
    assert found == (min(65_536, hard), hard), "no flood of connections takes the last descriptor"
    assert line.stop() == 0


def test_a_camera_that_outlived_a_week_without_the_daemon_has_no_gap(line: Line) -> None:
    line.settings["model"] = {"commissioning": True}
    for begin in (0, 3):
        line.start()
        with FramePublisher(line.endpoint, "cam1", mode="connect", epoch=77) as camera:
            assert camera.wait_for_subscriber(10)
            camera.skip(begin)
            for seed in range(3):
                camera.send(texture(seed), category="tile")
            wait_until(
                lambda begin=begin: line.count("SELECT count(*) FROM inspection") == begin + 3,
                "the frames",
            )
        assert line.stop() == 0
        with closing(sqlite3.connect(line.folder / "zsad.db")) as database, database:
            database.execute("UPDATE inspection SET received_utc = received_utc - 604800000000")

    assert line.query("SELECT reason, first_seq, last_seq FROM frame_loss") == []


def test_kill_9_and_restart_go_on_and_account_for_every_frame(line: Line) -> None:
    line.start()
    image = texture(3)
    sent = 0
    with FramePublisher(line.endpoint, "cam1", category="tile", mode="connect") as camera:
        assert camera.wait_for_subscriber(10)
        for _ in range(2):
            before = decided(line)
            for _ in range(30):
                camera.send(image)
            wait_until(lambda: decided(line) >= before + 5, "some of the frames")  # noqa: B023
            line.kill()
            for _ in range(5):
                camera.send(image)  # nobody listens
            line.start()
            assert camera.wait_for_subscriber(20)
        camera.send(image)
        last = camera.sent - 1
        wait_until(
            lambda: line.count(f"SELECT count(*) FROM inspection WHERE seq={last} AND {INSPECTED}"),
            "the frame after the last restart",
        )
        sent = camera.sent

    assert line.stop() == 0
    inspected = decided(line)
    gaps = line.count("SELECT sum(frames) FROM frame_loss WHERE reason='gap'")
    lost = line.count("SELECT sum(frames) FROM frame_loss WHERE reason<>'gap'")
    assert inspected + lost + gaps == sent
    assert gaps >= 10, "what was sent while nobody listened is counted"
    assert line.query("PRAGMA quick_check") == [("ok",)]
    starts = "SELECT severity, count(*) FROM event WHERE kind='started' GROUP BY 1 ORDER BY 1"
    assert line.query(starts) == [("info", 1), ("warning", 2)]


def test_stored_learning_frames_calibrate_a_running_line(line: Line) -> None:
    line.start()
    with FramePublisher(line.endpoint, "cam2", category="tile", mode="connect") as camera:
        assert camera.wait_for_subscriber(10)
        for seed in range(12):
            camera.send(texture(seed))
        wait_until(lambda: decided(line) == 12, "the learning frames")

        done = line.command("calibrate", "--config", str(line.config_path), "--category", "tile")

        wait_until(
            lambda: "category calibrated" in line.log_path.read_text(), "the daemon to take over"
        )
        camera.send(texture(1))
        wait_until(lambda: decided(line) == 13, "the frame after calibration")

    assert line.stop() == 0
    assert "12 stored LEARNING frames" in line.query("SELECT source FROM calibration")[0][0]
    assert "expect up to 7.7% false rejects" in done.stdout
    assert line.query("SELECT verdict FROM inspection WHERE seq=12") != [("LEARNING",)]


def test_a_mistyped_image_path_is_named_not_passed_over(line: Line) -> None:
    line.write_config()

    done = line.command(
        *("calibrate", str(line.folder / "god_parts")),
        *("--config", str(line.config_path), "--category", "tile"),
        check=False,
    )

    assert done.returncode == 2
    assert "god_parts" in done.stderr


def test_a_second_daemon_on_the_same_data_is_refused(line: Line) -> None:
    line.start()
    other = line.folder / "other.yaml"
    other.write_text(yaml.safe_dump(line.settings | {"run_dir": "other"}), encoding="utf-8")

    same_run_dir = line.command("run", "--config", str(line.config_path), check=False)
    same_database = line.command("run", "--config", str(other), check=False)

    assert (same_run_dir.returncode, same_database.returncode) == (2, 2)
    assert "another daemon runs in" in same_run_dir.stderr
    assert "another daemon uses" in same_database.stderr
    assert line.stop() == 0


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("model", {"checkpoint": "nowhere"}, ["nowhere"]),
        ("model", {"device": "cuda"}, ["CUDA"]),
        ("cameras", {"cam1": {"category": "tyle"}}, ["tyle", "daemon.yaml"]),
        ("storage", {"url": "sqlite:////proc/zsad.db"}, ["/proc"]),
        ("run_dir", "/proc/zsad", ["run_dir /proc/zsad", "cannot be written"]),
    ],
)
def test_a_start_that_cannot_work_ends_with_one_sentence(
    line: Line, section: str, value: object, words: list[str]
) -> None:
    if value == {"device": "cuda"} and os.path.exists("/dev/nvidia0"):  # noqa: PTH110
        pytest.skip("this machine has a CUDA device")
    line.settings[section] = value
    line.write_config()

    done = line.command("run", "--config", str(line.config_path), check=False)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_the_same_line_runs_on_postgresql(line: Line, postgres_url: str) -> None:
    line.settings["storage"] = {"url": postgres_url}
    line.write_config()
    refused = line.command("run", "--config", str(line.config_path), check=False)
    line.command("db", "upgrade", "--config", str(line.config_path))

    line.start()
    with FramePublisher(line.endpoint, "cam1", category="fabric", mode="connect") as camera:
        assert camera.wait_for_subscriber(10)
        for seed in range(15):
            camera.send(texture(seed))
        wait_until(lambda: line.status().cameras["cam1"].inspected == 15, "15 inspections")
    assert line.stop() == 0

    report = line.command(
        *("report", "range", "--config", str(line.config_path)),
        *("--from", "2026-01-01", "--format", "json"),
    )
    shown = json.loads(report.stdout)
    assert refused.returncode == 2
    assert "zsad db upgrade" in refused.stderr
    assert shown["totals"]["learning"] == 10
    assert shown["totals"]["inspected"] == shown["received"] == 15
    assert shown["is_ledger_balanced"]
