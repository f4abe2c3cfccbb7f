from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from daemon.config.night_recipes import default_recipe
from daemon.config.training import TrainingConfig
from daemon.config_file import read_recipe

EXAMPLE = Path(__file__).parents[2] / "config" / "daemon.example.yaml"


def section(name: str) -> dict[str, object]:
    """A section of the example that is commented out."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    start = lines.index(f"# {name}:")
    block = []
    for line in lines[start:]:
        if not line.startswith("#"):
            break
        block.append(line[2:])
    found: dict[str, object] = yaml.safe_load("\n".join(block))[name]
    return found


def test_the_example_shows_every_key_with_its_default() -> None:
    shown = section("training")
    without_default = {"models_dir", "auxiliary", "unseen", "recipes"}

    config = TrainingConfig.model_validate(shown)

    assert set(shown) == set(TrainingConfig.model_fields)
    assert config.model_fields_set == set(TrainingConfig.model_fields)
    defaults = TrainingConfig(models_dir=config.models_dir)
    assert config.model_dump(exclude=without_default) == defaults.model_dump(
        exclude=without_default
    )
    for method, file in config.recipes.items():
        assert read_recipe(EXAMPLE.parent / file, method) == default_recipe(method)


@pytest.mark.parametrize(
    "wrong", [{"margin": 0}, {"recipes": {"winclip": "winclip.yaml"}}, {"windows": 1}]
)
def test_a_wrong_key_or_value_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainingConfig.model_validate({"models_dir": "/models"} | wrong)
