"""What a camera program imports to send its frames: pyzmq, numpy and OpenCV only.

    with FramePublisher("tcp://*:5555", "cam1", category="fabric") as publisher:
        publisher.wait_for_subscriber(timeout_s=10)
        publisher.send(image)  # BGR uint8 [H, W, 3], as OpenCV gives it

A `pub` socket never waits: it drops frames while nobody is connected and when a receiver is too
slow, and the receiver counts the missing numbers as a gap. A `push` socket waits for a receiver,
which then holds the camera back; what a killed receiver had taken is a gap too. Where no frame
may be lost, see `daemon.ingest.reliable_publisher`.
"""

import contextlib
import logging
import secrets
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, Unpack

import zmq

from daemon.ingest.composing import Composer, FileEncoding, FrameFacts
from daemon.ingest.connections import Connections
from daemon.ingest.endpoints import Mode, attach, endpoint_of
from daemon.ingest.pixels import Pixels
from daemon.ingest.wire import BEAT_EVERY_S, MAX_EPOCH, Encoding, PixelFormat
from daemon.security.key_files import optional_client_keys

logger = logging.getLogger(__name__)

HIGH_WATER_MARK = 32
LAST_WORD_MS = 200
"""At the end of the linger, for ZeroMQ to move the last word to where there may be room for it."""


class FramePublisher:
    """One camera as a sender of version 1 frames. For one thread; frames count from 0.

    A thread of its own says every second which number was the last one: without that, frames
    lost at the end of a series would not be missed.

    Attributes:
        epoch: Random per start, so that a restart is not taken for repeated numbers.
        endpoint: Where the socket is; a bound tcp port 0 is resolved.
        sent: Frames given to the socket.
        next_seq: The number of the next frame.
        is_handed_over: Whether all that waited was taken when `close` ended, and the last word on
            how many frames there were. Where it was not, nobody counts what is missing.
    """

    def __init__(
        self,
        endpoint: str,
        camera: str,
        *,
        category: str | None = None,
        line: str = "line",
        socket: Literal["pub", "push"] = "pub",
        mode: Mode = "bind",
        encoding: Encoding = "jpeg",
        jpeg_quality: int = 95,
        epoch: int | None = None,
        high_water_mark: int = HIGH_WATER_MARK,
        linger_s: float = 5.0,
        send_timeout_s: float = 10.0,
        secret_key: Path | None = None,
        server_key: str | Path | None = None,
        context: "zmq.Context[zmq.Socket[bytes]] | None" = None,
    ) -> None:
        """Open the socket.

        Args:
            category: Product category of frames whose `send` names none; None leaves it to the
                receiver's configuration.
            line: First half of the topic.
            encoding: `jpeg` loses detail, `png` and `raw` none; `raw` is the fastest to send.
            jpeg_quality: 0..100.
            high_water_mark: Frames that wait in the socket per receiver before it is full.
            linger_s: How long `close` may take to hand over what waits.
            send_timeout_s: How long `send` waits on a full `push` socket.
            secret_key: This program's `NAME.key_secret` file, where the daemon wants keys.
            server_key: The daemon's public key, or its `NAME.key` file.
            context: Needed only for inproc endpoints.

        Raises:
            ValueError: A name or the epoch is out of bounds, or a key cannot be read.
            zmq.ZMQError: The endpoint cannot be bound or connected.
        """
        keys = optional_client_keys(secret_key, server_key)
        self.epoch = secrets.randbelow(MAX_EPOCH + 1) if epoch is None else epoch
        self._composer = Composer(
            camera,
            line=line,
            category=category,
            encoding=encoding,
            jpeg_quality=jpeg_quality,
            epoch=self.epoch,
        )
        self.camera = camera
        self.category = category
        self.sent = 0
        self.next_seq = 0
        self.is_handed_over = False
        self._linger_s = linger_s
        self._send_timeout_s = send_timeout_s
        self._topics_wanted: set[bytes] = set()
        self._is_push = socket == "push"
        self._owns_context = context is None
        self._context = zmq.Context() if context is None else context
        self._lock = threading.Lock()  # the socket's: frames and beats come from two threads
        self._closed = threading.Event()
        self._beats = threading.Thread(target=self._beat_until_closed, name="beat", daemon=True)
        # XPUB is PUB that also tells of subscriptions, which `wait_for_subscriber` needs.
        self._socket = self._context.socket(zmq.PUSH if self._is_push else zmq.XPUB)
        self._connections = Connections(self._socket)
        try:
            self._socket.setsockopt(zmq.SNDHWM, high_water_mark)
            self._socket.setsockopt(zmq.LINGER, round(linger_s * 1000))
            self._socket.setsockopt(zmq.SNDTIMEO, round(send_timeout_s * 1000))
            attach(self._socket, endpoint, mode, None if keys is None else keys.secure)
        except zmq.ZMQError:
            self.close()
            raise
        self.endpoint = endpoint_of(self._socket)
        self._beats.start()

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Wait until somebody receives, so that the first frames are not dropped.

        For `push`, until the socket takes frames; one that connects takes them at once.
        """
        with self._lock:
            if self._is_push:
                return bool(self._socket.poll(round(timeout_s * 1000), zmq.POLLOUT))
            deadline = time.monotonic() + timeout_s
            while not self._read_subscriptions():
                remaining_ms = round((deadline - time.monotonic()) * 1000)
                if remaining_ms <= 0 or not self._socket.poll(remaining_ms):
                    return self._read_subscriptions()
            return True

    def has_subscriber(self) -> bool:
        """Whether a `pub` socket has a receiver now."""
        with self._lock:
            return self._read_subscriptions()

    def send(
        self,
        image: Pixels,
        *,
        pixel_format: PixelFormat = "BGR8",
        **facts: Unpack[FrameFacts],
    ) -> int:
        """Send one image; the array may be reused afterwards.

        Args:
            image: uint8 [H, W, 3], or [H, W] for Mono8 and BayerRG8. For jpeg and png a mosaic
                is turned into colour first.
            facts: `category`, `captured_ns`, `part_id`, `lot`, `trigger_id`.

        Returns:
            The frame's number.

        Raises:
            ValueError: The image does not fit the pixel format, or a text its bound.
            TimeoutError: A `push` socket stayed full; the number is used for the next frame.
        """
        encoded = self._composer.encode(image, pixel_format)
        return self._send(encoded.description, encoded.payload, facts)

    def send_encoded(self, data: bytes, encoding: FileEncoding, **facts: Unpack[FrameFacts]) -> int:
        """Send a JPEG or PNG unchanged, as a file or a compressing camera gives it; see `send`."""
        return self._send({"encoding": encoding}, data, facts)

    def skip(self, frames: int) -> None:
        """Use up the numbers of frames that the camera itself lost; receivers count a gap."""
        if frames < 0:
            raise ValueError(f"cannot skip {frames} frames")
        self.next_seq += frames

    def close(self) -> None:
        """Hand over what waits, within `linger_s`, and close; further calls do nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        give_up_at = time.monotonic() + self._linger_s
        is_taken = True
        if self._beats.ident is not None:
            self._beats.join()
            # Before the last word too: PUB drops it for a receiver whose queue is full.
            self._connections.wait_until_taken(give_up_at)
            is_told = self._beat() or not self.next_seq  # the last word: how many there were
            is_taken = self._connections.wait_until_taken(give_up_at) and is_told
        self._connections.close()
        left_ms = round((give_up_at - time.monotonic()) * 1000)
        self._socket.close(max(left_ms, LAST_WORD_MS) if self._linger_s > 0 else 0)
        if self._owns_context:
            self._context.term()  # takes all the time that is left where nobody is connected
        self.is_handed_over = is_taken and time.monotonic() < give_up_at
        if not self.is_handed_over and self._linger_s > 0:
            logger.warning(
                "closed before the daemon had taken everything; it cannot count what it lacks",
                extra={"camera": self.camera, "epoch": self.epoch, "last": self.next_seq - 1},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, description: dict[str, object], payload: bytes, facts: FrameFacts) -> int:
        with self._lock:
            seq = self.next_seq
            header = self._composer.header(seq, description, facts)
            if not self._is_push:
                self._read_subscriptions()  # empties the queue of subscription events
            try:
                self._socket.send_multipart([self._composer.topic, header, payload])
            except zmq.Again as error:
                raise TimeoutError(
                    f"{self.endpoint} took no frame within {self._send_timeout_s:g} s; "
                    "is the receiver running and keeping up?"
                ) from error
            self.next_seq = seq + 1
            self.sent += 1
            return seq

    def _beat_until_closed(self) -> None:
        while not self._closed.wait(BEAT_EVERY_S):
            self._beat()

    def _beat(self) -> bool:
        """False where the socket is full, or nobody receives: the next one says the same."""
        with self._lock:
            self._connections.follow()
            if not self._is_push and not self._read_subscriptions():
                return False
            try:
                self._socket.send_multipart(self._composer.beat(self.next_seq - 1), zmq.NOBLOCK)
            except zmq.Again:
                return False
        return True

    def _read_subscriptions(self) -> bool:
        with contextlib.suppress(zmq.Again):
            while True:
                event = self._socket.recv(zmq.NOBLOCK)
                if event[:1] == b"\x01":
                    self._topics_wanted.add(event[1:])
                elif event[:1] == b"\x00":
                    self._topics_wanted.discard(event[1:])
        return bool(self._topics_wanted)
