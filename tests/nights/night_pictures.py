"""Small pictures of a product whose defect lies in the whole surface."""

from pathlib import Path

import cv2
import numpy as np


def draw(folder: Path, n: int, *, is_ng: bool, seed: int) -> list[Path]:
    """Grain; on NG parts it is smeared. Written as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, is_ng])
    files = []
    for number in range(n):
        grain = rng.normal(120, 30, (80, 80, 3)).astype(np.float32)
        if is_ng:
            grain = cv2.GaussianBlur(grain, (0, 0), 1.5)
        file = folder / f"{'ng' if is_ng else 'ok'}-{seed}-{number}.png"
        cv2.imwrite(str(file), np.clip(grain, 0, 255).astype(np.uint8))
        files.append(file)
    return files
