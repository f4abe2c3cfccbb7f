"""Writes `aa_clip_pinned.json`: a few entries of every array of the numerical reference.

python tests/parity/pin_reference.py FOLDER     # holds aa_clip.json and aa_clip.npz
"""

import json
import sys
from pathlib import Path

import numpy as np

ENTRIES = 6


def main(folder: Path) -> None:
    reference = json.loads((folder / "aa_clip.json").read_text())
    arrays = np.load(folder / "aa_clip.npz")
    pinned = {key: reference[key] for key in ("case", "phrases", "losses", "gradients")}
    pinned["arrays"] = {}
    for name, description in reference["arrays"].items():
        flat = arrays[name].reshape(-1)
        index = np.linspace(0, len(flat) - 1, min(ENTRIES, len(flat))).astype(int)
        pinned["arrays"][name] = {
            "shape": list(arrays[name].shape),
            "atol": description["atol"],
            "index": index.tolist(),
            "value": [float(flat[i]) for i in index],
        }
    target = Path(__file__).with_name("aa_clip_pinned.json")
    target.write_text(json.dumps(pinned, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
