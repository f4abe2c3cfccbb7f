"""What can be configured of tiles and references, and what is refused with a reason."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from daemon.cli.main import main
from daemon.config.categories import CategoryConfig
from daemon.config_file import ConfigFileError, load_config
from daemon.inspection.loaded_model import tiling_of
from zsad.tiling import Tiling

LINE = """
line: L1
timezone: Europe/Berlin
run_dir: run
sources:
  - {{endpoint: "ipc:///tmp/frames", mode: bind}}
cameras: {{cam1: {{}}}}
categories:
  mesh:
    class_name: wire mesh
    {category}
storage: {{url: "sqlite:///zsad.db"}}
shifts: [{{name: day, start: "06:00"}}]
model: {model}
"""


def write(folder: Path, category: str, model: str = "{}") -> Path:
    path = folder / "daemon.yaml"
    path.write_text(LINE.format(category=category, model=model), encoding="utf-8")
    return path


def test_tiles_follow_from_the_smallest_defect_and_can_be_switched_off() -> None:
    mesh = CategoryConfig(class_name="wire mesh")

    assert tiling_of(mesh) is None
    assert tiling_of(mesh.model_copy(update={"min_defect_px": 12})) == Tiling(12, 64)
    never = CategoryConfig(class_name="wire mesh", min_defect_px=12, tiling="never")
    assert tiling_of(never) is None


def test_tiling_auto_without_a_smallest_defect_is_refused() -> None:
    with pytest.raises(ValidationError, match="add min_defect_px"):
        CategoryConfig(class_name="wire mesh", tiling="auto")


def test_tiles_of_a_frame_that_is_decoded_smaller_are_refused() -> None:
    with pytest.raises(ValidationError, match="throws away what min_defect_px asks to see"):
        CategoryConfig(class_name="wire mesh", min_defect_px=12, reduced_decode=True)


def test_one_reference_is_refused() -> None:
    with pytest.raises(ValidationError, match="1 cannot be compared with others"):
        CategoryConfig(class_name="wire mesh", references=1)


def test_what_changes_scores_changes_the_recipe_and_the_rest_does_not() -> None:
    recipes = [
        CategoryConfig.model_validate({"class_name": "wire mesh", **options}).recipe
        for options in (
            {},
            {"min_defect_px": 12},
            {"min_defect_px": 13},
            {"min_defect_px": 12, "tiling": "never"},
            {"reduced_decode": True},
        )
    ]
    same = CategoryConfig(class_name="wire mesh", max_tiles=8, references=4)

    assert len(set(recipes)) == len(recipes)
    assert same.recipe == recipes[0]


def test_references_need_a_folder_that_keeps_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"mesh\.references: needs model\.references_dir"):
        load_config(write(tmp_path, "references: 16"))

    config = load_config(write(tmp_path, "references: 16", "{references_dir: banks}"))

    assert config.model.references_dir == tmp_path / "banks"


def test_check_config_tells_tiles_and_references(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        tmp_path,
        "references: 16\n    min_defect_px: 20\n    learn_frames: 200",
        "{references_dir: banks}",
    )

    assert main(["check-config", str(path)]) == 0

    shown = capsys.readouterr().out
    assert "cut into at most 64 tiles to show defects of 20 px" in shown
    assert "16 reference frames; learns from the 200 frames after its references" in shown
