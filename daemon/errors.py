"""What is expected to fail, and who reacts. Anything else ends the process; systemd restarts it."""

from daemon.core import LossReason


class FrameError(Exception):
    """A message or image that cannot be inspected: costs that frame, never the process.

    Attributes:
        reason: What it is counted under.
    """

    def __init__(self, reason: LossReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class ConfigError(Exception):
    """A configuration that cannot be used; the message names file, line and key. Exit code 2."""


class ModelError(Exception):
    """A model file that is missing, damaged or for another backbone. Exit code 2 at start."""


class CategoryModelError(ModelError):
    """The model that one category has for itself.

    Attributes:
        category: Whose `checkpoint` it is.
    """

    def __init__(self, category: str, detail: str) -> None:
        super().__init__(f"categories.{category}.checkpoint: {detail}")
        self.category = category
        self.detail = detail


class StorageError(Exception):
    """A database that cannot be used as configured (absent, wrong revision). Exit code 2."""


class DatabaseAwayError(StorageError):
    """A database that may be back soon: the daemon ends with exit code 1, and is started again."""
