"""MFP-CLIP: prompts from the image to the text tower, to the vision tower, and by a second pass.

Yuan et al. 2025, "MFP-CLIP: Exploring the Efficacy of Multi-Form Prompts for Zero-Shot Industrial
Anomaly Detection" (arXiv 2503.12910v1); symbols and equation numbers as printed there. No code was
released: what the text leaves open is an option of `MFPClipConfig`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.mfp_clip import MFPClipConfig
from zsad.detector import (
    MethodStage,
    Prediction,
    StageLosses,
    TrainableDetector,
    TrainingBatch,
)
from zsad.frozen_cnn import FrozenCnn
from zsad.image_to_text import ImageToText
from zsad.layers import identity_linear, stage_adapter
from zsad.losses import image_cross_entropy, segmentation_terms
from zsad.patch_aggregation import aggregate_patches
from zsad.prompts import FALLBACK_NAME, spelled_out
from zsad.scoring import map_matrix, upsample
from zsad.self_prompting import SelfPrompting, check_cnn, feature_width, image_features
from zsad.text_anchors import TextAnchors

NORMAL, ABNORMAL = 0, 1
LEARNING_RATE = 1e-3
EPOCHS = 100


@dataclass(frozen=True, slots=True)
class Pass:
    """What one run through the vision tower gives.

    Attributes:
        stage_grids: [4, B, g, g] probabilities of Eq. 11 before interpolation.
        fused_map: [B, S, S] M of Eq. 12, without smoothing.
        image_score: [B] S of Eq. 13.
    """

    stage_grids: Tensor
    fused_map: Tensor
    image_score: Tensor


@dataclass(frozen=True, slots=True)
class RawOutputs:
    """Both passes; without mask prompting `refined` is the `coarse` one."""

    coarse: Pass
    refined: Pass


class MFPClip(TrainableDetector):
    """MFP-CLIP on any backbone; the backbone and the CNN never change.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.
        cnn: From `load_frozen_cnn`; None where the options want none.
        seed: Of the initial weights.

    Raises:
        ValueError: the CNN does not fit the options.
    """

    config: MFPClipConfig

    def __init__(
        self,
        backbone: Backbone,
        config: MFPClipConfig,
        cnn: FrozenCnn | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_cnn(config, cnn)
        self.backbone = backbone
        self.cnn = cnn
        pinned = {} if cnn is None else {"sp_cnn_sha256": cnn.sha256}
        self.config = config.model_copy(update=pinned)
        self.input_size = backbone.input_size
        generator = torch.Generator().manual_seed(seed)
        Dv, width = backbone.vision_width, feature_width(cnn, backbone)

        if config.sp:
            self.self_prompting = SelfPrompting(width, Dv, config, generator)
        if config.i2tp:
            self.image_to_text = ImageToText(
                width,
                backbone.text_width,
                len(backbone.text_positions),
                generator,
                axis=config.i2tp_axis,
                projection=config.i2tp_projection,
            )
        self.stage_adapters = nn.ModuleList(
            stage_adapter(
                Dv,
                backbone.embed_dim,
                generator,
                layers=config.adapter_layers,
                activation=config.adapter_activation,
                final_activation=config.adapter_final_activation,
            )
            for _ in backbone.stage_blocks
        )
        if config.mp:
            self.mask_projection = identity_linear(2 * Dv, Dv)
        self._texts = TextAnchors(backbone, self._sentences)
        self._upsample: Tensor
        self._smooth_upsample: Tensor
        self._mean: Tensor
        self._std: Tensor
        for name, sigma_px in (("_upsample", 0.0), ("_smooth_upsample", config.smoothing_px)):
            matrix = map_matrix(
                backbone.grid,
                self.input_size,
                align_corners=config.align_corners,
                sigma_px=sigma_px,
            )
            self.register_buffer(name, matrix, persistent=False)
        for name, values in (("_mean", backbone.mean), ("_std", backbone.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    # ---------------------------------------------------------------- inference

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Refined M and S; every row depends on its own image and name alone."""
        refined = self.raw_outputs(images, class_names).refined
        with torch.inference_mode():
            smooth = upsample(refined.stage_grids.mean(0), self._smooth_upsample)
            # rounding may leave the interval by one bit
            return Prediction(
                image_score=refined.image_score.clamp(0, 1).float(),
                anomaly_map=smooth.clamp(0, 1).float(),
            )

    def raw_outputs(self, images: Tensor, class_names: Sequence[str]) -> RawOutputs:
        """Both passes, without gradient."""
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            unnormed = self.backbone.embed_patches(images)
            embedded = self.backbone.norm_input(unnormed)
            return self._evaluate(images, unnormed, embedded, class_names)

    def _evaluate(
        self, images: Tensor, unnormed: Tensor, embedded: Tensor, class_names: Sequence[str]
    ) -> RawOutputs:
        features = image_features(self.cnn, images, embedded)
        texts = self.text_features(class_names, features)
        coarse = self._pass(embedded, features, texts)
        if not self.config.mp:
            return RawOutputs(coarse=coarse, refined=coarse)
        merged = self.merge_masked(images, unnormed, embedded, coarse.fused_map)
        return RawOutputs(coarse=coarse, refined=self._pass(merged, features, texts))

    def text_features(self, class_names: Sequence[str], features: Tensor) -> Tensor:
        """F_t of every image (Eqs. 1-2): unit norm [B, 2, D], rows NORMAL, ABNORMAL."""
        if not self.config.i2tp:
            return self._texts.unit(class_names)
        sentences = [
            sentence
            for name in class_names
            for state in self._sentences(name)
            for sentence in state
        ]
        embedded: Tensor = self.image_to_text(
            self.backbone, sentences, features.repeat_interleave(2, dim=0)
        )
        return F.normalize(embedded, dim=-1).reshape(len(class_names), 2, -1)

    def merge_masked(
        self, images: Tensor, unnormed: Tensor, embedded: Tensor, fused_map: Tensor
    ) -> Tensor:
        """Eqs. 14-17: tokens of the image and of its masked copy, merged.

        Args:
            images: I [B, 3, S, S].
            unnormed: [B, 1 + N, Dv] from `Backbone.embed_patches`.
            embedded: The same behind `ln_pre`.
            fused_map: M [B, S, S].

        Returns:
            [B, 1 + N, Dv] that enters the first block of the second pass.
        """
        masked = self._masked(images, fused_map)
        if self.config.mp_place == "after_ln_pre":
            return self._merge(embedded, self.backbone.embed_images(masked))
        return self.backbone.norm_input(self._merge(unnormed, self.backbone.embed_patches(masked)))

    # ---------------------------------------------------------------- training

    def stages(self) -> Sequence[MethodStage]:
        """One stage with the published schedule."""
        return (
            MethodStage(
                name="train",
                parameters=list(self.own_parameters().values()),
                losses=self.losses,
                epochs=EPOCHS,
                batch_size=self.config.batch_size,
                learning_rate=lambda epoch: LEARNING_RATE / (epoch + 1),
                betas=self.config.betas,
                rate_per="epoch",
            ),
        )

    def losses(self, batch: TrainingBatch) -> StageLosses:
        """Focal and Dice on M, binary cross-entropy on S, of both passes, all of weight 1."""
        with torch.no_grad():
            needs_unnormed = self.config.mp and self.config.mp_place == "before_ln_pre"
            unnormed = (
                self.backbone.embed_patches(batch.images) if needs_unnormed else batch.embedded
            )
        raw = self._evaluate(batch.images, unnormed, batch.embedded, batch.class_names)
        terms = self._terms(raw.refined, batch)
        if self.config.mp and self.config.supervision == "both":
            coarse = self._terms(raw.coarse, batch)
            terms |= {f"{name}_coarse": value for name, value in coarse.items()}
        return StageLosses(total=torch.stack(list(terms.values())).sum(), terms=terms)

    def _terms(self, found: Pass, batch: TrainingBatch) -> dict[str, Tensor]:
        terms = segmentation_terms(
            found.fused_map,
            batch.masks,
            normal_channel=self.config.dice == "both",
            rowwise_b1=self.config.dice_rowwise_b1,
        )
        return terms | {"image": image_cross_entropy(found.image_score, batch.labels)}

    # ---------------------------------------------------------------- parts

    def _sentences(self, class_name: str) -> list[list[str]]:
        """One prompt for each of NORMAL, ABNORMAL."""
        name = spelled_out(class_name, "_") or FALLBACK_NAME
        return [
            [f"A photo of a normal {name}"],
            [f"A photo of {self.config.article} abnormal {name}"],
        ]

    def _pass(self, embedded: Tensor, features: Tensor, texts: Tensor) -> Pass:
        """Vision tower, adapters, aggregation and Eqs. 11-13."""
        if self.config.sp:
            tokens = self.self_prompting.run_vision(self.backbone, embedded, features)
        else:
            tokens = self.backbone.run_vision(embedded, self.backbone.stage_blocks)
        grid = self.backbone.grid
        direction = (texts[:, ABNORMAL] - texts[:, NORMAL])[:, :, None]  # [B, D, 1]
        grids = []
        for adapter, stage in zip(self.stage_adapters, tokens.stages, strict=True):
            with self.backbone.multiplying_as_blocks():
                adapted = adapter(stage[:, 1:])
            G = aggregate_patches(
                adapted.to(stage.dtype), self.config.window, self.config.mpfa_border
            )
            logits = (F.normalize(G, dim=-1) @ direction).squeeze(-1) / self.config.temperature
            grids.append(logits.sigmoid().reshape(-1, grid, grid))
        stage_grids = torch.stack(grids)
        fused_map = upsample(stage_grids.mean(0), self._upsample)
        return Pass(stage_grids, fused_map, fused_map.amax(dim=(1, 2)))

    def _masked(self, images: Tensor, fused_map: Tensor) -> Tensor:
        """Eq. 14, I ⊙ M."""
        M = fused_map if self.config.mask_gradient else fused_map.detach()
        if self.config.mask_range == "min_max":
            low, high = M.amin((1, 2), keepdim=True), M.amax((1, 2), keepdim=True)
            M = (M - low) / (high - low).clamp_min(torch.finfo(M.dtype).tiny)
        M = M[:, None]  # [B, 1, S, S]
        if self.config.mask_space == "normalised":
            return images * M
        return ((images * self._std + self._mean) * M - self._mean) / self._std

    def _merge(self, tokens: Tensor, masked: Tensor) -> Tensor:
        """Eq. 17: Linear([F_I; F_masked]) on patches, or on all tokens."""
        first = 0 if self.config.mp_tokens == "all" else 1
        joined = torch.cat([tokens[:, first:], masked[:, first:]], dim=-1)  # [B, ., 2 Dv]
        with self.backbone.multiplying_as_blocks():
            merged = self.mask_projection(joined).to(tokens.dtype)
        return torch.cat([tokens[:, :first], merged], dim=1)
