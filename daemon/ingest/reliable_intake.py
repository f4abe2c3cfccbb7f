"""The daemon's half of the reliable transport on one ROUTER socket. Decodes no image.

A sender greets, is told what is stored and received, and sends from there on, at most `credit`
frames ahead of what is stored. What it sends again is recognised by its number. Whatever does not
fit (an old session, a number out of turn) is answered with "who are you", and the sender begins
a session again: nothing of that is lost, since senders keep what is not stored.
"""

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import zmq

from daemon.config.sources import SourceConfig
from daemon.core import FrameId
from daemon.ingest import envelope as words
from daemon.ingest.envelope import FrameEnvelope, Hello, SessionBeat, parse_envelope
from daemon.ingest.holes import Holes, Start
from daemon.ingest.message import Buffer
from daemon.ingest.sequence import Gap, SequenceTracker
from daemon.ingest.wire import BEAT_EVERY_S, NOTHING, SILENCE_S
from daemon.log import RateLimitedLog

logger = logging.getLogger(__name__)

FORGET_AFTER_S = 6 * SILENCE_S
NOT_ITS_KEY = "the key of this connection is not one of the camera (`zsad keys list`)"
_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A frame that is new here: its number by its envelope, and its parts."""

    frame_id: FrameId
    parts: Sequence[Buffer]


@dataclass(slots=True)
class _Sender:
    """One start of a camera's program.

    Attributes:
        peer: Where its answers go; None while it is away.
        in_flight: Numbers that were received and are not stored yet.
        is_news: Something was stored, or came again, since the last answer.
    """

    start: Start
    session: int
    peer: bytes | None
    heard_at: float
    told_at: float = _NEVER
    is_news: bool = True
    in_flight: set[int] = field(default_factory=set)


class ReliableIntake:
    """Sessions, credit and acknowledgements. All but `stored` and `holds` is the ingest thread's.

    Memory: at most `max_publishers` senders with at most `credit` frames in flight each.

    Attributes:
        resent: Frames that came again and were known.
        out_of_turn: Messages outside a session; their senders sent them again.
    """

    def __init__(
        self,
        socket: "zmq.Socket[bytes]",
        source: SourceConfig,
        *,
        cameras: Collection[str],
        tracker: SequenceTracker,
        holes: Holes,
        max_payload_bytes: int,
        on_gap: Callable[[Start, Gap], None],
        may_send: Callable[[str, str | None], bool],
    ) -> None:
        """Open nothing.

        Args:
            on_gap: Is told numbers that will never come.
            may_send: Whether a camera's message may come from the holder of a key.
        """
        self.resent = 0
        self.out_of_turn = 0
        self._socket = socket
        self._credit = source.credit
        self._max_publishers = source.max_publishers
        self._cameras = cameras
        self._tracker = tracker
        self._holes = holes
        self._max_payload_bytes = max_payload_bytes
        self._on_gap = on_gap
        self._may_send = may_send
        self._senders: dict[Start, _Sender] = {}
        self._by_peer: dict[bytes, _Sender] = {}
        self._lock = threading.Lock()  # guards in_flight and is_news
        self._warnings = RateLimitedLog(logger)

    def follow(self, cameras: Collection[str]) -> None:
        """Greet these cameras from now on; a session that exists goes on."""
        self._cameras = cameras

    def receive(
        self, parts: Sequence[Buffer], now: float, key: str | None = None
    ) -> Delivery | None:
        """Take one message, routing id first; a frame if it brings a new one.

        Args:
            key: Its sender's; None on a plain socket.

        Raises:
            FrameError: It is malformed.
        """
        peer = bytes(parts[0])
        message = parse_envelope(parts[1] if len(parts) > 1 else b"")
        if isinstance(message, Hello):
            self._greet(peer, message, now, key)
            return None
        sender = self._by_peer.get(peer)
        if sender is None or sender.session != message.session:
            self._ask(peer)
            return None
        if not self._may_send(sender.start[0], key):
            self._forget(sender)
            self._refuse(peer, NOT_ITS_KEY)
            return None
        sender.heard_at = now
        if isinstance(message, SessionBeat) or not self._is_new(sender, message):
            return None
        with self._lock:
            sender.in_flight.add(message.seq)
        camera, epoch = sender.start
        return Delivery(FrameId(camera, epoch, message.seq), parts[2:])

    def stored(self, frame_id: FrameId) -> bool:
        """A result is committed; True if a sender waits for it. Callable from any thread."""
        with self._lock:
            sender = self._senders.get((frame_id.camera, frame_id.epoch))
            if sender is None or frame_id.seq not in sender.in_flight:
                return False
            sender.in_flight.discard(frame_id.seq)
            sender.is_news = True
            return True

    def holds(self, frame_id: FrameId) -> bool:
        """Whether the frame came this way and is not stored yet. Callable from any thread."""
        with self._lock:
            sender = self._senders.get((frame_id.camera, frame_id.epoch))
            return sender is not None and frame_id.seq in sender.in_flight

    def present(self) -> int:
        """Senders in a session."""
        return len(self._by_peer)

    def answer(self, now: float) -> None:
        """Tell every sender the news, and at least every BEAT_EVERY_S that the daemon is there."""
        for sender in list(self._senders.values()):
            if now - sender.heard_at > FORGET_AFTER_S:
                self._forget(sender)
            if sender.peer is not None and (sender.is_news or now - sender.told_at >= BEAT_EVERY_S):
                self._tell(sender, now)
            self._drop_if_done(sender)

    def _greet(self, peer: bytes, hello: Hello, now: float, key: str | None) -> None:
        start = hello.camera, hello.epoch
        if (other := self._by_peer.get(peer)) is not None:  # one program, its next epoch
            self._forget(other)
            self._drop_if_done(other)
        sender = self._senders.get(start)
        if hello.camera not in self._cameras:
            self._refuse(peer, f"camera {hello.camera!r} is not configured")
            return
        if not self._may_send(hello.camera, key):
            self._refuse(peer, NOT_ITS_KEY)
            return
        if sender is None and len(self._senders) >= self._max_publishers:
            self._refuse(peer, f"{self._max_publishers} publishers are connected (max_publishers)")
            return
        self._catch_up(start, hello.acked)
        if sender is None:
            sender = _Sender(start, hello.session, peer, now)
            with self._lock:
                self._senders[start] = sender
        self._forget(sender)
        sender.session, sender.peer, sender.heard_at = hello.session, peer, now
        self._by_peer[peer] = sender
        self._tell(sender, now)

    def _catch_up(self, start: Start, acknowledged: int) -> None:
        """Bring together what the sender and the database know of each other."""
        camera, epoch = start
        if self._tracker.last(camera, epoch, NOTHING) == NOTHING:
            self._tracker.join(camera, epoch, acknowledged + 1)  # before the daemon's memory
        self._holes.open_above(start, acknowledged)
        # What it believes to be stored, and is not: a database that was restored from a backup.
        for gap in self._holes.give_up(start, 0, acknowledged):
            self._on_gap(start, gap)
        if gap_at_end := self._tracker.observe_last(camera, epoch, acknowledged):
            self._on_gap(start, gap_at_end)

    def _is_new(self, sender: _Sender, frame: FrameEnvelope) -> bool:
        camera, epoch = sender.start
        last_seq = self._tracker.last(camera, epoch, NOTHING)
        if frame.after > last_seq or frame.after >= frame.seq:
            self._end_session(sender, "frame out of turn", seq=frame.seq, after=frame.after)
            return False
        for gap in self._holes.give_up(sender.start, frame.after + 1, frame.seq - 1):
            self._on_gap(sender.start, gap)
        if frame.seq <= last_seq and not self._holes.has(sender.start, frame.seq):
            self.resent += 1
            with self._lock:
                sender.is_news = True
            return False
        if len(sender.in_flight) >= self._credit:
            # Nothing was noted of this frame, so it is new again in the next session.
            self._end_session(sender, "sender ignores its credit", credit=self._credit)
            return False
        self._holes.fill(sender.start, frame.seq)
        observed = self._tracker.observe(camera, epoch, frame.seq)
        if isinstance(observed, Gap):
            self._on_gap(sender.start, observed)
        return True

    def _tell(self, sender: _Sender, now: float) -> None:
        camera, epoch = sender.start
        received = self._tracker.last(camera, epoch, NOTHING)
        if (hole := self._holes.lowest(sender.start)) is not None:
            received = min(received, hole - 1)
        with self._lock:
            sender.is_news = False
            stored = min(received, min(sender.in_flight, default=received + 1) - 1)
        news = words.state(
            sender.session,
            stored=stored,
            received=received,
            window=self._credit,
            max_payload_bytes=self._max_payload_bytes,
        )
        sender.told_at = now
        if sender.peer is not None and not self._say(sender.peer, news):
            self._forget(sender)

    def _ask(self, peer: bytes) -> None:
        self.out_of_turn += 1
        self._say(peer, words.who())

    def _end_session(self, sender: _Sender, event: str, **facts: object) -> None:
        self._warnings.warning(event, event, camera=sender.start[0], **facts)
        peer = sender.peer
        self._forget(sender)
        if peer is not None:
            self._ask(peer)

    def _refuse(self, peer: bytes, reason: str) -> None:
        self._warnings.warning("refused", "publisher refused", reason=reason)
        self._say(peer, words.refused(reason))

    def _forget(self, sender: _Sender) -> None:
        if sender.peer is not None:
            self._by_peer.pop(sender.peer, None)
            sender.peer = None

    def _drop_if_done(self, sender: _Sender) -> None:
        if sender.peer is None and not sender.in_flight:
            with self._lock:
                self._senders.pop(sender.start, None)

    def _say(self, peer: bytes, text: bytes) -> bool:
        """False where the peer has gone. One that does not read misses news, and asks again."""
        try:
            self._socket.send_multipart([peer, text], zmq.NOBLOCK)
        except zmq.Again:
            return True
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True
