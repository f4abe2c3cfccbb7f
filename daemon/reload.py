"""The configuration in force, its history, and how another one takes its place.

Owned by the main thread. Knows no part of the line: `apply` tells them.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from daemon.config.changes import changes, with_live_changes
from daemon.config.line import Config
from daemon.config_file import (
    ConfigFile,
    ConfigFileError,
    read_config,
    shown,
    wrong_checkpoint,
)
from daemon.core import EventKind, Severity
from daemon.errors import CategoryModelError
from daemon.health import Health
from daemon.log import RateLimitedLog
from daemon.status import ConfigStatus, write_in_force
from daemon.storage import config_history
from daemon.storage.config_history import ConfigVersion
from daemon.storage.database import write_transaction

logger = logging.getLogger(__name__)

MAX_DETAIL_CHARS = 1000

Note = Callable[[EventKind, str, Severity], None]


class ConfigKeeper:
    """Keeps the old configuration whenever the new one is wrong.

    Attributes:
        in_force: What the daemon works by: of a reloaded file only what may change live.
    """

    def __init__(self, file: ConfigFile, engine: Engine, health: Health) -> None:
        """Note the configuration that the daemon starts with.

        Raises:
            OperationalError: the database cannot be written.
        """
        self.in_force: Config = file.config
        self._path = file.path
        self._engine = engine
        self._health = health
        self._warnings = RateLimitedLog(logger)
        self._unrecorded: ConfigVersion | None = None
        self._status = ConfigStatus(
            file=str(file.path), sha256=file.sha256, applied_utc=datetime.now(UTC)
        )
        self._show()
        self._record(_version(file, self.in_force, self._status.applied_utc))

    def reload(
        self,
        prepare: Callable[[Config], None],
        apply: Callable[[Config], None],
        note: Note,
    ) -> None:
        """Read the file again, and bring what may change into force, unless something is wrong.

        Args:
            prepare: Called first; what it raises (CategoryModelError, OperationalError) is wrong.
            apply: Called with what comes into force.
        """
        reloads = self._status.reloads + 1
        try:
            file = read_config(self._path)
            coming = with_live_changes(self.in_force, file.config)
            _prepare(prepare, coming, file)
        except (ConfigFileError, OperationalError) as error:
            problems = _problems(error)
            self._status = self._status.model_copy(
                update={"reloads": reloads, "problems": problems}
            )
            self._show()
            note(EventKind.CONFIG_REFUSED, _cut("; ".join(problems)), Severity.WARNING)
            logger.warning("configuration refused", extra={"problems": list(problems)})
            return
        found = changes(shown(self.in_force), shown(file.config))
        self.in_force = coming
        apply(self.in_force)
        now = datetime.now(UTC)
        live = [str(change) for change in found if not change.needs_restart]
        waiting = tuple(str(change) for change in found if change.needs_restart)
        self._status = ConfigStatus(
            file=str(file.path),
            sha256=file.sha256,
            applied_utc=now,
            reloads=reloads,
            needs_restart=waiting,
        )
        self._show()
        self._unrecorded = _version(file, self.in_force, now)
        self.record_again()
        if found:
            sentence = "; ".join(live) or "nothing that may change while the daemon runs"
            if waiting:
                sentence += f"; after a restart: {'; '.join(waiting)}"
            note(EventKind.CONFIG_CHANGED, _cut(sentence), Severity.INFO)
        logger.info("configuration reloaded", extra={"changed": live, "needs_restart": waiting})

    def record_again(self) -> None:
        """Note the configuration in force in the database, if that could not be done before."""
        if self._unrecorded is None:
            return
        try:
            self._record(self._unrecorded)
        except OperationalError as error:  # away or locked; asked again at the next look
            self._warnings.warning("config", "configuration not noted", error=str(error.orig))
        else:
            self._unrecorded = None

    def _record(self, version: ConfigVersion) -> None:
        with write_transaction(self._engine) as connection:
            config_history.record(connection, self.in_force.line, version)

    def _show(self) -> None:
        self._health.set_config(self._status)
        try:
            write_in_force(self.in_force.run_dir, shown(self.in_force))
        except OSError as error:  # only `zsad reload` reads it, to show what would change
            self._warnings.warning("config", "configuration not shown", error=str(error))


def _prepare(prepare: Callable[[Config], None], coming: Config, file: ConfigFile) -> None:
    try:
        prepare(coming)
    except CategoryModelError as error:
        raise wrong_checkpoint(file, error) from error


def _problems(error: ConfigFileError | OperationalError) -> tuple[str, ...]:
    if isinstance(error, ConfigFileError):
        return tuple(str(problem) for problem in error.problems)
    return (f"the database is away, reload again when it is back: {error.orig}",)


def _version(file: ConfigFile, in_force: Config, now: datetime) -> ConfigVersion:
    return ConfigVersion(
        applied_utc=now,
        sha256=file.sha256,
        file=str(file.path),
        text=file.text,
        recipes={name: category.recipe for name, category in in_force.categories.items()},
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_DETAIL_CHARS else f"{text[:MAX_DETAIL_CHARS]}..."
