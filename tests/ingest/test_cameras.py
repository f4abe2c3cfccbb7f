"""Senders that this project did not write: Basler's SDK with its emulated camera, and imagezmq."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from daemon.config.sources import SourceConfig

ROOT = Path(__file__).parents[2]
StartIngest = Callable[..., Any]  # conftest's RunningIngest, which no test module can import


def need(package: str) -> None:
    """Skip on a laptop, fail where the tests must be complete."""
    if importlib.util.find_spec(package) is None:
        message = f"{package} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


def start_camera(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "examples/basler_publisher.py", "--camera", "cam1", *options],
        cwd=ROOT,
        env=os.environ | {"PYLON_CAMEMU": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def cameras() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        started.append(start_camera(*options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("pixel_format", ["Mono8", "BayerRG8", "RGB8Packed", "BGR8Packed"])
def test_an_emulated_basler_camera_streams_every_frame(
    pixel_format: str,
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    cameras: Callable[..., subprocess.Popen[str]],
) -> None:
    need("pypylon")
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint))

    camera = cameras(
        *("--endpoint", endpoint, "--category", "fabric", "--count", "30", "--rate", "100"),
        *("--size", "320", "240", "--pixel-format", pixel_format),
    )
    output, errors = camera.communicate(timeout=60)
    running.wait_for_received(30)

    assert (camera.returncode, errors) == (0, "")
    assert output == "sent 30 of 30 frames\n"
    frames = running.take_all()
    assert [frame.info.frame_id.seq for frame in frames] == list(range(30))
    assert {frame.image.shape for frame in frames} == {(240, 320, 3)}
    assert (running.losses, running.errors, running.camera().sent) == ([], [], 30)


def test_an_emulated_basler_camera_keeps_its_frames_until_they_are_stored(
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    cameras: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    need("pypylon")
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint, socket="router", mode="bind"))

    camera = cameras(
        *("--endpoint", endpoint, "--category", "fabric", "--count", "10", "--rate", "100"),
        *("--size", "320", "240", "--outbox", str(tmp_path / "outbox")),
    )
    frame_ids = [running.frames.get(timeout_s=20).info.frame_id for _ in range(10)]
    running.subscriber.stored(frame_ids)
    output, errors = camera.communicate(timeout=60)

    assert (camera.returncode, errors, output) == (0, "", "sent 10 of 10 frames\n")
    assert [frame_id.seq for frame_id in frame_ids] == list(range(10))


def test_images_shown_to_the_emulated_camera_arrive_bit_for_bit(
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    tmp_path: Path,
    cameras: Callable[..., subprocess.Popen[str]],
) -> None:
    need("pypylon")
    image = np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "part.png"), image)
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint))

    camera = cameras(
        *("--endpoint", endpoint, "--category", "fabric", "--count", "3", "--rate", "50"),
        *("--size", "320", "240", "--pixel-format", "BGR8Packed"),
        *("--images", str(tmp_path / "part.png")),
    )
    camera.communicate(timeout=60)
    running.wait_for_received(3)

    np.testing.assert_array_equal(running.take_all()[-1].image, image[..., ::-1])


IMAGEZMQ_SENDER = """
import sys
import cv2, imagezmq, numpy
endpoint, kind = sys.argv[1:]
image = numpy.full((24, 32, 3), (10, 20, 30), numpy.uint8)
sender = imagezmq.ImageSender(connect_to=endpoint, REQ_REP=False)
for number, _ in enumerate(sys.stdin):
    facts = {"camera": "cam1", "category": "fabric", "seq": number}
    message = facts if kind == "object" else "cam2"
    if kind == "jpeg":
        sender.send_jpg(message, cv2.imencode(".jpg", image)[1].tobytes())
    else:
        sender.send_image(message, image)
sender.zmq_socket.close(linger=0)
"""


@pytest.mark.parametrize(
    ("kind", "camera"), [("array", "cam2"), ("jpeg", "cam2"), ("object", "cam1")]
)
def test_the_real_imagezmq_package_streams_every_frame(
    kind: str, camera: str, start_ingest: StartIngest, free_tcp_endpoint: str
) -> None:
    need("imagezmq")
    running = start_ingest(SourceConfig(endpoint=free_tcp_endpoint))
    with subprocess.Popen(
        [sys.executable, "-c", IMAGEZMQ_SENDER, free_tcp_endpoint, kind],
        stdin=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as sender:
        assert sender.stdin is not None
        try:
            # imagezmq cannot tell when somebody listens: one frame at a time until one arrives.
            for _ in range(200):
                sender.stdin.write("frame\n")
                if running.has_received(1, camera, within_s=0.2):
                    break
            joined_at = running.camera(camera).received
            sender.stdin.write("frame\n" * 30)
            running.wait_for_received(joined_at + 30, camera)
        finally:
            sender.stdin.close()
            sender.wait(30)

    frames = running.take_all()
    colours = frames[-1].image.reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(colours, (30, 20, 10), atol=3)
    seqs = [frame.info.frame_id.seq for frame in frames]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert (running.losses, running.errors) == ([], [])
