"""The demo: the real daemon as a process, two simulated cameras, and what came of it.

Uses nothing that a plant would not: the configuration file, the publisher class, the status file,
the database and the report.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table
from sqlalchemy import Engine, select

from daemon.config.line import Config
from daemon.config_file import load_config
from daemon.core import FrameId, Verdict
from daemon.demo_images import DemoCamera, demo_cameras
from daemon.errors import ModelError
from daemon.ingest.publisher import FramePublisher
from daemon.report.render_html import write_html
from daemon.report.render_terminal import render_terminal
from daemon.report.shift import build_window_report
from daemon.status import STATUS_FILE, State, StatusSnapshot, read_status
from daemon.storage.database import open_database
from daemon.storage.tables import InspectionRow
from zsad.image_files import load_image
from zsad.metrics import binary_metrics

LEARN_FRAMES = 60
START_TIMEOUT_S = 180.0
SUBSCRIBE_TIMEOUT_S = 30.0
DRAIN_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
REFRESH_S = 0.25


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What the demo does.

    Attributes:
        out: New folder for configuration, database, log and report.
        rate_hz: Frames per second of each camera.
        judged_frames: Frames of each camera after those it learns from.
    """

    out: Path
    rate_hz: float
    judged_frames: int


@dataclass(frozen=True, slots=True)
class SentFrame:
    """A published frame and its known label."""

    frame_id: FrameId
    is_anomalous: bool


@dataclass(frozen=True, slots=True)
class JudgedFrame:
    """A stored verdict beside the known label."""

    category: str
    verdict: Verdict
    pred_score: float
    is_anomalous: bool


def run_demo(plan: DemoPlan, console: Console) -> int:
    """Run the line once from start to report; 0 if every frame is accounted for."""
    cameras = demo_cameras(learn_frames=LEARN_FRAMES, judged_frames=plan.judged_frames)
    plan.out.mkdir(parents=True, exist_ok=True)
    started_utc = datetime.now(UTC)
    # A Unix socket's path may have 107 characters; the folder of a clone can be longer.
    with tempfile.TemporaryDirectory(prefix="zsad-demo-") as sockets:
        config_path = _write_config(plan.out, Path(sockets), cameras)
        config = load_config(config_path)
        console.print(f"Configuration: {config_path}")
        for camera in cameras:
            known = f"{camera.references} good parts as references" if camera.references else ""
            console.print(
                f"{camera.category}: {known or 'zero-shot'}, {LEARN_FRAMES} for thresholds"
            )
        with (plan.out / "daemon.log").open("wb") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "daemon", "run", "--config", str(config_path)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                sent = _publish_and_watch(plan, config, cameras, Path(sockets), daemon, console)
            finally:
                exit_code = _stop(daemon)
    console.print(f"Daemon stopped with exit code {exit_code}; its log: {plan.out / 'daemon.log'}")
    is_complete = _conclude(plan, config, config_path, sent, started_utc, console)
    return 0 if is_complete and exit_code == 0 else 1


def _stop(daemon: "subprocess.Popen[bytes]") -> int:
    """SIGTERM, and SIGKILL if it does not drain in time; the exit code."""
    daemon.terminate()
    try:
        return daemon.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        return daemon.wait()


def _write_config(out: Path, sockets: Path, cameras: Sequence[DemoCamera]) -> Path:
    """The embedded defaults, with what only this run can know: sockets, cameras, categories."""
    path = out / "daemon.yaml"
    settings = {
        "line": "demo",
        "timezone": "UTC",
        "run_dir": "run",
        "sources": [{"endpoint": _endpoint(sockets, camera)} for camera in cameras],
        "cameras": {camera.name: {"category": camera.category} for camera in cameras},
        "categories": {
            camera.category: {
                "class_name": camera.class_name,
                "references": camera.references,
                "learn_frames": LEARN_FRAMES,
                "review_rate": 0.10,
                "ng_rate": 0.02,
            }
            for camera in cameras
        },
        "model": {"references_dir": "references"},
        "storage": {"url": "sqlite:///zsad.db"},
        "http": {"listen": "off"},  # a daemon on this machine may hold the port
        "shifts": [
            {"name": "early", "start": "06:00"},
            {"name": "late", "start": "14:00"},
            {"name": "night", "start": "22:00"},
        ],
        # Nothing may be dropped on a slow machine: the publishers are paced, the queue is long.
        "queue": {"max_frames": 2000, "drop_policy": "drop_oldest"},
    }
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def _endpoint(sockets: Path, camera: DemoCamera) -> str:
    return f"ipc://{sockets / camera.name}"


def _publish_and_watch(
    plan: DemoPlan,
    config: Config,
    cameras: Sequence[DemoCamera],
    sockets: Path,
    daemon: "subprocess.Popen[bytes]",
    console: Console,
) -> list[SentFrame]:
    """Wait for the daemon, publish everything at the wanted rate, wait until it is decided."""
    _wait_until(
        lambda: _state(config) is State.READY,
        daemon,
        START_TIMEOUT_S,
        "the daemon to load its model",
        plan,
        console,
    )
    sent: list[SentFrame] = []
    go, stop = threading.Event(), threading.Event()
    publishers = [
        threading.Thread(
            target=_publish,
            args=(camera, _endpoint(sockets, camera), plan.rate_hz, sent, go, stop),
            name=camera.name,
        )
        for camera in cameras
    ]
    for publisher in publishers:
        publisher.start()
    go.set()
    total = sum(len(camera.frames) for camera in cameras)
    deadline = time.monotonic() + total / plan.rate_hz + DRAIN_TIMEOUT_S
    try:
        with Live(console=console, refresh_per_second=1 / REFRESH_S) as live:
            while time.monotonic() < deadline:
                status = _status(config)
                if status is not None:
                    live.update(live_table(status, config, total))
                    if not any(p.is_alive() for p in publishers) and _decided(status) >= total:
                        break
                if daemon.poll() is not None:
                    raise ModelError(f"the daemon ended; see {plan.out / 'daemon.log'}")
                stop.wait(REFRESH_S)
    finally:
        stop.set()
        for publisher in publishers:
            publisher.join()
    return sent


def _publish(
    camera: DemoCamera,
    endpoint: str,
    rate_hz: float,
    sent: list[SentFrame],
    go: threading.Event,
    stop: threading.Event,
) -> None:
    """What a camera program does; the image file stands for the camera's sensor."""
    with FramePublisher(endpoint, camera.name, category=camera.category) as publisher:
        publisher.wait_for_subscriber(SUBSCRIBE_TIMEOUT_S)
        go.wait()
        start_at = time.monotonic()
        for number, frame in enumerate(camera.frames):
            if stop.wait(max(0.0, start_at + number / rate_hz - time.monotonic())):
                return
            seq = publisher.send(
                load_image(frame.path), pixel_format="RGB8", part_id=f"{camera.name}-{number:04d}"
            )
            frame_id = FrameId(camera.name, publisher.epoch, seq)
            sent.append(SentFrame(frame_id, frame.is_anomalous))


def live_table(status: StatusSnapshot, config: Config, total: int) -> Table:
    """What the line looks like now.

    Args:
        total: Frames that will be sent in all.
    """
    table = Table(
        title=f"line {status.line}: {_decided(status)} of {total} frames decided",
        caption=_latency_caption(status),
    )
    table.add_column("camera")
    for heading in ("received", "gaps", "lost", *(verdict.value for verdict in Verdict)):
        table.add_column(heading, justify="right")
    for name, camera in config.cameras.items():
        seen = status.cameras[name]
        verdicts = status.verdicts.get(camera.category or "", {})
        counts = (seen.received, seen.gaps, seen.lost_after_receipt)
        table.add_row(
            name,
            *(str(count) for count in counts),
            *(str(verdicts.get(verdict, 0)) for verdict in Verdict),
        )
    return table


def _latency_caption(status: StatusSnapshot) -> str:
    if status.latency_p50_s is None or status.latency_p99_s is None:
        return "learning from the first good parts of each camera"
    return (
        f"frame to verdict p50 {status.latency_p50_s * 1000:.0f} ms, "
        f"p99 {status.latency_p99_s * 1000:.0f} ms; queue {status.queue_frames}; "
        f"batches of {status.batch_mean or 0:.1f}; a camera's first good parts: LEARNING"
    )


def _decided(status: StatusSnapshot) -> int:
    return sum(camera.inspected + sum(camera.lost.values()) for camera in status.cameras.values())


def _status(config: Config) -> StatusSnapshot | None:
    try:
        return read_status(config.run_dir / STATUS_FILE)
    except FileNotFoundError:  # not started yet
        return None


def _state(config: Config) -> State | None:
    status = _status(config)
    return None if status is None else status.state


def _wait_until(
    condition: Callable[[], bool],
    daemon: "subprocess.Popen[bytes]",
    timeout_s: float,
    what: str,
    plan: DemoPlan,
    console: Console,
) -> None:
    deadline = time.monotonic() + timeout_s
    waiting = threading.Event()
    with console.status(f"Waiting for {what}"):
        while not condition():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise ModelError(f"waited in vain for {what}; see {plan.out / 'daemon.log'}")
            waiting.wait(REFRESH_S)


def _conclude(
    plan: DemoPlan,
    config: Config,
    config_path: Path,
    sent: Sequence[SentFrame],
    started_utc: datetime,
    console: Console,
) -> bool:
    """Report and agreement with the known labels; whether every sent frame is accounted for."""
    engine = open_database(config.storage, config_path.parent, os.environ)
    try:
        now = datetime.now(UTC)
        report = build_window_report(engine, config, started_utc, now, "demo run", now=now)
        judged = _judged(engine, {frame.frame_id: frame.is_anomalous for frame in sent})
    finally:
        engine.dispose()
    html = plan.out / "report.html"
    write_html(report, html)
    render_terminal(report, console)
    console.print(agreement_table(judged))
    # The publishers' own count: the report cannot see what is lost after the last frame received.
    is_complete = report.is_ledger_balanced and len(sent) == report.received + report.gaps
    console.print(
        f"Ledger:        sent {len(sent)} {'=' if is_complete else 'IS NOT'} "
        f"received {report.received} + gaps {report.gaps}"
    )
    console.print(f"Report:        {html}")
    console.print(f"Database:      {plan.out / 'zsad.db'}")
    return is_complete


def _judged(engine: Engine, labels: Mapping[FrameId, bool]) -> list[JudgedFrame]:
    """Every frame with a verdict, beside its known label."""
    row = InspectionRow
    columns = (row.camera, row.epoch, row.seq, row.category, row.verdict, row.pred_score)
    with engine.connect() as connection:
        rows = connection.execute(
            select(*columns).where(row.verdict.in_(["OK", "REVIEW", "NG"]))
        ).all()
    return [
        JudgedFrame(category, Verdict(verdict), score, labels[FrameId(camera, epoch, seq)])
        for camera, epoch, seq, category, verdict, score in rows
        if score is not None  # only ERROR rows have none
    ]


def agreement_table(judged: Sequence[JudgedFrame]) -> Table:
    """How well scores and verdicts agree with the known labels, by category."""
    table = Table(
        title="Agreement with the known labels of the demo images",
        caption="I-AUROC needs no threshold; the verdicts use the thresholds learned on this line",
    )
    table.add_column("category")
    for heading in (
        "I-AUROC",
        "good: OK",
        "REVIEW",
        "NG",
        "defective: OK (escapes)",
        "REVIEW",
        "NG",
    ):
        table.add_column(heading, justify="right")
    for category in sorted({frame.category for frame in judged}):
        frames = [frame for frame in judged if frame.category == category]
        metrics = binary_metrics(
            np.array([frame.is_anomalous for frame in frames]),
            np.array([frame.pred_score for frame in frames]),
        )
        counts = Counter((frame.is_anomalous, frame.verdict) for frame in frames)
        table.add_row(
            category,
            f"{metrics.auroc:.3f}",
            *(
                str(counts[is_anomalous, verdict])
                for is_anomalous in (False, True)
                for verdict in (Verdict.OK, Verdict.REVIEW, Verdict.NG)
            ),
        )
    return table
