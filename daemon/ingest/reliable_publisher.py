"""What a camera program imports when no frame may be lost: pyzmq, numpy and OpenCV only.

    with ReliablePublisher("tcp://daemon:5556", "cam1", outbox=Path("outbox/cam1")) as publisher:
        publisher.send(image)  # BGR uint8 [H, W, 3], as OpenCV gives it

A frame is kept until the daemon says that its result is in the database; after an interruption
it is sent again, and the daemon knows it by its number. With an outbox, what `send` returned for
survives `kill -9` of this program too: the next one with the same outbox brings it. Without one,
frames that are not acknowledged are lost with the program.
"""

import logging
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import zmq

from daemon.ingest.composing import Composer, FileEncoding, FrameFacts
from daemon.ingest.courier import Courier
from daemon.ingest.endpoints import Mode, attach, endpoint_of
from daemon.ingest.outbox import KeptFrame, MemoryOutbox, Outbox, OutboxFolder
from daemon.ingest.pixels import Pixels
from daemon.ingest.wake import WakePipe
from daemon.ingest.wire import MAX_ENVELOPE_BYTES, Encoding, PixelFormat
from daemon.security.key_files import optional_client_keys

logger = logging.getLogger(__name__)

BUFFER_FRAMES = 256
UNANSWERED_MS = 6_000
"""Then TCP gives up a daemon that takes no data, and the socket dials again."""


class ReliablePublisher:
    """One camera as a sender whose frames are acknowledged. `send` is for one thread.

    A thread of its own owns the socket. The outbox is bounded by `buffer_frames`: when it is
    full, `send` waits for acknowledgements, at most `send_timeout_s`.

    Attributes:
        epoch: Random per start.
        endpoint: Where the socket is; a bound tcp port 0 is resolved.
        sent: Frames taken over by `send` since this start.
        next_seq: The number of the next frame.
    """

    def __init__(
        self,
        endpoint: str,
        camera: str,
        *,
        category: str | None = None,
        line: str = "line",
        mode: Mode = "connect",
        encoding: Encoding = "jpeg",
        jpeg_quality: int = 95,
        outbox: Path | None = None,
        buffer_frames: int = BUFFER_FRAMES,
        send_timeout_s: float = 10.0,
        linger_s: float = 5.0,
        secret_key: Path | None = None,
        server_key: str | Path | None = None,
        context: "zmq.Context[zmq.Socket[bytes]] | None" = None,
    ) -> None:
        """Open the outbox and the socket, and begin to send what an earlier program left.

        Args:
            category, line, encoding, jpeg_quality, secret_key, server_key, context: As of
                FramePublisher.
            outbox: A folder of this camera alone, on a local disk; None keeps frames in memory.
            buffer_frames: Most frames that wait for their acknowledgement.
            send_timeout_s: How long `send` waits for room; 0 refuses at once.
            linger_s: How long `close` waits for acknowledgements.

        Raises:
            ValueError: A name or number is out of bounds, a key cannot be read, or the outbox is
                someone else's.
            OSError: The outbox cannot be used.
            zmq.ZMQError: The endpoint cannot be bound or connected.
        """
        keys = optional_client_keys(secret_key, server_key)
        if buffer_frames < 1:
            raise ValueError(f"buffer_frames {buffer_frames} is not at least 1")
        self._folder = None if outbox is None else OutboxFolder(outbox, camera)
        self._outbox: Outbox = MemoryOutbox() if self._folder is None else self._folder.own
        self._earlier: deque[Outbox] = deque(() if self._folder is None else self._folder.earlier)
        self.camera = camera
        self.epoch = self._outbox.epoch
        self.next_seq = self._outbox.next_seq
        self.sent = 0
        self._buffer_frames = buffer_frames
        self._send_timeout_s = send_timeout_s
        self._linger_s = linger_s
        self._owns_context = context is None
        self._context = zmq.Context() if context is None else context
        self._socket = self._context.socket(zmq.DEALER)
        self._wake = WakePipe()
        self._changed = threading.Condition()  # guards the outboxes and what follows
        self._error: BaseException | None = None
        self._close_at: float | None = None
        try:
            self._composer = Composer(
                camera,
                line=line,
                category=category,
                encoding=encoding,
                jpeg_quality=jpeg_quality,
                epoch=self.epoch,
            )
            self._socket.setsockopt(zmq.LINGER, 0)  # what is not acknowledged is kept here
            self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_ENVELOPE_BYTES)
            # No queue for a connection that is not there: it would send old news first.
            self._socket.setsockopt(zmq.IMMEDIATE, 1)
            self._socket.setsockopt(zmq.TCP_MAXRT, UNANSWERED_MS)
            attach(self._socket, endpoint, mode, None if keys is None else keys.secure)
        except (ValueError, zmq.ZMQError):
            self._release()
            raise
        self.endpoint = endpoint_of(self._socket)
        self._courier = self._new_courier()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    @property
    def unacknowledged(self) -> int:
        """Frames that are kept because the daemon has not stored them yet."""
        with self._changed:
            return self._kept()

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Wait until the daemon has greeted; not needed before `send`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._courier.is_established, timeout_s)

    def wait_until_stored(self, timeout_s: float) -> bool:
        """Wait until the daemon has stored every frame."""
        with self._changed:
            self._changed.wait_for(lambda: not self._kept() or self._error, timeout_s)
            return not self._kept()

    def send(
        self,
        image: Pixels,
        *,
        pixel_format: PixelFormat = "BGR8",
        **facts: Unpack[FrameFacts],
    ) -> int:
        """Take over one image; the array may be reused afterwards. Arguments as of FramePublisher.

        Returns:
            The frame's number. From now on the frame is kept until it is acknowledged.

        Raises:
            ValueError: The image does not fit the pixel format, or a text or size its bound.
            TimeoutError: The outbox stayed full; the number is used for the next frame.
            OSError: The outbox's disk is full or gone; as above.
        """
        encoded = self._composer.encode(image, pixel_format)
        return self._keep(encoded.description, encoded.payload, facts)

    def send_encoded(self, data: bytes, encoding: FileEncoding, **facts: Unpack[FrameFacts]) -> int:
        """Take over a JPEG or PNG unchanged; see `send`."""
        return self._keep({"encoding": encoding}, data, facts)

    def skip(self, frames: int) -> None:
        """Use up the numbers of frames that the camera itself lost; the next frame shows it."""
        if frames < 0:
            raise ValueError(f"cannot skip {frames} frames")
        self.next_seq += frames

    def close(self) -> None:
        """Wait at most `linger_s` for acknowledgements, and close; further calls do nothing."""
        with self._changed:
            if self._close_at is not None:
                return
            self._close_at = time.monotonic() + self._linger_s
        self._wake.wake()
        self._thread.join()
        if frames := self._kept():
            logger.warning(
                "closed before everything was acknowledged",
                extra={
                    "camera": self.camera,
                    "frames": frames,
                    "are_kept": self._folder is not None,
                },
            )
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _keep(self, description: dict[str, object], payload: bytes, facts: FrameFacts) -> int:
        with self._changed:
            self._changed.wait_for(self._has_room_or_died, self._send_timeout_s)
            if self._error is not None:
                raise RuntimeError(f"the publisher has died: {self._error}") from self._error
            if len(payload) > self._courier.max_payload_bytes:
                raise ValueError(
                    f"payload has {len(payload)} bytes, the daemon's limit is "
                    f"{self._courier.max_payload_bytes} (limits.max_payload_bytes)"
                )
            if self._kept() >= self._buffer_frames:
                raise TimeoutError(
                    f"{self._buffer_frames} frames wait for {self.endpoint} and none was "
                    f"acknowledged within {self._send_timeout_s:g} s: "
                    + (self._courier.refusal or "is the daemon running and keeping up?")
                )
            seq = self.next_seq
            header = self._composer.header(seq, description, facts)
            self._outbox.add(KeptFrame(seq, header, payload))
            self.next_seq = seq + 1
            self.sent += 1
        self._wake.wake()
        return seq

    def _has_room_or_died(self) -> bool:
        return self._kept() < self._buffer_frames or self._error is not None

    def _kept(self) -> int:
        return len(self._outbox) + sum(map(len, self._earlier))

    def _run(self) -> None:
        """Move frames and acknowledgements until closed."""
        try:
            while not self._is_done():
                self._courier.wait(self._wake.fd)
                self._wake.clear()
                with self._changed:
                    self._turn(time.monotonic())
                    self._changed.notify_all()
        except BaseException as error:
            logger.exception("publisher died", extra={"camera": self.camera})
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _turn(self, now: float) -> None:
        """Bring what the oldest outbox holds, and go on to the next once it is empty."""
        if not self._earlier:
            self._courier.turn(self._outbox, now)
            self._refuse_a_double()
            return
        outbox = self._earlier[0]
        self._courier.turn(outbox, now)
        if len(outbox) or not self._courier.is_established:
            return
        last_seq = outbox.next_seq - 1
        if outbox.acknowledged < last_seq:  # damaged: a greeting says that they will not come
            outbox.forget_through(last_seq)
        else:
            self._earlier.popleft()
        self._courier = self._new_courier()

    def _new_courier(self) -> Courier:
        outbox = self._earlier[0] if self._earlier else self._outbox
        return Courier(self._socket, self._composer.topic, self.camera, outbox.epoch)

    def _refuse_a_double(self) -> None:
        """A machine that was copied while this program ran goes on with the same numbers."""
        if self._courier.received >= self._outbox.next_seq:
            raise RuntimeError(
                f"the daemon has frame {self._courier.received} of epoch {self.epoch}, and this "
                f"program only reached {self._outbox.next_seq - 1}: a copy of it is running; "
                "frames that both numbered alike are stored once. Start this program again"
            )

    def _is_done(self) -> bool:
        with self._changed:
            return self._close_at is not None and (
                not self._kept() or time.monotonic() >= self._close_at
            )

    def _release(self) -> None:
        self._socket.close()
        self._wake.close()
        if self._folder is not None:
            self._folder.close()
        if self._owns_context:
            self._context.term()
