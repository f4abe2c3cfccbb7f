"""The ingest thread: sockets in; frames, errors and losses out. Knows no detector, no database."""

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial

import zmq

from daemon.config.security import is_guarded
from daemon.config.sources import CameraConfig, LimitsConfig, SourceConfig
from daemon.core import Frame, FrameId, FrameLoss, LossReason, Stage
from daemon.errors import FrameError
from daemon.ingest.admission import (
    Admitted,
    ErrorFrame,
    Gatekeeper,
    everybody_may_send,
    gap_loss,
)
from daemon.ingest.decoding import FEWEST, DecodePool
from daemon.ingest.endpoints import endpoint_of
from daemon.ingest.frame_queue import FrameQueue
from daemon.ingest.holes import Holes, Start
from daemon.ingest.ledger import IngestCounters, Ledger
from daemon.ingest.message import parse_beat
from daemon.ingest.numbering import DaemonNumbering
from daemon.ingest.reliable_intake import ReliableIntake
from daemon.ingest.sequence import Gap, SequenceTracker
from daemon.ingest.sockets import Received, open_source
from daemon.ingest.source import Note, Source
from daemon.ingest.wake import WakePipe
from daemon.ingest.wire import MAX_EPOCH, MAX_SEQ
from daemon.log import RateLimitedLog
from daemon.security.doorkeeper import Doorkeeper
from daemon.status import SourceStatus

logger = logging.getLogger(__name__)

POLL_MS = 200
MESSAGES_PER_TURN = 16  # then the next socket has its turn
HOLE_PATIENCE_S = 24 * 3600.0
"""How long frames that a crash took may wait for a reliable sender to bring them again."""


class Subscriber:
    """Owns the receiving sockets.

    Every frame taken off a socket ends in exactly one of: the frame queue, `on_error`,
    `on_loss`. `counters()` shows it. When the decoders are busy or the queue blocks, sockets are
    not read: a PULL or ROUTER source then holds its senders back, a SUB source loses frames, seen
    as gaps. Frames of a ROUTER source are never dropped, and acknowledged after `stored`.
    """

    def __init__(
        self,
        *,
        sources: Sequence[SourceConfig],
        cameras: Mapping[str, CameraConfig],
        categories: Collection[str],
        limits: LimitsConfig,
        frames: FrameQueue,
        on_loss: Callable[[FrameLoss], None],
        on_error: Callable[[ErrorFrame], None],
        beat: Callable[[], None],
        utc_now: Callable[[], datetime],
        clock: Callable[[], float],
        last_seqs: Mapping[Start, int] | None = None,
        older_seqs: Mapping[Start, int] | None = None,
        first_seqs: Mapping[Start, int] | None = None,
        missing: Mapping[Start, Sequence[Gap]] | None = None,
        door: Doorkeeper | None = None,
        on_stage: Callable[[Stage, float], None] = lambda _stage, _seconds: None,
        note: Note = lambda _kind, _detail, _severity: None,
        decode_threads: int = FEWEST,
        keep_files: bool = False,
        least_side: Callable[[str], int | None] = lambda _: None,
        context: "zmq.Context[zmq.Socket[bytes]] | None" = None,
    ) -> None:
        """Open nothing yet.

        Args:
            on_loss, on_error: Called in the ingest thread; may block, which holds ingest back.
            beat: Called at least every POLL_MS plus one decode, for the watchdog.
            clock: Monotonic seconds.
            last_seqs: (camera, epoch) -> last number accounted for by earlier starts; what was
                lost since then becomes a gap. Cameras that are not configured are left out.
            older_seqs: The same, of starts so long ago that nobody looked for holes.
            first_seqs, missing: The lowest number stored, and numbers above it that are not.
            door: Asks for keys on tcp; its context is then used. None lets everybody in.
            on_stage: Told how long frames were received and decoded. Any thread.
            note: Writes into the diary what happens to a source.
            keep_files: Frames carry the file that they were decoded from, to be kept as it is.
            least_side: How small the JPEGs of a category may be decoded, as of `decode_image`.
            context: Needed only for inproc endpoints.
        """
        self._sources = sources
        self._limits = limits
        self._frames = frames
        self._on_loss = on_loss
        self._on_error = on_error
        self._beat = beat
        self._utc_now = utc_now
        self._clock = clock
        self._decode_threads = decode_threads
        self._keep_files = keep_files
        self._least_side = least_side
        self._door = door
        self._on_stage = on_stage
        self._note = note
        self._may_send = everybody_may_send if door is None else door.may_send
        self._context = context if door is None else door.context
        self._owned_context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._cameras = cameras
        self._wanted = self._followed = (cameras, categories, limits)
        self._open: deque[Source] = deque()
        self._wake: WakePipe | None = None
        self._all: tuple[Source, ...] = ()
        self._endpoints: tuple[str, ...] = ()
        self._ledger = Ledger(cameras)
        self._warnings = RateLimitedLog(logger)
        self._holes = Holes(missing or {}, first_seqs or {})
        self._tracker = SequenceTracker(
            {key: seq for key, seq in (last_seqs or {}).items() if key[0] in cameras}, older_seqs
        )
        self._gatekeeper = Gatekeeper(
            cameras=cameras,
            categories=categories,
            limits=limits,
            tracker=self._tracker,
            numbering=DaemonNumbering(lambda: secrets.randbelow(MAX_EPOCH + 1)),
            may_send=self._may_send,
        )

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where the sources really are, in their order; empty before `open`."""
        return self._endpoints

    def open(self) -> None:
        """Open all sockets; call before the thread of `run` starts.

        One whose address is not there yet is bound when it is.

        Raises:
            ConfigError: An endpoint cannot be bound or connected; nothing stays open.
        """
        context = self._context
        if context is None:
            context = self._owned_context = zmq.Context()
        self._wake = WakePipe()
        try:
            for config in self._sources:
                self._open.append(self._open_source(context, config))
        except BaseException:
            self.close()
            raise
        self._all = tuple(self._open)
        self._endpoints = tuple(
            endpoint_of(source.socket) or source.config.endpoint for source in self._all
        )
        logger.info("sources open", extra={"endpoints": self._endpoints})

    def close(self) -> None:
        """Close all sockets; `run` does it by itself."""
        for source in self._open:
            source.close()
        self._open.clear()
        if self._wake is not None:
            self._wake.close()
        if self._owned_context is not None:
            self._owned_context.term()
            self._owned_context = None

    def run(self, stop: threading.Event) -> None:
        """Receive until `stop` is set; then hand on what was received and close the sockets."""
        pool = DecodePool(
            self._decode_threads,
            max_pixels=self._limits.max_pixels,
            clock=self._clock,
            on_stage=self._on_stage,
            keep_files=self._keep_files,
        )
        try:
            everything, all_but_sockets = self._pollers(pool)
            self._give_up_what_nobody_brings()
            holes_end_at = self._clock() + HOLE_PATIENCE_S
            while not stop.is_set():
                self._beat()
                (all_but_sockets if pool.is_full() else everything).poll(POLL_MS)
                self._hand_on(pool.finished(), stop)
                for source in self._open:
                    self._receive(source, pool)
                self._open.rotate()  # a busy socket must not take every free decoder
                self._answer()
                if self._clock() >= holes_end_at:
                    self._give_up(*self._holes.starts())
            self._hand_on(pool.rest(), stop)
        finally:
            pool.close()
            self.close()

    def follow(
        self,
        cameras: Mapping[str, CameraConfig],
        categories: Collection[str],
        limits: LimitsConfig,
    ) -> None:
        """Decide by another configuration from the next message on. Callable from any thread.

        Sockets stay as they are, and with them `limits.max_payload_bytes`.
        """
        self._wanted = (cameras, categories, limits)

    def stored(self, frame_ids: Iterable[FrameId]) -> None:
        """Results are committed: whoever waits for them is told. Callable from any thread."""
        intakes = [source.intake for source in self._all if source.intake is not None]
        awaited = [intake.stored(frame_id) for frame_id in frame_ids for intake in intakes]
        if any(awaited) and self._wake is not None:
            self._wake.wake()

    def sources(self) -> dict[str, SourceStatus]:
        """What was heard of each source, by configured endpoint. Callable from any thread."""
        return {source.config.endpoint: source.status() for source in self._all}

    def resent(self) -> int:
        """Frames that reliable senders sent again and that were known; they are nothing new."""
        return sum(source.intake.resent for source in self._all if source.intake is not None)

    def counters(self) -> IngestCounters:
        """What became of every message so far; callable from any thread."""
        return self._ledger.snapshot()

    def _take_over_rules(self, pool: DecodePool) -> None:
        wanted = self._wanted
        if wanted is self._followed:
            return
        self._followed = wanted
        cameras, categories, limits = wanted
        self._cameras, self._limits = cameras, limits
        self._ledger.follow(cameras)
        self._gatekeeper.follow(cameras, categories, limits)
        pool.limit_pixels(limits.max_pixels)
        for source in self._all:
            if source.intake is not None:
                source.intake.follow(cameras)

    def _open_source(
        self, context: "zmq.Context[zmq.Socket[bytes]]", config: SourceConfig
    ) -> Source:
        secure, must_redial = None, None
        if self._door is not None and is_guarded(config.endpoint, allow_plain=config.allow_plain):
            secure = partial(
                self._door.secure, domain="frames", endpoint=config.endpoint, mode=config.mode
            )
            must_redial = partial(self._door.must_redial, config.endpoint)
        socket = open_source(context, config, self._limits, secure)
        intake = None
        if config.socket == "router":
            intake = ReliableIntake(
                socket,
                config,
                cameras=self._cameras,
                tracker=self._tracker,
                holes=self._holes,
                max_payload_bytes=self._limits.max_payload_bytes,
                on_gap=self._lose_gap,
                may_send=self._may_send,
            )
        return Source(
            config, socket, intake, self._clock(), note=self._note, must_redial=must_redial
        )

    def _pollers(self, pool: DecodePool) -> tuple[zmq.Poller, zmq.Poller]:
        """With the sockets, and without them."""
        everything, all_but_sockets = zmq.Poller(), zmq.Poller()
        for poller in (everything, all_but_sockets):
            poller.register(pool.wake_fd, zmq.POLLIN)
            if self._wake is not None:
                poller.register(self._wake.fd, zmq.POLLIN)
        for source in self._open:
            everything.register(source.socket, zmq.POLLIN)
        return everything, all_but_sockets

    def _receive(self, source: Source, pool: DecodePool) -> None:
        for _ in range(MESSAGES_PER_TURN):
            if pool.is_full():
                return
            began_at = self._clock()
            message = source.receive()
            if message is None:
                return
            received_utc = self._utc_now()  # not before: a clock may be set in between
            source.heard(began_at, received_utc)
            self._take_over_rules(pool)
            if source.intake is not None:
                admitted = self._take_delivery(message, source.intake, received_utc)
            else:
                admitted = self._admit(message, source.config, received_utc)
            if admitted is not None:
                self._on_stage("receive", self._clock() - began_at)
                pool.submit(admitted, self._least_side(admitted.info.category))

    def _admit(
        self, message: Received, source: SourceConfig, received_utc: datetime
    ) -> Admitted | None:
        """Decide on a message; report the gap before it, and the message if it is refused."""
        if beat := parse_beat(message.parts):
            if not self._gatekeeper.believes(beat, message.key):
                return None
            self._give_up((beat.camera, beat.epoch))
            if gap := self._gatekeeper.heed(beat, received_utc):
                self._lose(gap)
            return None
        admission = self._gatekeeper.admit(
            message.parts,
            source,
            received_utc=received_utc,
            received_at=self._clock(),
            key=message.key,
        )
        outcome = admission.outcome
        if isinstance(outcome, FrameLoss):
            self._ledger.received(outcome.camera, received_utc)
        else:
            frame_id = outcome.info.frame_id
            self._ledger.received(frame_id.camera, received_utc)
            self._give_up((frame_id.camera, frame_id.epoch))
        if admission.gap is not None:
            self._lose(admission.gap)
        return self._sort(outcome)

    def _take_delivery(
        self, message: Received, intake: ReliableIntake, received_utc: datetime
    ) -> Admitted | None:
        """The same for a message of a reliable sender, who sends again what gets lost."""
        now = self._clock()
        try:
            delivery = intake.receive(message.parts, now, message.key)
        except FrameError as error:
            self._ledger.received(None, received_utc)
            return self._sort(FrameLoss(error.reason, received_utc, error.detail))
        if delivery is None:
            return None
        self._ledger.received(delivery.frame_id.camera, received_utc)
        return self._sort(
            self._gatekeeper.admit_delivered(
                delivery.parts, delivery.frame_id, received_utc=received_utc, received_at=now
            )
        )

    def _sort(self, outcome: Admitted | ErrorFrame | FrameLoss) -> Admitted | None:
        match outcome:
            case Admitted():
                return outcome
            case FrameLoss():
                self._lose(outcome)
            case ErrorFrame():
                self._fail(outcome)
        return None

    def _answer(self) -> None:
        if self._wake is not None:
            self._wake.clear()
        now = self._clock()
        for source in self._open:
            source.tick(now)

    def _is_reliable(self, frame_id: FrameId) -> bool:
        return any(s.intake is not None and s.intake.holds(frame_id) for s in self._open)

    def _hand_on(self, results: Iterable[Frame | ErrorFrame], stop: threading.Event) -> None:
        for result in results:
            if isinstance(result, ErrorFrame):
                self._fail(result)
                continue
            dropped = self._frames.put(
                result,
                stop=stop,
                on_wait=self._beat,
                must_keep=self._is_reliable(result.info.frame_id),
            )
            self._ledger.queued(result, dropped)
            for frame in dropped:
                self._report(_queue_full(frame, self._frames.max_frames, self._utc_now()))

    def _fail(self, error: ErrorFrame) -> None:
        self._ledger.error(error.info, error.reason)
        frame_id = error.info.frame_id
        self._warnings.warning(
            f"error {error.reason}",
            "frame refused",
            reason=error.reason,
            camera=frame_id.camera,
            seq=frame_id.seq,
            detail=error.detail,
        )
        self._on_error(error)

    def _give_up_what_nobody_brings(self) -> None:
        """Without a reliable source, what a crash took is lost; else its sender may bring it."""
        has_reliable = any(source.intake is not None for source in self._open)
        self._give_up(
            *(s for s in self._holes.starts() if not has_reliable or s[0] not in self._cameras)
        )

    def _give_up(self, *starts: Start) -> None:
        for start in starts:
            for gap in self._holes.give_up(start, 0, MAX_SEQ):
                self._lose_gap(start, gap)

    def _lose_gap(self, start: Start, gap: Gap) -> None:
        self._lose(gap_loss(start, gap, self._utc_now()))

    def _lose(self, loss: FrameLoss) -> None:
        self._ledger.lost(loss)
        self._report(loss)

    def _report(self, loss: FrameLoss) -> None:
        self._warnings.warning(
            f"loss {loss.reason}",
            "frames lost",
            reason=loss.reason,
            camera=loss.camera,
            first_seq=loss.first_seq,
            last_seq=loss.last_seq,
            detail=loss.detail,
        )
        self._on_loss(loss)


def _queue_full(frame: Frame, max_frames: int, lost_utc: datetime) -> FrameLoss:
    info = frame.info
    return FrameLoss(
        LossReason.QUEUE_FULL,
        lost_utc,
        f"the queue held {max_frames} frames; the detector is slower than the cameras",
        camera=info.frame_id.camera,
        category=info.category,
        epoch=info.frame_id.epoch,
        first_seq=info.frame_id.seq,
        last_seq=info.frame_id.seq,
    )
