"""The arguments that name a model on a command line."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.cli.arguments import positive_int

if TYPE_CHECKING:
    from zsad.predictor import Predictor


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--checkpoint`, `--batch` and `--device`."""
    parser.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="default: the embedded detector"
    )
    parser.add_argument(
        "--batch", type=positive_int, default=8, metavar="N", help="images at once (8)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def named_model(args: argparse.Namespace) -> "Predictor":
    """Load the model that the arguments name.

    Raises:
        ModelError: it is missing, damaged or for another backbone, or the device is absent.
    """
    from daemon.model import open_model

    return open_model(args.checkpoint, args.device)
