"""Verdicts are read by allowed gates alone, and no longer once a key is revoked."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zmq
from guarded_ingest import Events, Keys, OpenDoor, free_endpoint, run_until_stopped

from daemon.config.outputs import VerdictSocketConfig
from daemon.core import FrameId, FrameInfo, Inspection, Verdict
from daemon.outputs.verdict_socket import VerdictSocket
from daemon.security import allow_list
from daemon.security.allow_list import VERDICTS
from daemon.security.key_files import read_client_keys, read_secret_file
from daemon.verdict_message import VerdictMessage, message_of

NOW_UTC = datetime(2026, 1, 31, 6, tzinfo=UTC)


def message() -> VerdictMessage:
    info = FrameInfo(FrameId("cam1", 1, 1), "fabric", NOW_UTC, NOW_UTC, 100.0)
    made = message_of("l1", Inspection(info, Verdict.OK, "v1", NOW_UTC, 0.04, pred_score=0.1))
    assert made is not None
    return made


@pytest.fixture
def published(
    keys: Keys, open_door: OpenDoor, request: pytest.FixtureRequest
) -> Iterator[VerdictSocket]:
    """A guarded socket that says something every 20 ms; gate1 may read it, cam1's PC not."""
    keys.new("gate1", VERDICTS)
    keys.new("pc1", "cam1")
    config = VerdictSocketConfig(endpoint=free_endpoint())
    socket = VerdictSocket(config, beat=lambda: None, note=print, door=open_door())
    socket.open()

    def talk(stop: threading.Event) -> None:
        while not stop.wait(0.02):
            socket.offer(message())

    finish_talk, finish_socket = run_until_stopped(talk), run_until_stopped(socket.run)
    yield socket
    finish_talk()
    finish_socket()


def gate(
    context: "zmq.Context[zmq.Socket[bytes]]", keys: Keys, name: str, endpoint: str
) -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    folder: Path = keys.folder
    read_client_keys(folder / f"{name}.key_secret", folder / "daemon.key").secure(socket)
    socket.subscribe(b"")
    socket.connect(endpoint)
    return socket


def test_a_gate_reads_until_its_key_is_revoked(
    published: VerdictSocket, keys: Keys, events: Events
) -> None:
    with zmq.Context() as context, gate(context, keys, "gate1", published.endpoint) as reader:
        assert reader.poll(8000), events.told

        allow_list.revoke(keys.allowed, read_secret_file(keys.folder / "gate1.key_secret").public)
        events.wait_for_words("its key is not allowed; it wanted verdicts")
        while reader.poll(0):
            reader.recv_multipart()

        assert not reader.poll(300)


def test_a_cameras_key_reads_no_verdicts(
    published: VerdictSocket, keys: Keys, events: Events
) -> None:
    with zmq.Context() as context, gate(context, keys, "pc1", published.endpoint) as reader:
        events.wait_for_words("its key is not allowed; it wanted verdicts")

        assert not reader.poll(300)
