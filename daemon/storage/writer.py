"""The one thread that writes to the database: takes results from a bounded queue, in batches.

When the queue is full, `put` blocks: the detector waits, and frames are dropped and counted at
the daemon's entrance, never here. A batch is one transaction; it is repeated while the database
is locked, full or away, and stored exactly once even where the answer to a COMMIT got lost.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from daemon.core import Calibration, Event, FrameLoss, Inspection
from daemon.errors import StorageError
from daemon.log import RateLimitedLog
from daemon.storage import repository
from daemon.storage.database import is_temporary, write_transaction
from daemon.storage.repository import Stored

logger = logging.getLogger(__name__)

BATCH_SIZE = 64
BATCH_WAIT_S = 0.2
"""How long a result may wait for company; also how often a blocked `put` looks around."""
FIRST_RETRY_S = 0.05
LAST_RETRY_S = 5.0
ABANDON_S = 10.0
"""After `stop` gave up: longer than one statement may wait for a lock."""

Result = Inspection | FrameLoss | Calibration | Event


@dataclass(frozen=True, slots=True)
class WriterCounters:
    """What has been committed since the start.

    Attributes:
        duplicates: Inspections left out because their frame had a row.
        retries: Failed attempts that were repeated.
    """

    inspections: int = 0
    losses: int = 0
    calibrations: int = 0
    duplicates: int = 0
    batches: int = 0
    retries: int = 0


class Writer:
    """Owns all writing while the daemon runs.

    Attributes:
        error: What killed the thread; None while it lives and after an orderly stop.
        counters: A consistent snapshot; replaced, never changed.
        last_progress: Monotonic seconds of the last turn of the loop. It also moves while the
            database is away, because a restart would not bring it back.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        line: str,
        max_results: int,
        on_failure: Callable[[], None],
        on_commit: Callable[[Sequence[Result]], None] | None = None,
    ) -> None:
        """Args are kept; nothing starts.

        Args:
            max_results: Bound of the queue.
            on_failure: Called once, in the dying thread.
            on_commit: Called in the thread after each commit, with the batch.
        """
        self.error: BaseException | None = None
        self.counters = WriterCounters()
        self.last_progress = time.monotonic()
        self._engine = engine
        self._line = line
        self._results: queue.Queue[Result] = queue.Queue(max_results)
        self._on_failure = on_failure
        self._on_commit = on_commit
        self._run_id = 0
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._warnings = RateLimitedLog(logger)

    @property
    def pending(self) -> int:
        """Results that wait in the queue."""
        return self._results.qsize()

    def start(self) -> None:
        """Note the daemon's start in the database and begin to write."""
        with write_transaction(self._engine) as connection:
            self._run_id = repository.start_run(connection, self._line, datetime.now(UTC))
        self._thread.start()

    def put(self, result: Result, *, on_wait: Callable[[], None] | None = None) -> None:
        """Hand over a result; blocks while the queue is full.

        Args:
            on_wait: Called several times a second while it blocks (a heartbeat).

        Raises:
            StorageError: The thread died or was stopped; the result was not taken.
        """
        while True:
            if self.error is not None:
                raise StorageError(f"the writer has died: {self.error}") from self.error
            if self._stopping.is_set():
                raise StorageError("the writer was stopped; nothing more can be stored")
            try:
                self._results.put(result, timeout=BATCH_WAIT_S)
            except queue.Full:
                if on_wait is not None:
                    on_wait()
            else:
                return

    def stop(self, timeout_s: float = 20.0) -> None:
        """Store what is queued, note the stop, end the thread. Call after the last `put`.

        Raises:
            StorageError: The thread died earlier, or the database stayed away for `timeout_s`.
        """
        self._stopping.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._abandoned.set()
            self._thread.join(ABANDON_S)
        if self.error is not None:
            raise StorageError(f"not everything was stored: {self.error}") from self.error
        if self._thread.is_alive():
            raise StorageError(f"the database does not answer; {self.pending} results not stored")

    def _run(self) -> None:
        try:
            for number in count(1):
                batch = self._next_batch()
                if not batch:
                    break
                self._store(number, batch)
            with write_transaction(self._engine) as connection:
                repository.stop_run(connection, self._run_id, datetime.now(UTC))
        except BaseException as error:
            self.error = error
            logger.exception("writer died", extra={"pending": self.pending})
            self._on_failure()

    def _next_batch(self) -> list[Result]:
        """Wait for a result and gather what follows; empty when stopped and drained."""
        batch: list[Result] = []
        leave_at = float("inf")
        while len(batch) < BATCH_SIZE:
            now = self.last_progress = time.monotonic()
            is_stopping = self._stopping.is_set()  # read before the queue: nothing is overlooked
            wait_s = min(BATCH_WAIT_S, max(0.0, leave_at - now))
            try:
                if is_stopping or wait_s == 0:
                    batch.append(self._results.get_nowait())
                else:
                    batch.append(self._results.get(timeout=wait_s))
            except queue.Empty:
                if is_stopping or batch:
                    break
                continue
            if len(batch) == 1:
                leave_at = time.monotonic() + BATCH_WAIT_S
        return batch

    def _store(self, number: int, batch: Sequence[Result]) -> None:
        """Repeat until the batch is committed; anything but a temporary error is raised."""
        wait_s = FIRST_RETRY_S
        while True:
            try:
                stored = self._write(number, batch)
            except DBAPIError as error:
                if not is_temporary(error):
                    raise
                self._note_retry(batch, error)
                if self._abandoned.wait(wait_s):
                    rest = len(batch) + self.pending
                    raise StorageError(f"{rest} results given up at stop: {error.orig}") from error
                wait_s = min(2 * wait_s, LAST_RETRY_S)
            else:
                break
        if stored is not None:
            self._note_stored(batch, stored)
        if self._on_commit is not None:
            self._on_commit(batch)

    def _write(self, number: int, batch: Sequence[Result]) -> Stored | None:
        """One transaction; None where an earlier attempt was committed after all."""
        frames = [item for item in batch if not isinstance(item, Calibration)]
        with write_transaction(self._engine) as connection:
            if not repository.claim_batch(connection, self._run_id, number):
                return None
            for item in batch:
                if isinstance(item, Calibration):
                    repository.add_calibration(connection, item)
            return repository.add_results(connection, self._line, frames)

    def _note_retry(self, batch: Sequence[Result], error: DBAPIError) -> None:
        self.last_progress = time.monotonic()
        self.counters = replace(self.counters, retries=self.counters.retries + 1)
        self._warnings.warning(
            "retry",
            "results wait for the database",
            rows=len(batch),
            pending=self.pending,
            error=str(error.orig),
        )

    def _note_stored(self, batch: Sequence[Result], stored: Stored) -> None:
        before = self.counters
        self.counters = replace(
            before,
            inspections=before.inspections + stored.inspections,
            losses=before.losses + stored.losses,
            calibrations=before.calibrations + sum(isinstance(item, Calibration) for item in batch),
            duplicates=before.duplicates + len(stored.duplicates),
            batches=before.batches + 1,
        )
