"""What the two ends of the reliable transport say besides frames. Opens no socket.

The daemon validates what it hears here; what it says is bounded JSON too.
"""

import json
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from daemon.core import LossReason
from daemon.errors import FrameError
from daemon.ingest import wire
from daemon.ingest.message import Buffer, Epoch, NameText, Seq, WireModel

_SeqOrNothing = Annotated[int, Field(ge=wire.NOTHING, le=wire.MAX_SEQ)]


class Hello(WireModel):
    """A sender begins a session; it keeps every frame above `acked`."""

    v: Literal[1]
    kind: Literal["hello"]
    session: Epoch
    camera: NameText
    epoch: Epoch
    acked: _SeqOrNothing


class FrameEnvelope(WireModel):
    """A frame follows. There is none between the numbers `after` and `seq`."""

    v: Literal[1]
    kind: Literal["frame"]
    session: Epoch
    seq: Seq
    after: _SeqOrNothing


class SessionBeat(WireModel):
    """The sender is there."""

    v: Literal[1]
    kind: Literal["beat"]
    session: Epoch


Envelope = Annotated[Hello | FrameEnvelope | SessionBeat, Field(discriminator="kind")]
_ENVELOPE: TypeAdapter[Hello | FrameEnvelope | SessionBeat] = TypeAdapter(Envelope)


def parse_envelope(part: Buffer) -> Hello | FrameEnvelope | SessionBeat:
    """Validate the first part of a message on the reliable transport.

    Raises:
        FrameError: BAD_MESSAGE or TOO_LARGE; nothing else escapes.
    """
    if len(part) > wire.MAX_ENVELOPE_BYTES:
        raise FrameError(
            LossReason.TOO_LARGE,
            f"envelope has {len(part)} bytes, limit {wire.MAX_ENVELOPE_BYTES}",
        )
    try:
        return _ENVELOPE.validate_json(bytes(part))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise FrameError(LossReason.BAD_MESSAGE, f"bad envelope: {first['msg']}"[:200]) from error


def state(
    session: int, *, stored: int, received: int, window: int, max_payload_bytes: int
) -> bytes:
    """How far the daemon is with one sender."""
    return _say(
        "state",
        session=session,
        stored=stored,
        received=received,
        window=window,
        max_payload_bytes=max_payload_bytes,
    )


def who() -> bytes:
    """The daemon does not know this session: begin another."""
    return _say("who")


def refused(reason: str) -> bytes:
    """The daemon does not want this camera now; the sender may ask again."""
    return _say("refused", reason=reason[:200])


def _say(kind: str, **fields: int | str) -> bytes:
    return json.dumps({"v": wire.VERSION, "kind": kind, **fields}).encode()
