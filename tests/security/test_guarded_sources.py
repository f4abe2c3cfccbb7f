"""Who holds no right sends nothing, over real sockets; and the diary says so."""

import contextlib
import time
from pathlib import Path

import numpy as np
import pytest
import zmq
from guarded_ingest import Events, GuardedIngest, Keys, StartGuarded, free_endpoint

from daemon.config.sources import LimitsConfig
from daemon.core import LossReason
from daemon.ingest.publisher import FramePublisher
from daemon.ingest.reliable_publisher import ReliablePublisher
from daemon.security import allow_list
from daemon.security.allow_list import AllowedKey, AllowList
from daemon.security.doorkeeper import Doorkeeper
from daemon.security.key_files import new_key_pair, read_public_key, read_secret_file
from daemon.security.refusals import Refusals

IMAGE = np.zeros((24, 32, 3), np.uint8)
HEADER = b'{"v": 1, "camera": "cam1", "epoch": 1, "seq": 0, "ts_ns": 1, "encoding": "jpeg"}'


def pusher(ingest: GuardedIngest, camera: str = "cam1", **keys: object) -> FramePublisher:
    """A camera that pushes into a source which the daemon binds."""
    return FramePublisher(
        ingest.endpoint,
        camera,
        category="fabric",
        socket="push",
        mode="connect",
        linger_s=0.0,
        send_timeout_s=0.5,
        **keys,  # type: ignore[arg-type]
    )


def fill(publisher: FramePublisher) -> None:
    """Send until the socket is full, which it stays while nobody takes anything."""
    with contextlib.suppress(TimeoutError):
        for _ in range(100):
            publisher.send(IMAGE)
    assert publisher.sent < 100


def server_key(keys: Keys) -> str:
    return read_public_key(str(keys.folder / "daemon.key"))


@pytest.mark.parametrize(
    ("kind", "mode"), [("sub", "connect"), ("pull", "bind"), ("router", "bind")]
)
def test_an_allowed_key_passes_on_every_transport(
    kind: str, mode: str, keys: Keys, events: Events, start_guarded: StartGuarded
) -> None:
    secret = keys.new("pc1", "cam1")
    options = {"secret_key": secret, "server_key": server_key(keys)}
    endpoint = free_endpoint()
    if kind == "router":
        ingest = start_guarded(endpoint=endpoint, socket=kind, mode=mode)
        with ReliablePublisher(
            endpoint, "cam1", category="fabric", linger_s=0.0, **options
        ) as publisher:
            publisher.send(IMAGE)
            events.wait_for(lambda: ingest.received() == 1)
        return
    with FramePublisher(
        endpoint,
        "cam1",
        category="fabric",
        socket="pub" if kind == "sub" else "push",
        mode="bind" if mode == "connect" else "connect",
        **options,  # type: ignore[arg-type]
    ) as publisher:
        ingest = start_guarded(endpoint=endpoint, socket=kind, mode=mode)
        assert publisher.wait_for_subscriber(10)
        publisher.send(IMAGE)
        events.wait_for(lambda: ingest.received() == 1)

    assert events.told == []
    assert ingest.losses == []


def test_a_key_that_nobody_allowed_stays_outside(
    keys: Keys, events: Events, start_guarded: StartGuarded
) -> None:
    secret = keys.new("stranger")
    ingest = start_guarded(socket="pull", mode="bind")

    with pusher(ingest, secret_key=secret, server_key=server_key(keys)) as publisher:
        fill(publisher)
        events.wait_for_words("127.0.0.1: its key is not allowed")

    assert [camera.received for camera in ingest.subscriber.counters().cameras.values()] == [
        0,
        0,
        0,
    ]
    assert read_secret_file(secret).public in events.told[0]


def test_a_key_that_is_allowed_later_gets_in_without_a_restart(
    keys: Keys, events: Events, start_guarded: StartGuarded
) -> None:
    secret = keys.new("pc1")
    ingest = start_guarded(socket="pull", mode="bind")

    with pusher(ingest, secret_key=secret, server_key=server_key(keys)) as publisher:
        publisher.send(IMAGE)
        events.wait_for_words("its key is not allowed")
        allow_list.allow(keys.allowed, AllowedKey("cam1", read_secret_file(secret).public, "pc1"))
        events.wait_for(lambda: ingest.received() == 1)


def test_a_camera_that_gets_its_keys_later_is_connected_to(
    keys: Keys, events: Events, start_guarded: StartGuarded
) -> None:
    """libzmq would never connect again after a handshake that failed."""
    secret = keys.new("pc1", "cam1")
    endpoint = free_endpoint()
    with FramePublisher(endpoint, "cam1", category="fabric", linger_s=0.0):
        ingest = start_guarded(endpoint=endpoint, socket="sub", mode="connect")
        events.wait_for_words("it speaks without a key")

    with FramePublisher(
        endpoint,
        "cam1",
        category="fabric",
        linger_s=0.0,
        secret_key=secret,
        server_key=server_key(keys),
    ) as publisher:
        assert publisher.wait_for_subscriber(10)
        publisher.send(IMAGE)
        events.wait_for(lambda: ingest.received() == 1)


def test_plain_zmtp_stays_outside(keys: Keys, events: Events, start_guarded: StartGuarded) -> None:
    keys.new("pc1", "cam1")
    ingest = start_guarded(socket="pull", mode="bind")

    with pusher(ingest) as publisher:
        fill(publisher)
        events.wait_for_words("it speaks without a key")

    assert ingest.received() == 0


def test_a_sender_that_stays_outside_is_not_told_that_its_frames_were_taken(
    events: Events, start_guarded: StartGuarded
) -> None:
    ingest = start_guarded(socket="pull", mode="bind")

    with FramePublisher(ingest.endpoint, "cam1", socket="push", mode="connect") as publisher:
        publisher.send(IMAGE)
        events.wait_for_words("it speaks without a key")

    assert not publisher.is_handed_over


def test_who_takes_another_daemon_for_this_one_stays_outside(
    keys: Keys, events: Events, start_guarded: StartGuarded
) -> None:
    secret = keys.new("pc1", "cam1")
    ingest = start_guarded(socket="pull", mode="bind")

    with pusher(ingest, secret_key=secret, server_key=new_key_pair().public) as publisher:
        fill(publisher)
        events.wait_for_words("wrong key of this daemon")

    assert ingest.received() == 0


def test_another_cameras_key_sends_no_frame_of_this_one(
    keys: Keys, events: Events, start_guarded: StartGuarded
) -> None:
    keys.new("pc1", "cam1")
    other = keys.new("pc2", "cam2")
    ingest = start_guarded(socket="pull", mode="bind")

    with pusher(ingest, secret_key=other, server_key=server_key(keys)) as publisher:
        publisher.send(IMAGE)
        events.wait_for_words("as camera cam1: its key is not one of the camera")

    assert (ingest.received("cam1"), ingest.received(None), len(ingest.frames)) == (0, 1, 0)
    assert [loss.reason for loss in ingest.losses] == [LossReason.NOT_ALLOWED]
    assert ingest.losses[0].camera is None


def test_another_cameras_key_opens_no_reliable_session(
    keys: Keys, events: Events, start_guarded: StartGuarded
) -> None:
    other = keys.new("pc2", "cam2")
    ingest = start_guarded(socket="router", mode="bind")

    with ReliablePublisher(
        ingest.endpoint,
        "cam1",
        category="fabric",
        linger_s=0.0,
        secret_key=other,
        server_key=server_key(keys),
    ) as publisher:
        publisher.send(IMAGE)
        events.wait_for_words("as camera cam1: its key is not one of the camera")

        assert publisher.unacknowledged == 1
    assert (ingest.received(), len(ingest.frames)) == (0, 0)


@pytest.mark.parametrize("kind", ["pull", "router"])
def test_revoking_a_key_ends_a_connection_that_is_open(
    kind: str, keys: Keys, events: Events, start_guarded: StartGuarded
) -> None:
    secret = keys.new("pc1", "cam1")
    ingest = start_guarded(socket=kind, mode="bind")
    options = {"secret_key": secret, "server_key": server_key(keys)}
    publisher = (
        pusher(ingest, **options)
        if kind == "pull"
        else ReliablePublisher(
            ingest.endpoint,
            "cam1",
            category="fabric",
            linger_s=0.0,
            **options,  # type: ignore[arg-type]
        )
    )
    with publisher:
        publisher.send(IMAGE)
        events.wait_for(lambda: ingest.received() == 1)

        allow_list.revoke(keys.allowed, read_secret_file(secret).public)
        publisher.send(IMAGE)
        if kind == "pull":  # it may have arrived before the folder was read again
            deadline = time.monotonic() + 10
            while not events.told and time.monotonic() < deadline:
                publisher.send(IMAGE)
                with events.changed:
                    events.changed.wait(0.05)
        events.wait_for_words("its key is not one of the camera")
        before, refused = ingest.received(), ingest.received(None)
        publisher.send(IMAGE)
        publisher.send(IMAGE)
        if kind == "pull":
            events.wait_for(lambda: ingest.received(None) > refused)

        assert ingest.received() == before


def test_a_camera_with_a_key_is_not_accepted_without(
    keys: Keys, events: Events, start_guarded: StartGuarded, tmp_path: Path
) -> None:
    keys.new("pc1", "cam1")
    ingest = start_guarded(endpoint=f"ipc://{tmp_path}/s", socket="pull", mode="bind")

    with pusher(ingest) as cam1, pusher(ingest, "cam2") as cam2:
        cam1.send(IMAGE)
        cam2.send(IMAGE)
        events.wait_for(lambda: ingest.received("cam2") == 1)
        events.wait_for_words("a plain socket as camera cam1")

    assert ingest.received("cam1") == 0


def test_a_plain_sender_cannot_forge_whose_key_it_has(
    keys: Keys, events: Events, start_guarded: StartGuarded
) -> None:
    secret = keys.new("pc1", "cam1")
    ingest = start_guarded(socket="pull", mode="bind", allow_plain=True)

    with zmq.Context() as context, context.socket(zmq.PUSH) as forger:
        forger.setsockopt(zmq.LINGER, 0)
        # what a ZAP handler would have proven, claimed in the sender's own handshake
        forger.setsockopt_string(zmq.METADATA, f"X-User-Id:{read_secret_file(secret).public}")
        forger.connect(ingest.endpoint)
        forger.send_multipart([b"line/cam1", HEADER, b"x"])
        events.wait_for_words("a plain socket as camera cam1")

    assert ingest.received() == 0


def test_a_beat_of_another_camera_makes_no_gap(
    keys: Keys, events: Events, start_guarded: StartGuarded
) -> None:
    other = keys.new("pc2", "cam2")
    ingest = start_guarded(socket="pull", mode="bind")

    with pusher(ingest, secret_key=other, server_key=server_key(keys)) as publisher:
        publisher.skip(1000)  # its next beat says so
        events.wait_for_words("as camera cam1")

    assert ingest.losses == []


def test_a_stopped_doorkeeper_lets_nobody_in(keys: Keys) -> None:
    """libzmq would let everybody in without ZAP_ENFORCE_DOMAIN."""
    secret = keys.new("pc1", "cam1")
    door = Doorkeeper(keys.server, AllowList(keys.allowed), Refusals(print), clock=time.monotonic)
    door._zap.close()  # as if its thread had died
    source = door.context.socket(zmq.PULL)
    door.secure(source, "frames", "tcp://127.0.0.1:*", "bind")
    source.bind("tcp://127.0.0.1:*")
    endpoint = source.getsockopt_string(zmq.LAST_ENDPOINT)

    with FramePublisher(
        endpoint,
        "cam1",
        socket="push",
        mode="connect",
        linger_s=0.0,
        secret_key=secret,
        server_key=server_key(keys),
    ) as publisher:
        publisher.send(IMAGE)

        assert not source.poll(500)
    source.close()
    door.close()


def test_over_the_frame_rate_frames_are_lost_with_a_reason(
    keys: Keys, events: Events, start_guarded: StartGuarded, tmp_path: Path
) -> None:
    ingest = start_guarded(
        LimitsConfig(max_frames_per_second=5),
        endpoint=f"ipc://{tmp_path}/s",
        socket="pull",
        mode="bind",
    )

    with pusher(ingest) as publisher:
        for _ in range(30):
            publisher.send(IMAGE)
        events.wait_for(lambda: ingest.received() == 30)

    lost = [loss for loss in ingest.losses if loss.reason is LossReason.TOO_FAST]
    assert (
        30 - len(lost) == len(ingest.frames) + ingest.subscriber.counters().cameras["cam1"].decoding
    )
    assert 10 < len(lost) <= 25
    assert "5 frames a second" in lost[0].detail
