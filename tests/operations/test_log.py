import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.line import LogConfig
from daemon.log import (
    MAX_KEYS,
    MAX_VALUE_CHARS,
    OTHER_KEYS,
    JsonFormatter,
    RateLimitedLog,
    TextFormatter,
    configure_logging,
)


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


class Lines(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logger = logging.getLogger("test.rate")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def record_of(event: str, **facts: object) -> logging.LogRecord:
    record = logging.LogRecord("daemon.ingest", logging.WARNING, "", 1, event, (), None)
    record.__dict__.update(facts)
    return record


def fail() -> None:
    raise ValueError("first\nsecond")


def test_a_line_is_one_json_object_with_event_and_facts() -> None:
    stream = io.StringIO()
    configure_logging(LogConfig(), stream=stream, environ={})

    logging.getLogger("daemon.ingest").warning(
        "frame refused", extra={"camera": "cam1", "seq": 7, "event": "mine"}
    )

    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "WARNING",
        "logger": "daemon.ingest",
        "event": "frame refused",
        "camera": "cam1",
        "seq": 7,
        "fact_event": "mine",
    }


def test_level_hides_what_is_below_it() -> None:
    stream = io.StringIO()
    configure_logging(LogConfig(level="WARNING"), stream=stream, environ={})

    logging.getLogger("daemon").info("started")

    assert stream.getvalue() == ""


def test_configuring_twice_does_not_double_lines() -> None:
    stream = io.StringIO()
    configure_logging(LogConfig(), stream=stream, environ={})
    configure_logging(LogConfig(), stream=stream, environ={})

    logging.getLogger("daemon").info("started")

    assert len(stream.getvalue().splitlines()) == 1


def test_an_exception_is_one_field() -> None:
    stream = io.StringIO()
    configure_logging(LogConfig(), stream=stream, environ={})

    try:
        fail()
    except ValueError:
        logging.getLogger("daemon").exception("thread died")

    (line,) = stream.getvalue().splitlines()
    assert "ValueError: first\nsecond" in json.loads(line)["exception"]


def test_pixels_and_bytes_are_described_not_dumped() -> None:
    record = record_of("x", payload=b"\xff" * 9000, image=np.zeros((4, 5, 3), np.uint8))

    line = json.loads(JsonFormatter().format(record))

    assert line["payload"] == "<9000 bytes>"
    assert line["image"] == "<ndarray uint8 (4, 5, 3)>"


def test_a_long_value_is_cut_and_its_length_told() -> None:
    line = json.loads(JsonFormatter().format(record_of("x", topic="a" * 10_000)))

    assert line["topic"] == "a" * MAX_VALUE_CHARS + "... (10000 characters)"


facts_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.binary() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(event=st.text(), value=facts_values)
def test_any_fact_gives_one_valid_line(event: str, value: object) -> None:
    record = record_of(event.replace("%", ""), fact=value)

    line = JsonFormatter().format(record)

    assert line.isprintable()
    json.loads(line)


@given(event=st.text(), value=facts_values)
def test_a_sender_cannot_forge_a_text_line(event: str, value: object) -> None:
    record = record_of(event.replace("%", ""), fact=value)

    assert TextFormatter().format(record).isprintable()


def test_journal_lines_carry_their_priority(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        stat = os.fstat(stream.fileno())
        configure_logging(
            LogConfig(format="text"),
            stream=stream,
            environ={"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"},
        )
        try:
            fail()
        except ValueError:
            logging.getLogger("daemon").exception("thread died")
        logging.getLogger("daemon").info("started")
        stream.seek(0)
        written = stream.read().splitlines()

    assert all(line.startswith("<3>") for line in written[:-1])
    assert written[-1].startswith("<6>")


def test_no_priority_when_the_stream_is_not_the_journal() -> None:
    stream = io.StringIO()
    configure_logging(LogConfig(), stream=stream, environ={"JOURNAL_STREAM": "1:2"})

    logging.getLogger("daemon").info("started")

    assert stream.getvalue().startswith("{")


def test_repeats_within_the_interval_become_a_count(lines: Lines) -> None:
    now = [0.0]
    limited = RateLimitedLog(logging.getLogger("test.rate"), interval_s=10, clock=lambda: now[0])

    for now[0] in (0.0, 1.0, 9.9, 10.0, 25.0):
        limited.warning("cam1/clock", "frame refused", camera="cam1")

    repeated = [record.__dict__.get("repeated") for record in lines.records]
    assert repeated == [None, 2, None]
    assert lines.records[0].__dict__["camera"] == "cam1"


def test_keys_do_not_silence_each_other(lines: Lines) -> None:
    limited = RateLimitedLog(logging.getLogger("test.rate"), clock=lambda: 0.0)

    limited.warning("cam1", "frame refused")
    limited.warning("cam2", "frame refused")

    assert len(lines.records) == 2


def test_invented_keys_gain_neither_memory_nor_lines(lines: Lines) -> None:
    now = [0.0]
    limited = RateLimitedLog(logging.getLogger("test.rate"), interval_s=10, clock=lambda: now[0])

    for number in range(10 * MAX_KEYS):
        limited.warning(f"invented{number}", "frame refused")
    now[0] = 10.0
    limited.warning("cam1", "frame refused", camera="cam1")

    assert len(lines.records) == MAX_KEYS + 1 + 1  # each room once, OTHER_KEYS once, cam1
    assert len(limited._last_at) <= MAX_KEYS + 1
    assert OTHER_KEYS not in limited._last_at
