import contextlib
import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from daemon.core import LossReason
from daemon.ingest.message import Claim, Message, MessageError, parse_message
from daemon.ingest.wire import MAX_HEADER_BYTES, MAX_TOPIC_BYTES

HEADER = {
    "v": 1,
    "camera": "cam1",
    "epoch": 5,
    "seq": 7,
    "ts_ns": 1_700_000_000_000_000_000,
    "category": "fabric",
    "encoding": "jpeg",
}
RAW = {"encoding": "raw", "dtype": "uint8", "shape": [2, 2], "pixel_format": "Mono8"}


def parse(header: object, payload: bytes = b"x", limit: int = 1000) -> Message:
    return parse_message(
        [b"line/cam1", json.dumps(header).encode(), payload], max_payload_bytes=limit
    )


def parse_imagezmq(header: object) -> Message:
    return parse_message([json.dumps(header).encode(), b"x"], max_payload_bytes=1000)


def refusal(header: object, **options: object) -> MessageError:
    with pytest.raises(MessageError) as caught:
        parse(header, **options)  # type: ignore[arg-type]
    return caught.value


def test_version_1_header_is_read() -> None:
    message = parse(HEADER | {"part_id": "P 1", "lot": "L", "trigger_id": "T", "meta": {"a": [1]}})

    assert message.claim == Claim("cam1", 5, 7, "fabric")
    assert message.captured_ns == HEADER["ts_ns"]
    assert (message.part_id, message.lot, message.trigger_id) == ("P 1", "L", "T")
    assert bytes(message.payload.data) == b"x"


def test_category_may_be_left_to_the_camera() -> None:
    header = {name: value for name, value in HEADER.items() if name != "category"}

    assert parse(header).claim.category is None


@pytest.mark.parametrize("count", [0, 1, 4, 50])
def test_other_part_counts_are_refused(count: int) -> None:
    with pytest.raises(MessageError, match=f"{count} parts") as caught:
        parse_message([b"{}"] * count, max_payload_bytes=1000)

    assert caught.value.reason is LossReason.BAD_MESSAGE


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"camera": ""},
        {"camera": "x" * 65},
        {"camera": "a\u0000b"},
        {"camera": "a\nb"},
        {"epoch": -1},
        {"epoch": 2**53},
        {"epoch": "5"},
        {"seq": 1.5},
        {"seq": True},
        {"seq": 2**40 + 1},
        {"seq": None},
        {"ts_ns": -1},
        {"ts_ns": 2**63},
        {"encoding": "tiff"},
        {"encoding": "raw"},
        {"part_id": "x" * 129},
        {"lot": 5},
        {"trigger_id": "\u0000"},
        RAW | {"shape": [2, -2]},
        RAW | {"shape": [1] * 5},
        RAW | {"shape": [2.0, 131072.0]},
        RAW | {"shape": "2x2"},
    ],
)
def test_a_bad_field_is_refused(change: dict[str, object]) -> None:
    assert refusal(HEADER | change).reason is LossReason.BAD_MESSAGE


def test_a_refused_header_still_tells_which_frame_it_was() -> None:
    error = refusal(HEADER | {"encoding": "tiff"})

    assert error.claim == Claim("cam1", 5, 7, "fabric")
    assert "encoding" in error.detail


def test_a_lying_number_is_not_believed() -> None:
    assert refusal(HEADER | {"seq": "7"}).claim == Claim("cam1", 5, None, "fabric")


def test_an_oversized_header_is_refused_unread() -> None:
    error = refusal(HEADER | {"meta": "x" * MAX_HEADER_BYTES})

    assert (error.reason, error.claim) == (LossReason.TOO_LARGE, Claim())
    assert str(MAX_HEADER_BYTES) in error.detail


def test_an_oversized_topic_is_refused() -> None:
    with pytest.raises(MessageError, match="topic"):
        parse_message(
            [b"t" * (MAX_TOPIC_BYTES + 1), json.dumps(HEADER).encode(), b"x"], max_payload_bytes=9
        )


def test_an_oversized_payload_is_refused_but_identified() -> None:
    error = refusal(HEADER, payload=b"x" * 11, limit=10)

    assert (error.reason, error.claim.seq) == (LossReason.TOO_LARGE, 7)
    assert error.detail == "payload has 11 bytes, limit 10"


@pytest.mark.parametrize(
    ("msg", "claim"),
    [
        ("cam1", Claim("cam1")),
        ("", Claim()),
        (None, Claim()),
        (["cam1"], Claim()),
        ({"camera": "cam1", "seq": 3, "x": 1}, Claim("cam1", None, 3, None)),
        ({"camera": "cam1", "epoch": 1, "seq": 3, "category": "c"}, Claim("cam1", 1, 3, "c")),
    ],
)
def test_imagezmq_message_may_be_a_name_or_an_object(msg: object, claim: Claim) -> None:
    assert parse_imagezmq({"msg": msg}).claim == claim


@pytest.mark.parametrize(
    ("shape", "pixel_format"), [([2, 3, 3], "BGR8"), ([2, 3], "Mono8"), ([2, 3, 1], "Mono8")]
)
def test_imagezmq_arrays_are_bgr_or_grey(shape: list[int], pixel_format: str) -> None:
    payload = parse_imagezmq({"msg": "cam1", "dtype": "uint8", "shape": shape}).payload

    assert (payload.encoding, payload.pixel_format) == ("raw", pixel_format)


@pytest.mark.parametrize("header", [{"msg": "c", "dtype": "uint8"}, {"msg": {"seq": "1"}}, [], 5])
def test_a_bad_imagezmq_header_is_refused(header: object) -> None:
    with pytest.raises(MessageError, match="bad imagezmq header"):
        parse_imagezmq(header)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(parts=st.lists(st.binary(max_size=300), max_size=5))
@example(parts=[b"", b"[" * 4096, b""])
@example(parts=[b"[" * 4096, b""])
@example(parts=[b'{"msg":' + b"[" * 4000 + b"]" * 4000 + b"}", b""])
@example(parts=[b"", b'{"camera":"\\ud800"}', b""])
@example(parts=[b"", b"\xff\xfe", b""])
@example(parts=[b"", b'{"seq":' + b"9" * 4000 + b"}", b""])
def test_hostile_bytes_raise_only_message_error(parts: list[bytes]) -> None:
    with contextlib.suppress(MessageError):
        parse_message(parts, max_payload_bytes=200)


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a machine that has much to do
@given(changes=st.dictionaries(st.sampled_from(sorted(HEADER | RAW)), JSON, max_size=4))
def test_hostile_fields_raise_only_message_error(changes: dict[str, object]) -> None:
    with contextlib.suppress(MessageError):
        parse(HEADER | RAW | changes)


@given(msg=JSON, dtype=JSON, shape=JSON)
def test_hostile_imagezmq_fields_raise_only_message_error(
    msg: object, dtype: object, shape: object
) -> None:
    with contextlib.suppress(MessageError):
        parse_imagezmq({"msg": msg, "dtype": dtype, "shape": shape})
