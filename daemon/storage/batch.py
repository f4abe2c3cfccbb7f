"""Results that are stored together, in one transaction or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from daemon.core import Calibration, Event, FrameLoss, Inspection, KeptFrame, ShadowScore
from daemon.storage import repository
from daemon.storage.database import write_transaction
from daemon.storage.repository import Stored

BATCH_SIZE = 256
"""Results in one transaction, about; PostgreSQL takes 64 at two thirds of the speed."""

Result = Inspection | FrameLoss | Calibration | Event | KeptFrame | ShadowScore


@dataclass(frozen=True, slots=True)
class Run:
    """One start of the daemon, by what any database can recognise it."""

    line: str
    started_utc: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """At most BATCH_SIZE results and a few notes; what the spool keeps as one record.

    Attributes:
        number: From 1, in the order in which batches are stored; with `run` it tells whether
            an earlier attempt was committed after all.
    """

    run: Run
    number: int
    results: tuple[Result, ...]


def commit_batches(engine: Engine, run_id: int, batches: Sequence[Batch]) -> Stored | None:
    """One transaction; None where an earlier attempt was committed after all.

    Batches that an earlier attempt has committed, in whatever company, are left out.

    Args:
        run_id: The row of their `run`.
        batches: At least one, of one run, in the order of their numbers.

    Raises:
        DBAPIError: Nothing was stored; `is_temporary` tells whether to try again.
        StorageError: The run or a model version is not in this database.
    """
    with write_transaction(engine) as connection:
        last_stored = repository.claim_batches(connection, run_id, batches[-1].number)
        new = [batch for batch in batches if batch.number > last_stored]
        if not new:
            return None
        results = [item for batch in new for item in batch.results]
        for item in results:
            if isinstance(item, Calibration):
                repository.add_calibration(connection, item)
        others = [item for item in results if not isinstance(item, Calibration)]
        return repository.add_results(connection, batches[0].run.line, others)
