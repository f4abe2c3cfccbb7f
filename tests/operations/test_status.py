import argparse
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from daemon.cli import operate
from daemon.core import FrameLoss, LossReason
from daemon.health import Health
from daemon.status import (
    MAX_STATUS_BYTES,
    STATUS_FILE,
    SourceState,
    SourceStatus,
    State,
    StatusSnapshot,
    read_status,
    write_status,
)

WriteConfig = Callable[..., Path]


def snapshot(*, age_s: float = 0.0, pid: int | None = None) -> StatusSnapshot:
    now_utc = datetime.now(UTC)
    health = Health(
        line="L1",
        cameras=["cam1"],
        categories=["fabric"],
        database="postgresql://zsad:***@db/zsad",
        queue_limit=64,
        clock=lambda: 100.0,
    )
    health.set_state(State.READY)
    health.set_model_version("aa_clip/v1")
    health.set_received("cam1", 12, now_utc)
    health.set_sources({"ipc:///run/frames": SourceStatus(state=SourceState.STALE, publishers=3)})
    health.count_loss(FrameLoss(LossReason.CLOCK, now_utc, "", "cam1"))
    status = health.snapshot(3761.0, now_utc - timedelta(seconds=age_s))
    return status.model_copy(update={"pid": os.getpid() if pid is None else pid})


def status_command(write_config: WriteConfig, *options: str) -> int:
    parser = argparse.ArgumentParser()
    operate.add_commands(parser.add_subparsers())
    path = write_config(("run_dir: run", "run_dir: ."))
    args = parser.parse_args(["status", "--config", str(path), *options])
    return int(args.run(args))


def gone_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = snapshot()

    write_status(tmp_path / STATUS_FILE, written)

    assert read_status(tmp_path / STATUS_FILE) == written
    assert [path.name for path in tmp_path.iterdir()] == [STATUS_FILE]


def test_an_absent_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_status(tmp_path / "absent" / STATUS_FILE, snapshot())


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 5000, b"\xff", b"x" * (MAX_STATUS_BYTES + 1)])
def test_a_damaged_file_is_a_value_error(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / STATUS_FILE).write_bytes(raw)

    with pytest.raises(ValueError, match=r".+"):
        read_status(tmp_path / STATUS_FILE)


def test_a_running_daemon_is_shown(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_status(tmp_path / STATUS_FILE, snapshot())

    assert status_command(write_config) == 0

    printed = capsys.readouterr().out
    facts = ("ready", "01:01:01", "aa_clip/v1", "zsad:***@db")
    for part in (*facts, "cam1", "12", "clock 1", "stale"):
        assert part in printed
    assert "unknown" not in printed


def test_json_carries_the_whole_snapshot(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_status(tmp_path / STATUS_FILE, snapshot())

    assert status_command(write_config, "--json") == 0

    printed = json.loads(capsys.readouterr().out)
    assert printed["running"] is True
    assert printed["status"]["cameras"]["cam1"]["lost"] == {"clock": 1}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (None, "the daemon is not running: there is no"),
        ("stale", "the daemon does not answer: its status is 60 s old"),
        ("gone", "the daemon is not running: process"),
        ("damaged", "cannot be read"),
    ],
)
def test_a_daemon_that_is_not_running_gives_exit_code_1(
    write_config: WriteConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: str | None,
    reason: str,
) -> None:
    path = tmp_path / STATUS_FILE
    match status:
        case "stale":
            write_status(path, snapshot(age_s=60))
        case "gone":
            write_status(path, snapshot(pid=gone_pid()))
        case "damaged":
            path.write_text("{")

    assert status_command(write_config, "--json") == 1

    printed = json.loads(capsys.readouterr().out)
    assert printed["running"] is False
    assert reason in printed["trouble"]


WATCH = """
import argparse, sys
from daemon.cli import operate
parser = argparse.ArgumentParser()
operate.add_commands(parser.add_subparsers())
args = parser.parse_args(sys.argv[1:])
sys.exit(args.run(args))
"""


def test_watch_ends_with_ctrl_c(write_config: WriteConfig) -> None:
    path = write_config(("run_dir: run", "run_dir: ."))
    command = [sys.executable, "-c", WATCH, "status", "--config", str(path), "--watch"]
    root = Path(operate.__file__).parents[2]
    environ = {**os.environ, "PYTHONPATH": str(root), "TTY_COMPATIBLE": "1", "COLUMNS": "200"}

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
    ) as process:
        assert isinstance(process.stdout, io.BufferedReader)
        shown = process.stdout.read1()  # the screen is in use: Ctrl-C is handled from here on
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)

    assert b"the daemon is not running" in shown + rest
    assert (process.returncode, errors) == (1, b"")
