"""Builds every part of the line and joins them with queues and callables. Starts and stops nothing.

Nothing is decided here. The way of a frame: Subscriber -> FrameQueue -> InspectionLoop -> Drawer ->
Writer; beside it Receivers (verdicts out), Entrance (keys, HTTP) and ConfigKeeper (reload).
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from daemon.config.categories import CategoryConfig
from daemon.config.line import Config
from daemon.config_file import ConfigFile, hide_password, wrong_checkpoint
from daemon.core import (
    Calibration,
    Event,
    EventKind,
    FrameLoss,
    Inspection,
    KeptFrame,
    Severity,
    ShadowScore,
    Verdict,
)
from daemon.entrance import Entrance
from daemon.errors import CategoryModelError
from daemon.frame_archive import FrameArchive, Inspect
from daemon.health import Health
from daemon.ingest.admission import ErrorFrame
from daemon.ingest.decoding import decode_threads
from daemon.ingest.frame_queue import FrameQueue
from daemon.ingest.holes import Start
from daemon.ingest.sequence import Gap
from daemon.ingest.subscriber import Subscriber
from daemon.inspection.batcher import Batcher
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.drawing import Drawer
from daemon.inspection.inspector import Inspector
from daemon.inspection.loop import InspectionLoop
from daemon.inspection.no_detector import NoDetector
from daemon.log import set_level
from daemon.model_rows import current_calibrations, known_of, register
from daemon.receivers import Receivers
from daemon.reload import ConfigKeeper
from daemon.schedule import Schedule
from daemon.stage_clock import StageClock
from daemon.storage import known_epochs, replay, repository
from daemon.storage.batch import Result
from daemon.storage.clock_guard import ClockGuard
from daemon.storage.database import write_transaction
from daemon.storage.frame_retention import FrameRetention
from daemon.storage.housekeeping import Housekeeper
from daemon.storage.spool import Spool
from daemon.storage.writer import Writer
from daemon.worker import Worker

if TYPE_CHECKING:
    from daemon.inspection.detector_slot import DetectorSlot
    from daemon.model_keeper import ModelKeeper

logger = logging.getLogger(__name__)

SEQUENCE_MEMORY = timedelta(days=2)
"""How long ago a crash may have taken frames that are looked for, and brought again."""
THREAD_MAX_AGE_S = 25.0
"""The watchdog's patience with a thread; one batch on a slow CPU takes a few seconds."""


class LineParts:
    """Every part of one line; `daemon.app` starts, watches and stops them."""

    def __init__(
        self,
        file: ConfigFile,
        engine: Engine,
        spool: Spool,
        secrets: Mapping[str, str],
        stop: threading.Event,
    ) -> None:
        """Load the detector, empty the spool, take up calibrations and sequences.

        Args:
            stop: Ends the emptying of the spool early; set when a thread dies.

        Raises:
            ConfigError, ModelError, StorageError: the line cannot be built as configured.
        """
        self._config = config = file.config
        self._engine = engine
        self._on_failure = stop.set
        self.health = Health(
            line=config.line,
            cameras=config.cameras,
            categories=config.categories,
            database=hide_password(config.storage.url),
            queue_limit=config.queue.max_frames,
        )
        self._stage_clock = StageClock(self.health.observe_stage, time.monotonic)
        self.entrance = Entrance(
            config,
            secrets=secrets,
            health=self.health,
            note=self.note,
            on_failure=self._on_failure,
        )
        # before anything asks the database where runs, calibrations and sequences stand
        self.replayed = replay.replay(engine, spool, stop=stop)
        with engine.connect() as connection:
            self.crashed_run = repository.crashed_run(connection, config.line)
        self.keeper = ConfigKeeper(file, engine, self.health)
        self.slot = self._open_detector(file)
        self.book = self._open_book()
        self.frames = FrameQueue(config.queue, config.cameras)
        self.writer = self._open_writer(spool)
        self.receivers = Receivers(
            config.outputs,
            line=config.line,
            engine=engine,
            secrets=secrets,
            health=self.health,
            note=self.note,
            on_failure=self._on_failure,
            door=self.entrance.door,
        )
        self.ingest_beat = self.health.watch("ingest", THREAD_MAX_AGE_S)
        self.inspection_beat = self.health.watch("inspection", THREAD_MAX_AGE_S)
        self.pictures_beat = self.health.watch("pictures", THREAD_MAX_AGE_S)
        self.writer_beat = self.health.watch("writer", THREAD_MAX_AGE_S)
        self.subscriber = self._open_subscriber()
        self.ingest = Worker("ingest", self.subscriber.run, on_failure=self._on_failure)
        self.drawer = Drawer(
            sink=self._put_drawn,
            on_draw=partial(self.health.observe_stage, "draw"),
            beat=self.pictures_beat.beat,
            clock=time.monotonic,
        )
        self.pictures = Worker("pictures", self.drawer.run, on_failure=self._on_failure)
        self.archive = self._open_archive()
        self.archiving = self._archiving()
        self.inspector = self._open_inspector()
        self.models = self._open_model_keeper()
        self.schedule = self._open_schedule(file)
        self.inspection = Worker("inspection", self._loop().run, on_failure=self._on_failure)

    def note(self, kind: EventKind, detail: str, severity: Severity = Severity.INFO) -> None:
        """Write into the line's diary."""
        self.writer.put(Event(kind, severity, utc_now(), detail))

    def events(self) -> list[Event]:
        """What the parts without a diary of their own have to say since the last call."""
        return [*self.slot.events(), *(() if self.archive is None else self.archive.events())]

    def prepare(self, config: Config) -> None:
        """Load what another configuration will need; nothing of it is in force yet.

        Raises:
            CategoryModelError: a category's own model cannot be used.
            OperationalError: the database is away.
        """
        self.slot.prepare(config.categories)
        versions = self._versions(config.categories)
        if any(self.book.version(name) != version for name, version in versions.items()):
            self._register_models()
            self._take_over_calibrations(versions.values())

    def follow(self, config: Config) -> None:
        """Bring what may change live into force, from sink to source.

        A frame that was received for a category which is gone now becomes an ERROR row.
        """
        self._config = config
        set_level(config.log)
        self.health.follow(config.cameras, config.categories)
        self.book.follow(config.categories)
        if self.models is not None:
            self.models.follow(config)
        if isinstance(self.inspector, Inspector):
            self.inspector.follow(config.categories, config.storage)
        self.frames.follow(config.cameras)
        self.subscriber.follow(config.cameras, config.categories, config.limits)

    def look_for_calibrations(self) -> None:
        """Put thresholds in force that somebody stored since the last look.

        Raises:
            OperationalError: the database is away.
        """
        self._take_over_calibrations(self.book.version(name) for name in self._config.categories)

    def _take_over_calibrations(self, versions: Iterable[str]) -> None:
        with self._engine.connect() as connection:
            current = current_calibrations(connection, versions)
        for made in self.book.replace(current):
            _log_calibration(made)

    # -- building ------------------------------------------------------------------------------

    def _open_detector(self, file: ConfigFile) -> "DetectorSlot | NoDetector":
        if self._config.model.commissioning:
            return NoDetector(
                clock=time.monotonic,
                now=utc_now,
                on_batch=self.health.count_batch,
                tell=self._tell,
            )
        from daemon.inspection.detector_slot import DetectorSlot  # torch, which takes seconds
        from daemon.model_start import open_first_model

        try:
            return DetectorSlot(
                self._config.model,
                self._config.categories,
                max_batch=self._config.batch.max_batch_size,
                on_batch=lambda: self.inspection_beat.beat(),  # noqa: PLW0108 - made later
                predictor=open_first_model(self._config, self._engine, utc_now()),
            )
        except CategoryModelError as error:
            raise wrong_checkpoint(file, error) from error

    def _open_model_keeper(self) -> "ModelKeeper | None":
        training = self._config.training
        if training is None or isinstance(self.slot, NoDetector):
            return None
        from daemon.inspection.model_swap import ModelSwap
        from daemon.inspection.shadow import Shadow
        from daemon.model_keeper import ModelKeeper
        from daemon.training.stored_model import store_of

        shadow = Shadow(
            sink=partial(self.writer.put, on_wait=self.inspection_beat.beat),
            has_frames=lambda: not self.frames.empty(),
            beat=self.inspection_beat.beat,
            clock=time.monotonic,
            now=utc_now,
        )
        return ModelKeeper(
            self._config,
            training,
            store_of(self._config),
            self._engine,
            slot=self.slot,
            swap=ModelSwap(self.slot, self.book),
            shadow=shadow,
            beat=self.inspection_beat.beat,
            health=self.health,
            note=self.note,
        )

    def _open_book(self) -> CalibrationBook:
        """Register the model version and take up calibrations and learning where they stood."""
        version = self.slot.version
        self.health.set_model_version(version)
        self._register_models()
        variants = self._versions(self._config.categories)
        with self._engine.connect() as connection:
            known = known_of(connection, self._config.line, self._config.categories, variants)
        return CalibrationBook(
            model_version=version,
            categories=self._config.categories,
            calibrations=known.calibrations,
            learned=known.learned,
            now=utc_now,
            variants=variants,
        )

    def _versions(self, categories: Mapping[str, CategoryConfig]) -> dict[str, str]:
        return {name: self.slot.version_of(name, each) for name, each in categories.items()}

    def _register_models(self) -> None:
        """Results can name these versions from now on."""
        with write_transaction(self._engine) as connection:
            for model in self.slot.models:
                register(connection, model, utc_now())

    def _open_subscriber(self) -> Subscriber:
        """What a crash took between receipt and commit is brought again, or becomes a gap."""
        since = utc_now() - SEQUENCE_MEMORY
        missing: dict[Start, list[Gap]] = {}
        with self._engine.connect() as connection:
            older_seqs = known_epochs.last_numbers(connection, self._config.cameras)
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
            frames=self.frames,
            on_loss=self._put_from_ingest,
            on_error=lambda error: self._put_from_ingest(self._as_inspection(error)),
            beat=self.ingest_beat.beat,
            utc_now=utc_now,
            clock=time.monotonic,
            last_seqs=last_seqs,
            older_seqs=older_seqs,
            first_seqs=first_seqs,
            missing=missing,
            door=self.entrance.door,
            on_stage=self.health.observe_stage,
            note=self.note,
            decode_threads=decode_threads(len(os.sched_getaffinity(0))),
            keep_files=self._config.frames is not None,
            least_side=self._least_side,
        )

    def _least_side(self, category: str) -> int | None:
        """How small a category's JPEGs may be decoded. For the ingest thread."""
        policy = self._config.categories.get(category)
        if policy is None or isinstance(self.slot, NoDetector):
            return None
        return self.slot.serving(policy).least_side(policy)

    def _open_archive(self) -> FrameArchive | None:
        if self._config.frames is None:
            return None
        return FrameArchive(
            self._config.frames,
            line=self._config.line,
            reserve_bytes=self._config.storage.reserve_bytes,
            put=self.writer.put,
            clock=time.monotonic,
            now=utc_now,
        )

    def _archiving(self) -> tuple[Worker, ...]:
        """No heartbeat: a disk that hangs costs whole frames, not the inspection."""
        if self.archive is None:
            return ()
        return (Worker("frames", self.archive.run, on_failure=self._on_failure),)

    def _open_schedule(self, file: ConfigFile) -> Schedule | None:
        if self._config.training is None or self._config.model.commissioning:
            return None
        return Schedule(
            self._config, self._config.training, file.path, self._engine, self.health, utc_now
        )

    def _loop(self) -> InspectionLoop:
        batch = self._config.batch
        inspect: Inspect = self._stage_clock.around_inspect(self.inspector.inspect)
        if self.models is not None:
            inspect = self.models.around_inspect(inspect)
        return InspectionLoop(
            frames=self.frames,
            batcher=Batcher(
                max_size=batch.max_batch_size, max_wait_s=batch.max_queue_delay_ms / 1000
            ),
            inspect=inspect if self.archive is None else self.archive.around(inspect),
            sink=partial(self.drawer.put, on_wait=self.inspection_beat.beat),
            beat=self.inspection_beat.beat,
            clock=time.monotonic,
            between=self._between_batches,
        )

    def _between_batches(self, is_idle: bool) -> None:
        if self.models is not None:
            self.models.between(is_idle)

    def _open_inspector(self) -> Inspector | NoDetector:
        if isinstance(self.slot, NoDetector):
            return self.slot
        return Inspector(
            infer=self._stage_clock.around_infer(self.slot.infer),
            categories=self._config.categories,
            storage=self._config.storage,
            book=self.book,
            clock=time.monotonic,
            now=utc_now,
            on_batch=self.health.count_batch,
            tell=self._tell,
            banks=self.slot,
        )

    def _open_writer(self, spool: Spool) -> Writer:
        storage = self._config.storage
        return Writer(
            self._engine,
            line=self._config.line,
            spool=spool,
            reserve_bytes=storage.reserve_bytes,
            max_results=storage.max_results,
            on_failure=self._on_failure,
            on_commit=self._count_committed,
            on_spooled=self._acknowledge,
            on_store=partial(self.health.observe_stage, "store"),
            maintain=self._maintenance(),
        )

    def _maintenance(self) -> Callable[[], Sequence[Event]]:
        engine, line, frames = self._engine, self._config.line, self._config.frames
        guard = ClockGuard(engine, line, now=utc_now)
        housekeeper = Housekeeper(
            engine, self._config.retention, line=line, now=utc_now, is_clock_right=guard.is_right
        )
        if frames is None:
            return lambda: (*guard.step(), *housekeeper.step())
        upkeep = FrameRetention(engine, frames, line, now=utc_now, is_clock_right=guard.is_right)
        return lambda: (*guard.step(), *housekeeper.step(), *upkeep.step())

    # -- joints --------------------------------------------------------------------------------

    def _put_from_ingest(self, result: Result) -> None:
        self._tell(result)
        self.writer.put(result, on_wait=self.ingest_beat.beat)

    def _tell(self, result: Result) -> None:
        """A gate hears of a verdict before it is drawn and stored: both may have to wait."""
        if isinstance(result, Inspection | FrameLoss):
            self.receivers.offer(result)

    def _put_drawn(self, result: Inspection | Calibration | Event) -> None:
        self.writer.put(result, on_wait=self.pictures_beat.beat)
        if isinstance(result, Calibration):
            _log_calibration(result)

    def _as_inspection(self, error: ErrorFrame) -> Inspection:
        """An identified frame that cannot be inspected is a row, so that it can be found."""
        return Inspection(
            info=error.info,
            verdict=Verdict.ERROR,
            model_version=self.slot.version,
            decided_utc=utc_now(),
            frame_to_verdict_s=time.monotonic() - error.info.received_at,
            error_reason=error.reason,
            error_detail=error.detail,
        )

    def _count_committed(self, results: Sequence[Result]) -> None:
        """Counted when it is in the database, not before."""
        for result in results:
            match result:
                case Inspection():
                    self.health.count_inspection(result)
                case FrameLoss():
                    self.health.count_loss(result)
                case Event():
                    self.health.count_event(result.severity)
                case Calibration() | KeptFrame() | ShadowScore():
                    pass
        self._acknowledge(results)

    def _acknowledge(self, results: Sequence[Result]) -> None:
        """Let a reliable publisher forget its frames: they are in the database, or in the spool.

        The spool counts, because it is on the disk by fsync and is stored before the next start
        inspects anything: it survives whatever the database survives.
        """
        self.subscriber.stored(
            result.info.frame_id for result in results if isinstance(result, Inspection)
        )


def _log_calibration(made: Calibration) -> None:
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


def utc_now() -> datetime:
    """The wall clock, aware."""
    return datetime.now(UTC)
