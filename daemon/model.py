"""Opens the configured model; what is wrong with it becomes one sentence for the operator."""

from pathlib import Path

import torch

from daemon.config.detector import Precision
from daemon.errors import ModelError
from zsad.backbone import Backbone, BackboneError
from zsad.checkpoint import CheckpointError
from zsad.kept_memory import keep_freed_memory
from zsad.predictor import DeviceError, DeviceName, Predictor, load_predictor

_HALVES: dict[Precision, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def open_model(
    checkpoint: Path | None, device: DeviceName, *, backbone: Backbone | None = None
) -> Predictor:
    """Load a checkpoint folder; None is the embedded detector.

    From now on the process keeps the memory that passes of the network free.

    Args:
        backbone: An already loaded one to share, on that device.

    Raises:
        ModelError: it is missing, damaged or for another backbone, or the device is absent.
    """
    keep_freed_memory()
    try:
        return load_predictor(checkpoint, device, backbone=backbone)
    except (BackboneError, CheckpointError) as error:
        name = "embedded model" if checkpoint is None else f"model {checkpoint}"
        raise ModelError(f"{name}: {error}") from error
    except DeviceError as error:
        raise ModelError(str(error)) from error


def use_precision(predictor: Predictor, precision: Precision) -> None:
    """Let a model, and every other one on its backbone, run as the line is configured.

    Raises:
        ModelError: its device cannot do that.
    """
    if precision == "fp16" and predictor.device.type == "cpu":
        raise ModelError("model.precision: fp16 is for a GPU; on a CPU take bf16 or fp32")
    predictor.detector.backbone.run_usually_in(_HALVES[precision])
