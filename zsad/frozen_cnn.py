"""A frozen CNN that gives one vector an image; any timm network with weights from a file.

Refuses to know what the vector is for, and to download anything.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  # only to recognise a file that is none of ours
from typing import Any, Self

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.config.self_prompting import SelfPromptingSection

_LEVELS = {"last": -1, "second_last": -2}


class CnnError(ValueError):
    """The CNN cannot be made as asked; the message says what to install or change."""


class FrozenCnn(nn.Module):
    """Global average of one of the CNN's maps, always in evaluation mode.

    Its weights are buffers: they are constants, nothing that a detector owns or trains.

    Args:
        network: A timm model.
        level: `last` or `second_last` map.
        size: Input side in pixels; None takes images as they come.
        mean: Channel means that the images were prepared with.
        std: Channel deviations likewise.
        sha256: Of the weights file.

    Attributes:
        width: Channels of the map.
        sha256: Of the weights file.
    """

    mean: Tensor
    std: Tensor
    own_mean: Tensor
    own_std: Tensor

    def __init__(
        self,
        network: Any,  # timm ships no types
        *,
        level: str,
        size: int | None,
        mean: Sequence[float],
        std: Sequence[float],
        sha256: str,
    ) -> None:
        super().__init__()
        self.network = network
        self.sha256 = sha256
        self._level = _LEVELS[level]
        self._size = size
        self.width = int(network.feature_info[self._level]["num_chs"])
        channels = {
            "mean": mean,
            "std": std,
            "own_mean": network.pretrained_cfg["mean"],
            "own_std": network.pretrained_cfg["std"],
        }
        for name, values in channels.items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        for module in network.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
        self.eval()

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002  # nn.Module's own
        """Stay in evaluation mode whatever the detector around it does."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] prepared for the backbone -> [B, width]."""
        images = (images * self.std + self.mean - self.own_mean) / self.own_std
        if self._size is not None and self._size != images.shape[-1]:
            side = (self._size, self._size)
            images = F.interpolate(
                images, size=side, mode="bicubic", antialias=True, align_corners=False
            )
        network: Any = self.network
        maps = network.forward_intermediates(images, indices=[self._level], intermediates_only=True)
        mean: Tensor = maps[0].mean(dim=(2, 3))
        return mean


def load_frozen_cnn(
    options: SelfPromptingSection, mean: Sequence[float], std: Sequence[float]
) -> FrozenCnn | None:
    """The CNN that the options ask for; None where the backbone's patch embedding stands in.

    Raises:
        CnnError: timm does not know it, or its weights are missing, damaged or of another network.
    """
    if not options.wants_cnn:
        return None
    name, path = options.sp_cnn, Path(options.sp_cnn_weights or "").expanduser()
    if not timm.is_model(name):
        raise CnnError(f"sp_cnn is {name!r}, which timm does not know; the published is resnet50")
    network = timm.create_model(name, pretrained=False, num_classes=0)
    if not hasattr(network, "forward_intermediates"):
        raise CnnError(f"sp_cnn {name}: timm gives no intermediate maps of it; take resnet50")
    sha256 = _load_weights(network, name, path, options.sp_cnn_sha256)
    return FrozenCnn(
        network,
        level=options.sp_cnn_level,
        size=options.sp_cnn_size,
        mean=mean,
        std=std,
        sha256=sha256,
    )


def _load_weights(network: nn.Module, name: str, path: Path, wanted_sha256: str | None) -> str:
    """Fill the network; every tensor but a classifier's must be there. The file's SHA-256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CnnError(
            f"weights {path} of {name} cannot be read ({error.strerror}): put a file with "
            f"ImageNet weights of {name} there (timm's model.safetensors or torchvision's .pth), "
            "or set sp_features to patch_embedding"
        ) from error
    sha256 = hashlib.sha256(content).hexdigest()
    if wanted_sha256 is not None and sha256 != wanted_sha256:
        raise CnnError(
            f"weights {path} of {name} have SHA-256 {sha256[:12]}, the detector was trained with "
            f"{wanted_sha256[:12]}: put that file there"
        )
    try:
        state = (
            safetensors.torch.load(content)
            if path.suffix == ".safetensors"
            else torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        )
        if not isinstance(state, dict):
            raise CnnError(f"weights {path} of {name} hold a {type(state).__name__}, no tensors")
        wanted = network.state_dict().keys()
        network.load_state_dict({k: v for k, v in state.items() if k in wanted}, strict=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise CnnError(
            f"weights {path} do not fit {name}: {str(error).strip().splitlines()[0][:200]}"
        ) from error
    return sha256
