"""Both halves of the reliable transport over real sockets, in one process."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from numpy.typing import NDArray

from daemon.config.sources import LimitsConfig, QueueConfig, SourceConfig
from daemon.core import FrameId, LossReason
from daemon.ingest.publisher import FramePublisher
from daemon.ingest.reliable_publisher import ReliablePublisher
from daemon.ingest.sequence import Gap

Image = NDArray[np.uint8]
StartIngest = Callable[..., Any]  # conftest's RunningIngest, which no test module can import


def router(endpoint: str, **options: Any) -> SourceConfig:
    return SourceConfig(endpoint=endpoint, socket="router", mode="bind", **options)


def publish(endpoint: str, **options: Any) -> ReliablePublisher:
    defaults: dict[str, Any] = {"category": "fabric", "linger_s": 0.0}
    return ReliablePublisher(endpoint, "cam1", **defaults | options)


def take(running: Any, frames: int) -> list[FrameId]:
    return [running.frames.get(timeout_s=20).info.frame_id for _ in range(frames)]


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
@pytest.mark.parametrize("mode", ["bind", "connect"])
def test_frames_arrive_in_order_and_leave_the_outbox_when_stored(
    transport: str,
    mode: str,
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    free_tcp_endpoint: str,
    image: Image,
) -> None:
    endpoint = next(ipc_endpoints) if transport == "ipc" else free_tcp_endpoint
    sender_mode = "connect" if mode == "bind" else "bind"
    with publish(endpoint, mode=sender_mode, encoding="png") as publisher:
        running = start_ingest(SourceConfig(endpoint=endpoint, socket="router", mode=mode))
        for _ in range(10):
            publisher.send(image)
        frame_ids = take(running, 10)
        assert publisher.unacknowledged == 10, "received is not stored"
        running.subscriber.stored(frame_ids)
        assert publisher.wait_until_stored(20)

    assert [frame_id.seq for frame_id in frame_ids] == list(range(10))
    assert (running.losses, running.errors, running.camera().sent) == ([], [], 10)


def test_a_publisher_sends_no_more_than_its_credit_and_goes_on_when_stored(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(router(endpoint, credit=4))
    with publish(endpoint) as publisher:
        for _ in range(10):
            publisher.send(image)
        first = take(running, 4)
        assert not running.has_received(5, "cam1", within_s=0.5)

        running.subscriber.stored(first)
        second = take(running, 4)
        running.subscriber.stored(second)

        assert [frame_id.seq for frame_id in take(running, 2)] == [8, 9]


def test_a_full_queue_drops_no_reliable_frame(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(
        router(endpoint, credit=10), queue=QueueConfig(max_frames=2, drop_policy="drop_oldest")
    )
    with publish(endpoint) as publisher:
        for _ in range(10):
            publisher.send(image)

        running.wait_for_received(10)

    assert [frame_id.seq for frame_id in take(running, 10)] == list(range(10))
    assert running.losses == []


def test_a_new_daemon_gets_what_the_killed_one_had_not_stored(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    first = start_ingest(router(endpoint))
    with publish(endpoint) as publisher:
        for _ in range(8):
            publisher.send(image)
        first.subscriber.stored(take(first, 8)[:3])
        first.finish()

        # 0..2 and 5 were committed; 3, 4, 6, 7 went down with the process.
        second = start_ingest(
            router(endpoint),
            first_seqs={("cam1", publisher.epoch): 0},
            last_seqs={("cam1", publisher.epoch): 5},
            missing={("cam1", publisher.epoch): [Gap(3, 4)]},
        )
        came = take(second, 4)
        second.subscriber.stored(came)
        assert publisher.wait_until_stored(20)

    assert [frame_id.seq for frame_id in came] == [3, 4, 6, 7]
    assert second.losses == []
    assert second.camera().received == 4


def test_what_was_first_sent_is_brought_again_even_where_only_later_numbers_are_stored(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    with publish(endpoint) as publisher:
        for _ in range(4):
            publisher.send(image)
        start = ("cam1", publisher.epoch)
        running = start_ingest(router(endpoint), first_seqs={start: 2}, last_seqs={start: 2})

        assert [frame_id.seq for frame_id in take(running, 3)] == [0, 1, 3]

    assert running.losses == []


def test_what_a_killed_publisher_left_is_brought_before_the_next_ones_frames(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image, tmp_path: Path
) -> None:
    endpoint = next(ipc_endpoints)
    with publish(endpoint, outbox=tmp_path / "outbox") as publisher:  # no daemon yet
        for _ in range(3):
            publisher.send(image)
    running = start_ingest(router(endpoint))

    with publish(endpoint, outbox=tmp_path / "outbox") as again:
        again.send(image)
        frame_ids = take(running, 3)
        running.subscriber.stored(frame_ids)
        frame_ids += take(running, 1)
        running.subscriber.stored(frame_ids)
        assert again.wait_until_stored(20)

    assert [(frame_id.epoch, frame_id.seq) for frame_id in frame_ids] == [
        *((publisher.epoch, seq) for seq in range(3)),
        (again.epoch, 0),
    ]
    assert again.epoch != publisher.epoch


def test_a_frame_that_was_damaged_at_the_end_of_what_was_left_is_a_gap(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image, tmp_path: Path
) -> None:
    endpoint, outbox = next(ipc_endpoints), tmp_path / "outbox"
    with publish(endpoint, outbox=outbox) as publisher:
        for _ in range(3):
            publisher.send(image)
    os.truncate(max(outbox.glob("*.frame")), 9)
    running = start_ingest(router(endpoint))

    with publish(endpoint, outbox=outbox) as again:
        again.send(image)
        for _ in range(3):
            running.subscriber.stored(take(running, 1))
        assert again.wait_until_stored(20)

    assert [(loss.epoch, loss.first_seq, loss.last_seq) for loss in running.losses] == [
        (publisher.epoch, 2, 2)
    ]


def test_a_copied_outbox_makes_no_frame_vanish(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image, tmp_path: Path
) -> None:
    """A camera PC that was cloned, or restored from an older image."""
    endpoint = next(ipc_endpoints)
    with publish(endpoint, outbox=tmp_path / "one") as publisher:  # no daemon yet
        for _ in range(3):
            publisher.send(image)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    running = start_ingest(router(endpoint))

    with (
        publish(endpoint, outbox=tmp_path / "one") as original,
        publish(endpoint, outbox=tmp_path / "copy") as clone,
    ):
        for _ in range(5):
            original.send(image)
            clone.send(image)
        frame_ids: set[FrameId] = set()
        while not (original.wait_until_stored(0.05) and clone.wait_until_stored(0.05)):
            came = running.take_all()
            frame_ids |= {frame.info.frame_id for frame in came}
            running.subscriber.stored(frame.info.frame_id for frame in came)

    own = {FrameId("cam1", one.epoch, seq) for one in (original, clone) for seq in range(5)}
    left = {FrameId("cam1", publisher.epoch, seq) for seq in range(3)}
    assert frame_ids == own | left
    assert running.losses == []


def send_slowly(publisher: ReliablePublisher, image: Image) -> None:
    pause = threading.Event()
    for _ in range(200):
        publisher.send(image)
        pause.wait(0.05)


def test_a_program_that_was_copied_while_it_ran_does_not_go_on_unseen(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    with publish(endpoint) as publisher:
        start_ingest(router(endpoint), last_seqs={("cam1", publisher.epoch): 40})  # of the copy

        with pytest.raises(RuntimeError, match=r"has frame 40 .* only reached \d+: a copy of it"):
            send_slowly(publisher, image)


def test_a_database_without_memory_of_a_publisher_counts_no_gap(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image, tmp_path: Path
) -> None:
    endpoint, outbox = next(ipc_endpoints), tmp_path / "outbox"
    first = start_ingest(router(endpoint))
    with publish(endpoint, outbox=outbox) as publisher:
        for _ in range(5):
            publisher.send(image)
        first.subscriber.stored(take(first, 5))
        assert publisher.wait_until_stored(20)
    first.finish()

    second = start_ingest(router(endpoint))
    with publish(endpoint, outbox=outbox) as publisher:
        publisher.send(image)
        assert [frame_id.seq for frame_id in take(second, 1)] == [0]

    assert second.losses == []


def test_what_the_camera_itself_lost_is_a_gap(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(router(endpoint))
    with publish(endpoint) as publisher:
        publisher.send(image)
        publisher.skip(100)
        publisher.send(image)
        for _ in range(2):
            running.subscriber.stored(take(running, 1))
        assert publisher.wait_until_stored(20)

    assert [(loss.first_seq, loss.last_seq) for loss in running.losses] == [(1, 100)]


def test_a_frame_that_cannot_be_inspected_is_an_error_row_and_no_stone_in_the_way(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image, tmp_path: Path
) -> None:
    endpoint, outbox = next(ipc_endpoints), tmp_path / "outbox"
    with publish(endpoint, outbox=outbox) as publisher:
        publisher.send_encoded(b"no jpeg", "jpeg")
        publisher.send_encoded(b"x" * 5000, "jpeg")  # nobody has named a limit yet
        publisher.send(image, category="leather")
        publisher.send(image)
        running = start_ingest(router(endpoint), limits=LimitsConfig(max_payload_bytes=4000))
        good = take(running, 1)
        running.wait_for(lambda _: len(running.errors) == 3)
        running.subscriber.stored([*good, *(error.info.frame_id for error in running.errors)])
        assert publisher.wait_until_stored(20)

        with pytest.raises(ValueError, match="limit is 4000"):
            publisher.send_encoded(b"x" * 4001, "jpeg")

    assert {error.info.frame_id.seq: error.reason for error in running.errors} == {
        0: LossReason.BAD_PAYLOAD,
        1: LossReason.TOO_LARGE,
        2: LossReason.UNKNOWN_CATEGORY,
    }
    assert running.losses == []


def test_a_full_outbox_refuses_in_time_and_keeps_the_number(
    ipc_endpoints: Iterator[str], image: Image
) -> None:
    with publish(next(ipc_endpoints), buffer_frames=2, send_timeout_s=0.05) as publisher:
        publisher.send(image)
        publisher.send(image)

        with pytest.raises(TimeoutError, match="2 frames wait for"):
            publisher.send(image)

        assert (publisher.next_seq, publisher.unacknowledged) == (2, 2)


def test_an_unknown_camera_is_told_so_and_keeps_its_frames(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(router(endpoint))
    with ReliablePublisher(
        endpoint, "spy", buffer_frames=1, send_timeout_s=1.5, linger_s=0.0
    ) as publisher:
        publisher.send(image)
        with pytest.raises(TimeoutError, match="camera 'spy' is not configured"):
            publisher.send(image)

    assert running.losses == []
    assert set(running.subscriber.counters().cameras) == {"cam1", "cam2", None}


def test_more_publishers_than_allowed_wait(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(router(endpoint, max_publishers=1))
    with publish(endpoint) as first:
        first.send(image)
        take(running, 1)
        with publish(endpoint) as second:
            second.send(image)

            assert not second.wait_for_subscriber(1.5)


def test_what_was_left_takes_no_place_of_another_publisher(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image, tmp_path: Path
) -> None:
    endpoint = next(ipc_endpoints)
    with publish(endpoint, outbox=tmp_path) as publisher:
        publisher.send(image)
    running = start_ingest(router(endpoint, max_publishers=1))

    with publish(endpoint, outbox=tmp_path) as again:
        again.send(image)
        for _ in range(2):
            running.subscriber.stored(take(running, 1))
        assert again.wait_until_stored(5)


class Peer:
    """A raw DEALER: says what no publisher would."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def say(self, *parts: bytes, **envelope: object) -> None:
        head = json.dumps({"v": 1, "session": 7, **envelope}).encode()
        self.socket.send_multipart([head, *parts])

    def hello(self, **changes: object) -> None:
        self.say(**{"kind": "hello", "camera": "cam1", "epoch": 1, "acked": -1} | changes)

    def frame(self, seq: int, after: int, **changes: object) -> None:
        header = {
            "v": 1,
            "camera": "cam1",
            "epoch": 1,
            "seq": seq,
            "ts_ns": time.time_ns(),
            "category": "fabric",
            "encoding": "raw",
            "dtype": "uint8",
            "shape": [2, 2],
            "pixel_format": "Mono8",
        } | changes
        self.say(b"", json.dumps(header).encode(), b"\0" * 4, kind="frame", seq=seq, after=after)

    def hear(self, kind: str) -> dict[str, Any]:
        """The next answer of a kind."""
        while self.socket.poll(20_000):
            answer: dict[str, Any] = json.loads(self.socket.recv())
            if answer["kind"] == kind:
                return answer
        raise AssertionError(f"no {kind}")


@pytest.fixture
def peer() -> Iterator[Callable[[str], Peer]]:
    with zmq.Context() as context:
        peers: list[Peer] = []

        def connect(endpoint: str) -> Peer:
            peers.append(Peer(context, endpoint))
            return peers[-1]

        yield connect
        for one in peers:
            one.socket.close()


def test_a_frame_sent_twice_is_one_frame(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], peer: Callable[[str], Peer]
) -> None:
    running = start_ingest(router(next(ipc_endpoints)))
    sender = peer(running.endpoint)
    sender.hello()
    for _ in range(3):
        sender.frame(0, -1)
    sender.frame(1, 0)

    assert [frame_id.seq for frame_id in take(running, 2)] == [0, 1]
    assert (running.camera().received, running.subscriber.resent(), running.losses) == (2, 2, [])


@pytest.mark.parametrize(
    ("seq", "after", "session"),
    [(5, 4, 7), (0, 0, 7), (0, -1, 8)],
    ids=["out of turn", "after itself", "old session"],
)
def test_what_does_not_fit_is_asked_back_and_costs_nothing(
    seq: int,
    after: int,
    session: int,
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    peer: Callable[[str], Peer],
) -> None:
    running = start_ingest(router(next(ipc_endpoints)))
    sender = peer(running.endpoint)
    sender.hello()
    sender.hear("state")

    sender.say(b"", b"{}", b"x", kind="frame", seq=seq, after=after, session=session)
    sender.hear("who")
    sender.hello()
    sender.frame(0, -1)

    assert take(running, 1)[0].seq == 0
    assert (running.losses, running.errors) == ([], [])


def test_a_sender_beyond_its_credit_is_cut_off_and_loses_nothing(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], peer: Callable[[str], Peer]
) -> None:
    running = start_ingest(router(next(ipc_endpoints), credit=2))
    sender = peer(running.endpoint)
    sender.hello()
    for seq in range(3):
        sender.frame(seq, seq - 1)
    sender.hear("who")

    running.subscriber.stored(take(running, 2))
    sender.hello()
    sender.frame(2, 1)

    assert take(running, 1)[0].seq == 2
    assert running.losses == []


def test_a_header_that_names_another_frame_is_an_error_of_the_frame_it_came_as(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], peer: Callable[[str], Peer]
) -> None:
    running = start_ingest(router(next(ipc_endpoints)))
    sender = peer(running.endpoint)
    sender.hello()
    sender.frame(0, -1, camera="cam2")
    sender.frame(1, 0)

    assert take(running, 1)[0].seq == 1
    assert [(error.info.frame_id.seq, error.reason) for error in running.errors] == [
        (0, LossReason.BAD_MESSAGE)
    ]


HOSTILE = [
    [],
    [b""],
    [b"garbage"],
    [b"[" * 1024],
    [b"x" * 5000],
    [b'{"v":1,"kind":"hello"}'],
    [b'{"v":1,"kind":"hello","session":-1,"camera":"cam1","epoch":1,"acked":-1}'],
    [b'{"v":1,"kind":"hello","session":7,"camera":"cam1","epoch":1,"acked":1e300}'],
    [b'{"v":2,"kind":"beat","session":7}'],
    [b'{"v":1,"kind":"frame","session":7,"seq":0,"after":-2}', b"", b"", b""],
    [b"x"] * 5000,
]


@pytest.mark.parametrize("parts", HOSTILE)
def test_hostile_control_bytes_cost_one_message(
    parts: list[bytes],
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    peer: Callable[[str], Peer],
) -> None:
    running = start_ingest(router(next(ipc_endpoints)))
    sender = peer(running.endpoint)
    sender.hello()
    sender.socket.send_multipart(parts or [b""])
    sender.frame(0, -1)

    assert take(running, 1)[0].seq == 0
    assert [loss.reason in ("bad_message", "too_large") for loss in running.losses] == [True]


def test_a_pub_sender_says_how_far_it_is_so_that_a_lost_tail_is_a_gap(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], image: Image
) -> None:
    endpoint = next(ipc_endpoints)
    with FramePublisher(endpoint, "cam1", category="fabric") as publisher:
        running = start_ingest(SourceConfig(endpoint=endpoint))
        assert publisher.wait_for_subscriber(10)
        publisher.send(image)
        running.wait_for_received(1)
        publisher.skip(3)  # numbers that were used, and never came

        running.wait_for(lambda counters: counters.cameras["cam1"].gaps == 3)

    assert running.camera().sent == 4


def test_a_beat_before_the_first_frame_or_of_a_stranger_counts_nothing(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str]
) -> None:
    endpoint = next(ipc_endpoints)
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
        sender.linger = 0
        sender.connect(endpoint)
        running = start_ingest(SourceConfig(endpoint=endpoint, socket="pull", mode="bind"))
        for camera, last in (("cam1", -1), ("spy", 500)):
            beat = {"v": 1, "kind": "beat", "camera": camera, "epoch": 1, "last": last}
            sender.send_multipart([b"", json.dumps(beat).encode(), b""])
        sender.send_multipart([b"end"])
        running.wait_for_received(1, camera=None)

    assert [loss.reason for loss in running.losses] == [LossReason.BAD_MESSAGE]


def test_sources_are_connecting_then_fresh_then_stale_then_stopped(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str], peer: Callable[[str], Peer]
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(router(endpoint, stale_after_s=2.0))
    states = [running.subscriber.sources()[endpoint].state]

    peer(running.endpoint).hello()
    for wanted in ("fresh", "stale"):
        running.wait_for(
            lambda _, wanted=wanted: running.subscriber.sources()[endpoint].state == wanted
        )
        states.append(running.subscriber.sources()[endpoint].state)
    running.finish()
    states.append(running.subscriber.sources()[endpoint].state)

    assert states == ["connecting", "fresh", "stale", "stopped"]


def test_holes_of_a_dropping_sender_are_gaps_at_once(
    start_ingest: StartIngest, ipc_endpoints: Iterator[str]
) -> None:
    running = start_ingest(
        SourceConfig(endpoint=next(ipc_endpoints), socket="pull", mode="bind"),
        missing={("cam1", 1): [Gap(3, 4)]},
    )

    running.wait_for(lambda counters: counters.cameras["cam1"].gaps == 2)


def test_closing_does_not_wait_for_a_daemon_that_is_not_there(
    ipc_endpoints: Iterator[str], image: Image
) -> None:
    closed = threading.Event()
    publisher = publish(next(ipc_endpoints))
    publisher.send(image)

    threading.Thread(target=lambda: (publisher.close(), closed.set())).start()

    assert closed.wait(10)
