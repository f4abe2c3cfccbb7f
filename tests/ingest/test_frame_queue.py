import queue
import threading
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.sources import CameraConfig, QueueConfig
from daemon.core import Frame, FrameId, FrameInfo
from daemon.ingest.frame_queue import FrameQueue

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUNNING = threading.Event()


def frame(seq: int, camera: str = "cam1") -> Frame:
    info = FrameInfo(FrameId(camera, 1, seq), "fabric", NOW, NOW, 0.0)
    return Frame(info, np.zeros((1, 1, 3), np.uint8))


def seqs(frames: object) -> list[int]:
    return [one.info.frame_id.seq for one in frames]  # type: ignore[attr-defined]


def drain(frames: FrameQueue) -> list[int]:
    return seqs(frames.get_nowait() for _ in range(len(frames)))


def full(policy: str) -> FrameQueue:
    frames = FrameQueue(QueueConfig(max_frames=2, drop_policy=policy), {})  # type: ignore[arg-type]
    for seq in range(2):
        assert frames.put(frame(seq), stop=RUNNING) == ()
    return frames


def test_drop_oldest_keeps_what_is_freshest() -> None:
    frames = full("drop_oldest")

    assert seqs(frames.put(frame(2), stop=RUNNING)) == [0]
    assert drain(frames) == [1, 2]


def test_drop_newest_keeps_what_came_first() -> None:
    frames = full("drop_newest")

    assert seqs(frames.put(frame(2), stop=RUNNING)) == [2]
    assert drain(frames) == [0, 1]


def test_block_waits_until_a_frame_is_taken() -> None:
    frames, waiting, dropped = full("block"), threading.Event(), []

    def put() -> None:
        dropped.extend(frames.put(frame(2), stop=RUNNING, on_wait=waiting.set))

    producer = threading.Thread(target=put)
    producer.start()
    assert waiting.wait(10)
    assert len(frames) == 2

    assert frames.get(timeout_s=1).info.frame_id.seq == 0
    producer.join(10)

    assert not producer.is_alive()
    assert dropped == []
    assert drain(frames) == [1, 2]


def test_stop_ends_the_waiting_and_loses_nothing() -> None:
    frames, stop = full("block"), threading.Event()

    dropped = frames.put(frame(2), stop=stop, on_wait=stop.set)

    assert dropped == ()
    assert drain(frames) == [0, 1, 2]


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "block"])
def test_frames_that_must_be_kept_are_neither_dropped_nor_counted(policy: str) -> None:
    frames = FrameQueue(QueueConfig(max_frames=2, drop_policy=policy), {})  # type: ignore[arg-type]
    for seq in range(5):
        assert frames.put(frame(seq), stop=RUNNING, must_keep=True) == ()

    for seq in range(5, 7):
        assert frames.put(frame(seq), stop=RUNNING) == ()
    dropped = [] if policy == "block" else seqs(frames.put(frame(7), stop=RUNNING))

    assert dropped == {"drop_oldest": [5], "drop_newest": [7], "block": []}[policy]
    assert drain(frames)[:5] == [0, 1, 2, 3, 4]


def test_an_empty_queue_says_so() -> None:
    frames = FrameQueue(QueueConfig(), {})

    assert frames.empty()
    with pytest.raises(queue.Empty):
        frames.get(timeout_s=0.01)
    with pytest.raises(queue.Empty):
        frames.get_nowait()


@given(
    policy=st.sampled_from(["drop_oldest", "drop_newest"]),
    is_put=st.lists(st.booleans(), max_size=60),
    max_frames=st.integers(1, 5),
)
def test_every_frame_is_taken_or_dropped_once(
    policy: str, is_put: list[bool], max_frames: int
) -> None:
    frames = FrameQueue(QueueConfig(max_frames=max_frames, drop_policy=policy), {})  # type: ignore[arg-type]
    taken: list[int] = []
    dropped: list[int] = []
    for seq, is_a_put in enumerate(is_put):
        if is_a_put:
            dropped += seqs(frames.put(frame(seq), stop=RUNNING))
        elif not frames.empty():
            taken += seqs([frames.get_nowait()])
        assert len(frames) <= max_frames
    taken += drain(frames)

    assert taken == sorted(taken)
    assert sorted(taken + dropped) == [seq for seq, is_a_put in enumerate(is_put) if is_a_put]


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_a_camera_that_floods_the_line_loses_its_own_frames(policy: str) -> None:
    frames = FrameQueue(QueueConfig(max_frames=4, drop_policy=policy), {})  # type: ignore[arg-type]
    dropped = list(frames.put(frame(100, "slow"), stop=RUNNING))
    for seq in range(20):
        dropped += frames.put(frame(seq, "flood"), stop=RUNNING)
    dropped += frames.put(frame(101, "slow"), stop=RUNNING)

    assert {one.info.frame_id.camera for one in dropped} == {"flood"}
    kept = seqs(frames.get_nowait() for _ in range(4))
    assert {100, 101} < set(kept)
    assert (
        sorted(set(kept) - {100, 101}) == {"drop_oldest": [18, 19], "drop_newest": [0, 1]}[policy]
    )


def test_higher_priority_is_inspected_first_and_dropped_last() -> None:
    cameras = {
        "gate": CameraConfig(priority="high"),
        "side": CameraConfig(),
        "spare": CameraConfig(priority="low"),
    }
    frames = FrameQueue(QueueConfig(max_frames=3), cameras)
    for seq, camera in enumerate(("spare", "side", "gate")):
        assert frames.put(frame(seq, camera), stop=RUNNING) == ()

    assert seqs(frames.put(frame(3, "gate"), stop=RUNNING)) == [0]
    assert seqs(frames.put(frame(4, "spare"), stop=RUNNING)) == [4]
    assert seqs(frames.put(frame(5, "gate"), stop=RUNNING)) == [1]
    assert drain(frames) == [2, 3, 5]

    frames.put(frame(6, "side"), stop=RUNNING)
    frames.put(frame(7, "spare"), stop=RUNNING)
    frames.follow(cameras | {"spare": CameraConfig(priority="high")})
    assert drain(frames) == [7, 6]


@given(
    puts=st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=60),
    policy=st.sampled_from(["drop_oldest", "drop_newest"]),
    priorities=st.fixed_dictionaries(dict.fromkeys("abc", st.sampled_from(["low", "high"]))),
)
def test_whatever_the_priorities_each_camera_keeps_its_order_and_nothing_is_lost(
    puts: list[tuple[str, bool, bool]], policy: str, priorities: dict[str, str]
) -> None:
    cameras = {name: CameraConfig(priority=value) for name, value in priorities.items()}  # type: ignore[arg-type]
    frames = FrameQueue(QueueConfig(max_frames=4, drop_policy=policy), cameras)  # type: ignore[arg-type]
    taken: list[Frame] = []
    dropped: list[Frame] = []
    kept = set()
    for seq, (camera, must_keep, takes) in enumerate(puts):
        kept |= {seq} if must_keep else set()
        dropped += frames.put(frame(seq, camera), stop=RUNNING, must_keep=must_keep)
        taken += [frames.get_nowait()] if takes and len(frames) else []
    taken += [frames.get_nowait() for _ in range(len(frames))]

    for camera in "abc":
        of_it = seqs(one for one in taken if one.info.frame_id.camera == camera)
        assert of_it == sorted(of_it)
    assert not kept & set(seqs(dropped))
    assert sorted(seqs(taken) + seqs(dropped)) == list(range(len(puts)))
