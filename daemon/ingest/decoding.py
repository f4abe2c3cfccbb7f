"""A small pool of decoders that gives images back in the order in which they came.

OpenCV releases the interpreter lock while it decodes, so threads are enough.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from daemon.core import Frame, FrameInfo, ImageFile, Stage
from daemon.errors import FrameError
from daemon.ingest.admission import Admitted, ErrorFrame
from daemon.ingest.decode import decode_image, jpeg_size
from daemon.ingest.message import Payload
from daemon.ingest.wake import WakePipe

PENDING_PER_THREAD = 2
FEWEST, MOST = 2, 8
"""Threads: one large frame must not hold up the small ones behind it; and 16 decoded frames of 12
megapixels, pending at eight threads, are 0.6 GB."""


def decode_threads(cores: int) -> int:
    """Half of the cores: on a CPU the detector wants the others, on a GPU they draw and store."""
    return min(max(FEWEST, cores // 2), MOST)


class DecodePool:
    """Owned by the ingest thread; only decoding runs elsewhere.

    At most PENDING_PER_THREAD frames per thread are pending; the caller then reads no sockets.
    `wake_fd` becomes readable when a decode ends, so the caller can poll it with its sockets.
    """

    def __init__(
        self,
        threads: int,
        *,
        max_pixels: int,
        clock: Callable[[], float],
        on_stage: Callable[[Stage, float], None],
        keep_files: bool = False,
    ) -> None:
        """Args are kept.

        Args:
            on_stage: Told how long each decode took, in the decoder's thread.
            keep_files: Frames carry the JPEG or PNG that they were decoded from.
        """
        self._keep_files = keep_files
        self._clock = clock
        self._on_stage = on_stage
        self._max_pixels = max_pixels
        self._max_pending = threads * PENDING_PER_THREAD
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._pending: deque[Future[Frame | ErrorFrame]] = deque()
        self._wake = WakePipe()

    @property
    def wake_fd(self) -> int:
        """Readable when `finished` may have something."""
        return self._wake.fd

    def limit_pixels(self, max_pixels: int) -> None:
        """For images submitted from now on."""
        self._max_pixels = max_pixels

    def is_full(self) -> bool:
        """Whether `submit` must wait for `finished`."""
        return len(self._pending) >= self._max_pending

    def submit(self, admitted: Admitted, least_side: int | None = None) -> None:
        """Start decoding; `least_side` as of `decode_image`."""
        future = self._executor.submit(
            self._decode, admitted.info, admitted.payload, self._max_pixels, least_side
        )
        self._pending.append(future)
        future.add_done_callback(lambda _: self._wake.wake())

    def finished(self) -> Iterator[Frame | ErrorFrame]:
        """Take what is decoded, up to the first frame that is not."""
        self._wake.clear()
        while self._pending and self._pending[0].done():
            yield self._pending.popleft().result()

    def rest(self) -> Iterator[Frame | ErrorFrame]:
        """Wait for all that is pending; each takes one decode at most."""
        while self._pending:
            yield self._pending.popleft().result()

    def close(self) -> None:
        """End the threads; what is still pending is dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._wake.close()

    def _decode(
        self, info: FrameInfo, payload: Payload, max_pixels: int, least_side: int | None
    ) -> Frame | ErrorFrame:
        began_at = self._clock()
        size: tuple[int, int] | None = None
        try:
            image = decode_image(payload, max_pixels=max_pixels, least_side=least_side)
            if least_side is not None and payload.encoding == "jpeg":
                size = jpeg_size(bytes(payload.data))
        except FrameError as error:
            return ErrorFrame(info, error.reason, error.detail)
        decoded_at = self._clock()
        self._on_stage("decode", decoded_at - began_at)
        file = _file(payload) if self._keep_files else None
        return Frame(info, image, decoded_at, file, size)


def _file(payload: Payload) -> ImageFile | None:
    match payload.encoding:
        case "jpeg":
            return ImageFile("jpg", payload.data)
        case "png":
            return ImageFile("png", payload.data)
        case "raw":
            return None
