"""Receiving sockets: opening them with bounds, and taking whole messages off them."""

import contextlib

import zmq

from daemon.config.sources import LimitsConfig, SourceConfig
from daemon.errors import ConfigError
from daemon.ingest.message import Buffer
from daemon.ingest.wire import MAX_HEADER_BYTES

RECEIVE_HIGH_WATER_MARK = 32
MAX_PARTS = 3
HEARTBEAT_EVERY_MS = 2_000
HEARTBEAT_TIMEOUT_MS = 6_000


def open_source(
    context: "zmq.Context[zmq.Socket[bytes]]", source: SourceConfig, limits: LimitsConfig
) -> "zmq.Socket[bytes]":
    """Open one source.

    Raises:
        ConfigError: The endpoint cannot be bound or connected.
    """
    socket = context.socket(zmq.SUB if source.socket == "sub" else zmq.PULL)
    try:
        # All before bind or connect: libzmq ignores a high-water mark set later.
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_HIGH_WATER_MARK)
        # libzmq drops the connection on a larger part, and the frame becomes a gap. Twice the
        # limit leaves room to name what is only somewhat too large.
        largest = 2 * max(limits.max_payload_bytes, MAX_HEADER_BYTES)
        socket.setsockopt(zmq.MAXMSGSIZE, largest)
        # Finds a camera computer that lost power, which TCP alone does not.
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_EVERY_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        if source.socket == "sub":
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        if source.mode == "bind":
            socket.bind(source.endpoint)
        else:
            socket.connect(source.endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise ConfigError(
            f"source {source.endpoint!r}: cannot {source.mode}: {error.strerror}; "
            "check the address, and that no other program uses it"
        ) from error
    return socket


def endpoint_of(socket: "zmq.Socket[bytes]") -> str:
    """Where the socket really is: a bound tcp port 0 is resolved."""
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def receive_parts(socket: "zmq.Socket[bytes]") -> list[Buffer] | None:
    """One whole message without copying; None if none waits.

    Of a message with too many parts, MAX_PARTS + 1 are kept, enough to refuse it.
    """
    with contextlib.suppress(zmq.Again):
        parts: list[Buffer] = [socket.recv(zmq.NOBLOCK, copy=False).buffer]
        while socket.getsockopt(zmq.RCVMORE):
            part = socket.recv(copy=False).buffer  # the rest has already arrived
            if len(parts) <= MAX_PARTS:
                parts.append(part)
        return parts
    return None
