"""AA-CLIP: anomaly-aware CLIP by two-stage residual adapters.

Ma et al. 2025, "AA-CLIP: Enhancing Zero-Shot Anomaly Detection via Anomaly-Aware CLIP" (CVPR);
symbols and equation numbers as printed there. Where the released code (repository Mwxinnn/AA-CLIP)
differs from the text, an option of `AAClipConfig` chooses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.augment import Augmentation
from zsad.backbone import Backbone
from zsad.config.aa_clip import AAClipConfig
from zsad.detector import (
    MethodStage,
    Prediction,
    StageLosses,
    TrainableDetector,
    TrainingBatch,
    UnscaledOutputs,
    WholeSetScores,
)
from zsad.layers import Projector, ResidualAdapter, xavier_weight
from zsad.losses import segmentation_terms
from zsad.prompts import FALLBACK_NAME, state_sentences
from zsad.scoring import Blur, min_max, upsample, upsample_matrix

NORMAL, ABNORMAL = 0, 1
BETAS = (0.5, 0.999)
MILESTONES = (16_000, 32_000)
"""Stage-2 steps at which the learning rate halves (released code)."""
LOGIT_SCALE = 100.0
"""1 / temperature of CLIP's patch logits."""

GEOMETRY = Augmentation(turn_deg=30, turn_p=0.5, shift=0.15, shift_p=0.5, flip_p=0.5)
GEOMETRY_AND_COLOUR = replace(GEOMETRY, colour=0.5, colour_p=0.7)
"""Of stage 1 and of stage 2 (released code). Deviation: colour changes after the resize."""

BLURS = {"industrial": Blur(kernel=7, sigma=1.0), "medical": Blur(kernel=9, sigma=1.5)}
"""Smoothing of the test map on the patch grid (released code)."""


@dataclass(frozen=True, slots=True)
class ReferenceFeatures:
    """Features of the unadapted vision tower that stage 1 aligns the anchors to.

    Attributes:
        levels: [4, B, N, D] unit-norm V-V patch features of the four stages.
        class_feature: [B, D] unit-norm class feature of the ordinary stream.
    """

    levels: Tensor
    class_feature: Tensor


@dataclass(frozen=True, slots=True)
class VisualFeatures:
    """Features of the adapted vision tower.

    Attributes:
        levels: [4, B, N, D] unit-norm V_patch^i.
        detection: [B, D] mean of unit-norm det-projected patches (not unit norm itself).
    """

    levels: Tensor
    detection: Tensor


@dataclass(frozen=True, slots=True)
class RawOutputs:
    """Everything that a test score can be made of, before any statistics of a test set.

    Attributes:
        level_grids: [B, 4, g, g] (100 cos abnormal + 1 - 100 cos normal) / 2, before smoothing.
        linear_map: [B, S, S] sum of the smoothed, upsampled level grids; unbounded.
        probability_map: [B, S, S] in [0, 1], the streaming map.
        image_term: [B] q = (d T_A + 1) / 2, in [0, 1].
    """

    level_grids: Tensor
    linear_map: Tensor
    probability_map: Tensor
    image_term: Tensor


class AAClip(TrainableDetector):
    """AA-CLIP on any backbone.

    Stage 1 trains text adapters and the text projector, stage 2 vision adapters and projectors;
    the backbone never changes.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.
        seed: Of the initial weights.
    """

    config: AAClipConfig

    def __init__(self, backbone: Backbone, config: AAClipConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.input_size = backbone.input_size
        generator = torch.Generator().manual_seed(seed)
        n_text = _depth(config.text_adapters, backbone.n_text_blocks, "text")
        n_vision = _depth(config.vision_adapters, backbone.n_vision_blocks, "vision")
        ratio, Dv, D = config.residual_ratio, backbone.vision_width, backbone.embed_dim

        self.text_adapters = nn.ModuleList(
            ResidualAdapter(backbone.text_width, ratio, generator) for _ in range(n_text)
        )
        if config.text_projector == "pretrained":
            self.text_projector = Projector(
                nn.Parameter(backbone.text_projection.detach().T.clone())
            )
        else:
            weight = xavier_weight(D, backbone.text_width, generator)
            self.text_projector = Projector(weight, leaky=True)
        self.vision_adapters = nn.ModuleList(
            ResidualAdapter(Dv, ratio, generator) for _ in range(n_vision)
        )
        self.seg_projectors = nn.ModuleList(
            Projector(xavier_weight(D, Dv, generator)) for _ in backbone.stage_blocks
        )
        self.det_projector = Projector(xavier_weight(D, Dv, generator))

        grid, side = backbone.grid, backbone.input_size
        self._upsample: Tensor
        self._smooth_upsample: Tensor
        self.register_buffer("_upsample", upsample_matrix(grid, side), persistent=False)
        blurred = upsample_matrix(grid, side, BLURS[config.domain])
        self.register_buffer("_smooth_upsample", blurred, persistent=False)
        self._anchor_cache: dict[str, Tensor] = {}
        self._anchor_cache_key: tuple[object, ...] = ()

    # ---------------------------------------------------------------- inference

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Streaming score: every row depends on its own image and phrase alone.

        P = softmax(100 s_N, 100 s_A) with s = mean_i v_i T, smoothed and upsampled;
        image score = (max P + q) / 2 with q = (d T_A + 1) / 2.
        """
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            features = self.visual_features(self.backbone.embed_images(images))
            anchors = self.anchors(class_names)
            return self._streaming(
                self._probability_map(features, anchors), self._image_term(features, anchors)
            )

    def raw_outputs(self, images: Tensor, class_names: Sequence[str]) -> RawOutputs:
        """Both forms of the map, and the image term."""
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            features = self.visual_features(self.backbone.embed_images(images))
            anchors = self.anchors(class_names)
            grids = (LOGIT_SCALE * self._contrast(features.levels, anchors) + 1) / 2  # [4, B, N]
            grids = self._to_grid(grids)
            return RawOutputs(
                level_grids=grids.transpose(0, 1),
                linear_map=upsample(grids.sum(0), self._smooth_upsample),
                probability_map=self._probability_map(features, anchors),
                image_term=self._image_term(features, anchors),
            )

    @property
    def ranks_whole_sets(self) -> bool:
        """Decisions AA-7 and AA-8: the released code's evaluation does."""
        return self.config.test_map == "linear" or self.config.test_image_score == "min_max"

    @property
    def has_whole_set_scores(self) -> bool:
        """Always: the evaluation chooses."""
        return True

    def unscaled(self, images: Tensor, class_names: Sequence[str]) -> UnscaledOutputs:
        """The map of decision AA-7; terms are q, the map's peak and its smallest value."""
        raw = self.raw_outputs(images, class_names)
        maps = raw.linear_map if self.config.test_map == "linear" else raw.probability_map
        terms = torch.stack([raw.image_term, maps.amax((1, 2)), maps.amin((1, 2))], dim=1)
        return UnscaledOutputs(terms=terms, anomaly_map=maps)

    def whole_set_scores(self, terms: Tensor) -> WholeSetScores:
        """Decision AA-8: both terms scaled to [0, 1] over the set, then their mean.

        In the medical domain the map's peak alone.
        """
        q, peaks, lows = terms.unbind(dim=1)
        scores = WholeSetScores(peaks, lows.min().item(), peaks.max().item())
        image_scores = scores.scaled(peaks)
        if self.config.domain == "industrial":
            image_scores = 0.5 * image_scores + 0.5 * min_max(q)
        return replace(scores, image_scores=image_scores)

    def anchors(self, class_names: Sequence[str]) -> Tensor:
        """Cached, detached text anchors T_N, T_A of every image: [B, 2, D], unit norm.

        The cache follows the text weights: training or loading them empties it.
        """
        key = self._text_state()
        if key != self._anchor_cache_key:
            self._anchor_cache, self._anchor_cache_key = {}, key
        names = [_clean(name) for name in class_names]
        missing = sorted(set(names) - self._anchor_cache.keys())
        if missing:
            # kept, so in float32 also while training runs the backbone in 16 bits
            with self.backbone.executing(), torch.no_grad():
                fresh = self.encode_anchors(missing)
            self._anchor_cache.update(zip(missing, fresh, strict=True))
        return torch.stack([self._anchor_cache[name] for name in names])

    def encode_anchors(self, class_names: Sequence[str]) -> Tensor:
        """Text anchors with gradients.

        Each sentence is encoded and L2-normalised; a state's anchor is the normalised mean.

        Args:
            class_names: C phrases.

        Returns:
            [C, 2, D] unit norm, rows NORMAL, ABNORMAL.
        """
        if torch.is_grad_enabled():  # a training step follows; fused optimisers leave no trace
            self._anchor_cache.clear()
        states = [group for name in class_names for group in state_sentences(name)]
        sentences = [sentence for group in states for sentence in group]
        embeddings = F.normalize(self.encode_sentences(sentences), dim=-1)
        groups = torch.split(embeddings, [len(group) for group in states])
        anchors = torch.stack([F.normalize(group.mean(dim=0), dim=-1) for group in groups])
        return anchors.reshape(len(class_names), 2, -1)

    def encode_sentences(self, sentences: Sequence[str]) -> Tensor:
        """Adapted sentence embeddings [K, D], not unit norm."""
        return self.backbone.encode_text(
            sentences,
            after_block=lambda index, tokens: _adapt(self.text_adapters, index, tokens),
            project=self.text_projector,
        )

    def visual_features(self, embedded: Tensor) -> VisualFeatures:
        """Adapted features from `backbone.embed_images`, [B, 1 + N, Dv]."""
        tokens = self.backbone.run_vision(
            embedded,
            self.backbone.stage_blocks,
            after_block=self._adapt_vision,
        )
        normed = [self.backbone.norm_vision(stage[:, 1:]) for stage in tokens.stages]
        with self.backbone.multiplying_as_blocks():
            projected = [
                projector(stage)
                for projector, stage in zip(self.seg_projectors, normed, strict=True)
            ]
            detected = self.det_projector(normed[-1])
        levels = [F.normalize(level.to(embedded.dtype), dim=-1) for level in projected]
        detection = F.normalize(detected.to(embedded.dtype), dim=-1).mean(dim=1)
        return VisualFeatures(levels=torch.stack(levels), detection=detection)

    def reference_features(self, embedded: Tensor) -> ReferenceFeatures:
        """Stage-1 features from `backbone.embed_images`; constants of the frozen backbone.

        With `stage1_reference="batch_axis"` a row depends on the whole batch, so only
        `dual_stream` features may be cached per image.
        """
        backbone = self.backbone
        with torch.no_grad():
            if self.config.stage1_reference == "dual_stream":
                tokens = backbone.run_dual_stream(embedded, backbone.stage_blocks)
                stages, class_token = tokens.stages, tokens.class_token
            else:
                stages = backbone.run_batch_axis(embedded, backbone.stage_blocks)
                class_token = backbone.run_vision(embedded, ()).class_token
            levels = torch.stack([backbone.project_vision(stage[:, 1:]) for stage in stages])
            return ReferenceFeatures(
                levels=F.normalize(levels, dim=-1),
                class_feature=F.normalize(backbone.project_vision(class_token), dim=-1),
            )

    # ---------------------------------------------------------------- training

    def stages(self) -> Sequence[MethodStage]:
        """Text, then vision, with the released code's schedule."""
        return (
            MethodStage(
                name="stage1",
                parameters=self.stage1_parameters(),
                losses=self._stage1_of_batch,
                epochs=5,
                batch_size=16,
                learning_rate=lambda _: 1e-5,
                betas=BETAS,
                # over the batch axis an image's features are no constants
                frozen=self._frozen if self.config.stage1_reference == "dual_stream" else None,
                augmentation=GEOMETRY if self.config.augment else None,
            ),
            MethodStage(
                name="stage2",
                parameters=self.stage2_parameters(),
                losses=self._stage2_of_batch,
                epochs=20,
                batch_size=2,
                learning_rate=lambda step: 5e-4 * 0.5 ** sum(step >= m for m in MILESTONES),
                betas=BETAS,
                augmentation=GEOMETRY_AND_COLOUR if self.config.augment else None,
            ),
        )

    def _stage1_of_batch(self, batch: TrainingBatch) -> StageLosses:
        if batch.frozen:
            levels, class_feature = batch.frozen
            features = ReferenceFeatures(levels.transpose(0, 1), class_feature)
        else:
            features = self.reference_features(batch.embedded)
        return self.stage1_losses_of(features, batch.masks, batch.labels, batch.class_names)

    def _frozen(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        features = self.reference_features(embedded)
        return features.levels.transpose(0, 1), features.class_feature

    def _stage2_of_batch(self, batch: TrainingBatch) -> StageLosses:
        return self.stage2_losses_of(batch.embedded, batch.masks, batch.labels, batch.class_names)

    def stage1_parameters(self) -> list[nn.Parameter]:
        """Text adapters and text projector."""
        return [*self.text_adapters.parameters(), *self.text_projector.parameters()]

    def stage2_parameters(self) -> list[nn.Parameter]:
        """Vision adapters, the four segmentation projectors and the detection projector."""
        return [
            *self.vision_adapters.parameters(),
            *self.seg_projectors.parameters(),
            *self.det_projector.parameters(),
        ]

    def stage1_losses(
        self, images: Tensor, masks: Tensor, labels: Tensor, class_names: Sequence[str]
    ) -> StageLosses:
        """Eq. 6: alignment of the anchors to frozen features, plus gamma times Eq. 5.

        Args:
            images: [B, 3, S, S].
            masks: [B, S, S] float in {0, 1}.
            labels: [B] int64, 1 is anomalous.
            class_names: B phrases.
        """
        self.refuse_misfit(images, class_names)
        with torch.no_grad():
            embedded = self.backbone.embed_images(images)
        features = self.reference_features(embedded)
        return self.stage1_losses_of(features, masks, labels, class_names)

    def stage1_losses_of(
        self,
        features: ReferenceFeatures,
        masks: Tensor,
        labels: Tensor,
        class_names: Sequence[str],
    ) -> StageLosses:
        """`stage1_losses` from features that were computed before."""
        names = [_clean(name) for name in class_names]
        classes = sorted(set(names))
        class_anchors = self.encode_anchors(classes)  # [C, 2, D]
        anchors = class_anchors[[classes.index(name) for name in names]]  # [B, 2, D]

        levels = features.levels
        if self.config.stage1_class_feature == "added":
            levels = levels + features.class_feature[None, :, None, :]
        first = 0 if self.config.stage1_levels == "all" else len(levels) - 1
        terms: dict[str, Tensor] = {}
        for block, level in list(zip(self.backbone.stage_blocks, levels, strict=True))[first:]:
            terms |= _named(segmentation_terms(self.training_map(level, anchors), masks), block)
        if self.config.stage1_class_feature == "classified":
            terms["image"] = self._image_loss(features.class_feature, anchors, labels)
        terms["disentangle"] = self.config.disentangle_weight * (
            _cosine(class_anchors).square().mean()
            if self.config.disentangle == "mean_of_squares"
            else _cosine(anchors).mean().square()
        )
        return _summed(terms)

    def stage2_losses(
        self, images: Tensor, masks: Tensor, labels: Tensor, class_names: Sequence[str]
    ) -> StageLosses:
        """Alignment of patch and image features to the frozen anchors; arguments as stage 1."""
        self.refuse_misfit(images, class_names)
        with torch.no_grad():
            embedded = self.backbone.embed_images(images)
        return self.stage2_losses_of(embedded, masks, labels, class_names)

    def stage2_losses_of(
        self, embedded: Tensor, masks: Tensor, labels: Tensor, class_names: Sequence[str]
    ) -> StageLosses:
        """`stage2_losses` from `backbone.embed_images`, which is constant without augmentation."""
        anchors = self.anchors(class_names)
        features = self.visual_features(embedded)
        terms: dict[str, Tensor] = {}
        if self.config.stage2_segmentation == "fused":
            fused = F.normalize(features.levels.sum(0), dim=-1)
            terms |= segmentation_terms(self.training_map(fused, anchors), masks)
        else:
            for block, level in zip(self.backbone.stage_blocks, features.levels, strict=True):
                terms |= _named(segmentation_terms(self.training_map(level, anchors), masks), block)
        terms["image"] = self._image_loss(features.detection, anchors, labels)
        return _summed(terms)

    def training_map(self, patch_features: Tensor, anchors: Tensor) -> Tensor:
        """Probability of the abnormal class: logits are upsampled first, then softmaxed.

        Two classes: softmax is a sigmoid of the difference, one upsampling instead of two.

        Args:
            patch_features: [B, N, D].
            anchors: [B, 2, D].

        Returns:
            [B, S, S] in [0, 1].
        """
        logits = self._to_grid(LOGIT_SCALE * self._contrast(patch_features, anchors))
        return upsample(logits, self._upsample).sigmoid()

    # ---------------------------------------------------------------- parts

    def _adapt_vision(self, index: int, tokens: Tensor) -> Tensor:
        with self.backbone.multiplying_as_blocks():  # an adapter's product is one of the tower's
            return _adapt(self.vision_adapters, index, tokens)

    def _contrast(self, features: Tensor, anchors: Tensor) -> Tensor:
        """Contrast f (T_A - T_N): [..., B, N, D] and [B, 2, D] -> [..., B, N]."""
        direction = anchors[:, ABNORMAL] - anchors[:, NORMAL]  # [B, D]
        return (features @ direction[:, :, None]).squeeze(-1)

    def _to_grid(self, scores: Tensor) -> Tensor:
        """[..., N] -> [..., g, g], rows first."""
        return scores.reshape(*scores.shape[:-1], self.backbone.grid, self.backbone.grid)

    def _probability_map(self, features: VisualFeatures, anchors: Tensor) -> Tensor:
        logits = LOGIT_SCALE * self._contrast(features.levels.mean(0), anchors)
        smooth = upsample(self._to_grid(logits).sigmoid(), self._smooth_upsample)
        return smooth.clamp(0, 1)  # rounding may leave the interval by one bit

    def _image_term(self, features: VisualFeatures, anchors: Tensor) -> Tensor:
        return ((features.detection * anchors[:, ABNORMAL]).sum(-1) + 1) / 2

    def _streaming(self, probability_map: Tensor, image_term: Tensor) -> Prediction:
        score = 0.5 * probability_map.amax(dim=(1, 2)) + 0.5 * image_term
        return Prediction(image_score=score.clamp(0, 1), anomaly_map=probability_map)

    def _image_loss(self, features: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy over [f T_N, f T_A]: [B, D], [B, 2, D], [B] -> scalar."""
        cosines = (anchors @ features[:, :, None]).squeeze(-1)  # [B, 2]
        return F.cross_entropy(cosines / self.config.image_loss_temperature, labels)

    def _text_state(self) -> tuple[object, ...]:
        """Changes whenever a text weight was written in place, replaced or moved."""
        return tuple(
            (id(p), p.data_ptr(), p._version, p.device, p.dtype) for p in self.stage1_parameters()
        )


def _depth(asked: int | None, blocks: int, tower: Literal["text", "vision"]) -> int:
    """Number of adapted blocks: what was asked for, or a quarter of the tower, at least one."""
    count = max(1, blocks // 4) if asked is None else asked
    if count > blocks:
        raise ValueError(f"{tower}_adapters {count} is above the {blocks} blocks of the tower")
    return count


def _adapt(adapters: nn.ModuleList, index: int, tokens: Tensor) -> Tensor:
    """Adapter `index` if there is one; the tokens as they are otherwise."""
    adapted: Tensor = adapters[index](tokens) if index < len(adapters) else tokens
    return adapted


def _clean(name: str) -> str:
    return name.strip() or FALLBACK_NAME


def _cosine(anchors: Tensor) -> Tensor:
    """<T_N, T_A> of [..., 2, D] unit vectors."""
    return (anchors[..., NORMAL, :] * anchors[..., ABNORMAL, :]).sum(-1)


def _named(terms: dict[str, Tensor], block: int) -> dict[str, Tensor]:
    return {f"{name}_{block}": value for name, value in terms.items()}


def _summed(terms: dict[str, Tensor]) -> StageLosses:
    return StageLosses(total=torch.stack(list(terms.values())).sum(), terms=terms)
