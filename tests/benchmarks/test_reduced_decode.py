"""What a large JPEG costs up to the detector's input, decoded whole and decoded smaller."""

import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from daemon.ingest.decode import decode_image
from daemon.ingest.message import Payload
from zsad.preprocess import resize

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

INPUT_SIDE = 320


def best_ms(work: Callable[[], object], repeats: int = 12) -> float:
    took = []
    for _ in range(repeats):
        began_at = time.thread_time()
        work()
        took.append(time.thread_time() - began_at)
    return 1000 * min(took)


@pytest.mark.parametrize(("height", "width"), [(1024, 1280), (2048, 2448), (3000, 4096)])
def test_reduced_against_whole(height: int, width: int) -> None:
    noise = np.random.default_rng(0).normal(128, 50, (height, width, 3)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (5, 5), 1.5).clip(0, 255).astype(np.uint8)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    payload = Payload("jpeg", data)

    def prepared(least_side: int | None) -> object:
        decoded = decode_image(payload, max_pixels=32_000_000, least_side=least_side)
        return resize(decoded, INPUT_SIDE)

    cv2.setNumThreads(1)
    whole_ms = best_ms(lambda: prepared(None))
    reduced_ms = best_ms(lambda: prepared(2 * INPUT_SIDE))
    print(
        f"\n{width} x {height}, {len(data) // 1000} kB: whole {whole_ms:.1f} ms, reduced "
        f"{reduced_ms:.1f} ms, ratio {reduced_ms / whole_ms:.2f}"
    )
    assert reduced_ms < 1.2 * whole_ms
