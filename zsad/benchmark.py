"""How fast methods run, beside the bare visual tower that they stand on, in one run.

Times depend on the machine and on who else uses it; ratios of calls that take turns hardly do.
Weights may be random: no value changes how long a forward takes. Refuses to know files.
"""

import copy
import importlib.metadata
import os
import platform
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

import torch
from pydantic import TypeAdapter
from torch import Tensor

from zsad.backbone import Backbone
from zsad.benchmark_clock import (
    Lap,
    MatrixProduct,
    Memory,
    cpu_seconds,
    measure,
    measure_memory,
    wall_seconds,
)
from zsad.build import build_detector
from zsad.config.method import MethodConfig
from zsad.cost import image_cost, shape_of
from zsad.detector import Detector

Precision = Literal["fp32", "bf16", "fp16"]
Advance = Callable[[int, int, str], None]
"""Told (done, all, what comes next)."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CLASS_NAME = "metal nut"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured and how.

    Attributes:
        batches: Images in a call.
        repeat: Calls of each, taking turns.
        precision: Of the products inside the blocks; the bare tower is of it throughout.
        device: Where.
        matrix_side: Of the product that shows the device's rate; None is one that fits it.
    """

    batches: tuple[int, ...]
    repeat: int
    precision: Precision
    device: torch.device
    matrix_side: int | None = None


@dataclass(frozen=True, slots=True)
class Timed:
    """One method at one batch size.

    Attributes:
        method: Its name.
        batch: B, images in a call.
        laps: Of its calls.
        bare_laps: Of the bare visual forward of the same batch, each just before the method's.
        matrix_laps: Of the matrix product, each just after.
        memory: Of one of its calls.
        image_flops: What an image needs by the cost formulas, its category's text embedded.
        bare_flops: The same of the bare visual forward.
        matrix_flops: Of the matrix product.
    """

    method: str
    batch: int
    laps: tuple[Lap, ...]
    bare_laps: tuple[Lap, ...]
    matrix_laps: tuple[Lap, ...]
    memory: Memory | None
    image_flops: float
    bare_flops: float
    matrix_flops: float

    @property
    def image_s(self) -> float:
        """Median wall time of an image."""
        return _median_wall_s(self.laps) / self.batch

    @property
    def ratio(self) -> float:
        """Median wall time over that of the bare visual forward."""
        return _median_wall_s(self.laps) / _median_wall_s(self.bare_laps)

    @property
    def analytic_ratio(self) -> float:
        """What `ratio` would be if only operations counted."""
        return self.image_flops / self.bare_flops

    @property
    def flops_per_s(self) -> float:
        """Needed operations over the median wall time."""
        return self.image_flops / self.image_s

    @property
    def matrix_flops_per_s(self) -> float:
        """What the device gives in between, by the median product."""
        return self.matrix_flops / _median_wall_s(self.matrix_laps)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Everything that one run measured.

    Attributes:
        rows: By method, then batch.
        left_out: Method -> why it was not measured, or not at every batch size.
    """

    rows: tuple[Timed, ...]
    left_out: dict[str, str]


def method_names() -> tuple[str, ...]:
    """Every method, by name."""
    kinds = get_args(get_args(MethodConfig)[0])  # of the union inside Annotated
    return tuple(sorted(kind.model_fields["method"].default for kind in kinds))


def run_benchmark(
    backbone: Backbone, methods: Sequence[str], settings: Settings, advance: Advance
) -> Benchmark:
    """Measure methods on a backbone that is on the device already, texts embedded beforehand.

    What does not fit the backbone or the device's memory is left out with its reason.
    """
    rows: list[Timed] = []
    left_out: dict[str, str] = {}
    total = len(methods) * len(settings.batches)
    for number, name in enumerate(methods):
        try:
            detector = _detector(name, backbone)
        except ValueError as error:
            left_out[name] = str(error)
            continue
        for index, batch in enumerate(settings.batches):
            advance(number * len(settings.batches) + index, total, f"{name}, batch {batch}")
            try:
                rows.append(_timed(detector, batch, settings))
            except torch.OutOfMemoryError as error:
                left_out[name] = f"batch {batch} and above: {str(error).splitlines()[0]}"
                break
    advance(total, total, "")
    return Benchmark(tuple(rows), left_out)


def to_json(
    found: Benchmark, backbone: Backbone, settings: Settings, at: datetime
) -> dict[str, object]:
    """What `zsad benchmark --json` writes; seconds, bytes and operations."""
    return {
        "date": at.isoformat(timespec="seconds"),
        "device": _device_words(settings.device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {
            **{name: importlib.metadata.version(name) for name in ("zsad", "open_clip_torch")},
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "backbone": {
            "name": backbone.name,
            "image_size": backbone.input_size,
            "bare_flops": shape_of(backbone).visual_pass,
        },
        "precision": settings.precision,
        "repeat": settings.repeat,
        "rows": [_row_json(row) for row in found.rows],
        "left_out": found.left_out,
    }


def _detector(name: str, backbone: Backbone) -> Detector:
    config: MethodConfig = TypeAdapter(MethodConfig).validate_python({"method": name})
    return build_detector(config, backbone).to(backbone.text_projection.device).eval()


def _timed(detector: Detector, batch: int, settings: Settings) -> Timed:
    device, dtype = settings.device, _DTYPES[settings.precision]
    half = None if dtype is torch.float32 else dtype
    backbone = detector.backbone
    generator = torch.Generator().manual_seed(0)
    side = detector.input_size
    images = torch.randn(batch, 3, side, side, generator=generator).to(device)
    product = MatrixProduct.for_device(device, dtype)
    if settings.matrix_side is not None:
        product = MatrixProduct(settings.matrix_side, dtype, device)

    def predict() -> object:
        with backbone.executing(half=half):
            return detector.predict(images, [_CLASS_NAME] * batch)

    bare = _bare(backbone, images, half)
    multiply = product.prepared()
    predict()  # embeds the texts
    memory = measure_memory(predict, device)
    bare()
    multiply()
    laps = [
        (measure(bare, device), measure(predict, device), measure(multiply, device))
        for _ in range(settings.repeat)
    ]
    bare_laps, own_laps, matrix_laps = zip(*laps, strict=True)
    shape = shape_of(backbone)
    return Timed(
        method=detector.config.method,
        batch=batch,
        laps=own_laps,
        bare_laps=bare_laps,
        matrix_laps=matrix_laps,
        memory=memory,
        image_flops=image_cost(detector.config, shape).total,
        bare_flops=shape.visual_pass,
        matrix_flops=product.flops,
    )


def _bare(backbone: Backbone, images: Tensor, half: torch.dtype | None) -> Callable[[], object]:
    """open_clip's own visual forward, as if there were no detector.

    In 16 bits throughout if asked for: under autocast, torch's CPU attention copies its weights
    for every token, and anything would win against that.
    """
    visual = backbone.clip.visual
    if half is not None:
        visual, images = copy.deepcopy(visual).to(half), images.to(half)

    def forward() -> object:
        with torch.inference_mode():
            return visual(images)

    return forward


def _median_wall_s(laps: Sequence[Lap]) -> float:
    return statistics.median(wall_seconds(laps))


def _row_json(row: Timed) -> dict[str, object]:
    return {
        "method": row.method,
        "batch": row.batch,
        "images_per_s": 1 / row.image_s,
        "ms_per_image": 1e3 * row.image_s,
        "bare_ms_per_image": 1e3 * _median_wall_s(row.bare_laps) / row.batch,
        "ratio": row.ratio,
        "ratios": _ratios(row),
        "analytic_ratio": row.analytic_ratio,
        "image_flops": row.image_flops,
        "flops_per_s": row.flops_per_s,
        "matmul_flops_per_s": row.matrix_flops_per_s,
        "share_of_matmul": row.flops_per_s / row.matrix_flops_per_s,
        "peak_bytes": None if row.memory is None else row.memory.peak_bytes,
        "added_bytes": None if row.memory is None else row.memory.added_bytes,
    }


def _ratios(row: Timed) -> dict[str, float]:
    """The ratio by four measures; on a quiet machine they agree."""
    wall, bare_wall = wall_seconds(row.laps), wall_seconds(row.bare_laps)
    cpu, bare_cpu = cpu_seconds(row.laps), cpu_seconds(row.bare_laps)
    return {
        "wall_median": statistics.median(wall) / statistics.median(bare_wall),
        "wall_best": min(wall) / min(bare_wall),
        "cpu_median": statistics.median(cpu) / statistics.median(bare_cpu),
        "cpu_best": min(cpu) / min(bare_cpu),
    }


def _device_words(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1] if found is not None else platform.processor() or platform.machine()
