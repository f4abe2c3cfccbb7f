"""The detector that a command line names, ready for images of any size."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.cli.arguments import positive_int
from daemon.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from zsad.detector import Detector


@dataclass(frozen=True, slots=True)
class ReadyDetector:
    """A detector on its device, with what its input needs.

    Attributes:
        mean, std: Channel statistics of its backbone.
        version: Of the checkpoint.
    """

    detector: "Detector"
    mean: Sequence[float]
    std: Sequence[float]
    device: "torch.device"
    version: str

    def infer(
        self, images: "Sequence[NDArray[np.uint8]]", class_names: Sequence[str]
    ) -> "tuple[list[float], NDArray[np.float32]]":
        """Scores and maps [B, S, S] of RGB images of any sizes."""
        from zsad.evaluate import predict_images

        return predict_images(
            self.detector, images, class_names, mean=self.mean, std=self.std, device=self.device
        )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--checkpoint`, `--batch` and `--device`."""
    parser.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="default: the embedded detector"
    )
    parser.add_argument(
        "--batch", type=positive_int, default=8, metavar="N", help="images at once (8)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def load_ready(args: argparse.Namespace) -> ReadyDetector:
    """Load the checkpoint that the arguments name, or the embedded one.

    Raises:
        ModelError: it is missing, damaged or for another backbone, or there is no such device.
    """
    import torch

    from zsad.checkpoint import CheckpointError, load_detector
    from zsad.compact import default_checkpoint

    has_cuda = torch.cuda.is_available()
    if args.device == "cuda" and not has_cuda:
        raise ModelError("--device is cuda, but torch sees no CUDA device: use cpu")
    device = torch.device("cuda" if has_cuda and args.device != "cpu" else "cpu")
    path: Path = args.checkpoint or default_checkpoint()
    try:
        loaded = load_detector(path, device)
    except CheckpointError as error:
        raise ModelError(f"model {path}: {error}") from error
    backbone = loaded.detector.backbone
    return ReadyDetector(loaded.detector, backbone.mean, backbone.std, device, loaded.version)
