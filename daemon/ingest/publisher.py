"""What a camera program imports to send its frames: pyzmq, numpy and OpenCV only.

    with FramePublisher("tcp://*:5555", "cam1", category="fabric") as publisher:
        publisher.wait_for_subscriber(timeout_s=10)
        publisher.send(image)  # BGR uint8 [H, W, 3], as OpenCV gives it

A `pub` socket never waits: it drops frames while nobody is connected and when a receiver is too
slow, and the receiver counts the missing numbers as a gap. A `push` socket drops nothing; it
waits for a receiver, which then holds the camera back.
"""

import contextlib
import json
import secrets
import time
from types import TracebackType
from typing import Literal, Self

import cv2
import numpy as np
import zmq

from daemon.ingest.pixels import Pixels, shape_problem, to_encodable
from daemon.ingest.wire import (
    MAX_EPOCH,
    MAX_HEADER_BYTES,
    MAX_ID_CHARS,
    MAX_NAME_CHARS,
    VERSION,
    Encoding,
    PixelFormat,
)

HIGH_WATER_MARK = 32


class FramePublisher:
    """One camera as a sender of version 1 frames. For one thread; frames count from 0.

    Attributes:
        epoch: Random per start, so that a restart is not taken for repeated numbers.
        endpoint: Where the socket is; a bound tcp port 0 is resolved.
        sent: Frames given to the socket.
        next_seq: The number of the next frame.
    """

    def __init__(
        self,
        endpoint: str,
        camera: str,
        *,
        category: str | None = None,
        line: str = "line",
        socket: Literal["pub", "push"] = "pub",
        mode: Literal["bind", "connect"] = "bind",
        encoding: Encoding = "jpeg",
        jpeg_quality: int = 95,
        epoch: int | None = None,
        high_water_mark: int = HIGH_WATER_MARK,
        linger_s: float = 5.0,
        send_timeout_s: float = 10.0,
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
            linger_s: How long `close` goes on sending what waits.
            send_timeout_s: How long `send` waits on a full `push` socket.
            context: Needed only for inproc endpoints.

        Raises:
            ValueError: A name or the epoch is out of bounds.
            zmq.ZMQError: The endpoint cannot be bound or connected.
        """
        _check_text("line", line, MAX_NAME_CHARS)
        _check_text("camera", camera, MAX_NAME_CHARS)
        _check_text("category", category, MAX_NAME_CHARS)
        self.epoch = secrets.randbelow(MAX_EPOCH + 1) if epoch is None else epoch
        if not 0 <= self.epoch <= MAX_EPOCH:
            raise ValueError(f"epoch {epoch} is not in 0..{MAX_EPOCH}")
        self.camera = camera
        self.category = category
        self.sent = 0
        self.next_seq = 0
        self._send_timeout_s = send_timeout_s
        self._encoding: Encoding = encoding
        self._jpeg_quality = jpeg_quality
        self._topic = f"{line}/{camera}".encode()
        self._topics_wanted: set[bytes] = set()
        self._is_push = socket == "push"
        self._owns_context = context is None
        self._context = zmq.Context() if context is None else context
        # XPUB is PUB that also tells of subscriptions, which `wait_for_subscriber` needs.
        self._socket = self._context.socket(zmq.PUSH if self._is_push else zmq.XPUB)
        try:
            self._socket.setsockopt(zmq.SNDHWM, high_water_mark)
            self._socket.setsockopt(zmq.LINGER, round(linger_s * 1000))
            self._socket.setsockopt(zmq.SNDTIMEO, round(send_timeout_s * 1000))
            if mode == "bind":
                self._socket.bind(endpoint)
            else:
                self._socket.connect(endpoint)
        except zmq.ZMQError:
            self.close()
            raise
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Wait until somebody receives, so that the first frames are not dropped.

        For `push`, until the socket takes frames; one that connects takes them at once.
        """
        if self._is_push:
            return bool(self._socket.poll(round(timeout_s * 1000), zmq.POLLOUT))
        deadline = time.monotonic() + timeout_s
        while not self.has_subscriber():
            remaining_ms = round((deadline - time.monotonic()) * 1000)
            if remaining_ms <= 0 or not self._socket.poll(remaining_ms):
                return self.has_subscriber()
        return True

    def has_subscriber(self) -> bool:
        """Whether a `pub` socket has a receiver now."""
        with contextlib.suppress(zmq.Again):
            while True:
                event = self._socket.recv(zmq.NOBLOCK)
                if event[:1] == b"\x01":
                    self._topics_wanted.add(event[1:])
                elif event[:1] == b"\x00":
                    self._topics_wanted.discard(event[1:])
        return bool(self._topics_wanted)

    def send(
        self,
        image: Pixels,
        *,
        pixel_format: PixelFormat = "BGR8",
        category: str | None = None,
        captured_ns: int | None = None,
        part_id: str | None = None,
        lot: str | None = None,
        trigger_id: str | None = None,
    ) -> int:
        """Send one image; the array may be reused afterwards.

        Args:
            image: uint8 [H, W, 3], or [H, W] for Mono8 and BayerRG8. For jpeg and png a mosaic
                is turned into colour first.
            captured_ns: Capture time, Unix nanoseconds; now by default.

        Returns:
            The frame's number.

        Raises:
            ValueError: The image does not fit the pixel format, or a text its bound.
            TimeoutError: A `push` socket stayed full; the number is used for the next frame.
        """
        if image.dtype != np.uint8:
            raise ValueError(f"dtype {image.dtype} is not supported; convert to uint8")
        if problem := shape_problem(image.shape, pixel_format):
            raise ValueError(problem)
        description: dict[str, object] = {"encoding": self._encoding}
        if self._encoding == "raw":
            payload = np.ascontiguousarray(image).tobytes()
            description |= {
                "dtype": "uint8",
                "shape": list(image.shape),
                "pixel_format": pixel_format,
            }
        else:
            payload = self._encode(to_encodable(image, pixel_format))
        return self._send(description, payload, category, captured_ns, (part_id, lot, trigger_id))

    def send_encoded(
        self,
        data: bytes,
        encoding: Literal["jpeg", "png"],
        *,
        category: str | None = None,
        captured_ns: int | None = None,
        part_id: str | None = None,
        lot: str | None = None,
        trigger_id: str | None = None,
    ) -> int:
        """Send a JPEG or PNG unchanged, as a file or a compressing camera gives it; see `send`."""
        return self._send(
            {"encoding": encoding}, data, category, captured_ns, (part_id, lot, trigger_id)
        )

    def skip(self, frames: int) -> None:
        """Use up the numbers of frames that the camera itself lost; receivers count a gap."""
        if frames < 0:
            raise ValueError(f"cannot skip {frames} frames")
        self.next_seq += frames

    def close(self) -> None:
        """Send what waits, for at most `linger_s`, and close; further calls do nothing."""
        self._socket.close()
        if self._owns_context:
            self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _encode(self, image: Pixels) -> bytes:
        if self._encoding == "jpeg":
            options = [cv2.IMWRITE_JPEG_QUALITY, self._jpeg_quality]
            is_encoded, encoded = cv2.imencode(".jpg", image, options)
        else:
            is_encoded, encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not is_encoded:
            raise ValueError(f"image of shape {image.shape} cannot be encoded as {self._encoding}")
        return encoded.tobytes()

    def _send(
        self,
        description: dict[str, object],
        payload: bytes,
        category: str | None,
        captured_ns: int | None,
        ids: tuple[str | None, str | None, str | None],
    ) -> int:
        _check_text("category", category, MAX_NAME_CHARS)
        for name, value in zip(("part_id", "lot", "trigger_id"), ids, strict=True):
            _check_text(name, value, MAX_ID_CHARS)
        seq = self.next_seq
        fields: dict[str, object | None] = {
            "v": VERSION,
            "camera": self.camera,
            "epoch": self.epoch,
            "seq": seq,
            "ts_ns": time.time_ns() if captured_ns is None else captured_ns,
            "category": category or self.category,
            **description,
            "part_id": ids[0],
            "lot": ids[1],
            "trigger_id": ids[2],
        }
        header = json.dumps({name: value for name, value in fields.items() if value is not None})
        if len(header) > MAX_HEADER_BYTES:
            raise ValueError(f"header has {len(header)} bytes, limit {MAX_HEADER_BYTES}")
        if not self._is_push:
            self.has_subscriber()  # empties the queue of subscription events
        try:
            self._socket.send_multipart([self._topic, header.encode(), payload])
        except zmq.Again as error:
            raise TimeoutError(
                f"{self.endpoint} took no frame within {self._send_timeout_s:g} s; "
                "is the receiver running and keeping up?"
            ) from error
        self.next_seq = seq + 1
        self.sent += 1
        return seq


def _check_text(name: str, value: str | None, max_chars: int) -> None:
    """The bounds that receivers hold senders to; better refused here than there."""
    if value is None:
        return
    if not 1 <= len(value) <= max_chars or not value.isprintable():
        raise ValueError(f"{name} {value[:80]!r} must have 1 to {max_chars} printable characters")
