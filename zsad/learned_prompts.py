"""Learned tokens in the text tower's input and between its blocks, as explicit functions.

A prompt is `[SOT] learned tokens, words [EOT]`. Refuses to know which prompts a method has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zsad.attention import add_mlp, attend, project_heads
from zsad.backbone import AfterBlock, Backbone

TOKEN_STD = 0.02
"""Deviation of the initial values of learned tokens (CoOp's code and all that follow it)."""
_PLACEHOLDER = "X"  # one token of CLIP's vocabulary


def learned_tokens(*shape: int, generator: torch.Generator) -> nn.Parameter:
    """New tokens N(0, 0.02^2)."""
    tokens = torch.empty(*shape)
    if not tokens.is_meta:  # a network laid out on the meta device has shapes, no values
        tokens.normal_(std=TOKEN_STD, generator=generator)
    return nn.Parameter(tokens)


def deep_token_count(n_text_blocks: int) -> int:
    """AnomalyCLIP's tokens reach 9 of 12 text blocks: learned input, and 8 replacements."""
    return max(0, round(n_text_blocks * 9 / 12) - 1)


def prompt_ids(backbone: Backbone, n_learned: int, words: Sequence[str]) -> Tensor:
    """Token ids of prompts with `n_learned` places before the words, cut after the longest.

    Args:
        backbone: Gives the tokenizer.
        n_learned: Places for learned tokens, right after start-of-text.
        words: K texts ("object.").

    Returns:
        [K, L] int64 on the CPU.

    Raises:
        ValueError: a prompt does not fit into the text context.
    """
    with torch.device("cpu"):  # also while the network is laid out on the meta device
        ids = backbone.tokenizer([" ".join([_PLACEHOLDER] * n_learned + [text]) for text in words])
    length = int(backbone.end_of_text(ids).max()) + 1
    # A tokenizer ends a text that is too long with end-of-text at the last place.
    if length == ids.shape[1]:
        raise ValueError(
            f"{n_learned} learned tokens and {max(words, key=len)!r} do not fit into a text "
            f"context of {ids.shape[1]} tokens; use fewer learned tokens or a shorter name"
        )
    return ids[:, :length]


def place_tokens(backbone: Backbone, ids: Tensor, learned: Tensor, first: int = 1) -> Tensor:
    """What enters the text tower: embedded words, learned tokens over places, positions.

    Args:
        backbone: Gives word embeddings and positions.
        ids: [K, L].
        learned: [K, n, text_width], put at positions first .. first + n - 1.
        first: Position of the first learned token.

    Returns:
        [K, L, text_width].
    """
    words = backbone.embed_words(ids)
    tokens = torch.cat([words[:, :first], learned, words[:, first + learned.shape[1] :]], dim=1)
    return tokens + backbone.text_positions[: ids.shape[1]]


def overwrite_deep(deep_tokens: Iterable[Tensor], *, round_fp16: bool = False) -> AfterBlock:
    """Replace the positions right after start-of-text between the first text blocks.

    Args:
        deep_tokens: One [n, text_width] for the input of block 1, 2, ... (0-based).
        round_fp16: Round them (and so their gradients) to half precision, as the released code
            of AnomalyCLIP and FAPrompt does.
    """
    listed = list(deep_tokens)

    def after_block(index: int, tokens: Tensor) -> Tensor:
        if index >= len(listed):
            return tokens
        deep = listed[index].expand(len(tokens), -1, -1)  # [K, n, text_width]
        if round_fp16:
            deep = deep.half().to(tokens.dtype)
        return torch.cat([tokens[:, :1], deep, tokens[:, 1 + deep.shape[1] :]], dim=1)

    return after_block


def encode_prompts(
    backbone: Backbone, ids: Tensor, tokens: Tensor, after_block: AfterBlock | None = None
) -> Tensor:
    """Embeddings of whole prompts: the end-of-text rows, projected.

    Args:
        backbone: Gives the text tower.
        ids: [K, L], where the end of each text is found.
        tokens: [K, L, text_width] from `place_tokens`.
        after_block: Applied to every text block's output.

    Returns:
        [K, D], not unit length.
    """
    rows = backbone.run_text(tokens, after_block)
    end = backbone.end_of_text(ids)
    return rows[torch.arange(len(rows), device=rows.device), end] @ backbone.text_projection


@dataclass(frozen=True, slots=True)
class TextPrefix:
    """The positions that begin every prompt, as the later positions see them.

    Under the causal mask they do not depend on what follows, so they are computed once.

    Attributes:
        keys: One [1, heads, P, d] a text block.
        values: The same.
    """

    keys: list[Tensor]
    values: list[Tensor]


def encode_prefix(
    backbone: Backbone, tokens: Tensor, after_block: AfterBlock | None = None
) -> TextPrefix:
    """Keys and values of a prompt's first P positions: [1, P, text_width] -> all blocks."""
    mask = backbone.text_mask(tokens.shape[1])
    prefix = TextPrefix(keys=[], values=[])
    for index, block in enumerate(backbone.text_blocks):
        queries, keys, values = project_heads(block, tokens)
        tokens = add_mlp(block, tokens + attend(block, queries, keys, values, mask))
        prefix.keys.append(keys)
        prefix.values.append(values)
        if after_block is not None:
            tokens = after_block(index, tokens)
    return prefix


def encode_suffixes(backbone: Backbone, prefix: TextPrefix, tokens: Tensor) -> Tensor:
    """Embeddings of prompts that share `prefix`; equals encoding them whole.

    Args:
        backbone: Gives the text tower.
        prefix: Positions 0 .. P - 1, deep tokens included.
        tokens: [K, R, text_width] positions P .. P + R - 1, the last one end-of-text.

    Returns:
        [K, D], not unit length.
    """
    length = tokens.shape[1]
    before = prefix.keys[0].shape[2]
    mask = backbone.text_mask(before + length)[before:]  # [R, P + R]
    last = backbone.n_text_blocks - 1
    for index, block in enumerate(backbone.text_blocks):
        queries, keys, values = project_heads(block, tokens)
        keys = _behind(prefix.keys[index], keys)
        values = _behind(prefix.values[index], values)
        if index == last:  # only the end-of-text row is read
            queries, tokens, mask = queries[:, :, -1:], tokens[:, -1:], mask[-1:]
        tokens = add_mlp(block, tokens + attend(block, queries, keys, values, mask))
    return backbone.norm_text(tokens[:, -1]) @ backbone.text_projection


def parameter_state(parameters: Iterable[nn.Parameter]) -> tuple[object, ...]:
    """Changes whenever a parameter was written in place, replaced or moved: a cache's key."""
    return tuple((id(p), p.data_ptr(), p._version, p.device, p.dtype) for p in parameters)


def _behind(shared: Tensor, own: Tensor) -> Tensor:
    """Keys or values [1, heads, P, d] before those of every prompt [K, heads, R, d]."""
    return torch.cat([shared.to(own.dtype).expand(len(own), -1, -1, -1), own], dim=2)
