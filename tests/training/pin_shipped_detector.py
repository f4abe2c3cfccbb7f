"""Writes shipped_detector.json: python tests/training/pin_shipped_detector.py, after retraining."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from pinned_images import CLASS_NAMES, pinned_images

from zsad.predictor import load_predictor


def main() -> None:
    predictor = load_predictor(None, "cpu")
    scores, maps = predictor.predict(pinned_images(), CLASS_NAMES)
    pinned = {
        "version": predictor.version,
        "scores": [round(score, 5) for score in scores],
        "map_means": [round(float(m.mean()), 5) for m in maps],
        "map_peaks": [round(float(m.max()), 5) for m in maps],
    }
    path = Path(__file__).parent / "shipped_detector.json"
    path.write_text(json.dumps(pinned, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
