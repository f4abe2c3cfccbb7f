"""The ingest thread: sockets in; frames, errors and losses out. Knows no detector, no database."""

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

import zmq

from daemon.config.sources import CameraConfig, LimitsConfig, SourceConfig
from daemon.core import Frame, FrameLoss, LossReason
from daemon.ingest.admission import Admitted, ErrorFrame, Gatekeeper
from daemon.ingest.decoding import DecodePool
from daemon.ingest.frame_queue import FrameQueue
from daemon.ingest.ledger import IngestCounters, Ledger
from daemon.ingest.message import Buffer
from daemon.ingest.numbering import DaemonNumbering
from daemon.ingest.sequence import SequenceTracker
from daemon.ingest.sockets import endpoint_of, open_source, receive_parts
from daemon.ingest.wire import MAX_EPOCH
from daemon.log import RateLimitedLog

logger = logging.getLogger(__name__)

POLL_MS = 200
MESSAGES_PER_TURN = 16  # then the next socket has its turn


class Subscriber:
    """Owns the receiving sockets.

    Every message taken off a socket ends in exactly one of: the frame queue, `on_error`,
    `on_loss`. `counters()` shows it. When the decoders are busy or the queue blocks, sockets are
    not read: a PULL source then holds its sender back, a SUB source loses frames, seen as gaps.
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
        last_seqs: Mapping[tuple[str, int], int] | None = None,
        decode_threads: int = 2,
        context: "zmq.Context[zmq.Socket[bytes]] | None" = None,
    ) -> None:
        """Open nothing yet.

        Args:
            on_loss, on_error: Called in the ingest thread; may block, which holds ingest back.
            beat: Called at least every POLL_MS plus one decode, for the watchdog.
            clock: Monotonic seconds.
            last_seqs: (camera, epoch) -> last number accounted for by earlier starts; what was
                lost since then becomes a gap. Cameras that are not configured are left out.
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
        self._context = context
        self._owned_context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._sockets: deque[tuple[SourceConfig, zmq.Socket[bytes]]] = deque()
        self._endpoints: tuple[str, ...] = ()
        self._ledger = Ledger(cameras)
        self._warnings = RateLimitedLog(logger)
        self._gatekeeper = Gatekeeper(
            cameras=cameras,
            categories=categories,
            limits=limits,
            tracker=SequenceTracker(
                {key: seq for key, seq in (last_seqs or {}).items() if key[0] in cameras}
            ),
            numbering=DaemonNumbering(lambda: secrets.randbelow(MAX_EPOCH + 1)),
        )

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where the sources really are, in their order; empty before `open`."""
        return self._endpoints

    def open(self) -> None:
        """Open all sockets; call before the thread of `run` starts.

        Raises:
            ConfigError: An endpoint cannot be bound or connected; nothing stays open.
        """
        context = self._context
        if context is None:
            context = self._owned_context = zmq.Context()
        try:
            for source in self._sources:
                self._sockets.append((source, open_source(context, source, self._limits)))
        except BaseException:
            self.close()
            raise
        self._endpoints = tuple(endpoint_of(socket) for _, socket in self._sockets)
        logger.info("sources open", extra={"endpoints": self._endpoints})

    def close(self) -> None:
        """Close all sockets; `run` does it by itself."""
        for _, socket in self._sockets:
            socket.close()
        self._sockets.clear()
        if self._owned_context is not None:
            self._owned_context.term()
            self._owned_context = None

    def run(self, stop: threading.Event) -> None:
        """Receive until `stop` is set; then hand on what was received and close the sockets."""
        pool = DecodePool(self._decode_threads, max_pixels=self._limits.max_pixels)
        try:
            poller = zmq.Poller()
            poller.register(pool.wake_fd, zmq.POLLIN)
            for _, socket in self._sockets:
                poller.register(socket, zmq.POLLIN)
            decoded_only = zmq.Poller()
            decoded_only.register(pool.wake_fd, zmq.POLLIN)

            while not stop.is_set():
                self._beat()
                (decoded_only if pool.is_full() else poller).poll(POLL_MS)
                self._hand_on(pool.finished(), stop)
                for source, socket in self._sockets:
                    self._receive(source, socket, pool)
                self._sockets.rotate()  # a busy socket must not take every free decoder
            self._hand_on(pool.rest(), stop)
        finally:
            pool.close()
            self.close()

    def counters(self) -> IngestCounters:
        """What became of every message so far; callable from any thread."""
        return self._ledger.snapshot()

    def _receive(self, source: SourceConfig, socket: "zmq.Socket[bytes]", pool: DecodePool) -> None:
        for _ in range(MESSAGES_PER_TURN):
            if pool.is_full():
                return
            parts = receive_parts(socket)
            if parts is None:
                return
            if admitted := self._admit(parts, source):
                pool.submit(admitted)

    def _admit(self, parts: Sequence[Buffer], source: SourceConfig) -> Admitted | None:
        """Decide on a message; report the gap before it, and the message if it is refused."""
        received_utc = self._utc_now()
        admission = self._gatekeeper.admit(
            parts, source, received_utc=received_utc, received_at=self._clock()
        )
        outcome = admission.outcome
        camera = outcome.camera if isinstance(outcome, FrameLoss) else outcome.info.frame_id.camera
        self._ledger.received(camera, received_utc)
        if admission.gap is not None:
            self._lose(admission.gap)
        match outcome:
            case Admitted():
                return outcome
            case FrameLoss():
                self._lose(outcome)
            case ErrorFrame():
                self._fail(outcome)
        return None

    def _hand_on(self, results: Iterable[Frame | ErrorFrame], stop: threading.Event) -> None:
        for result in results:
            if isinstance(result, ErrorFrame):
                self._fail(result)
                continue
            dropped = self._frames.put(result, stop=stop, on_wait=self._beat)
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
