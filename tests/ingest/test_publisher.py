import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from numpy.typing import NDArray

from daemon.ingest.decode import decode_image
from daemon.ingest.message import Message, parse_message
from daemon.ingest.pixels import CHANNELS, to_rgb
from daemon.ingest.publisher import FramePublisher
from daemon.ingest.wire import Encoding, PixelFormat

LIMIT = 1 << 20
Context = zmq.Context[zmq.Socket[bytes]]


@pytest.fixture
def context() -> Iterator[Context]:
    with zmq.Context() as context:
        yield context


def receive(socket: zmq.Socket[bytes]) -> Message:
    assert socket.poll(10_000)
    return parse_message(socket.recv_multipart(), max_payload_bytes=LIMIT)


@st.composite
def images(draw: st.DrawFn) -> tuple[NDArray[np.uint8], PixelFormat]:
    pixel_format = draw(st.sampled_from(sorted(CHANNELS)))
    height, width = draw(st.integers(2, 12)), draw(st.integers(2, 12))
    shape = (height, width, 3) if CHANNELS[pixel_format] == 3 else (height, width)
    return draw(np_st.arrays(np.uint8, shape)), pixel_format


@settings(deadline=None, max_examples=60)
@given(described=images(), encoding=st.sampled_from(["raw", "png"]))
def test_raw_and_png_arrive_without_loss(
    described: tuple[NDArray[np.uint8], PixelFormat], encoding: Encoding
) -> None:
    image, pixel_format = described
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.bind("inproc://frames")
        with FramePublisher(
            "inproc://frames",
            "cam1",
            socket="push",
            mode="connect",
            encoding=encoding,
            context=context,
        ) as publisher:
            publisher.send(image, pixel_format=pixel_format)
            message = receive(socket)

    decoded = decode_image(message.payload, max_pixels=LIMIT)

    np.testing.assert_array_equal(decoded, to_rgb(image, pixel_format))


def test_jpeg_arrives_almost_unchanged(context: Context) -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    image = np.stack(
        [np.tile(ramp, (48, 1)), np.full((48, 64), 90, np.uint8), np.tile(ramp[::-1], (48, 1))],
        axis=-1,
    )
    with context.socket(zmq.PULL) as socket:
        socket.bind("inproc://frames")
        with FramePublisher(
            "inproc://frames", "cam1", socket="push", mode="connect", context=context
        ) as publisher:
            publisher.send(image, pixel_format="RGB8")
            message = receive(socket)

    decoded = decode_image(message.payload, max_pixels=LIMIT)

    assert np.abs(decoded.astype(int) - image).mean() < 4


def test_the_header_carries_what_was_given(context: Context, image: NDArray[np.uint8]) -> None:
    with context.socket(zmq.PULL) as socket:
        socket.bind("inproc://frames")
        with FramePublisher(
            "inproc://frames",
            "cam1",
            category="fabric",
            socket="push",
            mode="connect",
            context=context,
        ) as publisher:
            publisher.send(image, captured_ns=5, part_id="P", lot="L", trigger_id="T")
            publisher.skip(3)
            seq = publisher.send(image, category="wood")
            first, second = receive(socket), receive(socket)

    assert (first.claim.camera, first.claim.epoch, first.claim.seq) == ("cam1", publisher.epoch, 0)
    assert (first.captured_ns, first.part_id, first.lot, first.trigger_id) == (5, "P", "L", "T")
    assert (first.claim.category, second.claim.category) == ("fabric", "wood")
    assert (seq, second.claim.seq, publisher.sent, publisher.next_seq) == (4, 4, 2, 5)


def test_a_file_is_sent_unchanged(context: Context, image: NDArray[np.uint8]) -> None:
    data = cv2.imencode(".jpg", image)[1].tobytes()
    with context.socket(zmq.PULL) as socket:
        socket.bind("inproc://frames")
        with FramePublisher(
            "inproc://frames", "cam1", socket="push", mode="connect", context=context
        ) as publisher:
            publisher.send_encoded(data, "jpeg")

            assert bytes(receive(socket).payload.data) == data


def test_waiting_for_a_subscriber_loses_no_first_frame(
    ipc_endpoints: Iterator[str], image: NDArray[np.uint8], context: Context
) -> None:
    endpoint = next(ipc_endpoints)
    with FramePublisher(endpoint, "cam1") as publisher, context.socket(zmq.SUB) as socket:
        assert not publisher.wait_for_subscriber(timeout_s=0.05)
        socket.subscribe(b"")
        socket.connect(endpoint)

        assert publisher.wait_for_subscriber(timeout_s=10)
        publisher.send(image)

        assert receive(socket).claim.seq == 0


def test_closing_sends_what_waits(
    ipc_endpoints: Iterator[str], image: NDArray[np.uint8], context: Context
) -> None:
    endpoint = next(ipc_endpoints)
    with context.socket(zmq.SUB) as socket:
        socket.subscribe(b"")
        socket.connect(endpoint)
        with FramePublisher(endpoint, "cam1", encoding="raw") as publisher:
            publisher.wait_for_subscriber(timeout_s=10)
            for _ in range(20):
                publisher.send(image)

        assert [receive(socket).claim.seq for _ in range(20)] == list(range(20))


def test_a_push_socket_without_receiver_times_out_and_keeps_the_number(
    ipc_endpoints: Iterator[str], image: NDArray[np.uint8]
) -> None:
    with FramePublisher(
        next(ipc_endpoints), "cam1", socket="push", send_timeout_s=0.05, linger_s=0
    ) as publisher:
        with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
            publisher.send(image)

        assert (publisher.sent, publisher.next_seq) == (0, 0)


def test_a_taken_endpoint_is_refused() -> None:
    with (
        FramePublisher("tcp://127.0.0.1:0", "cam1") as first,
        pytest.raises(zmq.ZMQError, match="in use"),
    ):
        FramePublisher(first.endpoint, "cam2")


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((4, 4, 3), np.uint16), {}, "uint16"),
        (np.zeros((4, 4), np.uint8), {}, "BGR8"),
        (np.zeros((4, 4, 3), np.uint8), {"pixel_format": "Mono8"}, "Mono8"),
        (np.zeros((4, 4, 3), np.uint8), {"part_id": "x" * 129}, "part_id"),
        (np.zeros((4, 4, 3), np.uint8), {"category": "a\nb"}, "category"),
    ],
)
def test_what_a_receiver_would_refuse_is_refused_here(
    image: NDArray[np.uint8], options: dict[str, str], message: str, ipc_endpoints: Iterator[str]
) -> None:
    with FramePublisher(next(ipc_endpoints), "cam1") as publisher:
        with pytest.raises(ValueError, match=message):
            publisher.send(image, **options)  # type: ignore[arg-type]

        assert publisher.next_seq == 0


@pytest.mark.parametrize("module", ["publisher", "reliable_publisher"])
def test_the_publisher_brings_no_heavy_package(module: str) -> None:
    program = (
        f"import sys, daemon.ingest.{module}\n"
        "heavy = {'pydantic', 'torch', 'sqlalchemy', 'yaml', 'rich'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_a_pub_sender_that_nobody_hears_does_not_say_that_its_frames_were_taken(
    ipc_endpoints: Iterator[str], image: NDArray[np.uint8]
) -> None:
    with FramePublisher(next(ipc_endpoints), "cam1") as publisher:
        publisher.send(image)

    assert not publisher.is_handed_over
