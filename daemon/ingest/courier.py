"""The sender's half of the reliable transport: sessions, credit, resending. Keeps no frame.

Needs only pyzmq, since camera programs import it.
"""

import json
import logging
import secrets
from dataclasses import dataclass

import zmq

from daemon.ingest.outbox import Outbox
from daemon.ingest.wire import (
    BEAT_EVERY_S,
    MAX_ENVELOPE_BYTES,
    MAX_EPOCH,
    NOTHING,
    SILENCE_S,
    VERSION,
)

logger = logging.getLogger(__name__)

RESEND_AFTER_S = 3.0
"""How long the receiver may say that it lacks what was sent, before it is sent again."""
_TICK_MS = 200


@dataclass(frozen=True, slots=True)
class _State:
    """How far the daemon is: the answer to a greeting, and then news."""

    session: int
    stored: int
    received: int
    window: int
    max_payload_bytes: int


class Courier:
    """Talks to the daemon on a DEALER socket; see docs/wire-format.md. For one thread.

    Each session begins with a greeting, and the daemon's answer says where to go on. Frames go
    out in order, at most `window` numbers ahead of what is stored.

    Attributes:
        is_established: The daemon has answered the greeting of this session.
        received: Every number up to this one has come to the daemon; NOTHING if none has.
        refusal: Why it does not want this camera; None if it does.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", topic: bytes, camera: str, epoch: int) -> None:
        self.is_established = False
        self.refusal: str | None = None
        self.max_payload_bytes = 1 << 62  # until the daemon names its limit
        self._socket = socket
        self._topic = topic
        self._camera = camera
        self._epoch = epoch
        self._session = secrets.randbelow(MAX_EPOCH + 1)
        self._sent_through = NOTHING
        self.received = NOTHING
        self._window = 0
        self._is_blocked = False
        self._heard_at = self._greeted_at = self._beat_at = self._moved_at = float("-inf")

    def wait(self, wake_fd: int) -> None:
        """Until something can be done, or a tick has passed."""
        poller = zmq.Poller()
        poller.register(wake_fd, zmq.POLLIN)
        poller.register(self._socket, zmq.POLLIN | (zmq.POLLOUT if self._is_blocked else 0))
        poller.poll(_TICK_MS)

    def turn(self, outbox: Outbox, now: float) -> None:
        """Hear the daemon out, then send what may be sent."""
        self._is_blocked = False
        while (answer := self._receive()) is not None:
            self._take(answer, outbox, now)
        if self.is_established and now - self._heard_at > SILENCE_S:
            self._end_session()
        if not self.is_established:
            if now - self._greeted_at >= BEAT_EVERY_S:
                self._greet(outbox, now)
            return
        self._send_frames(outbox)
        if now - self._beat_at >= BEAT_EVERY_S and self._send({"kind": "beat"}):
            self._beat_at = now

    def _take(self, answer: dict[str, object], outbox: Outbox, now: float) -> None:
        match answer.get("kind"):
            case "state" if (state := _state(answer)) and state.session == self._session:
                self._follow(state, outbox, now)
            case "who" if self.is_established:  # the daemon was started again
                self._end_session()
            case "refused":
                self._note_refusal(str(answer.get("reason"))[:MAX_ENVELOPE_BYTES])
            case _:
                pass  # to an earlier session, or from a newer daemon; silence ends the session

    def _follow(self, state: _State, outbox: Outbox, now: float) -> None:
        outbox.forget_through(state.stored)
        self._heard_at = now
        self._window = state.window
        self.max_payload_bytes = state.max_payload_bytes
        self.refusal = None
        if not self.is_established:
            self.is_established = True
            self._sent_through = self.received = state.received
            self._moved_at = now
        if state.received > self.received or state.received >= self._sent_through:
            self.received = state.received
            self._moved_at = now
        elif now - self._moved_at > RESEND_AFTER_S:
            self._end_session()  # it lacks something: ask where to go on

    def _end_session(self) -> None:
        self.is_established = False
        self._session = secrets.randbelow(MAX_EPOCH + 1)
        self._greeted_at = float("-inf")

    def _greet(self, outbox: Outbox, now: float) -> None:
        greeting = {
            "kind": "hello",
            "camera": self._camera,
            "epoch": self._epoch,
            "acked": outbox.acknowledged,
        }
        if self._send(greeting):
            self._greeted_at = now

    def _send_frames(self, outbox: Outbox) -> None:
        while self._sent_through - outbox.acknowledged < self._window:
            frame = outbox.next_after(self._sent_through)
            if frame is None:
                return
            envelope = {"kind": "frame", "seq": frame.seq, "after": self._sent_through}
            # One that was kept under an older, larger limit: enough of it to be refused.
            payload = frame.payload[: self.max_payload_bytes + 1]
            if not self._send(envelope, self._topic, frame.header, payload):
                return
            self._sent_through = frame.seq

    def _send(self, envelope: dict[str, object], *parts: bytes) -> bool:
        """False where no daemon is connected or the socket is full; it is then waited for."""
        head = json.dumps({"v": VERSION, "session": self._session, **envelope}).encode()
        try:
            self._socket.send_multipart([head, *parts], zmq.NOBLOCK)
        except zmq.Again:
            self._is_blocked = True
            return False
        return True

    def _receive(self) -> dict[str, object] | None:
        """The next answer; what cannot be read is an empty one."""
        try:
            parts = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        try:
            answer = json.loads(parts[0])
        except (ValueError, RecursionError):
            return {}
        return answer if isinstance(answer, dict) else {}

    def _note_refusal(self, reason: str) -> None:
        if reason != self.refusal:
            self.refusal = reason
            logger.warning(
                "the daemon refuses this camera", extra={"camera": self._camera, "reason": reason}
            )


def _state(answer: dict[str, object]) -> _State | None:
    """None where a field is missing or no whole number."""

    def number(name: str) -> int | None:
        value = answer.get(name)
        return value if type(value) is int and value >= NOTHING else None

    fields = [number(name) for name in _State.__dataclass_fields__]
    found = [field for field in fields if field is not None]
    return _State(*found) if len(found) == len(fields) else None
