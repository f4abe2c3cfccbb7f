"""`zsad train nightly`: one night by hand, or as the daemon starts it."""

import argparse
import json
import signal
import threading
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console

from daemon.cli.line_database import add_line_arguments, open_line
from daemon.cli.output import progress_bar, warn
from daemon.config.line import Config
from daemon.config.training import TrainingConfig
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.training.night_end import Outcome
    from daemon.training.window import Night

NAME = "train nightly"
"""Two words, which `daemon.cli.main` hands over as one."""


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `train nightly`."""
    parser = subparsers.add_parser(
        NAME,
        help="learn from the labels as the daemon does at night; the same command goes on after "
        "an interruption",
    )
    add_line_arguments(parser)
    parser.add_argument(
        "--now",
        action="store_true",
        help="begin at once and do not stop at the end of training.window_end",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=_run_nightly)


def _run_nightly(args: argparse.Namespace) -> int:
    from sqlalchemy.exc import OperationalError

    from daemon.log import configure_logging
    from daemon.training.job import lower_priority, run_job

    with open_line(args) as (config, engine):
        configure_logging(config.log)
        training = _training(config)
        night = None if args.now else _this_night(config, training)
        lower_priority(training)
        stop = threading.Event()
        _stop_on_signals(stop)
        now = datetime.now(UTC)
        with progress_bar("night") as advance:
            try:
                outcome = run_job(
                    engine,
                    config,
                    due_utc=now if night is None else night.start_utc,
                    until_utc=None if night is None else night.end_utc,
                    now=lambda: datetime.now(UTC),
                    stop=stop,
                    show=lambda step, done, total: advance(done, total, step),
                )
            except OperationalError as error:
                warn(f"the night ended, for the database is away: {error.orig}")
                return 1
    _print(outcome, as_json=args.json)
    return 1 if outcome.state in ("failed", "killed") else 0


def _training(config: Config) -> TrainingConfig:
    if config.training is None:
        raise ConfigError(
            "this line has no `training:` section, so it learns nothing: docs/nights.md says what "
            "belongs there"
        )
    return config.training


def _this_night(config: Config, training: TrainingConfig) -> "Night":
    from daemon.training.window import Window, latest_night, next_night

    window = Window(training.window_start, training.window_end, config.zone)
    now = datetime.now(UTC)
    night = latest_night(window, now)
    if not night.contains(now):
        begins = next_night(window, now).start_utc.astimezone(config.zone)
        raise ConfigError(
            f"training may run from {window.start:%H:%M} to {window.end:%H:%M} {config.timezone}, "
            f"next {begins:%Y-%m-%d %H:%M}: wait, or use --now"
        )
    return night


def _stop_on_signals(stop: threading.Event) -> None:
    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)


def _print(outcome: "Outcome", *, as_json: bool) -> None:
    report = None if outcome.report_json is None else json.loads(outcome.report_json)
    console = Console(soft_wrap=True)
    if as_json:
        facts = {
            "state": outcome.state.value,
            "detail": outcome.detail,
            "candidate": outcome.candidate,
            "report": report,
        }
        console.print_json(json.dumps(facts))
        return
    console.print(f"{outcome.state.value}: {outcome.detail}", markup=False, highlight=False)
    for finding in () if report is None else report["findings"]:
        mark = "ok " if finding["holds"] else "NOT"
        console.print(f"  {mark} {finding['text']}", markup=False, highlight=False)
