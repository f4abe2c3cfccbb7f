"""Makes an open_clip network one that a backbone runs, or says why it cannot be one.

Refuses to know what is done with it.
"""

from typing import Any

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.config.backbone import BackboneConfig, PositionInterpolation

N_STAGES = 4


class BackboneError(ValueError):
    """A backbone cannot be made as asked; the message says what to change."""


def refuse_unknown_kinds(name: str, visual: Any, text: Any) -> None:  # open_clip is untyped
    """Raise BackboneError unless both towers are of the kind that a backbone runs."""
    if not isinstance(visual, VisionTransformer):
        raise BackboneError(
            f"{name}: the vision tower is a {type(visual).__name__}; "
            "a backbone needs open_clip's VisionTransformer"
        )
    if visual.attn_pool is not None or visual.pool_type != "tok":
        raise BackboneError(f"{name}: the vision tower must pool by its class token")
    depth = len(visual.transformer.resblocks)
    if depth % N_STAGES:
        raise BackboneError(f"{name}: {depth} vision blocks do not split into 4 stages")
    blocks = visual.transformer.resblocks
    if not all(isinstance(block, ResidualAttentionBlock) for block in blocks):
        raise BackboneError(f"{name}: vision blocks must be plain pre-norm CLIP blocks")
    if not hasattr(text, "positional_embedding") or text.attn_mask is None:
        raise BackboneError(f"{name}: the text tower must be CLIP's causal transformer")
    if pool_type(text) not in ("argmax", "eos") or getattr(text, "cls_emb", None) is not None:
        raise BackboneError(f"{name}: the text tower must pool by its end-of-text token")
    if not isinstance(text.text_projection, Tensor):
        raise BackboneError(f"{name}: the text projection must be a matrix without bias")


def pool_type(text: Any) -> str:
    """How a text tower finds the token that it pools by: `argmax` or `eos`."""
    kind: str = getattr(text, "text_pool_type", None) or text.pool_type
    return kind


def resize_positions(
    name: str, visual: Any, image_size: int | None, mode: PositionInterpolation
) -> None:
    """Bring the position grid to the input side; the class position stays as it is.

    Raises:
        BackboneError: the side is not a multiple of the patch side.
    """
    patch_px = int(visual.patch_size[0])
    size = int(visual.image_size[0]) if image_size is None else image_size
    if size % patch_px:
        raise BackboneError(
            f"{name}: image_size {size} is not a multiple of the patch side "
            f"{patch_px}; take {round(size / patch_px) * patch_px}"
        )
    source = visual.positional_embedding.detach()
    grid, old = size // patch_px, round((len(source) - 1) ** 0.5)
    if grid != old:
        resized = F.interpolate(
            source[1:].T.reshape(1, -1, old, old),
            size=(grid, grid),
            mode="bilinear" if mode == "bilinear" else "bicubic",
            antialias=mode == "bicubic_antialias",
            align_corners=False,
        )
        visual.positional_embedding = nn.Parameter(torch.cat([source[:1], resized.flatten(2)[0].T]))
    visual.image_size = (size, size)
    visual.grid_size = (grid, grid)


def set_activation(config: BackboneConfig, visual: Any, text: Any) -> None:
    """Give the MLPs of both towers the configured activation."""
    layers: dict[str, type[nn.Module]] = {"quick_gelu": QuickGELU, "gelu": nn.GELU}
    if config.activation == "native":
        return
    for tower in (visual.transformer, text.transformer):
        for block in tower.resblocks:
            block.mlp.gelu = layers[config.activation]()
