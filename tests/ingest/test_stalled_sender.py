"""A sender that goes away while nobody reads its frames costs nothing but itself.

libzmq ends the process where it goes wrong, so the receiver runs in a process of its own.
"""

import subprocess
import sys
import tempfile

import pytest
import zmq

from daemon.ingest.endpoints import attach

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


@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.XPUB, zmq.DEALER, zmq.PULL, zmq.SUB, zmq.ROUTER])
def test_no_side_sends_heartbeats_that_a_stalled_receiver_cannot_bear(kind: int) -> None:
    with zmq.Context() as context, context.socket(kind) as socket:
        attach(socket, "inproc://frames", "bind")

        assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
        assert socket.getsockopt(zmq.TCP_KEEPALIVE) == 1
