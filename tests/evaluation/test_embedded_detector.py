"""`zsad test` and `zsad predict` as a user types them, with the detector that ships."""

import json
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from daemon.cli.main import main

Write = Callable[..., Path]


def test_a_data_set_is_measured(mvtec: Path, tmp_path: Path) -> None:
    out, sheet = tmp_path / "out.json", tmp_path / "sheet.png"
    words = ["test", "--data", str(mvtec), "--layout", "mvtec", "--device", "cpu"]

    code = main([*words, "--batch", "4", "--json", str(out), "--sheet", str(sheet)])

    metrics = json.loads(out.read_text())
    assert code == 0
    assert sorted(metrics["categories"]) == ["felt", "metal_nut"]
    assert all(0 <= value <= 1 for value in metrics["mean"].values())
    with PIL.Image.open(sheet) as image:
        assert image.width > 1000


def test_images_are_scored_in_the_precision_of_a_line(
    tmp_path: Path, write_image: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = write_image(tmp_path / "a.png"), tmp_path / "out.json"
    words = ["predict", str(image), "--category", "metal_nut", "--device", "cpu"]

    def score(precision: str) -> float:
        assert main([*words, "--precision", precision, "--json", str(out)]) == 0
        (row,) = json.loads(out.read_text())["images"]
        return float(row["pred_score"])

    exact, near = score("fp32"), score("bf16")
    assert exact != near
    assert exact == pytest.approx(near, abs=1e-2)

    assert main([*words, "--precision", "fp16"]) == 2
    assert "fp16 is for a GPU" in capsys.readouterr().err


def test_images_are_scored_and_a_bad_one_is_reported(tmp_path: Path, write_image: Write) -> None:
    good, bad = write_image(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(b"no picture")
    out, heat = tmp_path / "out.json", tmp_path / "heat"
    words = ["predict", str(good), str(bad), "--category", "metal_nut", "--device", "cpu"]

    code = main([*words, "--json", str(out), "--heatmaps", str(heat)])

    contents = json.loads(out.read_text())
    assert code == 1
    assert [row["image"] for row in contents["images"]] == [str(good)]
    assert [row["image"] for row in contents["errors"]] == [str(bad)]
    assert (heat / "a.png").is_file()
