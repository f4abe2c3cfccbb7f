"""MVFA-AD, zero-shot: two bottleneck adapters a stage, one for the map and one for the image.

Huang et al. 2024, "Adapting Visual-Language Models for Generalizable Anomaly Detection in Medical
Images" (arXiv 2403.12570); code MediaBrain-SJTU/MVFA-AD (MIT).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.mvfa_ad import MVFAConfig
from zsad.detector import (
    MethodStage,
    Prediction,
    StageLosses,
    TrainableDetector,
    TrainingBatch,
)
from zsad.layers import Projector, uniform_weight
from zsad.losses import dice_loss, focal_loss
from zsad.prompts import APRIL_GAN_ENSEMBLE, spelled_out
from zsad.scoring import state_logit, upsample, upsample_matrix
from zsad.text_anchors import TextAnchors

TEMPERATURE = 0.01


@dataclass(frozen=True, slots=True)
class MVFAFeatures:
    """Features of a batch.

    Attributes:
        seg: [4, B, N, D] patch features for the map, any norm.
        det: [4, B, N, D] patch features for the image score, any norm.
        class_token: [B, Dv] behind the last adapter; no score uses it.
    """

    seg: Tensor
    det: Tensor
    class_token: Tensor


class Bottleneck(nn.Module):
    """Two linear maps without bias, each with LeakyReLU: down to the feature, up to the stream."""

    def __init__(self, width: int, feature_width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = Projector(uniform_weight(feature_width, width, generator), leaky=True)
        self.up = Projector(uniform_weight(width, feature_width, generator), leaky=True)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, width] -> [B, T, feature_width] and [B, T, width]."""
        feature = self.down(tokens)
        return feature, self.up(feature)


class MVFA(TrainableDetector):
    """MVFA-AD on any backbone.

    The upward maps of the last stage reach only the class token, which no score uses: they are
    part of the published parameter count and never get a gradient.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.
        seed: Of the initial weights.
    """

    config: MVFAConfig

    def __init__(self, backbone: Backbone, config: MVFAConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.input_size = backbone.input_size
        generator = torch.Generator().manual_seed(seed)
        Dv, D = backbone.vision_width, backbone.embed_dim
        self.seg, self.det = (
            nn.ModuleList(Bottleneck(Dv, D, generator) for _ in backbone.stage_blocks)
            for _ in range(2)
        )
        self.anchors = TextAnchors(backbone, self._sentences)
        self._upsample: Tensor
        matrix = upsample_matrix(backbone.grid, backbone.input_size)
        self.register_buffer("_upsample", matrix, persistent=False)

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Means over the levels of map and of patch probability."""
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            features = self.features(self.backbone.embed_images(images))
            anchors = self.anchors.unit(class_names)
            return Prediction(
                image_score=self.level_scores(features, anchors).mean(0),
                anomaly_map=self.level_maps(features, anchors).mean(0),
            )

    def features(self, embedded: Tensor) -> MVFAFeatures:
        """From `backbone.embed_images`, [B, 1 + N, Dv]."""
        share = self.config.adapter_weight
        found: list[tuple[Tensor, Tensor]] = []

        def adapt(index: int, tokens: Tensor) -> Tensor:
            if index not in self.backbone.stage_blocks:
                return tokens
            level = len(found)
            seg, seg_up = self.seg[level](tokens)
            det, det_up = self.det[level](tokens)
            found.append((seg[:, 1:], det[:, 1:]))
            mixed: Tensor = (1 - 2 * share) * tokens + share * seg_up + share * det_up
            return mixed

        tokens = self.backbone.run_vision(embedded, (), after_block=adapt)
        seg, det = (torch.stack(levels) for levels in zip(*found, strict=True))
        return MVFAFeatures(seg=seg, det=det, class_token=tokens.class_token)

    def level_maps(self, features: MVFAFeatures, anchors: Tensor) -> Tensor:
        """Logits are upsampled first, then softmaxed: [4, B, S, S] in [0, 1]."""
        logits = state_logit(F.normalize(features.seg, dim=-1), anchors, TEMPERATURE)
        grid = self.backbone.grid
        return upsample(logits.reshape(*logits.shape[:2], grid, grid), self._upsample).sigmoid()

    def level_scores(self, features: MVFAFeatures, anchors: Tensor) -> Tensor:
        """Mean over the patches of their abnormal probability: [4, B] in [0, 1]."""
        logits = state_logit(F.normalize(features.det, dim=-1), anchors, TEMPERATURE)
        return logits.sigmoid().mean(dim=-1)

    def stages(self) -> Sequence[MethodStage]:
        """The released code's schedule."""
        return (
            MethodStage(
                name="adapters",
                parameters=[*self.seg.parameters(), *self.det.parameters()],
                losses=self.losses,
                epochs=50,
                batch_size=1,
                learning_rate=lambda _: 1e-4,
                betas=(0.5, 0.999),
            ),
        )

    def losses(self, batch: TrainingBatch) -> StageLosses:
        """Focal loss and Dice of the abnormal channel, and an image loss, summed over levels.

        The image loss applies a sigmoid to what is a probability already, as the released code.
        """
        features = self.features(batch.embedded)
        anchors = self.anchors.unit(batch.class_names)
        maps, scores = self.level_maps(features, anchors), self.level_scores(features, anchors)
        terms: dict[str, Tensor] = {}
        for block, level_map, score in zip(self.backbone.stage_blocks, maps, scores, strict=True):
            terms[f"focal_{block}"] = focal_loss(level_map, batch.masks)
            terms[f"dice_abnormal_{block}"] = dice_loss(level_map, batch.masks)
            target = batch.labels.to(score.dtype)
            terms[f"bce_{block}"] = F.binary_cross_entropy_with_logits(score, target)
        return StageLosses.of(terms)

    def _sentences(self, class_name: str) -> tuple[list[str], list[str]]:
        name = spelled_out(class_name) if self.config.spell_out_names else class_name
        return APRIL_GAN_ENSEMBLE.sentences(name)
