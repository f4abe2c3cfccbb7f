"""Generated hostile messages against parser and decoder: a FrameError each, or a frame."""

import contextlib
import random
import resource
from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from daemon.errors import FrameError
from daemon.ingest.decode import decode_image
from daemon.ingest.envelope import parse_envelope
from daemon.ingest.message import Payload, parse_beat, parse_message

MAX_PIXELS = 100_000
MAX_PAYLOAD_BYTES = 64 << 10
ORDINARY, SOAK = 20_000, 1_000_000
MAX_GROWTH_BYTES = 64 << 20

IMAGE = np.random.default_rng(3).integers(0, 256, (12, 16, 3), np.uint8)
JPEG = cv2.imencode(".jpg", IMAGE)[1].tobytes()
PNG = cv2.imencode(".png", IMAGE)[1].tobytes()
HEAD = b'{"v": 1, "camera": "cam1", "epoch": 5, "seq": 7, "ts_ns": 17, "category": "c", '
RAW = b'"encoding": "raw", "dtype": "uint8", "shape": [12, 16, 3], "pixel_format": "BGR8"}'
SEEDS: list[list[bytes]] = [
    [b"l/cam1", HEAD + b'"encoding": "jpeg"}', JPEG],
    [b"l/cam1", HEAD + b'"encoding": "png"}', PNG],
    [b"l/cam1", HEAD + RAW, IMAGE.tobytes()],
    [b'{"msg": "cam1", "dtype": "uint8", "shape": [12, 16, 3]}', IMAGE.tobytes()],
    [b'{"msg": {"camera": "cam1", "seq": 3}}', JPEG],
    [b"l/cam1", b'{"v": 1, "kind": "beat", "camera": "cam1", "epoch": 5, "last": 9}', b""],
    [b'{"v": 1, "kind": "hello", "session": 1, "camera": "cam1", "epoch": 5, "acked": -1}'],
]
TOKENS = [
    *(b"9" * 400, b"-1", b"1e999", b"NaN", b"null", b"[]", b"{}", b"true", b"\xff\xfe"),
    *(b'"\\ud800"', b"\\u0000", b"[" * 200, b'{"a":' * 100, b"4294967296", b"65535", b"0"),
    *(b"\xff\xd8", b"\xff\xd9", b"\xff\xda\x00\x02", b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03"),
    *(b"IHDR\x7f\xff\xff\xff\x7f\xff\xff\xff", b"IDAT", b"IEND", b"\x00" * 64),
]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, cut, repeated or replaced by something that breaks parsers."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0 if changed:
                changed[at % len(changed)] = chance.randrange(256)
            case 1:
                del changed[at : at + chance.choice((1, 4, 1000))]
            case 2:
                changed[at:at] = changed[at : at + chance.randrange(64)]
            case 3:
                changed[at:at] = chance.choice(TOKENS)
            case 4:
                token = chance.choice(TOKENS)
                changed[at : at + len(token)] = token
            case _:
                changed[at : at + 4] = chance.randbytes(4)
    return bytes(changed)


def hostile_messages(count: int, seed: int) -> Iterator[list[bytes]]:
    """Seeds with one part or all of them changed, and now and then the number of parts too."""
    chance = random.Random(seed)
    for _ in range(count):
        parts = list(chance.choice(SEEDS))
        one = chance.randrange(len(parts))
        for index in range(len(parts)):
            if index == one or chance.random() < 0.2:
                parts[index] = mutated(parts[index], chance)
        if chance.random() < 0.03:
            parts = parts * chance.randrange(4) + [b""]
        yield parts


def outcome(parts: list[bytes]) -> str:
    """What the daemon would do with a message; everything but FrameError escapes to the test."""
    with contextlib.suppress(FrameError):
        parse_envelope(parts[0] if parts else b"")
    if parse_beat(parts) is not None:
        return "beat"
    try:
        message = parse_message(parts, max_payload_bytes=MAX_PAYLOAD_BYTES)
        image = decode_image(message.payload, max_pixels=MAX_PIXELS)
    except FrameError as error:
        return error.reason.value
    assert image.shape[0] * image.shape[1] <= MAX_PIXELS
    return "frame"


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attack(count: int, seed: int) -> Counter[str]:
    outcomes = Counter(outcome(parts) for parts in hostile_messages(min(count, 2000), seed))
    warm = peak_bytes()  # decoders and validators have made their buffers by now
    outcomes.update(outcome(parts) for parts in hostile_messages(count - 2000, seed + 1))
    grown = peak_bytes() - warm
    print(
        f"{outcomes.total()} messages: {dict(outcomes)}; peak {peak_bytes() >> 20} MiB, "
        f"{grown >> 20} MiB over the first 2000"
    )
    assert grown < MAX_GROWTH_BYTES
    return outcomes


def test_hostile_messages_cost_one_frame_each(capfd: pytest.CaptureFixture[str]) -> None:
    outcomes = attack(ORDINARY, seed=20260131)

    assert outcomes.total() == ORDINARY
    assert {"frame", "bad_message", "bad_payload", "too_large", "beat"} <= set(outcomes)
    capfd.readouterr()  # libpng writes to stderr by itself


def test_a_png_chunk_is_not_believed_when_it_claims_more_than_there_is() -> None:
    at = PNG.index(b"IDAT")
    lying = PNG[: at - 4] + (700 << 20).to_bytes(4, "big") + PNG[at:]
    before = peak_bytes()

    with pytest.raises(FrameError, match="chunk that says 734003200 bytes"):
        decode_image(Payload("png", lying), max_pixels=MAX_PIXELS)

    assert peak_bytes() - before < MAX_GROWTH_BYTES


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_million_hostile_messages_cost_one_frame_each() -> None:
    assert attack(SOAK, seed=7).total() == SOAK
