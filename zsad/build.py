"""From configuration to detector: the only place that knows every method."""

import logging
from typing import assert_never

from zsad.backbone import Backbone, BackboneError
from zsad.config.aa_clip import AAClipConfig
from zsad.config.ada_clip import AdaCLIPConfig
from zsad.config.afr_clip import AFRClipConfig
from zsad.config.anomaly_clip import AnomalyCLIPConfig
from zsad.config.anovl import AnoVLConfig
from zsad.config.april_gan import AprilGANConfig
from zsad.config.clip_zero_shot import CLIPZeroShotConfig
from zsad.config.cocoop import CoCoOpConfig
from zsad.config.coop import CoOpConfig
from zsad.config.fa_prompt import FAPromptConfig
from zsad.config.linear_probe import LinearProbeConfig
from zsad.config.method import MethodConfig
from zsad.config.mfp_clip import MFPClipConfig
from zsad.config.mvfa_ad import MVFAConfig
from zsad.config.published import has_openai_weights, preset_of, published_backbone
from zsad.config.winclip import WinCLIPConfig
from zsad.detector import Detector
from zsad.frozen_cnn import load_frozen_cnn
from zsad.methods.aa_clip import AAClip
from zsad.methods.ada_clip import AdaCLIP
from zsad.methods.afr_clip import AFRClip
from zsad.methods.anomaly_clip import AnomalyCLIP
from zsad.methods.anovl import AnoVL
from zsad.methods.april_gan import AprilGAN
from zsad.methods.clip_zero_shot import CLIPZeroShot
from zsad.methods.cocoop import CoCoOp
from zsad.methods.coop import CoOp
from zsad.methods.fa_prompt import FAPrompt
from zsad.methods.linear_probe import LinearProbe
from zsad.methods.mfp_clip import MFPClip
from zsad.methods.mvfa_ad import MVFA
from zsad.methods.winclip import WinCLIP

logger = logging.getLogger(__name__)


def build_detector(  # noqa: C901  # one arm a method
    method: MethodConfig, backbone: Backbone, *, seed: int = 0
) -> Detector:
    """The detector that `method` describes, untrained, on `backbone`.

    Args:
        seed: Of the initial values of what the method trains.

    Raises:
        BackboneError: nobody chose the activation of OpenAI's weights, and the one that comes with
            the network's name is not the method's.
        ValueError: the method does not fit the backbone's depth.
    """
    _refuse_unchosen_activation(method, backbone)
    match method:
        case AAClipConfig():
            return AAClip(backbone, method, seed=seed)
        case AFRClipConfig():
            cnn = load_frozen_cnn(method, backbone.mean, backbone.std)
            return AFRClip(backbone, method, cnn, seed=seed)
        case MFPClipConfig():
            cnn = load_frozen_cnn(method, backbone.mean, backbone.std)
            return MFPClip(backbone, method, cnn, seed=seed)
        case AnomalyCLIPConfig():
            return AnomalyCLIP(backbone, method, seed=seed)
        case AdaCLIPConfig():
            return AdaCLIP(backbone, method, seed=seed)
        case AnoVLConfig():
            return AnoVL(backbone, method)
        case AprilGANConfig():
            return AprilGAN(backbone, method, seed=seed)
        case CLIPZeroShotConfig():
            return CLIPZeroShot(backbone, method)
        case CoCoOpConfig():
            return CoCoOp(backbone, method, seed=seed)
        case CoOpConfig():
            return CoOp(backbone, method, seed=seed)
        case FAPromptConfig():
            return FAPrompt(backbone, method, seed=seed)
        case LinearProbeConfig():
            return LinearProbe(backbone, method)
        case MVFAConfig():
            return MVFA(backbone, method, seed=seed)
        case WinCLIPConfig():
            return WinCLIP(backbone, method)
        case _:
            assert_never(method)


def _refuse_unchosen_activation(method: MethodConfig, backbone: Backbone) -> None:
    """An open_clip name decides the activation silently; a wrong one costs accuracy silently."""
    config, published = backbone.config, published_backbone(method)
    if not has_openai_weights(config) or backbone.activation == published.activation:
        return
    if config.activation == "native":
        raise BackboneError(
            f"{method.method} with preset {preset_of(method)} is published with activation "
            f"{published.activation}, but {config.name} brings {backbone.activation}: set the "
            f"backbone's activation to {published.activation}, or to {backbone.activation} to "
            "depart from it on purpose"
        )
    logger.warning(
        "the backbone's activation is not the published one",
        extra={
            "method": method.method,
            "preset": preset_of(method),
            "published": published.activation,
            "activation": backbone.activation,
        },
    )
