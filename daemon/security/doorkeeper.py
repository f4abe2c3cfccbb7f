"""Lets in who holds an allowed key: CURVE on sockets, and the ZAP handler (ZeroMQ RFC 27).

The daemon is the CURVE server whichever side binds. Without an answer of this thread nobody gets
in (ZAP_ENFORCE_DOMAIN). A connection outlives its key's revocation, so whoever receives asks
`may_send` of every message. Knows nothing of what is said on the sockets.
"""

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Literal

import zmq
from zmq.utils.monitor import recv_monitor_message
from zmq.utils.z85 import encode as encode_z85

from daemon.security.allow_list import AllowList
from daemon.security.key_files import KeyPair
from daemon.security.refusals import Refusals

Domain = Literal["frames", "verdicts"]
Mode = Literal["bind", "connect"]

POLL_MS = 250
REFRESH_EVERY_S = 1.0
"""A key that was revoked sends nothing more after this long."""

NOT_ALLOWED = "its key is not allowed"
NO_CURVE = "it speaks without a key, or has a wrong key of this daemon"
NOT_ITS_CAMERA = "its key is not one of the camera that it names"
PLAIN_CAMERA = "the camera that it names has a key, and this message came without"
BAD_REQUEST = "unreadable authentication request"

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
_FAILED_HANDSHAKES = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


class Doorkeeper:
    """Owns the context of all guarded sockets, and the thread that answers for them.

    Attributes:
        context: For the sockets that `secure` is called on.
        allowed: Who may come in.
    """

    def __init__(
        self,
        pair: KeyPair,
        allowed: AllowList,
        refusals: Refusals,
        *,
        clock: Callable[[], float],
    ) -> None:
        """Requests wait from now on; they are answered by `run`."""
        self.allowed = allowed
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._pair = pair
        self._refusals = refusals
        self._clock = clock
        self._zap = self.context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(_ZAP_ENDPOINT)
        self._new_monitors: queue.SimpleQueue[tuple[zmq.Socket[bytes], str]] = queue.SimpleQueue()
        self._monitors: dict[zmq.Socket[bytes], str] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._broken: set[str] = set()  # guarded by the lock

    def secure(
        self, socket: "zmq.Socket[bytes]", domain: Domain, endpoint: str, mode: Mode
    ) -> None:
        """Make one of the context's sockets ask for keys; before bind or connect. Any thread."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self._pair.secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, f"{domain} {mode}")
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        address = f"inproc://handshakes-{next(self._numbers)}"
        socket.monitor(address, _FAILED_HANDSHAKES | zmq.EVENT_MONITOR_STOPPED)
        monitor = self.context.socket(zmq.PAIR)
        monitor.connect(address)
        self._new_monitors.put((monitor, endpoint))

    def must_redial(self, endpoint: str) -> bool:
        """Whether a handshake failed since the last question, after which libzmq gives up.

        It does where the daemon connects; the owner of the socket connects again. Any thread.
        """
        with self._lock:
            is_broken = endpoint in self._broken
            self._broken.discard(endpoint)
            return is_broken

    def may_send(self, camera: str, key: str | None) -> bool:
        """Whether this message is accepted; a refusal is counted. Callable from any thread.

        Args:
            key: Of the connection; None on a plain socket.
        """
        if self.allowed.may_send(camera, key):
            return True
        who = "a plain socket" if key is None else f"key {key}"
        self._refusals.count(
            f"{who} as camera {camera}", PLAIN_CAMERA if key is None else NOT_ITS_CAMERA
        )
        return False

    def run(self, stop: threading.Event) -> None:
        """Answer until `stop` is set, which comes after the guarded sockets are closed."""
        refresh_at = self._clock()
        try:
            while not stop.is_set():
                self._poll()
                if self._clock() >= refresh_at:
                    refresh_at = self._clock() + REFRESH_EVERY_S
                    self.allowed.refresh()
                self._refusals.tell()
            self._refusals.tell(everything=True)
        finally:
            self.close()

    def close(self) -> None:
        """Close everything, also where `run` was never called."""
        self._take_new_monitors()
        self._zap.close()
        for monitor in self._monitors:
            monitor.close(linger=0)
        self.context.destroy(linger=0)

    def _poll(self) -> None:
        self._take_new_monitors()
        poller = zmq.Poller()
        for socket in (self._zap, *self._monitors):
            poller.register(socket, zmq.POLLIN)
        for socket, _ in poller.poll(POLL_MS):
            if socket is self._zap:
                self._answer()
            else:
                self._read(socket)

    def _take_new_monitors(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                monitor, endpoint = self._new_monitors.get_nowait()
                self._monitors[monitor] = endpoint

    def _answer(self) -> None:
        request = self._zap.recv_multipart()
        request_id = request[1] if len(request) > 1 else b""
        key, reason = self._judge(request)
        status = (b"200", b"OK") if reason is None else _refusal(request)
        self._zap.send_multipart([_ZAP_VERSION, request_id, *status, key.encode(), b""])

    def _judge(self, request: list[bytes]) -> tuple[str, str | None]:
        """The client's key, and why it stays outside; None lets it in."""
        if len(request) != 7 or request[0] != _ZAP_VERSION or len(request[6]) != 32:
            self._refusals.count("unknown peer", BAD_REQUEST)
            return "", BAD_REQUEST
        _, _, domain, address, _, mechanism, credentials = request
        key = encode_z85(credentials).decode()
        asked: Mapping[bytes, Callable[[str], bool]] = {
            b"frames": self.allowed.may_connect,
            b"verdicts": self.allowed.may_read,
        }
        subject = domain.partition(b" ")[0]
        may_enter = asked.get(subject)
        if mechanism == b"CURVE" and may_enter is not None and may_enter(key):
            return key, None
        peer = address.decode("ascii", errors="replace") or "a local peer"
        self._refusals.count(peer, NOT_ALLOWED, f"it wanted {subject.decode()} with {key}")
        return "", NOT_ALLOWED

    def _read(self, monitor: "zmq.Socket[bytes]") -> None:
        event = recv_monitor_message(monitor)
        if event["event"] == zmq.EVENT_MONITOR_STOPPED:
            del self._monitors[monitor]
            monitor.close(linger=0)
        else:
            endpoint = self._monitors[monitor]
            with self._lock:
                self._broken.add(endpoint)
            self._refusals.count(f"a peer of {endpoint}", NO_CURVE)


def _refusal(request: list[bytes]) -> tuple[bytes, bytes]:
    """Status by which the connecting side asks again later, when the key may be allowed.

    libzmq gives up after a 300 where it is the daemon that connects, after a 400 elsewhere.
    """
    is_connecting = len(request) > 2 and request[2].endswith(b" connect")
    return (b"400", b"not allowed") if is_connecting else (b"300", b"not allowed")
