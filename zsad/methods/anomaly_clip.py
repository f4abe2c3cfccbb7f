"""AnomalyCLIP: one normal and one abnormal learned prompt for every kind of object.

Zhou et al. 2024, "AnomalyCLIP: Object-agnostic Prompt Learning for Zero-shot Anomaly Detection"
(ICLR); where the released code (repository zqhang/AnomalyCLIP) differs from the text, an option
of `AnomalyCLIPConfig` chooses. The code's eight linear layers that are never called are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.clip_features import FrozenFeatures, dual_stream_features
from zsad.config.anomaly_clip import AnomalyCLIPConfig
from zsad.detector import (
    MethodStage,
    Prediction,
    StageLosses,
    TrainableDetector,
    TrainingBatch,
)
from zsad.learned_prompts import (
    deep_token_count,
    encode_prompts,
    learned_tokens,
    overwrite_deep,
    parameter_state,
    place_tokens,
    prompt_ids,
)
from zsad.losses import segmentation_terms, two_state_cross_entropy
from zsad.scoring import half_pixel_matrix, state_logit, upsample

WORDS = ("object.", "damaged object.")
"""After the learned tokens; the full stop is a token."""


@dataclass(frozen=True, slots=True)
class RawOutputs:
    """What an evaluation may rank.

    Attributes:
        grids: [B, L, g, g] abnormal probability of every patch at each level.
        summed_map: [B, S, S] smoothed sum over the levels, in [0, L].
        image_score: [B] in [0, 1], of the class token alone.
    """

    grids: Tensor
    summed_map: Tensor
    image_score: Tensor


class AnomalyCLIP(TrainableDetector):
    """AnomalyCLIP on any backbone.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.
        seed: Of the initial weights.
    """

    config: AnomalyCLIPConfig

    def __init__(self, backbone: Backbone, config: AnomalyCLIPConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.input_size = backbone.input_size
        generator = torch.Generator().manual_seed(seed)
        E, width = config.prompt_tokens, backbone.text_width
        n_deep = deep_token_count(backbone.n_text_blocks) if config.deep_tokens else 0

        self.normal_tokens = learned_tokens(E, width, generator=generator)
        self.abnormal_tokens = learned_tokens(E, width, generator=generator)
        self.deep_tokens = nn.ParameterList(
            learned_tokens(config.deep_tokens, width, generator=generator) for _ in range(n_deep)
        )
        grid, side = backbone.grid, backbone.input_size
        self._prompt_ids: Tensor
        self._upsample: Tensor
        self._smooth_upsample: Tensor
        self.register_buffer("_prompt_ids", prompt_ids(backbone, E, WORDS), persistent=False)
        self.register_buffer("_upsample", half_pixel_matrix(grid, side), persistent=False)
        smooth = half_pixel_matrix(grid, side, config.smoothing_sigma)
        self.register_buffer("_smooth_upsample", smooth, persistent=False)
        self._cached_texts: Tensor | None = None
        self._cache_key: tuple[object, ...] = ()

    # ---------------------------------------------------------------- inference

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Streaming score and map; the class names make no difference.

        With several levels the map is their mean, so that it stays in [0, 1].
        """
        raw = self.raw_outputs(images, class_names)
        mean_map = raw.summed_map / raw.grids.shape[1]
        # rounding may leave the interval by one bit
        return Prediction(image_score=raw.image_score, anomaly_map=mean_map.clamp(0, 1))

    def raw_outputs(self, images: Tensor, class_names: Sequence[str]) -> RawOutputs:
        """Scores as the released code gives them."""
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            features = self.frozen_features(self.backbone.embed_images(images))
            return self.outputs_of(features, self.texts())

    def outputs_of(self, features: FrozenFeatures, texts: Tensor) -> RawOutputs:
        """Scores from frozen features and both texts [2, D]."""
        grids = self._grids(features.levels, texts)
        return RawOutputs(
            grids=grids.transpose(0, 1),
            summed_map=upsample(grids.sum(0), self._smooth_upsample),
            image_score=self._image_probability(features.class_feature, texts),
        )

    def texts(self) -> Tensor:
        """Unit-norm embeddings of both prompts, [2, D], detached; cached until training."""
        key = parameter_state(self._listed_parameters())
        if self._cached_texts is None or key != self._cache_key:
            # kept, so in float32 also while the backbone runs in 16 bits
            with self.backbone.executing(), torch.no_grad():
                self._cached_texts = F.normalize(self.encode_texts(), dim=-1)
            self._cache_key = key
        return self._cached_texts

    # ---------------------------------------------------------------- encoders

    def encode_texts(self) -> Tensor:
        """Embeddings of the normal and the abnormal prompt: [2, D], not unit length."""
        learned = torch.stack([self.normal_tokens, self.abnormal_tokens])
        tokens = place_tokens(self.backbone, self._prompt_ids, learned)
        deep = overwrite_deep(self.deep_tokens, round_fp16=self.config.round_deep_fp16)
        return encode_prompts(self.backbone, self._prompt_ids, tokens, deep)

    def frozen_features(self, embedded: Tensor) -> FrozenFeatures:
        """Features that no training changes: [B, 1 + N, Dv] from `Backbone.embed_images`."""
        blocks = self.backbone.stage_blocks
        chosen = blocks if self.config.levels == "all" else blocks[-1:]
        return dual_stream_features(
            self.backbone, embedded, chosen, cls_ln_post=self.config.cls_ln_post
        )

    # ---------------------------------------------------------------- training

    def stages(self) -> Sequence[MethodStage]:
        """One stage with the released code's schedule."""
        return (
            MethodStage(
                name="prompts",
                parameters=self._listed_parameters(),
                losses=self._losses_of_batch,
                epochs=15,
                batch_size=8,
                learning_rate=lambda _: 1e-3,
                betas=(0.5, 0.999),
                frozen=lambda embedded: self.frozen_features(embedded).rows(),
            ),
        )

    def losses_of(self, features: FrozenFeatures, masks: Tensor, labels: Tensor) -> StageLosses:
        """Image cross-entropy plus lambda times focal and Dice losses of every level.

        Args:
            features: Of the batch, from `frozen_features`.
            masks: [B, S, S] float in {0, 1}.
            labels: [B] int64, 1 is anomalous.
        """
        texts = F.normalize(self.encode_texts(), dim=-1)
        terms = {
            "image": two_state_cross_entropy(
                features.class_feature, texts[None], labels, self.config.temperature
            )
        }
        maps = upsample(self._grids(features.levels, texts), self._upsample)  # [L, B, S, S]
        for block, level_map in zip(self.backbone.stage_blocks[-len(maps) :], maps, strict=True):
            found = segmentation_terms(level_map, masks, rowwise_b1=self.config.dice_rowwise_b1)
            for name, value in found.items():
                terms[f"{name}_{block}"] = self.config.segmentation_weight * value
        return StageLosses.of(terms)

    def _losses_of_batch(self, batch: TrainingBatch) -> StageLosses:
        features = (
            FrozenFeatures.of_rows(batch.frozen)
            if batch.frozen
            else self.frozen_features(batch.embedded)
        )
        return self.losses_of(features, batch.masks, batch.labels)

    # ---------------------------------------------------------------- parts

    def _listed_parameters(self) -> list[nn.Parameter]:
        return [self.normal_tokens, self.abnormal_tokens, *self.deep_tokens]

    def _grids(self, levels: Tensor, texts: Tensor) -> Tensor:
        """[L, B, N, D] and [2, D] -> [L, B, g, g] abnormal probability."""
        probability = state_logit(levels, texts[None], self.config.temperature).sigmoid()
        return probability.reshape(*probability.shape[:-1], self.backbone.grid, self.backbone.grid)

    def _image_probability(self, class_feature: Tensor, texts: Tensor) -> Tensor:
        """[B, D] and [2, D] -> [B]."""
        logits = state_logit(class_feature[:, None], texts[None], self.config.temperature)
        return logits[:, 0].sigmoid()
