"""Message parts to a validated header and an undecoded payload. Opens no socket, decodes no image.

Two formats: version 1 of `daemon.ingest.wire` (three parts), and imagezmq's (two parts,
github.com/jeffbass/imagezmq): JSON `{"msg", "dtype", "shape"}` with a BGR or grey buffer, or
`{"msg"}` with a JPEG. There `msg` is a camera name or an object with the fields of version 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import from_json

from daemon.core import LossReason
from daemon.errors import FrameError
from daemon.ingest import wire

Buffer = bytes | memoryview

_MAX_DIMENSIONS = 4
# No control characters: PostgreSQL refuses NUL in text, and names end up in terminals.
_NAME_PATTERN = r"^[^\p{Cc}]+$"
NameText = Annotated[
    str, StringConstraints(min_length=1, max_length=wire.MAX_NAME_CHARS, pattern=_NAME_PATTERN)
]
_IdText = Annotated[
    str, StringConstraints(min_length=1, max_length=wire.MAX_ID_CHARS, pattern=_NAME_PATTERN)
]
Epoch = Annotated[int, Field(ge=0, le=wire.MAX_EPOCH)]
Seq = Annotated[int, Field(ge=0, le=wire.MAX_SEQ)]
_TsNs = Annotated[int, Field(ge=0, le=wire.MAX_TS_NS)]
_Size = Annotated[int, Field(ge=0, le=1 << 31)]
_Shape = Annotated[list[_Size], Field(max_length=_MAX_DIMENSIONS)]


class WireModel(BaseModel):
    """Strict about types; unknown fields (`meta` among them) are left unread."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class FrameHeader(WireModel):
    """The header of version 1.

    Attributes:
        epoch: Random per publisher start; `seq` counts from 0 in each.
        ts_ns: Capture time, Unix nanoseconds.
        category: None leaves it to the camera's configuration.
        dtype, shape, pixel_format: Needed for raw, ignored otherwise.
    """

    v: Literal[1]
    camera: NameText
    epoch: Epoch
    seq: Seq
    ts_ns: _TsNs
    category: NameText | None = None
    encoding: Literal["raw", "jpeg", "png"]
    dtype: NameText | None = None
    shape: _Shape | None = None
    pixel_format: NameText | None = None
    part_id: _IdText | None = None
    lot: _IdText | None = None
    trigger_id: _IdText | None = None

    @model_validator(mode="after")
    def _raw_is_described(self) -> Self:
        if self.encoding == "raw" and None in (self.dtype, self.shape, self.pixel_format):
            raise ValueError("encoding raw needs dtype, shape and pixel_format")
        return self


class Beat(WireModel):
    """A sender says which number was its last: what has not come until now is lost.

    Attributes:
        last: wire.NOTHING if there was none yet.
    """

    v: Literal[1]
    kind: Literal["beat"]
    camera: NameText
    epoch: Epoch
    last: Annotated[int, Field(ge=wire.NOTHING, le=wire.MAX_SEQ)]


class _ImagezmqHeader(WireModel):
    msg: JsonValue = None
    dtype: NameText | None = None
    shape: _Shape | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.dtype is None) != (self.shape is None):
            raise ValueError("dtype and shape must come together")
        return self


class _ImagezmqFacts(WireModel):
    """What an imagezmq sender may put into `msg` as an object."""

    camera: NameText | None = None
    epoch: Epoch | None = None
    seq: Seq | None = None
    ts_ns: _TsNs | None = None
    category: NameText | None = None
    part_id: _IdText | None = None
    lot: _IdText | None = None
    trigger_id: _IdText | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Which frame a message says it is; None where it does not say."""

    camera: str | None = None
    epoch: int | None = None
    seq: int | None = None
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Payload:
    """An image still encoded; what it says of itself is not yet believed.

    Attributes:
        dtype, shape, pixel_format: Given exactly for raw.
    """

    encoding: wire.Encoding
    data: Buffer
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    pixel_format: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A frame as received. `claim.camera` and numbers may be None only for imagezmq."""

    claim: Claim
    payload: Payload
    captured_ns: int | None
    part_id: str | None
    lot: str | None
    trigger_id: str | None


class MessageError(FrameError):
    """A message that cannot be used, with as much of the frame's identity as it still tells."""

    def __init__(self, reason: LossReason, detail: str, claim: Claim) -> None:
        super().__init__(reason, detail)
        self.claim = claim


def parse_message(parts: Sequence[Buffer], *, max_payload_bytes: int) -> Message:
    """Validate one message.

    Raises:
        MessageError: For every malformed message; nothing else escapes.
    """
    match len(parts):
        case 3:
            if len(parts[0]) > wire.MAX_TOPIC_BYTES:
                raise _too_large("topic", len(parts[0]), wire.MAX_TOPIC_BYTES, Claim())
            return _parse_version_1(_bounded_header(parts[1]), parts[2], max_payload_bytes)
        case 2:
            return _parse_imagezmq(_bounded_header(parts[0]), parts[1], max_payload_bytes)
        case count:
            raise MessageError(
                LossReason.BAD_MESSAGE,
                f"message has {count} parts; send 3 (topic, header, payload) or imagezmq's 2",
                Claim(),
            )


def parse_beat(parts: Sequence[Buffer]) -> Beat | None:
    """The beat that a message is; None if it is something else, a frame or garbage."""
    if len(parts) != 3 or len(parts[2]) or len(parts[1]) > wire.MAX_HEADER_BYTES:
        return None  # also spares frames a second look: a payload is never empty
    try:
        return Beat.model_validate_json(bytes(parts[1]))
    except ValidationError:
        return None


def _parse_version_1(header_json: bytes, data: Buffer, max_payload_bytes: int) -> Message:
    try:
        header = FrameHeader.model_validate_json(header_json)
    except ValidationError as error:
        raise MessageError(
            LossReason.BAD_MESSAGE, f"bad header: {_first(error)}", _claim_in(header_json)
        ) from error
    claim = Claim(header.camera, header.epoch, header.seq, header.category)
    _check_payload_size(data, max_payload_bytes, claim)
    return Message(
        claim=claim,
        payload=Payload(
            encoding=header.encoding,
            data=data,
            dtype=header.dtype,
            shape=None if header.shape is None else tuple(header.shape),
            pixel_format=header.pixel_format,
        ),
        captured_ns=header.ts_ns,
        part_id=header.part_id,
        lot=header.lot,
        trigger_id=header.trigger_id,
    )


def _parse_imagezmq(header_json: bytes, data: Buffer, max_payload_bytes: int) -> Message:
    try:
        header = _ImagezmqHeader.model_validate_json(header_json)
        facts = _imagezmq_facts(header.msg)
    except ValidationError as error:
        raise MessageError(
            LossReason.BAD_MESSAGE, f"bad imagezmq header: {_first(error)}", Claim()
        ) from error
    claim = Claim(facts.camera, facts.epoch, facts.seq, facts.category)
    _check_payload_size(data, max_payload_bytes, claim)
    if header.shape is None:
        payload = Payload("jpeg", data)
    else:
        is_colour = len(header.shape) == 3 and header.shape[2] == 3
        payload = Payload(
            encoding="raw",
            data=data,
            dtype=header.dtype,
            shape=tuple(header.shape),
            pixel_format="BGR8" if is_colour else "Mono8",
        )
    return Message(
        claim=claim,
        payload=payload,
        captured_ns=facts.ts_ns,
        part_id=facts.part_id,
        lot=facts.lot,
        trigger_id=facts.trigger_id,
    )


def _imagezmq_facts(msg: JsonValue) -> _ImagezmqFacts:
    """A text is a camera name, an object has fields; anything else says nothing."""
    match msg:
        case dict():
            return _ImagezmqFacts.model_validate(msg)
        case str() if msg:
            return _ImagezmqFacts(camera=msg)
        case _:
            return _ImagezmqFacts()


def _bounded_header(part: Buffer) -> bytes:
    if len(part) > wire.MAX_HEADER_BYTES:
        raise _too_large("header", len(part), wire.MAX_HEADER_BYTES, Claim())
    return bytes(part)


def _check_payload_size(data: Buffer, max_payload_bytes: int, claim: Claim) -> None:
    if len(data) > max_payload_bytes:
        raise _too_large("payload", len(data), max_payload_bytes, claim)


def _too_large(what: str, size: int, limit: int, claim: Claim) -> MessageError:
    return MessageError(LossReason.TOO_LARGE, f"{what} has {size} bytes, limit {limit}", claim)


def _first(error: ValidationError) -> str:
    """`seq: Input should be a valid integer`; never echoes the sender's value."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


_ADAPTERS: dict[str, TypeAdapter[str] | TypeAdapter[int]] = {
    "camera": TypeAdapter(NameText),
    "epoch": TypeAdapter(Epoch),
    "seq": TypeAdapter(Seq),
    "category": TypeAdapter(NameText),
}


def _claim_in(header_json: bytes) -> Claim:
    """What a refused header still tells, field by field."""
    try:
        fields = from_json(header_json)
    except ValueError:
        return Claim()
    if not isinstance(fields, dict):
        return Claim()
    known: dict[str, str | int] = {}
    for name, adapter in _ADAPTERS.items():
        try:
            known[name] = adapter.validate_python(fields.get(name), strict=True)
        except ValidationError:
            continue
    return Claim(**known)  # type: ignore[arg-type]  # each adapter returns its field's type
