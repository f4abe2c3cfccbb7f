"""Another configuration while frames arrive: it decides from the next message on."""

from collections.abc import Callable, Iterator

import numpy as np

from daemon.config.sources import CameraConfig, LimitsConfig, SourceConfig
from daemon.core import LossReason
from daemon.ingest.publisher import FramePublisher
from daemon.ingest.reliable_publisher import ReliablePublisher

StartIngest = Callable[..., object]


def test_cameras_categories_and_limits_change_between_two_messages(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: np.ndarray
) -> None:
    source = SourceConfig(endpoint=next(ipc_endpoints), socket="pull", mode="bind")
    ingest = start_ingest(source)
    cameras = {"cam1": CameraConfig(), "cam3": CameraConfig(category="cloth")}
    with (
        FramePublisher(ingest.endpoint, "cam1", mode="connect", socket="push") as cam1,
        FramePublisher(ingest.endpoint, "cam3", mode="connect", socket="push") as cam3,
    ):
        cam1.send(image, category="cloth")
        ingest.wait_for_received(1)

        ingest.subscriber.follow(cameras, ("cloth",), LimitsConfig(max_pixels=1024))
        cam1.send(image, category="cloth")
        cam3.send(image)
        cam3.send(np.zeros((40, 40, 3), np.uint8))
        ingest.wait_for_received(2)
        ingest.wait_for(lambda counters: "cam3" in counters.cameras)
        ingest.wait_for_received(2, "cam3")

    assert [frame.info.category for frame in ingest.take_all()] == ["cloth", "cloth"]
    assert [error.reason for error in ingest.errors] == [
        LossReason.UNKNOWN_CATEGORY,
        LossReason.TOO_LARGE,
    ]


def test_a_camera_that_is_taken_out_during_its_session_gets_error_rows_not_silence(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: np.ndarray
) -> None:
    source = SourceConfig(endpoint=next(ipc_endpoints), socket="router", mode="bind")
    ingest = start_ingest(source)
    with ReliablePublisher(ingest.endpoint, "cam2", mode="connect") as cam2:
        cam2.send(image)
        ingest.wait_for_received(1, "cam2")

        ingest.subscriber.follow({"cam1": CameraConfig()}, ("fabric",), LimitsConfig())
        cam2.send(image)
        ingest.wait_for_received(2, "cam2")

    assert len(ingest.take_all()) == 1
    assert [error.reason for error in ingest.errors] == [LossReason.UNKNOWN_CAMERA]
