"""The compact backbone behind its patch embedding, by rule: the class token pools the patches.

A token holds opinions, a pooled opinion, a mark of the class token, constants, looks and mean
looks, in this order. Blocks trained by gradient made unseen products worse (docs/model-card.md),
so nothing here is learned: the blocks hand patches on. Refuses to know the CNN.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import isqrt

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

N_SCALES = 4
N_OPINIONS = 1 + N_SCALES
"""Of the whole descriptor, then of each scale, fine to coarse; a pair of channels (+y, -y) each."""
POOLED = 2 * N_OPINIONS
"""First channel of the pair for the opinion that the class token has pooled."""
MARK = POOLED + 2
"""First channel of the pair that marks the class token."""
CONSTANTS = range(MARK + 2, MARK + 20)
LOOKS_OF_SCALE = (9, 13, 17, 13)
LOOKS = range(CONSTANTS.stop, CONSTANTS.stop + sum(LOOKS_OF_SCALE))
"""What a patch looks like, scale by scale; of the class token, what the odd patches look like."""
MEANS_OF_SCALE = (8, 11, 14, 11)
MEANS = range(LOOKS.stop, LOOKS.stop + sum(MEANS_OF_SCALE))
"""Of the class token: what the whole image looks like, in the first looks of every scale."""
CONSTANT = 3.0
"""Large, so that a token's norm, and with it every opinion behind a layer norm, hardly changes."""
SHARPNESS = 12.0
"""Of the class token's attention: how much more it sees of a patch with a higher opinion."""
BORDER_DROP = 0.2
"""Taken off the opinion on patches at the image's border, which the CNN's zero padding makes look
odd; by so much, two sets that were not trained on came out best."""
MEANS_GAIN = 2.0
"""Images differ less in their mean looks than patches in their looks."""
OPINION_GAIN = 0.24
"""Joint embedding: opinion over common part; sets the slope of every method's probabilities."""
LOOKS_GAIN = 0.24
"""The same of looks."""
COMMON, STATE, SCALES = 0, 1, 2
"""Channels of the joint embedding: what all have; damaged (+) against sound (-) by the whole
descriptor and, from the third channel on, by each scale."""
SEEN = SCALES + N_SCALES
"""First channel of the joint embedding for looks and mean looks. Plain words say nothing about
them; learned prompts, adapters and projections can."""
JOINT_DIM = SEEN + len(LOOKS) + len(MEANS)


def constant_channels(width: int) -> Tensor:
    """[width], what every token holds: constants of alternating sign, 0 elsewhere."""
    channels = torch.zeros(width)
    channels[CONSTANTS.start : CONSTANTS.stop : 2] = CONSTANT
    channels[CONSTANTS.start + 1 : CONSTANTS.stop : 2] = -CONSTANT
    return channels


def lay_out_vision(visual: VisionTransformer) -> None:
    """Overwrite a VisionTransformer with two heads behind its patch embedding.

    The blocks add nothing, but for the class token in the first two: there it takes over the mean
    of the patches' looks, then opinion and looks of the patches with high opinions.
    """
    width = len(visual.class_embedding)
    constants = constant_channels(width)
    with torch.no_grad():
        visual.class_embedding.copy_(constants + _pair(width, MARK, CONSTANT))
        visual.positional_embedding.copy_(_positions(visual.positional_embedding))
        for block in visual.transformer.resblocks:
            for name, parameter in block.named_parameters():
                if not name.startswith("ln_"):
                    parameter.zero_()
        mean, soft_maximum = (block.attn for block in visual.transformer.resblocks[:2])
        _lay_out_pooling(mean, _mean_moves(width), sharpness=0)
        _lay_out_pooling(soft_maximum, _soft_maximum_moves(width), sharpness=SHARPNESS)
        _fill_projection(visual.proj, constants)


def _fill_projection(projection: Tensor, constants: Tensor) -> None:
    """[width, JOINT_DIM]: the common part, opinions, looks."""
    width, common = len(constants), CONSTANT * len(CONSTANTS)
    projection.zero_()
    projection[:, COMMON] = constants
    for opinion in range(N_OPINIONS):
        projection[:, STATE + opinion] = _pair(width, 2 * opinion, OPINION_GAIN * common)
    projection[:, STATE] += _pair(width, POOLED, OPINION_GAIN * common)
    for column, channel in enumerate([*LOOKS, *MEANS], start=SEEN):
        projection[channel, column] = LOOKS_GAIN * common


def _positions(like: Tensor) -> Tensor:
    """[1 + N, width]: 0, but for what is taken off at the border."""
    side = isqrt(len(like) - 1)
    border = torch.ones(side, side)
    border[1:-1, 1:-1] = 0
    positions = torch.zeros_like(like)
    positions[1:] = border.flatten()[:, None] * _pair(like.shape[1], 0, -BORDER_DROP)
    return positions


Move = tuple[Tensor, Tensor]
"""What is read from a patch and where the class token gets it, each [width]."""


def _mean_moves(width: int) -> list[Move]:
    first_looks = [
        start + place
        for start, count in zip(
            accumulate(LOOKS_OF_SCALE, initial=LOOKS.start), MEANS_OF_SCALE, strict=False
        )
        for place in range(count)
    ]
    return [
        (_single(width, look, 1.0), _single(width, mean, MEANS_GAIN))
        for look, mean in zip(first_looks, MEANS, strict=True)
    ]


def _soft_maximum_moves(width: int) -> list[Move]:
    opinion = _pair(width, 0, 0.5), _pair(width, POOLED, 1.0)
    return [opinion, *((_single(width, look, 1.0), _single(width, look, 1.0)) for look in LOOKS)]


def _lay_out_pooling(
    attention: nn.MultiheadAttention, moves: Sequence[Move], *, sharpness: float
) -> None:
    """Under the first head the class token attends to patches by the exponential of their opinion.

    Patches attend evenly and would take over a mean; under the second head they take it with the
    other sign, while the class token attends to itself, so that they stay as they are. Queries,
    keys and values lie below each other in the input projection, heads in each.
    """
    width = attention.embed_dim
    head = width // 2
    query, key, value = torch.split(attention.in_proj_weight, width)
    unit = head**0.5 / CONSTANT
    for start in (0, head):
        query[start] = _pair(width, MARK, 0.5)  # only the class token asks
    key[0] = _pair(width, 0, sharpness * unit / 2)
    key[0] -= _pair(width, MARK, SHARPNESS * unit / 2)  # not for itself
    key[head] = _pair(width, MARK, SHARPNESS * unit / 2)  # for nothing else
    for place, (read, write) in enumerate(moves):
        for start, sign in ((0, 1.0), (head, -1.0)):
            value[start + place] = read
            attention.out_proj.weight[:, start + place] = sign * write


def _single(width: int, channel: int, amount: float) -> Tensor:
    channels = torch.zeros(width)
    channels[channel] = amount
    return channels


def _pair(width: int, first: int, amount: float) -> Tensor:
    channels = torch.zeros(width)
    channels[first], channels[first + 1] = amount, -amount
    return channels
