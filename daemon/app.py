"""The composition root: builds every part, joins them with queues and callables, stops them.

Nothing is decided here. The way of a frame: Subscriber -> FrameQueue -> InspectionLoop -> Writer;
beside it Receivers (verdicts out), Entrance (keys, HTTP) and ConfigKeeper (reload).
"""

import contextlib
import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from daemon.config.line import Config
from daemon.config_file import ConfigFile, hide_password
from daemon.core import (
    Calibration,
    Event,
    EventKind,
    FrameLoss,
    Inspection,
    Severity,
    Verdict,
)
from daemon.credentials import Secrets
from daemon.entrance import Entrance
from daemon.errors import ConfigError, DatabaseAwayError, StorageError
from daemon.health import Health
from daemon.ingest.admission import ErrorFrame
from daemon.ingest.frame_queue import FrameQueue
from daemon.ingest.holes import Start
from daemon.ingest.sequence import Gap
from daemon.ingest.subscriber import Subscriber
from daemon.inspection.batcher import Batcher
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.inspector import Inspector
from daemon.inspection.loop import InspectionLoop
from daemon.inspection.no_detector import NoDetector
from daemon.log import RateLimitedLog, set_level
from daemon.receivers import Receivers
from daemon.reload import ConfigKeeper
from daemon.service_notify import ServiceNotifier
from daemon.stage_clock import StageClock
from daemon.status import STATUS_FILE, State, StatusSnapshot, write_status
from daemon.storage import config_history, replay, repository, revision
from daemon.storage.batch import Result
from daemon.storage.database import open_database, write_transaction
from daemon.storage.housekeeping import Housekeeper
from daemon.storage.spool import Spool
from daemon.storage.writer import Writer
from daemon.worker import Worker

if TYPE_CHECKING:
    from daemon.inspection.detector_slot import DetectorSlot

logger = logging.getLogger(__name__)

TICK_S = 1.0
CALIBRATION_CHECK_S = 5.0
SEQUENCE_MEMORY = timedelta(days=2)
"""A publisher that went on through a longer stop of the daemon is counted from its next frame."""
INGEST_STOP_S = 10.0
INSPECTION_STOP_S = 40.0
RECEIVER_STOP_S = 12.0
WRITER_STOP_S = 20.0
THREAD_MAX_AGE_S = 25.0
"""The watchdog's patience with a thread; one batch on a slow CPU takes a few seconds."""
DATABASE_AWAY = "the database takes no results: they wait in the spool"


def run_daemon(file: ConfigFile) -> int:
    """Inspect until SIGTERM or SIGINT; returns 0 after an orderly stop, 1 after a failure.

    A start needs the database, for calibrations and sequence numbers; without it the daemon ends
    with 1, and its service manager tries again until the database is there.

    Raises:
        ConfigError, ModelError, StorageError: the daemon cannot start as configured.
    """
    try:
        with _only_daemon_in(file.config.run_dir):
            return _run_line(file)
    except DatabaseAwayError as error:
        logger.error("no start without the database", extra={"error": str(error)})  # noqa: TRY400
        return 1


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


@contextlib.contextmanager
def _only_daemon_in(run_dir: Path) -> Iterator[None]:
    """Hold a lock on `run_dir`; the kernel frees it however the process ends."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        opened = (run_dir / "lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"run_dir {run_dir} cannot be written: {error.strerror}; create it for this user, or "
            "configure another"
        ) from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another daemon runs in {run_dir}; stop it, or give this one its own run_dir"
            ) from error
        yield


class _Line:
    """One running line: its parts, and the main thread that watches over them."""

    def __init__(
        self, file: ConfigFile, engine: Engine, spool: Spool, secrets: Mapping[str, str]
    ) -> None:
        self._config = config = file.config
        self._engine = engine
        self._stop = threading.Event()
        self._reload_asked = threading.Event()
        self._notifier = ServiceNotifier()
        self._warnings = RateLimitedLog(logger)
        self._status_path = config.run_dir / STATUS_FILE
        self._health = Health(
            line=config.line,
            cameras=config.cameras,
            categories=config.categories,
            database=hide_password(config.storage.url),
            queue_limit=config.queue.max_frames,
        )
        self._stage_clock = StageClock(self._health.observe_stage, time.monotonic)
        self._entrance = Entrance(
            config,
            secrets=secrets,
            health=self._health,
            note=self._note,
            on_failure=self._stop.set,
        )
        # before anything asks the database where calibrations and sequences stand
        self._replayed = replay.replay(engine, spool, stop=self._stop)
        self._keeper = ConfigKeeper(file, engine, self._health)
        self._slot = self._open_detector()
        self._book = self._open_book()
        self._frames = FrameQueue(config.queue)
        self._writer = Writer(
            engine,
            line=config.line,
            spool=spool,
            reserve_bytes=config.storage.reserve_bytes,
            max_results=config.storage.max_results,
            on_failure=self._stop.set,
            on_commit=self._count_committed,
            on_spooled=self._acknowledge,
            on_store=partial(self._health.observe_stage, "store"),
            maintain=Housekeeper(engine, config.retention, now=_utc_now).step,
        )
        self._receivers = Receivers(
            config.outputs,
            line=config.line,
            engine=engine,
            secrets=secrets,
            health=self._health,
            note=self._note,
            on_failure=self._stop.set,
            door=self._entrance.door,
        )
        self._ingest_beat = self._health.watch("ingest", THREAD_MAX_AGE_S)
        self._inspection_beat = self._health.watch("inspection", THREAD_MAX_AGE_S)
        self._writer_beat = self._health.watch("writer", THREAD_MAX_AGE_S)
        self._subscriber = self._open_subscriber()
        self._ingest = Worker("ingest", self._subscriber.run, on_failure=self._stop.set)
        self._inspector = self._open_inspector()
        self._inspection = Worker("inspection", self._loop().run, on_failure=self._stop.set)

    def run(self) -> int:
        """Start from sink to source, watch, stop from source to sink."""
        self._install_signals()
        self._publish_status()
        names = [category.class_name for category in self._config.categories.values()]
        self._slot.warm_up(self._config.batch.max_batch_size, names)
        self._subscriber.open()
        self._receivers.start()
        self._writer.start()
        self._entrance.start()
        for heartbeat in (self._ingest_beat, self._inspection_beat):
            heartbeat.beat()  # loading may have taken longer than the watchdog's patience
        self._inspection.start()
        self._ingest.start()
        self._note(EventKind.STARTED, f"inspecting with {self._slot.version}")
        if rejected := self._replayed.rejected:
            detail = replay.alarm_detail(rejected)
            self._note(EventKind.SPOOL_REJECTED, detail, Severity.ALARM)
        self._health.set_state(State.READY)
        self._notifier.ready(f"inspecting with {self._slot.version}")
        logger.info(
            "ready",
            extra={
                "line": self._config.line,
                "model": self._slot.version,
                "endpoints": list(self._subscriber.endpoints),
                "database": hide_password(self._config.storage.url),
            },
        )
        self._watch()
        return self._shut_down()

    # -- building ------------------------------------------------------------------------------

    def _open_detector(self) -> "DetectorSlot | NoDetector":
        if self._config.model.commissioning:
            return NoDetector(clock=time.monotonic, now=_utc_now, on_batch=self._health.count_batch)
        from daemon.inspection.detector_slot import DetectorSlot  # torch, which takes seconds

        return DetectorSlot(
            self._config.model,
            self._config.categories,
            max_batch=self._config.batch.max_batch_size,
            on_batch=lambda: self._inspection_beat.beat(),  # noqa: PLW0108 - made later
        )

    def _open_book(self) -> CalibrationBook:
        """Register the model version and take up calibrations and learning where they stood."""
        version = self._slot.version
        self._health.set_model_version(version)
        with write_transaction(self._engine) as connection:
            repository.ensure_model_version(
                connection,
                name=version,
                method=self._slot.method,
                backbone=self._slot.backbone,
                card_json=self._slot.card_json,
                now=_utc_now(),
            )
        learned = {}
        variants = {name: self._slot.version_of(name) for name in self._config.categories}
        with self._engine.connect() as connection:
            calibrations = _current_calibrations(connection, variants.values())
            for name, variant in variants.items():
                recipe = self._config.categories[name].recipe
                since = config_history.recipe_since(connection, self._config.line, name, recipe)
                stored = repository.learning_scores(connection, name, variant, since)
                learned[name] = list(zip(stored.pred_scores, stored.map_peaks, strict=True))
        return CalibrationBook(
            model_version=version,
            categories=self._config.categories,
            calibrations=calibrations,
            learned=learned,
            now=_utc_now,
            variants=variants,
        )

    def _open_subscriber(self) -> Subscriber:
        """What a crash took between receipt and commit is brought again, or becomes a gap."""
        since = _utc_now() - SEQUENCE_MEMORY
        missing: dict[Start, list[Gap]] = {}
        with self._engine.connect() as connection:
            first_seqs = repository.first_sequences(connection, since)
            last_seqs = repository.last_sequences(connection, since)
            for hole in repository.missing_sequences(connection, since):
                gap = Gap(hole.first_seq, hole.last_seq)
                missing.setdefault((hole.camera, hole.epoch), []).append(gap)
        return Subscriber(
            sources=self._config.sources,
            cameras=self._config.cameras,
            categories=self._config.categories,
            limits=self._config.limits,
            frames=self._frames,
            on_loss=self._put_from_ingest,
            on_error=lambda error: self._put_from_ingest(self._as_inspection(error)),
            beat=self._ingest_beat.beat,
            utc_now=_utc_now,
            clock=time.monotonic,
            last_seqs=last_seqs,
            first_seqs=first_seqs,
            missing=missing,
            door=self._entrance.door,
            on_stage=self._health.observe_stage,
        )

    def _loop(self) -> InspectionLoop:
        batch = self._config.batch
        return InspectionLoop(
            frames=self._frames,
            batcher=Batcher(
                max_size=batch.max_batch_size, max_wait_s=batch.max_queue_delay_ms / 1000
            ),
            inspect=self._stage_clock.around_inspect(self._inspector.inspect),
            sink=self._put_from_inspection,
            beat=self._inspection_beat.beat,
            clock=time.monotonic,
        )

    def _open_inspector(self) -> Inspector | NoDetector:
        if isinstance(self._slot, NoDetector):
            return self._slot
        return Inspector(
            infer=self._stage_clock.around_infer(self._slot.infer),
            model_version=self._slot.version,
            categories=self._config.categories,
            storage=self._config.storage,
            book=self._book,
            clock=time.monotonic,
            now=_utc_now,
            on_batch=self._health.count_batch,
            banks=self._slot,
        )

    # -- joints --------------------------------------------------------------------------------

    def _put_from_ingest(self, result: Result) -> None:
        self._tell(result)
        self._writer.put(result, on_wait=self._ingest_beat.beat)

    def _tell(self, result: Result) -> None:
        """A gate hears of a verdict before the database does: storing may have to wait."""
        if isinstance(result, Inspection | FrameLoss):
            self._receivers.offer(result)

    def _put_from_inspection(self, result: Result) -> None:
        self._tell(result)
        self._writer.put(result, on_wait=self._inspection_beat.beat)
        if isinstance(result, Calibration):
            self._log_calibration(result)

    def _as_inspection(self, error: ErrorFrame) -> Inspection:
        """An identified frame that cannot be inspected is a row, so that it can be found."""
        return Inspection(
            info=error.info,
            verdict=Verdict.ERROR,
            model_version=self._slot.version,
            decided_utc=_utc_now(),
            frame_to_verdict_s=time.monotonic() - error.info.received_at,
            error_reason=error.reason,
            error_detail=error.detail,
        )

    def _note(self, kind: EventKind, detail: str, severity: Severity = Severity.INFO) -> None:
        """Write into the line's diary."""
        self._writer.put(Event(kind, severity, _utc_now(), detail))

    def _count_committed(self, results: Sequence[Result]) -> None:
        """Counted when it is in the database, not before."""
        for result in results:
            match result:
                case Inspection():
                    self._health.count_inspection(result)
                case FrameLoss():
                    self._health.count_loss(result)
                case Event():
                    self._health.count_event(result.severity)
                case Calibration():
                    pass
        self._acknowledge(results)

    def _acknowledge(self, results: Sequence[Result]) -> None:
        """Let a reliable publisher forget its frames: they are in the database, or in the spool.

        The spool counts, because it is on the disk by fsync and is stored before the next start
        inspects anything: it survives whatever the database survives.
        """
        self._subscriber.stored(
            result.info.frame_id for result in results if isinstance(result, Inspection)
        )

    def _log_calibration(self, made: Calibration) -> None:
        logger.info(
            "category calibrated",
            extra={
                "category": made.category,
                "review_threshold": made.review_threshold,
                "ng_threshold": made.ng_threshold,
                "frames": made.n_frames,
                "is_supported": made.is_supported,
                "source": made.source,
            },
        )

    # -- running -------------------------------------------------------------------------------

    def _install_signals(self) -> None:
        def request_stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            if number == signal.SIGINT and self._stop.is_set():
                os._exit(130)  # the second Ctrl-C: somebody is in a hurry
            self._stop.set()

        signal.signal(signal.SIGHUP, lambda *_: self._reload_asked.set())
        signal.signal(signal.SIGTERM, request_stop)
        signal.signal(signal.SIGINT, request_stop)

    def _watch(self) -> None:
        """Feed the watchdog only while every thread moves; take over new calibrations."""
        next_check_at = time.monotonic() + CALIBRATION_CHECK_S
        while not self._stop.wait(TICK_S):
            if self._reload_asked.is_set():
                self._reload_asked.clear()
                self._reload()
            snapshot = self._publish_status()
            now = time.monotonic()
            self._writer_beat.beat_at(self._writer.last_progress)
            for event in self._slot.events():
                self._writer.put(event)
            if dead := self._health.dead_threads(now):
                self._warnings.warning("dead", "threads without progress", workers=dead)
                continue
            self._notifier.watchdog()
            self._notifier.status(_one_line(snapshot))
            if now >= next_check_at:
                next_check_at = now + CALIBRATION_CHECK_S
                self._keeper.record_again()
                self._take_over_calibrations()

    def _reload(self) -> None:
        self._notifier.reloading()
        self._keeper.reload(self._apply, self._note)
        self._notifier.ready(f"inspecting with {self._slot.version}")

    def _apply(self, config: Config) -> None:
        """Bring what may change live into force, from sink to source.

        A frame that was received for a category which is gone now becomes an ERROR row.
        """
        self._config = config
        set_level(config.log)
        self._health.follow(config.cameras, config.categories)
        self._book.follow(config.categories)
        if isinstance(self._inspector, Inspector):
            self._inspector.follow(config.categories, config.storage)
        self._subscriber.follow(config.cameras, config.categories, config.limits)

    def _take_over_calibrations(self) -> None:
        try:
            with self._engine.connect() as connection:
                versions = [self._book.version(name) for name in self._config.categories]
                current = _current_calibrations(connection, versions)
        except OperationalError as error:  # the database is away; the writer retries, so do we
            self._warnings.warning("calibrations", "calibrations not read", error=str(error.orig))
            return
        for made in self._book.replace(current):
            self._log_calibration(made)

    def _publish_status(self) -> StatusSnapshot:
        for name, camera in self._subscriber.counters().cameras.items():
            self._health.set_received(name, camera.received, camera.last_received_utc)
        self._health.set_sources(self._subscriber.sources())
        self._health.set_counter("frames_resent", self._subscriber.resent())
        self._health.set_queue_frames(len(self._frames))
        writer = self._writer.counters
        self._health.set_counter("write_retries", writer.retries)
        self._health.set_counter("write_duplicates", writer.duplicates)
        self._health.set_counter("spooled_results", self._writer.spool_counters.results)
        self._health.set_counter("spool_batches_waiting", self._writer.spooled_batches)
        self._health.set_counter("pictures_left_out", self._writer.pictures_left_out)
        self._health.set_counter("storage_blocked", int(self._writer.state.is_blocked))
        self._receivers.publish_counters()
        self._entrance.publish_counters()
        is_away = self._writer.state.is_spooling
        self._health.set_trouble("database", DATABASE_AWAY if is_away else None)
        snapshot = self._health.snapshot(time.monotonic(), _utc_now())
        try:
            write_status(self._status_path, snapshot)
        except OSError as error:  # a full or vanished run_dir must not stop inspection
            self._warnings.warning("status", "status not written", error=str(error))
        return snapshot

    def _shut_down(self) -> int:
        """Stop from source to sink, so that nothing received is lost."""
        logger.info("stopping")
        self._health.set_state(State.STOPPING)
        self._notifier.stopping("draining")
        self._publish_status()
        failed = False
        for worker, limit_s in (
            (self._ingest, INGEST_STOP_S),
            (self._inspection, INSPECTION_STOP_S),
            *((worker, RECEIVER_STOP_S) for worker in self._receivers.workers()),
            *((worker, INGEST_STOP_S) for worker in self._entrance.workers()),
        ):
            worker.request_stop()
            if not self._join(worker, limit_s):
                logger.error("thread did not stop", extra={"worker": worker.name})
                failed = True
            failed = failed or worker.error is not None
        self._receivers.close()
        self._slot.close()
        try:
            self._note(EventKind.STOPPED, "failed" if failed else "orderly")
            self._writer.stop(WRITER_STOP_S)
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


def _current_calibrations(
    connection: Connection, model_versions: Iterable[str]
) -> list[Calibration]:
    """Of several model versions: a category with a reference bank has its own."""
    return [
        made
        for version in sorted(set(model_versions))
        for made in repository.current_calibrations(connection, version)
    ]


def _one_line(snapshot: StatusSnapshot) -> str:
    """For `systemctl status`."""
    received = sum(camera.received for camera in snapshot.cameras.values())
    inspected = sum(camera.inspected for camera in snapshot.cameras.values())
    ng = sum(verdicts.get(Verdict.NG, 0) for verdicts in snapshot.verdicts.values())
    return f"{received} received, {inspected} inspected, {ng} NG, {snapshot.queue_frames} waiting"


def _utc_now() -> datetime:
    return datetime.now(UTC)
