"""Results that are stored together, in one transaction or not at all."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from daemon.core import Calibration, Event, FrameLoss, Inspection
from daemon.storage import repository
from daemon.storage.database import write_transaction
from daemon.storage.repository import Stored

BATCH_SIZE = 64

Result = Inspection | FrameLoss | Calibration | Event


@dataclass(frozen=True, slots=True)
class Run:
    """One start of the daemon, by what any database can recognise it."""

    line: str
    started_utc: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """At most BATCH_SIZE results and a few notes.

    Attributes:
        number: From 1, in the order in which batches are stored; with `run` it tells whether
            an earlier attempt was committed after all.
    """

    run: Run
    number: int
    results: tuple[Result, ...]


def commit_batch(engine: Engine, run_id: int, batch: Batch) -> Stored | None:
    """One transaction; None where an earlier attempt was committed after all.

    Args:
        run_id: The row of `batch.run`.

    Raises:
        DBAPIError: Nothing was stored; `is_temporary` tells whether to try again.
        StorageError: The run or a model version is not in this database.
    """
    with write_transaction(engine) as connection:
        if not repository.claim_batch(connection, run_id, batch.number):
            return None
        for item in batch.results:
            if isinstance(item, Calibration):
                repository.add_calibration(connection, item)
        others = [item for item in batch.results if not isinstance(item, Calibration)]
        return repository.add_results(connection, batch.run.line, others)
