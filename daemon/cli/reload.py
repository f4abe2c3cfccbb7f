"""`zsad reload`: show what a changed configuration file would change, and have it taken over."""

import argparse
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.config.changes import Change, changes
from daemon.config_file import read_config, shown
from daemon.errors import ConfigError
from daemon.status import (
    STATUS_FILE,
    ConfigStatus,
    State,
    StatusSnapshot,
    is_process_alive,
    read_in_force,
    read_status,
)

ANSWER_TIMEOUT_S = 15.0
LOOK_EVERY_S = 0.1


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `reload`."""
    parser = subparsers.add_parser(
        "reload", help="have the running daemon take over its changed configuration file"
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--dry-run", action="store_true", help="only show what would change")
    parser.set_defaults(run=_run_reload)


def _run_reload(args: argparse.Namespace) -> int:
    """0: in force; 1: no daemon answers; 2: the file is wrong, and the old one stays in force."""
    console = Console(soft_wrap=True)
    file = read_config(args.config)
    run_dir = file.config.run_dir
    snapshot = _running(run_dir)
    before = read_in_force(run_dir)
    if snapshot is None or snapshot.config is None or before is None:
        console.print(
            f"no daemon runs in {run_dir}: {args.config} is valid and holds from its next start",
            markup=False,
            highlight=False,
        )
        return 0 if args.dry_run else 1
    if Path(snapshot.config.file).resolve() != args.config.resolve():
        raise ConfigError(
            f"the daemon in {run_dir} reads {snapshot.config.file}, not {args.config}: "
            "name its own file"
        )
    _print_changes(console, changes(before, shown(file.config)))
    if args.dry_run:
        return 0
    answer = _ask(snapshot.pid, run_dir, snapshot.config.reloads)
    return _print_answer(console, answer, file.sha256)


def _running(run_dir: Path) -> StatusSnapshot | None:
    try:
        snapshot = read_status(run_dir / STATUS_FILE)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{run_dir / STATUS_FILE} cannot be read: {error}") from error
    is_ready = snapshot.state is State.READY and is_process_alive(snapshot.pid)
    return snapshot if is_ready else None


def _ask(pid: int, run_dir: Path, reloads: int) -> ConfigStatus | None:
    """Signal the daemon and wait for its answer; None if there is none in time."""
    try:
        os.kill(pid, signal.SIGHUP)
    except PermissionError as error:
        raise ConfigError(
            f"process {pid} belongs to another user: run this as root or as the daemon's user"
        ) from error
    except ProcessLookupError:
        return None
    pause = threading.Event()
    give_up_at = time.monotonic() + ANSWER_TIMEOUT_S
    while time.monotonic() < give_up_at:
        pause.wait(LOOK_EVERY_S)
        snapshot = _running(run_dir)
        if snapshot is None:
            return None
        if snapshot.config is not None and snapshot.config.reloads > reloads:
            return snapshot.config
    return None


def _print_changes(console: Console, found: Sequence[Change]) -> None:
    if not found:
        console.print("no setting differs from what is in force")
        return
    table = Table("setting", "in force", "in the file", "taken over")
    for change in found:
        when = "after a restart" if change.needs_restart else "at once"
        table.add_row(*(Text(cell) for cell in (change.key, change.old, change.new, when)))
    console.print(table)


def _print_answer(console: Console, answer: ConfigStatus | None, sha256: str) -> int:
    if answer is None:
        console.print(f"the daemon did not answer within {ANSWER_TIMEOUT_S:.0f} s; see its log")
        return 1
    if answer.problems:
        for problem in answer.problems:
            console.print(problem, markup=False, highlight=False)
        console.print("the daemon refused the file; what was in force stays in force")
        return 2
    if answer.sha256 != sha256:
        console.print("the file was changed again meanwhile: reload once more")
        return 1
    console.print(f"in force since {answer.applied_utc:%Y-%m-%d %H:%M:%S} UTC")
    for change in answer.needs_restart:
        console.print(f"waits for a restart: {change}", markup=False, highlight=False)
    return 0
