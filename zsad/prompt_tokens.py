"""Prompt tokens inserted into both towers, block by block (AdaCLIP).

Refuses to know where the tokens come from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

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
    backbone: Backbone, sentences: Sequence[str], prompts: Sequence[Tensor]
) -> Tensor:
    """Sentence embeddings with prompt tokens in place of the first words.

    Positions 1..n are overwritten before each of the blocks 2..`len(prompts)`; the first block
    sees the words.

    Args:
        backbone: The towers.
        sentences: K sentences whose end-of-text token is behind position n.
        prompts: For each of the first blocks [K, n, text_width]; the first is not used.

    Returns:
        [K, D], not unit length.
    """

    def overwrite(index: int, tokens: Tensor) -> Tensor:
        if index + 1 < len(prompts):
            new = prompts[index + 1]
            return torch.cat([tokens[:, :1], new, tokens[:, 1 + new.shape[1] :]], dim=1)
        return tokens

    return backbone.encode_text(sentences, after_block=overwrite)
