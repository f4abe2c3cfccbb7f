"""From configuration to detector: the only place that knows every method."""

from typing import assert_never

from zsad.backbone import Backbone
from zsad.config.aa_clip import AAClipConfig
from zsad.config.method import MethodConfig
from zsad.detector import Detector
from zsad.methods.aa_clip import AAClip


def build_detector(method: MethodConfig, backbone: Backbone) -> Detector:
    """The detector that `method` describes, untrained, on `backbone`.

    Raises:
        ValueError: the method does not fit the backbone's depth.
    """
    match method:
        case AAClipConfig():
            return AAClip(backbone, method)
        case _:
            assert_never(method)
