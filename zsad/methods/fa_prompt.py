"""FAPrompt: K fine-grained abnormality prompts (CAP), refined by an image's own prior (DAP).

Zhu et al. 2025, "Fine-grained Abnormality Prompt Learning for Zero-shot Anomaly Detection" (ICCV);
symbols as printed there. Where the released code (repository mala-lab/FAPrompt) differs from the
text, an option of `FAPromptConfig` chooses. The code's eight linear layers that are never called
are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.backbone import AfterBlock, Backbone
from zsad.clip_features import FrozenFeatures, dual_stream_features
from zsad.config.fa_prompt import FAPromptConfig
from zsad.detector import (
    MethodStage,
    Prediction,
    StageLosses,
    TrainableDetector,
    TrainingBatch,
)
from zsad.layers import linear_layer
from zsad.learned_prompts import (
    TextPrefix,
    deep_token_count,
    encode_prefix,
    encode_prompts,
    encode_suffixes,
    learned_tokens,
    overwrite_deep,
    parameter_state,
    place_tokens,
    prompt_ids,
)
from zsad.losses import binary_focal_loss, segmentation_terms, two_state_cross_entropy
from zsad.scoring import half_pixel_matrix, state_logit, upsample

NORMAL_WORDS = "object."
"""After the learned tokens; the full stop is a token."""
BASE_WORDS = "damaged object."
"""Of the abnormal prompt without CAP, which is AnomalyCLIP's."""
BASE_TOKENS = 12
"""Learned tokens of each of AnomalyCLIP's two prompts."""
REDUCTION = 16
"""Width of the prior network's input over that of its hidden layer."""


@dataclass(frozen=True, slots=True)
class PriorFreeTexts:
    """What no image changes.

    Attributes:
        prefix: [SOT] V_1 .. V_E, which begins every prompt; None without CAP.
        normal_raw: [D] F(P^n), not unit length.
        abnormal_each: [K, D] F(P_i^a), not unit length.
        anchors: [1, 2, D] F_n and F_a, unit norm.
    """

    prefix: TextPrefix | None
    normal_raw: Tensor
    abnormal_each: Tensor
    anchors: Tensor


@dataclass(frozen=True, slots=True)
class ImagePrior:
    """What an image's most abnormal patches make of the abnormality prompts.

    Attributes:
        omega: [B, text_width] (Eq. 4).
        anchors: [B, 2, D] F_n and the refined prompts' prototype, unit norm.
        grid: [B, g, g] abnormal probability of every patch with that prototype.
    """

    omega: Tensor
    anchors: Tensor
    grid: Tensor


@dataclass(frozen=True, slots=True)
class RawOutputs:
    """What an evaluation may look at; all probabilities in [0, 1].

    Attributes:
        plain_grid: [B, g, g] s^a without prior.
        prior: With it; None without DAP.
        grid: [B, g, g] mean of both.
        class_probability: [B] p_cls (Eq. 8).
        image_score: [B] s(x) (Eq. 9).
        anomaly_map: [B, S, S] smoothed (Eq. 12).
    """

    plain_grid: Tensor
    prior: ImagePrior | None
    grid: Tensor
    class_probability: Tensor
    image_score: Tensor
    anomaly_map: Tensor


class FAPrompt(TrainableDetector):
    """FAPrompt on any backbone.

    Args:
        backbone: Frozen towers.
        config: The method's decisions.
        seed: Of the initial weights.

    Raises:
        ValueError: more patches are asked for than the backbone has.
    """

    config: FAPromptConfig

    def __init__(self, backbone: Backbone, config: FAPromptConfig, *, seed: int = 0) -> None:
        super().__init__()
        if config.patches > backbone.grid**2:
            raise ValueError(
                f"patches {config.patches} is above the {backbone.grid**2} patches of an image"
            )
        self.backbone = backbone
        self.config = config
        self.input_size = backbone.input_size
        generator = torch.Generator().manual_seed(seed)
        if config.cap:
            E, E2, n_prompts = config.normal_tokens, config.abnormal_tokens, config.prompts
            abnormal_ids = prompt_ids(backbone, E + E2, [config.abnormal_words])
        else:
            E, E2, n_prompts = BASE_TOKENS, BASE_TOKENS, 1
            abnormal_ids = prompt_ids(backbone, E2, [BASE_WORDS])
        width = backbone.text_width
        n_deep = deep_token_count(backbone.n_text_blocks) if config.deep_tokens else 0

        self.normal_tokens = learned_tokens(E, width, generator=generator)
        self.abnormal_tokens = learned_tokens(n_prompts, E2, width, generator=generator)
        self.deep_tokens = nn.ParameterList(
            learned_tokens(config.deep_tokens, width, generator=generator) for _ in range(n_deep)
        )
        self.prior: nn.Sequential | None = None
        if config.dap:
            read = config.patches * backbone.embed_dim
            self.prior = nn.Sequential(
                linear_layer(read, read // REDUCTION, generator),
                nn.ReLU(),
                linear_layer(read // REDUCTION, width, generator),
            )
        grid, side = backbone.grid, backbone.input_size
        self._normal_ids: Tensor
        self._abnormal_ids: Tensor
        self._upsample: Tensor
        self._smooth_upsample: Tensor
        for name, buffer in (
            ("_normal_ids", prompt_ids(backbone, E, [NORMAL_WORDS])),
            ("_abnormal_ids", abnormal_ids),
            ("_upsample", half_pixel_matrix(grid, side)),
            ("_smooth_upsample", half_pixel_matrix(grid, side, config.smoothing_sigma)),
        ):
            self.register_buffer(name, buffer, persistent=False)
        self._cached_texts: PriorFreeTexts | None = None
        self._cache_key: tuple[object, ...] = ()

    # ---------------------------------------------------------------- inference

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Streaming score and map; the class names make no difference."""
        raw = self.raw_outputs(images, class_names)
        # rounding may leave the interval by one bit
        return Prediction(
            image_score=raw.image_score.clamp(0, 1), anomaly_map=raw.anomaly_map.clamp(0, 1)
        )

    def raw_outputs(self, images: Tensor, class_names: Sequence[str]) -> RawOutputs:
        """Everything that the method computes of a batch."""
        with torch.inference_mode():
            self.refuse_misfit(images, class_names)
            features = self.frozen_features(self.backbone.embed_images(images))
            return self.outputs_of(features, self.texts())

    def outputs_of(self, features: FrozenFeatures, texts: PriorFreeTexts) -> RawOutputs:
        """Eqs. 3-4, 8, 9 and 12 from the frozen features of B images."""
        patches, tau = features.levels[0], self.config.temperature
        plain = state_logit(patches, texts.anchors, tau).sigmoid()  # [B, N]
        prior = self._image_prior(patches, plain, texts)
        anchors = texts.anchors if prior is None else prior.anchors
        class_probability = state_logit(features.class_feature[:, None], anchors, tau)[
            :, 0
        ].sigmoid()

        plain_grid = self._to_grid(plain)
        grid = plain_grid if prior is None else (plain_grid + prior.grid) / 2
        peak = plain.amax(dim=1)
        if prior is not None:
            weight = 0.5 if self.config.peaks == "equal" else 2 / 3
            peak = weight * peak + (1 - weight) * prior.grid.amax(dim=(1, 2))
        return RawOutputs(
            plain_grid=plain_grid,
            prior=prior,
            grid=grid,
            class_probability=class_probability,
            image_score=(class_probability + peak) / 2,
            anomaly_map=upsample(grid, self._smooth_upsample),
        )

    def texts(self) -> PriorFreeTexts:
        """`encode_texts`, detached; cached until training changes a token."""
        key = parameter_state(self._listed_parameters())
        if self._cached_texts is None or key != self._cache_key:
            # kept, so in float32 also while the backbone runs in 16 bits
            with self.backbone.executing(), torch.no_grad():
                self._cached_texts = self.encode_texts()
            self._cache_key = key
        return self._cached_texts

    # ---------------------------------------------------------------- encoders

    def encode_texts(self) -> PriorFreeTexts:
        """F_n, F_a and what all prompts begin with."""
        tokens = place_tokens(self.backbone, self._normal_ids, self.normal_tokens[None])
        prefix = None
        if self.config.cap:
            shared = 1 + len(self.normal_tokens)
            prefix = encode_prefix(self.backbone, tokens[:, :shared], self._deep())
            normal = encode_suffixes(self.backbone, prefix, tokens[:, shared:])[0]
        else:
            normal = encode_prompts(self.backbone, self._normal_ids, tokens, self._deep())[0]
        each = self.encode_abnormal(prefix, self.abnormal_tokens)
        return PriorFreeTexts(
            prefix=prefix,
            normal_raw=normal,
            abnormal_each=each,
            anchors=torch.stack([F.normalize(normal, dim=-1), self.prototype(each)])[None],
        )

    def encode_abnormal(self, prefix: TextPrefix | None, abnormal_tokens: Tensor) -> Tensor:
        """Abnormality prompts in one call: tokens [K', E', text_width] -> [K', D].

        Without a prefix the tokens are all that a prompt learns.
        """
        ids = self._abnormal_ids.expand(len(abnormal_tokens), -1)
        if prefix is None:
            tokens = place_tokens(self.backbone, ids, abnormal_tokens)
            return encode_prompts(self.backbone, ids, tokens, self._deep())
        shared = 1 + len(self.normal_tokens)
        tokens = place_tokens(self.backbone, ids, abnormal_tokens, first=shared)
        return encode_suffixes(self.backbone, prefix, tokens[:, shared:])

    def prototype(self, each: Tensor) -> Tensor:
        """F_a of K abnormality prompts: [..., K, D] -> [..., D], unit norm."""
        if self.config.prototype == "normalised":
            each = F.normalize(each, dim=-1)
        return F.normalize(each.mean(-2), dim=-1)

    def refined(self, omega: Tensor, prefix: TextPrefix | None) -> Tensor:
        """Prototypes of B images' refined prompts, B K prompts in one call (Eq. 4).

        omega [B, text_width] goes to every abnormal token of every prompt; returns [B, D].
        """
        tokens = self.abnormal_tokens + omega[:, None, None]  # [B, K, E', text_width]
        each = self.encode_abnormal(prefix, tokens.flatten(0, 1))
        return self.prototype(each.reshape(*tokens.shape[:2], -1))

    def selected(self, plain: Tensor) -> Tensor:
        """Indices [B, M] of the patches that the prior network reads, from s^a [B, N].

        Ties go to the lower index.
        """
        if self.config.selection == "first":
            return torch.arange(self.config.patches, device=plain.device).expand(len(plain), -1)
        order = torch.sort(plain.detach(), dim=1, descending=True, stable=True).indices
        return order[:, : self.config.patches]

    def frozen_features(self, embedded: Tensor) -> FrozenFeatures:
        """Features that no training changes: [B, 1 + N, Dv] from `Backbone.embed_images`."""
        last = self.backbone.stage_blocks[-1:]
        return dual_stream_features(
            self.backbone, embedded, last, cls_ln_post=self.config.cls_ln_post
        )

    # ---------------------------------------------------------------- training

    def stages(self) -> Sequence[MethodStage]:
        """One stage; epoch 7 is the one that the authors evaluate."""
        return (
            MethodStage(
                name="prompts",
                parameters=self._listed_parameters(),
                losses=self._losses_of_batch,
                epochs=7,
                batch_size=8,
                learning_rate=lambda _: 1e-3,
                betas=(0.5, 0.999),
                frozen=lambda embedded: self.frozen_features(embedded).rows(),
            ),
        )

    def losses_of(self, features: FrozenFeatures, masks: Tensor, labels: Tensor) -> StageLosses:
        """Eq. 11: L_local, L_global, L_CAP and L_prior.

        Args:
            features: Of the batch, from `frozen_features`.
            masks: [B, S, S] float in {0, 1}.
            labels: [B] int64, 1 is anomalous.
        """
        config, texts = self.config, self.encode_texts()
        outputs = self.outputs_of(features, texts)
        terms = self._map_losses("plain", outputs.plain_grid, config.plain_map_weight, masks)
        if outputs.prior is not None:
            grid = outputs.prior.grid
            terms |= self._map_losses("prior", grid, config.prior_map_weight, masks)
            squares = outputs.prior.omega.square().mean(dim=1) * (labels == 0)  # [B]
            reduced = squares.sum() if config.prior_reduction == "sum" else squares.mean()
            terms["prior"] = config.prior_weight * reduced
        terms["orthogonality"] = config.orthogonality_weight * _pair_similarity(texts.abnormal_each)
        terms |= self._image_losses(features, texts, outputs, labels)
        return StageLosses.of(terms)

    def _map_losses(
        self, name: str, grid: Tensor, weight: float, masks: Tensor
    ) -> dict[str, Tensor]:
        found = segmentation_terms(
            upsample(grid, self._upsample), masks, rowwise_b1=self.config.dice_rowwise_b1
        )
        return {f"{term}_{name}": weight * value for term, value in found.items()}

    def _image_losses(
        self, features: FrozenFeatures, texts: PriorFreeTexts, outputs: RawOutputs, labels: Tensor
    ) -> dict[str, Tensor]:
        score, weight = outputs.image_score, self.config.image_weight
        if self.config.image_loss == "focal":
            return {"image_focal": weight * binary_focal_loss(score, labels, logits=False)}
        anchors = texts.anchors if outputs.prior is None else outputs.prior.anchors
        entropy = two_state_cross_entropy(
            features.class_feature, anchors, labels, self.config.temperature
        )
        return {
            "image_cross_entropy": weight * entropy,
            "image_focal": weight * binary_focal_loss(score, labels, logits=True),
        }

    def _losses_of_batch(self, batch: TrainingBatch) -> StageLosses:
        features = (
            FrozenFeatures.of_rows(batch.frozen)
            if batch.frozen
            else self.frozen_features(batch.embedded)
        )
        return self.losses_of(features, batch.masks, batch.labels)

    # ---------------------------------------------------------------- parts

    def _deep(self) -> AfterBlock:
        return overwrite_deep(self.deep_tokens, round_fp16=self.config.round_deep_fp16)

    def _listed_parameters(self) -> list[nn.Parameter]:
        prior = () if self.prior is None else self.prior.parameters()
        return [self.normal_tokens, self.abnormal_tokens, *self.deep_tokens, *prior]

    def _image_prior(
        self, patches: Tensor, plain: Tensor, texts: PriorFreeTexts
    ) -> ImagePrior | None:
        """[B, N, D] patch features and their s^a [B, N]; None without DAP."""
        if self.prior is None:
            return None
        index = self.selected(plain)[..., None].expand(-1, -1, patches.shape[-1])
        omega = self.prior(patches.gather(1, index).flatten(1))  # [B, text_width]
        abnormal = self.refined(omega, texts.prefix)
        anchors = torch.stack([texts.anchors[:, 0].expand_as(abnormal), abnormal], dim=1)
        probability = state_logit(patches, anchors, self.config.temperature).sigmoid()
        return ImagePrior(omega=omega, anchors=anchors, grid=self._to_grid(probability))

    def _to_grid(self, values: Tensor) -> Tensor:
        """[B, N] -> [B, g, g], rows first."""
        return values.reshape(-1, self.backbone.grid, self.backbone.grid)


def _pair_similarity(each: Tensor) -> Tensor:
    """Eq. 2: sum of |cosine| over all pairs of K embeddings [K, D]."""
    unit = F.normalize(each, dim=-1)
    return (unit @ unit.T).abs().triu(diagonal=1).sum()
