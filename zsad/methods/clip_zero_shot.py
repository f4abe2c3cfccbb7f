"""Plain CLIP as an anomaly detector: two states against class token and last patch tokens.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"
(arXiv 2103.00020); used as a baseline since WinCLIP. Patch tokens of the ordinary attention answer
to the background, so a pixel AUROC below one half is what this baseline is known for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from zsad.backbone import Backbone
from zsad.clip_features import ordinary_features, two_state_prediction
from zsad.config.clip_zero_shot import CLIPZeroShotConfig
from zsad.detector import Detector, Prediction
from zsad.prompts import zero_shot_sentences
from zsad.scoring import half_pixel_matrix
from zsad.text_anchors import TextAnchors


class CLIPZeroShot(Detector):
    """CLIP and CLIP-AC on any backbone; nothing is trained.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.
    """

    config: CLIPZeroShotConfig

    def __init__(self, backbone: Backbone, config: CLIPZeroShotConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.input_size = backbone.input_size
        self.anchors = TextAnchors(backbone, lambda name: zero_shot_sentences(config, name))
        self._upsample: Tensor
        matrix = half_pixel_matrix(backbone.grid, backbone.input_size)
        self.register_buffer("_upsample", matrix, persistent=False)

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """softmax(cos / temperature) of class token and patch tokens, the latter upsampled."""
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            features = ordinary_features(self.backbone, self.backbone.embed_images(images))
            anchors = self.anchors.unit(class_names)
            return two_state_prediction(features, anchors, self.config.temperature, self._upsample)
