"""Nobody gets another activation or interpolation than the method's without having chosen it."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter

from zsad.backbone import Backbone
from zsad.build import build_detector
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.config.published import (
    has_openai_weights,
    published_backbone,
    with_published_positions,
)
from zsad.published.recipe import RECIPES, Recipe


def method_of(method: str, preset: str = "paper") -> MethodConfig:
    config: MethodConfig = TypeAdapter(MethodConfig).validate_python(
        {"method": method, "preset": preset}
    )
    return config


@pytest.fixture
def on_openai_weights(make_backbone: Callable[..., Backbone]) -> Callable[..., Backbone]:
    """The tiny network under the name of OpenAI's; its own activation is exact GELU."""

    def make(**options: Any) -> Backbone:
        return make_backbone(name="ViT-L-14-336", pretrained="openai", **options)

    return make


@pytest.mark.parametrize(
    ("method", "preset", "activation", "interpolation"),
    [
        ("aa_clip", "paper", "quick_gelu", "bicubic_antialias"),
        ("aa_clip", "official", "gelu", "bicubic_antialias"),
        ("april_gan", "official", "gelu", "bicubic_antialias"),
        ("ada_clip", "official", "gelu", "bicubic"),
        ("mvfa_ad", "official", "gelu", "bicubic_antialias"),
        ("fa_prompt", "official", "quick_gelu", "bilinear"),
        ("anomaly_clip", "paper", "quick_gelu", "bilinear"),
        ("afr_clip", "paper", "quick_gelu", "bicubic_antialias"),
        ("mfp_clip", "paper", "quick_gelu", "bicubic_antialias"),
        ("winclip", "official", "gelu", "bicubic_antialias"),
    ],
)
def test_settings_are_the_published_ones(
    method: str, preset: str, activation: str, interpolation: str
) -> None:
    found = published_backbone(method_of(method, preset))

    assert (found.activation, found.position_interpolation) == (activation, interpolation)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_recipes_of_published_tables_run_the_published_network(recipe: Recipe) -> None:
    published = published_backbone(recipe.config(None))

    assert recipe.backbone.position_interpolation == published.position_interpolation
    assert recipe.backbone.activation in (published.activation, "native")
    assert (recipe.backbone.activation == "native") != has_openai_weights(recipe.backbone)


@pytest.mark.parametrize(
    ("method", "preset"), [("fa_prompt", "official"), ("aa_clip", "paper"), ("mfp_clip", "paper")]
)
def test_the_activation_of_a_name_is_refused_where_it_is_not_the_methods(
    on_openai_weights: Callable[..., Backbone], method: str, preset: str
) -> None:
    sentence = (
        f"{method} with preset {preset} .* activation quick_gelu, but ViT-L-14-336 brings gelu"
    )

    with pytest.raises(ValueError, match=sentence):
        build_detector(method_of(method, preset), on_openai_weights())


def test_a_chosen_activation_is_taken_and_a_departure_is_logged(
    on_openai_weights: Callable[..., Backbone], caplog: pytest.LogCaptureFixture
) -> None:
    official = method_of("aa_clip", "official")

    with caplog.at_level(logging.WARNING, logger="zsad.build"):
        build_detector(official, on_openai_weights())  # the name brings what the code runs
        build_detector(official, on_openai_weights(activation="gelu"))
        assert not caplog.records
        found = build_detector(official, on_openai_weights(activation="quick_gelu"))

    assert found.backbone.activation == "quick_gelu"
    (record,) = caplog.records
    assert record.getMessage() == "the backbone's activation is not the published one"


def test_networks_with_other_weights_keep_their_own_activation(
    make_backbone: Callable[..., Backbone],
) -> None:
    for options in ({}, {"name": "ViT-L-14-336"}):
        found = build_detector(method_of("aa_clip"), make_backbone(**options))

        assert found.backbone.activation == "gelu"


def test_positions_follow_the_method_unless_they_were_given() -> None:
    method = method_of("fa_prompt")

    free = with_published_positions(BackboneConfig(name="x"), method)
    given = BackboneConfig(name="x", position_interpolation="bicubic")

    assert free.position_interpolation == "bilinear"
    assert with_published_positions(given, method) is given
