"""Figures of a window from its frame columns. Pure: arrays in, values out."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from daemon.core import INSPECTED_VERDICTS, LossReason, Verdict, base_version
from daemon.report.contents import (
    GroupCounts,
    HourCounts,
    LatencySummary,
    ModelUse,
    ScorePoint,
    ScoreSummary,
    counts_of,
)
from daemon.report.frames import Frames, instant_of, micros
from daemon.report.losses import Loss

SCORE_EDGES = tuple(np.linspace(0.0, 1.0, 51).tolist())
LATENCY_EDGES_MS = tuple(float(edge) for edge in np.logspace(0, 5, 41))
"""1 ms to 100 s, eight bins a decade; what lies outside is counted in the outermost bins."""

MAX_POINTS_PER_VERDICT = 600
SHORT_WINDOW = timedelta(hours=3)
MAX_SLICES = 30
_STEPS = tuple(timedelta(seconds=seconds) for seconds in (1, 2, 5, 10, 30, 60, 120, 300, 600))
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_QUARTER = timedelta(minutes=15)  # every zone's UTC offset is a multiple of it


def group_counts(frames: Frames) -> tuple[GroupCounts, ...]:
    """Verdicts by camera and category, sorted by name."""
    return _groups(frames, np.bincount(frames.code, minlength=len(frames.keys)))


def hour_counts(
    frames: Frames, losses: Sequence[Loss], start_utc: datetime, end_utc: datetime, zone: ZoneInfo
) -> tuple[HourCounts, ...]:
    """Every local hour of the window, also those without frames."""
    return _counts_from(frames, losses, _local_hours(start_utc, end_utc, zone), zone)


def slice_counts(
    frames: Frames,
    losses: Sequence[Loss],
    hours: tuple[HourCounts, ...],
    start_utc: datetime,
    end_utc: datetime,
    zone: ZoneInfo,
) -> tuple[HourCounts, ...]:
    """The hours, but a window shorter than SHORT_WINDOW in at most MAX_SLICES shorter steps."""
    if end_utc - start_utc >= SHORT_WINDOW:
        return hours
    step = next(step for step in _STEPS if (end_utc - start_utc) / step <= MAX_SLICES)
    starts = [start_utc]
    instant = _UNIX_EPOCH + step * ((start_utc - _UNIX_EPOCH) // step + 1)
    while instant < end_utc:
        starts.append(instant)
        instant += step
    return _counts_from(frames, losses, starts, zone)


def score_summaries(frames: Frames, model_names: Mapping[int, str]) -> tuple[ScoreSummary, ...]:
    """Scores by category, model version and thresholds in force, in the order they came up."""
    same = [
        (key.category, key.model_version_id, key.review_threshold, key.ng_threshold)
        if key.verdict in INSPECTED_VERDICTS
        else None
        for key in frames.keys
    ]
    found = []
    for name, at in frames.grouped(same, among=np.isfinite(frames.score)).items():
        category, model_version_id, review_threshold, ng_threshold = name
        if not len(at):
            continue
        scores = np.sort(frames.score[at])
        found.append(
            ScoreSummary(
                category=category,
                model_version=model_names[model_version_id],
                review_threshold=review_threshold,
                ng_threshold=ng_threshold,
                from_utc=instant_of(frames.received_us[at[0]]),
                to_utc=instant_of(frames.received_us[at[-1]]),
                frames=len(at),
                p50=_quantile(scores, 0.50),
                p95=_quantile(scores, 0.95),
                histogram=_histogram(scores, SCORE_EDGES),
            )
        )
    return tuple(sorted(found, key=lambda summary: (summary.category, summary.from_utc)))


def score_points(frames: Frames) -> tuple[ScorePoint, ...]:
    """A sample for plotting: evenly spread over each category's frames of each verdict."""
    same = [
        (key.category, key.verdict) if key.verdict in INSPECTED_VERDICTS else None
        for key in frames.keys
    ]
    found = []
    for (category, verdict), at in frames.grouped(same, among=np.isfinite(frames.score)).items():
        step = max(1, -(-len(at) // MAX_POINTS_PER_VERDICT))  # rounded up
        found += [
            ScorePoint(instant_of(frames.received_us[i]), category, float(frames.score[i]), verdict)
            for i in at[::step]
        ]
    return tuple(sorted(found, key=lambda point: point.received_utc))


def latency_summaries(frames: Frames) -> tuple[LatencySummary, ...]:
    """Receipt to verdict of inspected frames: all cameras first, then each."""
    cameras = [key.camera if key.verdict in INSPECTED_VERDICTS else None for key in frames.keys]
    ordered = {
        camera: np.sort(frames.latency_ms[at])
        for camera, at in sorted(frames.grouped(cameras).items())
    }
    if not ordered:
        return ()
    # stable: merges what is in order already
    whole = np.sort(np.concatenate(list(ordered.values())), kind="stable")
    return tuple(_latency(camera, one) for camera, one in [(None, whole), *ordered.items()])


def model_uses(frames: Frames, models: Mapping[int, tuple[str, str, str]]) -> tuple[ModelUse, ...]:
    """Stretches of consecutive inspected frames with one model version.

    Categories with reference banks have variants of it, and their frames come mixed: the version
    of the weights counts.

    Args:
        models: Name, method and backbone by model_version_id.
    """
    ids: dict[str, int] = {}
    weights_of = {
        model_id: ids.setdefault(base_version(name), model_id)
        for model_id, (name, _, _) in sorted(models.items())
    }
    names, number = frames.numbered(
        [
            weights_of[key.model_version_id] if key.verdict in INSPECTED_VERDICTS else None
            for key in frames.keys
        ]
    )
    at = np.flatnonzero(number != names.index(None)) if None in names else np.arange(len(number))
    if not len(at):
        return ()
    model = number[at]
    begins = [0, *(np.flatnonzero(model[1:] != model[:-1]) + 1).tolist()]
    ends = [*begins[1:], len(at)]
    return tuple(
        ModelUse(
            *models[cast(int, names[model[begin]])],
            from_utc=instant_of(frames.received_us[at[begin]]),
            to_utc=instant_of(frames.received_us[at[end - 1]]),
            frames=end - begin,
        )
        for begin, end in zip(begins, ends, strict=True)
    )


def _counts_from(
    frames: Frames, losses: Sequence[Loss], starts: Sequence[datetime], zone: ZoneInfo
) -> tuple[HourCounts, ...]:
    """Counts of consecutive spans of time, each from its start to the next one's."""
    starts_us = np.array([micros(start) for start in starts])
    n_keys = len(frames.keys)
    pieces = np.split(frames.code, np.searchsorted(frames.received_us, starts_us[1:]))
    table = [np.bincount(piece, minlength=n_keys) for piece in pieces]
    lost: Counter[int] = Counter()
    gap: Counter[int] = Counter()
    for loss in losses:
        index = int(np.searchsorted(starts_us, loss.lost_us, side="right")) - 1
        (gap if loss.reason == LossReason.GAP else lost)[index] += loss.frames
    return tuple(
        HourCounts(
            start_utc=start,
            label=f"{start.astimezone(zone):%H:%M %Z}",
            groups=_groups(frames, table[index]),
            lost=lost[index],
            gap=gap[index],
        )
        for index, start in enumerate(starts)
    )


def _groups(frames: Frames, frames_per_key: NDArray[np.int64]) -> tuple[GroupCounts, ...]:
    pairs: dict[tuple[str, str], list[tuple[Verdict, int]]] = defaultdict(list)
    for code in np.flatnonzero(frames_per_key).tolist():
        key = frames.keys[code]
        pairs[key.camera, key.category].append((key.verdict, int(frames_per_key[code])))
    return tuple(
        GroupCounts(camera, category, counts_of(verdicts))
        for (camera, category), verdicts in sorted(pairs.items())
    )


def _local_hours(start_utc: datetime, end_utc: datetime, zone: ZoneInfo) -> list[datetime]:
    """Start of each local hour in the window; the first one is the window's own start."""
    starts = [start_utc]
    instant = _UNIX_EPOCH + _QUARTER * ((start_utc - _UNIX_EPOCH) // _QUARTER + 1)
    while instant < end_utc:
        if _hour_name(instant, zone) != _hour_name(starts[-1], zone):
            starts.append(instant)
        instant += _QUARTER
    return starts


def _hour_name(instant: datetime, zone: ZoneInfo) -> tuple[datetime, timedelta | None]:
    local = instant.astimezone(zone)
    return local.replace(minute=0, second=0, microsecond=0, tzinfo=None), local.utcoffset()


def _latency(camera: str | None, ordered: NDArray[np.float64]) -> LatencySummary:
    return LatencySummary(
        camera=camera,
        frames=len(ordered),
        p50_ms=_quantile(ordered, 0.50),
        p99_ms=_quantile(ordered, 0.99),
        max_ms=float(ordered[-1]),
        edges_ms=LATENCY_EDGES_MS,
        histogram=_histogram(ordered, LATENCY_EDGES_MS),
    )


def _quantile(ordered: NDArray[np.float64], share: float) -> float:
    """Between the two nearest values; sorting once is faster than a search for each."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


def _histogram(ordered: NDArray[np.float64], edges: Sequence[float]) -> tuple[int, ...]:
    """Values in [edge, next edge); what lies outside is counted in the outermost bins."""
    inner = np.searchsorted(ordered, edges[1:-1])
    return tuple(np.diff(inner, prepend=0, append=len(ordered)).tolist())
