"""Trains the vision blocks of the compact backbone, and its text projection, from scratch.

The objective is CLIP's own: cosine between a patch and the two states of a class, here for dense
defect prediction on real masked sets and synthetic defects. The patch descriptors are constants,
so a step sees a random part of a view's patches: with no position embeddings the blocks do not
care which ones are there. Refuses to know the methods that later run on it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.compact import CompactSpec
from zsad.compact_stem import IMAGE_MEAN, IMAGE_STD, N_CHANNELS, TokenProjection
from zsad.corpus import Image
from zsad.preprocess import prepare_image
from zsad.prompts import state_sentences
from zsad.train import StepLosses, TrainStage
from zsad.view_store import Embed, ViewStore

LOGIT_SCALE = 100.0
"""As the methods use it; training at the same scale keeps their probabilities meaningful."""
N_NOUNS = 400
"""Random phrases drawn as class names, one for every view of a step, so that the text projection
keeps what tells the states apart and drops what tells the nouns apart."""

DEFECT_SHARE = 0.08
"""A patch counts as defect when so much of it is; a smaller share is not trained on."""
EARLY_LEVEL_WEIGHT = 0.25
"""Weight of the loss at blocks before the last: methods read all levels."""
POSITIVE_WEIGHT = 3.0
STATISTICS_VIEWS = 200


@dataclass(frozen=True, slots=True)
class PretrainRecipe:
    """Hyperparameters of the compact backbone; chosen on held-out sets, see docs/model-card.md.

    Attributes:
        n_steps: Optimiser steps.
        batch_size: Views a step.
        patches: Patches of a view that a step sees.
        learning_rate: Peak; warms up over 60 steps, then falls as a cosine.
        weight_decay: On matrices.
        channel_dropout: Share of descriptor channels blanked for a view.
        standard_dropout: Share of views that see only the deviation from their own mean.
    """

    n_steps: int = 1500
    batch_size: int = 24
    patches: int = 144
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    channel_dropout: float = 0.15
    standard_dropout: float = 0.2


def describe_views(clip: open_clip.CLIP, spec: CompactSpec, batch_size: int = 10) -> Embed:
    """Patch descriptors [B, N, 616] as float16, for `build_store`."""

    def embed(images: list[Image]) -> NDArray[np.float16]:
        parts = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            prepared = [prepare_image(i, spec.image_size, IMAGE_MEAN, IMAGE_STD) for i in batch]
            with torch.inference_mode():
                maps = clip.visual.conv1.describe(torch.stack(prepared))
            parts.append(maps.flatten(2).transpose(1, 2).half().numpy())
        return np.concatenate(parts)

    return embed


class PretrainViews:
    """The store's views with fixed statistics, per-view means and cues.

    Making one also fills the projection's statistics from evenly spread views.

    Args:
        store: Of `describe_views`.
        projection: Whose statistics are set.
        on_view: Called with views done, views in all.
    """

    def __init__(
        self,
        store: ViewStore,
        projection: TokenProjection,
        on_view: Callable[[int, int], None] | None = None,
    ) -> None:
        self.store, self.projection = store, projection
        self.side = math.isqrt(store.embedded[0].shape[1])
        spread = np.unique(np.linspace(0, len(store) - 1, STATISTICS_VIEWS).astype(int))
        sample = torch.from_numpy(store.embeddings(spread)).float().flatten(0, 1)
        projection.mean.copy_(sample.mean(0))
        projection.std.copy_(sample.std(0) + 1e-3)
        means, cues = [], []
        for chunk in store.embedded:
            with torch.inference_mode():
                standard = self._standard(torch.from_numpy(np.array(chunk)).float())
                means.append(standard.mean(1))
                cues.append(
                    torch.cat(
                        [
                            projection.cues(s, self.side, self.side)
                            for s in torch.split(standard, 10)
                        ]
                    )
                )
            if on_view is not None:
                on_view(len(means) * len(chunk), len(store))
        self.means = torch.cat(means).clone()  # [V, 616]
        self.cues = torch.cat(cues).clone()  # [V, N, 16]
        flat = self.cues[spread].flatten(0, 1)
        projection.cue_mean.copy_(flat.mean(0))
        projection.cue_std.copy_(flat.std(0) + 1e-3)
        self.shares = self._defect_shares()

    def _standard(self, flat: Tensor) -> Tensor:
        """[B, N, 616] descriptors, standardised."""
        h = flat.shape[1]
        return self.projection.standardise(flat.transpose(1, 2).reshape(len(flat), -1, h, 1))

    def _defect_shares(self) -> Tensor:
        """[V, N] share of each patch that is defect."""
        cell = self.store.side // self.side
        shares = []
        for start in range(0, len(self.store), 100):
            masks = self.store.masks_of(np.arange(start, min(start + 100, len(self.store))))
            shares.append(F.avg_pool2d(torch.from_numpy(masks)[:, None], cell).flatten(1))
        return torch.cat(shares)

    def draw(self, rng: np.random.Generator, batch_size: int, patches: int) -> "PatchBatch":
        """Some patches of some views; up to half of the places go to defect patches."""
        views = np.sort(rng.integers(0, len(self.store), batch_size))
        shares = self.shares[views].numpy()
        priority = rng.random(shares.shape)
        rank = np.argsort(np.argsort(np.where(shares > 0, priority, 2.0), axis=1), axis=1)
        priority[(shares > 0) & (rank < patches // 2)] = -1.0
        chosen = np.argpartition(priority, patches - 1, axis=1)[:, :patches]
        descriptors = np.stack(
            [self.store.embeddings([view])[0][row] for view, row in zip(views, chosen, strict=True)]
        )
        rows = torch.from_numpy(chosen)
        at = torch.from_numpy(views)
        return PatchBatch(
            standard=self._standard(torch.from_numpy(descriptors).float()),
            mean=self.means[at],
            cues=self.cues[at].gather(1, rows[..., None].expand(-1, -1, self.cues.shape[-1])),
            shares=self.shares[at].gather(1, rows),
            labels=torch.from_numpy(self.store.labels[views]).float(),
        )


@dataclass(frozen=True, slots=True)
class PatchBatch:
    """K patches of each of B views.

    Attributes:
        standard: [B, K, 616].
        mean: [B, 616] mean over all patches of the view.
        cues: [B, K, 16].
        shares: [B, K] share of the patch that is defect.
        labels: [B] float.
    """

    standard: Tensor
    mean: Tensor
    cues: Tensor
    shares: Tensor
    labels: Tensor


def pretrain_stage(
    clip: open_clip.CLIP, views: PretrainViews, recipe: PretrainRecipe
) -> TrainStage:
    """The one stage that trains a compact backbone."""
    parameters = [
        parameter
        for name, parameter in clip.named_parameters()
        if name == "text_projection"
        or (name.startswith("visual.") and ".cnn." not in name and "positional" not in name)
    ]
    clip.requires_grad_(False)
    sentences = _sentence_features(clip)

    def step(_: int, rng: np.random.Generator) -> StepLosses:
        batch = views.draw(rng, recipe.batch_size, recipe.patches)
        levels = _run_blocks(clip, _tokens(clip.visual.conv1.tokens, batch, recipe, rng))
        nouns = torch.from_numpy(rng.integers(0, N_NOUNS, recipe.batch_size))
        anchors = _anchors(sentences, nouns, clip.text_projection)
        direction = (anchors[:, 1] - anchors[:, 0])[:, :, None]  # [B, D, 1]
        logits = [LOGIT_SCALE * (F.normalize(x, dim=-1) @ direction).squeeze(-1) for x in levels]
        return _losses(logits, batch)

    return TrainStage(
        name="compact_backbone",
        parameters=parameters,
        n_steps=recipe.n_steps,
        learning_rate=lambda step: _cosine(step, recipe),
        step_losses=step,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
        max_gradient_norm=1.0,
    )


def _cosine(step: int, recipe: PretrainRecipe) -> float:
    falling = 0.5 * (1 + math.cos(math.pi * step / recipe.n_steps))
    return recipe.learning_rate * min(1.0, (step + 1) / 60) * falling


def _tokens(
    projection: TokenProjection,
    batch: PatchBatch,
    recipe: PretrainRecipe,
    rng: np.random.Generator,
) -> Tensor:
    """[B, K, width], with channels and absolute values dropped at random."""
    B = len(batch.labels)

    def keep(shape: tuple[int, ...], dropped: float) -> Tensor:
        return torch.from_numpy((rng.random(shape) >= dropped).astype(np.float32))

    channels = (B, 1, N_CHANNELS)
    kept = keep(channels, recipe.channel_dropout) * keep((B, 1, 1), recipe.standard_dropout)
    deviation = batch.standard - batch.mean[:, None]
    cues = (batch.cues - projection.cue_mean) / projection.cue_std
    tokens: Tensor = projection.linear(
        torch.cat(
            [
                batch.standard * kept,
                deviation * keep(channels, recipe.channel_dropout),
                cues,
            ],
            dim=-1,
        )
    )
    return tokens


def _run_blocks(clip: open_clip.CLIP, tokens: Tensor) -> list[Tensor]:
    """Projected tokens after every block, class token first: L tensors [B, 1 + K, D]."""
    visual = clip.visual
    first = visual.class_embedding.expand(len(tokens), 1, -1)
    x = visual.ln_pre(torch.cat([first, tokens], dim=1))
    levels = []
    for block in visual.transformer.resblocks:
        x = block(x)
        levels.append(visual.ln_post(x) @ visual.proj)
    return levels


def _random_nouns(tokenizer: SimpleTokenizer) -> list[str]:
    """Phrases of one to three words of the tokenizer's vocabulary; always the same ones."""
    rng = np.random.default_rng(0)
    words = [
        token.removesuffix("</w>")
        for token in tokenizer.encoder
        if token.endswith("</w>") and token.isascii() and token.removesuffix("</w>").isalpha()
    ]
    words = [word for word in words if len(word) > 2]
    picked = [rng.integers(0, len(words), rng.integers(1, 4)) for _ in range(N_NOUNS - 1)]
    return ["object", *(" ".join(words[i] for i in phrase) for phrase in picked)]


def _sentence_features(clip: open_clip.CLIP) -> tuple[Tensor, Tensor]:
    """What the text projection gets: normal [nouns, 6, text_width], abnormal [nouns, 10, ...]."""
    tokenizer = SimpleTokenizer(context_length=clip.context_length)
    learned = clip.text_projection
    clip.text_projection = nn.Parameter(torch.eye(learned.shape[0]))
    normal, abnormal = [], []
    with torch.no_grad():
        for noun in _random_nouns(tokenizer):
            states = state_sentences(noun)
            normal.append(clip.encode_text(tokenizer(states[0])))
            abnormal.append(clip.encode_text(tokenizer(states[1])))
    clip.text_projection = learned
    return torch.stack(normal), torch.stack(abnormal)


def _anchors(sentences: tuple[Tensor, Tensor], chosen: Tensor, projection: Tensor) -> Tensor:
    """[B, 2, D] unit-norm anchors of the chosen nouns [B], made as AA-CLIP makes them."""
    means = [F.normalize(group[chosen] @ projection, dim=-1).mean(1) for group in sentences]
    return F.normalize(torch.stack(means, dim=1), dim=-1)


def _losses(logits: Sequence[Tensor], batch: PatchBatch) -> StepLosses:
    """Patch, region, image and class-token terms, summed over levels. logits: L x [B, 1 + K]."""
    target, used = _targets(batch.shares)
    terms: dict[str, Any] = dict.fromkeys(("patch", "region", "image", "class_token"), 0.0)
    for level, values in enumerate(logits):
        weight = 1.0 if level == len(logits) - 1 else EARLY_LEVEL_WEIGHT
        patches = values[:, 1:]
        entropy = F.binary_cross_entropy_with_logits(
            patches, target, reduction="none", pos_weight=torch.tensor(POSITIVE_WEIGHT)
        )
        probability = patches.sigmoid() * used
        overlap = 2 * (probability * target).sum(1) + 1
        dice = 1 - overlap / (probability.sum(1) + target.sum(1) + 1)
        peak = patches.topk(3, dim=1).values.mean(1)
        terms["patch"] += weight * 2 * (entropy * used).mean()
        terms["region"] += weight * 0.5 * dice.mean()
        terms["image"] += weight * 0.4 * F.binary_cross_entropy_with_logits(peak, batch.labels)
        terms["class_token"] += (
            weight * 0.1 * F.binary_cross_entropy_with_logits(values[:, 0], batch.labels)
        )
    return StepLosses(total=torch.stack(list(terms.values())).sum(), terms=terms)


def _targets(shares: Tensor) -> tuple[Tensor, Tensor]:
    """[B, K] shares -> targets in {0, 1} and whether a patch is trained on.

    A view whose every defect is a sliver keeps its largest one.
    """
    largest = shares.amax(dim=1, keepdim=True)
    is_sliver_view = (largest > 0) & (largest <= DEFECT_SHARE)
    target = (shares > DEFECT_SHARE) | (is_sliver_view & (shares == largest))
    used = target | (shares == 0)
    return target.float(), used.float()
