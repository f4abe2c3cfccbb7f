"""A small pool of decoders that gives images back in the order in which they came.

OpenCV releases the interpreter lock while it decodes, so threads are enough.
"""

import contextlib
import socket
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from daemon.core import Frame, FrameInfo
from daemon.errors import FrameError
from daemon.ingest.admission import Admitted, ErrorFrame
from daemon.ingest.decode import decode_image
from daemon.ingest.message import Payload

PENDING_PER_THREAD = 2


class DecodePool:
    """Owned by the ingest thread; only decoding runs elsewhere.

    At most PENDING_PER_THREAD frames per thread are pending; the caller then reads no sockets.
    `wake_fd` becomes readable when a decode ends, so the caller can poll it with its sockets.
    """

    def __init__(self, threads: int, *, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._max_pending = threads * PENDING_PER_THREAD
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._pending: deque[Future[Frame | ErrorFrame]] = deque()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)

    @property
    def wake_fd(self) -> int:
        """Readable when `finished` may have something."""
        return self._wake_reader.fileno()

    def is_full(self) -> bool:
        """Whether `submit` must wait for `finished`."""
        return len(self._pending) >= self._max_pending

    def submit(self, admitted: Admitted) -> None:
        """Start decoding."""
        future = self._executor.submit(_decode, admitted.info, admitted.payload, self._max_pixels)
        self._pending.append(future)
        future.add_done_callback(self._wake)

    def finished(self) -> Iterator[Frame | ErrorFrame]:
        """Take what is decoded, up to the first frame that is not."""
        with contextlib.suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                pass
        while self._pending and self._pending[0].done():
            yield self._pending.popleft().result()

    def rest(self) -> Iterator[Frame | ErrorFrame]:
        """Wait for all that is pending; each takes one decode at most."""
        while self._pending:
            yield self._pending.popleft().result()

    def close(self) -> None:
        """End the threads; what is still pending is dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._wake_reader.close()
        self._wake_writer.close()

    def _wake(self, _: Future[Frame | ErrorFrame]) -> None:
        with contextlib.suppress(BlockingIOError):  # full: a wake-up waits already
            self._wake_writer.send(b"\0")


def _decode(info: FrameInfo, payload: Payload, max_pixels: int) -> Frame | ErrorFrame:
    try:
        return Frame(info, decode_image(payload, max_pixels=max_pixels))
    except FrameError as error:
        return ErrorFrame(info, error.reason, error.detail)
