"""The one place where a socket, of either side, meets its endpoint.

Needs only pyzmq: camera programs import it.
"""

import errno
from collections.abc import Callable
from typing import Literal

import zmq

from daemon.ipc_path import is_held

NOT_THERE_YET = (errno.EADDRNOTAVAIL, errno.ENODEV)
"""Of binding: the address, its name or its interface may come up after this program."""

Mode = Literal["bind", "connect"]
KEEPALIVE_IDLE_S = 5
KEEPALIVE_EVERY_S = 2
KEEPALIVE_PROBES = 3
HANDSHAKE_MS = 3_000
"""Then a peer that only listens, or that was turned away, is dropped; a sender tries again."""


def attach(
    socket: "zmq.Socket[bytes]",
    endpoint: str,
    mode: Mode,
    secure: Callable[["zmq.Socket[bytes]"], None] | None = None,
) -> None:
    """Bind or connect; every other option must be set before.

    Args:
        secure: Gives the socket its keys; None leaves it plain.

    Raises:
        zmq.ZMQError: The endpoint cannot be bound or connected.
    """
    # Finds a computer that lost power, which TCP alone does not. Never ZeroMQ's own heartbeats:
    # while a full receiver is not read, libzmq (4.3.5) sees no answer to them and drops a healthy
    # connection, and if the sender then closes, the receiver's next PING, or a PING of the sender
    # behind the frames, ends the receiver's process ("Assertion failed: !_io_error").
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_EVERY_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_PROBES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)
    if secure is not None:
        secure(socket)
    if mode == "bind":
        if is_held(endpoint):
            raise zmq.ZMQError(errno.EADDRINUSE)
        socket.bind(endpoint)
    else:
        socket.connect(endpoint)


def endpoint_of(socket: "zmq.Socket[bytes]") -> str:
    """Where the socket really is: a bound tcp port 0 is resolved. Empty before it is anywhere."""
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
