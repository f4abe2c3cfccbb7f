"""Health as Prometheus metrics. Counts nothing itself: it reads when it is asked."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from daemon.health import Health
from daemon.histogram import Counted
from daemon.status import State, StatusSnapshot


class HealthCollector(Collector):
    """Labels are only camera, category, verdict, reason and stage, of configured values."""

    def __init__(self, health: Health, clock: Callable[[], float]) -> None:
        self._health = health
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Every metric at this instant."""
        snapshot = self._health.snapshot(self._clock(), datetime.now(UTC))
        yield from _frames(snapshot)
        yield from _state(snapshot)
        yield from self._histograms()
        for name, total in sorted(snapshot.counters.items()):
            yield UnknownMetricFamily(f"zsad_{name}", name.replace("_", " "), value=total)

    def _histograms(self) -> Iterator[Metric]:
        measured = self._health.measured()
        batch = HistogramMetricFamily("zsad_batch_size", "Frames given to the detector at once")
        _add(batch, [], measured.batch_size)
        yield batch
        latency = HistogramMetricFamily(
            "zsad_frame_to_verdict_seconds", "From receipt of a frame to its verdict"
        )
        _add(latency, [], measured.frame_to_verdict_s)
        yield latency
        stages = HistogramMetricFamily(
            "zsad_stage_duration_seconds", "Time in one stage of the way", labels=["stage"]
        )
        for stage, counted in measured.stages_s.items():
            _add(stages, [stage], counted)
        yield stages
        scores = HistogramMetricFamily(
            "zsad_pred_score", "Raw image scores, higher is more anomalous", labels=["category"]
        )
        for category, counted in measured.pred_scores.items():
            _add(scores, [category], counted)
        yield scores


def _frames(snapshot: StatusSnapshot) -> Iterator[Metric]:
    received = CounterMetricFamily(
        "zsad_frames_received", "Frames taken off the sockets", labels=["camera"]
    )
    lost = CounterMetricFamily(
        "zsad_frames_lost", "Frames without a verdict; gap: never received",
        labels=["camera", "reason"],
    )  # fmt: skip
    last = GaugeMetricFamily(
        "zsad_source_last_frame_timestamp_seconds", "Receipt of the newest frame, Unix time",
        labels=["camera"],
    )  # fmt: skip
    for name, camera in snapshot.cameras.items():
        received.add_metric([name], camera.received)
        for reason, count in camera.lost.items():
            lost.add_metric([name, reason], count)
        if camera.last_frame_utc is not None:
            last.add_metric([name], camera.last_frame_utc.timestamp())
    verdicts = CounterMetricFamily("zsad_inspections", "Verdicts", labels=["category", "verdict"])
    for category, counts in snapshot.verdicts.items():
        for verdict, count in counts.items():
            verdicts.add_metric([category, verdict], count)
    yield from (received, lost, last, verdicts)


def _state(snapshot: StatusSnapshot) -> Iterator[Metric]:
    is_ready = snapshot.state is State.READY
    yield GaugeMetricFamily("zsad_ready", "1 while frames are accepted", value=float(is_ready))
    yield GaugeMetricFamily("zsad_uptime_seconds", "Since the start", value=snapshot.uptime_s)
    yield GaugeMetricFamily(
        "zsad_queue_depth", "Frames that wait for the detector", value=snapshot.queue_frames
    )
    model = GaugeMetricFamily("zsad_model_info", "The model that decides", labels=["version"])
    if snapshot.model_version is not None:
        model.add_metric([snapshot.model_version], 1)
    refused = CounterMetricFamily(
        "zsad_clients_refused", "Connections and messages without a right", labels=["reason"]
    )
    for reason, count in snapshot.refused.items():
        refused.add_metric([reason], count)
    events = CounterMetricFamily("zsad_events", "Diary entries by severity", labels=["reason"])
    for severity, count in snapshot.events.items():
        events.add_metric([severity], count)
    yield from (model, refused, events)


def _add(family: HistogramMetricFamily, labels: list[str], counted: Counted) -> None:
    """Prometheus wants each bucket to include those before it."""
    bounds = [*(f"{bound:g}" for bound in counted.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(counted.counts), strict=True))
    family.add_metric(labels, buckets, counted.total)
