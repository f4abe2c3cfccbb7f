"""`zsad run`: the daemon in the foreground, as systemd starts it."""

import argparse
import signal
from pathlib import Path


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `run`."""
    parser = subparsers.add_parser("run", help="inspect frames until SIGTERM or Ctrl-C")
    parser.add_argument("--config", type=Path, required=True)
    parser.set_defaults(run=_run_run)


def _run_run(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it asks for the file that is read next
    from daemon.config_file import read_config
    from daemon.log import configure_logging
    from daemon.ownership import refuse_foreign_daemon_package

    refuse_foreign_daemon_package()
    file = read_config(args.config)
    configure_logging(file.config.log)
    from daemon.app import run_daemon  # after the configuration is known to be good: torch is slow

    return run_daemon(file)
