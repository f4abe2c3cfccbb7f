"""`zsad db`: schema revision and backup of the configured database."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from daemon.config_file import load_config

if TYPE_CHECKING:
    from sqlalchemy import Engine


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `db upgrade`, `db current` and `db backup`."""
    parser = subparsers.add_parser("db", help="upgrade, inspect or back up the database")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    upgrade = commands.add_parser("upgrade", help="create or upgrade the tables and views")
    upgrade.set_defaults(run=_run_upgrade)
    current = commands.add_parser("current", help="show the schema revision; exit 1 if not newest")
    current.set_defaults(run=_run_current)
    backup = commands.add_parser("backup", help="copy the database while the daemon runs")
    backup.add_argument("--out", type=Path, required=True, help="file to write; must not exist")
    backup.set_defaults(run=_run_backup)
    for command in (upgrade, current, backup):
        command.add_argument("--config", type=Path, required=True)


def _run_upgrade(args: argparse.Namespace) -> int:
    from daemon.storage import revision

    with _opened(args.config) as engine:
        before = revision.current_revision(engine)
        revision.upgrade(engine)
        after = revision.current_revision(engine)
    change = f"already at {after}" if before == after else f"{before or 'empty'} -> {after}"
    Console(soft_wrap=True).print(f"{_shown(engine)}: {change}", markup=False, highlight=False)
    return 0


def _run_current(args: argparse.Namespace) -> int:
    from daemon.storage import revision

    with _opened(args.config) as engine:
        current, newest = revision.current_revision(engine), revision.newest_revision()
    Console(soft_wrap=True).print(
        f"{_shown(engine)}: {current or 'empty'} (newest known: {newest})",
        markup=False,
        highlight=False,
    )
    return 0 if current == newest else 1


def _run_backup(args: argparse.Namespace) -> int:
    from daemon.storage.backup import back_up

    with _opened(args.config) as engine:
        back_up(engine.url, args.out)
    Console(soft_wrap=True).print(
        f"{args.out} ({args.out.stat().st_size:,} bytes)", markup=False, highlight=False
    )
    return 0


@contextmanager
def _opened(config_path: Path) -> "Iterator[Engine]":
    from daemon.storage.database import open_database

    config = load_config(config_path)
    engine = open_database(config.storage, config_path.resolve().parent, os.environ)
    try:
        yield engine
    finally:
        engine.dispose()


def _shown(engine: "Engine") -> str:
    return engine.url.render_as_string(hide_password=True)
