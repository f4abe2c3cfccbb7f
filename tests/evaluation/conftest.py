"""Small real data sets, written as PNG files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

SIDE = 40
DEFECT = (slice(8, 20), slice(8, 20))


def _write_image(path: Path, *, has_defect: bool = False, seed: int = 0) -> Path:
    """A dark grey square with noise; the defect is a bright patch."""
    pixels = np.random.default_rng(seed).integers(30, 60, (SIDE, SIDE, 3)).astype(np.uint8)
    if has_defect:
        pixels[DEFECT] = 230
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return path


def _write_mask(path: Path, *, value: int = 255, side: int = SIDE) -> Path:
    mask = np.zeros((side, side), np.uint8)
    mask[DEFECT] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(mask).save(path)
    return path


@pytest.fixture
def write_image() -> Callable[..., Path]:
    return _write_image


@pytest.fixture
def write_mask() -> Callable[..., Path]:
    return _write_mask


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """Two categories, each with 3 normal and 3 anomalous test images and their masks."""
    root = tmp_path / "set"
    for category in ("metal_nut", "felt"):
        folder = root / category
        for i in range(3):
            _write_image(folder / "train" / "good" / f"{i}.png", seed=i)
            _write_image(folder / "test" / "good" / f"{i}.png", seed=i)
            _write_image(folder / "test" / "scratch" / f"{i}.png", has_defect=True, seed=i)
            _write_mask(folder / "ground_truth" / "scratch" / f"{i}_mask.png")
    return root
