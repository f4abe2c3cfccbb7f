"""`zsad test --references N`: which images are shown, and that they are not tested."""

import json
import shutil
from pathlib import Path

import pytest

from daemon.cli.main import main
from zsad.data import Sample
from zsad.image_files import DataError
from zsad.reference_sets import hold_out_references


def samples(category: str, normal: int, anomalous: int, folder: str = "test") -> list[Sample]:
    return [
        Sample(
            image_path=Path(folder) / category / f"{number}.png",
            category=category,
            class_name=category,
            is_anomalous=number >= normal,
            mask_path=None,
            defect="good" if number < normal else "scratch",
        )
        for number in range(normal + anomalous)
    ]


def test_references_come_from_training_images_where_there_are_some() -> None:
    tested = samples("felt", 5, 2) + samples("nut", 9, 2)
    training = samples("felt", 20, 0, folder="train")

    references, left = hold_out_references(tested, training, 4, seed=0)

    assert {s.image_path.parts[0] for s in references["felt"]} == {"train"}
    assert {s.image_path.parts[0] for s in references["nut"]} == {"test"}
    assert [s.category for s in left] == ["felt"] * 7 + ["nut"] * 7


def test_no_reference_is_tested_or_anomalous() -> None:
    tested = samples("nut", 12, 5)

    references, left = hold_out_references(tested, [], 8, seed=3)

    shown = {s.image_path for s in references["nut"]}
    assert len(shown) == 8
    assert not any(s.is_anomalous for s in references["nut"])
    assert shown.isdisjoint(s.image_path for s in left)
    assert len(left) == 9


def test_the_draw_follows_the_seed() -> None:
    tested = samples("nut", 40, 1)

    draws = [hold_out_references(tested, [], 8, seed=seed)[0] for seed in (0, 0, 1)]

    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


@pytest.mark.parametrize("training", [0, 3])
def test_too_few_good_images_are_refused(training: int) -> None:
    with pytest.raises(DataError, match="nut: 4 references wanted, but only"):
        hold_out_references(
            samples("nut", 4, 1), samples("nut", training, 0, folder="train"), 4, seed=0
        )


def test_the_command_measures_with_references(mvtec: Path, tmp_path: Path) -> None:
    shutil.rmtree(mvtec / "felt" / "train")
    out, sheet = tmp_path / "out.json", tmp_path / "sheet.png"
    words = ["test", "--data", str(mvtec), "--layout", "mvtec", "--device", "cpu"]

    code = main([*words, "--references", "2", "--json", str(out), "--sheet", str(sheet)])

    categories = json.loads(out.read_text())["categories"]
    assert code == 0
    assert categories["felt"]["n_normal"] == 1  # two of three were shown
    assert categories["metal_nut"]["n_normal"] == 3
    assert categories["metal_nut"]["image_AUROC"] == 1
    assert sheet.is_file()


def test_more_references_than_good_images_are_refused(
    mvtec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["test", "--data", str(mvtec), "--layout", "mvtec", "--device", "cpu"]

    code = main([*words, "--references", "4"])

    assert code == 2
    assert "4 references wanted, but only 3 normal training images" in capsys.readouterr().err
