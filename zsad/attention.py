"""The parts of one open_clip block, for streams that share, replace or shorten its attention.

`run_whole` is what the block itself computes. Products are of the type of the block's matrices,
what enters and leaves is of the tokens' type. Refuses to know towers and methods.
"""

from typing import Any

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE = 1.702
"""Of QuickGELU."""


def run_whole(block: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """The block itself, without the attention of all tokens to all others that torch's own keeps.

    Args:
        block: open_clip's `ResidualAttentionBlock` (open_clip ships no types).
        tokens: [A, T, W].
        mask: [T, T] added to the logits.

    Returns:
        [A, T, W].
    """
    queries, keys, values = project_heads(block, tokens)
    return add_mlp(block, tokens + attend(block, queries, keys, values, mask))


def run_dual(
    block: Any, tokens: Tensor, local: Tensor, *, last: bool = False
) -> tuple[Tensor, Tensor]:
    """One block of an ordinary stream and of the V-V stream beside it, from one projection.

    Args:
        block: open_clip's `ResidualAttentionBlock`.
        tokens: [A, T, W] of the ordinary stream.
        local: [A, T, W] of the V-V stream.
        last: Whether only the class token of the ordinary stream is read behind it.

    Returns:
        Both behind the block; with `last` the first is [A, 1, W].
    """
    queries, keys, values = project_heads(block, tokens)
    local = local + attend(block, values, values, values)
    if last:
        queries, tokens = queries[:, :, :1], tokens[:, :1]
    return add_mlp(block, tokens + attend(block, queries, keys, values)), local


def project_heads(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LN1 and one matrix product: queries, keys, values.

    Args:
        block: open_clip's `ResidualAttentionBlock` (open_clip ships no types).
        tokens: [A, T, W] that enter the block.

    Returns:
        Three [A, heads, T, W / heads].
    """
    attention = block.attn
    normed = block.ln_1(tokens).to(attention.in_proj_weight.dtype)
    stacked = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
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
    mask = None if mask is None else mask.to(queries.dtype)
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    added: Tensor = block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
    return added


def attend_values(block: Any, tokens: Tensor) -> Tensor:
    """V-V attention: the values are queries and keys too; same heads, scale and output layer.

    Args:
        block: open_clip's `ResidualAttentionBlock`.
        tokens: [A, T, W] that enter the block; attention runs along T.

    Returns:
        [A, T, W], what it adds.
    """
    _, _, values = project_heads(block, tokens)
    return attend(block, values, values, values)


def add_mlp(block: Any, tokens: Tensor) -> Tensor:
    """The second half of the block: [A, T, W] -> the same shape."""
    mlp = block.mlp
    normed = block.ln_2(tokens).to(mlp.c_fc.weight.dtype)
    is_quick = type(mlp.gelu) is QuickGELU and torch.is_inference_mode_enabled()
    finished: Tensor = tokens + block.ls_2(_quick_mlp(mlp, normed) if is_quick else mlp(normed))
    return finished


def in_one_pass(mlp: Any) -> Any:  # open_clip is untyped
    """An MLP whose QuickGELU is one pass over the hidden layer, in its own memory; in place.

    x sigmoid(1.702 x) = silu(1.702 x) / 1.702, and the weights around it take over the factors.
    Three passes, each into memory of its own, cost as much as one of the products. Another
    activation stays.
    """
    if type(mlp.gelu) is QuickGELU:
        mlp.c_fc.weight.mul_(_SLOPE)
        mlp.c_fc.bias.mul_(_SLOPE)
        mlp.c_proj.weight.div_(_SLOPE)
        mlp.gelu = nn.SiLU(inplace=True)
    return mlp


def _quick_mlp(mlp: Any, normed: Tensor) -> Tensor:
    """`in_one_pass` for weights that must stay as they are: the products take the factors."""
    hidden = torch.addmm(
        _SLOPE * mlp.c_fc.bias, normed.flatten(0, -2), mlp.c_fc.weight.mT, alpha=_SLOPE
    )
    F.silu(hidden, inplace=True)
    output = torch.addmm(mlp.c_proj.bias, hidden, mlp.c_proj.weight.mT, alpha=1 / _SLOPE)
    return output.view(normed.shape)
