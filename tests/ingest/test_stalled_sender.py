"""A sender that goes away while nobody reads its frames costs nothing but itself.

libzmq ends the process where it goes wrong, so the receiver runs in a process of its own.
"""

import contextlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Literal

import pytest
import zmq

from daemon.config.sources import LimitsConfig, SourceConfig
from daemon.ingest.endpoints import attach
from daemon.ingest.message import parse_beat
from daemon.ingest.publisher import FramePublisher
from daemon.ingest.sockets import open_source, receive

NUMBERS = 3_000
SocketKind = Literal["pull", "sub"]

RECEIVER = """
import sys
import threading

import zmq

from daemon.config.sources import LimitsConfig, SourceConfig
from daemon.ingest.endpoints import attach, endpoint_of
from daemon.ingest.sockets import RECEIVE_HIGH_WATER_MARK, open_source, receive

FRAMES = 2 * RECEIVE_HIGH_WATER_MARK
SENDERS = {"pull": zmq.PUSH, "sub": zmq.XPUB, "router": zmq.DEALER}

context = zmq.Context()
receivers, senders = {}, {}
for kind, sender_kind in SENDERS.items():
    config = SourceConfig(endpoint="tcp://127.0.0.1:5555", mode="bind", socket=kind)
    config = config.model_copy(update={"endpoint": sys.argv[1].format(kind)})  # any free port
    receivers[kind] = open_source(context, config, LimitsConfig())
    senders[kind] = context.socket(sender_kind)
    senders[kind].setsockopt(zmq.LINGER, 5_000)
    attach(senders[kind], endpoint_of(receivers[kind]), "connect")
while not senders["sub"].poll(20):  # its subscription
    receivers["sub"].poll(20)
for sender in senders.values():
    for _ in range(FRAMES):
        sender.send(bytes(100))
    sender.close()
threading.Event().wait(3.0)  # nobody reads while a heartbeat would be due
for kind, receiver in receivers.items():
    taken = 0
    while receiver.poll(500):
        taken += receive(receiver, wants_keys=False) is not None
    # A closed Unix socket takes with it what the kernel still held; TCP does not.
    assert taken == FRAMES or sys.argv[1].startswith("ipc:"), (kind, taken)
    receiver.close()
context.term()
"""

PING_BEHIND_FRAMES = """
import socket
import struct
import sys
import threading

import zmq

from daemon.config.sources import LimitsConfig, SourceConfig
from daemon.ingest.sockets import RECEIVE_HIGH_WATER_MARK, open_source, receive

source = SourceConfig(endpoint=f"ipc://{sys.argv[1]}", mode="bind", socket="pull")
receiver = open_source(zmq.Context(), source, LimitsConfig())
sender = socket.socket(socket.AF_UNIX)
sender.connect(sys.argv[1])  # ZMTP 3.1 by hand: greeting, READY, frames, PING, a frame
sender.sendall(b"\\xff" + bytes(8) + b"\\x7f\\x03\\x01NULL" + bytes(48))
assert len(sender.recv(64, socket.MSG_WAITALL)) == 64
ready = b"\\x05READY\\x0bSocket-Type" + struct.pack(">I", 4) + b"PUSH"
sender.sendall(bytes([4, len(ready)]) + ready)
frame = b"\\x00\\x01x"
sender.sendall(3 * RECEIVE_HIGH_WATER_MARK * frame + b"\\x04\\x07\\x04PING\\x00\\x00" + frame)
pause = threading.Event()
pause.wait(0.2)  # they were read, as far as the queue has room
sender.close()
pause.wait(0.2)
while receiver.poll(500):
    receive(receiver, wants_keys=False)
"""


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_sender_that_closes_while_it_is_held_back_does_not_end_the_daemon(transport: str) -> None:
    # A Unix socket's path may have 107 characters; pytest's folders are longer.
    with tempfile.TemporaryDirectory(prefix="zsad-") as folder:
        done = subprocess.run(
            [
                *(sys.executable, "-c", RECEIVER),
                "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{folder}/{{}}",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 0, done.stderr


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="libzmq 4.3.5, its issue 4364: when this passes, docs/operations.md can say so",
)
def test_a_ping_behind_frames_of_a_sender_that_closes_does_not_end_the_daemon() -> None:
    with tempfile.TemporaryDirectory(prefix="zsad-") as folder:
        done = subprocess.run(
            [sys.executable, "-c", PING_BEHIND_FRAMES, f"{folder}/frames"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    if done.returncode != 0 and "!_io_error" not in done.stderr:
        raise RuntimeError(done.stderr)
    assert done.returncode == 0


def words(source: "zmq.Socket[bytes]") -> list[int | None]:
    """What a daemon that reads again finds: None for a frame, the last number for a beat."""
    found: list[int | None] = []
    while source.poll(1_000):
        received = receive(source, wants_keys=False)
        assert received is not None
        beat = parse_beat(received.parts)
        found.append(beat and beat.last)
        if beat is not None and beat.last == NUMBERS - 1:
            break
    return found


@pytest.mark.parametrize("kind", ["pull", "sub"])
def test_the_last_word_of_a_sender_that_was_held_back_is_heard(
    kind: SocketKind, ipc_endpoints: Iterator[str]
) -> None:
    """Without it the daemon could not count what a closing sender takes with it."""
    endpoint = next(ipc_endpoints)
    config = SourceConfig(endpoint=endpoint, mode="bind", socket=kind)
    with zmq.Context() as context, open_source(context, config, LimitsConfig()) as source:
        publisher = FramePublisher(
            endpoint,
            "cam1",
            socket="push" if kind == "pull" else "pub",
            mode="connect",
            send_timeout_s=0.1,
        )
        while not publisher.wait_for_subscriber(0.02):
            source.poll(20)  # its subscription
        fill(publisher)
        publisher.skip(NUMBERS - publisher.next_seq)
        closing = threading.Thread(target=publisher.close)
        closing.start()
        threading.Event().wait(0.2)  # it is held back

        found = words(source)
        closing.join()

    assert found[-1] == NUMBERS - 1
    assert kind == "sub" or found.count(None) == publisher.sent
    assert publisher.is_handed_over


def test_a_sender_that_cannot_wait_says_that_frames_may_be_missing(
    ipc_endpoints: Iterator[str], caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = next(ipc_endpoints)
    config = SourceConfig(endpoint=endpoint, mode="bind", socket="pull")
    with (
        zmq.Context() as context,
        open_source(context, config, LimitsConfig()),
        FramePublisher(
            endpoint, "cam1", socket="push", mode="connect", send_timeout_s=0.1, linger_s=0.1
        ) as publisher,
    ):
        fill(publisher)

    assert not publisher.is_handed_over
    assert "had taken everything" in caplog.text


def fill(publisher: FramePublisher) -> None:
    """Send until the socket takes no more, or enough to fill it where it drops."""
    with contextlib.suppress(TimeoutError):
        while publisher.sent < NUMBERS - 1:
            publisher.send_encoded(bytes(200), "jpeg")


@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.XPUB, zmq.DEALER, zmq.PULL, zmq.SUB, zmq.ROUTER])
def test_no_side_sends_heartbeats_that_a_stalled_receiver_cannot_bear(kind: int) -> None:
    with zmq.Context() as context, context.socket(kind) as socket:
        attach(socket, "inproc://frames", "bind")

        assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
        assert socket.getsockopt(zmq.TCP_KEEPALIVE) == 1
