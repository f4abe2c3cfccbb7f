"""AdaCLIP: static and dynamic prompt tokens in both towers, conditioned on the plain image.

Cao et al. 2024, "AdaCLIP: Adapting CLIP with Hybrid Learnable Prompts for Zero-Shot Anomaly
Detection" (arXiv 2407.15795); code caoyunkang/AdaCLIP (MIT).
Deviation: the clustering is k-means of our own with a fixed start, so that a score repeats.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.clustering import cluster_means, kmeans_labels
from zsad.config.ada_clip import AdaCLIPConfig
from zsad.detector import (
    MethodStage,
    Prediction,
    StageLosses,
    TrainableDetector,
    TrainingBatch,
)
from zsad.layers import linear_layer
from zsad.losses import dice_loss, focal_loss
from zsad.prompt_tokens import encode_prompted_text, run_prompted_vision
from zsad.prompts import ADA_CLIP_ENSEMBLE, spelled_out
from zsad.scoring import half_pixel_matrix, state_logit, upsample, upsample_matrix

TEMPERATURE = 0.01
PATCHES_PER_CLUSTER = 5
_STATIC_STD = 0.02


@dataclass(frozen=True, slots=True)
class AdaCLIPFeatures:
    """Features of a batch.

    Attributes:
        condition: [B, D] class feature of the unprompted pass, any norm.
        levels: [4, B, N, D] unit norm patch features of the prompted pass.
        class_feature: [B, D] unit norm, projected, of the prompted pass.
        anchors: [B, 2, D] unit norm, of every image's own prompts.
    """

    condition: Tensor
    levels: Tensor
    class_feature: Tensor
    anchors: Tensor


class PromptTokens(nn.Module):
    """Prompt tokens of one tower: static ones a block plus dynamic ones made from the image.

    Args:
        width: Of the tower's tokens.
        condition_width: Of the image's class feature.
        depth: Blocks that get new tokens.
        config: Kinds, length and rounding.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        width: int,
        condition_width: int,
        depth: int,
        config: AdaCLIPConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.rounds = config.half_prompts
        length = config.prompt_length
        self.static = nn.ParameterList()
        self.dynamic = nn.ModuleList()
        if config.prompts != "dynamic":
            for _ in range(depth):
                tokens = torch.empty(length, width)
                if not tokens.is_meta:
                    tokens.normal_(0.0, _STATIC_STD, generator=generator)
                self.static.append(nn.Parameter(tokens))
        if config.prompts != "static":
            for _ in range(length):
                self.dynamic.append(linear_layer(condition_width, width, generator))

    def forward(self, condition: Tensor) -> list[Tensor]:
        """[B, condition_width] -> for every prompted block [B, length, width]."""
        B = len(condition)
        kinds: list[list[Tensor]] = []
        if self.static:
            kinds.append([tokens.expand(B, -1, -1) for tokens in self.static])
        if self.dynamic:
            made = torch.stack([layer(condition) for layer in self.dynamic], dim=1)
            kinds.append([made] * self.depth)
        prompts = [torch.stack(tokens).sum(0) for tokens in zip(*kinds, strict=True)]
        return [tokens.half().to(tokens.dtype) for tokens in prompts] if self.rounds else prompts


class AdaCLIP(TrainableDetector):
    """AdaCLIP on any backbone: two vision passes and one text encoding of 48 sentences an image.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.
        seed: Of the initial weights.

    Raises:
        ValueError: more blocks are to be prompted than a tower has.
    """

    config: AdaCLIPConfig

    def __init__(self, backbone: Backbone, config: AdaCLIPConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.input_size = backbone.input_size
        generator = torch.Generator().manual_seed(seed)
        Dv, D = backbone.vision_width, backbone.embed_dim
        if config.prompted != "text":
            depth = config.vision_depth or max(1, round(backbone.n_vision_blocks / 6))
            _refuse_depth("vision_depth", depth, backbone.n_vision_blocks)
            self.vision_prompts = PromptTokens(Dv, D, depth, config, generator)
        if config.prompted != "vision":
            depth = config.text_depth or max(2, round(backbone.n_text_blocks / 3))
            _refuse_depth("text_depth", depth, backbone.n_text_blocks)
            self.text_prompts = PromptTokens(backbone.text_width, D, depth, config, generator)
        self.patch_projections = nn.ModuleList(
            linear_layer(Dv, D, generator) for _ in backbone.stage_blocks
        )
        self.class_projection = linear_layer(D, D, generator)

        grid, side = backbone.grid, backbone.input_size
        self._upsample: Tensor
        self._smooth: Tensor
        self.register_buffer("_upsample", upsample_matrix(grid, side), persistent=False)
        smooth = half_pixel_matrix(side, side, config.sigma_px)
        self.register_buffer("_smooth", smooth, persistent=False)

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Softmax of the levels' mean logits, smoothed; softmax(100 f' T) with the fused f'."""
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            features = self.features(self.backbone.embed_images(images), class_names)
            maps = upsample(self.level_logits(features).mean(0).sigmoid(), self._smooth)
            return Prediction(image_score=self.image_score(features), anomaly_map=maps.clamp(0, 1))

    def condition(self, embedded: Tensor) -> Tensor:
        """[B, D] class feature of the unprompted pass, without gradient."""
        with torch.no_grad():
            plain = self.backbone.run_vision(embedded, ()).class_token
            return self.backbone.project_vision(plain)

    def features(
        self, embedded: Tensor, class_names: Sequence[str], condition: Tensor | None = None
    ) -> AdaCLIPFeatures:
        """From `backbone.embed_images`, [B, 1 + N, Dv]; `condition` if it was computed before."""
        backbone = self.backbone
        if condition is None:
            condition = self.condition(embedded)
        prompted = self.config.prompted
        vision = self.vision_prompts(condition) if prompted != "text" else []
        text = self.text_prompts(condition) if prompted != "vision" else []
        tokens = run_prompted_vision(backbone, embedded, vision)
        levels = [
            F.normalize(projection(stage[:, 1:]), dim=-1)
            for projection, stage in zip(self.patch_projections, tokens.stages, strict=True)
        ]
        class_feature = self.class_projection(backbone.project_vision(tokens.class_token))
        return AdaCLIPFeatures(
            condition=condition,
            levels=torch.stack(levels),
            class_feature=F.normalize(class_feature, dim=-1),
            anchors=self._anchors(class_names, text),
        )

    def level_logits(self, features: AdaCLIPFeatures) -> Tensor:
        """Upsampled difference of the logits: [4, B, S, S]; its sigmoid is the softmax."""
        logits = state_logit(features.levels, features.anchors, TEMPERATURE)
        grid = self.backbone.grid
        return upsample(logits.reshape(*logits.shape[:2], grid, grid), self._upsample)

    def most_abnormal(self, features: AdaCLIPFeatures) -> Tensor:
        """[B, M] patches that the clustering sees, most abnormal first."""
        logits = state_logit(features.levels, features.anchors, TEMPERATURE).mean(0)  # [B, N]
        wanted = PATCHES_PER_CLUSTER * self.config.clusters
        return logits.topk(min(wanted, logits.shape[1]), dim=1).indices

    def cluster_feature(self, features: AdaCLIPFeatures, labels: Tensor | None = None) -> Tensor:
        """Hybrid semantic fusion (HSF): unit mean of the clusters' means, [B, D].

        Args:
            features: Of the batch.
            labels: [B, M] clusters of `most_abnormal`; None finds them.
        """
        chosen = self.most_abnormal(features)
        width = features.levels.shape[-1]
        index = chosen[None, :, :, None].expand(len(features.levels), -1, -1, width)
        levels = features.levels.gather(2, index)  # [4, B, M, D]
        if labels is None:
            points = levels.permute(1, 2, 0, 3).flatten(2)  # [B, M, 4 D]
            labels = kmeans_labels(points, self.config.clusters, seed=self.config.cluster_seed)
        means, filled = cluster_means(levels.mean(0), labels, self.config.clusters)
        return F.normalize(means.sum(dim=1) / filled.sum(dim=1, keepdim=True), dim=-1)

    def image_score(self, features: AdaCLIPFeatures, labels: Tensor | None = None) -> Tensor:
        """[B] in [0, 1]; `labels` as in `cluster_feature`."""
        fused = features.class_feature
        if self.config.hybrid_fusion:
            share = self.config.fusion_weight
            clusters = self.cluster_feature(features, labels)
            fused = F.normalize(share * clusters + (1 - share) * fused, dim=-1)
        return state_logit(fused[:, None], features.anchors, TEMPERATURE).sigmoid()[:, 0]

    def stages(self) -> Sequence[MethodStage]:
        """The released code's schedule."""
        return (
            MethodStage(
                name="prompts",
                parameters=[p for p in self.parameters() if p.requires_grad],
                losses=self.losses,
                epochs=5,
                batch_size=1,
                learning_rate=lambda _: 0.01,
                betas=(0.5, 0.999),
                weight_decay=0.01,
                frozen=lambda embedded: (embedded, self.condition(embedded)),
                mosaic=self.config.mosaic,
            ),
        )

    def losses(self, batch: TrainingBatch) -> StageLosses:
        """Focal loss of the image score, and focal and both Dice losses of every level."""
        embedded, condition = batch.frozen or (batch.embedded, None)
        return self.losses_of(self.features(embedded, batch.class_names, condition), batch)

    def losses_of(
        self, features: AdaCLIPFeatures, batch: TrainingBatch, cluster_labels: Tensor | None = None
    ) -> StageLosses:
        """`losses` of features that were computed before."""
        score = self.image_score(features, cluster_labels)
        terms = {"image_focal": focal_loss(score, batch.labels.to(score.dtype))}
        maps = self.level_logits(features).sigmoid()
        for block, level_map in zip(self.backbone.stage_blocks, maps, strict=True):
            found, masks = level_map, batch.masks
            terms[f"focal_{block}"] = focal_loss(found, masks)
            if self.config.dice_samples == "rows":
                found, masks = found.flatten(0, 1), masks.flatten(0, 1)  # [B*S, S]
            terms[f"dice_abnormal_{block}"] = dice_loss(found, masks)
            terms[f"dice_normal_{block}"] = dice_loss(1 - found, 1 - masks)
        return StageLosses.of(terms)

    def _anchors(self, class_names: Sequence[str], prompts: Sequence[Tensor]) -> Tensor:
        """[B, 2, D] unit norm: every image encodes the sentences of its class by itself."""
        separators = self.config.name_separators
        pairs = [ADA_CLIP_ENSEMBLE.sentences(spelled_out(n, separators)) for n in class_names]
        sentences = [normal + abnormal for normal, abnormal in pairs]
        rows = encode_prompted_text(self.backbone, sentences, prompts)  # [B, 48, D]
        rows, n_normal = F.normalize(rows, dim=-1), len(pairs[0][0])
        states = rows[:, :n_normal].mean(1), rows[:, n_normal:].mean(1)
        return F.normalize(torch.stack(states, dim=1), dim=-1)


def _refuse_depth(option: str, depth: int, blocks: int) -> None:
    if depth > blocks:
        raise ValueError(f"{option} {depth} is above the {blocks} blocks of the tower")
