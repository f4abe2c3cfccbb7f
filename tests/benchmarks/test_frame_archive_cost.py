"""What keeping whole frames costs the inspection thread, beside copying one frame once."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest

from daemon.config.frames import FramesConfig
from daemon.core import Frame, FrameId, FrameInfo, ImageFile, Verdict
from daemon.frame_archive import FrameArchive

pytestmark = pytest.mark.benchmark

HEIGHT, WIDTH = 2048, 2448
FRAMES = 50
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def best_s(work: Callable[[], object], repeats: int = 5) -> float:
    took = []
    for _ in range(repeats):
        began_at = time.perf_counter()
        work()
        took.append(time.perf_counter() - began_at)
    return min(took)


def test_offering_a_frame_against_copying_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(128, 40, (HEIGHT, WIDTH, 3)).astype(np.float32)
    image = np.clip(cv2.GaussianBlur(noise, (5, 5), 1.5), 0, 255).astype(np.uint8)
    file = ImageFile("jpg", cv2.imencode(".jpg", image)[1].tobytes())
    frames = [
        Frame(FrameInfo(FrameId("cam1", 7, seq), "fabric", NOW, NOW, 0.0), image, file=file)
        for seq in range(FRAMES)
    ]
    archive = FrameArchive(
        FramesConfig(dir=tmp_path),
        line="line1",
        reserve_bytes=0,
        put=lambda _: None,
        clock=time.monotonic,
        now=lambda: NOW,
    )
    stop = threading.Event()
    stop.set()

    floor_s = best_s(image.copy)
    offer_s = best_s(lambda: [archive.offer(frame, Verdict.NG) for frame in frames], 1) / FRAMES
    began_at = time.perf_counter()
    archive.run(stop)
    write_s = (time.perf_counter() - began_at) / FRAMES
    archive.offer(Frame(frames[0].info, image), Verdict.NG)
    raw_s = best_s(lambda: archive.run(stop), 1)

    print(
        f"\n{WIDTH} x {HEIGHT} pixels, copied once: {floor_s * 1e6:.0f} us"
        f"\noffered by the inspection thread: {offer_s * 1e6:.1f} us, {offer_s / floor_s:.4f} of it"
        f"\nJPEG of {len(file.data):,} bytes on the disk, in its own thread: {write_s * 1e3:.1f} ms"
        f"\nraw pixels as PNG on the disk, in its own thread: {raw_s * 1e3:.0f} ms"
    )
    assert archive.counters.kept == FRAMES + 1
