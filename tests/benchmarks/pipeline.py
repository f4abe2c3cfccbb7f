"""The whole line beside its slowest stage alone, and verdict times at 70 % of what it can do.

    python tests/benchmarks/pipeline.py                      # the embedded detector
    python tests/benchmarks/pipeline.py --detector none --seconds 20 --json out.json --plot out.png
    python tests/benchmarks/pipeline.py --database postgresql   # a private server with fsync

Cameras, processes of their own, send JPEG files to the real daemon: as fast as it takes them (PULL
sockets hold them back), and at a steady pace of 70 % of that rate. Before and after the first of
these each stage runs alone in this process, with all cores to itself: the mean of both, for few
machines are equally fast for a minute. `none` is commissioning: everything but a detector. Frames
per second of the whole line over those of the slowest stage alone show what the joints cost, and on
a machine with few cores also that stages share them.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing.synchronize import Event
from pathlib import Path

import cv2
import numpy as np
import psycopg
import yaml

from daemon.config.categories import CategoryConfig
from daemon.config.detector import ModelConfig
from daemon.config.recipe import RoiConfig
from daemon.config.storage import StorageConfig
from daemon.core import FrameId, FrameInfo, Image, Inspection, Thumbnails, Verdict
from daemon.ingest.decode import decode_image
from daemon.ingest.message import Payload
from daemon.ingest.publisher import FramePublisher
from daemon.inspection.pictures import draw_thumbnails
from daemon.status import State, read_status
from daemon.storage import repository, revision
from daemon.storage.batch import BATCH_SIZE
from daemon.storage.database import open_database, write_transaction

CAMERAS = ("cam1", "cam2", "cam3", "cam4")
FABRIC = CategoryConfig(class_name="woven fabric")
PICTURES, JPEG_QUALITY = 8, 92
DECODE_THREADS = 2
"""As the daemon's."""
LEARN_FRAMES = 20
LOAD = 0.7
WARM_UP_S = 3.0
NOW = datetime(2026, 1, 31, tzinfo=UTC)


@dataclass(frozen=True)
class Spread:
    """Seconds."""

    p50_s: float
    p99_s: float
    count: int


@dataclass(frozen=True)
class Phase:
    """What was measured while the line ran.

    Attributes:
        seconds: How long.
        cpu_s: Of the daemon in that time.
        times_s: Every single time, by stage; `verdict` is from receipt to verdict.
    """

    seconds: float
    cpu_s: float
    times_s: dict[str, list[float]]


@dataclass(frozen=True)
class Steady:
    """The line at a steady pace.

    Attributes:
        frames_per_s: Verdicts.
        cpu_ms: Of the daemon for each frame.
        verdict: From receipt.
        stages: By name; `queue` is the wait of each frame for the detector, `infer` a batch.
        p99_ratio: Verdict p99 over the sum of the p99 of `queue` and `infer`.
        p99_ratio_to_delay: The same with the configured delay in the place of the wait.
    """

    frames_per_s: float
    cpu_ms: float
    verdict: Spread
    stages: dict[str, Spread]
    p99_ratio: float | None
    p99_ratio_to_delay: float | None


NewDatabase = Callable[[], str]
"""The URL of a fresh database with the newest schema."""


@contextmanager
def databases(kind: str, folder: Path) -> Iterator[NewDatabase]:
    """`sqlite`: files in the folder; `postgresql`: a private server, as durable as a real one."""
    count = 0

    def new(url: str) -> str:
        engine = open_database(StorageConfig(url=url), folder, {})
        revision.upgrade(engine)
        engine.dispose()
        return url

    def new_file() -> str:
        nonlocal count
        count += 1
        return new(f"sqlite:///{folder}/{count}.db")

    def new_on_server() -> str:
        nonlocal count
        count += 1
        with psycopg.connect(f"{server} dbname=postgres", autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET fsync = on")  # off for the tests
            admin.execute("SELECT pg_reload_conf()")
            admin.execute(f"CREATE DATABASE line{count} TEMPLATE template0")
            return new(f"postgresql://zsad@/line{count}?host={admin.info.host}")

    if kind == "sqlite":
        yield new_file
        return
    spec = importlib.util.spec_from_file_location(
        "servers", Path(__file__).parents[1] / "conftest.py"
    )
    servers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(servers)
    running = contextmanager(servers.running_server)
    with (
        tempfile.TemporaryDirectory(prefix="zsad-pg-") as name,
        running(servers.server_programs(), Path(name)) as server,
    ):
        yield new_on_server


def picture(seed: int, height: int, width: int) -> bytes:
    """A woven-looking surface as a JPEG file."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(128, 60, (height, width)).astype(np.float32), (5, 5), 1.2)
    colour = cv2.merge([np.clip(noise, 0, 255).astype(np.uint8)] * 3)
    return cv2.imencode(".jpg", colour, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def decode(data: bytes) -> Image:
    return decode_image(Payload("jpeg", data), max_pixels=32_000_000)


def rate(call: Callable[[], object], frames: int, seconds: float) -> float:
    """Frames per second of a call that handles `frames`, once warm."""
    call()
    began_at, calls = time.perf_counter(), 0
    while time.perf_counter() - began_at < seconds:
        call()
        calls += 1
    return frames * calls / (time.perf_counter() - began_at)


def decode_rate(files: Sequence[bytes], workers: int, seconds: float) -> float:
    """Of a pool of threads, as the daemon's."""
    with ThreadPoolExecutor(workers) as pool:
        return rate(lambda: list(pool.map(decode, files)), len(files), seconds)


def stages_alone(
    args: argparse.Namespace, files: Sequence[bytes], folder: Path, database: str
) -> dict[str, float]:
    """Frames per second of each stage with the machine to itself."""
    images = [decode(data) for data in files]
    found = {"decode": decode_rate(files, DECODE_THREADS, args.alone_s)}
    if args.detector != "none":
        found |= detector_alone(args, images)
    found["store"] = store_rate(folder, database, args.alone_s, drawn=args.detector != "none")
    return found


def detector_alone(args: argparse.Namespace, images: Sequence[Image]) -> dict[str, float]:
    from daemon.inspection.detector_slot import DetectorSlot

    model = ModelConfig(device="cpu", threads=args.threads)
    slot = DetectorSlot(model, {"fabric": FABRIC}, max_batch=args.batch)
    slot.warm_up(args.batch)
    batch = [images[i % len(images)] for i in range(args.batch)]
    products = [("fabric", FABRIC)] * args.batch
    anomaly_map = slot.infer(batch[:1], products[:1])[0][1].here()

    def prepare_all(images: Sequence[Image]) -> None:
        for image in images:
            slot.model.predictor.prepare(image)

    def draw() -> None:
        for image in images:
            draw_thumbnails(
                image, anomaly_map, map_threshold=0.5, longer_side_px=256, roi=RoiConfig()
            )

    try:
        return {
            "preprocess": rate(lambda: prepare_all(batch), args.batch, args.alone_s),
            "infer": rate(lambda: slot.infer(batch, products), args.batch, args.alone_s),
            "draw": rate(draw, len(images), args.alone_s),
        }
    finally:
        slot.close()


def store_rate(folder: Path, database: str, seconds: float, *, drawn: bool) -> float:
    engine = open_database(StorageConfig(url=database), folder, {})
    with write_transaction(engine) as connection:
        repository.ensure_model_version(
            connection, name="v1", method="m", backbone="b", card_json="{}", now=NOW
        )
    pictures = Thumbnails(*(os.urandom(size) for size in (10_240, 7_168, 3_072)))
    stored = 0

    def store() -> None:
        nonlocal stored
        rows = [
            Inspection(
                FrameInfo(FrameId("cam1", 1, seq), "fabric", NOW, NOW, 0.0),
                *(Verdict.LEARNING, "v1", NOW, 0.04),
                thumbnails=pictures if drawn else None,
            )
            for seq in range(stored, stored + BATCH_SIZE)
        ]
        stored += BATCH_SIZE
        with write_transaction(engine) as connection:
            repository.add_results(connection, "line1", rows)

    try:
        return rate(store, BATCH_SIZE, seconds)
    finally:
        engine.dispose()


def run_camera(
    endpoint: str, camera: str, files: list[bytes], every_s: float, phase_s: float, stop: Event
) -> None:
    """Send until stopped; every_s 0 sends as fast as the daemon takes frames."""
    with FramePublisher(
        endpoint,
        camera,
        category="fabric",
        socket="push",
        mode="connect",
        high_water_mark=2,
        linger_s=0,
    ) as publisher:
        next_at = time.monotonic() + phase_s
        while not stop.is_set():
            if every_s:
                time.sleep(max(0.0, next_at - time.monotonic()))
                next_at += every_s
            try:
                publisher.send_encoded(files[publisher.next_seq % len(files)], "jpeg")
            except TimeoutError:
                continue


class Daemon:
    """The recording daemon as a process, and the cameras in front of it."""

    def __init__(self, args: argparse.Namespace, folder: Path, database: str) -> None:
        self._folder = folder
        self._args = args
        self._endpoint = f"ipc://{folder}/frames"
        model = {"commissioning": True} if args.detector == "none" else {"device": "cpu"}
        if args.threads is not None:
            model["threads"] = args.threads
        settings = {
            "line": "line1",
            "timezone": "UTC",
            "run_dir": "run",
            "sources": [{"endpoint": self._endpoint, "mode": "bind", "socket": "pull"}],
            "cameras": {name: {} for name in CAMERAS},
            "categories": {"fabric": {"class_name": "woven fabric", "learn_frames": LEARN_FRAMES}},
            "storage": {"url": database},
            "shifts": [{"name": "day", "start": "06:00"}, {"name": "night", "start": "18:00"}],
            "model": model,
            "batch": {"max_batch_size": args.batch, "max_queue_delay_ms": args.delay_ms},
            "queue": {"max_frames": 16, "drop_policy": "block"},
            "http": {"listen": "off"},
        }
        (folder / "daemon.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")

    def watch(self, files: list[bytes], frames_per_s: float, seconds: float) -> "Phase":
        """The line for some seconds after a warm-up.

        Args:
            frames_per_s: Of all cameras together; 0 is as fast as they are taken.
        """
        log = self._folder / "daemon.log"
        times = self._folder / "times.json"
        program = Path(__file__).with_name("pipeline_daemon.py")
        with log.open("ab") as file:
            daemon = subprocess.Popen(
                [sys.executable, program, self._folder / "daemon.yaml", times],
                stdout=file,
                stderr=file,
                cwd=Path.cwd(),
                env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            )
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        every_s = len(CAMERAS) / frames_per_s if frames_per_s else 0.0
        cameras = [
            context.Process(
                target=run_camera,
                args=(self._endpoint, name, files, every_s, every_s * i / len(CAMERAS), stop),
            )
            for i, name in enumerate(CAMERAS)
        ]
        try:
            self._wait_until_ready(daemon)
            for camera in cameras:
                camera.start()
            time.sleep(WARM_UP_S)
            begin, cpu_s = time.monotonic(), _cpu_s(daemon.pid)
            time.sleep(seconds)
            end, cpu_s = time.monotonic(), _cpu_s(daemon.pid) - cpu_s
        finally:
            stop.set()
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(timeout=120)
            for camera in cameras:
                if camera.pid is not None:
                    camera.join(timeout=30)
        if code != 0:
            raise SystemExit(log.read_text())
        recorded: dict[str, list[list[float]]] = json.loads(times.read_text())
        times_s = {
            name: [took for at, took in values if begin <= at < end]
            for name, values in recorded.items()
        }
        return Phase(end - begin, cpu_s, times_s)

    def _wait_until_ready(self, daemon: "subprocess.Popen[bytes]") -> None:
        while daemon.poll() is None:
            try:
                status = read_status(self._folder / "run" / "status.json")
            except FileNotFoundError:
                status = None
            if status is not None and status.state == State.READY and status.pid == daemon.pid:
                return
            time.sleep(0.05)
        raise SystemExit((self._folder / "daemon.log").read_text())


def spread(seconds: Sequence[float]) -> Spread:
    p50, p99 = np.percentile(seconds, (50, 99))
    return Spread(float(p50), float(p99), len(seconds))


def steady(phase: Phase, delay_s: float) -> Steady:
    stages = {name: spread(values) for name, values in phase.times_s.items() if values}
    verdict = stages.pop("verdict")
    waited_s, inferred_s = (
        stages[name].p99_s if name in stages else 0.0 for name in ("queue", "infer")
    )
    has_detector = inferred_s > 0.001
    return Steady(
        verdict.count / phase.seconds,
        1e3 * phase.cpu_s / verdict.count,
        verdict,
        stages,
        verdict.p99_s / (waited_s + inferred_s) if has_detector else None,
        verdict.p99_s / (delay_s + inferred_s) if has_detector else None,
    )


def _cpu_s(pid: int) -> float:
    """Of a running process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def plot(alone: dict[str, float], whole: float, title: str, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    bars = {**alone, "whole line": whole}
    axes.barh(list(bars), list(bars.values()), color=["#9aa5b1"] * len(alone) + ["#186840"])
    axes.set(xlabel="frames/s", title=title, xscale="log")
    axes.invert_yaxis()
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", choices=("none", "compact"), default="compact")
    parser.add_argument("--threads", type=int, help="of the detector (as the daemon's)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--delay-ms", type=float, default=40.0)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 1280), metavar=("H", "W"))
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase (20)")
    parser.add_argument("--alone-s", type=float, default=3.0, help="of each stage alone (3)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    if args.threads is not None and args.detector != "none":
        import torch

        torch.set_num_threads(args.threads)
    files = [picture(seed, *args.size) for seed in range(PICTURES)]
    delay_s = args.delay_ms / 1e3
    with (
        tempfile.TemporaryDirectory(prefix="zsad-") as one,
        tempfile.TemporaryDirectory(prefix="zsad-") as other,
        databases(args.database, Path(one)) as new_database,
    ):
        before = stages_alone(args, files, Path(one), new_database())
        full = steady(
            Daemon(args, Path(one), new_database()).watch(files, 0.0, args.seconds), delay_s
        )
        after = stages_alone(args, files, Path(one), new_database())
        pace = LOAD * full.frames_per_s
        phase = Daemon(args, Path(other), new_database()).watch(files, pace, args.seconds)
        paced = steady(phase, delay_s)
    alone = {stage: (first + after[stage]) / 2 for stage, first in before.items()}
    slowest = min(alone, key=lambda stage: alone[stage])
    ratio = full.frames_per_s / alone[slowest]
    for stage, frames_per_s in alone.items():
        both = f"{before[stage]:.1f} and {after[stage]:.1f}"
        print(f"{stage} alone: {frames_per_s:.1f} frames/s ({both})")
    print(f"whole line: {full.frames_per_s:.1f} frames/s, {ratio:.2f} of {slowest} alone")
    for label, found in (("full", full), (f"{LOAD:.0%}", paced)):
        print(
            f"{label}: {found.frames_per_s:.1f} frames/s, verdict p50 "
            f"{found.verdict.p50_s * 1e3:.1f} ms, p99 {found.verdict.p99_s * 1e3:.1f} ms"
            f", {found.cpu_ms:.1f} ms of the daemon's CPU a frame"
            + (
                ""
                if found.p99_ratio is None
                else f"; p99 is {found.p99_ratio:.2f} of queue + "
                f"infer, {found.p99_ratio_to_delay:.2f} of delay + infer"
            )
        )
        for stage, one in found.stages.items():  # preprocess is a part of infer
            print(f"  {stage}: p50 {one.p50_s * 1e3:.2f} ms, p99 {one.p99_s * 1e3:.2f} ms")
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": {
            **{name: importlib.metadata.version(name) for name in ("zsad", "opencv-python")},
            "python": platform.python_version(),
        },
        "settings": {key: str(value) for key, value in vars(args).items()},
        "alone_frames_per_s": {"before": before, "after": after},
        "slowest": slowest,
        "ratio": ratio,
        "full": asdict(full),
        "at_load": asdict(paced),
    }
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if args.plot is not None:
        title = f"{args.detector}, {args.database}, {os.cpu_count()} cores"
        plot(alone, full.frames_per_s, title, args.plot)


if __name__ == "__main__":
    main()
