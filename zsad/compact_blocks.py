"""The compact backbone behind its patch embedding, by rule: the class token pools the patches.

A token holds opinions, a pooled opinion, a mark of the class token, constants and looks, in this
order. Blocks trained by gradient made unseen products worse (docs/model-card.md), so nothing here
is learned: the blocks hand patches on. Refuses to know the CNN.
"""

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
LOOKS = CONSTANTS.stop
"""First channel of what a patch looks like, for methods that compare patches with each other."""
CONSTANT = 3.0
"""Large, so that a token's norm, and with it every opinion behind a layer norm, hardly changes."""
SHARPNESS = 12.0
"""Of the class token's attention: how much more it sees of a patch with a higher opinion."""
BORDER_DROP = 0.2
"""Taken off the opinion on patches at the image's border, which the CNN's zero padding makes look
odd; by so much, two sets that were not trained on came out best."""
OPINION_GAIN = 0.24
"""Joint embedding: opinion over common part; sets the slope of every method's probabilities."""
COMMON, STATE, SCALES = 0, 1, 2
"""Channels of the joint embedding: what all have; damaged (+) against sound (-) by the whole
descriptor and, from the third channel on, by each scale."""


def constant_channels(width: int) -> Tensor:
    """[width], what every token holds: constants of alternating sign, 0 elsewhere."""
    channels = torch.zeros(width)
    channels[CONSTANTS.start : CONSTANTS.stop : 2] = CONSTANT
    channels[CONSTANTS.start + 1 : CONSTANTS.stop : 2] = -CONSTANT
    return channels


def lay_out_vision(visual: VisionTransformer) -> None:
    """Overwrite a VisionTransformer with two heads behind its patch embedding.

    The blocks add nothing, but for the two attention heads of the first. Under the first head the
    class token attends to patches by the exponential of their opinion, and takes it over: a soft
    maximum. Patches attend evenly and would take the mean; under the second head they take it
    with the other sign, while the class token attends to itself, so that they stay as they are.
    """
    width = len(visual.class_embedding)
    constants = constant_channels(width)
    with torch.no_grad():
        visual.class_embedding.copy_(constants)
        _set_pair(visual.class_embedding, MARK, CONSTANT)
        visual.positional_embedding.copy_(_positions(visual.positional_embedding))
        for block in visual.transformer.resblocks:
            for name, parameter in block.named_parameters():
                if not name.startswith("ln_"):
                    parameter.zero_()
        _lay_out_pooling(visual.transformer.resblocks[0].attn)
        visual.proj.zero_()
        visual.proj[:, COMMON] = constants
        gain = OPINION_GAIN * CONSTANT * len(CONSTANTS)
        for opinion in range(N_OPINIONS):
            _set_pair(visual.proj[:, STATE + opinion], 2 * opinion, gain)
        _set_pair(visual.proj[:, STATE], POOLED, gain)


def _positions(like: Tensor) -> Tensor:
    """[1 + N, width]: 0, but for what is taken off at the border."""
    side = isqrt(len(like) - 1)
    border = torch.ones(side, side)
    border[1:-1, 1:-1] = 0
    positions = torch.zeros_like(like)
    positions[1:, 0] = -BORDER_DROP * border.flatten()
    positions[1:, 1] = BORDER_DROP * border.flatten()
    return positions


def _lay_out_pooling(attention: nn.MultiheadAttention) -> None:
    """Queries, keys and values lie below each other in the input projection, heads in each."""
    width = attention.embed_dim
    head = width // 2
    query, key, value = torch.split(attention.in_proj_weight, width)
    sharp = SHARPNESS * head**0.5 / CONSTANT
    for start in (0, head):
        _set_pair(query[start], MARK, 0.5)  # only the class token asks
    _set_pair(key[0], MARK, -sharp / 2)  # not for itself
    _set_pair(key[head], MARK, sharp / 2)  # under the second head for nothing else
    _set_pair(key[0], 0, sharp / 2)
    _set_pair(value[0], 0, 0.5)
    _set_pair(value[head], 0, 0.5)
    for start, sign in ((0, 1.0), (head, -1.0)):
        attention.out_proj.weight[POOLED, start] = sign
        attention.out_proj.weight[POOLED + 1, start] = -sign


def _set_pair(channels: Tensor, first: int, amount: float) -> None:
    channels[first], channels[first + 1] = amount, -amount
