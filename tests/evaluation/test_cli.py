"""`zsad test` and `zsad predict` from their arguments to their files and exit codes."""

import argparse
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from rich.console import Console
from torch import Tensor

from daemon.cli import evaluate, predict
from daemon.cli.main import main
from daemon.errors import ConfigError
from zsad.detector import Detector, Prediction, UnscaledOutputs, WholeSetScores
from zsad.predictor import Predictor

Write = Callable[..., Path]


class BrightnessDetector(Detector):
    input_size = 20

    @torch.inference_mode()
    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        brightness = images.mean(dim=1)
        return Prediction(image_score=brightness.amax(dim=(1, 2)), anomaly_map=brightness)


@pytest.fixture
def ready() -> Predictor:
    return Predictor(BrightnessDetector(), (0, 0, 0), (1, 1, 1), torch.device("cpu"), "bright-1")


def parse(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    evaluate.add_commands(parser.add_subparsers())
    return parser.parse_args([str(word) for word in words])


def run_test(ready: Predictor, args: argparse.Namespace, *, width: int = 140) -> str:
    """Run `zsad test` behind the loading of the model; returns what it printed."""
    console = Console(file=io.StringIO(), width=width)
    assert evaluate.measure(ready, evaluate.read_samples(args), args, console) == 0
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_metrics_are_printed_and_written(ready: Predictor, mvtec: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "out.json", tmp_path / "out.md"

    printed = run_test(
        ready,
        parse("test", "--data", mvtec, "--layout", "mvtec", "--json", out, "--markdown", table),
    )

    metrics = json.loads(out.read_text())
    assert metrics["categories"]["metal_nut"]["image_AUROC"] == 1
    assert metrics["categories"]["metal_nut"]["n_normal"] == 3
    assert metrics["mean"]["pixel_AUROC"] > 0.99
    assert all(word in printed for word in ("I-AUROC", "P-F1max", "AUPRO", "metal_nut", "mean"))
    assert "| metal_nut | 3 | 3 | 100.0 |" in table.read_text()


def test_the_title_says_what_is_not_float32(ready: Predictor, mvtec: Path) -> None:
    words = ("test", "--data", mvtec, "--layout", "mvtec")

    assert "20 px, bf16" in run_test(ready, parse(*words, "--precision", "bf16"))
    assert "bf16" not in run_test(ready, parse(*words))


def test_the_table_fits_eighty_columns(ready: Predictor, mvtec: Path) -> None:
    printed = run_test(ready, parse("test", "--data", mvtec, "--layout", "mvtec"), width=80)

    assert "metal_nut" in printed
    assert "…" not in printed


def test_scores_over_a_whole_test_set_are_called_so(mvtec: Path, tmp_path: Path) -> None:
    class Stretched(BrightnessDetector):
        ranks_whole_sets = has_whole_set_scores = True

        def unscaled(self, images: Tensor, class_names: Sequence[str]) -> UnscaledOutputs:
            found = self.predict(images, class_names)
            return UnscaledOutputs(found.image_score[:, None], found.anomaly_map)

        def whole_set_scores(self, terms: Tensor) -> WholeSetScores:
            return WholeSetScores(terms[:, 0], 0.0, 1.0)

    ready = Predictor(Stretched(), (0, 0, 0), (1, 1, 1), torch.device("cpu"), "bright-1")
    table = tmp_path / "out.md"
    words = ("test", "--data", mvtec, "--layout", "mvtec", "--markdown", table)
    said = "SCORES DEPEND ON THE OTHER IMAGES"

    printed = run_test(ready, parse(*words))
    assert said in printed
    assert said in table.read_text()
    assert said not in run_test(ready, parse(*words, "--no-test-set-statistics"))


def test_test_set_statistics_that_a_method_lacks_are_refused(ready: Predictor, mvtec: Path) -> None:
    args = parse("test", "--data", mvtec, "--layout", "mvtec", "--test-set-statistics")

    with pytest.raises(ConfigError, match="bright-1 has no scores that use them"):
        run_test(ready, args)


def test_a_subsample_is_called_one_everywhere(
    ready: Predictor, mvtec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "out.md"
    args = parse(
        *("test", "--data", mvtec, "--layout", "mvtec", "--limit-per-category", "2"),
        *("--markdown", table),
    )

    printed = run_test(ready, args)

    assert "SUBSAMPLED to 2 images a category" in printed
    assert "SUBSAMPLED to 2 images a category" in table.read_text()
    assert "4 of 12 images" in capsys.readouterr().err


def test_a_sheet_shows_every_category(ready: Predictor, mvtec: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"

    run_test(ready, parse("test", "--data", mvtec, "--layout", "mvtec", "--sheet", sheet))

    with PIL.Image.open(sheet) as image:
        assert image.width > 1000
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 100


def test_progress_is_silent_when_not_a_terminal(
    ready: Predictor, mvtec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_test(ready, parse("test", "--data", mvtec, "--layout", "mvtec"))

    assert capsys.readouterr().err == ""


def test_a_damaged_data_set_is_a_configuration_error(ready: Predictor, mvtec: Path) -> None:
    (mvtec / "felt" / "test" / "good" / "1.png").write_bytes(b"gone")

    with pytest.raises(ConfigError, match=r"1\.png cannot be read"):
        run_test(ready, parse("test", "--data", mvtec, "--layout", "mvtec"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--data", "/nowhere", "--layout", "mvtec"], "/nowhere is not a folder"),
        (["--data", "SET", "--layout", "meta"], "meta.json cannot be read"),
        (["--data", "SET", "--layout", "mvtec", "--json", "SET"], "it is a folder"),
        (["--data", "SET", "--layout", "mvtec", "--checkpoint", "/nowhere"], "model /nowhere"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    mvtec: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    code = main(["test", *(word.replace("SET", str(mvtec)) for word in words)])

    error = capsys.readouterr().err
    assert code == 2
    assert complaint in error
    assert error.count("\n") == 1


def test_predict_writes_scores_and_heat_maps(
    ready: Predictor, tmp_path: Path, write_image: Write
) -> None:
    plain = write_image(tmp_path / "plain.png")
    defect = write_image(tmp_path / "defect.png", has_defect=True)
    out, heat = tmp_path / "out.json", tmp_path / "new" / "heat"
    args = parse(
        *("predict", plain, defect, "--category", "metal_nut", "--json", out, "--heatmaps", heat)
    )

    code = predict.predict_files(ready, args, Console(file=io.StringIO()))

    contents = json.loads(out.read_text())
    assert code == 0
    assert (contents["category"], contents["class_name"]) == ("metal_nut", "metal nut")
    assert [row["image"] for row in contents["images"]] == [str(plain), str(defect)]
    assert contents["images"][0]["pred_score"] < 0.3 < 0.8 < contents["images"][1]["pred_score"]
    with PIL.Image.open(heat / "defect.png") as overlay:
        assert overlay.size == (40, 40)


def test_a_bad_image_costs_itself_only(
    ready: Predictor,
    tmp_path: Path,
    write_image: Write,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, last = write_image(tmp_path / "a.png"), write_image(tmp_path / "c.png")
    bad = tmp_path / "b.png"
    bad.write_bytes(b"no picture")
    out = tmp_path / "out.json"
    args = parse("predict", first, bad, last, "--category", "felt", "--json", out)

    code = predict.predict_files(ready, args, Console(file=io.StringIO()))

    contents = json.loads(out.read_text())
    assert code == 1
    assert [row["image"] for row in contents["images"]] == [str(first), str(last)]
    assert [row["image"] for row in contents["errors"]] == [str(bad)]
    assert "1 of 3 images could not be scored" in capsys.readouterr().err


def test_only_bad_images_give_no_table_but_exit_code_1(ready: Predictor, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())

    code = predict.predict_files(
        ready, parse("predict", tmp_path / "no.png", "--category", "felt"), console
    )

    assert code == 1
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_images_of_the_same_name_get_heat_maps_of_their_own(
    ready: Predictor, tmp_path: Path, write_image: Write
) -> None:
    same = [write_image(tmp_path / folder / "0.png") for folder in "ab"]
    args = parse("predict", *same, "--category", "felt", "--heatmaps", tmp_path / "heat")

    predict.predict_files(ready, args, Console(file=io.StringIO()))

    assert sorted(p.name for p in (tmp_path / "heat").iterdir()) == ["0-2.png", "0.png"]
