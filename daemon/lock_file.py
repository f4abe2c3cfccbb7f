"""One process at a time in a folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from daemon.errors import ConfigError

LOCK_NAME = "lock"


@contextlib.contextmanager
def only_one_in(folder: Path, key: str, if_taken: str) -> Iterator[None]:
    """Hold a lock on a folder, made if missing; the kernel frees it however the process ends.

    Args:
        folder: Where the file LOCK_NAME goes.
        key: Of the configuration, that names the folder.
        if_taken: The sentence for whoever comes second.

    Raises:
        ConfigError: another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / LOCK_NAME).open("w")
    except OSError as error:
        raise ConfigError(
            f"{key} {folder} cannot be written: {error.strerror}; create it for this user, or "
            "configure another"
        ) from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(if_taken) from error
        yield
