"""Synthetic weights and inputs of the numerical reference: every tensor from its name.

Philox raw 64-bit words are the only random source (numpy guarantees their stream); a value is the
centred, scaled sum of the four 16-bit parts of one word: mean 0, variance 1, exact in float32.
"""

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor

Rule = tuple[str, tuple[int, ...], float, float]
"""State-dict name, shape, mean, standard deviation."""

_CHUNK = 1 << 14
"""Words at a time: small enough to stay in the processor's cache."""
_EVEN_PARTS = np.uint64(0x0000FFFF0000FFFF)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_SCALE = np.float32(math.sqrt(3.0) / 65536.0)


class SyntheticCase:
    """A named case; `prefix` seeds all of it."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def words(self, key: str, count: int) -> NDArray[np.uint64]:
        """The first raw words of a key."""
        return self._generator(key).random_raw(count)

    def unit(self, key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Mean 0, variance 1, C order."""
        generator = self._generator(key)
        values = np.empty(math.prod(shape), dtype=np.float32)
        for start in range(0, len(values), _CHUNK):
            stop = min(start + _CHUNK, len(values))
            words = generator.random_raw(stop - start)
            pairs = (words & _EVEN_PARTS) + ((words >> np.uint64(16)) & _EVEN_PARTS)
            total = (pairs + (pairs >> np.uint64(32))) & _LOW_HALF
            values[start:stop] = (total.astype(np.float32) - np.float32(131070)) * _SCALE
        return values.reshape(shape)

    def tensor(self, name: str, shape: tuple[int, ...], mean: float, std: float) -> Tensor:
        """float32 tensor of a name."""
        return torch.from_numpy(np.float32(mean) + np.float32(std) * self.unit(name, shape))

    def images(self, side: int, batch: int, patch: int) -> Tensor:
        """[B, 3, S, S] float32, normalised already."""
        return torch.from_numpy(np.stack([self._image(side, b, patch) for b in range(batch)]))

    def masks(self, side: int, labels: list[int]) -> Tensor:
        """[B, S, S] float32: two discs where the label is 1."""
        rows, columns = np.mgrid[:side, :side]
        masks = np.zeros((len(labels), side, side), dtype=np.float32)
        for b in (b for b, label in enumerate(labels) if label):
            raw = [int(word) for word in self.words(f"input.{side}.mask.{b}", 6)]
            for r0, r1, r2 in (raw[:3], raw[3:]):
                cy, cx = side // 4 + r0 % (side // 2), side // 4 + r1 % (side // 2)
                radius = side // 10 + r2 % (side // 8)
                masks[b][(rows - cy) ** 2 + (columns - cx) ** 2 <= radius**2] = 1
        return torch.from_numpy(masks)

    def _image(self, side: int, b: int, patch: int) -> NDArray[np.float32]:
        key, g = f"input.{side}.image.{b}.", side // patch
        layers = ((0.9, 2, "0"), (0.7, g, "1"), (0.5, 2 * g, "2"), (0.3, side, "3"))
        total = np.zeros((3, side, side), dtype=np.float32)
        for weight, cells, suffix in layers:
            noise = self.unit(key + suffix, (3, cells, cells))
            repeated = noise.repeat(side // cells, axis=1).repeat(side // cells, axis=2)
            total = total + np.float32(weight) * repeated
        return total

    def _generator(self, key: str) -> np.random.Philox:
        return np.random.Philox(key=zlib.crc32((self.prefix + key).encode()))


def described_tensors(description: dict[str, Any]) -> Iterator[Rule]:
    """The rules of a network as a reference's `common.json` describes it."""
    blocks = {True: description["vision_blocks"], False: description["text_blocks"]}
    for name, rule in description["names"].items():
        count = blocks[name.startswith("visual.")] if "{i}" in name else 1
        for i in range(count):
            yield (
                name.replace("{i}", str(i)),
                tuple(rule["shape"]),
                float(rule["mean"]),
                float(rule["std"]),
            )


def described_sizes(description: dict[str, Any]) -> dict[str, Any]:
    """open_clip's configuration of a network that `common.json` describes."""
    shapes = {name: rule["shape"] for name, rule in description["names"].items()}
    tokens, vision_width = shapes["visual.positional_embedding"]
    context, text_width = shapes["positional_embedding"]
    return {
        "embed_dim": shapes["visual.proj"][1],
        "vision_cfg": {
            "layers": description["vision_blocks"],
            "width": vision_width,
            "head_width": vision_width // description["vision_heads"],
            "patch_size": description["patch"],
            "image_size": description["patch"] * math.isqrt(tokens - 1),
        },
        "text_cfg": {
            "layers": description["text_blocks"],
            "width": text_width,
            "heads": description["text_heads"],
            "context_length": context,
            "vocab_size": shapes["token_embedding.weight"][0],
        },
    }


def clip_tensors(model: str) -> Iterator[Rule]:
    """The rules of a full-size network, without logit_scale.

    model: open_clip's name; the reference has ViT-L-14-336 and ViT-B-16-plus-240.
    """
    sizes = open_clip.get_model_config(model)
    vision, text, joint = sizes["vision_cfg"], sizes["text_cfg"], sizes["embed_dim"]
    width, patch = vision["width"], vision["patch_size"]
    tokens = (vision["image_size"] // patch) ** 2 + 1
    yield "visual.class_embedding", (width,), 0.0, 0.3
    yield "visual.positional_embedding", (tokens, width), 0.0, 0.3
    yield "visual.proj", (width, joint), 0.0, 0.03
    yield "visual.conv1.weight", (width, 3, patch, patch), 0.0, 0.03
    yield from _norm("visual.ln_pre", width)
    yield from _norm("visual.ln_post", width)
    for i in range(vision["layers"]):
        yield from _block(f"visual.transformer.resblocks.{i}", width)
    for i in range(text["layers"]):
        yield from _block(f"transformer.resblocks.{i}", text["width"])
    yield "token_embedding.weight", (text["vocab_size"], text["width"]), 0.0, 0.02
    yield "positional_embedding", (text["context_length"], text["width"]), 0.0, 0.01
    yield from _norm("ln_final", text["width"])
    yield "text_projection", (text["width"], joint), 0.0, 0.03


def _norm(name: str, width: int) -> Iterator[Rule]:
    yield f"{name}.weight", (width,), 1.0, 0.1
    yield f"{name}.bias", (width,), 0.0, 0.1


def _block(name: str, width: int) -> Iterator[Rule]:
    yield from _norm(f"{name}.ln_1", width)
    yield f"{name}.attn.in_proj_weight", (3 * width, width), 0.0, 0.04
    yield f"{name}.attn.in_proj_bias", (3 * width,), 0.0, 0.02
    yield f"{name}.attn.out_proj.weight", (width, width), 0.0, 0.02
    yield f"{name}.attn.out_proj.bias", (width,), 0.0, 0.02
    yield from _norm(f"{name}.ln_2", width)
    yield f"{name}.mlp.c_fc.weight", (4 * width, width), 0.0, 0.03
    yield f"{name}.mlp.c_fc.bias", (4 * width,), 0.0, 0.02
    yield f"{name}.mlp.c_proj.weight", (width, 4 * width), 0.0, 0.015
    yield f"{name}.mlp.c_proj.bias", (width,), 0.0, 0.02
