"""Verdicts to an MQTT broker, QoS 1; whether the daemon lives is a retained message.

`TOPIC/LINE/availability` is `online` while the daemon is connected; the broker itself writes
`offline` there (last will) when the daemon vanishes without a word.
"""

import threading
import time
from collections.abc import Sequence

from daemon.config.outputs import MqttConfig
from daemon.errors import ConfigError
from daemon.outputs.delivery import NotDeliveredError
from daemon.verdict_message import VerdictMessage

try:
    from paho.mqtt import client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion
    from paho.mqtt.reasoncodes import ReasonCode
except ImportError as error:  # the extra is optional
    raise ConfigError(
        "outputs.mqtt: the package paho-mqtt is missing; install it with pip install 'zsad[mqtt]'"
    ) from error

CONFIRM_WITHIN_S = 10.0
CONNECT_WITHIN_S = 10.0
KEEP_ALIVE_S = 30


class MqttSink:
    """Owns the client, whose own thread keeps the connection up."""

    def __init__(self, config: MqttConfig, *, line: str, password: str | None) -> None:
        """`password` is the secret itself, no longer `${NAME}`; nothing connects yet."""
        self._config = config
        self._prefix = f"{config.topic}/{line}"
        self._availability = f"{self._prefix}/availability"
        self._connected = threading.Event()
        self._refusal: str | None = None
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"zsad-{line}")
        if config.username is not None:
            client.username_pw_set(config.username, password)
        if config.tls:
            client.tls_set()
        client.will_set(self._availability, b"offline", qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.reconnect_delay_set(1, 60)
        self._client = client

    def open(self) -> None:
        """Begin to connect; a broker that is away now is tried again for ever."""
        self._client.connect_async(self._config.host, self._config.port, KEEP_ALIVE_S)
        self._client.loop_start()

    def send(self, messages: Sequence[VerdictMessage]) -> None:
        """Publish all, then wait until the broker has confirmed each.

        Raises:
            NotDeliveredError: not connected, or not confirmed in time.
        """
        if not self._connected.wait(CONNECT_WITHIN_S):
            where = f"{self._config.host}:{self._config.port}"
            raise NotDeliveredError(f"no connection to {where} ({self._refusal or 'no answer'})")
        give_up_at = time.monotonic() + CONFIRM_WITHIN_S
        sent = [
            self._client.publish(f"{self._prefix}/{message.camera}", message.to_json(), qos=1)
            for message in messages
        ]
        try:
            for info in sent:
                info.wait_for_publish(max(0.0, give_up_at - time.monotonic()))
                if not info.is_published():
                    raise NotDeliveredError(f"not confirmed within {CONFIRM_WITHIN_S:.0f} s")
        except (RuntimeError, ValueError) as error:  # paho: connection lost, or its queue is full
            raise NotDeliveredError(str(error)) from error

    def close(self) -> None:
        """Say `offline` and leave."""
        if self._connected.is_set():
            info = self._client.publish(self._availability, b"offline", qos=1, retain=True)
            info.wait_for_publish(1.0)
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(
        self,
        client: mqtt.Client,
        _userdata: object,
        _flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        _properties: object,
    ) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
            return
        client.publish(self._availability, b"online", qos=1, retain=True)
        self._connected.set()

    def _on_disconnect(self, *_args: object) -> None:
        self._connected.clear()
