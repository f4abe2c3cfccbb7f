"""Verdicts for reject gates over ZeroMQ PUB, before the database has them.

The inspection thread only puts into a bounded queue. When it is full (the machine is starved, for
a PUB socket never waits for a subscriber) the message is dropped and counted: a gate sees the hole
in `n` and must treat a part without a verdict as not OK, as it must when the daemon is gone.
"""

import contextlib
import errno
import json
import logging
import queue
import secrets
import threading
from collections.abc import Callable

import zmq

from daemon.config.outputs import VerdictSocketConfig
from daemon.config.security import is_guarded
from daemon.core import EventKind, Severity
from daemon.errors import ConfigError
from daemon.ipc_path import is_held
from daemon.log import RateLimitedLog
from daemon.security.doorkeeper import Doorkeeper
from daemon.verdict_message import VerdictMessage

logger = logging.getLogger(__name__)

MAX_WAITING = 1024
SEND_HIGH_WATER_MARK = 256
"""Messages a subscriber may lag behind; libzmq then drops for that subscriber alone."""
IDLE_WAIT_S = 0.2
NOT_THERE_YET = (errno.EADDRNOTAVAIL, errno.ENODEV)
"""Of binding: the address, its name or its interface may come up after the daemon."""

Note = Callable[[EventKind, str, Severity], None]


class VerdictSocket:
    """Owns the PUB socket.

    Attributes:
        endpoint: Where it really is, once opened.
        sent, dropped: Messages since the start.
    """

    def __init__(
        self,
        config: VerdictSocketConfig,
        *,
        beat: Callable[[], None],
        note: Note,
        door: Doorkeeper | None = None,
    ) -> None:
        """Nothing opens yet.

        Args:
            note: Writes into the diary.
            door: Asks for keys on tcp; None lets everybody read.
        """
        self.endpoint = config.endpoint
        self.sent = 0
        self.dropped = 0
        self._config = config
        is_open = door is None or not is_guarded(config.endpoint, allow_plain=config.allow_plain)
        self._door = None if is_open else door
        self._revocations = 0
        self._beat = beat
        self._note = note
        self._is_waiting = False
        self._waiting: queue.Queue[tuple[int, VerdictMessage]] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._n = 0
        self._boot = secrets.randbits(53)
        self._context: zmq.Context[zmq.Socket[bytes]]
        self._socket: zmq.Socket[bytes] | None = None
        self._warnings = RateLimitedLog(logger)

    def open(self) -> None:
        """Bind or connect; where the address is not there yet, `run` tries again.

        Raises:
            ConfigError: the endpoint cannot be used.
        """
        self._context = zmq.Context() if self._door is None else self._door.context
        socket = self._context.socket(zmq.PUB)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER_MARK)
        if self._door is not None:
            self._revocations = self._door.allowed.verdict_revocations
            self._door.secure(socket, "verdicts", self._config.endpoint, self._config.mode)
        try:
            self._attach(socket)
        except zmq.ZMQError as error:
            socket.close()
            self._close_context()
            if self._config.mode == "bind" and error.errno in NOT_THERE_YET:
                self._wait_for_address()
                return
            raise ConfigError(
                f"outputs.verdicts.endpoint {self._config.endpoint!r}: cannot "
                f"{self._config.mode}: {error.strerror}; check that no other program uses it"
            ) from error
        self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._socket = socket
        if self._is_waiting:
            self._is_waiting = False
            self._note(EventKind.OUTPUT_RECOVERED, f"{self.endpoint} is bound", Severity.INFO)

    def offer(self, message: VerdictMessage) -> None:
        """Hand over a message; never waits. Any thread."""
        try:
            with self._lock:  # numbers and queue in one order
                number, self._n = self._n, self._n + 1
                self._waiting.put_nowait((number, message))
        except queue.Full:
            self.dropped += 1
            self._warnings.warning(
                "dropped", "verdict not published", waiting=MAX_WAITING, dropped=self.dropped
            )

    def run(self, stop: threading.Event) -> None:
        """Send until `stop` is set and nothing waits; then close the socket."""
        try:
            while not (stop.is_set() and self._waiting.empty()):
                self._beat()
                self._show_out()
                if self._socket is None:
                    if stop.is_set():
                        break  # nobody can hear the rest
                    self._reopen()
                    stop.wait(IDLE_WAIT_S)
                    continue
                with contextlib.suppress(queue.Empty):
                    self._send(self._socket, *self._waiting.get(timeout=IDLE_WAIT_S))
        finally:
            if self._socket is not None:
                self._socket.close()
            self._close_context()

    def _show_out(self) -> None:
        """Who was connected before his key was revoked would read on: begin with a new socket.

        The other gates connect again by themselves, and see the hole in `n`.
        """
        if self._door is None or self._socket is None:
            return
        is_revoked = self._door.allowed.verdict_revocations != self._revocations
        is_broken = self._door.must_redial(self._config.endpoint)
        if is_revoked or (is_broken and self._config.mode == "connect"):
            self._socket.close()
            self._socket = None

    def _reopen(self) -> None:
        """The port may be in use for a moment, by the old socket."""
        try:
            self.open()
        except ConfigError as error:
            self._warnings.warning("reopen", "verdict socket not open", error=str(error))

    def _attach(self, socket: "zmq.Socket[bytes]") -> None:
        endpoint = self._config.endpoint
        if "[" in endpoint:
            socket.setsockopt(zmq.IPV6, 1)
        if self._config.mode == "connect":
            socket.connect(endpoint)
            return
        if is_held(endpoint):
            raise zmq.ZMQError(errno.EADDRINUSE)
        socket.bind(endpoint)

    def _wait_for_address(self) -> None:
        if not self._is_waiting:
            text = (
                f"outputs.verdicts.endpoint {self._config.endpoint} cannot be bound: this machine "
                "has no such address; tried again. Is the network up? Else correct it"
            )
            self._note(EventKind.OUTPUT_FAILS, text, Severity.ALARM)
        self._is_waiting = True

    def _close_context(self) -> None:
        if self._door is None:
            self._context.term()

    def _send(self, socket: "zmq.Socket[bytes]", number: int, message: VerdictMessage) -> None:
        topic = f"{message.line}/{message.camera}".encode()
        place = json.dumps({"v": 1, "boot": self._boot, "n": number}).encode()
        socket.send_multipart([topic, place, message.to_json()])
        self.sent += 1
