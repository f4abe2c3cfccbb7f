"""Health and metrics over a real socket, also for clients that mean no good."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.core import FrameId, FrameInfo, FrameLoss, Inspection, LossReason, Severity, Verdict
from daemon.health import Health
from daemon.http.routes import Routes
from daemon.http.server import MAX_HEAD_BYTES, MAX_THREADS, HttpServer
from daemon.status import SourceState, SourceStatus, State

NOW_UTC = datetime(2026, 1, 31, 6, tzinfo=UTC)
TOKEN = "s3cret"  # noqa: S105


@pytest.fixture
def health() -> Health:
    """Of a line that is well."""
    health = Health(
        line="L1", cameras=["cam1"], categories=["fabric"], database="sqlite:///x", queue_limit=64
    )
    health.set_state(State.READY)
    health.set_model_version('v "1"\n')
    health.set_sources({"ipc:///f": SourceStatus(state=SourceState.FRESH)})
    return health


class Served:
    """A running server."""

    def __init__(self, routes: Routes) -> None:
        self.server = HttpServer(("127.0.0.1", 0), routes)
        self.address = self.server.server_address[:2]
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.server.run, args=(self.stop,))
        self.thread.start()

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def say(self, request: bytes) -> bytes:
        """Everything that comes back for some bytes."""
        with socket.create_connection(self.address, timeout=10) as client:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(4096), b""))

    def finish(self) -> None:
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def served(health: Health) -> Iterator[Served]:
    served = Served(Routes(health))
    yield served
    served.finish()


def answer(health: Health, path: str, token: str | None = None) -> tuple[int, dict[str, object]]:
    got = Routes(health, token=token).answer(path)
    return got.status, json.loads(got.body)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/readyz?verbose=1"])
def test_a_line_that_is_well_says_so(served: Served, path: str) -> None:
    status, body = served.get(path)

    assert (status, json.loads(body)["status"]) == (200, "ok")


@pytest.mark.parametrize("state", [State.STARTING, State.STOPPING])
def test_starting_and_stopping_are_alive_and_not_ready(health: Health, state: State) -> None:
    health.set_state(state)

    assert answer(health, "/livez")[0] == 200
    assert answer(health, "/readyz") == (
        503,
        {"status": "unavailable", "reasons": [f"the daemon is {state}"]},
    )


def test_a_database_that_is_away_and_silent_sources_are_not_ready(health: Health) -> None:
    health.set_trouble("database", "the database takes no results")
    health.set_sources({"ipc:///f": SourceStatus(state=SourceState.STALE)})

    assert answer(health, "/readyz")[1]["reasons"] == [
        "the database takes no results",
        "no source is fresh: ipc:///f is stale",
    ]

    health.set_trouble("database", None)
    health.set_sources({"ipc:///f": SourceStatus(state=SourceState.FRESH)})
    assert answer(health, "/readyz")[0] == 200


def test_a_stuck_thread_is_not_alive(health: Health) -> None:
    health.watch("ingest", max_age_s=-1)

    assert answer(health, "/livez") == (
        503,
        {"status": "unavailable", "reasons": ["no progress of: ingest"]},
    )


def test_healthz_carries_the_whole_status(served: Served) -> None:
    body = json.loads(served.get("/healthz")[1])

    assert body["daemon"]["cameras"]["cam1"]["received"] == 0


def test_without_the_token_only_the_probes_answer(health: Health) -> None:
    served = Served(Routes(health, token=TOKEN))
    try:
        assert [served.get(p)[0] for p in ("/livez", "/readyz", "/healthz", "/metrics")] == [
            *(200, 200),
            *(401, 401),
        ]
        assert served.get("/metrics", Authorization="Bearer wrong")[0] == 401
        assert served.get("/metrics", Authorization="Bearer s\xe9cret")[0] == 401
        assert served.get("/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert TOKEN not in served.get("/healthz", Authorization=f"Bearer {TOKEN}")[1]
    finally:
        served.finish()


def test_metrics_are_what_prometheus_reads(served: Served, health: Health) -> None:
    info = FrameInfo(FrameId("cam1", 1, 1), "fabric", NOW_UTC, NOW_UTC, 100.0)
    health.set_received("cam1", 3, NOW_UTC)
    health.count_inspection(Inspection(info, Verdict.NG, "v1", NOW_UTC, 0.04, pred_score=0.7))
    health.count_loss(FrameLoss(LossReason.GAP, NOW_UTC, "", "cam1", first_seq=4, last_seq=9))
    health.count_batch(3)
    health.observe_stage("decode", 0.004)
    health.set_refused({"its key is not allowed": 5})
    health.count_event(Severity.ALARM)
    health.set_counter("write_retries", 2)

    families = text_string_to_metric_families(served.get("/metrics")[1])
    samples = {
        (s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples
    }

    expected = {
        ("zsad_frames_received_total", (("camera", "cam1"),)): 3,
        ("zsad_frames_lost_total", (("camera", "cam1"), ("reason", "gap"))): 6,
        ("zsad_inspections_total", (("category", "fabric"), ("verdict", "NG"))): 1,
        ("zsad_queue_depth", ()): 0,
        ("zsad_batch_size_bucket", (("le", "2"),)): 0,
        ("zsad_batch_size_bucket", (("le", "4"),)): 1,
        ("zsad_batch_size_sum", ()): 3,
        ("zsad_stage_duration_seconds_bucket", (("le", "0.005"), ("stage", "decode"))): 1,
        ("zsad_stage_duration_seconds_count", (("stage", "store"),)): 0,
        ("zsad_frame_to_verdict_seconds_bucket", (("le", "0.025"),)): 0,
        ("zsad_frame_to_verdict_seconds_bucket", (("le", "+Inf"),)): 1,
        ("zsad_pred_score_sum", (("category", "fabric"),)): 0.7,
        (
            "zsad_source_last_frame_timestamp_seconds",
            (("camera", "cam1"),),
        ): NOW_UTC.timestamp(),
        ("zsad_model_info", (("version", 'v "1"\n'),)): 1,
        ("zsad_clients_refused_total", (("reason", "its key is not allowed"),)): 5,
        ("zsad_events_total", (("reason", "alarm"),)): 1,
        ("zsad_write_retries", ()): 2,
    }
    assert {name: samples.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /livez HTTP/1.1\r\n\r\n", 200),
        (b"HEAD /livez HTTP/1.1\r\n\r\n", 200),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 999999999\r\n\r\nabc", 501),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET /\xff\x00<script> HTTP/1.1\r\n\r\n", 404),
        (b"GET //evil.example/livez HTTP/1.1\r\n\r\n", 404),
        (b"\r\n\r\n", None),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /livez HTTP/9.9\r\n\r\n", 505),
        (b"GET " + b"/" * MAX_HEAD_BYTES, 400),
        (b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 150 + b"\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nX: " + b"y" * MAX_HEAD_BYTES, 400),
        (b"GET /livez HTTP/1.1\r\n", None),
        (b"", None),
    ],
)
def test_hostile_requests_are_refused_and_the_next_is_answered(
    served: Served, request_bytes: bytes, status: int | None
) -> None:
    answered = served.say(request_bytes)

    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answered)
    assert (int(found[1]) if found else None) == status
    assert b"<script>" not in answered
    assert served.get("/livez")[0] == 200


def test_slow_clients_keep_nobody_waiting_for_long(served: Served) -> None:
    slow = [socket.create_connection(served.address) for _ in range(MAX_THREADS + 2)]
    try:
        for client in slow:
            client.sendall(b"GET /livez HTTP/1.1\r\nX-Slow: ")
        began_at = time.monotonic()
        assert served.get("/livez")[0] == 200
        assert time.monotonic() - began_at < 10  # for ever, without the bound on a request
    finally:
        for client in slow:
            client.close()


def test_stopping_does_not_wait_for_a_client(health: Health) -> None:
    served = Served(Routes(health))
    with socket.create_connection(served.address) as client:
        client.sendall(b"GET /li")
        served.finish()

    with pytest.raises(OSError, match="refused"):
        socket.create_connection(served.address, timeout=1)
