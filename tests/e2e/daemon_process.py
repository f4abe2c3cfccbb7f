"""The real daemon as a process, and what a test needs to talk to it and look into it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import create_engine, text

from daemon.status import StatusSnapshot, read_status

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    """The first true answer of `condition`; fails the test with `what` after the limit."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        pause.wait(0.05)
    pytest.fail(f"waited {timeout_s} s in vain for {what}")


class Line:
    """A configuration in a folder, and the daemon that runs it."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.folder = folder
        self.config_path = folder / "daemon.yaml"
        self.log_path = folder / "daemon.log"
        self.settings: dict[str, Any] = {
            "line": "line1",
            "timezone": "Europe/Berlin",
            "run_dir": "run",
            "sources": [{"endpoint": f"ipc://{sockets}/frames", "mode": "bind"}],
            "cameras": {"cam1": {}, "cam2": {}},
            "categories": {
                "fabric": {"class_name": "woven fabric", "learn_frames": 10},
                "tile": {"class_name": "floor tile"},
            },
            "storage": {"url": "sqlite:///zsad.db"},
            "shifts": [{"name": "day", "start": "06:00"}, {"name": "night", "start": "18:00"}],
            "model": {"threads": 2},
            "queue": {"max_frames": 500},
            "http": {"listen": "off"},
        }
        self.endpoint: str = self.settings["sources"][0]["endpoint"]
        self.environment = dict(os.environ)
        self.program = [sys.executable, "-m", "daemon"]
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run one `zsad` command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "daemon", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "COLUMNS": "120"},
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def write_config(self) -> None:
        self.config_path.write_text(yaml.safe_dump(self.settings), encoding="utf-8")

    def start(self) -> None:
        """Start the daemon and wait until it inspects."""
        self.write_config()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, "run", "--config", str(self.config_path)],
                stdout=log,
                stderr=log,
                env=self.environment,
            )
        wait_until(self.is_ready, "the daemon to be ready", START_TIMEOUT_S)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_path.read_text()
        status = self.status()
        return status is not None and status.state == "ready" and status.pid == self.process.pid

    def status(self) -> StatusSnapshot | None:
        try:
            return read_status(self.folder / "run" / "status.json")
        except FileNotFoundError:
            return None

    def kill(self) -> None:
        """kill -9, in the middle of whatever it does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=10)
        self.process = None

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(timeout=STOP_TIMEOUT_S)
        self.process = None
        return code

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        engine = create_engine(f"sqlite:///{self.folder / 'zsad.db'}")
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.execute(text(sql))]
        finally:
            engine.dispose()

    def count(self, sql: str) -> int:
        return int(self.query(sql)[0][0] or 0)
