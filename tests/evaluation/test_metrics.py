"""Metrics against hand-computed cases, scikit-learn and a naive AUPRO."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from zsad.metrics import N_BINS, PixelScores, binary_metrics, score_bins


def naive_f1max(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    best = 0.0
    for threshold in np.unique(scores):
        predicted = scores >= threshold
        hits = (predicted & labels).sum()
        best = max(best, 2 * hits / (predicted.sum() + labels.sum()))
    return best


def regions_of(masks: NDArray[np.bool_]) -> list[tuple[int, NDArray[np.bool_]]]:
    found = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        found += [(index, labels == number) for number in range(1, count + 1)]
    return found


def naive_aupro_compat(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> float:
    regions = regions_of(masks)
    low, high = float(maps.min()), float(maps.max())
    points = []
    for threshold in np.arange(low, high, (high - low) / 200):
        predicted = maps > threshold
        fpr = (predicted & ~masks).sum() / (~masks).sum()
        if fpr < 0.3:
            pro = np.mean([predicted[i][region].mean() for i, region in regions])
            points.append((fpr, pro))
    fpr, pro = np.array(sorted(points)).T
    return float(np.trapezoid(pro, (fpr - fpr.min()) / (fpr.max() - fpr.min())))


def naive_aupro_exact(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> float:
    regions = regions_of(masks)
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps):
        predicted = maps >= threshold
        fpr = (predicted & ~masks).sum() / (~masks).sum()
        points.append((fpr, np.mean([predicted[i][region].mean() for i, region in regions])))
    fpr, pro = np.array(sorted(points)).T
    fine = np.union1d(fpr[fpr < 0.3], [0.3])
    area = 0.0
    for left, right in itertools.pairwise(fine):
        # Between two thresholds the curve is a line; at one FPR it may rise, so the right end
        # of a piece takes its lowest PRO and the left end its highest.
        y_left = pro[fpr == left].max()
        y_right = pro[fpr == right].min() if (fpr == right).any() else np.interp(right, fpr, pro)
        area += (right - left) * (y_left + y_right) / 2
    return float(area / 0.3)


def defect_maps(
    generator: np.random.Generator, n: int = 6, size: int = 32
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    masks = np.zeros((n, size, size), np.bool_)
    for mask in masks[: n - 2]:  # the last two are normal
        for _ in range(int(generator.integers(1, 4))):
            y, x = generator.integers(0, size - 12, 2)
            h, w = generator.integers(2, 12, 2)
            mask[y : y + h, x : x + w] = True
    noise = ndimage.gaussian_filter(generator.random((n, size, size)), (0, 1.5, 1.5))
    maps = 0.2 + 0.6 * (noise - noise.min()) / np.ptp(noise) + 0.12 * masks
    return np.clip(maps, 0, 1).astype(np.float32), masks


def pixel_scores(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> PixelScores:
    scores = PixelScores()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        scores.add(anomaly_map, mask)
    return scores


def test_four_images_by_hand() -> None:
    labels = np.array([False, True, False, True])

    metrics = binary_metrics(labels, np.array([0.1, 0.4, 0.35, 0.3]))

    # Pairs (anomalous over normal): 0.4 beats both, 0.3 beats 0.1 only: 3 of 4.
    assert metrics.auroc == pytest.approx(3 / 4)
    # Precision at each anomalous one, from the top: 1/1 and 2/3.
    assert metrics.ap == pytest.approx((1 + 2 / 3) / 2)
    # Flagging the top three: P 2/3, R 1.
    assert metrics.f1max == pytest.approx(0.8)


def test_all_scores_equal_is_chance() -> None:
    labels = np.array([True, False, False, False])

    metrics = binary_metrics(labels, np.full(4, 0.7))

    assert (metrics.auroc, metrics.ap) == (0.5, 0.25)
    assert metrics.f1max == pytest.approx(0.4)


@pytest.mark.parametrize("labels", [[], [True, True], [False, False]])
def test_one_class_only_is_nan_not_a_crash(labels: list[bool]) -> None:
    metrics = binary_metrics(np.array(labels, np.bool_), np.linspace(0, 1, len(labels)))

    assert math.isnan(metrics.auroc)
    assert math.isnan(metrics.ap)
    assert math.isnan(metrics.f1max)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 scores not finite"):
        binary_metrics(np.array([True, False]), np.array([math.nan, 0.1]))


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="labels but"):
        binary_metrics(np.array([True, False]), np.array([0.1]))


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=2, max_size=60).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    )
)
def test_image_metrics_equal_scikit_learn_with_ties(rows: list[tuple[bool, int]]) -> None:
    labels = np.array([label for label, _ in rows])
    scores = np.array([score for _, score in rows], np.float64) / 10

    metrics = binary_metrics(labels, scores)

    assert metrics.auroc == pytest.approx(roc_auc_score(labels, scores))
    assert metrics.ap == pytest.approx(average_precision_score(labels, scores))
    assert metrics.f1max == pytest.approx(naive_f1max(labels, scores))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["plain", "near 0", "near 1"]))
def test_pixel_metrics_equal_scikit_learn_within_the_stated_bound(seed: int, crowd: str) -> None:
    maps, masks = defect_maps(np.random.default_rng(seed))
    if crowd == "near 0":
        maps = maps**8  # as softmax scores at low temperature
    elif crowd == "near 1":
        maps = (1 - (1 - maps.astype(np.float64)) ** 6).astype(np.float32)
    labels, values = masks.ravel(), maps.ravel().astype(np.float64)

    scores = pixel_scores(maps, masks)

    metrics, bounds = scores.metrics(), scores.error_bounds()
    precision, recall, _ = precision_recall_curve(labels, values)
    f1max = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    ap = average_precision_score(labels, values)
    assert bounds.auroc < 1e-4
    assert max(bounds.ap, bounds.f1max, bounds.aupro_exact) < 5e-3
    assert abs(metrics.auroc - roc_auc_score(labels, values)) <= bounds.auroc + 1e-12
    assert abs(metrics.ap - ap) <= bounds.ap + 1e-12
    assert f1max - bounds.f1max - 1e-12 <= metrics.f1max <= f1max + 1e-12


@pytest.mark.parametrize("scale", [1e-4, 1e-5, 3e-6])
def test_error_bounds_hold_where_most_pixels_share_few_bins(scale: float) -> None:
    maps, masks = defect_maps(np.random.default_rng(5))
    maps = (0.4 + scale * maps).astype(np.float32)
    labels, values = masks.ravel(), maps.ravel().astype(np.float64)

    scores = pixel_scores(maps, masks)

    metrics, bounds = scores.metrics(), scores.error_bounds()
    precision, recall, _ = precision_recall_curve(labels, values)
    f1max = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    exact = naive_aupro_exact(maps, masks)
    assert bounds.auroc > 1e-3
    assert abs(metrics.auroc - roc_auc_score(labels, values)) <= bounds.auroc
    assert abs(metrics.ap - average_precision_score(labels, values)) <= bounds.ap
    assert f1max - bounds.f1max <= metrics.f1max <= f1max
    assert abs(metrics.aupro_exact - exact) <= bounds.aupro_exact


@pytest.mark.parametrize("seed", range(4))
def test_aupro_equals_a_naive_implementation(seed: int) -> None:
    maps, masks = defect_maps(np.random.default_rng(seed))

    metrics = pixel_scores(maps, masks).metrics()

    assert metrics.aupro == pytest.approx(naive_aupro_compat(maps, masks), abs=1e-3)
    assert metrics.aupro_exact == pytest.approx(naive_aupro_exact(maps, masks), abs=1e-3)


def test_aupro_gives_a_small_region_the_weight_of_a_large_one() -> None:
    mask = np.zeros((10, 10), np.bool_)
    mask[0:5, 0:4] = True  # 20 pixels, found
    mask[8, 8] = True  # 1 pixel, missed
    anomaly_map = np.zeros((10, 10), np.float32)
    anomaly_map[0:5, 0:4] = 0.9

    metrics = PixelScores().add(anomaly_map, mask).metrics()

    # The curve starts at (0, 1/2) and runs straight to (1, 1): 0.5 + 0.5 x 0.3 / 2 on average.
    assert metrics.aupro_exact == pytest.approx(0.575)


def test_regions_that_touch_at_a_corner_are_one() -> None:
    mask = np.zeros((8, 8), np.bool_)
    mask[1, 1] = mask[2, 2] = True
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[1, 1] = 0.9
    anomaly_map[6, 6] = 0.5

    metrics = PixelScores().add(anomaly_map, mask).metrics()

    # One region, half covered until everything is flagged; two regions would give the same start,
    # so count them through the weight of the second: 1/2 + 1/2 (0.3 - 1/62) / (1 - 1/62) at 0.3.
    at_limit = 0.5 + 0.5 * (0.3 - 1 / 62) / (1 - 1 / 62)
    expected = (0.5 / 62 + (0.5 + at_limit) / 2 * (0.3 - 1 / 62)) / 0.3
    assert metrics.aupro_exact == pytest.approx(expected)


def test_a_constant_map_has_no_compat_aupro_and_chance_auroc() -> None:
    mask = np.zeros((8, 8), np.bool_)
    mask[2:4, 2:4] = True

    metrics = PixelScores().add(np.full((8, 8), 0.5, np.float32), mask).metrics()

    assert math.isnan(metrics.aupro)
    assert metrics.auroc == 0.5
    assert metrics.aupro_exact == pytest.approx(0.15)


def test_normal_images_only_have_no_pixel_metrics() -> None:
    scores = PixelScores().add(np.eye(8, dtype=np.float32), np.zeros((8, 8), np.bool_))

    metrics = scores.metrics()

    assert all(
        math.isnan(value)
        for value in (metrics.auroc, metrics.ap, metrics.f1max, metrics.aupro, metrics.aupro_exact)
    )


def test_nothing_added_has_no_pixel_metrics() -> None:
    assert math.isnan(PixelScores().metrics().auroc)
    assert math.isnan(PixelScores().error_bounds().auroc)


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    generator, scores = np.random.default_rng(0), PixelScores()
    mask = np.zeros((64, 64), np.bool_)
    mask[8:16, 8:16] = True

    def add(count: int) -> None:
        for _ in range(count):
            scores.add(generator.random((64, 64), dtype=np.float32), mask)

    add(3)
    tracemalloc.start()
    try:
        add(50)
        grown_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert grown_bytes < 64 * 64 * 4  # less than one map


@pytest.mark.parametrize("value", [math.nan, -0.5, 1.5])
def test_maps_that_break_the_contract_are_refused(value: float) -> None:
    anomaly_map = np.full((4, 4), 0.5, np.float32)
    anomaly_map[1, 2] = value

    with pytest.raises(ValueError, match="must lie in"):
        PixelScores().add(anomaly_map, np.zeros((4, 4), np.bool_))


def test_a_map_and_mask_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        PixelScores().add(np.zeros((4, 4), np.float32), np.zeros((5, 4), np.bool_))


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=50))
def test_bins_keep_the_order_of_scores_and_are_narrow(values: list[float]) -> None:
    scores = np.sort(np.array(values, np.float32))

    bins = score_bins(scores)

    assert bins.min() >= 0
    assert bins.max() < N_BINS
    assert (np.diff(bins) >= 0).all()
    same = np.diff(bins) == 0
    assert (np.diff(scores.astype(np.float64))[same] <= 2**-17).all()


def test_the_ends_and_the_middle_have_bins_of_their_own() -> None:
    scores = np.array([0, 1e-6, 0.5 - 2**-17, 0.5, 0.5 + 2**-17, 1 - 1e-6, 1], np.float32)

    bins = score_bins(scores)

    assert (np.diff(bins) > 0).all()
    assert (bins[0], bins[-1]) == (0, N_BINS - 1)
