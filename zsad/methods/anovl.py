"""AnoVL: V-V attention in every block, and an adapter that each test image trains for itself.

Deng et al. 2023, "AnoVL: Adapting Vision-Language Models for Unified Zero-shot Anomaly
Localization" (arXiv 2308.15939); code hq-deng/AnoVL.
Deviation: adapter, optimiser and noise start anew from one seed for every image; the released code
keeps the optimiser's moments, so that there a map depends on the images before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone, VisionTokens
from zsad.config.anovl import AnoVLConfig
from zsad.detector import Detector, Prediction
from zsad.image_views import image_views
from zsad.layers import uniform_weight
from zsad.prompts import ANOVL_NAMES, ANOVL_TEXTURES, anovl_ensemble, spelled_out
from zsad.scoring import state_logit, upsample, upsample_matrix
from zsad.text_anchors import TextAnchors

TEMPERATURE = 1.0
"""The softmax is over raw cosines."""
_CONTRAST_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class AdapterText:
    """Text of a batch.

    Attributes:
        anchors: [B, 2, D] unit norm.
        sentences: [B, K, D] unit norm, all normal ones before all abnormal ones.
    """

    anchors: Tensor
    sentences: Tensor


class AnoVL(Detector):
    """AnoVL on any backbone; no weights are kept.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.
    """

    config: AnoVLConfig

    def __init__(self, backbone: Backbone, config: AnoVLConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.input_size = backbone.input_size
        self.resampling = config.resampling
        self.anchors = TextAnchors(backbone, self._sentences, unit_sentences=False)
        self._upsample: Tensor
        matrix = upsample_matrix(backbone.grid, backbone.input_size)
        self.register_buffer("_upsample", matrix, persistent=False)

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Mean class-token softmax over the views; map of the adapted patches."""
        self.refuse_misfit(images, class_names)
        with torch.inference_mode(False), torch.no_grad():  # adapting needs gradients
            images = images.clone()  # an inference tensor may not enter them
            anchors = self.anchors.unit(class_names)
            tokens = self._both_streams(images)
            scores = [self._class_score(tokens.class_token, anchors)]
            if self.config.views == "all":
                others = islice(image_views(images), 1, None)  # the first is the image itself
                scores += [self._image_score(view, anchors) for view in others]
            sentences = torch.stack([self.anchors.rows(name) for name in class_names])
            text = AdapterText(anchors=anchors, sentences=F.normalize(sentences, dim=-1))
            patches = self.adapted_patches(self._patches_of(tokens), text)
            grid = state_logit(F.normalize(patches, dim=-1), anchors, TEMPERATURE).sigmoid()
            side = self.backbone.grid
            smooth = F.avg_pool2d(
                F.pad(grid.reshape(-1, 1, side, side), (1, 1, 1, 1), mode="replicate"), 3, stride=1
            )
            return Prediction(
                image_score=torch.stack(scores).mean(0),
                anomaly_map=upsample(smooth[:, 0], self._upsample).clamp(0, 1),
            )

    def patch_features(self, images: Tensor) -> Tensor:
        """[B, N, D], any norm: the V-V stream of all blocks."""
        return self._patches_of(self._both_streams(images))

    def _both_streams(self, images: Tensor) -> VisionTokens:
        """The V-V stream's last tokens, and the class token of the ordinary stream beside it."""
        embedded = self.backbone.embed_images(images)
        last = self.backbone.stage_blocks[-1:]
        return self.backbone.run_dual_stream(embedded, last, first_block=0)

    def _patches_of(self, tokens: VisionTokens) -> Tensor:
        return self.backbone.project_vision(tokens.stages[0][:, 1:])

    def adapted_patches(self, patches: Tensor, text: AdapterText) -> Tensor:
        """Test-time adaptation of every image on its own.

        x <- x / 2 + tanh(W unit(x) + b) E / 2, where W and b minimise the entropy of the clean
        patches plus half the cross-entropy that calls noisy patches abnormal and clean ones
        normal.

        Args:
            patches: [B, N, D], any norm; not an inference tensor.
            text: Of the same images.

        Returns:
            [B, N, D], any norm.
        """
        B, N, D = patches.shape
        K = text.sentences.shape[1]
        if self.config.adaptation_steps == 0:
            return patches
        generator = torch.Generator().manual_seed(self.config.seed)
        start = uniform_weight(K, D, generator).detach()
        weight = start.to(patches).repeat(B, 1, 1).requires_grad_()
        bias = (torch.rand(K, generator=generator) * 2 - 1) / D**0.5
        bias = bias.to(patches).repeat(B, 1, 1).requires_grad_()

        def adapt(features: Tensor) -> Tensor:
            affinity = torch.tanh(F.normalize(features, dim=-1) @ weight.mT + bias)
            return 0.5 * features + 0.5 * affinity @ text.sentences

        optimizer = torch.optim.AdamW([weight, bias], lr=self.config.learning_rate)
        with torch.enable_grad():
            for _ in range(self.config.adaptation_steps):
                noise = torch.randn(N, D, generator=generator).to(patches)
                noisy = patches + self.config.noise_std * noise
                losses = adaptation_losses(adapt(patches), adapt(noisy), text.anchors)
                # images share no parameter, so the sum trains each by its own loss
                weight.grad, bias.grad = torch.autograd.grad(losses.sum(), (weight, bias))
                optimizer.step()
        return adapt(patches)

    def _image_score(self, images: Tensor, anchors: Tensor) -> Tensor:
        tokens = self.backbone.run_vision(self.backbone.embed_images(images), ()).class_token
        return self._class_score(tokens, anchors)

    def _class_score(self, class_token: Tensor, anchors: Tensor) -> Tensor:
        feature = F.normalize(self.backbone.project_vision(class_token), dim=-1)
        return state_logit(feature[:, None], anchors, TEMPERATURE).sigmoid()[:, 0]

    def _sentences(self, class_name: str) -> tuple[list[str], list[str]]:
        given = class_name.strip()
        name = ANOVL_NAMES.get(given, given)
        if self.config.spell_out_names:
            name = spelled_out(name)
        return anovl_ensemble(texture=given in ANOVL_TEXTURES).sentences(name)


def adaptation_losses(clean: Tensor, noisy: Tensor, anchors: Tensor) -> Tensor:
    """Loss of every image.

    Args:
        clean: [B, N, D] adapted patches.
        noisy: [B, N, D] adapted patches with noise.
        anchors: [B, 2, D].

    Returns:
        [B].
    """
    logit = state_logit(F.normalize(clean, dim=-1), anchors, TEMPERATURE)
    noisy_logit = state_logit(F.normalize(noisy, dim=-1), anchors, TEMPERATURE)
    log_abnormal, log_normal = F.logsigmoid(logit), F.logsigmoid(-logit)
    entropy = -(log_abnormal.exp() * log_abnormal + log_normal.exp() * log_normal)
    contrast = -F.logsigmoid(noisy_logit) - log_normal
    return (entropy + _CONTRAST_WEIGHT * contrast).mean(dim=-1)
