"""A small generated data set in the MVTec tree: textured plates, some with dark spots."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from open_clip.model import CLIP

from zsad.backbone import Backbone
from zsad.backbone_loading import load_backbone
from zsad.config.backbone import BackboneConfig


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


TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"layers": 4, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 56},
    "text_cfg": {"layers": 4, "width": 48, "heads": 4, "context_length": 77, "vocab_size": 49408},
}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of an open_clip model with random weights: 4 + 4 blocks, widths 64 and 48, 56 px."""
    folder = tmp_path_factory.mktemp("tiny-clip")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        state = CLIP(**TINY_CLIP).state_dict()
    facts = {"model_cfg": TINY_CLIP, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(facts))
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture
def backbone(tiny_clip: str) -> Backbone:
    return load_backbone(BackboneConfig(name=tiny_clip))
