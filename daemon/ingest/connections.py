"""Whether the receivers of a sending socket have taken what it sent; asked of the kernel.

ZeroMQ does not tell. Its linger ends when the last byte is in the kernel, and what a receiver had
not read from a Unix socket that is then closed, Linux drops (TCP delivers it). Needs only pyzmq:
camera programs import it.
"""

import contextlib
import sys
import threading
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

_OPENED = zmq.EVENT_CONNECTED | zmq.EVENT_ACCEPTED
_LET_IN = zmq.EVENT_HANDSHAKE_SUCCEEDED
_TURNED_AWAY = (
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
LOOK_EVERY_S = 0.02
QUIET_LOOKS = 2
"""In between, ZeroMQ's own thread has moved to the kernel what there is room for."""


class Connections:
    """The descriptors of one socket. For the socket's thread, or under its lock.

    Knows none of inproc, and none outside Linux: there everything counts as taken.
    """

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        """Call before the socket is bound or connected."""
        self._descriptors: set[int] = set()
        self._is_turned_away = False
        address = f"inproc://connections-{id(self)}"
        socket.monitor(address, _OPENED | _TURNED_AWAY | _LET_IN | zmq.EVENT_DISCONNECTED)
        self._events = socket.context.socket(zmq.PAIR)
        self._events.setsockopt(zmq.RCVHWM, 0)  # ZeroMQ's own thread would wait where it is full
        self._events.connect(address)

    def follow(self) -> None:
        """Take note of what came and went; call now and then."""
        while self._events.poll(0):
            event = recv_monitor_message(self._events, zmq.NOBLOCK)
            if event["event"] & _OPENED:
                self._descriptors.add(event["value"])
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                self._descriptors.discard(event["value"])
            else:
                self._is_turned_away = event["event"] != _LET_IN

    def wait_until_taken(self, until: float) -> bool:
        """Wait for the receivers; over TCP, for their machines.

        Returns:
            False if at `until` (monotonic) one of them had not taken everything, or if the last
            one turned the sender away, as a daemon does that wants keys.
        """
        pause = threading.Event()
        quiet_looks = 0
        while True:
            self.follow()
            quiet_looks = 0 if any(map(_untaken_bytes, self._descriptors)) else quiet_looks + 1
            if quiet_looks >= QUIET_LOOKS:
                return not self._is_turned_away
            if time.monotonic() >= until:
                return False
            pause.wait(LOOK_EVERY_S)

    def close(self) -> None:
        """Forget them."""
        self._events.close()


def _untaken_bytes(descriptor: int) -> int:
    """What is on its way, or waits at the other side of a Unix socket."""
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    with contextlib.suppress(OSError):  # closed since
        answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))  # the number of SIOCOUTQ
        return int.from_bytes(answer, sys.byteorder)
    return 0
