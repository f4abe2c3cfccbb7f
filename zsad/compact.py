"""The embedded backbone: a small open_clip CLIP on a frozen CNN, for a CPU and without downloads.

It is a `CLIP` of open_clip's own classes; only the patch convolution is replaced. Its patch and
text projections come from a file beside this module, its blocks from fixed rules: the vision blocks
pool the patches' opinions for the class token (`zsad.compact_blocks`), the words order the text
embeddings, but no language was ever learned. Refuses to know any method.
"""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zsad.compact_blocks import JOINT_DIM, lay_out_vision
from zsad.compact_stem import (
    IMAGE_MEAN,
    IMAGE_STD,
    STRIDE_PX,
    CompactPatchEmbed,
    load_stem_weights,
    stem_weights_path,
)

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
DEFAULT_COMPACT = "compact-v1"
_TEXT_SEED = "zsad.compact.text.1:"


@dataclass(frozen=True, slots=True)
class CompactSpec:
    """Sizes of one compact backbone; a change of any needs new weights and a new name.

    Attributes:
        image_size: Input side in pixels.
        width: Of the vision blocks.
        layers: Vision blocks; one a stage.
        heads: Of both towers' attention.
        mlp_ratio: Hidden width of the vision MLPs over width.
        embed_dim: Joint embedding.
        text_width: Of the rule-made text tower.
        text_layers: Its depth.
    """

    image_size: int = 320
    width: int = 128
    layers: int = 4
    heads: int = 2
    mlp_ratio: float = 2.0
    embed_dim: int = JOINT_DIM
    text_width: int = 64
    text_layers: int = 4


SPECS: dict[str, CompactSpec] = {DEFAULT_COMPACT: CompactSpec()}


class CompactError(ValueError):
    """A compact backbone cannot be made: unknown name, or its weights are missing or damaged."""


def default_checkpoint() -> Path:
    """Folder of the detector that ships with the package."""
    return WEIGHTS_FOLDER / "clip_compact_v1"


def backbone_weights(name: str) -> Path:
    """File with the trained tensors of a compact backbone."""
    return WEIGHTS_FOLDER / f"{name.replace('-', '_')}.safetensors"


def build_compact_clip(
    name: str,
) -> tuple[open_clip.CLIP, tuple[float, float, float], tuple[float, float, float]]:
    """Make a compact backbone with all its weights.

    Args:
        name: A key of `SPECS`.

    Returns:
        The network, and the channel means and deviations (RGB, in [0, 1]) its input needs.

    Raises:
        CompactError: unknown name, or the weights file is missing or damaged.
        StemWeightsError: the CNN's weights package is missing or another one.
    """
    if name not in SPECS:
        raise CompactError(f"there is no compact backbone {name!r}: choose one of {sorted(SPECS)}")
    clip = lay_out_clip(SPECS[name])
    path = backbone_weights(name)
    try:
        trained = load_file(path)
        load_trained(clip, trained)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CompactError(
            f"weights {path} of {name} cannot be used ({reason}): reinstall zsad"
        ) from error
    return clip, IMAGE_MEAN, IMAGE_STD


def lay_out_clip(spec: CompactSpec) -> open_clip.CLIP:
    """The network with the CNN's weights and the rule-made text tower; the rest is untrained.

    Raises:
        StemWeightsError: the CNN's weights package is missing or another one.
    """
    clip = open_clip.CLIP(
        embed_dim=spec.embed_dim,
        vision_cfg=open_clip.CLIPVisionCfg(
            layers=spec.layers,
            width=spec.width,
            head_width=spec.width // spec.heads,
            mlp_ratio=spec.mlp_ratio,
            patch_size=STRIDE_PX,
            image_size=spec.image_size,
        ),
        text_cfg=open_clip.CLIPTextCfg(
            width=spec.text_width, heads=spec.heads, layers=spec.text_layers
        ),
    )
    embed = CompactPatchEmbed(spec.width)
    load_stem_weights(embed.cnn, stem_weights_path())
    clip.visual.conv1 = embed
    with torch.no_grad():
        lay_out_vision(clip.visual)
        _fill_text_tower(clip, spec)
    return clip.eval()


def trained_tensors(clip: open_clip.CLIP) -> dict[str, Tensor]:
    """What a weights file holds: the two projections; the CNN and all blocks are known."""
    return {
        name: tensor.contiguous()
        for name, tensor in clip.state_dict().items()
        if name == "text_projection" or name.startswith("visual.conv1.tokens.")
    }


def load_trained(clip: open_clip.CLIP, tensors: dict[str, Tensor]) -> None:
    """Inverse of `trained_tensors`.

    Raises:
        RuntimeError: names or shapes do not fit.
    """
    expected = trained_tensors(clip)
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())
        raise RuntimeError(f"{len(odd)} tensors too many or too few, first {odd[0]}")
    clip.load_state_dict(tensors, strict=False)


def _fill_text_tower(clip: open_clip.CLIP, spec: CompactSpec) -> None:
    """CLIP's usual initial scales, with values from a rule instead of torch's generator."""
    width = spec.text_width
    inner = width**-0.5 * (2 * spec.text_layers) ** -0.5
    scales = {
        "attn.in_proj_weight": width**-0.5,
        "attn.out_proj.weight": inner,
        "mlp.c_fc.weight": (2 * width) ** -0.5,
        "mlp.c_proj.weight": inner,
    }
    _fill(clip.token_embedding.weight, "token_embedding", 0.02)
    _fill(clip.positional_embedding, "positional_embedding", 0.01)
    _fill(clip.text_projection, "text_projection", width**-0.5)
    for index, block in enumerate(clip.transformer.resblocks):
        for name, parameter in block.named_parameters():
            if name in scales:
                _fill(parameter, f"block.{index}.{name}", scales[name])
            elif name.endswith("bias"):
                parameter.zero_()


def _fill(parameter: Tensor, name: str, std: float) -> None:
    """Overwrite with values of mean 0 and deviation `std` that depend on the name alone.

    Philox is read for raw 64-bit words, whose stream numpy guarantees across versions. A word
    gives one value: the centred sum of its four 16-bit parts, exact in float32.
    """
    key = zlib.crc32((_TEXT_SEED + name).encode())
    words = np.random.Philox(key=key).random_raw(parameter.numel())
    parts = words.astype("<u8").view("<u2").reshape(-1, 4).sum(axis=1, dtype=np.int64)
    centred = (parts - 2 * 65535).astype(np.float32)
    values = centred * np.float32(std * math.sqrt(3.0) / 65536.0)
    parameter.copy_(torch.from_numpy(values).reshape(parameter.shape))
