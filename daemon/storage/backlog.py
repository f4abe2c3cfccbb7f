"""Where results wait for the database, in order: in memory, and on disk when that takes long.

The database thread takes batches with `next_batches` and gives them back with `done`. The spool
thread calls `spill`: while the database is away or slow it moves everything that waits to the
spool, the batch in the database thread's hands first, so that the order stays and all of it
survives a crash. Where the spool is full or its disk takes nothing, results stay in the queue,
and `put` waits.

A batch in the spool is small, what came in BATCH_WAIT_S, because cameras wait for it to be safe;
the database takes many of them in one transaction. Once those in its hands are the last of the
spool, new results wait in memory again: else a transaction of BATCH_WAIT_S would never see the end.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from daemon.log import RateLimitedLog
from daemon.storage.batch import BATCH_SIZE, Batch, Result, Run
from daemon.storage.disk_space import DiskSpace, Shed, count_pictures, without_pictures
from daemon.storage.spool import Spool, SpoolFullError

logger = logging.getLogger(__name__)

BATCH_WAIT_S = 0.2
"""How long a result may wait for company; also how often a blocked `put` looks around."""
SLOW_S = 1.0
"""A batch that takes the database longer than this sends the rest to the spool."""


@dataclass(frozen=True, slots=True)
class SpoolCounters:
    """What went through the spool since the start.

    Attributes:
        results: Kept on disk until the database took them.
        pictures_left_out: Of inspections, since the spool or its disk was getting full.
        is_full: Whether the last batch did not fit even without pictures.
    """

    results: int = 0
    pictures_left_out: int = 0
    is_full: bool = False


class Backlog:
    """Thread-safe; one database thread, one spool thread, any number that `put`.

    Attributes:
        crowded: Set when the queue is half full: the spool thread should look at once.
        counters: A consistent snapshot; replaced, never changed.
    """

    def __init__(self, run: Run, spool: Spool, space: DiskSpace, max_results: int) -> None:
        """`space` is that of the spool's disk."""
        self.crowded = threading.Event()
        self.counters = SpoolCounters()
        self._run = run
        self._spool = spool
        self._space = space
        self._queue: queue.Queue[Result] = queue.Queue(max_results)
        self._crowd = max(1, max_results // 2)
        self._lock = threading.Lock()
        self._notes: list[Result] = []
        self._number = 0
        self._current: tuple[Batch, ...] = ()
        self._current_since = 0.0
        self._is_current_spooled = False
        self._has_failed = False
        self._refused: Batch | None = None
        self._warnings = RateLimitedLog(logger)

    @property
    def in_memory(self) -> int:
        """Results that a crash would take with it, but for those of the batch being stored."""
        return self._queue.qsize() + len(self._refused.results if self._refused else ())

    @property
    def spooled_batches(self) -> int:
        """Batches on disk that the database has not taken yet."""
        return self._spool.batches

    @property
    def spool_bytes(self) -> int:
        """Size of the spool on disk."""
        return self._spool.size_bytes

    @property
    def is_calm(self) -> bool:
        """Whether there is time for something else."""
        return not self._spool.batches and self._queue.qsize() < self._crowd

    def put(self, result: Result) -> bool:
        """Whether it was taken; waits a moment while the queue is full."""
        try:
            self._queue.put(result, timeout=BATCH_WAIT_S)
        except queue.Full:
            return False
        if self._queue.qsize() >= self._crowd:
            self.crowded.set()
        return True

    def note(self, result: Result) -> None:
        """Put into the next batch; for the threads that empty the queue, and never waits."""
        with self._lock:
            self._notes.append(result)

    def next_batches(self, *, wait: bool, on_wait: Callable[[], None]) -> tuple[Batch, ...]:
        """What has waited longest, for one transaction; () if nothing came within BATCH_WAIT_S.

        Raises:
            StorageError, OSError: The spool cannot be read.
        """
        with self._lock:
            if batches := self._spool.oldest(BATCH_SIZE):
                return self._begin(batches, is_spooled=True)
            if (batch := self._refused) is not None:
                self._refused = None
                return self._begin((batch,), is_spooled=False)
        results = self._gather(wait=wait, on_wait=on_wait)
        with self._lock:
            if not results and not self._notes:
                return ()
            return self._begin((self._numbered(results),), is_spooled=False)

    def done(self) -> None:
        """The batches of the last `next_batches` are stored."""
        with self._lock:
            if self._is_current_spooled:
                for _ in self._current:
                    self._spool.remove_first()
            self._current = ()

    def failed(self) -> None:
        """The database keeps refusing the batches in its hands: all goes to the spool at once.

        Cameras with the reliable transport stop sending when nothing is acknowledged for long.
        """
        with self._lock:
            self._has_failed = True
        self.crowded.set()

    def spill(self) -> Sequence[Result]:
        """Move to the spool what waits, if the database is away or slow; what is safe now."""
        with self._lock:
            if not self._current:
                return ()  # the database thread is about to take the next
            is_slow = self._has_failed or time.monotonic() - self._current_since > SLOW_S
            is_crowded = self._queue.qsize() >= self._crowd
            behind = self._spool.batches - (len(self._current) if self._is_current_spooled else 0)
            if is_slow or is_crowded or self._refused or behind:
                return self._spill()
            return ()

    def spill_all(self) -> bool:
        """Move everything to the spool, for the next start; whether there was room."""
        with self._lock:
            self._spill()
            if self._notes and self._refused is None:
                self._keep(self._numbered([]))
            return self._refused is None and (not self._current or self._is_current_spooled)

    def _begin(self, batches: tuple[Batch, ...], *, is_spooled: bool) -> tuple[Batch, ...]:
        self._current, self._is_current_spooled = batches, is_spooled
        self._current_since = time.monotonic()
        self._has_failed = False
        return batches

    def _numbered(self, results: Sequence[Result]) -> Batch:
        self._number += 1
        batch = Batch(self._run, self._number, (*self._notes, *results))
        self._notes = []
        return batch

    def _gather(self, *, wait: bool, on_wait: Callable[[], None]) -> list[Result]:
        results: list[Result] = []
        leave_at = time.monotonic() + BATCH_WAIT_S
        while len(results) < BATCH_SIZE:
            on_wait()
            wait_s = leave_at - time.monotonic()
            try:
                if wait and wait_s > 0:
                    results.append(self._queue.get(timeout=wait_s))
                else:
                    results.append(self._queue.get_nowait())
            except queue.Empty:
                break
            if len(results) == 1:
                leave_at = time.monotonic() + BATCH_WAIT_S
        return results

    def _spill(self) -> list[Result]:
        """In the order of numbers: the batch being stored, a refused one, the queue."""
        safe: list[Result] = []
        if self._current and not self._is_current_spooled:
            (batch,) = self._current  # more come from the spool only
            self._is_current_spooled = self._keep(batch)
            if not self._is_current_spooled:
                return safe
            safe += batch.results
        if self._refused is not None:
            if not self._keep(self._refused):
                return safe
            safe += self._refused.results
            self._refused = None
        results = self._taken()
        while results:
            batch = self._numbered(results)
            if not self._keep(batch):
                self._refused = batch
                break
            safe += batch.results
            # the few that came during the fsync can wait for company
            results = self._taken() if len(results) == BATCH_SIZE else []
        return safe

    def _taken(self) -> list[Result]:
        results: list[Result] = []
        while len(results) < BATCH_SIZE:
            try:
                results.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return results

    def _keep(self, batch: Batch) -> bool:
        """Write into the spool, with fewer pictures where there is little room."""
        problem: Exception | None = None
        for shed in Shed:
            if shed < self._shed():
                continue
            lighter = without_pictures(batch.results, shed)
            try:
                self._spool.append(replace(batch, results=lighter))
            except (SpoolFullError, OSError) as error:
                problem = error
                continue
            self.counters = SpoolCounters(
                results=self.counters.results + len(lighter),
                pictures_left_out=self.counters.pictures_left_out
                + count_pictures(batch.results)
                - count_pictures(lighter),
            )
            return True
        self.counters = replace(self.counters, is_full=True)
        self._warnings.warning(
            "full",
            "spool takes nothing",
            folder=str(self._spool.folder),
            bytes=self._spool.size_bytes,
            max_bytes=self._spool.max_bytes,
            free_bytes=self._space.free_bytes(),
            error=str(problem),
        )
        return False

    def _shed(self) -> Shed:
        """Half full: no pictures of good parts; three quarters: none at all."""
        fill = self._spool.size_bytes / self._spool.max_bytes
        by_fill = Shed.ALL_PICTURES if fill >= 0.75 else Shed(int(fill >= 0.5))
        return max(by_fill, self._space.shed())
