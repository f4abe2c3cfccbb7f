"""A night in a process of its own that kills itself, with SIGKILL, at a step: FILE STEP."""

import os
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch

from daemon.config_file import load_config
from daemon.storage.database import open_database
from daemon.training import unseen
from daemon.training.job import run_job

NOW = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)


def main() -> None:
    file, wanted = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    unseen.PROCEDURAL = 6
    config = load_config(file)
    engine = open_database(config.storage, file.parent, os.environ)

    def show(step: str, done: int, total: int) -> None:
        del done, total
        if step == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    outcome = run_job(
        engine,
        config,
        due_utc=NOW,
        until_utc=None,
        now=lambda: NOW + timedelta(minutes=1),
        stop=threading.Event(),
        show=show,
    )
    print(outcome.state.value)


if __name__ == "__main__":
    main()
