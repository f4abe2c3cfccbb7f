"""The one way from pixels to network input, shared by training, evaluation and the daemon.

Refuses to decode files: an image is an array here.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Resampling = Literal["bicubic", "bilinear"]
LARGE = 1.75
"""Both sides over the input's: from here on PIL takes as long as a small network does."""


def prepare_image(
    image: NDArray[np.uint8],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    resampling: Resampling = "bicubic",
) -> Tensor:
    """Resize without keeping the aspect (antialiased), scale to [0, 1], normalise.

    Deviation: the methods were published with PIL's resize. An image of LARGE times the size or
    more goes through torch's of bytes, the same filter in a sixth of the time: at most 3 % of its
    values differ from PIL's, by one level of 255.

    Args:
        image: RGB uint8 [H, W, 3].
        size: Side S in pixels of the network's input.
        mean: Channel means in RGB order, in [0, 1].
        std: Channel standard deviations, > 0.
        resampling: All methods but AnoVL were published with bicubic.

    Returns:
        float32 [3, S, S].

    Raises:
        ValueError: the array is not uint8 [H, W, 3] with at least one pixel.
    """
    return normalise(resize(image, size, resampling), mean, std)


def resize(image: NDArray[np.uint8], size: int, resampling: Resampling = "bicubic") -> Tensor:
    """The first half of `prepare_image`: what crosses to a device, a quarter of the bytes.

    Returns:
        uint8 [3, S, S].

    Raises:
        ValueError: see `prepare_image`.
    """
    _refuse_odd(image)
    if min(image.shape[:2]) >= LARGE * size:
        return _resized_by_torch(image, size, resampling)
    return _resized_by_pil(image, size, resampling)


def as_tensor(image: NDArray[np.uint8]) -> Tensor:
    """A frame's bytes for `resize_there`: [H, W, 3], on the CPU.

    Raises:
        ValueError: see `prepare_image`.
    """
    _refuse_odd(image)
    return torch.from_numpy(np.require(image, requirements=["C", "W"]))  # torch warns of others


def resize_there(pixels: Tensor, size: int, resampling: Resampling = "bicubic") -> Tensor:
    """`resize` on the device of the pixels, for a GPU has time where a CPU has none.

    The same filter in float32, one axis after the other, each rounded to bytes as PIL does: at
    most 0.2 % of the values differ from PIL's, by one level of 255, single ones by two. Only where
    a frame is taller than about twice its width PIL begins with the other axis: then up to 30 %
    differ, by up to 5 levels in noise.

    Args:
        pixels: uint8 [H, W, 3] on any device.

    Returns:
        uint8 [3, S, S], there.
    """
    planes = pixels.permute(2, 0, 1)[None].float()  # [1, 3, H, W]
    for shape in ((len(pixels), size), (size, size)):
        planes = F.interpolate(planes, shape, mode=resampling, antialias=True)
        planes = planes.add_(0.5).floor_().clamp_(0, 255)
    return planes[0].to(torch.uint8)


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The other half, on the device of the pixels: uint8 [..., 3, S, S] -> float32."""
    means, deviations = (
        torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (mean, std)
    )
    return (pixels.float() / 255 - means) / deviations


def prepare_mask(mask: NDArray[np.uint8] | NDArray[np.bool_], size: int) -> Tensor:
    """Resize a defect mask with nearest neighbour; what is not zero is defect.

    Args:
        mask: uint8 or bool [H, W].
        size: Side S in pixels.

    Returns:
        float32 [S, S] in {0, 1}.

    Raises:
        ValueError: the mask is not [H, W].
    """
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"a mask must be [H, W], got {list(mask.shape)}")
    binary = Image.fromarray((mask != 0).astype(np.uint8))
    resized = np.array(binary.resize((size, size), Image.Resampling.NEAREST))
    return torch.from_numpy(resized).float()


def _resized_by_torch(image: NDArray[np.uint8], size: int, resampling: Resampling) -> Tensor:
    """[H, W, 3] -> uint8 [3, S, S]."""
    pixels = as_tensor(image).permute(2, 0, 1)[None]  # [1, 3, H, W]
    return F.interpolate(pixels, (size, size), mode=resampling, antialias=True)[0]


def _resized_by_pil(image: NDArray[np.uint8], size: int, resampling: Resampling) -> Tensor:
    """[H, W, 3] -> uint8 [3, S, S]."""
    filter_ = Image.Resampling[resampling.upper()]
    resized = Image.fromarray(np.ascontiguousarray(image)).resize((size, size), filter_)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def _refuse_odd(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"an image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}; "
            "convert grey or 16-bit pictures first"
        )
