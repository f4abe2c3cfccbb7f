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

Resampling = Literal["bicubic", "bilinear"]


def prepare_image(
    image: NDArray[np.uint8],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    resampling: Resampling = "bicubic",
) -> Tensor:
    """Resize without keeping the aspect (PIL, antialiased), scale to [0, 1], normalise.

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
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"an image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}; "
            "convert grey or 16-bit pictures first"
        )
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(
        (size, size), Image.Resampling[resampling.upper()]
    )
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255  # [3, S, S]
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


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
