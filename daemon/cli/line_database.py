"""What the reading commands share: the configured line, its database, and times as people type."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.config.line import Config
from daemon.config_file import load_config
from daemon.credentials import Secrets
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Engine


def add_line_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --config and --line."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--line", help="must be the configuration's line; guards against a mix-up")


@contextmanager
def open_line(
    args: argparse.Namespace, *, may_create: bool = False
) -> Iterator[tuple[Config, "Engine"]]:
    """The configuration and an engine on its database, which must be at the current revision.

    Args:
        may_create: Create a SQLite database that is absent, as the daemon does at its start.

    Raises:
        ConfigError: unreadable, or for another line than --line.
        StorageError: the database cannot be used.
    """
    from daemon.storage import revision
    from daemon.storage.database import open_database

    config = load_config(args.config)
    if args.line is not None and args.line != config.line:
        raise ConfigError(
            f"--line {args.line!r}: {args.config} configures line {config.line!r}, whose shifts "
            "and time zone would be used; give that line's configuration"
        )
    engine = open_database(
        config.storage, args.config.resolve().parent, Secrets(os.environ), must_exist=not may_create
    )
    try:
        if may_create:
            revision.prepare(engine)
        else:
            revision.require_current(engine)
        yield config, engine
    finally:
        engine.dispose()


def local_instant(text: str, option: str, config: Config) -> datetime:
    """An ISO 8601 date or time; without an offset it is the line's local time.

    Raises:
        ConfigError: not such a time.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{option} {text!r} is not a time such as 2026-01-31 or 2026-01-31T06:00"
        ) from error
    return instant if instant.tzinfo else instant.replace(tzinfo=config.zone)
