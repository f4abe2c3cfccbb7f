"""Figures of a window from its frame columns. Pure: arrays in, values out."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
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
    frames: Frames, losses: Sequence[Loss], start_utc: datetime, end_utc: datetime, zone: ZoneInfo
) -> tuple[HourCounts, ...]:
    """As hours, but a window shorter than SHORT_WINDOW in at most MAX_SLICES shorter steps."""
    if end_utc - start_utc >= SHORT_WINDOW:
        return hour_counts(frames, losses, start_utc, end_utc, zone)
    step = next(step for step in _STEPS if (end_utc - start_utc) / step <= MAX_SLICES)
    starts = [start_utc]
    instant = _UNIX_EPOCH + step * ((start_utc - _UNIX_EPOCH) // step + 1)
    while instant < end_utc:
        starts.append(instant)
        instant += step
    return _counts_from(frames, losses, starts, zone)


def score_summaries(frames: Frames, model_names: Mapping[int, str]) -> tuple[ScoreSummary, ...]:
    """Scores by category, model version and thresholds in force, in the order they came up."""
    same: dict[tuple[str, int, float | None, float | None], list[bool]] = {}
    for index, key in enumerate(frames.keys):
        if key.verdict in INSPECTED_VERDICTS:
            name = (key.category, key.model_version_id, key.review_threshold, key.ng_threshold)
            same.setdefault(name, [False] * len(frames.keys))[index] = True
    found = []
    for (category, model_version_id, review_threshold, ng_threshold), wanted in same.items():
        at = _scored(frames, wanted)
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
    found = []
    same: dict[tuple[str, Verdict], list[bool]] = {}
    for index, key in enumerate(frames.keys):
        if key.verdict in INSPECTED_VERDICTS:
            wanted = same.setdefault((key.category, key.verdict), [False] * len(frames.keys))
            wanted[index] = True
    for (category, verdict), wanted in same.items():
        at = _scored(frames, wanted)
        step = max(1, -(-len(at) // MAX_POINTS_PER_VERDICT))  # rounded up
        found += [
            ScorePoint(instant_of(frames.received_us[i]), category, float(frames.score[i]), verdict)
            for i in at[::step]
        ]
    return tuple(sorted(found, key=lambda point: point.received_utc))


def _scored(frames: Frames, wanted: list[bool]) -> NDArray[np.intp]:
    """Positions of the wanted frames that have a score; without a detector none has."""
    at = frames.where(wanted)
    return at[np.isfinite(frames.score[at])]


def latency_summaries(frames: Frames) -> tuple[LatencySummary, ...]:
    """Receipt to verdict of inspected frames: all cameras first, then each."""
    inspected = [key.verdict in INSPECTED_VERDICTS for key in frames.keys]
    at = frames.where(inspected)
    if not len(at):
        return ()
    found = [_latency(None, frames.latency_ms[at])]
    for camera in sorted(
        {key.camera for key, wanted in zip(frames.keys, inspected, strict=True) if wanted}
    ):
        wanted = [
            is_inspected and key.camera == camera
            for key, is_inspected in zip(frames.keys, inspected, strict=True)
        ]
        found.append(_latency(camera, frames.latency_ms[frames.where(wanted)]))
    return tuple(found)


def model_uses(frames: Frames, models: Mapping[int, tuple[str, str, str]]) -> tuple[ModelUse, ...]:
    """Stretches of consecutive inspected frames with one model version.

    Categories with reference banks have variants of it, and their frames come mixed: the version
    of the weights counts.

    Args:
        models: Name, method and backbone by model_version_id.
    """
    at = frames.where([key.verdict in INSPECTED_VERDICTS for key in frames.keys])
    if not len(at):
        return ()
    ids: dict[str, int] = {}
    weights_of = {
        model_id: ids.setdefault(base_version(name), model_id)
        for model_id, (name, _, _) in sorted(models.items())
    }
    model_of_key = np.array([weights_of[key.model_version_id] for key in frames.keys], np.int64)
    model = model_of_key[frames.code[at]]
    changes = np.flatnonzero(np.diff(model)) + 1
    return tuple(
        ModelUse(
            *models[int(model[stretch[0]])],
            from_utc=instant_of(frames.received_us[at[stretch[0]]]),
            to_utc=instant_of(frames.received_us[at[stretch[-1]]]),
            frames=len(stretch),
        )
        for stretch in np.split(np.arange(len(at)), changes)
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
    for key, n in zip(frames.keys, frames_per_key.tolist(), strict=True):
        if n:
            pairs[key.camera, key.category].append((key.verdict, n))
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


def _latency(camera: str | None, latency_ms: NDArray[np.float64]) -> LatencySummary:
    ordered = np.sort(latency_ms)
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
