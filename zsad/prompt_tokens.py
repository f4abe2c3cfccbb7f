"""Prompt tokens inserted into both towers, block by block (AdaCLIP).

Refuses to know where the tokens come from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from zsad.attention import add_mlp, attend, project_heads
from zsad.backbone import Backbone, VisionTokens


def run_prompted_vision(
    backbone: Backbone, embedded: Tensor, prompts: Sequence[Tensor]
) -> VisionTokens:
    """All vision blocks with prompt tokens behind the patches.

    The tokens stay in the sequence to the end; before each of the first `len(prompts)` blocks
    they are thrown away and new ones put in their place.

    Args:
        backbone: The towers.
        embedded: [B, 1 + N, Dv] from `backbone.embed_images`.
        prompts: For each of the first blocks [B, n, Dv]; may be empty.

    Returns:
        The four stages without the prompts.
    """
    end = embedded.shape[1]

    def insert(index: int, tokens: Tensor) -> Tensor:
        if index + 1 < len(prompts):
            return torch.cat([tokens[:, :end], prompts[index + 1]], dim=1)
        return tokens

    tokens = torch.cat([embedded, *prompts[:1]], dim=1)
    found = backbone.run_vision(tokens, backbone.stage_blocks, after_block=insert)
    stages = [stage[:, :end] for stage in found.stages]
    return VisionTokens(stages=stages, class_token=found.class_token)


def encode_prompted_text(
    backbone: Backbone, sentences: Sequence[Sequence[str]], prompts: Sequence[Tensor]
) -> Tensor:
    """Sentence embeddings with every image's prompt tokens in place of the first words.

    Positions 1..n are overwritten before each of the blocks 2..`len(prompts)`; the first block
    sees the words. Behind it start-of-text and the n tokens are the same in all sentences of an
    image, and under the causal mask they stay so: they are computed once an image, and the words
    behind them read their keys and values. Equals encoding every sentence whole.

    Args:
        backbone: The towers.
        sentences: For each of B images S sentences whose end-of-text token is behind position n.
        prompts: For each of the first blocks [B, n, text_width]; the first is not used.

    Returns:
        [B, S, D], not unit length.
    """
    classes = list(dict.fromkeys(tuple(group) for group in sentences))
    rows = [classes.index(tuple(group)) for group in sentences]
    C, S = len(classes), len(classes[0])
    flat = [sentence for group in classes for sentence in group]
    if len(prompts) < 2:
        return backbone.encode_text(flat).reshape(C, S, -1)[rows]

    ids = backbone.tokenizer(flat).to(backbone.text_projection.device)
    end = backbone.end_of_text(ids)
    ids = ids[:, : int(end.max()) + 1]
    first, *others = backbone.text_blocks
    mask = backbone.text_mask(ids.shape[1])
    words = backbone.embed_text(ids)
    words = add_mlp(first, words + attend(first, *project_heads(first, words), mask))

    P = 1 + prompts[1].shape[1]
    prefix = words[:1, :1].expand(len(sentences), -1, -1)  # start-of-text alone sees itself
    of_image = torch.arange(C * S).reshape(C, S)[rows].flatten()  # [B*S] rows of the classes
    words = words[of_image, P:]  # [B*S, L - P, text_width]
    for index, block in enumerate(others, start=1):
        if index < len(prompts):
            prefix = torch.cat([prefix[:, :1], prompts[index]], dim=1)
        queries, keys, values = project_heads(block, prefix)
        prefix = add_mlp(block, prefix + attend(block, queries, keys, values, mask[:P, :P]))
        queries, own_keys, own_values = project_heads(block, words)
        keys = torch.cat([keys.repeat_interleave(S, dim=0), own_keys], dim=2)
        values = torch.cat([values.repeat_interleave(S, dim=0), own_values], dim=2)
        words = add_mlp(block, words + attend(block, queries, keys, values, mask[P:]))
    read = words[torch.arange(len(words), device=words.device), end[of_image] - P]
    projected = backbone.norm_text(read) @ backbone.text_projection
    return projected.reshape(len(sentences), S, -1)
