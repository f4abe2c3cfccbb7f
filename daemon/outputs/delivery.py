"""Carries stored verdicts to one slow receiver, in order, each at least once.

The database is the outbox: a cursor there says up to which inspection the receiver has confirmed,
so a crash, a restart or a week without network loses nothing, and inspection never waits. What a
receiver gets twice has the same `inspection_id`. The watchdog does not look at these threads: how
long a receiver takes to answer is not the daemon's health, and a restart would not cure it.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from daemon.log import RateLimitedLog
from daemon.verdict_message import VerdictMessage

logger = logging.getLogger(__name__)

BATCH = 64
IDLE_WAIT_S = 0.5
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
ALARM_AFTER_FAILURES = 5


class NotDeliveredError(Exception):
    """The receiver did not confirm; the same messages are sent again later."""


@dataclass(frozen=True, slots=True)
class Page:
    """What the outbox holds next.

    Attributes:
        last_id: The cursor's place once `messages` are confirmed; beyond the last message where
            inspections that are not wanted follow it.
        messages: At most BATCH, oldest first.
    """

    last_id: int
    messages: Sequence[VerdictMessage]


class Outbox(Protocol):
    """Stored verdicts and a cursor; the daemon's database."""

    def next_page(self) -> Page | None:
        """What follows the cursor; None when there is nothing, or the database is away."""
        ...

    def confirm(self, last_id: int) -> None:
        """Move the cursor."""
        ...


class Delivery:
    """One receiver's thread.

    Attributes:
        delivered: Messages confirmed since the start.
        failures: Attempts in a row that failed; 0 while all is well.
    """

    def __init__(
        self,
        name: str,
        *,
        outbox: Outbox,
        send: Callable[[Sequence[VerdictMessage]], None],
        on_alarm: Callable[[str], None],
        on_recovery: Callable[[str], None],
        idle_wait_s: float = IDLE_WAIT_S,
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        """Args are kept; nothing starts.

        Args:
            send: Returns once the receiver has confirmed all, else raises NotDeliveredError.
            on_alarm: Told once, after ALARM_AFTER_FAILURES failures in a row.
            on_recovery: Told at the first success after an alarm.
        """
        self.name = name
        self.delivered = 0
        self.failures = 0
        self._outbox = outbox
        self._send = send
        self._on_alarm = on_alarm
        self._on_recovery = on_recovery
        self._idle_wait_s = idle_wait_s
        self._first_retry_s = first_retry_s
        self._warnings = RateLimitedLog(logger)

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set; the rest is delivered after the next start."""
        while not stop.is_set():
            page = self._outbox.next_page()
            if page is None:
                stop.wait(self._idle_wait_s)
            elif self._deliver(page):
                self._outbox.confirm(page.last_id)
            else:
                stop.wait(min(self._first_retry_s * 2 ** min(self.failures - 1, 10), LAST_RETRY_S))

    def _deliver(self, page: Page) -> bool:
        try:
            if page.messages:
                self._send(page.messages)
        except NotDeliveredError as error:
            self.failures += 1
            self._warnings.warning(
                self.name,
                "verdicts not delivered",
                output=self.name,
                error=str(error),
                failures=self.failures,
            )
            if self.failures == ALARM_AFTER_FAILURES:
                self._on_alarm(f"{self.name}: {error}; verdicts wait in the database")
            return False
        if self.failures >= ALARM_AFTER_FAILURES:
            self._on_recovery(f"{self.name}: delivers again")
        self.failures = 0
        self.delivered += len(page.messages)
        return True
