"""CoCoOp: CoOp's context tokens, shifted by what a small network makes of the image.

Zhou et al. 2022, "Conditional Prompt Learning for Vision-Language Models" (CVPR,
arXiv 2203.05557v2). Deviation: the two classes are states of an object, and the optimiser is the
one of AnomalyCLIP, as in the anomaly-detection papers that compare with CoCoOp. There is no loss
on maps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.clip_features import ordinary_features, two_state_prediction
from zsad.config.cocoop import CoCoOpConfig
from zsad.detector import (
    MethodStage,
    Prediction,
    StageLosses,
    TrainableDetector,
    TrainingBatch,
)
from zsad.layers import linear_layer
from zsad.learned_prompts import encode_prompts, learned_tokens, place_tokens, prompt_ids
from zsad.losses import two_state_cross_entropy
from zsad.prompts import state_words
from zsad.scoring import half_pixel_matrix

REDUCTION = 16
"""Width of the image feature over that of the meta-network's hidden layer (paper, section 3.2)."""


class CoCoOp(TrainableDetector):
    """CoCoOp on any backbone.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.
        seed: Of the initial weights.
    """

    config: CoCoOpConfig

    def __init__(self, backbone: Backbone, config: CoCoOpConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.input_size = backbone.input_size
        generator = torch.Generator().manual_seed(seed)
        D, width = backbone.embed_dim, backbone.text_width
        self.context = learned_tokens(config.context_tokens, width, generator=generator)
        self.meta_network = nn.Sequential(
            linear_layer(D, D // REDUCTION, generator),
            nn.ReLU(),
            linear_layer(D // REDUCTION, width, generator),
        )
        self._upsample: Tensor
        matrix = half_pixel_matrix(backbone.grid, backbone.input_size)
        self.register_buffer("_upsample", matrix, persistent=False)

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Softmax over the two states of class token and patch tokens, the latter upsampled."""
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            features = ordinary_features(self.backbone, self.backbone.embed_images(images))
            anchors = self.encode_anchors(features.class_feature, class_names)
            return two_state_prediction(features, anchors, self.config.temperature, self._upsample)

    def encode_anchors(self, class_feature: Tensor, class_names: Sequence[str]) -> Tensor:
        """The two states as each image sees them, all prompts in one call.

        Args:
            class_feature: [B, D] unit norm.
            class_names: B nouns.

        Returns:
            [B, 2, D] unit norm.
        """
        words = state_words(class_names, spell_out=self.config.spell_out_names)
        ids = prompt_ids(self.backbone, len(self.context), words).to(self.context.device)
        shifted = self.context + self.meta_network(class_feature)[:, None]  # [B, n, text_width]
        tokens = place_tokens(self.backbone, ids, shifted.repeat_interleave(2, dim=0))
        rows = encode_prompts(self.backbone, ids, tokens)  # [2 B, D]
        return F.normalize(rows, dim=-1).reshape(len(class_names), 2, -1)

    def stages(self) -> Sequence[MethodStage]:
        """One stage."""
        return (
            MethodStage(
                name="context",
                parameters=[self.context, *self.meta_network.parameters()],
                losses=self._losses_of_batch,
                epochs=15,
                batch_size=8,
                learning_rate=lambda _: 1e-3,
                betas=(0.5, 0.999),
                frozen=self._class_feature,
            ),
        )

    def _losses_of_batch(self, batch: TrainingBatch) -> StageLosses:
        (class_feature,) = batch.frozen or self._class_feature(batch.embedded)
        anchors = self.encode_anchors(class_feature, batch.class_names)
        loss = two_state_cross_entropy(
            class_feature, anchors, batch.labels, self.config.temperature
        )
        return StageLosses.of({"image": loss})

    def _class_feature(self, embedded: Tensor) -> tuple[Tensor]:
        """[B, D] unit norm, all that the loss reads of an image."""
        return (ordinary_features(self.backbone, embedded).class_feature,)
