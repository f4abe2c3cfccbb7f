"""Opens the configured model; what is wrong with it becomes one sentence for the operator."""

from pathlib import Path

from daemon.errors import ModelError
from zsad.backbone import BackboneError
from zsad.checkpoint import CheckpointError
from zsad.predictor import DeviceError, DeviceName, Predictor, load_predictor


def open_model(checkpoint: Path | None, device: DeviceName) -> Predictor:
    """Load a checkpoint folder; None is the embedded detector.

    Raises:
        ModelError: it is missing, damaged or for another backbone, or the device is absent.
    """
    try:
        return load_predictor(checkpoint, device)
    except (BackboneError, CheckpointError) as error:
        name = "embedded model" if checkpoint is None else f"model {checkpoint}"
        raise ModelError(f"{name}: {error}") from error
    except DeviceError as error:
        raise ModelError(str(error)) from error
