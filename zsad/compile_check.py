"""Compiles a predictor's vision blocks batch size by batch size, and compares each with itself.

Refuses to know why; what cannot be compiled, or computes something else, runs as before.
"""

from collections.abc import Callable

import torch

from zsad.compiled_blocks import CompiledBlocks
from zsad.predictor import Predictor

MOST_IN_FLOAT32 = 1e-4
MOST_IN_16_BITS = 1e-2, 2e-2
"""Differences of image scores and of maps that rounding explains."""
_PASSES = 3
"""A GPU's graph is warmed up by the first, captured by the second, used by the third."""


class CompileError(RuntimeError):
    """The blocks run as before; the message says why."""


def compile_blocks(
    predictor: Predictor,
    max_batch: int,
    class_name: str,
    on_batch: Callable[[], None] = lambda: None,
) -> None:
    """Compile for batches of 1, 2, 4 ... `max_batch`; smaller ones will be filled up.

    Args:
        on_batch: Called after each pass; each batch size takes seconds to minutes.

    Raises:
        CompileError: there is no compiler, it fails, or its result differs too much.
    """
    detector, backbone = predictor.detector, predictor.detector.backbone
    if backbone.compiled is not None:  # by another detector on the same backbone
        detector.compiled = backbone.compiled
        return
    compiled = CompiledBlocks(predictor.device)
    try:
        for size in _sizes(max_batch):
            _compile(predictor, compiled, size, class_name, on_batch)
    except torch.OutOfMemoryError:
        backbone.use_compiled(None)
        raise
    except RuntimeError as error:  # what torch raises for whatever went wrong in a compiler
        backbone.use_compiled(None)
        reason = str(error).strip().splitlines()[0][:200]
        raise CompileError(f"not compiled: {reason}") from error
    detector.compiled = compiled


def _compile(
    predictor: Predictor,
    compiled: CompiledBlocks,
    size: int,
    class_name: str,
    on_batch: Callable[[], None],
) -> None:
    backbone, side = predictor.detector.backbone, predictor.detector.input_size
    images = torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(size))
    names = [class_name] * size
    backbone.use_compiled(None)
    scores, maps = predictor.predict_prepared(images, names)
    on_batch()
    backbone.use_compiled(compiled)
    with compiled.learning(size):
        for _ in range(_PASSES):
            found_scores, found_maps = predictor.predict_prepared(images, names)
            on_batch()
    is_exact = backbone.half_type is None
    most_score, most_map = (MOST_IN_FLOAT32,) * 2 if is_exact else MOST_IN_16_BITS
    by_score = float((torch.tensor(scores) - torch.tensor(found_scores)).abs().max())
    by_map = float(abs(maps - found_maps).max())
    if not (by_score <= most_score and by_map <= most_map):  # NaN is refused too
        raise CompileError(
            f"batches of {size} differ from what they were by {by_score:.2g} in a score and "
            f"{by_map:.2g} in a map, allowed are {most_score} and {most_map}"
        )


def _sizes(max_batch: int) -> list[int]:
    """1, 2, 4 ... and `max_batch` itself."""
    return sorted({*(2**n for n in range(max_batch.bit_length())), max_batch})
