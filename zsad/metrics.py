"""Detection metrics: AUROC, AP, F1max for images and pixels, AUPRO for regions.

Refuses to know about files, categories and models: labels, scores and masks in, numbers out.
Pixel metrics stream: memory is that of three histograms, however many images there are.
"""

import math
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRO_FPR_LIMIT = 0.3
PRO_STEPS = 200

# Score bins. Float32 numbers between two powers of two are evenly spaced, and their bit patterns
# count up with their value; cutting the pattern to 15 of 23 fraction bits gives bins of relative
# width 2^-15. They are laid out from 0 up to one half and mirrored from 1 down, because softmax
# scores crowd at both ends, where bins of equal width would put most pixels in one.
_FRACTION_BITS = 15
_OCTAVES = 24  # float32 cannot tell 1 - s from 0 below 2^-24, so finer bins would stay empty
_HALF_BITS = int(np.float32(0.5).view(np.int32)) >> (23 - _FRACTION_BITS)
_HALF_BINS = _OCTAVES << _FRACTION_BITS
N_BINS = 2 * _HALF_BINS + 1
MAX_RANGE_EXCESS = 1e-4
"""How far outside [0, 1] rounding may put a score before it counts as a broken contract."""


@dataclass(frozen=True, slots=True)
class BinaryMetrics:
    """Threshold-free agreement of scores with labels; NaN where undefined (one class only)."""

    auroc: float
    ap: float
    f1max: float


UNDEFINED = BinaryMetrics(math.nan, math.nan, math.nan)


def binary_metrics(is_anomalous: NDArray[np.bool_], scores: Floats) -> BinaryMetrics:
    """AUROC, step-wise average precision and maximal F1 of scores, ties handled, no binning.

    Args:
        is_anomalous: bool [n].
        scores: [n], any finite numbers, higher is more anomalous.

    Raises:
        ValueError: lengths differ, or a score is not finite.
    """
    if is_anomalous.shape != scores.shape:
        raise ValueError(f"{is_anomalous.shape} labels but {scores.shape} scores")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores not finite")
    _, group = np.unique(scores, return_inverse=True)
    n_groups = int(group.max()) + 1 if group.size else 0
    positives = np.bincount(group[is_anomalous], minlength=n_groups)
    negatives = np.bincount(group[~is_anomalous], minlength=n_groups)
    return _metrics_of_groups(positives.astype(np.float64), negatives.astype(np.float64))


def _metrics_of_groups(positives: Floats, negatives: Floats) -> BinaryMetrics:
    """Metrics from counts per group of equal scores, groups in ascending order of score."""
    tp, fp = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])  # from the highest score down
    if tp.size == 0 or tp[-1] == 0 or fp[-1] == 0:
        return UNDEFINED
    found, flagged = tp > 0, tp + fp
    precision = np.divide(tp, flagged, out=np.zeros_like(tp), where=flagged > 0)
    area = np.sum(negatives[::-1] * (tp - 0.5 * positives[::-1]))  # a tied pair counts one half
    return BinaryMetrics(
        auroc=float(area / (tp[-1] * fp[-1])),
        ap=float(np.sum(precision * positives[::-1]) / tp[-1]),
        f1max=float(np.max(2 * tp[found] / (flagged[found] + tp[-1]))),
    )


@dataclass(frozen=True, slots=True)
class PixelMetrics:
    """Pixel-level agreement of maps with masks; NaN where undefined.

    Attributes:
        aupro: The published "PRO": 200 thresholds, FPR rescaled (methods' released code).
        aupro_exact: Area under the per-region overlap curve up to FPR 0.3, over 0.3.
    """

    auroc: float
    ap: float
    f1max: float
    aupro: float
    aupro_exact: float


@dataclass(frozen=True, slots=True)
class PixelErrorBounds:
    """Largest possible effect of binning on each metric; F1max can only be too low.

    The compat AUPRO has none: its threshold grid depends on where the bins begin.
    """

    auroc: float
    ap: float
    f1max: float
    aupro_exact: float


class PixelScores:
    """Histograms of map values over normal pixels, anomalous pixels and ground-truth regions.

    A region (8-connected component of a mask) enters with weight 1/area a pixel, so that the
    mean over regions of the covered fraction is one sum over the histogram; that is why AUPRO
    needs no memory of the regions.

    Values in one bin count as equal; nothing else is approximated. Bins are at most 2^-17 wide,
    and 2^-15 of min(s, 1 - s) until 2^-25 from either end, where the last bin begins.
    `error_bounds` says how far that can have moved the metrics of what was added.
    """

    def __init__(self) -> None:
        self._normal: NDArray[np.int64] = np.zeros(N_BINS, np.int64)
        self._anomalous: NDArray[np.int64] = np.zeros(N_BINS, np.int64)
        self._covered: Floats = np.zeros(N_BINS)
        self._n_regions = 0
        self._lowest, self._highest = math.inf, -math.inf

    def add(self, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> Self:
        """Count one image.

        Args:
            anomaly_map: float32 [H, W] in [0, 1].
            mask: bool [H, W], True is anomalous; all False for a normal image.

        Raises:
            ValueError: shapes differ, or the map has NaN or values outside [0, 1].
        """
        if anomaly_map.shape != mask.shape:
            raise ValueError(f"map {anomaly_map.shape} and mask {mask.shape} differ in shape")
        bins = score_bins(anomaly_map)
        self._lowest = min(self._lowest, float(anomaly_map.min()))
        self._highest = max(self._highest, float(anomaly_map.max()))
        np.add.at(self._normal, bins[~mask], 1)
        if mask.any():
            np.add.at(self._anomalous, bins[mask], 1)
            n_labels, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            areas = np.bincount(labels.ravel(), minlength=n_labels)
            np.add.at(self._covered, bins[mask], 1.0 / areas[labels[mask]])
            self._n_regions += n_labels - 1
        return self

    def metrics(self) -> PixelMetrics:
        """Metrics over all pixels of all images added so far."""
        binary = _metrics_of_groups(
            self._anomalous.astype(np.float64), self._normal.astype(np.float64)
        )
        return PixelMetrics(
            binary.auroc, binary.ap, binary.f1max, self._aupro_compat(), self._aupro_exact()
        )

    def error_bounds(self) -> PixelErrorBounds:
        """How far binning can have moved the metrics, from what shares a bin.

        Inside bin b the unknown order of its P_b anomalous and N_b normal pixels lets
        AUROC vary by P_b N_b / 2 pairs, for a diagonal stands for any rising staircase;
        AUPRO likewise, with the covered fraction in place of P_b, up to the FPR limit;
        precision at its anomalous pixels vary from all its normal pixels before them to none;
        F1 rise to what it were without its normal pixels.
        """
        positives = self._anomalous[::-1].astype(np.float64)  # from the highest score down
        negatives = self._normal[::-1].astype(np.float64)
        tp, fp = np.cumsum(positives), np.cumsum(negatives)
        if tp[-1] == 0 or fp[-1] == 0:
            return PixelErrorBounds(math.nan, math.nan, math.nan, math.nan)
        hit = positives > 0
        P, tp_hit, fp_hit = tp[-1], tp[hit], fp[hit]
        first, before = tp_hit - positives[hit] + 1, fp_hit - negatives[hit]
        binned = tp_hit / (tp_hit + fp_hit)
        best, worst = tp_hit / (tp_hit + before), first / (first + fp_hit)
        reached = (fp - negatives) / fp[-1] < PRO_FPR_LIMIT
        rectangles = negatives / fp[-1] * self._covered[::-1] / max(self._n_regions, 1)
        return PixelErrorBounds(
            auroc=float(positives @ negatives / (2 * P * fp[-1])),
            ap=float(positives[hit] @ np.maximum(best - binned, binned - worst) / P),
            f1max=float(
                np.max(2 * tp_hit / (tp_hit + before + P))
                - np.max(2 * tp_hit / (tp_hit + fp_hit + P))
            ),
            aupro_exact=float(rectangles[reached].sum() / 2 / PRO_FPR_LIMIT),
        )

    def _aupro_compat(self) -> float:
        """AUPRO of the released code: threshold grid, FPR < 0.3 kept and rescaled, trapezoid.

        `arange(min, max, (max - min) / 200)` over the category's maps; a pixel is predicted
        anomalous when it is over the threshold. NaN when fewer than two points survive.
        """
        step = (self._highest - self._lowest) / PRO_STEPS
        if self._n_regions == 0 or self._normal.sum() == 0 or not step > 0:
            return math.nan
        thresholds = np.arange(self._lowest, self._highest, step)
        above = score_bins(thresholds.astype(np.float32)) + 1
        pro, fpr = self._curve()
        pro, fpr = pro[above], fpr[above]
        pro, fpr = pro[fpr < PRO_FPR_LIMIT], fpr[fpr < PRO_FPR_LIMIT]
        if fpr.size < 2 or fpr.max() == fpr.min():
            return math.nan
        rescaled = (fpr - fpr.min()) / (fpr.max() - fpr.min())
        return _trapezoid(rescaled[::-1], pro[::-1])

    def _aupro_exact(self) -> float:
        """Area under (FPR, PRO) at every bin edge, from FPR 0 to 0.3 interpolated, over 0.3."""
        if self._n_regions == 0 or self._normal.sum() == 0:
            return math.nan
        pro, fpr = self._curve()
        pro, fpr = pro[::-1], fpr[::-1]  # FPR ascends from 0
        inside = fpr <= PRO_FPR_LIMIT
        n_inside = int(np.count_nonzero(inside))
        x, y = fpr[:n_inside], pro[:n_inside]
        if n_inside < fpr.size:
            # The first point past the limit: the curve is cut on the line that leads to it.
            x1, y1 = fpr[n_inside], pro[n_inside]
            share = (PRO_FPR_LIMIT - x[-1]) / (x1 - x[-1])
            x = np.append(x, PRO_FPR_LIMIT)
            y = np.append(y, y[-1] + share * (y1 - y[-1]))
        return _trapezoid(x, y) / PRO_FPR_LIMIT

    def _curve(self) -> tuple[Floats, Floats]:
        """(PRO, FPR), each [N_BINS + 1]: entry b predicts every pixel in bin b or higher."""
        pro = _sum_from(self._covered) / self._n_regions
        normal = _sum_from(self._normal.astype(np.float64))
        return pro, normal / normal[0]


def score_bins(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The bin of each score, in [0, N_BINS); a higher bin means a higher score.

    Raises:
        ValueError: a score is NaN or outside [0, 1] by more than rounding.
    """
    low, high = float(scores.min()), float(scores.max())
    if not (low >= -MAX_RANGE_EXCESS and high <= 1 + MAX_RANGE_EXCESS):
        raise ValueError(f"scores span {low} to {high}, must lie in [0, 1]: the detector is broken")
    clipped = np.clip(scores.astype(np.float32, copy=False), 0, 1)
    mirrored = np.ascontiguousarray(np.minimum(clipped, np.float32(1) - clipped))
    bits = mirrored.view(np.int32).astype(np.int64) >> (23 - _FRACTION_BITS)
    from_end = np.maximum(bits - (_HALF_BITS - _HALF_BINS), 0)  # one half is _HALF_BINS
    bins: NDArray[np.int64] = np.where(clipped <= 0.5, from_end, 2 * _HALF_BINS - from_end)
    return bins


def _sum_from(values: Floats) -> Floats:
    """[n] -> [n + 1]: entry i is the sum of values[i:]; the last is 0."""
    return np.append(np.cumsum(values[::-1])[::-1], 0.0)


def _trapezoid(x: Floats, y: Floats) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
