"""Which model a line starts with: the active one, or what comes nearest to it, never silently."""

import logging
from datetime import datetime

from sqlalchemy import Engine

from daemon.config.line import Config
from daemon.errors import ModelError
from daemon.storage import models
from daemon.storage.database import write_transaction
from daemon.training.stored_model import open_stored, store_of
from zsad.predictor import Predictor

logger = logging.getLogger(__name__)


def open_first_model(config: Config, engine: Engine, now: datetime) -> Predictor | None:
    """Load the active model; where it is damaged the one before it, else the configured one.

    What runs in its place is active from now on, with an ALARM in the diary.

    Returns:
        None where the configured model is the one to load.

    Raises:
        ModelError: none of them can be loaded.
    """
    if config.training is None:
        return None
    store = store_of(config)
    with engine.connect() as connection:
        active = models.active(connection, config.line)
    if active is None:
        return None
    problems: list[str] = []
    for version in dict.fromkeys((active.version, active.previous, store.base_version())):
        try:
            predictor = open_stored(store, version, config.model.device)
        except ModelError as error:
            logger.error("model not loaded", extra={"model": version, "error": str(error)})  # noqa: TRY400
            problems.append(str(error))
            continue
        if problems:
            reason = f"{'; '.join(problems)}; {version} inspects in its place"
            with write_transaction(engine) as connection:
                models.set_back(connection, config.line, active.version, version, reason, now)
        return predictor
    raise ModelError("; ".join(problems))
