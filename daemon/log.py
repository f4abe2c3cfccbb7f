"""Log lines: JSON for machines and the journal, text for a terminal.

Knows nothing of what is logged; a value that is large or binary is described, never dumped.
"""

import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TextIO

from daemon.config.line import LogConfig

MAX_VALUE_CHARS = 500
MAX_ITEMS = 20
MAX_TRACEBACK_CHARS = 8000
MAX_KEYS = 256
OTHER_KEYS = "(other)"

_OWN_FIELDS = ("time", "level", "logger", "event", "exception")
_RECORD_FIELDS = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
_SYSLOG_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


def configure_logging(
    config: LogConfig,
    *,
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Send every log line of the process to one stream, in one format.

    Args:
        config: Format and level.
        stream: Where lines go; standard error by default, so that standard output stays free
            for what a command prints.
        environ: Where JOURNAL_STREAM is looked up; the process environment by default.
    """
    target = sys.stderr if stream is None else stream
    formatter: logging.Formatter = JsonFormatter() if config.format == "json" else TextFormatter()
    if _is_journal(target, os.environ if environ is None else environ):
        formatter = JournalFormatter(formatter)
    handler = logging.StreamHandler(target)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(config)
    logging.captureWarnings(capture=True)


def set_level(config: LogConfig) -> None:
    """Write lines of another level from now on."""
    root = logging.getLogger()
    root.setLevel(config.level)
    # Alembic introduces each of its plugins and its context, APScheduler each job.
    for chatty in ("alembic.runtime.plugins", "alembic.runtime.migration", "apscheduler"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, then the facts given in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline; ASCII only, so any stream can carry it."""
        line: dict[str, object] = {
            "time": _time_utc(record).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": _shorten(record.getMessage()),
        }
        for name, value in _facts(record).items():
            line[f"fact_{name}" if name in _OWN_FIELDS else name] = value
        if exception := _exception(record):
            line["exception"] = exception
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """`12:00:00.123 WARNING daemon.ingest frame refused reason=clock`; UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; an exception follows on lines of its own."""
        at = _time_utc(record).strftime("%H:%M:%S.%f")[:-3]
        facts = "".join(f" {name}={_quoted(value)}" for name, value in _facts(record).items())
        event = _printable(_shorten(record.getMessage()))
        line = f"{at} {record.levelname:7} {record.name} {event}{facts}"
        exception = _exception(record)
        return f"{line}\n{exception}" if exception else line


class JournalFormatter(logging.Formatter):
    """Puts systemd's `<N>` priority before every line of another formatter (sd-daemon(3))."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the inner lines, each with the record's priority."""
        priority = _SYSLOG_PRIORITY.get(record.levelname, 6)
        lines = self._inner.format(record).splitlines()
        return "\n".join(f"<{priority}>{line}" for line in lines)


class RateLimitedLog:
    """Warnings that bad input can cause: the first at once, then one per interval and key.

    A line that stands for suppressed ones says how many in `repeated`. Thread-safe. At most
    MAX_KEYS keys are remembered; what comes beyond them shares the key OTHER_KEYS, so that
    a sender who invents keys gains neither memory nor lines.
    """

    def __init__(
        self,
        logger: logging.Logger,
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._last_at: dict[str, float] = {}
        self._repeated: dict[str, int] = {}

    def warning(self, key: str, event: str, /, **facts: object) -> None:
        """Log `event` with `facts`, unless `key` was logged less than the interval ago."""
        with self._lock:
            now = self._clock()
            key = self._known(key, now)
            last_at = self._last_at.get(key)
            if last_at is not None and now - last_at < self._interval_s:
                self._repeated[key] = self._repeated.get(key, 0) + 1
                return
            self._last_at[key] = now
            repeated = self._repeated.pop(key, 0)
        if repeated:
            facts["repeated"] = repeated
        self._logger.warning(event, extra=facts)

    def _known(self, key: str, now: float) -> str:
        """`key`, if it is remembered or there is room for it; OTHER_KEYS if not."""
        if key in self._last_at or len(self._last_at) < MAX_KEYS:
            return key
        for old, last_at in list(self._last_at.items()):
            if now - last_at >= self._interval_s:
                del self._last_at[old]
                self._repeated.pop(old, None)  # lines only; the counters stay exact
        return key if len(self._last_at) < MAX_KEYS else OTHER_KEYS


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the stream is the one that systemd connected to the journal (systemd.exec(5))."""
    wanted = environ.get("JOURNAL_STREAM")
    if not wanted:
        return False
    try:
        stat = os.fstat(stream.fileno())
    except OSError:  # a stream without a file, as in tests
        return False
    return wanted == f"{stat.st_dev}:{stat.st_ino}"


def _time_utc(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _facts(record: logging.LogRecord) -> dict[str, object]:
    return {
        name: _plain(value)
        for name, value in record.__dict__.items()
        if name not in _RECORD_FIELDS and not name.startswith("_")
    }


def _exception(record: logging.LogRecord) -> str | None:
    if record.exc_info is None or record.exc_info[0] is None:
        return None
    text = logging.Formatter().formatException(record.exc_info)
    return text[-MAX_TRACEBACK_CHARS:]  # the end names the error


def _plain(value: object, depth: int = 0) -> object:
    """The value as JSON can carry it; pixels and other bytes only by their size."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            return _shorten(str(value))
        case bytes() | bytearray():
            return f"<{len(value)} bytes>"
        case _:
            return _plain_object(value, depth)


def _plain_object(value: object, depth: int) -> object:
    if hasattr(value, "shape") and hasattr(value, "dtype"):  # numpy array or torch tensor
        return f"<{type(value).__name__} {value.dtype} {tuple(value.shape)}>"
    if depth < 2 and isinstance(value, Mapping):
        items = list(value.items())[:MAX_ITEMS]
        return {_shorten(str(name)): _plain(item, depth + 1) for name, item in items}
    if depth < 2 and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in list(value)[:MAX_ITEMS]]
    return _shorten(str(value))


def _shorten(text: str) -> str:
    if len(text) <= MAX_VALUE_CHARS:
        return text
    return f"{text[:MAX_VALUE_CHARS]}... ({len(text)} characters)"


def _quoted(value: object) -> str:
    if isinstance(value, str) and value.isprintable() and not set(value) & set(' "='):
        return value
    return json.dumps(value)


def _printable(text: str) -> str:
    """The text with control characters escaped: a sender must not forge lines or colours."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
