"""The one place where a socket, of either side, meets its endpoint.

Needs only pyzmq: camera programs import it.
"""

from collections.abc import Callable
from typing import Literal

import zmq

Mode = Literal["bind", "connect"]
HEARTBEAT_EVERY_MS = 2_000
HEARTBEAT_TIMEOUT_MS = 6_000
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
    # Finds a computer that lost power, which TCP alone does not.
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_EVERY_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    if secure is not None:
        secure(socket)
    if mode == "bind":
        socket.bind(endpoint)
    else:
        socket.connect(endpoint)


def endpoint_of(socket: "zmq.Socket[bytes]") -> str:
    """Where the socket really is: a bound tcp port 0 is resolved."""
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
