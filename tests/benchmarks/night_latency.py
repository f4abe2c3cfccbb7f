"""Frame to verdict while a night trains, over what it was before, on the real daemon.

    python tests/benchmarks/night_latency.py --product TREE/CATEGORY --rate 2

Labels 16 + 16 frames, starts the daemon with a window that begins 90 seconds later, publishes good
and defective frames at `--rate` a second until the night is over, and prints both 99th percentiles
as the daemon measured them, their ratio, and how many frames were sent and have a verdict.
"""

import argparse
import itertools
import os
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).parents[1] / "nights"))

from night_line import LINE, NightLine, Shown

from daemon.ingest.publisher import FramePublisher
from daemon.storage import job_runs
from daemon.storage.job_runs import JobRun, JobState
from zsad.data import Sample
from zsad.datasets.layouts import read_dataset
from zsad.image_files import load_image

BEFORE_S = 90


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--product", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=2.0)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    found = [
        s for s in read_dataset(args.product.parent, "mvtec") if s.category == args.product.name
    ]
    found = [found[i] for i in rng.permutation(len(found))]
    sound = [s for s in found if not s.is_anomalous]
    defective = [s for s in found if s.is_anomalous]
    with TemporaryDirectory() as folder:
        begin = datetime.now(ZoneInfo("Europe/Berlin")) + timedelta(seconds=BEFORE_S)
        line = NightLine(
            Path(folder),
            {"product": sound[0].class_name},
            window_start=f"{begin:%H:%M:%S}",
            window_end=f"{begin + timedelta(hours=2):%H:%M:%S}",
        )
        line.label("product", [Shown(s.image_path, False) for s in sound[:16]])
        line.label("product", [Shown(s.image_path, True) for s in defective[:16]])
        line.keep_good("product", [s.image_path for s in sound[16:46]])
        sent = _run(line, sound[46:76], args.rate)
        with line.engine.connect() as connection:
            judged = connection.scalar(
                text("SELECT count(*) FROM inspection WHERE camera = 'cam1' AND epoch <> 1")
            )
            lost = connection.scalar(text("SELECT count(*) FROM frame_loss"))
            run = job_runs.latest(connection, LINE)
        assert run is not None
        _print(run, sent, judged, lost)
        line.close()


def _print(run: JobRun, sent: int, judged: int, lost: int) -> None:
    took = run.ended_utc - run.started_utc if run.ended_utc is not None else None
    before, during = run.latency_before_ms, run.latency_during_ms
    print(f"night: {run.state} in {took}: {run.detail}")
    print(f"frames: {sent} sent, {judged} with a verdict, {lost} losses")
    if before is not None and during is not None:
        print(f"p99 {before:.0f} ms before, {during:.0f} ms during: ratio {during / before:.2f}")


def _run(line: NightLine, samples: list[Sample], rate: float) -> int:
    """Frames sent until the night has ended."""
    command = [sys.executable, "-m", "daemon", "run", "--config", str(line.file)]
    with (line.root / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))
    images = [load_image(sample.image_path) for sample in samples]
    pause, sent = threading.Event(), 0
    try:
        endpoint = f"ipc://{line.root}/f"
        with FramePublisher(endpoint, "cam1", category="product", mode="connect") as publisher:
            publisher.wait_for_subscriber(60)
            start_at = time.monotonic()
            for number, image in enumerate(itertools.cycle(images)):
                pause.wait(max(0.0, start_at + number / rate - time.monotonic()))
                publisher.send(image, pixel_format="RGB8", part_id=f"live-{number}")
                sent += 1
                if number % 10 == 0 and _has_ended(line):
                    break
            pause.wait(5)
    finally:
        daemon.terminate()
        daemon.wait(60)
    return sent


def _has_ended(line: NightLine) -> bool:
    with line.engine.connect() as connection:
        run = job_runs.latest(connection, LINE)
    is_noted = run is not None and run.latency_during_ms is not None
    return run is not None and run.state != JobState.RUNNING and is_noted


if __name__ == "__main__":
    main()
