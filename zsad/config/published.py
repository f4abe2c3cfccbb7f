"""How the backbone ran under each method where its published figures come from."""

from dataclasses import dataclass
from typing import Literal

from zsad.config.backbone import BackboneConfig, PositionInterpolation
from zsad.config.method import MethodConfig

_GELU_CODE = frozenset({"aa_clip", "april_gan", "ada_clip", "mvfa_ad"})
"""Methods whose released code runs OpenAI's weights with exact GELU."""
_INTERPOLATION: dict[str, PositionInterpolation] = {
    "fa_prompt": "bilinear",
    "anomaly_clip": "bilinear",
    "ada_clip": "bicubic",
}
_OTHER_WEIGHTS = frozenset({"winclip", "anovl"})
"""Methods published on LAION's weights, whose network has one activation only."""


@dataclass(frozen=True, slots=True)
class PublishedBackbone:
    """Settings of `BackboneConfig` under a method's published figures."""

    activation: Literal["quick_gelu", "gelu"]
    position_interpolation: PositionInterpolation


def preset_of(method: MethodConfig) -> str:
    """`paper` or `official`; a method without a choice follows its paper."""
    return getattr(method, "preset", "paper")


def published_backbone(method: MethodConfig) -> PublishedBackbone:
    """What the paper means, or with `preset="official"` what the released code runs.

    OpenAI trained its weights with QuickGELU; some released code copies them into a network with
    exact GELU.
    """
    exact = method.method in _GELU_CODE and preset_of(method) == "official"
    return PublishedBackbone(
        activation="gelu" if exact or method.method in _OTHER_WEIGHTS else "quick_gelu",
        position_interpolation=_INTERPOLATION.get(method.method, "bicubic_antialias"),
    )


def with_published_positions(backbone: BackboneConfig, method: MethodConfig) -> BackboneConfig:
    """`backbone` with the method's own interpolation of positions, unless one was given."""
    if "position_interpolation" in backbone.model_fields_set:
        return backbone
    mode = published_backbone(method).position_interpolation
    return backbone.model_copy(update={"position_interpolation": mode})


def has_openai_weights(backbone: BackboneConfig) -> bool:
    """Whether the network's activation is a known fact of its weights, not of its name."""
    only_openai = backbone.name.startswith("ViT-L-14-336") and backbone.pretrained is not None
    return backbone.pretrained == "openai" or only_openai
