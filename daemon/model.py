"""Opens the configured model; what is wrong with it becomes one sentence for the operator."""

from pathlib import Path

from daemon.errors import ModelError
from zsad.backbone import Backbone, BackboneError
from zsad.checkpoint import CheckpointError
from zsad.predictor import DeviceError, DeviceName, Predictor, load_predictor


def open_model(
    checkpoint: Path | None, device: DeviceName, *, backbone: Backbone | None = None
) -> Predictor:
    """Load a checkpoint folder; None is the embedded detector.

    Args:
        backbone: An already loaded one to share, on that device.

    Raises:
        ModelError: it is missing, damaged or for another backbone, or the device is absent.
    """
    try:
        return load_predictor(checkpoint, device, backbone=backbone)
    except (BackboneError, CheckpointError) as error:
        name = "embedded model" if checkpoint is None else f"model {checkpoint}"
        raise ModelError(f"{name}: {error}") from error
    except DeviceError as error:
        raise ModelError(str(error)) from error
