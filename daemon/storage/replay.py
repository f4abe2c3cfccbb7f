"""At the start: what the last run left in the spool goes to the database before anything else."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from daemon.core import Event, EventKind
from daemon.errors import DatabaseAwayError, StorageError
from daemon.storage import repository
from daemon.storage.batch import BATCH_SIZE, Batch, Run, commit_batches
from daemon.storage.database import is_temporary, write_transaction
from daemon.storage.spool import Spool

logger = logging.getLogger(__name__)

RETRY_S = 0.5


@dataclass(slots=True)
class Replayed:
    """What became of the spool.

    Attributes:
        batches: In the database now, some of them since before the crash.
        rejected: Files with batches that the database refused for good.
    """

    batches: int = 0
    rejected: list[Path] = field(default_factory=list)


def replay(
    engine: Engine,
    spool: Spool,
    *,
    patience_s: float = 60.0,
    stop: threading.Event,
    clock: Callable[[], float] = time.monotonic,
) -> Replayed:
    """Store the spool's batches in order, each once, many in one transaction.

    Where the database refuses something for good, batches go one by one until it is found.

    Args:
        patience_s: How long the database may refuse one batch for a reason that passes.

    Raises:
        DatabaseAwayError: The database did not come back in time; the rest stays in the spool.
    """
    replayed = Replayed()
    run_ids: dict[Run, int] = {}
    at_once = BATCH_SIZE
    give_up_at = clock() + patience_s
    while spool.batches:
        try:
            batches = spool.oldest(at_once)
            _store(engine, batches, run_ids)
        except (DBAPIError, StorageError) as error:
            if isinstance(error, DBAPIError) and is_temporary(error):
                if clock() >= give_up_at or stop.wait(RETRY_S):
                    raise DatabaseAwayError(
                        f"{spool.batches} batches wait in {spool.folder}, and the database does "
                        f"not take them: {error.orig}"
                    ) from error
                continue
            if at_once > 1:
                at_once = 1
                continue
            replayed.rejected.append(_reject(spool, error))
            at_once = BATCH_SIZE
        else:
            for _ in batches:
                spool.remove_first()
            replayed.batches += len(batches)
        give_up_at = clock() + patience_s
    if replayed.batches:
        logger.info("spool of the last run stored", extra={"batches": replayed.batches})
    return replayed


def alarm_detail(paths: Iterable[Path]) -> str:
    """For the diary."""
    names = ", ".join(str(path) for path in paths)
    return f"not stored, and kept for a person to look at: {names}"


def _store(engine: Engine, batches: Sequence[Batch], run_ids: dict[Run, int]) -> None:
    run = batches[0].run
    if run not in run_ids:
        with write_transaction(engine) as connection:
            run_ids[run] = repository.adopt_run(connection, run.line, run.started_utc)
    commit_batches(engine, run_ids[run], batches)
    for item in (item for batch in batches for item in batch.results):
        if isinstance(item, Event) and item.kind is EventKind.STOPPED:  # it could not note that
            with write_transaction(engine) as connection:
                repository.stop_run(connection, run_ids[run], item.at_utc)


def _reject(spool: Spool, error: Exception) -> Path:
    path = spool.reject_first()
    logger.error("spooled batch put aside", extra={"file": str(path), "error": str(error)})
    return path
