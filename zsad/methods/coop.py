"""CoOp: learned context tokens before `normal NAME.` and `anomalous NAME.`.

Zhou et al. 2022, "Learning to Prompt for Vision-Language Models" (IJCV, arXiv 2109.01134v6).
Deviation: the two classes are states of an object, and the optimiser is the one of AnomalyCLIP,
as in the anomaly-detection papers that compare with CoOp. There is no loss on maps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.clip_features import ordinary_features, two_state_prediction
from zsad.config.coop import CoOpConfig
from zsad.detector import (
    MethodStage,
    Prediction,
    StageLosses,
    TrainableDetector,
    TrainingBatch,
)
from zsad.learned_prompts import (
    encode_prompts,
    learned_tokens,
    parameter_state,
    place_tokens,
    prompt_ids,
)
from zsad.losses import two_state_cross_entropy
from zsad.prompts import state_words
from zsad.scoring import half_pixel_matrix


class CoOp(TrainableDetector):
    """CoOp on any backbone.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.
        seed: Of the initial weights.
    """

    config: CoOpConfig

    def __init__(self, backbone: Backbone, config: CoOpConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.input_size = backbone.input_size
        generator = torch.Generator().manual_seed(seed)
        self.context = learned_tokens(
            config.context_tokens, backbone.text_width, generator=generator
        )
        self._upsample: Tensor
        matrix = half_pixel_matrix(backbone.grid, backbone.input_size)
        self.register_buffer("_upsample", matrix, persistent=False)
        self._cached_anchors: dict[str, Tensor] = {}
        self._cache_key: tuple[object, ...] = ()

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Softmax over the two states of class token and patch tokens, the latter upsampled."""
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            features = ordinary_features(self.backbone, self.backbone.embed_images(images))
            return two_state_prediction(
                features, self.anchors(class_names), self.config.temperature, self._upsample
            )

    def anchors(self, class_names: Sequence[str]) -> Tensor:
        """`encode_anchors`, detached; cached by name until training changes the context."""
        key = parameter_state([self.context])
        if key != self._cache_key:
            self._cached_anchors, self._cache_key = {}, key
        missing = sorted(set(class_names) - self._cached_anchors.keys())
        if missing:
            # kept, so in float32 also while the backbone runs in 16 bits
            with self.backbone.executing(), torch.no_grad():
                fresh = self.encode_anchors(missing)
            self._cached_anchors.update(zip(missing, fresh, strict=True))
        return torch.stack([self._cached_anchors[name] for name in class_names])

    def encode_anchors(self, class_names: Sequence[str]) -> Tensor:
        """Unit-norm embeddings [C, 2, D] of the normal and the anomalous state of C classes."""
        words = state_words(class_names, spell_out=self.config.spell_out_names)
        ids = prompt_ids(self.backbone, len(self.context), words).to(self.context.device)
        tokens = place_tokens(self.backbone, ids, self.context.expand(len(ids), -1, -1))
        rows = encode_prompts(self.backbone, ids, tokens)  # [2 C, D]
        return F.normalize(rows, dim=-1).reshape(len(class_names), 2, -1)

    def stages(self) -> Sequence[MethodStage]:
        """One stage."""
        return (
            MethodStage(
                name="context",
                parameters=[self.context],
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
        names = sorted(set(batch.class_names))
        anchors = self.encode_anchors(names)[[names.index(name) for name in batch.class_names]]
        loss = two_state_cross_entropy(
            class_feature, anchors, batch.labels, self.config.temperature
        )
        return StageLosses.of({"image": loss})

    def _class_feature(self, embedded: Tensor) -> tuple[Tensor]:
        """[B, D] unit norm, all that the loss reads of an image."""
        return (ordinary_features(self.backbone, embedded).class_feature,)
