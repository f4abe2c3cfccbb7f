"""Reading pictures: what becomes of odd formats, and what is refused before it costs memory."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsad.image_files import DataError, image_size, load_image, load_mask, resize_mask

Write = Callable[..., Path]


def test_grey_is_repeated_over_three_channels(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    PIL.Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(path)

    image = load_image(path)

    assert (image.shape, image.dtype) == ((3, 4, 3), np.uint8)
    assert (image == np.arange(12).reshape(3, 4, 1)).all()


def test_channel_order_is_rgb(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    PIL.Image.new("RGB", (2, 2), (200, 10, 5)).save(path)

    assert load_image(path)[0, 0].tolist() == [200, 10, 5]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    PIL.Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16)).save(path)

    assert load_image(path)[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    PIL.Image.new("RGBA", (2, 2), (9, 8, 7, 0)).save(path)

    assert load_image(path)[0, 0].tolist() == [9, 8, 7]


def test_a_picture_over_the_pixel_limit_is_refused_with_both_numbers(
    tmp_path: Path, write_image: Write
) -> None:
    path = write_image(tmp_path / "a.png")

    with pytest.raises(DataError, match=r"40 x 40 = 1600 pixels, limit 1599"):
        load_image(path, max_pixels=1599)


def test_a_hundred_megapixels_are_refused_by_default(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    PIL.Image.new("1", (10_000, 10_000)).save(path)

    with pytest.raises(DataError, match=r"bomb\.png"):
        load_image(path)


def test_a_truncated_picture_is_refused(tmp_path: Path, write_image: Write) -> None:
    path = write_image(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(DataError, match=r"a\.jpg cannot be read as an image"):
        load_image(path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 64])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.png"
    path.write_bytes(content)

    with pytest.raises(DataError, match="garbage"):
        load_image(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_image(tmp_path / "no.png")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_image(tmp_path)


def test_any_value_above_zero_is_anomalous(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    PIL.Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8)).save(path)

    assert load_mask(path).tolist() == [[False, True, True, True]]


def test_a_colour_mask_counts_every_channel(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    PIL.Image.fromarray(np.array([[[0, 0, 0], [0, 0, 1]]], np.uint8)).save(path)

    assert load_mask(path).tolist() == [[False, True]]


def test_noise_of_a_jpeg_mask_is_not_anomalous(tmp_path: Path, write_mask: Write) -> None:
    lossy = write_mask(tmp_path / "mask.jpg")
    exact = write_mask(tmp_path / "mask.png")

    assert (load_mask(lossy) == load_mask(exact)).mean() > 0.99


def test_image_size_is_width_then_height(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    PIL.Image.new("L", (7, 3)).save(path)

    assert image_size(path) == (7, 3)


def test_a_resized_mask_keeps_its_place_and_share() -> None:
    mask = np.zeros((100, 50), np.bool_)
    mask[50:, :25] = True

    resized = resize_mask(mask, 20, 20)

    assert resized.shape == (20, 20)
    assert resized[10:, :10].all()
    assert resized.sum() == 100


@pytest.mark.filterwarnings("ignore")  # Pillow warns of broken metadata and goes on
@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP"]),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=8),
    st.integers(0, 2**16),
)
def test_damaged_files_raise_only_data_error(
    tmp_path_factory: pytest.TempPathFactory,
    picture_format: str,
    changes: list[tuple[int, int]],
    length: int,
) -> None:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(buffer, format=picture_format)
    content = bytearray(buffer.getvalue())
    for position, value in changes:
        content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / f"damaged.{picture_format.lower()}"
    path.write_bytes(content[: max(1, length % (2 * len(content)))])

    with contextlib.suppress(DataError):
        load_image(path)
