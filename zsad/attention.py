"""The parts of one open_clip block, for streams that share, replace or shorten its attention.

`run_whole` is what the block itself computes.
Refuses to know towers and methods.
"""

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def run_whole(block: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """The block itself, without the copies of weights and of attention that torch's own makes.

    Under autocast on a CPU, torch's layer copies its weights for every token of some shapes, and
    without gradients it keeps the attention of all tokens to all others in memory.

    Args:
        block: open_clip's `ResidualAttentionBlock` (open_clip ships no types).
        tokens: [A, T, W].
        mask: [T, T] added to the logits.

    Returns:
        [A, T, W].
    """
    queries, keys, values = project_heads(block, tokens)
    return add_mlp(block, tokens + attend(block, queries, keys, values, mask))


def project_heads(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LN1 and one matrix product: queries, keys, values.

    Args:
        block: open_clip's `ResidualAttentionBlock` (open_clip ships no types).
        tokens: [A, T, W] that enter the block.

    Returns:
        Three [A, heads, T, W / heads].
    """
    attention = block.attn
    stacked = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    split = stacked.reshape(*tokens.shape[:2], 3, attention.num_heads, -1)
    # now [A, T, 3, heads, width of a head]
    queries, keys, values = split.permute(2, 0, 3, 1, 4)
    return queries, keys, values


def attend(
    block: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """What the attention adds to the residual stream of the queries' tokens.

    Args:
        block: Gives the output layer.
        queries: [A, heads, T, d].
        keys: [A, heads, T', d].
        values: [A, heads, T', d].
        mask: [T, T'] added to the logits.

    Returns:
        [A, T, W].
    """
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    added: Tensor = block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
    return added


def add_mlp(block: Any, tokens: Tensor) -> Tensor:
    """The second half of the block: [A, T, W] -> the same shape."""
    finished: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return finished
