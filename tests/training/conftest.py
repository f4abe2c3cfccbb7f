"""A small generated data set in the MVTec tree: textured plates, some with dark spots."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _write_category(root: Path, name: str, *, seed: int, colour: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    for label, count in (("good", 6), ("spot", 6)):
        images, masks = root / name / "test" / label, root / name / "ground_truth" / label
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for index in range(count):
            grain = rng.normal(0, 12, (120, 120, 1)).astype(np.float32)
            image = np.array(colour, np.float32) + cv2.GaussianBlur(grain, (0, 0), 1.0)[..., None]
            mask = np.zeros((120, 120), np.uint8)
            if label == "spot":
                centre = (int(rng.integers(20, 100)), int(rng.integers(20, 100)))
                cv2.circle(mask, centre, int(rng.integers(6, 12)), 255, -1)
                image[mask > 0] *= 0.45
                cv2.imwrite(str(masks / f"{index:03d}_mask.png"), mask)
            cv2.imwrite(str(images / f"{index:03d}.png"), np.clip(image, 0, 255).astype(np.uint8))
    (root / "SOURCE.md").write_text("- Origin: generated\n- Licence: CC0-1.0\n")


@pytest.fixture(scope="session")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training set: one category."""
    root = tmp_path_factory.mktemp("plates")
    _write_category(root, "plate", seed=1, colour=(150, 140, 130))
    return root


@pytest.fixture(scope="session")
def felts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category that no training run sees."""
    root = tmp_path_factory.mktemp("felts")
    _write_category(root, "felt", seed=2, colour=(60, 150, 190))
    return root
