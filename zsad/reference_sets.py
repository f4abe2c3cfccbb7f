"""Reference images for a measurement: which ones, never tested themselves, and their banks.

Refuses to know how a data set is laid out.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from zsad.data import Progress, Sample
from zsad.image_files import DataError, load_image
from zsad.predictor import Predictor
from zsad.reference_bank import BankError, ReferenceBank
from zsad.reference_learning import learn_references
from zsad.tiled_prediction import plan
from zsad.tiling import Tiling, TilingError


def hold_out_references(
    samples: Sequence[Sample], training: Sequence[Sample], count: int, *, seed: int
) -> tuple[dict[str, list[Sample]], list[Sample]]:
    """Draw reference images of every category, and what is left to test.

    They come from the category's normal training images; without any, from its normal test
    images, which are then not tested.

    Args:
        samples: The test split.
        training: The training split; empty if there is none.
        count: References a category.
        seed: Of the draw.

    Returns:
        References by category, and the samples to test, in order.

    Raises:
        DataError: a category has too few normal images.
    """
    references, tested = {}, []
    for category in sorted({sample.category for sample in samples}):
        members = [sample for sample in samples if sample.category == category]
        normal = [s for s in members if not s.is_anomalous]
        good = [s for s in training if s.category == category and not s.is_anomalous]
        wanted = count if good else count + 1  # at least one normal image is left to test
        if len(good or normal) < wanted:
            raise DataError(
                f"{category}: {count} references wanted, but only {len(good or normal)} normal "
                f"{'training' if good else 'test'} images are there: ask for fewer"
            )
        order = np.random.default_rng(seed).permutation(len(good or normal))
        references[category] = [(good or normal)[index] for index in order[:count]]
        taken = {sample.image_path for sample in references[category]}
        tested += [sample for sample in members if sample.image_path not in taken]
    return references, tested


def learn_banks(
    predictor: Predictor,
    references: Mapping[str, Sequence[Sample]],
    *,
    batch_size: int,
    progress: Progress | None = None,
    tiling: Tiling | None = None,
) -> dict[str, ReferenceBank]:
    """A bank of every category, of tiles where images will be cut.

    Raises:
        DataError: a file cannot be read, or no bank can be made of a category's images.
    """
    banks = {}
    for done, (category, samples) in enumerate(references.items(), start=1):
        images = (load_image(sample.image_path) for sample in samples)
        views = (
            predictor.prepare(tile.cut(image))
            for image in images
            for tile in plan(tiling, image, predictor.detector.input_size)
        )
        try:
            banks[category] = learn_references(
                predictor,
                views,
                samples[0].class_name,
                batch_size=batch_size,
                n_frames=len(samples),
            )
        except (BankError, TilingError) as error:
            raise DataError(f"{category}: {error}") from error
        if progress is not None:
            progress(done, len(references))
    return banks
