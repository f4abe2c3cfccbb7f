import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from zsad.config.aa_clip import AAClipConfig
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.prompts import CLASS_PHRASES, class_phrase, published_name, state_sentences


def test_a_class_has_six_normal_and_ten_abnormal_sentences() -> None:
    normal, abnormal = state_sentences("screw")

    assert (len(set(normal)), len(set(abnormal))) == (6, 10)
    assert "screw." in normal
    assert "a photo of a screw with flaw." in abnormal


@pytest.mark.parametrize(
    ("dataset", "category", "phrase"),
    [
        ("mvtec_ad", "metal_nut", "metal nut which has four notched edges"),
        ("visa", "macaroni2", "scattered yellow macaroni"),
        ("visa", "capsules", "capsules"),
        ("bmad_brain", "brain", "scan"),
        ("kvasir", "kvasir", "colon endoscopy image"),
        ("mpdd", "metal_plate", "metal plate"),
        ("", "bottle", "bottle"),
        ("visa", "metal_nut", "metal nut"),
        ("btad", "", "object"),
    ],
)
def test_phrase_is_that_of_the_data_set_then_the_name_then_object(
    dataset: str, category: str, phrase: str
) -> None:
    assert class_phrase(dataset, category) == phrase


def test_every_category_of_both_industrial_sets_has_its_phrase() -> None:
    counts = {name: len(phrases) for name, phrases in CLASS_PHRASES.items()}

    assert counts == {"mvtec_ad": 15, "visa": 12}


@pytest.mark.parametrize(
    ("method", "preset", "dataset", "wanted"),
    [
        ("aa_clip", "paper", "mvtec_ad", "metal nut which has four notched edges"),
        ("aa_clip", "official", "", "metal nut"),
        ("april_gan", "official", "mvtec_ad", "metal_nut"),
        ("ada_clip", "official", "", "metal_nut"),
        ("winclip", "official", "visa", "metal_nut"),
        ("april_gan", "paper", "mvtec_ad", "metal nut"),
        ("mfp_clip", "paper", "mvtec_ad", "metal nut"),
        ("fa_prompt", "official", "mvtec_ad", "metal nut"),
    ],
)
def test_a_name_is_what_the_methods_own_evaluation_writes(
    method: str, preset: str, dataset: str, wanted: str
) -> None:
    found = published_name(
        method, preset, dataset=dataset, category="metal_nut", class_name="metal nut"
    )

    assert found == wanted


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
