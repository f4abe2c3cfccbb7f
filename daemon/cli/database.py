"""`zsad db`: schema, backup, retention and readers of the configured database."""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from daemon.config_file import load_config

if TYPE_CHECKING:
    from sqlalchemy import Engine


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `db upgrade`, `current`, `backup`, `prune` and `grant-reader`."""
    parser = subparsers.add_parser("db", help="upgrade, inspect or back up the database")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    upgrade = commands.add_parser("upgrade", help="create or upgrade the tables and views")
    upgrade.set_defaults(run=_run_upgrade)
    current = commands.add_parser("current", help="show the schema revision; exit 1 if not newest")
    current.set_defaults(run=_run_current)
    backup = commands.add_parser("backup", help="copy the database while the daemon runs")
    backup.add_argument("--out", type=Path, required=True, help="file to write; must not exist")
    backup.set_defaults(run=_run_backup)
    prune = commands.add_parser("prune", help="remove what is older than `retention` says, now")
    prune.add_argument("--dry-run", action="store_true", help="only count what would go")
    prune.add_argument(
        "--clock-is-right", action="store_true", help="remove by age though the clock looks wrong"
    )
    prune.add_argument("--json", action="store_true", help="machine-readable output")
    prune.set_defaults(run=_run_prune)
    reader = commands.add_parser(
        "grant-reader", help="let a PostgreSQL role read everything and change nothing"
    )
    reader.add_argument("role", help="an existing role, made with CREATE ROLE")
    reader.add_argument("--apply", action="store_true", help="run the statements, not only show")
    reader.set_defaults(run=_run_grant_reader)
    for command in (upgrade, current, backup, prune, reader):
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


def _run_prune(args: argparse.Namespace) -> int:
    from daemon.storage import housekeeping, retention, revision
    from daemon.storage.forecast import forecast

    line_config, now = load_config(args.config), datetime.now(UTC)
    config = line_config.retention
    removed: Counter[tuple[str, str]] = Counter()
    freed = 0
    with _opened(args.config) as engine:
        revision.require_current(engine)
        is_confirmed = args.dry_run or _confirm_clock(
            engine, line_config.line, now, is_right=args.clock_is_right
        )
        if not is_confirmed:
            return 1
        if args.dry_run:
            with engine.connect() as connection:
                chunks: Iterable[retention.Removed] = retention.preview(
                    connection, retention.rules_of(config, now)
                )
        else:
            chunks = housekeeping.remove(engine, config, now, by_age=True)
        for chunk in chunks:
            removed[chunk.what, chunk.verdict] += chunk.count
            freed += chunk.picture_bytes
        if not args.dry_run:
            for _ in housekeeping.give_back(engine):
                pass
        with engine.connect() as connection:
            found = forecast(connection, config, now)
    if args.json:
        items = [{"what": w, "verdict": v, "count": n} for (w, v), n in sorted(removed.items())]
        answer = {"dry_run": args.dry_run, "removed": items, "picture_bytes": freed}
        sys.stdout.write(json.dumps(answer | {"forecast": asdict(found)}, indent=2) + "\n")
        return 0
    out = Console(soft_wrap=True)
    verb = "would remove" if args.dry_run else "removed"
    for (what, verdict), count in sorted(removed.items()):
        out.print(f"{verb} {count:,} {what} of {verdict} frames", markup=False, highlight=False)
    out.print(f"{verb} {freed:,} bytes of pictures", markup=False, highlight=False)
    out.print(housekeeping.describe(found), markup=False, highlight=False)
    return 0


def _confirm_clock(engine: "Engine", line: str, now: datetime, *, is_right: bool) -> bool:
    """Tell a running daemon to believe its clock; False where it looks wrong, and nobody said."""
    from daemon.storage import clock_guard
    from daemon.storage.database import write_transaction

    with write_transaction(engine) as connection:
        if is_right:
            clock_guard.confirm(connection, line, now)
            return True
        if (why_not := clock_guard.doubt(connection, line, now)) is None:
            clock_guard.believe(connection, line, now)
            return True
    text = f"zsad: {why_not}; nothing was removed. If the clock is right, add --clock-is-right"
    Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)
    return False


def _run_grant_reader(args: argparse.Namespace) -> int:
    from daemon.storage import readers

    with _opened(args.config) as engine:
        statements = readers.grant_statements(engine, args.role)
        if args.apply:
            readers.apply(engine, statements)
    out = Console(soft_wrap=True)
    for statement in statements:
        out.print(f"{statement};", markup=False, highlight=False)
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
