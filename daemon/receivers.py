"""Joins the outputs to the database and to each other; the app starts and stops what is here."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from daemon.config.outputs import MqttConfig, OutputsConfig, SentVerdict, WebhookConfig
from daemon.core import EventKind, FrameLoss, Inspection, Severity
from daemon.credentials import reveal
from daemon.health import Health
from daemon.log import RateLimitedLog
from daemon.outputs.delivery import BATCH, Delivery, Page
from daemon.outputs.verdict_socket import VerdictSocket
from daemon.outputs.webhook import Webhook
from daemon.security.doorkeeper import Doorkeeper
from daemon.storage import deliveries
from daemon.storage.database import write_transaction
from daemon.verdict_message import VerdictMessage, message_of
from daemon.worker import Worker

logger = logging.getLogger(__name__)

MAX_AGE_S = 25.0
"""The watchdog's patience with the socket of the gates."""

Note = Callable[[EventKind, str, Severity], None]


class DatabaseOutbox:
    """What the database holds for one receiver."""

    def __init__(
        self, engine: Engine, line: str, receiver: str, verdicts: Sequence[SentVerdict]
    ) -> None:
        """Take up the receiver's cursor; a new receiver begins with the next inspection."""
        self._engine = engine
        self._line = line
        self._receiver = receiver
        self._verdicts = verdicts
        self._warnings = RateLimitedLog(logger)
        with write_transaction(engine) as connection:
            self._last_id = deliveries.open_cursor(connection, line, receiver)

    def next_page(self) -> Page | None:
        """What follows the cursor; None when there is nothing, or the database is away."""
        try:
            with self._engine.connect() as connection:
                last_id, messages = deliveries.verdicts_after(
                    connection, self._line, self._last_id, self._verdicts, BATCH
                )
        except OperationalError as error:
            self._warnings.warning("away", "outbox not read", error=str(error.orig))
            return None
        return None if last_id == self._last_id else Page(last_id, messages)

    def confirm(self, last_id: int) -> None:
        """Move the cursor; while the database is away only in memory: better twice than never."""
        self._last_id = last_id
        try:
            with write_transaction(self._engine) as connection:
                deliveries.move_cursor(connection, self._line, self._receiver, last_id)
        except OperationalError as error:
            self._warnings.warning("away", "cursor not stored", error=str(error.orig))


class Receivers:
    """Everything that wants verdicts, apart from the database."""

    def __init__(
        self,
        config: OutputsConfig,
        *,
        line: str,
        engine: Engine,
        secrets: Mapping[str, str],
        health: Health,
        note: Note,
        on_failure: Callable[[], None],
        door: Doorkeeper | None,
    ) -> None:
        """Nothing opens yet.

        Raises:
            ConfigError: a secret or a package is missing.
        """
        self._line = line
        self._health = health
        self._engine = engine
        self._note = note
        self._on_failure = on_failure
        self._workers: list[Worker] = []
        self._deliveries: list[Delivery] = []
        self._close: list[Callable[[], None]] = []
        self._open: list[Callable[[], None]] = []
        self._socket: VerdictSocket | None = None
        if config.verdicts is not None:
            beat = health.watch("verdicts", MAX_AGE_S).beat
            self._socket = VerdictSocket(config.verdicts, beat=beat, note=note, door=door)
            self._open.append(self._socket.open)
            self._add_worker("verdicts", self._socket.run)
        if config.webhook is not None:
            self._add_webhook(config.webhook, secrets)
        if config.mqtt is not None:
            self._add_mqtt(config.mqtt, secrets)

    def start(self) -> None:
        """Open sockets and begin to deliver.

        Raises:
            ConfigError: the verdict socket cannot be opened.
        """
        for open_one in self._open:
            open_one()
        for worker in self._workers:
            worker.start()

    def offer(self, result: Inspection | FrameLoss) -> None:
        """Tell the gates at once; never waits."""
        if self._socket is not None and (message := message_of(self._line, result)) is not None:
            self._socket.offer(message)

    def publish_counters(self) -> None:
        """Put what was sent, dropped and delivered into the status."""
        if self._socket is not None:
            self._health.set_counter("verdicts_published", self._socket.sent)
            self._health.set_counter("verdicts_not_published", self._socket.dropped)
        for delivery in self._deliveries:
            self._health.set_counter(f"{delivery.name}_delivered", delivery.delivered)
            self._health.set_counter(f"{delivery.name}_failures_in_a_row", delivery.failures)

    def workers(self) -> Sequence[Worker]:
        """To be stopped after inspection: what was decided is still told."""
        return self._workers

    def close(self) -> None:
        """After the workers have ended."""
        for close_one in self._close:
            close_one()

    def _add_webhook(self, config: WebhookConfig, secrets: Mapping[str, str]) -> None:
        token = _reveal(config.token, secrets, "outputs.webhook.token")
        self._add_delivery("webhook", Webhook(config, token).send, config.verdicts)

    def _add_mqtt(self, config: MqttConfig, secrets: Mapping[str, str]) -> None:
        from daemon.outputs.mqtt import MqttSink  # the package is optional

        password = _reveal(config.password, secrets, "outputs.mqtt.password")
        sink = MqttSink(config, line=self._line, password=password)
        self._open.append(sink.open)
        self._close.append(sink.close)
        self._add_delivery("mqtt", sink.send, config.verdicts)

    def _add_delivery(
        self,
        name: str,
        send: Callable[[Sequence[VerdictMessage]], None],
        verdicts: Sequence[SentVerdict],
    ) -> None:
        delivery = Delivery(
            name,
            outbox=DatabaseOutbox(self._engine, self._line, name, verdicts),
            send=send,
            on_alarm=partial(self._report, EventKind.OUTPUT_FAILS, Severity.ALARM),
            on_recovery=partial(self._report, EventKind.OUTPUT_RECOVERED, Severity.INFO),
        )
        self._deliveries.append(delivery)
        self._add_worker(name, delivery.run, may_be_left=True)  # it may wait for an answer

    def _report(self, kind: EventKind, severity: Severity, detail: str) -> None:
        self._note(kind, detail, severity)

    def _add_worker(
        self, name: str, target: Callable[[threading.Event], None], *, may_be_left: bool = False
    ) -> None:
        self._workers.append(
            Worker(name, target, on_failure=self._on_failure, may_be_left=may_be_left)
        )


def _reveal(value: SecretStr | None, secrets: Mapping[str, str], key: str) -> str | None:
    return None if value is None else reveal(value, secrets, key)
