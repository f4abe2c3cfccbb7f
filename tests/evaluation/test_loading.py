"""Files read ahead by threads: same order, bounded memory, the first bad file named."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.data import Sample
from zsad.datasets.layouts import read_dataset
from zsad.detector import Detector, Prediction
from zsad.image_files import DataError, load_image
from zsad.loading import BATCHES_AHEAD, load_batches
from zsad.predictor import Predictor


class IdleDetector(Detector):
    input_size = 20

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        raise AssertionError("nothing is predicted here")


class CountingPredictor(Predictor):
    """Counts what was prepared."""

    n_prepared = 0

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        CountingPredictor.n_prepared += 1
        return super().prepare(image)


def predictor_of(kind: type[Predictor] = Predictor) -> Predictor:
    return kind(IdleDetector(), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), torch.device("cpu"), "idle")


@pytest.fixture
def samples(mvtec: Path) -> list[Sample]:
    return read_dataset(mvtec, "mvtec")


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_batches_keep_the_order_and_equal_reading_one_by_one(
    samples: list[Sample], batch_size: int
) -> None:
    predictor = predictor_of()

    batches = list(load_batches(samples, batch_size, predictor))

    found = [item for batch in batches for item in batch]
    assert [item.sample for item in found] == samples
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    for item in found:
        assert torch.equal(item.image, predictor.prepare(load_image(item.sample.image_path)))
        assert item.mask is not None
        assert item.mask.any() == item.sample.is_anomalous


def test_only_a_few_batches_are_read_ahead(samples: list[Sample]) -> None:
    CountingPredictor.n_prepared = 0
    batches = load_batches(samples, 2, predictor_of(CountingPredictor))

    next(batches)
    batches.close()  # waits for what runs, cancels the rest

    assert CountingPredictor.n_prepared <= 2 * (1 + BATCHES_AHEAD) < len(samples)


def test_the_first_damaged_file_in_order_is_named(samples: list[Sample]) -> None:
    for index in (4, 9):
        samples[index].image_path.write_bytes(b"gone")

    with pytest.raises(DataError, match=str(samples[4].image_path)):
        list(load_batches(samples, 3, predictor_of()))
