"""The arguments that name a model on a command line."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.cli.arguments import positive_int

if TYPE_CHECKING:
    from zsad.predictor import Predictor
    from zsad.tiling import Tiling


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--checkpoint`, `--batch`, `--device` and `--precision`."""
    parser.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="default: the embedded detector"
    )
    parser.add_argument(
        "--batch", type=positive_int, default=8, metavar="N", help="images at once (8)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="as `model.precision` of a daemon (fp32)",
    )


def add_tiling_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--min-defect-px` and `--max-tiles`."""
    parser.add_argument(
        "--min-defect-px",
        type=positive_int,
        metavar="N",
        help="cut larger images into tiles such that a defect of N pixels is seen (default: look "
        "at the whole image at the detector's input side)",
    )
    parser.add_argument(
        "--max-tiles",
        type=positive_int,
        default=64,
        metavar="N",
        help="refuse an image that needs more (64)",
    )


def named_tiling(args: argparse.Namespace) -> "Tiling | None":
    """The tiling that the arguments name."""
    from zsad.tiling import Tiling

    return None if args.min_defect_px is None else Tiling(args.min_defect_px, args.max_tiles)


def named_model(args: argparse.Namespace) -> "Predictor":
    """Load the model that the arguments name.

    Raises:
        ModelError: it is missing, damaged or for another backbone, or the device is absent, or
            cannot compute so.
    """
    from daemon.model import open_model, use_precision

    predictor = open_model(args.checkpoint, args.device)
    use_precision(predictor, args.precision)
    return predictor
