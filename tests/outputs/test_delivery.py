import threading
from collections.abc import Sequence
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from daemon.core import FrameId, FrameInfo, Inspection, Verdict
from daemon.outputs.delivery import ALARM_AFTER_FAILURES, Delivery, NotDeliveredError, Page
from daemon.verdict_message import VerdictMessage, message_of


class ListOutbox:
    """An outbox of numbered messages; sets `stop` when all are confirmed."""

    def __init__(self, messages: Sequence[VerdictMessage], stop: threading.Event) -> None:
        self._messages = messages
        self._place = 0
        self._stop = stop

    def next_page(self) -> Page | None:
        page = self._messages[self._place : self._place + 2]
        return Page(self._place + len(page), page) if page else None

    def confirm(self, last_id: int) -> None:
        self._place = last_id
        if last_id == len(self._messages):
            self._stop.set()


def verdicts(count: int) -> list[VerdictMessage]:
    now = datetime(2026, 1, 31, tzinfo=UTC)
    made = []
    for seq in range(count):
        info = FrameInfo(FrameId("cam1", 7, seq), "fabric", now, now, 0.0)
        message = message_of("l1", Inspection(info, Verdict.OK, "v1", now, 0.1, pred_score=0.1))
        assert message is not None
        made.append(message)
    return made


@given(outcomes=st.lists(st.booleans(), max_size=20))
def test_every_message_arrives_in_order_whatever_fails(outcomes: list[bool]) -> None:
    stop, arrived, told = threading.Event(), [], []
    answers = iter(outcomes)

    def send(messages: Sequence[VerdictMessage]) -> None:
        if not next(answers, True):
            raise NotDeliveredError("no answer")
        arrived.extend(message.seq for message in messages)

    delivery = Delivery(
        "webhook",
        outbox=ListOutbox(verdicts(7), stop),
        send=send,
        on_alarm=told.append,
        on_recovery=told.append,
        first_retry_s=0.0,
    )
    delivery.run(stop)

    assert arrived == list(range(7))
    assert delivery.delivered == 7


def test_one_alarm_after_repeated_failure_and_one_recovery() -> None:
    stop, told = threading.Event(), []
    answers = iter([False] * (ALARM_AFTER_FAILURES + 3))

    def send(_: Sequence[VerdictMessage]) -> None:
        if not next(answers, True):
            raise NotDeliveredError("connection refused")

    Delivery(
        "mqtt",
        outbox=ListOutbox(verdicts(3), stop),
        send=send,
        on_alarm=lambda text: told.append(("alarm", text)),
        on_recovery=lambda text: told.append(("recovery", text)),
        first_retry_s=0.0,
    ).run(stop)

    assert [kind for kind, _ in told] == ["alarm", "recovery"]
    assert "connection refused" in told[0][1]
