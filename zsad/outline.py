"""Networks before any weights: what a method would train and how long, and how fast it runs.

Nothing is read but a model's configuration. An outline has shapes but no values: it is built on
torch's meta device.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from open_clip.tokenizer import SimpleTokenizer

from zsad.backbone import Backbone, BackboneError
from zsad.backbone_loading import COMPACT_PREFIX, load_backbone
from zsad.build import build_detector
from zsad.config.afr_clip import AFRClipConfig
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.config.mfp_clip import MFPClipConfig
from zsad.detector import Detector
from zsad.frozen_cnn import FrozenCnn
from zsad.methods.afr_clip import AFRClip
from zsad.methods.mfp_clip import MFPClip

_LOCAL_PREFIX = "local-dir:"
_NO_MEAN, _NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def outline_backbone(config: BackboneConfig) -> Backbone:
    """The backbone that a configuration names, without its weights.

    An embedded backbone is small and comes with them.

    Raises:
        BackboneError: its shape is not known here, or does not fit the image size.
    """
    with torch.device("meta"):
        return random_backbone(config)


def random_backbone(config: BackboneConfig) -> Backbone:
    """The backbone that a configuration names with random weights: for timing, nothing else.

    An embedded backbone is small and comes with its own.

    Raises:
        BackboneError: its shape is not known here, or does not fit the image size.
    """
    if config.name.startswith(COMPACT_PREFIX):
        with torch.device("cpu"):
            return load_backbone(config)
    shape = _shape(config.name)
    try:
        clip = open_clip.CLIP(**shape)
    except TypeError as error:  # another class's configuration
        raise BackboneError(f"{config.name} is no plain CLIP: {error}") from error
    return Backbone(clip, config, _NO_MEAN, _NO_STD, SimpleTokenizer())


def outline_detector(method: MethodConfig, backbone: Backbone) -> Detector:
    """The detector that `build_detector` would make, on an outlined backbone.

    Raises:
        ValueError: the method does not fit the backbone.
    """
    with torch.device("meta"):
        match method:
            case AFRClipConfig():
                return AFRClip(backbone, method, _outline_cnn(method))
            case MFPClipConfig():
                return MFPClip(backbone, method, _outline_cnn(method))
            case _:
                return build_detector(method, backbone)


def _outline_cnn(options: AFRClipConfig | MFPClipConfig) -> FrozenCnn | None:
    if not options.wants_cnn:
        return None
    return FrozenCnn(
        timm.create_model(options.sp_cnn, pretrained=False, num_classes=0),
        level=options.sp_cnn_level,
        size=options.sp_cnn_size,
        mean=_NO_MEAN,
        std=_NO_STD,
        sha256="0" * 64,
    )


def _shape(name: str) -> dict[str, Any]:  # open_clip's own keyword arguments
    if name.startswith(_LOCAL_PREFIX):
        path = Path(name.removeprefix(_LOCAL_PREFIX)) / "open_clip_config.json"
        try:
            shape: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        except (OSError, ValueError, KeyError) as error:
            raise BackboneError(f"{name}: {path} is not an open_clip configuration") from error
        return shape
    found: dict[str, Any] | None = open_clip.get_model_config(name)
    if found is None:
        raise BackboneError(f"open_clip knows no model {name}: its shape cannot be told")
    return found
