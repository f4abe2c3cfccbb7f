"""Which detector runs, where, and in what batches."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from daemon.config.section import Section


class ModelConfig(Section):
    """Which trained detector runs, and where.

    Attributes:
        checkpoint: Folder with weights.safetensors and card.json; None is the embedded default.
        device: `auto` takes a CUDA device if there is one.
        threads: CPU threads of the detector; None leaves it to torch.
        commissioning: Load no detector. Frames are received, checked and stored, and every
            verdict is LEARNING without a score: for setting up cameras before a model is chosen.
        references_dir: Where reference banks are kept; must be there after a reboot.
    """

    checkpoint: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    commissioning: bool = False
    references_dir: Path | None = None


class BatchConfig(Section):
    """A batch leaves when it is full or its oldest frame has waited long enough."""

    max_batch_size: Annotated[int, Field(ge=1, le=256)] = 8
    max_queue_delay_ms: Annotated[float, Field(ge=0, le=10_000)] = 40.0
