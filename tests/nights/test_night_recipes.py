"""How a night trains each method: what the files in config/ say is what counts."""

from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import yaml
from night_line import NightLine
from pydantic import TypeAdapter

from daemon.config.night_recipes import (
    AAClipRecipe,
    CoOpRecipe,
    LinearProbeRecipe,
    NightMethod,
    default_recipe,
)
from daemon.config_file import ConfigFileError, read_config, read_recipe
from daemon.training.candidate import recipe_for
from zsad.backbone import Backbone
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.detector import Detector, TrainableDetector
from zsad.outline import outline_backbone, outline_detector

FILES = Path(__file__).parents[2] / "config" / "nights"
METHODS: tuple[NightMethod, ...] = get_args(NightMethod)
UNTRAINED = ("anovl", "clip_zero_shot", "linear_probe", "winclip")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return outline_backbone(BackboneConfig(name="ViT-B-32-quickgelu", image_size=224))


def fresh(method: str, backbone: Backbone) -> Detector:
    config: MethodConfig = TypeAdapter(MethodConfig).validate_python({"method": method})
    return outline_detector(config, backbone)


def test_every_method_that_a_night_trains_has_a_file() -> None:
    assert {file.name for file in FILES.iterdir()} == {f"{method}.yaml" for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_a_file_explains_every_key_and_shows_what_counts_without_it(method: NightMethod) -> None:
    text = (FILES / f"{method}.yaml").read_text(encoding="utf-8")

    recipe = read_recipe(FILES / f"{method}.yaml", method)

    assert recipe == default_recipe(method)
    assert keys_of(yaml.safe_load(text)) == keys_of(recipe.model_dump())
    lines = text.splitlines()
    for before, line in pairwise(lines):
        if ":" in line and "#" not in line and not line.startswith("method:"):
            assert before.lstrip().startswith("# "), f"{line} is not explained"


def keys_of(value: object) -> set[str]:
    """Of a mapping and the mappings in it."""
    found: set[str] = set()
    for key, inner in value.items() if isinstance(value, dict) else ():
        found |= {key, *(f"{key}.{below}" for below in keys_of(inner))}
    return found


@pytest.mark.parametrize("method", [method for method in METHODS if method != "linear_probe"])
def test_a_night_trains_all_stages_more_gently_than_published(
    method: NightMethod, backbone: Backbone
) -> None:
    detector, recipe = fresh(method, backbone), default_recipe(method)
    assert isinstance(detector, TrainableDetector)
    assert not isinstance(recipe, LinearProbeRecipe)

    for stage, tuning in zip(detector.stages(), recipe.stages, strict=True):
        assert 0.1 * stage.learning_rate(0) <= tuning.learning_rate < stage.learning_rate(0)


@pytest.mark.parametrize("method", [*UNTRAINED, *METHODS])
def test_a_model_is_trained_by_the_recipe_of_its_method(method: str, backbone: Backbone) -> None:
    found = recipe_for(fresh(method, backbone), {})

    assert found.method == ("linear_probe" if method in UNTRAINED else method)


def test_a_line_trains_by_its_own_file_beside_the_configuration(
    tmp_path: Path, migrated_file: Path, backbone: Backbone
) -> None:
    mine = {"coop": {"steps": 7}, "aa_clip": {"stage2": {"learning_rate": "1e-5"}}}
    line = NightLine(tmp_path / "line", {"p": "plate"}, database=migrated_file, recipes=mine)
    assert line.config.training is not None
    files = line.config.training.recipes

    assert files["coop"] == tmp_path / "line" / "nights" / "coop.yaml"
    assert recipe_for(fresh("coop", backbone), files) == CoOpRecipe(steps=7)
    tuned = recipe_for(fresh("aa_clip", backbone), files)
    assert isinstance(tuned, AAClipRecipe)
    assert (tuned.stage2.learning_rate, tuned.stage2.steps) == (1e-5, 200)
    assert tuned.stage1 == AAClipRecipe().stage1
    assert recipe_for(fresh("cocoop", backbone), files) == default_recipe("cocoop")
    line.close()


def test_all_that_is_wrong_in_recipes_is_told_with_its_place(
    tmp_path: Path, migrated_file: Path
) -> None:
    recipes: dict[str, dict[str, object]] = {"coop": {}, "fa_prompt": {}, "mvfa_ad": {}}
    line = NightLine(tmp_path / "line", {"p": "plate"}, database=migrated_file, recipes=recipes)
    line.close()
    folder = tmp_path / "line" / "nights"
    (folder / "coop.yaml").write_text("method: cocoop\n\nstep: 7\nsteps: 0\n")
    (folder / "fa_prompt.yaml").unlink()
    (folder / "mvfa_ad.yaml").write_text("image_penalty: 0.5\n")

    with pytest.raises(ConfigFileError) as refused:
        read_config(line.file)

    told = {
        (Path(problem.file).name, problem.line, problem.key): problem.message
        for problem in refused.value.problems
    }
    assert told["coop.yaml", 1, "method"] == "'cocoop' must be 'coop'"
    assert told["coop.yaml", 3, "step"] == "unknown key; did you mean 'steps'?"
    assert told["coop.yaml", 4, "steps"].startswith("'0' must be greater than or equal to 1")
    assert told["mvfa_ad.yaml", 1, "image_penalty"].startswith("unknown key; known here:")
    (missing,) = (text for place, text in told.items() if place[0] == "daemon.yaml")
    assert f"there is no file {folder / 'fa_prompt.yaml'}" in missing
    assert {place[2] for place in told if place[0] == "daemon.yaml"} == {
        "training.recipes.fa_prompt"
    }
