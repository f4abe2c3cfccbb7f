"""A clock that is set while frames come, and two programs that call themselves the same camera."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from daemon.config.sources import SourceConfig
from daemon.core import LossReason
from daemon.ingest.publisher import FramePublisher
from daemon.ingest.reliable_publisher import ReliablePublisher

Image = NDArray[np.uint8]
StartIngest = Callable[..., Any]  # conftest's RunningIngest, which no test module can import

YEAR = timedelta(days=365)


@pytest.mark.parametrize("jump", [-YEAR, timedelta(hours=-1), timedelta(hours=1), YEAR])
def test_a_clock_that_is_set_costs_no_number_and_lets_no_frame_pass_unseen(
    jump: timedelta, start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    """The daemon's clock; for a camera's it is the same with the other sign."""
    endpoint = next(ipc_endpoints)
    ahead = timedelta()
    running = start_ingest(
        SourceConfig(endpoint=endpoint, socket="pull", mode="bind"),
        utc_now=lambda: datetime.now(UTC) + ahead,
    )
    with FramePublisher(
        endpoint, "cam1", category="fabric", socket="push", mode="connect"
    ) as publisher:
        for frames, setting in ((5, timedelta()), (10, jump), (15, timedelta())):
            ahead = setting
            for _ in range(5):
                publisher.send(image)
            running.wait_for_received(frames)

    camera = running.camera()
    assert (camera.received, camera.gaps, running.losses) == (15, 0, [])
    # Set back, it sees frames from the future: they are refused as errors, and counted.
    seen = [frame.info.frame_id.seq for frame in running.take_all()]
    refused = [error.info.frame_id.seq for error in running.errors]
    assert refused == (list(range(5, 10)) if jump < timedelta() else [])
    assert sorted(seen + refused) == list(range(15))
    assert {error.reason for error in running.errors} <= {LossReason.CLOCK}


def test_two_programs_that_are_the_same_camera_are_counted_apart(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint, socket="pull", mode="bind"))
    options: dict[str, Any] = {"category": "fabric", "socket": "push", "mode": "connect"}
    with (
        FramePublisher(endpoint, "cam1", **options) as one,
        FramePublisher(endpoint, "cam1", **options) as other,
    ):
        for number in range(10):
            one.send(image)
            other.send(image)
            if number == 4:
                other.skip(3)
        running.wait_for_received(20)

    assert (running.camera().received, running.camera().gaps) == (20, 3)
    seen = {frame.info.frame_id for frame in running.take_all()}
    assert {(f.epoch, f.seq) for f in seen if f.epoch == one.epoch} == {
        (one.epoch, seq) for seq in range(10)
    }
    assert len(seen) == 20
    assert [(loss.epoch, loss.first_seq, loss.last_seq) for loss in running.losses] == [
        (other.epoch, 5, 7)
    ]


def test_two_reliable_programs_that_are_the_same_camera_lose_nothing(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint, socket="router", mode="bind"))
    with (
        ReliablePublisher(endpoint, "cam1", category="fabric") as one,
        ReliablePublisher(endpoint, "cam1", category="fabric") as other,
    ):
        for _ in range(10):
            one.send(image)
            other.send(image)
        running.wait_for_received(20)
        seen = [frame.info.frame_id for frame in running.take_all()]
        running.subscriber.stored(seen)
        assert one.wait_until_stored(20)
        assert other.wait_until_stored(20)

    assert {(f.epoch, f.seq) for f in seen} == {
        (epoch, seq) for epoch in (one.epoch, other.epoch) for seq in range(10)
    }
    assert running.losses == []
