"""What a camera program imports when no frame may be lost: pyzmq, numpy and OpenCV only.

    with ReliablePublisher("tcp://daemon:5556", "cam1", outbox=Path("outbox/cam1")) as publisher:
        publisher.send(image)  # BGR uint8 [H, W, 3], as OpenCV gives it

A frame is kept until the daemon says that its result is in the database; after an interruption
it is sent again, and the daemon knows it by its number. With an outbox, what `send` returned for
survives `kill -9` of this program too: the next one with the same outbox goes on. Without one,
frames that are not acknowledged are lost with the program.
"""

import logging
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import zmq

from daemon.ingest.composing import Composer, FileEncoding, FrameFacts
from daemon.ingest.courier import Courier
from daemon.ingest.endpoints import Mode, attach, endpoint_of
from daemon.ingest.outbox import DiskOutbox, KeptFrame, MemoryOutbox, Outbox
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
        epoch: Random per start; kept with an outbox on disk.
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
        self._outbox: Outbox = MemoryOutbox() if outbox is None else DiskOutbox(outbox)
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
        self._changed = threading.Condition()  # guards the outbox and what follows
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
        self._courier = Courier(self._socket, self._composer.topic, camera, self.epoch)
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    @property
    def unacknowledged(self) -> int:
        """Frames that are kept because the daemon has not stored them yet."""
        with self._changed:
            return len(self._outbox)

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Wait until the daemon has greeted; not needed before `send`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._courier.is_established, timeout_s)

    def wait_until_stored(self, timeout_s: float) -> bool:
        """Wait until the daemon has stored every frame."""
        with self._changed:
            self._changed.wait_for(lambda: not len(self._outbox) or self._error, timeout_s)
            return not len(self._outbox)

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
        if len(self._outbox):
            logger.warning(
                "closed before everything was acknowledged",
                extra={
                    "camera": self.camera,
                    "frames": len(self._outbox),
                    "are_kept": isinstance(self._outbox, DiskOutbox),
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
            if len(self._outbox) >= self._buffer_frames:
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
        return len(self._outbox) < self._buffer_frames or self._error is not None

    def _run(self) -> None:
        """Move frames and acknowledgements until closed."""
        try:
            while not self._is_done():
                self._courier.wait(self._wake.fd)
                self._wake.clear()
                with self._changed:
                    self._courier.turn(self._outbox, time.monotonic())
                    self._changed.notify_all()
        except BaseException as error:
            logger.exception("publisher died", extra={"camera": self.camera})
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _is_done(self) -> bool:
        with self._changed:
            return self._close_at is not None and (
                not len(self._outbox) or time.monotonic() >= self._close_at
            )

    def _release(self) -> None:
        self._socket.close()
        self._wake.close()
        self._outbox.close()
        if self._owns_context:
            self._context.term()
