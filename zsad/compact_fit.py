"""Fits the compact backbone: its patch and text projections, in closed form.

A token carries what the whole descriptor and each of its four scales say about a patch (ridge
regression on real masked sets and synthetic defects) and what the patch looks like (principal
components). The text projection is fitted to tell the states of a class apart, whatever its noun.
Refuses to know the methods that later run on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.compact import CompactSpec
from zsad.compact_blocks import (
    COMMON,
    LOOKS,
    LOOKS_OF_SCALE,
    N_SCALES,
    SCALES,
    SEEN,
    STATE,
    constant_channels,
)
from zsad.compact_stem import IMAGE_MEAN, IMAGE_STD, N_FEATURES, TokenProjection, scale_columns
from zsad.corpus import Image
from zsad.patch_regression import PatchRegression
from zsad.preprocess import prepare_image
from zsad.prompts import StateEnsemble, state_sentences
from zsad.view_store import Embed, ViewStore

N_NOUNS = 400
"""Random phrases put in as class names, so that the text projection keeps what tells the states
apart and drops what tells the nouns apart."""
PLAIN = StateEnsemble(
    normal=("a photo of a normal {}", "a photo of a normal {}."),
    abnormal=("a photo of an anomalous {}", "a photo of a anomalous {}."),
    templates=("{}",),
)
"""Plain CLIP's words for the two states, and those from which a learned context may start.

"a photo of a anomalous" is meant: a context learnt from "a photo of a" (CoOp) does not bend. The
shipped text projection was fitted to these very sentences, so a corrected one needs new weights.
"""
TEXT_RIDGE = 1e-3
STATE_SHARE, SCALE_SHARE = 0.25, 0.05
"""Of a sentence's embedding, beside 1 that all have in common: its state jointly, and for methods
that learn prompts as each scale sees it. Small, so that both states stay equally close to what is
common, and the opinions alone decide."""
LOOKS_SHARE = 0.25
"""The same for what learned prompts say about looks."""
LOOKS_RANK = 24
"""Of the text features, the directions that plain sentences use least; learned prompts use them."""

DEFECT_SHARE = 0.08
"""A patch counts as defect when so much of it is; a smaller share is not trained on."""
FITTED_DEFECT, FITTED_NORMAL = 8, 16
"""Patches of a view that the fit takes, at most: a large defect must not outweigh a small one."""
OPINION_SIZE = 0.3
"""Mean of an opinion over defect patches, and minus that over normal ones."""
LOOKS_SIZE = 0.3
"""Deviation of the channels that say what a patch looks like; small beside the opinions."""
STATISTICS_VIEWS = 200
VIEWS_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class FitRecipe:
    """Hyperparameters of the compact backbone; chosen on held-out sets, see docs/model-card.md.

    Attributes:
        ridge: Penalty of the patch regression.
    """

    ridge: float = 1.0


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


def fit_compact(
    clip: open_clip.CLIP,
    store: ViewStore,
    recipe: FitRecipe,
    on_view: Callable[[int, int], None] | None = None,
) -> None:
    """Fill both projections of a backbone that is laid out.

    Args:
        store: Of `describe_views`.
        on_view: Called with views done, views in all.
    """
    projection = clip.visual.conv1.tokens
    _set_statistics(store, projection)
    regression = _add_up(store, projection, on_view)
    with torch.no_grad():
        _set_tokens(projection, regression, recipe.ridge)
        clip.text_projection.copy_(_fitted_text_projection(clip))


def _set_statistics(store: ViewStore, projection: TokenProjection) -> None:
    """Means and deviations of descriptors and cues over evenly spread views."""
    spread = np.unique(np.linspace(0, len(store) - 1, STATISTICS_VIEWS).astype(int))
    sample = torch.from_numpy(store.embeddings(spread)).float()  # [v, N, 616]
    side = isqrt(sample.shape[1])
    projection.mean.copy_(sample.flatten(0, 1).mean(0))
    projection.std.copy_(sample.flatten(0, 1).std(0) + 1e-3)
    with torch.inference_mode():
        parts = torch.split(sample, VIEWS_AT_ONCE)
        cues = torch.cat([projection.cues(projection.scaled(p), side, side) for p in parts])
    projection.cue_mean.copy_(cues.flatten(0, 1).mean(0))
    projection.cue_std.copy_(cues.flatten(0, 1).std(0) + 1e-3)


def _add_up(
    store: ViewStore, projection: TokenProjection, on_view: Callable[[int, int], None] | None
) -> PatchRegression:
    """Normal equations over some patches of every view."""
    regression, rng = PatchRegression(N_FEATURES), np.random.default_rng(0)
    for start in range(0, len(store), VIEWS_AT_ONCE):
        views = np.arange(start, min(start + VIEWS_AT_ONCE, len(store)))
        with torch.inference_mode():
            standard = projection.scaled(torch.from_numpy(store.embeddings(views)).float())
            side = isqrt(standard.shape[1])
            features = projection.features(standard, projection.cues(standard, side, side))
        masks = torch.from_numpy(store.masks_of(views))[:, None]
        shares = F.avg_pool2d(masks, store.side // side).flatten(1)  # [B, N]
        chosen = [_fitted_patches(rng, s) for s in shares]
        regression.add(
            torch.cat([f[c] for f, c in zip(features, chosen, strict=True)]),
            torch.cat([s[c] > DEFECT_SHARE for s, c in zip(shares, chosen, strict=True)]),
        )
        if on_view is not None:
            on_view(int(views[-1]) + 1, len(store))
    return regression


def _fitted_patches(rng: np.random.Generator, shares: Tensor) -> Tensor:
    """Patches of one view that the fit takes; what is hardly defect is left out."""
    defect = torch.nonzero(shares > DEFECT_SHARE).flatten().numpy()
    normal = torch.nonzero(shares == 0).flatten().numpy()
    chosen = [rng.permutation(defect)[:FITTED_DEFECT], rng.permutation(normal)[:FITTED_NORMAL]]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def _set_tokens(projection: TokenProjection, regression: PatchRegression, ridge: float) -> None:
    """Opinions, constants and looks, in the channels of `zsad.compact_blocks`."""
    weight, bias = projection.linear.weight, projection.linear.bias
    weight.zero_()
    bias.copy_(constant_channels(len(bias)))
    scales = scale_columns()
    for opinion, columns in enumerate([None, *scales]):
        row, intercept = regression.solve(columns, ridge=ridge, size=OPINION_SIZE)
        for channel, sign in ((2 * opinion, 1.0), (2 * opinion + 1, -1.0)):
            weight[channel], bias[channel] = sign * row, sign * intercept
    start = LOOKS.start
    for columns, count in zip(scales, LOOKS_OF_SCALE, strict=True):
        rows, intercepts = regression.principal(columns, count)
        weight[start : start + count] = LOOKS_SIZE * rows
        bias[start : start + count] = LOOKS_SIZE * intercepts
        start += count


def _fitted_text_projection(clip: open_clip.CLIP) -> Tensor:
    """[text_width, D]: every sentence has 1 in common, and a share by its state.

    Each scale's state is read from its own part of the text features, so that a learned prompt
    can weigh the scales against each other. Looks are read from what plain sentences leave unused.
    """
    features, states, weights = _sentence_features(clip)
    projection = torch.zeros_like(clip.text_projection)
    projection[:, COMMON] = _regressed(features, torch.ones_like(states), weights)
    projection[:, STATE] = STATE_SHARE * _regressed(features, states, weights)
    part = features.shape[1] // N_SCALES
    for scale in range(N_SCALES):
        rows = slice(scale * part, (scale + 1) * part)
        seen = _regressed(features[:, rows], states, weights)
        projection[rows, SCALES + scale] = SCALE_SHARE * seen
    projection[:, SEEN:] = LOOKS_SHARE * _unused(features, weights, projection.shape[1] - SEEN)
    return projection


def _regressed(features: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """[F] weights without an intercept."""
    weighted = features * weights[:, None]
    products = weighted.T @ features / weights.sum()
    penalty = TEXT_RIDGE * products.diagonal().mean() * torch.eye(len(products)).double()
    solution: Tensor = torch.linalg.solve(products + penalty, weighted.T @ target / weights.sum())
    return solution.float()


def _unused(features: Tensor, weights: Tensor, n_columns: int) -> Tensor:
    """[F, n_columns] at random, but where the features of plain sentences are about 0."""
    _, directions = torch.linalg.eigh((features * weights[:, None]).T @ features)  # least first
    unused = directions[:, :LOOKS_RANK]
    rng = np.random.default_rng(0)
    drawn = torch.from_numpy(rng.normal(size=(len(unused), n_columns)) / n_columns**0.5)
    projected: Tensor = unused @ unused.T @ drawn
    return projected.float()


def _sentence_features(clip: open_clip.CLIP) -> tuple[Tensor, Tensor, Tensor]:
    """What the text projection gets, for all nouns, in AA-CLIP's and in plain CLIP's words.

    Returns:
        Features [K, text_width], states [K] in {-1, 1}, and weights [K]: every wording of a
        state counts the same, however many sentences it has. All float64.
    """
    tokenizer = SimpleTokenizer(context_length=clip.context_length)
    fitted = clip.text_projection
    clip.text_projection = nn.Parameter(torch.eye(fitted.shape[0]))
    features, states, weights = [], [], []
    for noun in _random_nouns(tokenizer):
        for wording in (state_sentences(noun), PLAIN.sentences(noun)):
            for sentences, state in zip(wording, (-1.0, 1.0), strict=True):
                features.append(clip.encode_text(tokenizer(sentences)).double())
                states += [state] * len(sentences)
                weights += [1 / len(sentences)] * len(sentences)
    clip.text_projection = fitted
    return torch.cat(features), torch.tensor(states).double(), torch.tensor(weights).double()


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
