"""Runs the line: starts its parts from sink to source, watches over them, stops them again.

What the parts are and how they are joined is in `daemon/line_parts.py`.
"""

import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from daemon.config.line import Config
from daemon.config_file import ConfigFile, hide_password
from daemon.core import EventKind, Severity, Verdict
from daemon.credentials import Secrets
from daemon.errors import DatabaseAwayError, StorageError
from daemon.line_parts import LineParts, utc_now
from daemon.lock_file import only_one_in
from daemon.log import RateLimitedLog
from daemon.service_notify import ServiceNotifier
from daemon.status import STATUS_FILE, State, StatusSnapshot, write_status
from daemon.storage import replay, revision
from daemon.storage.database import open_database
from daemon.storage.spool import Spool
from daemon.worker import Worker

logger = logging.getLogger(__name__)

TICK_S = 1.0
LOOK_EVERY_S = 5.0
INGEST_STOP_S = 10.0
INSPECTION_STOP_S = 40.0
PICTURES_STOP_S = 10.0
FRAMES_STOP_S = 10.0
RECEIVER_STOP_S = 5.0
WRITER_STOP_S = 20.0
COMPILE_START_S = 1800.0
"""The unit's limit for a start holds without compiling, which takes minutes a batch size."""
DESCRIPTORS = 65_536
DATABASE_AWAY = "the database takes no results: they wait in the spool"


def run_daemon(file: ConfigFile) -> int:
    """Inspect until SIGTERM or SIGINT; returns 0 after an orderly stop, 1 after a failure.

    A start needs the database, for calibrations and sequence numbers; without it the daemon ends
    with 1, and its service manager tries again until the database is there.

    Raises:
        ConfigError, ModelError, StorageError: the daemon cannot start as configured.
    """
    _raise_descriptor_limit()
    run_dir = file.config.run_dir
    taken = f"another daemon runs in {run_dir}; stop it, or give this one its own run_dir"
    try:
        with only_one_in(run_dir, "run_dir", taken):
            return _run_line(file)
    except DatabaseAwayError as error:
        logger.error("no start without the database", extra={"error": str(error)})  # noqa: TRY400
        return 1


def _raise_descriptor_limit() -> None:
    """Connections of strangers last three seconds each, and must not take the last descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run_line(file: ConfigFile) -> int:
    config, secrets = file.config, Secrets(os.environ)
    engine = open_database(config.storage, file.path.resolve().parent, secrets)
    spool = Spool(_spool_folder(config, engine), config.storage.spool.max_bytes)
    try:
        revision.prepare(engine)
        spool.open()
        return _Line(file, engine, spool, secrets).run()
    finally:
        spool.close()
        engine.dispose()


def _spool_folder(config: Config, engine: Engine) -> Path:
    """As configured, else beside the SQLite file, else in `run_dir`."""
    if config.storage.spool.dir is not None:
        return config.storage.spool.dir
    if engine.dialect.name == "sqlite":
        return Path(f"{engine.url.database}-spool")
    return config.run_dir / "spool"


class _Line:
    """One running line, and the main thread that watches over it."""

    def __init__(
        self, file: ConfigFile, engine: Engine, spool: Spool, secrets: Mapping[str, str]
    ) -> None:
        self._config = file.config
        self._stop = threading.Event()
        self._reload_asked = threading.Event()
        self._notifier = ServiceNotifier()
        self._warnings = RateLimitedLog(logger)
        self._status_path = file.config.run_dir / STATUS_FILE
        # from now on, for loading a model takes time: what comes meanwhile is done when ready
        signal.signal(signal.SIGHUP, lambda *_: self._reload_asked.set())
        self._parts = LineParts(file, engine, spool, secrets, self._stop)
        self._health = self._parts.health

    def run(self) -> int:
        """Start from sink to source, watch, stop from source to sink."""
        parts = self._parts
        self._install_signals()
        self._publish_status()
        if self._config.model.compile:
            self._notifier.extend_start(COMPILE_START_S, "compiling the model")
        parts.slot.warm_up(self._config.batch.max_batch_size)
        parts.subscriber.open()
        parts.receivers.start()
        parts.writer.start()
        parts.entrance.start()
        for heartbeat in (parts.ingest_beat, parts.inspection_beat, parts.pictures_beat):
            heartbeat.beat()  # loading may have taken longer than the watchdog's patience
        parts.pictures.start()
        for worker in parts.archiving:
            worker.start()
        parts.inspection.start()
        parts.ingest.start()
        self._note_start()
        if rejected := parts.replayed.rejected:
            detail = replay.alarm_detail(rejected)
            parts.note(EventKind.SPOOL_REJECTED, detail, Severity.ALARM)
        self._health.set_state(State.READY)
        self._publish_status()  # before `systemctl start` returns, and somebody looks at it
        self._notifier.ready(f"inspecting with {parts.slot.version}")
        logger.info(
            "ready",
            extra={
                "line": self._config.line,
                "model": parts.slot.version,
                "endpoints": list(parts.subscriber.endpoints),
                "database": hide_password(self._config.storage.url),
            },
        )
        if parts.schedule is not None:
            parts.schedule.start()
        try:
            self._watch()
        finally:  # its thread would keep a failing process alive until the night is over
            if parts.schedule is not None:
                parts.schedule.stop()
        return self._shut_down()

    def _note_start(self) -> None:
        """In the diary; the service manager starts a daemon again and tells nobody."""
        parts = self._parts
        detail = f"inspecting with {parts.slot.version}"
        if parts.crashed_run is None:
            parts.note(EventKind.STARTED, detail)
            return
        detail += (
            f"; the run since {parts.crashed_run:%Y-%m-%d %H:%M:%S} UTC ended without a stop: "
            "a crash, a kill or a power cut; the log says more"
        )
        parts.note(EventKind.STARTED, detail, Severity.WARNING)

    def _install_signals(self) -> None:
        def request_stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            if number == signal.SIGINT and self._stop.is_set():
                os._exit(130)  # the second Ctrl-C: somebody is in a hurry
            self._stop.set()

        signal.signal(signal.SIGTERM, request_stop)
        signal.signal(signal.SIGINT, request_stop)

    def _watch(self) -> None:
        """Feed the watchdog only while every thread moves; follow what the database says."""
        parts = self._parts
        next_check_at = time.monotonic() + LOOK_EVERY_S
        while not self._stop.wait(TICK_S):
            if self._reload_asked.is_set():
                self._reload_asked.clear()
                self._reload()
            snapshot = self._publish_status()
            now = time.monotonic()
            parts.writer_beat.beat_at(parts.writer.last_progress)
            for event in parts.events():
                parts.writer.put(event)
            if dead := self._health.dead_threads(now):
                self._warnings.warning("dead", "threads without progress", workers=dead)
                continue
            self._notifier.watchdog()
            self._notifier.status(_one_line(snapshot))
            if now >= next_check_at:
                next_check_at = now + LOOK_EVERY_S
                parts.keeper.record_again()
                self._look_into_database()

    def _reload(self) -> None:
        self._notifier.reloading()
        self._parts.keeper.reload(self._prepare, self._apply, self._parts.note)
        self._notifier.ready(f"inspecting with {self._parts.slot.version}")

    def _prepare(self, config: Config) -> None:
        """Loading a model may take longer than the watchdog's patience."""
        with ThreadPoolExecutor(1, thread_name_prefix="prepare") as thread:
            preparing = thread.submit(self._parts.prepare, config)
            while not wait([preparing], timeout=TICK_S).done:
                self._notifier.watchdog()
                self._publish_status()
        preparing.result()

    def _apply(self, config: Config) -> None:
        self._config = config
        self._parts.follow(config)

    def _look_into_database(self) -> None:
        """Take over the calibrations and the model that somebody put in force."""
        try:
            self._parts.look_for_calibrations()
            if self._parts.models is not None:
                self._parts.models.look(utc_now())
        except OperationalError as error:  # the database is away; the writer retries, so do we
            self._warnings.warning("look", "database not asked", error=str(error.orig))
        except StorageError as error:  # a person changed a model in the same moment
            self._warnings.warning("look", "model not changed", error=str(error))

    def _publish_status(self) -> StatusSnapshot:
        parts = self._parts
        for name, camera in parts.subscriber.counters().cameras.items():
            self._health.set_received(name, camera.received, camera.last_received_utc)
        self._health.set_sources(parts.subscriber.sources())
        self._health.set_counter("frames_resent", parts.subscriber.resent())
        self._health.set_queue_frames(len(parts.frames))
        writer = parts.writer.counters
        self._health.set_counter("write_retries", writer.retries)
        self._health.set_counter("write_duplicates", writer.duplicates)
        self._health.set_counter("spooled_results", parts.writer.spool_counters.results)
        self._health.set_counter("spool_batches_waiting", parts.writer.spooled_batches)
        self._health.set_counter("pictures_left_out", parts.writer.pictures_left_out)
        self._health.set_counter("waits_for_pictures", parts.drawer.waits)
        self._health.set_counter("memory_shortages", parts.slot.memory_shortages)
        self._health.set_counter("compile_failures", parts.slot.compile_failures)
        if parts.archive is not None:
            self._health.set_counter("frames_kept", parts.archive.counters.kept)
            self._health.set_counter("frames_not_kept", parts.archive.counters.not_kept)
        self._health.set_counter("storage_blocked", int(parts.writer.state.is_blocked))
        parts.receivers.publish_counters()
        parts.entrance.publish_counters()
        is_away = parts.writer.state.is_spooling
        self._health.set_trouble("database", DATABASE_AWAY if is_away else None)
        snapshot = self._health.snapshot(time.monotonic(), utc_now())
        try:
            write_status(self._status_path, snapshot)
        except OSError as error:  # a full or vanished run_dir must not stop inspection
            self._warnings.warning("status", "status not written", error=str(error))
        return snapshot

    def _shut_down(self) -> int:
        """Stop from source to sink, so that nothing received is lost."""
        parts = self._parts
        logger.info("stopping")
        self._health.set_state(State.STOPPING)
        self._notifier.stopping("draining")
        self._publish_status()
        failed = False
        for worker, limit_s in (
            (parts.ingest, INGEST_STOP_S),
            (parts.inspection, INSPECTION_STOP_S),
            (parts.pictures, PICTURES_STOP_S),
            *((worker, FRAMES_STOP_S) for worker in parts.archiving),
            *((worker, RECEIVER_STOP_S) for worker in parts.receivers.workers()),
            *((worker, INGEST_STOP_S) for worker in parts.entrance.workers()),
        ):
            worker.request_stop()
            if not self._join(worker, limit_s):
                logger.error("thread did not stop", extra={"worker": worker.name})
                failed = failed or not worker.may_be_left
            failed = failed or worker.error is not None
        parts.receivers.close()
        if parts.models is not None:
            parts.models.close()
        parts.slot.close()
        try:
            parts.note(EventKind.STOPPED, "failed" if failed else "orderly")
            parts.writer.stop(WRITER_STOP_S)
        except StorageError:
            logger.exception("results not stored")
            failed = True
        self._publish_status()
        self._status_path.unlink(missing_ok=True)
        logger.info("stopped", extra={"failed": failed})
        return 1 if failed else 0

    def _join(self, worker: Worker, limit_s: float) -> bool:
        """Wait for a thread to drain; the watchdog is fed, for this wait has a limit of its own."""
        give_up_at = time.monotonic() + limit_s
        while not worker.join(TICK_S):
            self._notifier.watchdog()
            self._publish_status()
            if time.monotonic() >= give_up_at:
                return False
        return True


def _one_line(snapshot: StatusSnapshot) -> str:
    """For `systemctl status`."""
    received = sum(camera.received for camera in snapshot.cameras.values())
    inspected = sum(camera.inspected for camera in snapshot.cameras.values())
    ng = sum(verdicts.get(Verdict.NG, 0) for verdicts in snapshot.verdicts.values())
    return f"{received} received, {inspected} inspected, {ng} NG, {snapshot.queue_frames} waiting"
