import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from zsad.config.aa_clip import AAClipConfig
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.prompts import class_phrase, state_sentences


def test_a_class_has_six_normal_and_ten_abnormal_sentences() -> None:
    normal, abnormal = state_sentences("screw")

    assert (len(set(normal)), len(set(abnormal))) == (6, 10)
    assert "screw." in normal
    assert "a photo of a screw with flaw." in abnormal


@pytest.mark.parametrize(
    ("category", "phrase"),
    [
        ("metal_nut", "metal nut which has four notched edges"),
        ("steel_rope", "steel rope"),
        ("", "object"),
    ],
)
def test_phrase_is_the_published_one_then_the_name_then_object(category: str, phrase: str) -> None:
    assert class_phrase(category) == phrase


def test_options_that_are_not_given_follow_the_preset() -> None:
    official = AAClipConfig.model_validate({"preset": "official", "disentangle": "mean_of_squares"})

    assert AAClipConfig().stage1_reference == "dual_stream"
    assert official.stage1_reference == "batch_axis"
    assert official.text_projector == "fresh"
    assert official.disentangle == "mean_of_squares"


def test_a_configuration_survives_json() -> None:
    config = AAClipConfig(preset="official", test_map="probability")

    again = TypeAdapter(MethodConfig).validate_json(config.model_dump_json())

    assert again == config


def test_misspelt_keys_and_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        AAClipConfig.model_validate({"residual_ration": 0.1})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        AAClipConfig(residual_ratio=1.5)
    with pytest.raises(ValidationError, match=r"'winclap' found .* does not match any of"):
        TypeAdapter(MethodConfig).validate_python({"method": "winclap"})
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        BackboneConfig.model_validate({"name": "x", "weights": "y"})


def test_configuration_needs_no_torch() -> None:
    code = "import sys, zsad.config.method; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
