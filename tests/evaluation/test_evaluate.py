"""Evaluation with a real detector of one idea: bright means anomalous."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from zsad.data import Sample
from zsad.datasets.layouts import read_dataset
from zsad.detector import Detector, Prediction, UnscaledOutputs, WholeSetScores
from zsad.evaluate import EvalReport, evaluate, percent
from zsad.image_files import DataError
from zsad.predictor import Predictor

Write = Callable[..., Path]
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class BrightnessDetector(Detector):
    """The map is the brightness of a pixel, the score that of the brightest one."""

    input_size = 20

    def __init__(self, *, offset: float = 0.0) -> None:
        super().__init__()
        self.offset = offset
        self.seen: list[str] = []

    @torch.inference_mode()
    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        self.seen += class_names
        mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        brightness = (images * std + mean).mean(dim=1) + self.offset
        return Prediction(image_score=brightness.amax(dim=(1, 2)), anomaly_map=brightness)


def run(
    samples: Sequence[Sample],
    detector: Detector | None = None,
    *,
    batch_size: int = 4,
    said: list[str] | None = None,
    test_set_statistics: bool = False,
) -> EvalReport:
    return evaluate(
        Predictor(detector or BrightnessDetector(), MEAN, STD, torch.device("cpu"), "test"),
        samples,
        batch_size=batch_size,
        warn=(said if said is not None else []).append,
        test_set_statistics=test_set_statistics,
    )


def test_a_detector_that_sees_the_defect_scores_one(mvtec: Path) -> None:
    report = run(read_dataset(mvtec, "mvtec"))

    values = report.categories["metal_nut"].values()
    assert values["image_AUROC"] == values["image_AP"] == values["image_F1max"] == 1
    assert values["pixel_AUROC"] > 0.99
    assert values["aupro_exact"] > 0.95


def test_a_detector_that_prefers_the_dark_scores_zero(mvtec: Path) -> None:
    class DarknessDetector(BrightnessDetector):
        def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
            bright = super().predict(images, class_names)
            return Prediction(1 - bright.image_score, 1 - bright.anomaly_map)

    report = run(read_dataset(mvtec, "mvtec"), DarknessDetector())

    assert report.mean()["image_AUROC"] == 0
    assert report.mean()["pixel_AUROC"] < 0.05


class StretchedDetector(BrightnessDetector):
    """Its published scores are brightness scaled over a category's test set."""

    has_whole_set_scores = True

    def unscaled(self, images: Tensor, class_names: Sequence[str]) -> UnscaledOutputs:
        found = self.predict(images, class_names)
        low = found.anomaly_map.amin(dim=(1, 2))
        terms = torch.stack([low, found.image_score], dim=1)
        return UnscaledOutputs(terms, 100 * found.anomaly_map - 7)

    def whole_set_scores(self, terms: Tensor) -> WholeSetScores:
        low, high = terms[:, 0].min().item(), terms[:, 1].max().item()
        return WholeSetScores((terms[:, 1] - low) / (high - low), 100 * low - 7, 100 * high - 7)


def test_test_set_statistics_scale_every_category_by_itself(mvtec: Path) -> None:
    samples = read_dataset(mvtec, "mvtec")
    detector = StretchedDetector()

    whole = run(samples, detector, test_set_statistics=True)

    plain = run(samples)
    assert whole.test_set_statistics
    assert not plain.test_set_statistics
    assert whole.mean()["image_AUROC"] == plain.mean()["image_AUROC"] == 1
    # an affine map of all scores of a category changes no rank
    assert whole.mean()["pixel_AUROC"] == pytest.approx(plain.mean()["pixel_AUROC"], abs=1e-4)
    assert len(detector.seen) == 2 * len(samples)


def test_test_set_statistics_of_a_method_without_them_are_refused(mvtec: Path) -> None:
    with pytest.raises(ValueError, match="test has no scores with test-set statistics"):
        run(read_dataset(mvtec, "mvtec"), test_set_statistics=True)


def test_a_category_with_one_class_is_said_before_the_detector_runs(mvtec: Path) -> None:
    samples = [s for s in read_dataset(mvtec, "mvtec") if s.is_anomalous or s.category == "felt"]
    detector, seen_at = BrightnessDetector(), []

    evaluate(
        Predictor(detector, MEAN, STD, torch.device("cpu"), "test"),
        samples,
        batch_size=4,
        warn=lambda sentence: seen_at.append((sentence, len(detector.seen))),
    )

    assert seen_at == [
        (
            "metal_nut: all 3 images are anomalous, so it has no image-level metrics and does not "
            "enter their mean; add normal images if there should be some",
            0,
        )
    ]


def test_counts_are_per_category(mvtec: Path) -> None:
    (mvtec / "felt" / "test" / "good" / "0.png").unlink()

    report = run(read_dataset(mvtec, "mvtec"))

    counts = {name: (r.n_normal, r.n_anomalous) for name, r in report.categories.items()}
    assert counts == {"felt": (2, 3), "metal_nut": (3, 3)}


def test_the_detector_gets_nouns_without_underscores(mvtec: Path) -> None:
    detector = BrightnessDetector()

    run(read_dataset(mvtec, "mvtec"), detector)

    assert set(detector.seen) == {"felt", "metal nut"}


def test_batch_size_changes_nothing(mvtec: Path) -> None:
    samples = read_dataset(mvtec, "mvtec")

    assert run(samples, batch_size=1) == run(samples, batch_size=5)


def test_order_of_samples_changes_nothing(mvtec: Path) -> None:
    samples = read_dataset(mvtec, "mvtec")

    assert run(samples) == run(samples[::-1])


def test_the_mean_is_over_categories_not_over_images(mvtec: Path, write_image: Write) -> None:
    for i in range(3):  # in felt every normal image gets a bright spot too, and many more images
        for name in ("a", "b", "c"):
            write_image(mvtec / "felt" / "test" / "good" / f"{i}{name}.png", has_defect=True)

    report = run(read_dataset(mvtec, "mvtec"))

    felt = report.categories["felt"].values()["image_AUROC"]
    assert felt < 0.9
    assert report.mean()["image_AUROC"] == pytest.approx((felt + 1) / 2)


def test_anomalous_images_only_have_pixel_but_no_image_metrics(mvtec: Path) -> None:
    samples = [s for s in read_dataset(mvtec, "mvtec") if s.is_anomalous]

    report = run(samples)

    assert math.isnan(report.mean()["image_AUROC"])
    assert report.mean()["pixel_AUROC"] > 0.99


def test_images_without_masks_have_image_but_no_pixel_metrics(
    tmp_path: Path, write_image: Write
) -> None:
    write_image(tmp_path / "felt" / "test" / "good" / "0.png")
    write_image(tmp_path / "felt" / "test" / "cut" / "0.png", has_defect=True)

    report = run(read_dataset(tmp_path, "mvtec"))

    assert report.mean()["image_AUROC"] == 1
    assert math.isnan(report.mean()["pixel_AUROC"])
    assert math.isnan(report.mean()["aupro"])


def test_an_undefined_category_does_not_spoil_the_mean(mvtec: Path) -> None:
    samples = [s for s in read_dataset(mvtec, "mvtec") if s.is_anomalous or s.category == "felt"]

    report = run(samples)

    assert math.isnan(report.categories["metal_nut"].values()["image_AUROC"])
    assert report.mean()["image_AUROC"] == 1


def test_a_mask_that_vanishes_at_the_input_size_is_said(tmp_path: Path, write_image: Write) -> None:
    import PIL.Image

    write_image(tmp_path / "felt" / "test" / "cut" / "0.png", has_defect=True)
    speck = np.zeros((40, 40), np.uint8)
    speck[5, 5] = 255
    path = tmp_path / "felt" / "ground_truth" / "cut" / "0_mask.png"
    path.parent.mkdir(parents=True)
    PIL.Image.fromarray(speck).save(path)
    said: list[str] = []

    run(read_dataset(tmp_path, "mvtec"), said=said)

    assert said[-1] == "felt: the masks of 1 images vanish at 20 px; their pixels count as normal"


def test_a_damaged_image_stops_with_its_name(mvtec: Path) -> None:
    samples = read_dataset(mvtec, "mvtec")
    samples[4].image_path.write_bytes(b"gone")

    with pytest.raises(DataError, match=samples[4].image_path.name):
        run(samples)


def test_a_detector_that_leaves_the_range_is_refused(mvtec: Path) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        run(read_dataset(mvtec, "mvtec"), BrightnessDetector(offset=2.0))


def test_progress_counts_every_image(mvtec: Path) -> None:
    seen: list[tuple[int, int]] = []

    evaluate(
        Predictor(BrightnessDetector(), MEAN, STD, torch.device("cpu"), "test"),
        read_dataset(mvtec, "mvtec"),
        batch_size=4,
        warn=[].append,
        progress=lambda done, total: seen.append((done, total)),
    )

    assert seen == [(4, 12), (6, 12), (10, 12), (12, 12)]


def test_json_has_the_agreed_keys_and_null_for_undefined(mvtec: Path) -> None:
    report = run([s for s in read_dataset(mvtec, "mvtec") if s.is_anomalous])

    contents = json.loads(json.dumps(report.to_json(), allow_nan=False))

    metrics = ["image_AUROC", "image_AP", "image_F1max", "pixel_AUROC", "pixel_AP", "pixel_F1max"]
    metrics += ["aupro", "aupro_exact"]
    assert list(contents) == ["categories", "mean", "test_set_statistics"]
    assert list(contents["categories"]["felt"]) == [*metrics, "n_normal", "n_anomalous"]
    assert list(contents["mean"]) == metrics
    assert contents["mean"]["image_AUROC"] is None
    assert contents["categories"]["felt"]["n_anomalous"] == 3


def test_markdown_has_a_row_for_every_category_and_the_mean(mvtec: Path) -> None:
    report = run(read_dataset(mvtec, "mvtec"))

    lines = report.to_markdown().splitlines()

    assert lines[0].startswith("| category | normal | anomalous | I-AUROC | I-AP")
    assert lines[3].startswith("| metal_nut | 3 | 3 | 100.0 | 100.0 | 100.0 |")
    assert lines[4].startswith("| **mean** |")
    assert len({line.count("|") for line in lines}) == 1


def test_percent_of_nothing_is_a_dash() -> None:
    assert (percent(math.nan), percent(0.98765)) == ("-", "98.8")
