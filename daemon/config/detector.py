"""Which detector runs, where, and in what batches."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from daemon.config.section import Section

Precision = Literal["fp32", "bf16", "fp16"]


class ModelConfig(Section):
    """Which trained detector runs, and where.

    Attributes:
        checkpoint: Folder with weights.safetensors and card.json; None is the embedded default.
        device: `auto` takes a CUDA device if there is one.
        threads: CPU threads of the detector; None is a core less than there are (or than
            OMP_NUM_THREADS says), for frames are decoded, drawn and stored beside it.
        precision: Of products inside the network's blocks, and of some methods' large ones behind
            them; norms, cosines and scores stay float32.
            16 bits move scores by up to 0.01: calibrate again. `bf16` is for GPUs, and for CPUs
            with AMX or AVX512-BF16 where `zsad benchmark` says that it wins; `fp16` is for GPUs.
        compile: Let torch compile the blocks of the network for batches of 1, 2, 4 ...
            max_batch_size, and fill smaller ones up; on a GPU they then run as CUDA graphs. Takes a
            C++ compiler and seconds to minutes a size at each start; on a CPU it does not pay.
        commissioning: Load no detector. Frames are received, checked and stored, and every
            verdict is LEARNING without a score: for setting up cameras before a model is chosen.
        references_dir: Where reference banks are kept; must be there after a reboot.
    """

    checkpoint: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    precision: Precision = "fp32"
    compile: bool = False
    commissioning: bool = False
    references_dir: Path | None = None


class BatchConfig(Section):
    """A batch leaves when it is full or its oldest frame has waited long enough."""

    max_batch_size: Annotated[int, Field(ge=1, le=256)] = 8
    max_queue_delay_ms: Annotated[float, Field(ge=0, le=10_000)] = 40.0
