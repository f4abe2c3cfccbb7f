"""Overlays and contact sheets as arrays."""

import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from zsad.heatmap import SheetEntry, contact_sheet, encode_png, heat_overlay

GREY: NDArray[np.uint8] = np.full((40, 60, 3), 128, np.uint8)


def corner_map(size: int = 20) -> NDArray[np.float32]:
    anomaly_map = np.full((size, size), 0.1, np.float32)
    anomaly_map[: size // 2, : size // 2] = 0.9
    return anomaly_map


def entry(*, has_mask: bool = True, category: str = "felt") -> SheetEntry:
    mask = np.zeros((40, 60), np.bool_)
    mask[:20, :30] = True
    return SheetEntry(
        image=GREY,
        mask=mask if has_mask else None,
        anomaly_map=corner_map(),
        category=category,
        defect="cut",
        is_anomalous=True,
        score=0.9,
    )


def test_overlay_is_red_where_anomalous_and_blue_elsewhere() -> None:
    overlay = heat_overlay(GREY, corner_map(), low=0.1, high=0.9)

    red, _, blue = overlay[5, 5].astype(int)
    assert red > blue + 40
    red, _, blue = overlay[35, 55].astype(int)
    assert blue >= red
    assert (overlay.shape, overlay.dtype) == (GREY.shape, np.uint8)


def test_overlay_leaves_a_cold_image_nearly_as_it_is() -> None:
    overlay = heat_overlay(GREY, np.zeros((20, 20), np.float32), low=0, high=1)

    assert np.abs(overlay.astype(int) - 128).max() < 30


def test_overlay_of_an_empty_range_is_cold() -> None:
    flat = np.full((20, 20), 0.4, np.float32)

    overlay = heat_overlay(GREY, flat, low=0.4, high=0.4)

    assert (overlay == heat_overlay(GREY, flat, low=0.4, high=0.9)).all()


def test_overlay_does_not_change_its_image() -> None:
    image = GREY.copy()

    heat_overlay(image, corner_map(), low=0, high=1)

    assert (image == GREY).all()


def test_many_entries_stand_in_two_columns() -> None:
    one = contact_sheet([entry()] * 4, title="few")
    two = contact_sheet([entry()] * 6, title="many")

    assert two.shape[1] > 1.9 * one.shape[1]
    assert two.shape[0] < one.shape[0]


def test_an_entry_without_mask_is_shown() -> None:
    with_mask, without = (
        contact_sheet([entry()], title=""),
        contact_sheet([entry(has_mask=False)], title=""),
    )

    assert with_mask.shape == without.shape
    assert (with_mask != without).any()


def test_the_map_shows_the_outline_of_the_mask() -> None:
    def white_pixels(sheet: NDArray[np.uint8]) -> int:
        tile = sheet[-160:-18, -248:-20]  # the last of three, without its caption
        return int((tile == 255).all(axis=2).sum())

    plain = replace(entry(), mask=np.zeros((40, 60), np.bool_))

    outlined, bare = (contact_sheet([e], title="") for e in (entry(), plain))

    assert white_pixels(outlined) > white_pixels(bare) + 100


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one entry"):
        contact_sheet([], title="")


def test_png_bytes_decode_to_the_same_pixels() -> None:
    decoded = np.asarray(PIL.Image.open(io.BytesIO(encode_png(GREY))))

    assert (decoded == GREY).all()
