"""A thread whose death is noticed: by the log, by the process, and so by systemd."""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Worker:
    """Runs `target(stop)` in a thread of its own until `stop` is set.

    Attributes:
        may_be_left: Whether an orderly stop may leave it behind: what it has not done yet is done
            after the next start.
        error: What killed it; None while it runs and after an orderly end.
    """

    def __init__(
        self,
        name: str,
        target: Callable[[threading.Event], None],
        *,
        on_failure: Callable[[], None],
        may_be_left: bool = False,
    ) -> None:
        """`on_failure` is called once, in the dying thread."""
        self.name = name
        self.may_be_left = may_be_left
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._target = target
        self._on_failure = on_failure
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def request_stop(self) -> None:
        """Ask it to end; returns at once."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._target(self._stop)
        except BaseException as error:
            self.error = error
            logger.exception("thread died", extra={"worker": self.name})
            self._on_failure()
