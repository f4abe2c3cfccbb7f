"""Measures one call: wall time, CPU time, peak memory; and how fast the device multiplies matrices.

Refuses to know detectors.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"
_MATRIX_SIDES = {"cuda": 8192}
_CPU_MATRIX_SIDE = 1024


@dataclass(frozen=True, slots=True)
class Lap:
    """One measured call.

    Attributes:
        wall_s: Until the device was done.
        cpu_s: Of all threads of this process; on a GPU what the host spent.
    """

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Memory:
    """The most memory that one call had at once.

    Attributes:
        peak_bytes: Of the process on a CPU, of torch's tensors on a GPU; weights are in it.
        added_bytes: The same above what was there before the call.
    """

    peak_bytes: int
    added_bytes: int


def wall_seconds(laps: Sequence[Lap]) -> list[float]:
    """One number a call."""
    return [lap.wall_s for lap in laps]


def cpu_seconds(laps: Sequence[Lap]) -> list[float]:
    """One number a call."""
    return [lap.cpu_s for lap in laps]


def measure(call: Callable[[], object], device: torch.device) -> Lap:
    """Run `call` once, and wait for the device before and after."""
    _wait_for(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    _wait_for(device)
    return Lap(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)


def measure_memory(call: Callable[[], object], device: torch.device) -> Memory | None:
    """Run `call` once; None where the system does not tell a process its peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        peak = torch.cuda.max_memory_allocated(device)
        return Memory(peak, peak - before)
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)  # Linux: the peak starts anew at what is in use
    except OSError:
        return None
    start = _process_peak_bytes()
    call()
    end = _process_peak_bytes()
    return None if start is None or end is None else Memory(end, end - start)


@dataclass(frozen=True, slots=True)
class MatrixProduct:
    """A square product of the precision's type, large enough to show the device's rate.

    Attributes:
        side: Of both factors.
    """

    side: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def for_device(cls, device: torch.device, dtype: torch.dtype) -> "MatrixProduct":
        """2 GFLOP on a CPU, 1.1 TFLOP on a GPU."""
        return cls(_MATRIX_SIDES.get(device.type, _CPU_MATRIX_SIDE), dtype, device)

    @property
    def flops(self) -> float:
        """Of one product."""
        return 2.0 * self.side**3

    def prepared(self) -> Callable[[], object]:
        """The call to measure; its factors exist already."""
        factor = torch.full((self.side, self.side), 0.5, dtype=self.dtype, device=self.device)
        return lambda: factor @ factor


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _process_peak_bytes() -> int | None:
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return None if found is None else int(found[1]) * 1024
