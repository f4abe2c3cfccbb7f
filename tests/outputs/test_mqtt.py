"""Against a real broker, in a process of its own."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from queue import Empty, Queue

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from daemon.config.outputs import MqttConfig
from daemon.core import Inspection
from daemon.outputs import mqtt as output
from daemon.outputs.delivery import NotDeliveredError
from daemon.outputs.mqtt import MqttSink
from daemon.verdict_message import VerdictMessage, message_of

Make = Callable[..., Inspection]

BROKER = """
import asyncio, sys
from amqtt.broker import Broker
config = {
    "listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:" + sys.argv[1]}},
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
}
async def serve():
    await Broker(config).start()
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(serve())
"""


@pytest.fixture
def port() -> Iterator[int]:
    """Port of a running broker."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = int(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", BROKER, str(number)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield number
    process.kill()
    process.wait()
    process.stdout.close()


class Listener:
    """What a dashboard sees under `zsad/#`."""

    def __init__(self, port: int) -> None:
        self.heard: Queue[tuple[str, bytes]] = Queue()
        subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _c, _u, m: self.heard.put((m.topic, m.payload))
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe("zsad/#", qos=1)
        assert subscribed.wait(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def messages(make_inspection: Make) -> list[VerdictMessage]:
    made = [message_of("l1", make_inspection(seq)) for seq in (1, 2)]
    return [message for message in made if message is not None]


def test_verdicts_and_presence_reach_a_subscriber(port: int, make_inspection: Make) -> None:
    listener = Listener(port)
    sink = MqttSink(MqttConfig(host="127.0.0.1", port=port), line="l1", password=None)
    sink.open()
    sink.send(messages(make_inspection))
    sink.close()

    heard = [listener.heard.get(timeout=10) for _ in range(4)]
    listener.close()

    assert heard[0] == ("zsad/l1/availability", b"online")
    assert [topic for topic, _ in heard[1:3]] == ["zsad/l1/cam1"] * 2
    assert b'"part_id":"P1"' in heard[1][1]
    assert heard[3] == ("zsad/l1/availability", b"offline")
    with pytest.raises(Empty):
        listener.heard.get_nowait()


def test_a_broker_that_is_away_is_not_delivered(
    make_inspection: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "CONNECT_WITHIN_S", 0.1)
    sink = MqttSink(MqttConfig(host="127.0.0.1", port=1), line="l1", password=None)
    sink.open()

    with pytest.raises(NotDeliveredError, match=r"no connection to 127\.0\.0\.1:1"):
        sink.send(messages(make_inspection))
    sink.close()


@pytest.mark.parametrize("topic", ["a/+", "#", "/a", "a/"])
def test_a_topic_that_cannot_be_published_on_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match="is not a topic"):
        MqttConfig(host="broker", topic=topic)
