import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from daemon.config.outputs import VerdictSocketConfig
from daemon.core import Inspection
from daemon.errors import ConfigError
from daemon.outputs.verdict_socket import MAX_WAITING, VerdictSocket
from daemon.verdict_message import VerdictMessage, message_of

Make = Callable[..., Inspection]


@pytest.fixture
def gate() -> Iterator["zmq.Socket[bytes]"]:
    """A reject gate."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.RCVTIMEO, 5_000)
        yield socket


def message(make_inspection: Make, seq: int) -> VerdictMessage:
    made = message_of("l1", make_inspection(seq))
    assert made is not None
    return made


def test_a_gate_receives_numbered_verdicts_of_its_camera(
    gate: "zmq.Socket[bytes]", make_inspection: Make, tmp_path: Path
) -> None:
    endpoint = f"ipc://{tmp_path}/verdicts"
    gate.bind(endpoint)
    gate.subscribe(b"l1/cam1")
    socket = VerdictSocket(
        VerdictSocketConfig(endpoint=endpoint, mode="connect"), beat=lambda: None, note=print
    )
    socket.open()
    stop = threading.Event()
    thread = threading.Thread(target=socket.run, args=(stop,))
    thread.start()

    received: list[tuple[int, int]] = []
    seq = 0
    while len(received) < 3:  # PUB drops until it knows of the subscription
        socket.offer(message(make_inspection, seq))
        seq += 1
        if gate.poll(50):
            topic, place, body = gate.recv_multipart()
            assert topic == b"l1/cam1"
            received.append((json.loads(place)["n"], json.loads(body)["seq"]))
    stop.set()
    thread.join(5)

    assert not thread.is_alive()
    assert all(number == said for number, said in received)
    assert socket.dropped == 0


def test_a_full_queue_drops_and_leaves_a_hole_in_the_numbers(
    make_inspection: Make, tmp_path: Path
) -> None:
    socket = VerdictSocket(
        VerdictSocketConfig(endpoint=f"ipc://{tmp_path}/verdicts"), beat=lambda: None, note=print
    )
    for seq in range(MAX_WAITING + 2):
        socket.offer(message(make_inspection, seq))

    assert socket.dropped == 2


def test_an_endpoint_in_use_is_a_configuration_error(gate: "zmq.Socket[bytes]") -> None:
    gate.bind("tcp://127.0.0.1:*")
    taken = gate.getsockopt_string(zmq.LAST_ENDPOINT)

    with pytest.raises(ConfigError, match=r"outputs.verdicts.endpoint .*: cannot bind"):
        VerdictSocket(VerdictSocketConfig(endpoint=taken), beat=lambda: None, note=print).open()
