"""WinCLIP, zero-shot: CLIP on small windows of patches, scores joined by harmonic means.

Jeong et al. 2023, "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation" (CVPR).
Deviation: sentence embeddings are averaged without normalising them first, as both public
re-implementations do (`unit_sentences`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.winclip import WinCLIPConfig
from zsad.detector import Detector, Prediction
from zsad.prompts import WINCLIP_ENSEMBLE, spelled_out
from zsad.scoring import half_pixel_matrix, state_logit, upsample
from zsad.text_anchors import TextAnchors

WINDOWS_AT_ONCE = 4096
"""Bounds the memory of one pass; the windows of a scale are one batch below it."""
_SCORE_FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class WindowScores:
    """Everything between images and scores.

    Attributes:
        class_feature: [B, D] embedding of the whole image, not unit norm.
        windows: For every window size [B, W, D] embeddings, not unit norm, row by row.
        scores: For every window size [B, W] abnormal probability.
        image_score: [B] abnormal probability of the whole image.
        grid: [B, g, g] after both harmonic means.
    """

    class_feature: Tensor
    windows: list[Tensor]
    scores: list[Tensor]
    image_score: Tensor
    grid: Tensor


class WinCLIP(Detector):
    """WinCLIP on any backbone.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.

    Raises:
        ValueError: a window is larger than the patch grid.
    """

    config: WinCLIPConfig

    def __init__(self, backbone: Backbone, config: WinCLIPConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.input_size = backbone.input_size
        self.anchors = TextAnchors(backbone, self._sentences, unit_sentences=config.unit_sentences)
        for size in config.window_sizes:
            if size > backbone.grid:
                raise ValueError(
                    f"window_sizes holds {size}, the patch grid has a side of {backbone.grid}"
                )
            patches = window_patches(backbone.grid, size)
            self.register_buffer(f"_patches_{size}", patches, persistent=False)
        self._upsample: Tensor
        matrix = half_pixel_matrix(backbone.grid, backbone.input_size)
        self.register_buffer("_upsample", matrix, persistent=False)

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """The image score is that of the whole image; the map joins it with all windows."""
        with torch.inference_mode():
            return self.prediction_of(self.raw_outputs(images, class_names))

    def prediction_of(self, scores: WindowScores) -> Prediction:
        """What `predict` makes of `raw_outputs`."""
        maps = upsample(scores.grid, self._upsample)
        return Prediction(image_score=scores.image_score, anomaly_map=maps.clamp(0, 1))

    def raw_outputs(self, images: Tensor, class_names: Sequence[str]) -> WindowScores:
        """Embeddings and scores of the image and of its windows."""
        self.refuse_misfit(images, class_names)
        with torch.inference_mode():
            tokens = self.backbone.embed_images(images)
            anchors = self.anchors.unit(class_names)
            class_feature = self._embed(tokens)
            image_score = self._probability(class_feature[:, None], anchors)[:, 0]
            inverse = 1 / image_score.clamp_min(_SCORE_FLOOR)[:, None]  # [B, 1]
            windows, scores = [], []
            for size in self.config.window_sizes:
                patches = self.get_buffer(f"_patches_{size}")
                windows.append(self._embed_windows(tokens, patches))
                scores.append(self._probability(windows[-1], anchors))
                inverse = inverse + 1 / harmonic_scores(scores[-1], patches, self.backbone.grid)
            grid = (1 + len(scores)) / inverse.expand(-1, self.backbone.grid**2)
            return WindowScores(
                class_feature=class_feature,
                windows=windows,
                scores=scores,
                image_score=image_score,
                grid=grid.reshape(-1, self.backbone.grid, self.backbone.grid),
            )

    def _embed_windows(self, tokens: Tensor, patches: Tensor) -> Tensor:
        """Every window as a short sequence of its own: class token and its patches.

        tokens [B, 1 + N, Dv], patches [W, n] -> [B, W, D].
        """
        inside = tokens[:, 1 + patches]  # [B, W, n, Dv]
        first = tokens[:, None, :1].expand(-1, len(patches), -1, -1)
        sequences = torch.cat([first, inside], dim=2).flatten(0, 1)  # [B*W, 1 + n, Dv]
        parts = [self._embed(part) for part in torch.split(sequences, WINDOWS_AT_ONCE)]
        return torch.cat(parts).reshape(len(tokens), len(patches), -1)

    def _embed(self, tokens: Tensor) -> Tensor:
        """Sequences that start with the class token -> their class embeddings [A, D]."""
        return self.backbone.project_vision(self.backbone.run_vision(tokens, ()).class_token)

    def _probability(self, features: Tensor, anchors: Tensor) -> Tensor:
        """[B, W, D], any norm, and [B, 2, D] -> [B, W]."""
        unit = F.normalize(features.float(), dim=-1)
        return state_logit(unit, anchors.float(), self.config.temperature).sigmoid()

    def _sentences(self, class_name: str) -> tuple[list[str], list[str]]:
        name = spelled_out(class_name) if self.config.spell_out_names else class_name
        return WINCLIP_ENSEMBLE.sentences(name)


def window_patches(grid: int, size: int) -> Tensor:
    """[W, size * size] int64 patch numbers of all windows at stride 1, row by row."""
    cells = torch.arange(grid * grid).reshape(grid, grid)
    windows = cells.unfold(0, size, 1).unfold(1, size, 1)  # [rows, columns, size, size]
    return windows.reshape(-1, size * size)


def harmonic_scores(scores: Tensor, patches: Tensor, grid: int) -> Tensor:
    """Score of a patch: harmonic mean over the windows that cover it.

    Args:
        scores: [B, W] in [0, 1]; taken as at least 1e-6.
        patches: [W, n] from `window_patches`.
        grid: Patches a side.

    Returns:
        [B, grid * grid].
    """
    inverse = 1 / scores.clamp_min(_SCORE_FLOOR)
    spread = inverse.repeat_interleave(patches.shape[1], dim=1)  # [B, W*n]
    index = patches.flatten()
    total = inverse.new_zeros(len(scores), grid * grid).index_add_(1, index, spread)
    return torch.bincount(index, minlength=grid * grid) / total
