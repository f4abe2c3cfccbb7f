"""Vision blocks compiled for a few batch sizes; on a GPU each then runs as a CUDA graph.

One compilation serves all blocks of a tower, for they differ in nothing but their weights. A shape
that was not compiled beforehand runs as ever: nothing is compiled while a line runs.
Refuses to know towers and methods.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Part = Callable[..., Any]
"""A function of `zsad.attention`: a block and tensors in, tensors out."""

_MOST_SHAPES = 64


class CompiledBlocks:
    """What is compiled, and in which shapes.

    Attributes:
        sizes: Batch sizes that are compiled, rising.
    """

    def __init__(self, device: torch.device) -> None:
        self.sizes: tuple[int, ...] = ()
        # captures kernels as CUDA graphs: what a small batch costs on a GPU is starting them
        self._mode = "reduce-overhead" if device.type == "cuda" else None
        self._parts: dict[str, Part] = {}
        self._known: set[tuple[object, ...]] = set()
        self._learns = False

    def filled(self, size: int) -> int:
        """The compiled size that a batch is filled up to; its own where none is as large."""
        return next((known for known in self.sizes if known >= size), size)

    @contextmanager
    def learning(self, size: int) -> Iterator[None]:
        """While it lasts, every shape that comes is compiled; then batches of `size` are."""
        torch._dynamo.config.recompile_limit = _MOST_SHAPES
        torch.compiler.set_stance("default")
        self._learns = True
        try:
            yield
        finally:
            self._learns = False
            torch.compiler.set_stance("eager_on_recompile")
        self.sizes = tuple(sorted({*self.sizes, size}))

    def begin_pass(self) -> None:
        """The outputs of the pass before may be overwritten."""
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def run(
        self, part: Part, half: torch.dtype | None, block: Any, *tensors: Tensor, **how: bool
    ) -> Any:
        """What `part` gives of a block and tensors, compiled if their shapes are known.

        Args:
            half: Of the block's matrices.
        """
        shapes = tuple(tensor.shape for tensor in tensors)
        key = (part.__name__, half, shapes, *how.values())
        if self._learns:
            self._known.add(key)
        elif key not in self._known:
            return part(block, *tensors, **how)
        if part.__name__ not in self._parts:
            self._parts[part.__name__] = torch.compile(part, dynamic=False, mode=self._mode)
        return self._parts[part.__name__](block, *tensors, **how)
