"""Plain CLIP with a linear correction for every product that people labelled.

Radford et al. 2021 (arXiv 2103.00020, section 3.2) train a linear classifier on frozen features;
Wortsman et al. 2022 (arXiv 2109.01903) start it from the zero-shot one. Here each product has a
probe of its own that is added to the zero-shot logits, and starts at 0: a product without one is
scored exactly as before, so nothing can be forgotten.
Deviation: one probe for patches and one for images, the latter on mean and deviation of the patch
tokens, because a defect of the whole surface is in no single patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zsad.backbone import Backbone
from zsad.clip_features import ordinary_features_of
from zsad.config.linear_probe import LinearProbeConfig
from zsad.detector import Detector, Prediction
from zsad.prompts import zero_shot_sentences
from zsad.scoring import half_pixel_matrix, state_logit, upsample
from zsad.text_anchors import TextAnchors

PEAK_PATCHES = 5
"""An image's most suspicious patches, whose mean change enters its score."""


@dataclass(frozen=True, slots=True)
class Readings:
    """All that probes read of images; constants of the frozen backbone and the class names.

    Attributes:
        image_logit: [B] zero-shot, of the class token.
        patch_logit: [B, N] zero-shot.
        patches: [B, N, Dv] last patch tokens behind `ln_post`.
    """

    image_logit: Tensor
    patch_logit: Tensor
    patches: Tensor

    def cpu(self) -> "Readings":
        """The same in the computer's memory."""
        return Readings(self.image_logit.cpu(), self.patch_logit.cpu(), self.patches.cpu())

    def summary(self) -> Tensor:
        """[B, 2 Dv]: what the image probe reads."""
        return torch.cat([self.patches.mean(dim=1), self.patches.std(dim=1)], dim=-1)


class LinearProbe(Detector):
    """Zero-shot CLIP with probes, on any backbone; `zsad.probe_fit` fits them.

    Attributes:
        patch_weight, patch_bias: [P, Dv], [P].
        image_weight, image_bias: [P, 2 Dv], [P].

    Args:
        backbone: Frozen towers.
        config: Which P products have probes.
    """

    config: LinearProbeConfig

    def __init__(self, backbone: Backbone, config: LinearProbeConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.input_size = backbone.input_size
        P, Dv = len(config.products), backbone.vision_width
        for name, shape in (
            ("patch_weight", (P, Dv)),
            ("patch_bias", (P,)),
            ("image_weight", (P, 2 * Dv)),
            ("image_bias", (P,)),
        ):
            setattr(self, name, nn.Parameter(torch.zeros(shape), requires_grad=False))
        self.patch_weight: nn.Parameter
        self.patch_bias: nn.Parameter
        self.image_weight: nn.Parameter
        self.image_bias: nn.Parameter
        self._row = {name: row for row, name in enumerate(config.products)}
        self.anchors = TextAnchors(
            backbone, lambda name: zero_shot_sentences(config.zero_shot, name)
        )
        self._upsample: Tensor
        matrix = half_pixel_matrix(backbone.grid, backbone.input_size)
        self.register_buffer("_upsample", matrix, persistent=False)

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Sigmoids of the corrected logits; of patches upsampled."""
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            found = self.readings(self.backbone.embed_images(images), class_names)
            patch, image = self.corrected(found, class_names)
            grid = patch.sigmoid().reshape(-1, self.backbone.grid, self.backbone.grid)
            maps = upsample(grid, self._upsample).clamp(0, 1)  # rounding
            return Prediction(image_score=image.sigmoid(), anomaly_map=maps)

    def readings(self, embedded: Tensor, class_names: Sequence[str]) -> Readings:
        """From `backbone.embed_images`, [B, 1 + N, Dv], without gradient."""
        backbone, temperature = self.backbone, self.config.zero_shot.temperature
        with torch.no_grad():
            tokens = backbone.run_vision(embedded, (backbone.n_vision_blocks - 1,))
            features = ordinary_features_of(backbone, tokens)
            anchors = self.anchors.unit(class_names)
            image = state_logit(features.class_feature[:, None], anchors, temperature)[:, 0]
            return Readings(
                image_logit=image,
                patch_logit=state_logit(features.levels[0], anchors, temperature),
                patches=backbone.norm_vision(tokens.stages[0][:, 1:]),
            )

    def corrected(self, found: Readings, class_names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Logits of patches [B, N] and of images [B]."""
        patch, image = [], []
        summary = found.summary()
        for i, name in enumerate(class_names):
            plain_patch, plain_image = found.patch_logit[i], found.image_logit[i]
            row = self._row.get(name)
            if row is not None:
                tuned = plain_patch + found.patches[i] @ self.patch_weight[row]
                tuned = tuned + self.patch_bias[row]
                probe = summary[i] @ self.image_weight[row] + self.image_bias[row]
                plain_image = plain_image + peak_change(tuned, plain_patch) + probe
                plain_patch = tuned
            patch.append(plain_patch)
            image.append(plain_image)
        return torch.stack(patch), torch.stack(image)

    def take_probe(self, other: "LinearProbe", product: str) -> None:
        """Copy one product's probe; both must have it."""
        row, other_row = self._row[product], other._row[product]
        for name, parameter in self.own_parameters().items():
            parameter[row] = other.own_parameters()[name][other_row]

    def set_patch_probe(self, product: str, weight: Tensor, bias: Tensor) -> None:
        """[Dv] and scalar."""
        row = self._row[product]
        self.patch_weight[row], self.patch_bias[row] = weight, bias

    def set_image_probe(self, product: str, weight: Tensor, bias: Tensor) -> None:
        """[2 Dv] and scalar."""
        row = self._row[product]
        self.image_weight[row], self.image_bias[row] = weight, bias


def peak_change(tuned: Tensor, plain: Tensor) -> Tensor:
    """How much higher the highest patches are than they were: [..., N], [..., N] -> [...]."""
    count = min(PEAK_PATCHES, tuned.shape[-1])
    highest, before = (logits.topk(count, dim=-1).values.mean(-1) for logits in (tuned, plain))
    return highest - before
