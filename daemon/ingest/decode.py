"""Payload to RGB image. Believes no size before it has compared it with the limit and the data."""

from typing import assert_never, get_args

import cv2
import numpy as np

from daemon.core import Image, LossReason
from daemon.errors import FrameError
from daemon.ingest.message import Payload
from daemon.ingest.pixels import shape_problem, to_rgb
from daemon.ingest.wire import PixelFormat
from zsad.image_files import jpeg_reduction

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK_FRAME = 12  # length, type and checksum around the data of a chunk
_MAX_PNG_CHUNKS = 100_000  # writers make one of every 8 KiB or more
_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_JPEG_START_OF_SCAN = 0xDA
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
# SOF0-SOF15 without DHT (C4), JPG (C8) and DAC (CC); ITU-T T.81, table B.1.
_JPEG_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def decode_image(payload: Payload, *, max_pixels: int, least_side: int | None = None) -> Image:
    """Decode one image.

    Args:
        least_side: A JPEG may be decoded smaller by `jpeg_reduction`; None decodes the whole.

    Returns:
        RGB uint8 [H, W, 3] of its own memory, oriented as the sensor read it (EXIF is ignored,
        so that boxes are in the camera's pixels).

    Raises:
        FrameError: BAD_PAYLOAD or TOO_LARGE; nothing else escapes.
    """
    match payload.encoding:
        case "raw":
            return _decode_raw(payload, max_pixels)
        case "jpeg":
            data = bytes(payload.data)
            return _decode_file(data, "JPEG", jpeg_size(data), max_pixels, least_side)
        case "png":
            data = bytes(payload.data)
            return _decode_file(data, "PNG", _png_size(data), max_pixels, None)
        case _:
            assert_never(payload.encoding)


def _decode_raw(payload: Payload, max_pixels: int) -> Image:
    if payload.dtype != "uint8":
        raise _bad(f"dtype {payload.dtype} is not supported; send uint8")
    pixel_format = _pixel_format(payload.pixel_format)
    shape = payload.shape or ()
    if problem := shape_problem(shape, pixel_format):
        raise _bad(problem)
    _check_pixels(shape[0], shape[1], max_pixels)
    expected = int(np.prod(shape, dtype=np.int64))
    if len(payload.data) != expected:
        raise _bad(f"payload has {len(payload.data)} bytes, shape {list(shape)} needs {expected}")
    pixels = np.frombuffer(payload.data, dtype=np.uint8).reshape(shape)
    return to_rgb(pixels, pixel_format)


def _pixel_format(name: str | None) -> PixelFormat:
    for known in get_args(PixelFormat):
        if name == known:
            return known  # type: ignore[no-any-return]  # get_args loses the Literal
    raise _bad(f"pixel_format {name} is not supported; send one of {get_args(PixelFormat)}")


def _decode_file(
    data: bytes, kind: str, size: tuple[int, int], max_pixels: int, least_side: int | None
) -> Image:
    height, width = size
    if height < 1 or width < 1:
        raise _bad(f"{kind} says {width} x {height} pixels")
    _check_pixels(height, width, max_pixels)
    by = jpeg_reduction(height, width, least_side)
    flags = _REDUCED[by] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        raise _bad(f"{kind} of {len(data)} bytes does not decode: {error.err}") from error
    if bgr is None:
        raise _bad(f"{kind} of {len(data)} bytes is damaged or truncated")
    if bgr.shape[:2] != (-(-height // by), -(-width // by)):
        raise _bad(f"{kind} header says {width} x {height}, decoded {bgr.shape[1::-1]}")
    return to_rgb(np.asarray(bgr, dtype=np.uint8), "BGR8")


def _png_size(data: bytes) -> tuple[int, int]:
    """(height, width) from IHDR, the first chunk of every PNG (W3C PNG, 11.2.1)."""
    if len(data) < 33 or not data.startswith(_PNG_SIGNATURE) or data[12:16] != b"IHDR":
        raise _bad(f"{len(data)} bytes are not a PNG")
    if data[24] > 8:
        raise _bad(f"PNG has {data[24]} bits a channel; send 8")
    _check_png_chunks(data)
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def _check_png_chunks(data: bytes) -> None:
    """Refuse a chunk that is longer than the file: OpenCV allocates first what a chunk claims."""
    at = len(_PNG_SIGNATURE)
    for _ in range(_MAX_PNG_CHUNKS):
        if at + _PNG_CHUNK_FRAME > len(data):
            raise _bad(f"PNG of {len(data)} bytes is truncated: no end chunk")
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at += _PNG_CHUNK_FRAME + length
        if at > len(data):
            raise _bad(f"PNG of {len(data)} bytes has a chunk that says {length} bytes")
    raise _bad(f"PNG has more than {_MAX_PNG_CHUNKS} chunks")


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the start-of-frame segment; also refuses a file without its end.

    Decoders may fill a truncated JPEG with grey, which would be inspected as if it were the part.

    Raises:
        FrameError: BAD_PAYLOAD.
    """
    if not data.startswith(_JPEG_START):
        raise _bad(f"{len(data)} bytes are not a JPEG")
    size: tuple[int, int] | None = None
    at = len(_JPEG_START)
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte before a marker
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _JPEG_START_OF_FRAME and size is None and at + 9 <= len(data):
            height_at = at + 5
            size = (
                int.from_bytes(data[height_at : height_at + 2], "big"),
                int.from_bytes(data[height_at + 2 : height_at + 4], "big"),
            )
        at += 2 + max(length, 2)
        if marker == _JPEG_START_OF_SCAN:
            break
    else:
        raise _bad(f"JPEG of {len(data)} bytes has no scan; it is damaged or truncated")
    if size is None:
        raise _bad(f"JPEG of {len(data)} bytes has no frame header")
    # In a scan the byte FF is always stuffed, so this pair after it can only be the end marker.
    if data.rfind(_JPEG_END, at) < 0:
        raise _bad(f"JPEG of {len(data)} bytes is truncated: no end marker")
    return size


def _check_pixels(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise FrameError(
            LossReason.TOO_LARGE,
            f"image has {width} x {height} = {height * width} pixels, limit {max_pixels}",
        )


def _bad(detail: str) -> FrameError:
    return FrameError(LossReason.BAD_PAYLOAD, detail)
