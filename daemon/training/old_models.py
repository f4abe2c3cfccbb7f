"""Makes room on the disk: only models that may be needed again stay."""

import logging
from datetime import datetime

from sqlalchemy import Engine

from daemon.storage import models
from daemon.storage.database import write_transaction
from daemon.storage.models import ModelChangeKind
from daemon.training.model_store import ModelStore

logger = logging.getLogger(__name__)


def remove_old_models(
    engine: Engine,
    line: str,
    store: ModelStore,
    last: int,
    *,
    author: str,
    now: datetime,
    running: str | None = None,
) -> None:
    """Remove models, each with an entry in the audit trail; one that stays costs disk only.

    The active one, the one before it, the candidate and `running` are never removed.

    Args:
        last: So many others stay, those that were added last (`training.keep_versions`).
        author: For the audit trail.
        running: Version of the model that inspects at this moment, where the caller knows it.

    Raises:
        OperationalError: The database is away.
    """
    with engine.connect() as connection:
        active, waiting = models.active(connection, line), models.candidate(connection, line)
    needed = {running} if running is not None else set()
    needed |= {active.version, active.previous} if active is not None else set()
    needed |= {waiting.version} if waiting is not None else set()
    try:
        gone = store.prune(needed, last)
    except OSError as error:
        logger.warning("old models not removed", extra={"error": str(error)})
        return
    with write_transaction(engine) as connection:
        for version in gone:
            kind, reason = ModelChangeKind.REMOVED, f"training.keep_versions is {last}"
            models.note_files(connection, line, kind, version, author, reason, now)
