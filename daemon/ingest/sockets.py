"""Receiving sockets: opening them with bounds, and taking whole messages off them."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import zmq

from daemon.config.sources import LimitsConfig, SourceConfig
from daemon.errors import ConfigError
from daemon.ingest.endpoints import NOT_THERE_YET, attach
from daemon.ingest.message import Buffer
from daemon.ingest.wire import MAX_HEADER_BYTES

RECEIVE_HIGH_WATER_MARK = 32
MAX_PARTS = 5  # of a reliable sender: routing id, envelope, topic, header, payload

_KINDS: dict[Literal["sub", "pull", "router"], int] = {
    "sub": zmq.SUB,
    "pull": zmq.PULL,
    "router": zmq.ROUTER,
}


@dataclass(frozen=True, slots=True)
class Received:
    """One whole message.

    Attributes:
        parts: At most MAX_PARTS + 1, enough to refuse a longer one.
        key: Public key of its sender, as proven; None on a plain socket.
    """

    parts: list[Buffer]
    key: str | None = None


def open_source(
    context: "zmq.Context[zmq.Socket[bytes]]",
    source: SourceConfig,
    limits: LimitsConfig,
    secure: Callable[["zmq.Socket[bytes]"], None] | None = None,
) -> "zmq.Socket[bytes]":
    """Open one source; its socket is bound nowhere yet where its address is not there yet.

    Args:
        secure: Makes the socket ask for keys; None leaves it plain.

    Raises:
        ConfigError: The endpoint cannot be bound or connected.
    """
    socket = context.socket(_KINDS[source.socket])
    try:
        # All before bind or connect: libzmq ignores a high-water mark set later.
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_HIGH_WATER_MARK)
        # libzmq drops the connection on a larger part, and the frame becomes a gap. Twice the
        # limit leaves room to name what is only somewhat too large.
        largest = 2 * max(limits.max_payload_bytes, MAX_HEADER_BYTES)
        socket.setsockopt(zmq.MAXMSGSIZE, largest)
        match source.socket:
            case "sub":
                socket.setsockopt(zmq.SUBSCRIBE, b"")
            case "router":
                # An answer to a sender that has gone is an error, not a silent nothing.
                socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            case "pull":
                pass
        attach(socket, source.endpoint, source.mode, secure)
    except zmq.ZMQError as error:
        if source.mode == "bind" and error.errno in NOT_THERE_YET:
            return socket
        socket.close()
        raise ConfigError(
            f"source {source.endpoint!r}: cannot {source.mode}: {error.strerror}; "
            "check the address, and that no other program uses it"
        ) from error
    return socket


def receive(socket: "zmq.Socket[bytes]", *, wants_keys: bool) -> Received | None:
    """One whole message without copying; None if none waits.

    Args:
        wants_keys: Whether the socket speaks CURVE. On a plain one a sender may call himself
            what he likes, so his word is not even read.
    """
    with contextlib.suppress(zmq.Again):
        first = socket.recv(zmq.NOBLOCK, copy=False)
        parts: list[Buffer] = [first.buffer]
        while socket.getsockopt(zmq.RCVMORE):
            part = socket.recv(copy=False).buffer  # the rest has already arrived
            if len(parts) <= MAX_PARTS:
                parts.append(part)
        return Received(parts, str(first.get("User-Id")) if wants_keys else None)
    return None
