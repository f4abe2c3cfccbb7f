"""APRIL-GAN, zero-shot: one trained linear map a stage, a hand-written prompt ensemble.

Chen et al. 2023, "A Zero-/Few-Shot Anomaly Classification and Segmentation Method for CVPR 2023
VAND Workshop Challenge Tracks 1&2" (arXiv 2305.17382); code ByChelsea/VAND-APRIL-GAN (MIT).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.april_gan import AprilGANConfig
from zsad.detector import (
    MethodStage,
    Prediction,
    StageLosses,
    TrainableDetector,
    TrainingBatch,
)
from zsad.layers import linear_layer
from zsad.losses import dice_loss, focal_loss
from zsad.prompts import APRIL_GAN_ENSEMBLE, spelled_out
from zsad.scoring import state_logit, upsample, upsample_matrix
from zsad.text_anchors import TextAnchors

TEMPERATURE = 0.01


@dataclass(frozen=True, slots=True)
class AprilGANFeatures:
    """Features of a batch.

    Attributes:
        levels: [4, B, N, D] unit norm, after the trained maps.
        class_feature: [B, D] unit norm, CLIP's own.
    """

    levels: Tensor
    class_feature: Tensor


class AprilGAN(TrainableDetector):
    """APRIL-GAN on any backbone. The image score is untrained CLIP's.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.
        seed: Of the initial weights.
    """

    config: AprilGANConfig

    def __init__(self, backbone: Backbone, config: AprilGANConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.input_size = backbone.input_size
        generator = torch.Generator().manual_seed(seed)
        self.linears = nn.ModuleList(
            linear_layer(backbone.vision_width, backbone.embed_dim, generator)
            for _ in backbone.stage_blocks
        )
        self.anchors = TextAnchors(backbone, self._sentences)
        self._upsample: Tensor
        matrix = upsample_matrix(backbone.grid, backbone.input_size)
        self.register_buffer("_upsample", matrix, persistent=False)

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Mean of the four levels' maps; softmax(100 cos) of the class token."""
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            features = self.features(self.backbone.embed_images(images))
            anchors = self.anchors.unit(class_names)
            score = state_logit(features.class_feature[:, None], anchors, TEMPERATURE).sigmoid()
            maps = self.level_maps(features.levels, anchors).mean(0)
            return Prediction(image_score=score[:, 0], anomaly_map=maps)

    def features(self, embedded: Tensor) -> AprilGANFeatures:
        """From `backbone.embed_images`; the maps read the residual stream without `ln_post`."""
        with torch.no_grad():
            tokens = self.backbone.run_vision(embedded, self.backbone.stage_blocks)
            class_feature = self.backbone.project_vision(tokens.class_token)
        return AprilGANFeatures(
            levels=self._mapped([stage[:, 1:] for stage in tokens.stages]),
            class_feature=F.normalize(class_feature, dim=-1),
        )

    def level_maps(self, levels: Tensor, anchors: Tensor) -> Tensor:
        """Logits are upsampled first, then softmaxed: [4, B, N, D] -> [4, B, S, S] in [0, 1].

        Two classes: softmax is a sigmoid of the difference, one upsampling instead of two.
        """
        logits = state_logit(levels, anchors, TEMPERATURE)
        grid = self.backbone.grid
        return upsample(logits.reshape(*logits.shape[:2], grid, grid), self._upsample).sigmoid()

    def stages(self) -> Sequence[MethodStage]:
        """The released code's schedule."""
        return (
            MethodStage(
                name="linears",
                parameters=list(self.linears.parameters()),
                losses=self.losses,
                epochs=self.config.epochs,
                batch_size=8,
                learning_rate=lambda _: 1e-3,
                betas=(0.5, 0.999),
                frozen=self._patches,
                mosaic=self.config.mosaic,
            ),
        )

    def losses(self, batch: TrainingBatch) -> StageLosses:
        """Sum over levels of focal loss and Dice of the abnormal channel."""
        (patches,) = batch.frozen or self._patches(batch.embedded)
        levels = self._mapped(patches.unbind(1))
        maps = self.level_maps(levels, self.anchors.unit(batch.class_names))
        terms: dict[str, Tensor] = {}
        for block, level_map in zip(self.backbone.stage_blocks, maps, strict=True):
            terms[f"focal_{block}"] = focal_loss(level_map, batch.masks)
            terms[f"dice_abnormal_{block}"] = dice_loss(level_map, batch.masks)
        return StageLosses.of(terms)

    def _patches(self, embedded: Tensor) -> tuple[Tensor]:
        """What the trained maps read: [B, 4, N, Dv] of the residual stream, without gradient."""
        with torch.no_grad():
            tokens = self.backbone.run_vision(embedded, self.backbone.stage_blocks)
        return (torch.stack([stage[:, 1:] for stage in tokens.stages], dim=1),)

    def _mapped(self, stages: Sequence[Tensor]) -> Tensor:
        """Four [B, N, Dv] through their maps: [4, B, N, D], unit norm."""
        levels = [
            F.normalize(linear(stage), dim=-1)
            for linear, stage in zip(self.linears, stages, strict=True)
        ]
        return torch.stack(levels)

    def _sentences(self, class_name: str) -> tuple[list[str], list[str]]:
        name = spelled_out(class_name) if self.config.spell_out_names else class_name
        return APRIL_GAN_ENSEMBLE.sentences(name)
