"""The one thread that writes to the database, and the one that spools while the database is away.

A batch, or several from the spool, is one transaction; it is repeated while the database is
locked, full, read-only or away, and stored exactly once even where the answer to a COMMIT got
lost. Meanwhile results go to the spool. They are dropped nowhere: with the spool full `put`
blocks, the detector waits, and frames are dropped and counted at the daemon's entrance.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from daemon.core import Calibration, Event
from daemon.errors import StorageError
from daemon.log import RateLimitedLog
from daemon.storage import repository
from daemon.storage.backlog import BATCH_WAIT_S, Backlog, SpoolCounters
from daemon.storage.batch import Batch, Result, Run, commit_batches
from daemon.storage.database import is_disk_full, is_temporary, write_transaction
from daemon.storage.disk_space import DiskSpace, Shed, count_pictures, without_pictures
from daemon.storage.repository import Stored
from daemon.storage.spool import Spool
from daemon.storage.watch import StorageState, changes

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 0.05
LAST_RETRY_S = 2.0
ABANDON_S = 10.0
"""After `stop` gave up: longer than one statement may wait for a lock."""


@dataclass(frozen=True, slots=True)
class WriterCounters:
    """What has been committed since the start.

    Attributes:
        duplicates: Inspections left out because their frame had a row.
        retries: Failed attempts that were repeated.
        pictures_left_out: Of stored inspections, for want of disk space.
    """

    inspections: int = 0
    losses: int = 0
    calibrations: int = 0
    duplicates: int = 0
    batches: int = 0
    retries: int = 0
    pictures_left_out: int = 0


class Writer:
    """Owns all writing while the daemon runs.

    Attributes:
        error: What killed a thread; None while both live and after an orderly stop.
        counters: A consistent snapshot; replaced, never changed.
        last_progress: Monotonic seconds of the last turn of the loop. It also moves while the
            database is away, because a restart would not bring it back.
        state: How storing stands, as of the spool thread's last look.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        line: str,
        spool: Spool,
        reserve_bytes: int,
        max_results: int,
        on_failure: Callable[[], None],
        on_commit: Callable[[Sequence[Result]], None] | None = None,
        on_spooled: Callable[[Sequence[Result]], None] | None = None,
        on_store: Callable[[float], None] | None = None,
        maintain: Callable[[], Sequence[Event]] | None = None,
    ) -> None:
        """Args are kept; nothing starts.

        Args:
            spool: Open, and empty: `replay` comes first.
            reserve_bytes: What should stay free on the disks of spool and SQLite file.
            max_results: Bound of the queue in memory.
            on_failure: Called once, in the dying thread.
            on_commit: Called after each commit, with its results.
            on_spooled: Called when results are on disk by fsync, and not in the database yet.
            on_store: Called after each commit, with the seconds that the transaction took.
            maintain: Called between batches while little waits; does a little work each time,
                and returns what the diary should say.
        """
        self.error: BaseException | None = None
        self.counters = WriterCounters()
        self.last_progress = time.monotonic()
        self.state = StorageState()
        self._engine = engine
        self._run = Run(line, datetime.now(UTC))
        self._spool_space = DiskSpace(spool.folder, reserve_bytes)
        self._database_space = _space_of(engine, reserve_bytes)
        self._backlog = Backlog(self._run, spool, self._spool_space, max_results)
        self._on_failure = on_failure
        self._on_commit = on_commit
        self._on_spooled = on_spooled
        self._on_store = on_store
        self._maintain = maintain
        self._run_id = 0
        self._is_disk_full = False
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._finished = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=[work], name=name, daemon=True)
            for name, work in (("writer", self._store_all), ("spool", self._spool_all))
        ]
        self._warnings = RateLimitedLog(logger)

    @property
    def pending(self) -> int:
        """Results that wait in memory."""
        return self._backlog.in_memory

    @property
    def spool_counters(self) -> SpoolCounters:
        """What went through the spool."""
        return self._backlog.counters

    @property
    def pictures_left_out(self) -> int:
        """For want of disk space, on the way to the spool or to the database."""
        return self.counters.pictures_left_out + self.spool_counters.pictures_left_out

    @property
    def spooled_batches(self) -> int:
        """Batches on disk that the database has not taken yet."""
        return self._backlog.spooled_batches

    def start(self) -> None:
        """Note the daemon's start in the database and begin to write."""
        with write_transaction(self._engine) as connection:
            self._run_id = repository.start_run(connection, self._run.line, self._run.started_utc)
        for thread in self._threads:
            thread.start()

    def put(self, result: Result, *, on_wait: Callable[[], None] | None = None) -> None:
        """Hand over a result; blocks only while the queue is full and the spool takes nothing.

        Args:
            on_wait: Called several times a second while it blocks (a heartbeat).

        Raises:
            StorageError: A thread died or was stopped; the result was not taken.
        """
        while True:
            if self.error is not None:
                raise StorageError(f"the writer has died: {self.error}") from self.error
            if self._stopping.is_set():
                raise StorageError("the writer was stopped; nothing more can be stored")
            if self._backlog.put(result):
                return
            if on_wait is not None:
                on_wait()

    def stop(self, timeout_s: float = 20.0) -> None:
        """Store what waits, note the stop, end the threads. Call after the last `put`.

        What the database does not take in time stays in the spool for the next start.

        Raises:
            StorageError: A thread died earlier, or not even the spool took everything.
        """
        storing, spooling = self._threads
        self._stopping.set()
        storing.join(timeout_s)
        if storing.is_alive():
            self._abandoned.set()
            storing.join(ABANDON_S)
        self._finished.set()
        self._backlog.crowded.set()
        spooling.join(ABANDON_S)
        is_safe = self._backlog.spill_all()
        if self.error is not None:
            raise StorageError(f"not everything was stored: {self.error}") from self.error
        if not is_safe:
            raise StorageError(
                f"{self.pending} results given up at stop: neither database nor spool takes them"
            )
        if batches := self._backlog.spooled_batches:
            logger.warning("results wait in the spool", extra={"batches": batches})

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.error = error
            logger.exception("writer died", extra={"pending": self.pending})
            self._on_failure()

    # -- the database thread -------------------------------------------------------------------

    def _store_all(self) -> None:
        while True:
            is_stopping = self._stopping.is_set()  # read before the queue: nothing is overlooked
            batches = self._backlog.next_batches(wait=not is_stopping, on_wait=self._beat)
            if not batches and is_stopping:
                break
            if batches:
                if not self._store(batches):
                    return
                self._backlog.done()
            if not is_stopping and self._backlog.is_calm:
                self._maintain_a_little()
        self._note_stop()

    def _store(self, batches: Sequence[Batch]) -> bool:
        """Repeat until all are committed, at once; False if `stop` did not want to wait for that.

        Anything but a temporary error is raised.
        """
        wait_s = FIRST_RETRY_S
        shed = self._database_shed()
        while True:
            lighter = [
                replace(batch, results=without_pictures(batch.results, shed)) for batch in batches
            ]
            began_at = time.monotonic()
            try:
                stored = commit_batches(self._engine, self._run_id, lighter)
            except DBAPIError as error:
                if not is_temporary(error):
                    raise
                self._note_retry(error, is_first=wait_s == FIRST_RETRY_S)
                if is_disk_full(error):
                    self._is_disk_full = True
                    shed = Shed(min(shed + 1, Shed.ALL_PICTURES))
                if self._abandoned.wait(wait_s):
                    return False
                wait_s = min(2 * wait_s, LAST_RETRY_S)
            else:
                break
        self._is_disk_full = False
        if self._on_store is not None:
            self._on_store(time.monotonic() - began_at)
        if stored is not None:
            self._note_stored(batches, lighter, stored)
        if self._on_commit is not None:
            self._on_commit([item for batch in batches for item in batch.results])
        return True

    def _note_stop(self) -> None:
        """Everything is stored; a database that goes away now costs only this note."""
        try:
            with write_transaction(self._engine) as connection:
                repository.stop_run(connection, self._run_id, datetime.now(UTC))
        except DBAPIError as error:
            if not is_temporary(error):
                raise
            logger.warning("stop not noted", extra={"error": str(error.orig)})

    def _maintain_a_little(self) -> None:
        if self._maintain is None:
            return
        try:
            for event in self._maintain():
                self._backlog.note(event)
        except DBAPIError as error:
            if not is_temporary(error):
                raise
            self._warnings.warning("maintain", "maintenance postponed", error=str(error.orig))

    def _beat(self) -> None:
        self.last_progress = time.monotonic()

    def _note_retry(self, error: DBAPIError, *, is_first: bool) -> None:
        self._beat()
        if not is_first:  # once may be a blip
            self._backlog.failed()
        self.counters = replace(self.counters, retries=self.counters.retries + 1)
        self._warnings.warning(
            "retry",
            "results wait for the database",
            pending=self.pending,
            spooled_batches=self.spooled_batches,
            error=str(error.orig),
        )

    def _note_stored(
        self, batches: Sequence[Batch], lighter: Sequence[Batch], stored: Stored
    ) -> None:
        before = self.counters
        items = [item for batch in batches for item in batch.results]
        written = [item for batch in lighter for item in batch.results]
        calibrations = sum(isinstance(item, Calibration) for item in items)
        self.counters = replace(
            before,
            inspections=before.inspections + stored.inspections,
            losses=before.losses + stored.losses,
            calibrations=before.calibrations + calibrations,
            duplicates=before.duplicates + len(stored.duplicates),
            batches=before.batches + len(batches),
            pictures_left_out=before.pictures_left_out
            + count_pictures(items)
            - count_pictures(written),
        )

    # -- the spool thread ----------------------------------------------------------------------

    def _spool_all(self) -> None:
        while not self._finished.is_set():
            self._backlog.crowded.wait(BATCH_WAIT_S)
            self._backlog.crowded.clear()
            safe = self._backlog.spill()
            if safe and self._on_spooled is not None:
                self._on_spooled(safe)
            self._look_around()

    def _look_around(self) -> None:
        """Keep the diary of the disks; an entry waits with the results until it can be stored."""
        is_spooling = self.spooled_batches > 0
        now = StorageState(
            is_spooling=is_spooling,
            shed=max(
                self._database_shed(), self._spool_space.shed() if is_spooling else Shed.NOTHING
            ),
            is_blocked=self.spool_counters.is_full and self._backlog.in_memory > 0,
        )
        for event in changes(self.state, now, datetime.now(UTC)):
            logger.warning("storage", extra={"kind": event.kind, "detail": event.detail})
            self._backlog.note(event)
        self.state = now

    def _database_shed(self) -> Shed:
        by_space = Shed.NOTHING if self._database_space is None else self._database_space.shed()
        return max(by_space, Shed.OK_PICTURES if self._is_disk_full else Shed.NOTHING)


def _space_of(engine: Engine, reserve_bytes: int) -> DiskSpace | None:
    """A SQLite file's disk; that of a PostgreSQL server is not ours to see."""
    if engine.dialect.name != "sqlite":
        return None
    return DiskSpace(Path(str(engine.url.database)).parent, reserve_bytes)
