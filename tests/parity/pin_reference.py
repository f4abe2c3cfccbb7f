"""Writes `METHOD_pinned.json`: a few entries of every array of a numerical reference.

python tests/parity/pin_reference.py FOLDER METHOD [KEPT ...]    # FOLDER holds METHOD.json and .npz

Arrays named in KEPT are kept whole under `inputs`: what the case is given, not what it computes.
"""

import json
import sys
from pathlib import Path

import numpy as np

ENTRIES = 6
COPIED = ("case", "phrases", "trainable", "training_image_index", "losses", "gradients")


def main(folder: Path, method: str, kept: list[str]) -> None:
    reference = json.loads((folder / f"{method}.json").read_text())
    arrays = np.load(folder / f"{method}.npz")
    pinned = {key: reference[key] for key in COPIED if key in reference}
    if kept:
        pinned["inputs"] = {name: arrays[name].tolist() for name in kept}
    pinned["arrays"] = {}
    for name, description in reference["arrays"].items():
        if name in kept:
            continue
        flat = arrays[name].reshape(-1)
        index = np.linspace(0, len(flat) - 1, min(ENTRIES, len(flat))).astype(int)
        pinned["arrays"][name] = {
            "shape": list(arrays[name].shape),
            "atol": description.get("atol", 0),  # indices have none
            "index": index.tolist(),
            "value": [float(flat[i]) for i in index],
        }
    target = Path(__file__).with_name(f"{method}_pinned.json")
    target.write_text(json.dumps(pinned, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
