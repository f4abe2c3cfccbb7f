import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from numpy.typing import NDArray

from daemon.config.sources import LimitsConfig, QueueConfig, SourceConfig
from daemon.core import LossReason
from daemon.errors import ConfigError
from daemon.ingest.publisher import FramePublisher

Image = NDArray[np.uint8]
Context = zmq.Context[zmq.Socket[bytes]]
Connect = Callable[[str], zmq.Socket[bytes]]
StartIngest = Callable[..., Any]  # conftest's RunningIngest, which no test module can import


@pytest.fixture
def push() -> Iterator[Connect]:
    """Raw sockets for messages that no publisher would send."""
    with zmq.Context() as context:
        sockets: list[zmq.Socket[bytes]] = []

        def connect(endpoint: str) -> zmq.Socket[bytes]:
            socket = context.socket(zmq.PUSH)
            socket.linger = 0
            socket.connect(endpoint)
            sockets.append(socket)
            return socket

        yield connect
        for socket in sockets:
            socket.close()


def header(**changes: object) -> bytes:
    return json.dumps(
        {
            "v": 1,
            "camera": "cam1",
            "epoch": 1,
            "seq": 0,
            "ts_ns": time.time_ns(),
            "category": "fabric",
            "encoding": "raw",
            "dtype": "uint8",
            "shape": [2, 2],
            "pixel_format": "Mono8",
        }
        | changes
    ).encode()


def good(seq: int, camera: str = "cam1") -> list[bytes]:
    return [b"", header(seq=seq, camera=camera), b"\0" * 4]


def assert_ledger_adds_up(running: Any) -> None:
    for camera in running.subscriber.counters().cameras.values():
        decided = camera.queued + sum(camera.errors.values()) + sum(camera.losses.values())
        assert camera.received == decided + camera.decoding


@pytest.mark.parametrize("transport", ["ipc", "tcp", "inproc"])
@pytest.mark.parametrize(
    ("sender", "receiver", "receiver_mode"),
    [
        ("pub", "sub", "connect"),
        ("pub", "sub", "bind"),
        ("push", "pull", "connect"),
        ("push", "pull", "bind"),
    ],
)
def test_frames_arrive_in_order_over_every_socket(
    transport: str,
    sender: str,
    receiver: str,
    receiver_mode: str,
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    free_tcp_endpoint: str,
    image: Image,
) -> None:
    endpoint = {
        "ipc": next(ipc_endpoints),
        "tcp": free_tcp_endpoint,
        "inproc": "inproc://frames",
    }[transport]
    with zmq.Context() as context:

        def publish(at: str) -> FramePublisher:
            return FramePublisher(
                at,
                "cam1",
                category="fabric",
                socket=sender,  # type: ignore[arg-type]
                mode="connect" if receiver_mode == "bind" else "bind",
                encoding="png",
                context=context,
            )

        def ingest(at: str) -> Any:
            return start_ingest(
                SourceConfig(endpoint=at, socket=receiver, mode=receiver_mode),  # type: ignore[arg-type]
                context=context,
            )

        if receiver_mode == "bind":
            running = ingest(endpoint)
            publisher = publish(running.endpoint)
        else:
            publisher = publish(endpoint)
            running = ingest(publisher.endpoint)
        with publisher:
            assert publisher.wait_for_subscriber(timeout_s=10)
            for _ in range(25):
                publisher.send(image)
            running.wait_for_received(25)
        running.finish()

    frames = running.take_all()
    assert [frame.info.frame_id.seq for frame in frames] == list(range(25))
    np.testing.assert_array_equal(frames[-1].image, image[..., ::-1])
    assert (running.losses, running.errors, running.camera().sent) == ([], [], 25)


def test_a_restarted_publisher_is_a_new_epoch_without_gap(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint))

    for start in range(2):
        with FramePublisher(endpoint, "cam1", category="fabric") as publisher:
            assert publisher.wait_for_subscriber(timeout_s=10)
            for _ in range(5):
                publisher.send(image)
            running.wait_for_received(5 * (start + 1))

    frames = running.take_all()
    assert [frame.info.frame_id.seq for frame in frames] == [*range(5), *range(5)]
    assert len({frame.info.frame_id.epoch for frame in frames}) == 2
    assert running.losses == []


def test_frames_lost_on_the_way_are_gaps(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    with FramePublisher(endpoint, "cam1", category="fabric") as publisher:
        for _ in range(3):
            publisher.send(image)  # nobody is there: PUB drops them
        running = start_ingest(SourceConfig(endpoint=endpoint))
        assert publisher.wait_for_subscriber(timeout_s=10)
        publisher.send(image)
        publisher.skip(4)
        publisher.send(image)
        running.wait_for_received(2)

    counted = running.camera()
    assert (counted.received, counted.gaps, counted.sent) == (2, 7, publisher.next_seq)
    assert running.lost(LossReason.GAP) == 7


def test_what_was_lost_while_the_daemon_was_down_is_a_gap(
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    push: Connect,
) -> None:
    running = start_ingest(
        SourceConfig(endpoint=next(ipc_endpoints), socket="pull", mode="bind"),
        last_seqs={("cam1", 1): 6},
    )

    push(running.endpoint).send_multipart(good(9))
    running.wait_for_received(1)

    assert [(loss.reason, loss.first_seq, loss.last_seq) for loss in running.losses] == [
        (LossReason.GAP, 7, 8)
    ]


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "block"])
def test_every_frame_beyond_a_full_queue_is_accounted_for(
    policy: str,
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    push: Connect,
) -> None:
    running = start_ingest(
        SourceConfig(endpoint=next(ipc_endpoints), socket="pull", mode="bind"),
        queue=QueueConfig(max_frames=4, drop_policy=policy),  # type: ignore[arg-type]
    )
    sender = push(running.endpoint)

    for seq in range(20):
        sender.send_multipart(good(seq))
    if policy == "block":
        frames = [running.frames.get(timeout_s=10) for _ in range(20)]
        running.wait_for_received(20)
    else:
        running.wait_for_received(20)
        frames = running.take_all()

    kept = {"drop_oldest": range(16, 20), "drop_newest": range(4), "block": range(20)}[policy]
    assert [frame.info.frame_id.seq for frame in frames] == list(kept)
    assert running.lost(LossReason.QUEUE_FULL) == 20 - len(kept)
    assert running.camera().queued == len(kept)
    assert running.camera().gaps == 0
    assert_ledger_adds_up(running)


def test_stop_hands_on_what_was_received_even_when_the_queue_blocks(
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    push: Connect,
) -> None:
    running = start_ingest(
        SourceConfig(endpoint=next(ipc_endpoints), socket="pull", mode="bind"),
        queue=QueueConfig(max_frames=1, drop_policy="block"),
    )
    sender = push(running.endpoint)
    for seq in range(10):
        sender.send_multipart(good(seq))
    running.wait_for(lambda counters: counters.cameras["cam1"].received >= 3)

    started_at = time.monotonic()
    running.finish()

    counted = running.camera()
    assert time.monotonic() - started_at < 5
    assert counted.decoding == 0
    assert len(running.take_all()) == counted.queued == counted.received


BAD_MESSAGES: list[tuple[list[bytes], LossReason, bool]] = [
    ([b"garbage"], LossReason.BAD_MESSAGE, False),
    ([b"\xff" * 10, b"\xfe" * 10, b"\0"], LossReason.BAD_MESSAGE, False),
    ([b"x"] * 5000, LossReason.BAD_MESSAGE, False),
    ([b"", b"[" * 4096, b""], LossReason.BAD_MESSAGE, False),
    ([b"", b" " * 5000, b""], LossReason.TOO_LARGE, False),
    ([b"", header(seq=1, encoding="jpeg"), b"\xff\xd8\xff\xe0"], LossReason.BAD_PAYLOAD, True),
    ([b"", header(seq=1, shape=[20_000, 5_000]), b"x"], LossReason.TOO_LARGE, True),
    ([b"", header(seq=1), b"\0" * 1025], LossReason.TOO_LARGE, True),
    ([b"", header(seq=1, dtype="uint16"), b"\0" * 8], LossReason.BAD_PAYLOAD, True),
    ([b"", header(seq=1, shape=[3, 3]), b"\0" * 4], LossReason.BAD_PAYLOAD, True),
    ([b"", header(seq=1, category="leather"), b"\0" * 4], LossReason.UNKNOWN_CATEGORY, True),
    ([b"", header(seq=1, ts_ns=2**62), b"\0" * 4], LossReason.CLOCK, True),
    ([b"", header(seq=0), b"\0" * 4], LossReason.DUPLICATE, False),
    ([b"", header(seq=1, camera="spy"), b"\0" * 4], LossReason.UNKNOWN_CAMERA, False),
]


@pytest.mark.parametrize(("bad", "reason", "is_identified"), BAD_MESSAGES)
def test_a_bad_message_costs_itself_and_the_next_frame_is_good(
    bad: list[bytes],
    reason: LossReason,
    is_identified: bool,
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    push: Connect,
) -> None:
    running = start_ingest(
        SourceConfig(endpoint=next(ipc_endpoints), socket="pull", mode="bind"),
        limits=LimitsConfig(max_payload_bytes=1024),
    )
    sender = push(running.endpoint)
    following = 2 if is_identified else 1

    for parts in (good(0), bad, good(following)):
        sender.send_multipart(parts)
    running.wait_for(
        lambda counters: sum(one.received - one.decoding for one in counters.cameras.values()) == 3
    )

    assert [frame.info.frame_id.seq for frame in running.take_all()] == [0, following]
    assert [error.reason for error in running.errors] == ([reason] if is_identified else [])
    assert [loss.reason for loss in running.losses] == ([] if is_identified else [reason])
    assert_ledger_adds_up(running)


def test_a_part_far_over_the_limit_is_cut_off_and_seen_as_a_gap(
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    push: Connect,
) -> None:
    running = start_ingest(
        SourceConfig(endpoint=next(ipc_endpoints), socket="pull", mode="bind"),
        limits=LimitsConfig(max_payload_bytes=1024),
    )
    sender = push(running.endpoint)
    sender.send_multipart(good(0))
    running.wait_for_received(1)

    sender.send_multipart([b"", header(seq=1), b"\0" * 100_000])
    late = push(running.endpoint)
    late.send_multipart(good(2))
    running.wait_for_received(2)

    assert running.lost(LossReason.GAP) == 1


def test_invented_cameras_do_not_grow_the_counters(
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    push: Connect,
) -> None:
    running = start_ingest(SourceConfig(endpoint=next(ipc_endpoints), socket="pull", mode="bind"))
    sender = push(running.endpoint)

    for number in range(50):
        sender.send_multipart(good(0, camera=f"spy{number}"))
    running.wait_for_received(50, camera=None)

    assert set(running.subscriber.counters().cameras) == {"cam1", "cam2", None}


def test_two_sources_and_cameras_keep_their_own_count(
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    push: Connect,
) -> None:
    sources = [
        SourceConfig(endpoint=next(ipc_endpoints), socket="pull", mode="bind") for _ in range(2)
    ]
    running = start_ingest(*sources)
    senders = [push(endpoint) for endpoint in running.subscriber.endpoints]

    for seq in range(30):
        senders[0].send_multipart(good(seq, "cam1"))
        senders[1].send_multipart(good(seq, "cam2"))
    running.wait_for_received(30, "cam1")
    running.wait_for_received(30, "cam2")

    frames = running.take_all()
    for camera in ("cam1", "cam2"):
        ids = [frame.info.frame_id for frame in frames]
        assert [one.seq for one in ids if one.camera == camera] == list(range(30))
    assert running.losses == []


def test_a_busy_source_does_not_starve_another(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], push: Connect
) -> None:
    running = start_ingest(
        *(SourceConfig(endpoint=next(ipc_endpoints), socket="pull", mode="bind") for _ in range(2)),
        queue=QueueConfig(max_frames=1, drop_policy="block"),
    )
    first, second = (push(endpoint) for endpoint in running.subscriber.endpoints)

    for seq in range(60):
        first.send_multipart(good(seq, "cam1"))
        second.send_multipart(good(seq, "cam2"))
    cameras = [running.frames.get(timeout_s=10).info.frame_id.camera for _ in range(40)]

    assert 10 <= cameras.count("cam1") <= 30


def test_an_endpoint_in_use_stops_the_start(
    start_ingest: StartIngest, free_tcp_endpoint: str
) -> None:
    source = SourceConfig(endpoint=free_tcp_endpoint, socket="pull", mode="bind")
    start_ingest(source)

    with pytest.raises(ConfigError, match="cannot bind: Address already in use"):
        start_ingest(source)


def test_an_endpoint_in_an_absent_folder_stops_the_start(
    start_ingest: StartIngest, tmp_path: Path
) -> None:
    source = SourceConfig(endpoint=f"ipc://{tmp_path}/absent/frames", socket="pull", mode="bind")

    with pytest.raises(ConfigError, match="absent/frames"):
        start_ingest(source)


def test_large_jpegs_are_decoded_smaller_where_their_category_says_so(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str]
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(
        SourceConfig(endpoint=endpoint, mode="bind", socket="pull"),
        least_side=lambda category: 50 if category == "fabric" else None,
    )
    large = np.random.default_rng(1).integers(0, 256, (103, 205, 3), dtype=np.uint8)
    with FramePublisher(
        endpoint, "cam1", category="fabric", mode="connect", socket="push", encoding="jpeg"
    ) as camera:
        camera.send(large)
        frame = running.frames.get(timeout_s=20)

    assert frame.image.shape == (52, 103, 3)
    assert frame.size_px == (103, 205)


def test_an_ipc_path_that_another_daemon_holds_is_not_taken_away_from_it(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    source = SourceConfig(endpoint=next(ipc_endpoints), socket="pull", mode="bind")
    first = start_ingest(source)

    with pytest.raises(ConfigError, match=r"cannot bind: Address already in use"):
        start_ingest(source)

    with FramePublisher(source.endpoint, "cam1", socket="push", mode="connect") as publisher:
        publisher.send(image)
        first.wait_for_received(1)
    first.finish()
    start_ingest(source)
