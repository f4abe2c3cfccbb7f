"""Unit-length patch and class features of a frozen vision tower.

Refuses to know texts and methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone, VisionTokens
from zsad.detector import Prediction
from zsad.scoring import state_logit, upsample


@dataclass(frozen=True, slots=True)
class FrozenFeatures:
    """Constants of an image: they can be computed once for a whole training.

    Attributes:
        levels: [L, B, N, D] unit-norm patch features of L blocks.
        class_feature: [B, D] unit-norm class feature of the ordinary stream.
    """

    levels: Tensor
    class_feature: Tensor

    def rows(self) -> tuple[Tensor, Tensor]:
        """Levels [B, L, N, D] and class feature: the form of `MethodStage.frozen`."""
        return self.levels.transpose(0, 1), self.class_feature

    @classmethod
    def of_rows(cls, rows: Sequence[Tensor]) -> Self:
        """The reverse of `rows`."""
        levels, class_feature = rows
        return cls(levels=levels.transpose(0, 1), class_feature=class_feature)


def dual_stream_features(
    backbone: Backbone, embedded: Tensor, blocks: Sequence[int], *, cls_ln_post: bool
) -> FrozenFeatures:
    """Patches of the V-V stream, class token of the ordinary stream, without gradient.

    Args:
        backbone: Frozen towers.
        embedded: [B, 1 + N, Dv] from `Backbone.embed_images`.
        blocks: 0-based blocks of the V-V stream, ascending.
        cls_ln_post: Whether `ln_post` goes before the projection of the class token too.
    """
    with torch.no_grad():
        tokens = backbone.run_dual_stream(embedded, blocks)
        return _features(backbone, tokens, cls_ln_post=cls_ln_post)


def ordinary_features(backbone: Backbone, embedded: Tensor) -> FrozenFeatures:
    """CLIP's own class feature, and the patches of the last block, without gradient."""
    with torch.no_grad():
        tokens = backbone.run_vision(embedded, (backbone.n_vision_blocks - 1,))
        return ordinary_features_of(backbone, tokens)


def ordinary_features_of(backbone: Backbone, tokens: VisionTokens) -> FrozenFeatures:
    """The same of tokens that a caller needs for more; the last block must be kept."""
    return _features(backbone, tokens, cls_ln_post=True)


def two_state_prediction(
    features: FrozenFeatures, anchors: Tensor, temperature: float, matrix: Tensor
) -> Prediction:
    """Plain CLIP's answer: class token and last patch tokens against the same two texts.

    Args:
        features: Of B images, one level.
        anchors: [B, 2, D] unit norm, normal first.
        temperature: Divides the cosines.
        matrix: [S, g] that upsamples the patch grid.
    """
    score = state_logit(features.class_feature[:, None], anchors, temperature)[:, 0].sigmoid()
    found = state_logit(features.levels[0], anchors, temperature).sigmoid()  # [B, N]
    grid = matrix.shape[1]
    maps = upsample(found.reshape(-1, grid, grid), matrix)
    # rounding may leave the interval by one bit
    return Prediction(image_score=score, anomaly_map=maps.clamp(0, 1))


def _features(backbone: Backbone, tokens: VisionTokens, *, cls_ln_post: bool) -> FrozenFeatures:
    levels = torch.stack([backbone.project_vision(stage[:, 1:]) for stage in tokens.stages])
    project = backbone.project_vision if cls_ln_post else backbone.project_unnormed
    return FrozenFeatures(
        levels=F.normalize(levels, dim=-1),
        class_feature=F.normalize(project(tokens.class_token), dim=-1),
    )
