"""`zsad test` and `zsad predict` on images larger than the detector's input."""

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from rich.console import Console
from torch import Tensor

from daemon.cli import evaluate, predict
from daemon.errors import ConfigError
from zsad.detector import Detector, Prediction
from zsad.predictor import Predictor


class Brightest(Detector):
    input_size = 20

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        brightness = images.mean(dim=1).clamp(0, 1)
        return Prediction(image_score=brightness.amax(dim=(1, 2)), anomaly_map=brightness)


@pytest.fixture
def ready() -> Predictor:
    return Predictor(Brightest(), (0, 0, 0), (1, 1, 1), torch.device("cpu"), "bright-1")


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Dark parts of 200 x 300 px with one bright line; a defect is a bright dot of 6 px."""
    rng = np.random.default_rng(0)
    for number in range(8):
        image = np.full((200, 300), 40, np.uint8)
        image[:, 30] = 120
        mask = np.zeros_like(image)
        is_bad = number >= 4
        if is_bad:
            y, x = rng.integers(20, 180), rng.integers(60, 280)
            image[y : y + 6, x : x + 6] = mask[y : y + 6, x : x + 6] = 255
        defect = "dot" if is_bad else "good"
        folder = tmp_path / "part" / "test" / defect
        folder.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).convert("RGB").save(folder / f"{number}.png")
        if is_bad:
            masks = tmp_path / "part" / "ground_truth" / "dot"
            masks.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(mask).save(masks / f"{number}_mask.png")
    return tmp_path


def parse(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    evaluate.add_commands(parser.add_subparsers())
    return parser.parse_args([str(word) for word in words])


def figures(ready: Predictor, parts: Path, *words: str) -> tuple[dict[str, float], str]:
    out = parts / "out.json"
    args = parse("test", "--data", parts, "--layout", "mvtec", "--json", out, *words)
    console = Console(file=io.StringIO(), width=140)
    assert evaluate.measure(ready, evaluate.read_samples(args), args, console) == 0
    return json.loads(out.read_text())["mean"], console.file.getvalue()  # type: ignore[attr-defined]


def test_tiles_show_what_the_whole_image_hides_also_in_the_pixel_figures(
    ready: Predictor, parts: Path
) -> None:
    whole, _ = figures(ready, parts)
    tiled, printed = figures(ready, parts, "--min-defect-px", "24")

    assert whole["pixel_AUROC"] is None, "the masks vanish at 20 px"
    assert tiled["image_AUROC"] == 1.0
    assert tiled["pixel_AUROC"] > 0.99
    assert "tiles for defects of 24 px" in printed


def test_an_image_that_needs_too_many_tiles_stops_the_test_with_its_name(
    ready: Predictor, parts: Path
) -> None:
    args = parse(
        *("test", "--data", parts, "--layout", "mvtec"), *("--min-defect-px", "3"), "--max-tiles=9"
    )

    with pytest.raises(
        ConfigError, match=r"\.png: a frame of 300 x 200 px needs .* max_tiles is 9"
    ):
        evaluate.measure(ready, evaluate.read_samples(args), args, Console(file=io.StringIO()))


def test_predict_scores_tiles_and_reports_what_is_too_large(
    ready: Predictor, parts: Path, tmp_path: Path
) -> None:
    bad = parts / "part" / "test" / "dot" / "4.png"
    huge = tmp_path / "huge.png"
    PIL.Image.fromarray(np.zeros((900, 900, 3), np.uint8)).save(huge)
    out, maps = tmp_path / "scores.json", tmp_path / "maps"
    args = parse(
        *("predict", bad, huge, "--category", "part", "--json", out, "--heatmaps", maps),
        *("--min-defect-px", "24", "--max-tiles", "40"),
    )

    code = predict.predict_files(ready, args, Console(file=io.StringIO(), width=140))

    contents = json.loads(out.read_text())
    (row,), (error,) = contents["images"], contents["errors"]
    assert code == 1
    assert row["pred_score"] > 0.9
    with PIL.Image.open(row["heatmap"]) as heatmap:
        assert heatmap.size == (300, 200)
    assert "900 x 900 px" in error["error"]
