"""AFR-CLIP: a stateless text vector, rectified by each patch, against two stateful text vectors.

"AFR-CLIP: Enhancing Zero-Shot Industrial Anomaly Detection with Stateless-to-Stateful Anomaly
Feature Rectification" (Yuan et al. 2025, the later version of arXiv 2503.12910); symbols and
equation numbers as printed there. No code was released: what the text leaves open is an option of
`AFRClipConfig`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.backbone import Backbone, VisionTokens
from zsad.config.afr_clip import AFRClipConfig
from zsad.detector import (
    MethodStage,
    Prediction,
    StageLosses,
    TrainableDetector,
    TrainingBatch,
)
from zsad.frozen_cnn import FrozenCnn
from zsad.layers import identity_linear, linear_layer, stage_adapter
from zsad.losses import image_cross_entropy, segmentation_terms
from zsad.patch_aggregation import aggregate_patches
from zsad.prompts import FALLBACK_NAME, spelled_out
from zsad.rectification import RectificationWeights, mean_rectified, rectified_cosines
from zsad.scoring import map_matrix, upsample
from zsad.self_prompting import SelfPrompting, check_cnn, feature_width, image_features
from zsad.text_anchors import TextAnchors

NORMAL, ABNORMAL, STATELESS = 0, 1, 2
LEARNING_RATE = 1e-3
EPOCHS = 100


@dataclass(frozen=True, slots=True)
class RawOutputs:
    """What prediction and losses are made of.

    Attributes:
        stage_grids: [4, B, g, g] probabilities P_i of Eq. 13.
        fused_map: [B, S, S] M, their upsampled mean, without smoothing.
        image_score: [B] S in [0, 1].
        image_logit: [B] of S; None where S is not a softmax of cosines alone.
    """

    stage_grids: Tensor
    fused_map: Tensor
    image_score: Tensor
    image_logit: Tensor | None


class AFRClip(TrainableDetector):
    """AFR-CLIP on any backbone; the backbone and the CNN never change.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.
        cnn: From `load_frozen_cnn`; None where the options want none.
        seed: Of the initial weights.

    Raises:
        ValueError: the CNN does not fit the options.
    """

    config: AFRClipConfig

    def __init__(
        self,
        backbone: Backbone,
        config: AFRClipConfig,
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
        Dv, D = backbone.vision_width, backbone.embed_dim

        if config.sp:
            self.self_prompting = SelfPrompting(feature_width(cnn, backbone), Dv, config, generator)
        n_layers = 2 if config.stage_adapter == "two_layer" else 1
        self.stage_adapters = nn.ModuleList(
            stage_adapter(Dv, D, generator, layers=n_layers) for _ in backbone.stage_blocks
        )
        self._uses_class_token = config.image_score in ("class_token", "mean")
        if self._uses_class_token:
            self.class_adapter = identity_linear(D, D)
        identity = config.text_adapter_init == "identity"
        self.text_adapter = identity_linear(D, D) if identity else linear_layer(D, D, generator)
        if config.cmfr:
            self.rectification = nn.ModuleList(
                RectificationWeights(
                    D,
                    generator,
                    kernel=config.cmfr_kernel,
                    hidden=max(1, D // config.cmfr_hidden_divisor),
                    order=config.cmfr_order,
                )
                for _ in range(1 if config.cmfr_shared else len(self.stage_adapters))
            )
        self._texts = TextAnchors(backbone, self._sentences)
        self._upsample: Tensor
        self._smooth_upsample: Tensor
        for name, sigma_px in (("_upsample", 0.0), ("_smooth_upsample", config.smoothing_px)):
            matrix = map_matrix(
                backbone.grid,
                self.input_size,
                align_corners=config.align_corners,
                sigma_px=sigma_px,
            )
            self.register_buffer(name, matrix, persistent=False)

    # ---------------------------------------------------------------- inference

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """S of Eq. 9 and M of Eq. 14; every row depends on its own image and name alone."""
        raw = self.raw_outputs(images, class_names)
        with torch.inference_mode():
            smooth = upsample(raw.stage_grids.mean(0), self._smooth_upsample)
            # rounding may leave the interval by one bit
            return Prediction(
                image_score=raw.image_score.clamp(0, 1).float(),
                anomaly_map=smooth.clamp(0, 1).float(),
            )

    def raw_outputs(self, images: Tensor, class_names: Sequence[str]) -> RawOutputs:
        """All intermediate results, without gradient."""
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            return self._evaluate(images, self.backbone.embed_images(images), class_names)

    def vision(self, images: Tensor, embedded: Tensor) -> VisionTokens:
        """Tokens of the four stages, with self prompting unless it is switched off."""
        if not self.config.sp:
            return self.backbone.run_vision(embedded, self.backbone.stage_blocks)
        features = image_features(self.cnn, images, embedded)
        return self.self_prompting.run_vision(self.backbone, embedded, features)

    def patch_features(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """G_i of the four stages (Eqs. 1, 19-21): [B, 1 + N, Dv] each -> [B, N, D] each."""
        features = []
        for adapter, stage in zip(self.stage_adapters, stages, strict=True):
            patches = stage[:, 1:]
            if self.config.stage_adapter == "ln_post_linear":
                patches = self.backbone.norm_vision(patches)
            with self.backbone.multiplying_as_blocks():
                adapted = adapter(patches)
            G = aggregate_patches(
                adapted.to(stage.dtype), self.config.window, self.config.mpfa_border
            )
            features.append(self._scaled(G))
        return features

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """F_n, F_a, F_s of every image (Eq. 2): [B, 3, D]."""
        adapted = self.text_adapter(self._texts.unit(class_names))
        return self._scaled(adapted)

    def _evaluate(self, images: Tensor, embedded: Tensor, class_names: Sequence[str]) -> RawOutputs:
        tokens = self.vision(images, embedded)
        patches = self.patch_features(tokens.stages)
        texts = self.text_features(class_names)
        with self.backbone.multiplying_as_blocks():  # a class token's are few: exact
            weights = [self._weights(stage, G, texts) for stage, G in enumerate(patches)]
        grid = self.backbone.grid
        grids = [
            self._logit(G, W, texts).sigmoid().reshape(-1, grid, grid)
            for G, W in zip(patches, weights, strict=True)
        ]
        stage_grids = torch.stack(grids)
        fused_map = upsample(stage_grids.mean(0), self._upsample)

        logit = None
        if self._uses_class_token:
            logit = self._class_logit(tokens.class_token, texts)
        elif self.config.image_score == "patch_mean":
            logit = self._patch_mean_logit(patches, weights, texts)
        peak = fused_map.amax(dim=(1, 2))
        if logit is None:
            return RawOutputs(stage_grids, fused_map, peak, None)
        if self.config.image_score == "mean":
            return RawOutputs(stage_grids, fused_map, (logit.sigmoid() + peak) / 2, None)
        return RawOutputs(stage_grids, fused_map, logit.sigmoid(), logit)

    # ---------------------------------------------------------------- training

    def stages(self) -> Sequence[MethodStage]:
        """One stage; schedule of MFP-CLIP, whose text has the values that AFR-CLIP's lost."""
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
        """Focal and Dice on the map, binary cross-entropy on the image score, all of weight 1."""
        raw = self._evaluate(batch.images, batch.embedded, batch.class_names)
        both = self.config.dice == "both"
        if self.config.loss_on == "fused":
            terms = segmentation_terms(raw.fused_map, batch.masks, normal_channel=both)
        else:
            terms = {}
            for stage, grid in enumerate(raw.stage_grids, start=1):
                stage_map = upsample(grid, self._upsample)
                found = segmentation_terms(stage_map, batch.masks, normal_channel=both)
                terms |= {f"{name}_{stage}": value for name, value in found.items()}
        if raw.image_logit is None:
            terms["image"] = image_cross_entropy(raw.image_score, batch.labels)
        else:  # the same from logits: a saturated score still learns
            labels = batch.labels.to(raw.image_logit.dtype)
            terms["image"] = F.binary_cross_entropy_with_logits(raw.image_logit, labels)
        return StageLosses(total=torch.stack(list(terms.values())).sum(), terms=terms)

    # ---------------------------------------------------------------- parts

    def _sentences(self, class_name: str) -> list[list[str]]:
        """One prompt for each of NORMAL, ABNORMAL, STATELESS."""
        name = spelled_out(class_name, "_") or FALLBACK_NAME
        states = ("normal ", f"{self.config.abnormal_word} ", "")
        return [[f"A photo of a {state}{name}"] for state in states]

    def _scaled(self, features: Tensor) -> Tensor:
        """Unit length along the last axis, unless AFR-1 keeps raw scales."""
        return F.normalize(features, dim=-1) if self.config.normalise else features

    def _weights(self, stage: int, patches: Tensor, texts: Tensor) -> Tensor | None:
        """W of Eqs. 3-5 [B, N, 2]; None without CMFR."""
        if not self.config.cmfr:
            return None
        weights: Tensor = self.rectification[0 if self.config.cmfr_shared else stage](
            patches, texts[:, STATELESS]
        )
        return weights

    def _logit(self, patches: Tensor, weights: Tensor | None, texts: Tensor) -> Tensor:
        """(s_a - s_n) / tau, the softmax of Eq. 13 as a sigmoid's logit: [B, N]."""
        anchors = texts[:, :STATELESS]  # [B, 2, D]
        if weights is None:
            cosines = F.normalize(patches, dim=-1) @ F.normalize(anchors, dim=-1).mT
        else:
            cosines = rectified_cosines(
                patches,
                texts[:, STATELESS],
                anchors,
                weights,
                text_weight=self.config.text_weight == "residual",
            )
        return (cosines[..., ABNORMAL] - cosines[..., NORMAL]) / self.config.temperature

    def _class_logit(self, class_token: Tensor, texts: Tensor) -> Tensor:
        """Eqs. 6-9 with the class token as a map of one cell: [B]."""
        token = self._scaled(self.class_adapter(self.backbone.project_vision(class_token)))
        cell = token[:, None]  # [B, 1, D]
        return self._logit(cell, self._weights(-1, cell, texts), texts)[:, 0]

    def _patch_mean_logit(
        self, patches: list[Tensor], weights: list[Tensor | None], texts: Tensor
    ) -> Tensor:
        """Cosines of the mean rectified patch of all stages: [B]."""
        text_weight = self.config.text_weight == "residual"
        means = [
            G.mean(dim=1)
            if W is None
            else mean_rectified(G, texts[:, STATELESS], W, text_weight=text_weight)
            for G, W in zip(patches, weights, strict=True)
        ]
        mean = torch.stack(means).mean(0)[:, None]  # [B, 1, D]
        return self._logit(mean, None, texts)[:, 0]
