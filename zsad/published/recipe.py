"""How a published row is made again: method, backbone, training sets.

Refuses to know what was printed and where data and weights are. Schedules (epochs, batches, rates)
are the methods' own published ones.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import Field, JsonValue, TypeAdapter

from zsad.config.backbone import BackboneConfig, PositionInterpolation
from zsad.config.method import MethodConfig
from zsad.config.section import Section
from zsad.config.self_prompting import SelfPromptingSection
from zsad.datasets.named import DatasetName


class Recipe(Section):
    """One method as a paper ran it.

    Attributes:
        name: Of its folders.
        method: `method` and the options that differ from the defaults.
        backbone: With the published weights' tag.
        trained_on: Data sets whose test splits it is trained on; empty for a method that is used
            as it is.
        instead: Other training sets, by the test set that needs them.
        shots: Normal and anomalous images of each category; None takes all.
        medical: Options for testing medical data sets.
        on_set: Options that follow from the first training set.
    """

    name: str
    method: dict[str, JsonValue]
    backbone: BackboneConfig
    trained_on: tuple[DatasetName, ...] = ()
    instead: dict[DatasetName, tuple[DatasetName, ...]] = Field(default_factory=dict)
    shots: int | None = None
    medical: dict[str, JsonValue] = Field(default_factory=dict)
    on_set: dict[DatasetName, dict[str, JsonValue]] = Field(default_factory=dict)

    def training_sets(self, test_set: DatasetName) -> tuple[DatasetName, ...]:
        """What the detector for a test set is trained on; never that set itself."""
        return self.instead.get(test_set, self.trained_on)

    def config(self, cnn_weights: Path | None, **options: JsonValue) -> MethodConfig:
        """The method's configuration.

        Args:
            cnn_weights: File of the CNN's ImageNet weights, for methods that read one.
            options: On top of `method`.

        Raises:
            ValidationError: an option is not one of the method's.
        """
        values: dict[str, JsonValue] = {**self.method, **options}
        if values.get("sp_features") == "cnn":
            values["sp_cnn_weights"] = str(cnn_weights or CNN_FILE)
        config: MethodConfig = TypeAdapter(MethodConfig).validate_python(values)
        return config


CNN_FILE = "resnet50.safetensors"
"""Stands in a plan for a file that is not there yet."""


def wants_cnn(config: MethodConfig) -> bool:
    """Whether the method reads a CNN's weights from a file."""
    return isinstance(config, SelfPromptingSection) and config.wants_cnn


def _large(activation: str, positions: PositionInterpolation) -> BackboneConfig:
    """ViT-L/14@336 at 518 with OpenAI's weights; `gelu` is how some released code runs them."""
    return BackboneConfig.model_validate(
        {
            "name": "ViT-L-14-336-quickgelu",
            "pretrained": "openai",
            "image_size": 518,
            "activation": activation,
            "position_interpolation": positions,
        }
    )


_PLUS = BackboneConfig(name="ViT-B-16-plus-240", pretrained="laion400m_e31", image_size=240)
_QUICK = _large("quick_gelu", "bicubic_antialias")
_GELU = _large("gelu", "bicubic_antialias")
_FAMILY = _large("quick_gelu", "bilinear")

_FROM_MVTEC: dict[str, object] = {
    "trained_on": ("mvtec_ad",),
    "instead": {"mvtec_ad": ("visa",)},
}
_FROM_VISA: dict[str, object] = {"trained_on": ("visa",), "instead": {"visa": ("mvtec_ad",)}}
_ADA_CLIP: dict[str, object] = {
    "trained_on": ("mvtec_ad", "cvc_colondb"),
    "instead": {
        "mvtec_ad": ("visa", "cvc_clinicdb"),
        "cvc_colondb": ("visa", "cvc_clinicdb"),
    },
}


def _recipe(
    name: str,
    method: str,
    backbone: BackboneConfig,
    sets: Mapping[str, object] | None = None,
    **options: object,
) -> Recipe:
    """Options named as in `Recipe` are the recipe's, the others the method's."""
    own = {key: options.pop(key) for key in ("shots", "medical", "on_set") if key in options}
    return Recipe.model_validate(
        {
            "name": name,
            "method": {"method": method, **options},
            "backbone": backbone,
            **(sets or {}),
            **own,
        }
    )


_MEDICAL = {"domain": "medical"}
_APRIL_GAN = {"mvtec_ad": {"epochs": 3, "mosaic": 0.2}, "visa": {"epochs": 15}}
# Published numbers come from released code where there is some, hence the preset `official`.
_ALL = (
    _recipe("afr_clip", "afr_clip", _QUICK, _FROM_VISA, sp_features="cnn"),
    _recipe("mfp_clip", "mfp_clip", _QUICK, _FROM_VISA, sp_features="cnn"),
    _recipe("fa_prompt", "fa_prompt", _FAMILY, _FROM_MVTEC, preset="official"),
    _recipe("aa_clip", "aa_clip", _GELU, _FROM_VISA, preset="official", medical=_MEDICAL),
    *(
        _recipe(
            f"aa_clip_{shots}",
            "aa_clip",
            _GELU,
            _FROM_VISA,
            preset="official",
            medical=_MEDICAL,
            shots=shots,
        )
        for shots in (2, 16, 64)
    ),
    _recipe("anomaly_clip", "anomaly_clip", _FAMILY, _FROM_MVTEC, preset="official"),
    _recipe("april_gan", "april_gan", _GELU, _FROM_MVTEC, preset="official", on_set=_APRIL_GAN),
    _recipe("april_gan_visa", "april_gan", _GELU, _FROM_VISA, preset="official", on_set=_APRIL_GAN),
    _recipe("ada_clip", "ada_clip", _large("gelu", "bicubic"), _ADA_CLIP, preset="official"),
    _recipe("mvfa_ad", "mvfa_ad", _GELU, _FROM_VISA, preset="official"),
    _recipe("coop", "coop", _QUICK, _FROM_MVTEC),
    _recipe("cocoop", "cocoop", _QUICK, _FROM_MVTEC),
    _recipe("clip", "clip_zero_shot", _QUICK),
    _recipe("clip_ac", "clip_zero_shot", _QUICK, prompts="clip_ac"),
    _recipe("winclip", "winclip", _PLUS, preset="official"),
    _recipe("anovl", "anovl", _PLUS, preset="official"),
)
RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _ALL})
"""By name; tables refer to them."""
