from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest

from daemon.core import FrameId, FrameInfo, FrameLoss, Inspection, LossReason, Verdict
from daemon.health import LATENCY_WINDOW, UNKNOWN, Health
from daemon.status import State

NOW_UTC = datetime(2026, 1, 31, 6, tzinfo=UTC)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(
        line="L1",
        cameras=["cam1"],
        categories=["fabric"],
        database="sqlite:///x",
        queue_limit=64,
        started_utc=NOW_UTC,
        clock=clock,
    )


def inspection(
    verdict: Verdict,
    *,
    camera: str = "cam1",
    category: str = "fabric",
    latency_s: float = 0.05,
    error_reason: LossReason | None = None,
) -> Inspection:
    info = FrameInfo(FrameId(camera, 1, 1), category, NOW_UTC, NOW_UTC, 100.0)
    return Inspection(info, verdict, "v1", NOW_UTC, latency_s, error_reason=error_reason)


def loss(reason: LossReason, camera: str | None = "cam1", last_seq: int = 1) -> FrameLoss:
    return FrameLoss(reason, NOW_UTC, "", camera, first_seq=1, last_seq=last_seq)


def test_a_thread_that_stops_beating_is_named(health: Health, clock: Clock) -> None:
    health.watch("ingest", max_age_s=10)
    writer = health.watch("writer", max_age_s=10)

    clock.now = 110.5
    writer.beat()

    assert health.dead_threads(clock.now) == ["ingest"]


def test_alive_while_every_thread_beats(health: Health, clock: Clock) -> None:
    beats = [health.watch(name, max_age_s=10) for name in ("ingest", "writer")]

    clock.now = 110.5
    beats[0].beat()
    beats[1].beat_at(105.0)

    assert health.dead_threads(clock.now) == []


def test_received_is_inspected_and_lost_and_in_flight(health: Health) -> None:
    health.set_received("cam1", 7, NOW_UTC)
    for verdict in (Verdict.OK, Verdict.NG, Verdict.LEARNING):
        health.count_inspection(inspection(verdict))
    health.count_inspection(inspection(Verdict.ERROR, error_reason=LossReason.BAD_PAYLOAD))
    health.count_loss(loss(LossReason.QUEUE_FULL))
    health.count_loss(loss(LossReason.GAP, last_seq=20))

    camera = health.snapshot(101.0, NOW_UTC).cameras["cam1"]

    assert (camera.received, camera.inspected, camera.lost_after_receipt) == (7, 3, 2)
    assert camera.in_flight == 2
    assert camera.gaps == 20
    assert camera.lost[LossReason.BAD_PAYLOAD] == 1
    assert camera.last_frame_utc == NOW_UTC


def test_invented_names_are_counted_together(health: Health) -> None:
    for number in range(100):
        health.count_loss(loss(LossReason.UNKNOWN_CAMERA, camera=f"invented{number}"))
        health.count_inspection(inspection(Verdict.OK, category=f"invented{number}"))
    health.count_loss(loss(LossReason.BAD_MESSAGE, camera=None))

    snapshot = health.snapshot(101.0, NOW_UTC)

    assert set(snapshot.cameras) == {"cam1", UNKNOWN}
    assert snapshot.cameras[UNKNOWN].lost == {
        LossReason.UNKNOWN_CAMERA: 100,
        LossReason.BAD_MESSAGE: 1,
    }
    assert snapshot.verdicts == {"fabric": {}, UNKNOWN: {Verdict.OK: 100}}


def test_latency_percentiles_cover_the_last_frames_only(health: Health) -> None:
    for _ in range(LATENCY_WINDOW):
        health.count_inspection(inspection(Verdict.OK, latency_s=9.0))
    for number in range(LATENCY_WINDOW):
        health.count_inspection(inspection(Verdict.OK, latency_s=number / LATENCY_WINDOW))

    snapshot = health.snapshot(101.0, NOW_UTC)

    assert snapshot.latency_frames == LATENCY_WINDOW
    assert snapshot.latency_p50_s == pytest.approx(0.5, abs=1e-3)
    assert snapshot.latency_p99_s == pytest.approx(0.99, abs=1e-3)


def test_a_snapshot_before_the_first_frame_has_no_latency(health: Health) -> None:
    snapshot = health.snapshot(103.5, NOW_UTC + timedelta(seconds=3.5))

    assert snapshot.state is State.STARTING
    assert snapshot.uptime_s == 3.5
    assert snapshot.latency_p50_s is None
    assert snapshot.batch_mean is None
    assert snapshot.model_version is None


def test_queue_batches_model_and_counters_are_shown(health: Health) -> None:
    health.set_state(State.READY)
    health.set_model_version("aa_clip/v1")
    health.set_queue_frames(3)
    health.count_batch(8)
    health.count_batch(3)
    health.set_counter("write_retries", 2)

    snapshot = health.snapshot(101.0, NOW_UTC)

    assert snapshot.state is State.READY
    assert snapshot.model_version == "aa_clip/v1"
    assert (snapshot.queue_frames, snapshot.queue_limit) == (3, 64)
    assert (snapshot.batches, snapshot.batch_mean) == (2, 5.5)
    assert snapshot.counters == {"write_retries": 2}


def test_counts_of_two_threads_add_up(health: Health) -> None:
    def count() -> None:
        for _ in range(2000):
            health.count_inspection(inspection(Verdict.OK))

    threads = [Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert health.snapshot(101.0, NOW_UTC).cameras["cam1"].inspected == 4000
