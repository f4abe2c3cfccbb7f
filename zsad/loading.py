"""Labelled samples read and prepared by a few threads while a detector works.

Refuses to know what the detector makes of them.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zsad.data import Sample
from zsad.image_files import load_image, load_mask, resize_mask
from zsad.predictor import Predictor

LOADING_THREADS = 4
BATCHES_AHEAD = 2
"""Read or being read while the detector has another; bounds the memory."""


@dataclass(frozen=True, slots=True)
class LoadedSample:
    """A sample at the detector's input side S.

    Attributes:
        image: float32 [3, S, S], prepared.
        mask: bool [S, S]; None for an anomalous image without a pixel label.
    """

    sample: Sample
    image: Tensor
    mask: NDArray[np.bool_] | None


def load_batches(
    samples: Sequence[Sample], batch_size: int, predictor: Predictor
) -> Iterator[list[LoadedSample]]:
    """Batches in the order of the samples, the last one short.

    Raises:
        DataError: a file cannot be read; the first such file in the order of the samples.
    """
    pool = ThreadPoolExecutor(LOADING_THREADS, thread_name_prefix="load")
    waiting: deque[list[Future[LoadedSample]]] = deque()
    try:
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            waiting.append([pool.submit(_load, sample, predictor) for sample in batch])
            if len(waiting) > BATCHES_AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def _load(sample: Sample, predictor: Predictor) -> LoadedSample:
    side = predictor.detector.input_size
    image = predictor.prepare(load_image(sample.image_path))
    if not sample.is_anomalous:
        mask = np.zeros((side, side), np.bool_)
    elif sample.mask_path is None:
        return LoadedSample(sample, image, mask=None)
    else:
        mask = resize_mask(load_mask(sample.mask_path), side, side)
    return LoadedSample(sample, image, mask)
