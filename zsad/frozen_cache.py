"""Constants of a frozen backbone, kept in a file of bounded size: epochs after the first read them.

Refuses to know what the constants are; it holds the same tensors for every picture.
"""

import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

logger = logging.getLogger(__name__)

DEFAULT_BYTES = 16 << 30
SPARE_SHARE = 0.1
"""Of the free disk space, so much stays free."""

Compute = Callable[[int], tuple[Tensor, ...]]
"""Position in the batch -> that picture's constants, tensors [1, ...] on any device."""


class FrozenCache:
    """One row a picture. What does not fit is computed anew every time.

    The file is mapped into memory: the system keeps it there while there is room. It is made
    anew by every process, for a row that a killed one wrote may be half a row.

    Args:
        path: Of the file; removed by `close`.
        n_rows: Pictures.
        limit_bytes: Size of the file at most.
        dtype: float32, or float16 to which everything is rounded, also what is computed anew.
    """

    def __init__(self, path: Path, n_rows: int, limit_bytes: int, dtype: torch.dtype) -> None:
        self._path, self._n_rows, self._limit_bytes = path, n_rows, limit_bytes
        # torch and numpy name these types alike
        self._dtype: np.dtype[Any] = np.dtype(str(dtype).removeprefix("torch."))
        self._file: NDArray[Any] | None = None
        self._shapes: list[torch.Size] = []
        self._is_filled = np.zeros(n_rows, np.bool_)

    def fetch(self, rows: Sequence[int | None], compute: Compute) -> tuple[Tensor, ...]:
        """Constants of a batch: kept ones from the file, the others computed and kept.

        They are computed one picture at a time, so that they are the same to the last bit in
        whatever batch a picture comes first: a run that went on after a kill has a new file.

        Args:
            rows: Of each picture of the batch; None for one that has no row (drawn only once).
            compute: Called for the pictures that are not kept.

        Returns:
            Tensors [B, ...], float32 on the CPU.
        """
        found = [self._row(row, at, compute) for at, row in enumerate(rows)]
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

    def close(self) -> None:
        """Remove the file."""
        self._file = None
        self._is_filled[:] = False
        self._path.unlink(missing_ok=True)

    def _row(self, row: int | None, at: int, compute: Compute) -> list[Tensor]:
        """[1, ...] each."""
        if row is not None and self._is_filled[row] and self._file is not None:
            flat = torch.from_numpy(self._file[row].astype(np.float32))
        else:
            fresh = compute(at)
            flat = torch.cat([tensor.detach().flatten().float() for tensor in fresh]).cpu()
            rounded = flat.numpy().astype(self._dtype)
            if self._file is None:
                self._shapes = [tensor.shape for tensor in fresh]
                self._file = self._reserve(len(rounded))
            if row is not None and row < len(self._file):
                self._file[row] = rounded
                self._is_filled[row] = True
            flat = torch.from_numpy(rounded.astype(np.float32))
        parts = torch.split(flat, [math.prod(shape) for shape in self._shapes])
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _reserve(self, width: int) -> NDArray[Any]:
        """As many rows of `width` values as fit."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        row_bytes = width * self._dtype.itemsize
        free = int(shutil.disk_usage(self._path.parent).free * (1 - SPARE_SHARE))
        fitting = min(self._limit_bytes, free) // row_bytes
        if fitting < self._n_rows:
            logger.warning(
                "not all frozen features fit into the cache; the others are computed every time",
                extra={
                    "fitting": fitting,
                    "pictures": self._n_rows,
                    "wanted_bytes": row_bytes * self._n_rows,
                    "limit_bytes": self._limit_bytes,
                    "free_bytes": free,
                },
            )
        n_rows = min(self._n_rows, fitting)
        if n_rows == 0:
            return np.empty((0, width), self._dtype)
        try:
            with self._path.open("wb") as file:  # a full disk must show here, not at a page fault
                os.posix_fallocate(file.fileno(), 0, n_rows * row_bytes)
        except OSError as error:
            logger.warning("frozen features are not cached", extra={"error": str(error)})
            self._path.unlink(missing_ok=True)
            return np.empty((0, width), self._dtype)
        return np.memmap(self._path, self._dtype, mode="r+", shape=(n_rows, width))
