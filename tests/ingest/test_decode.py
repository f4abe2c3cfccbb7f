import contextlib
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from daemon.core import LossReason
from daemon.errors import FrameError
from daemon.ingest.decode import decode_image
from daemon.ingest.message import Payload
from daemon.ingest.wire import Encoding
from zsad.image_files import jpeg_reduction, load_image

LIMIT = 1_000_000
Image = NDArray[np.uint8]


def encoded(image: Image, suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


def smooth_image() -> Image:
    """BGR [48, 64, 3] that JPEG keeps almost unchanged."""
    ramp = np.linspace(0, 255, 64)
    rows = np.linspace(0, 255, 48)[:, None]
    planes = (ramp + 0 * rows, rows + 0 * ramp, 255 - ramp + 0 * rows)
    return np.stack(planes, axis=-1).astype(np.uint8)


JPEG = encoded(smooth_image(), ".jpg")
PNG = encoded(smooth_image(), ".png")


def raw(shape: tuple[int, ...], pixel_format: str, data: bytes, dtype: str = "uint8") -> Payload:
    return Payload("raw", data, dtype, shape, pixel_format)


def refusal(payload: Payload, max_pixels: int = LIMIT) -> FrameError:
    with pytest.raises(FrameError) as caught:
        decode_image(payload, max_pixels=max_pixels)
    return caught.value


def png_that_says(width: int, height: int, depth: int = 8) -> bytes:
    """A PNG header of any size, with hardly any data behind it: what a bomb looks like."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def jpeg_that_says(width: int, height: int) -> bytes:
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 5] + struct.pack(">HH", height, width) + JPEG[at + 9 :]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100))
def test_a_jpeg_is_never_reduced_below_the_least_side_and_only_to_powers_of_two(
    height: int, width: int, least_side: int
) -> None:
    by = jpeg_reduction(height, width, least_side)

    shorter = min(height, width)
    assert by == 1 or shorter >= by * least_side
    assert by == 8 or shorter < 2 * by * least_side
    assert jpeg_reduction(height, width, None) == 1


@pytest.mark.parametrize(("height", "width", "by"), [(403, 805, 4), (221, 200, 2), (801, 805, 8)])
def test_a_reduced_jpeg_is_the_shrunk_image_on_the_line_and_in_files_alike(
    tmp_path: Path, height: int, width: int, by: int
) -> None:
    noise = np.random.default_rng(3).normal(128, 60, (height, width, 3)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 6).clip(0, 255).astype(np.uint8)
    data = encoded(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 98)
    (tmp_path / "frame.jpg").write_bytes(data)

    decoded = decode_image(Payload("jpeg", data), max_pixels=LIMIT, least_side=100)
    loaded = load_image(tmp_path / "frame.jpg", least_side=100)

    assert decoded.shape == loaded.shape == (-(-height // by), -(-width // by), 3)
    assert np.abs(decoded.astype(int) - loaded).max() <= 1
    shrunk = cv2.resize(image, decoded.shape[1::-1], interpolation=cv2.INTER_AREA)[..., ::-1]
    assert np.abs(decoded.astype(int) - shrunk).mean() < 2
    png = encoded(image, ".png")
    assert decode_image(Payload("png", png), max_pixels=LIMIT, least_side=100).shape == image.shape


def test_the_limit_of_pixels_is_that_of_the_whole_jpeg() -> None:
    with pytest.raises(FrameError) as caught:
        decode_image(Payload("jpeg", JPEG), max_pixels=48 * 64 - 1, least_side=6)
    assert caught.value.reason is LossReason.TOO_LARGE


def test_jpeg_becomes_rgb() -> None:
    decoded = decode_image(Payload("jpeg", JPEG), max_pixels=LIMIT)

    difference = decoded.astype(int) - smooth_image()[..., ::-1]
    assert decoded.shape == (48, 64, 3)
    assert np.abs(difference).mean() < 4


def test_png_becomes_rgb_without_loss() -> None:
    decoded = decode_image(Payload("png", memoryview(PNG)), max_pixels=LIMIT)

    np.testing.assert_array_equal(decoded, smooth_image()[..., ::-1])


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_grey_files_become_rgb(suffix: str) -> None:
    grey = np.full((8, 9), 77, np.uint8)
    encoding: Encoding = "jpeg" if suffix == ".jpg" else "png"

    decoded = decode_image(Payload(encoding, encoded(grey, suffix)), max_pixels=LIMIT)

    assert decoded.shape == (8, 9, 3)
    assert (decoded == 77).all()


def test_progressive_jpeg_is_read() -> None:
    progressive = encoded(smooth_image(), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)

    assert decode_image(Payload("jpeg", progressive), max_pixels=LIMIT).shape == (48, 64, 3)


def test_bytes_after_the_end_of_a_jpeg_are_allowed() -> None:
    padded = JPEG + b"\0" * 64

    assert decode_image(Payload("jpeg", padded), max_pixels=LIMIT).shape == (48, 64, 3)


def test_exif_orientation_does_not_turn_the_image() -> None:
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    body = b"Exif\0\0" + tiff
    turned = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + JPEG[2:]

    assert decode_image(Payload("jpeg", turned), max_pixels=LIMIT).shape == (48, 64, 3)


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 20, 200, len(JPEG) // 2, len(JPEG) - 2])
def test_a_truncated_jpeg_is_refused(kept: int) -> None:
    assert refusal(Payload("jpeg", JPEG[:kept])).reason is LossReason.BAD_PAYLOAD


def test_the_end_of_an_embedded_thumbnail_is_not_the_end_of_the_jpeg() -> None:
    thumbnail = b"Exif\0\0" + encoded(np.zeros((8, 8, 3), np.uint8), ".jpg")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = JPEG[:2] + segment + JPEG[2:]
    assert decode_image(Payload("jpeg", whole), max_pixels=LIMIT).shape == (48, 64, 3)

    assert "end marker" in refusal(Payload("jpeg", whole[:-200])).detail


@pytest.mark.parametrize("kept", [0, 8, 32, 33, len(PNG) // 2, len(PNG) - 1])
def test_a_truncated_png_is_refused(kept: int) -> None:
    assert refusal(Payload("png", PNG[:kept])).reason is LossReason.BAD_PAYLOAD


def test_a_damaged_png_is_refused() -> None:
    damaged = bytearray(PNG)
    damaged[len(PNG) // 2] ^= 0xFF

    assert refusal(Payload("png", bytes(damaged))).reason is LossReason.BAD_PAYLOAD


@pytest.mark.parametrize(
    "bomb",
    [
        Payload("png", png_that_says(10_000, 10_000)),
        Payload("png", png_that_says(2**31 - 1, 2**31 - 1)),
        Payload("jpeg", jpeg_that_says(10_000, 10_000)),
        raw((10_000, 10_000), "Mono8", b"x"),
        raw((2**31, 2**31, 3), "BGR8", b"x"),
    ],
)
def test_a_bomb_is_refused_before_it_is_decoded(
    bomb: Payload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))

    error = refusal(bomb)

    assert error.reason is LossReason.TOO_LARGE
    assert str(LIMIT) in error.detail


def test_the_pixel_limit_itself_is_allowed() -> None:
    assert decode_image(Payload("png", PNG), max_pixels=48 * 64).shape == (48, 64, 3)
    assert refusal(Payload("png", PNG), max_pixels=48 * 64 - 1).reason is LossReason.TOO_LARGE


def test_a_file_of_the_other_kind_is_refused() -> None:
    assert "not a JPEG" in refusal(Payload("jpeg", PNG)).detail
    assert "not a PNG" in refusal(Payload("png", JPEG)).detail


def test_sixteen_bits_are_refused_with_what_to_do() -> None:
    deep = encoded(np.full((8, 8), 4000, np.uint16), ".png")  # type: ignore[arg-type]

    assert "16 bits a channel; send 8" in refusal(Payload("png", deep)).detail
    assert "send uint8" in refusal(raw((2, 2), "Mono8", b"\0" * 8, "uint16")).detail


@pytest.mark.parametrize(
    ("shape", "pixel_format", "size"),
    [
        ((2, 2), "Mono8", 3),
        ((2, 2), "Mono8", 5),
        ((2, 2, 3), "BGR8", 4),
        ((2, 2), "BGR8", 4),
        ((2, 2, 3), "Mono8", 12),
        ((4,), "Mono8", 4),
        ((0, 5), "Mono8", 0),
        ((1, 1), "BayerRG8", 1),
        ((2, 2, 3), "YUV422", 12),
    ],
)
def test_a_shape_that_lies_is_refused(shape: tuple[int, ...], pixel_format: str, size: int) -> None:
    assert refusal(raw(shape, pixel_format, b"x" * size)).reason is LossReason.BAD_PAYLOAD


def test_bayer_rg_begins_with_red() -> None:
    mosaic = np.zeros((8, 8), np.uint8)
    mosaic[0::2, 0::2] = 200  # red
    mosaic[0::2, 1::2] = mosaic[1::2, 0::2] = 100  # green
    mosaic[1::2, 1::2] = 50  # blue

    decoded = decode_image(raw((8, 8), "BayerRG8", mosaic.tobytes()), max_pixels=LIMIT)

    assert (decoded[2:-2, 2:-2] == (200, 100, 50)).all()


def test_raw_images_have_memory_of_their_own() -> None:
    data = bytearray(12)

    decoded = decode_image(raw((2, 2, 3), "RGB8", memoryview(data)), max_pixels=LIMIT)  # type: ignore[arg-type]
    data[:] = b"\xff" * 12

    assert not decoded.any()
    assert decoded.flags.writeable


@settings(deadline=None)
@given(
    start=st.sampled_from([JPEG, PNG]),
    at=st.integers(0, 900),
    junk=st.binary(max_size=60),
    encoding=st.sampled_from(["jpeg", "png"]),
)
def test_damaged_files_raise_only_frame_error(
    start: bytes, at: int, junk: bytes, encoding: Encoding
) -> None:
    damaged = start[:at] + junk + start[at + len(junk) :]

    with contextlib.suppress(FrameError):
        decode_image(Payload(encoding, damaged), max_pixels=LIMIT)


@given(
    shape=st.lists(st.integers(0, 6), max_size=4),
    data=st.binary(max_size=64),
    pixel_format=st.sampled_from(["Mono8", "RGB8", "BGR8", "BayerRG8", "Mono16", ""]),
)
def test_any_raw_payload_raises_only_frame_error(
    shape: list[int], data: bytes, pixel_format: str
) -> None:
    with contextlib.suppress(FrameError):
        image = decode_image(raw(tuple(shape), pixel_format, data), max_pixels=20)
        assert image.shape == (shape[0], shape[1], 3)
