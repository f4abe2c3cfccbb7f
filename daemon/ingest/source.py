"""One source at run time: its socket, what was heard of it, and its reliable half if it has one."""

import contextlib
from collections.abc import Callable
from datetime import datetime

import zmq

from daemon.config.sources import SourceConfig
from daemon.core import EventKind, Severity
from daemon.ingest.endpoints import endpoint_of
from daemon.ingest.reliable_intake import ReliableIntake
from daemon.ingest.sockets import Received, receive
from daemon.ingest.source_state import next_source_state
from daemon.status import SourceState, SourceStatus

REDIAL_EVERY_S = 2.0

Note = Callable[[EventKind, str, Severity], None]


class Source:
    """Owned by the ingest thread; `status` may be asked from any.

    Attributes:
        config: As configured.
        socket: Open until `close`.
        intake: The acknowledging half; None for `sub` and `pull`.
    """

    def __init__(
        self,
        config: SourceConfig,
        socket: "zmq.Socket[bytes]",
        intake: ReliableIntake | None,
        now: float,
        *,
        note: Note,
        must_redial: Callable[[], bool] | None = None,
    ) -> None:
        """Begin to receive, or to wait for an address that is not there yet.

        Args:
            note: Writes into the diary.
            must_redial: Tells of a failed handshake; only a socket that wants keys has one.
        """
        self.config = config
        self.socket = socket
        self.intake = intake
        self._note = note
        self._must_redial = must_redial
        self._redial_at = now
        self._state = SourceState.CONNECTING
        self._heard_at = now
        self._heard_utc: datetime | None = None
        self._is_waiting = not endpoint_of(socket)
        if self._is_waiting:
            text = (
                f"source {config.endpoint} cannot be bound: this machine has no such address; "
                f"tried again every {REDIAL_EVERY_S:g} s. Is the network up? Else correct it"
            )
            note(EventKind.SOURCE_WAITS, text, Severity.ALARM)

    def receive(self) -> Received | None:
        """The next message, None if none waits."""
        return receive(self.socket, wants_keys=self._must_redial is not None)

    def heard(self, now: float, now_utc: datetime) -> None:
        """A message came."""
        self._state = next_source_state(self._state, "message")
        self._heard_at, self._heard_utc = now, now_utc

    def tick(self, now: float) -> None:
        """Notice silence, and give the senders their answers."""
        if now - self._heard_at > self.config.stale_after_s:
            self._state = next_source_state(self._state, "silence")
        if self.intake is not None:
            self.intake.answer(now)
        if self._is_waiting and now >= self._redial_at:
            self._redial_at = now + REDIAL_EVERY_S
            self._bind()
        if now >= self._redial_at and self._must_redial is not None and self._must_redial():
            self._redial_at = now + REDIAL_EVERY_S
            self._redial()

    def _redial(self) -> None:
        """Connect again, to a sender that may have its keys by now."""
        if self.config.mode == "connect":
            with contextlib.suppress(zmq.ZMQError):  # libzmq has given the connection up by itself
                self.socket.disconnect(self.config.endpoint)
            self.socket.connect(self.config.endpoint)

    def _bind(self) -> None:
        """The address may be there by now."""
        with contextlib.suppress(zmq.ZMQError):
            self.socket.bind(self.config.endpoint)
            self._is_waiting = False
            self._note(
                EventKind.SOURCE_OPEN, f"source {self.config.endpoint} is bound", Severity.INFO
            )

    def close(self) -> None:
        """Close the socket, in whatever state it is."""
        self._state = next_source_state(self._state, "stop")
        self.socket.close()

    def status(self) -> SourceStatus:
        """For the status file."""
        return SourceStatus(
            state=self._state,
            last_message_utc=self._heard_utc,
            publishers=None if self.intake is None else self.intake.present(),
        )
