"""A batch as bytes and back: a length, JSON, then the pictures as they are. Touches no file."""

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from daemon.core import (
    Calibration,
    Event,
    FrameLoss,
    Inspection,
    KeptFrame,
    ShadowScore,
    Thumbnails,
)
from daemon.errors import StorageError
from daemon.storage.batch import Batch, Result, Run

_JSON_LENGTH = struct.Struct(">I")
_RUN = TypeAdapter(Run)
_RESULTS: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(kind)
    for kind in (Inspection, FrameLoss, Calibration, Event, KeptFrame, ShadowScore)
}


def encode(batch: Batch) -> bytes:
    """The batch with everything that its rows are made of."""
    pictures: list[bytes] = []
    results = []
    for item in batch.results:
        lengths, plain = None, item
        if isinstance(item, Inspection) and item.thumbnails is not None:
            parts = (
                item.thumbnails.photo_jpeg,
                item.thumbnails.overlay_jpeg,
                item.thumbnails.map_png,
            )
            pictures += parts
            lengths = [len(part) for part in parts]
            plain = replace(item, thumbnails=None)
        kind = type(item).__name__
        results.append([kind, _RESULTS[kind].dump_python(plain, mode="json"), lengths])
    run = _RUN.dump_python(batch.run, mode="json")
    record = {"run": run, "number": batch.number, "results": results}
    # a broken message may have put lone surrogates into a text; the database would refuse them too
    text = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")
    return b"".join([_JSON_LENGTH.pack(len(text)), text, *pictures])


def decode(record: bytes) -> Batch:
    """What `encode` was given.

    Raises:
        StorageError: Another version of this program wrote it, or nobody did.
    """
    try:
        (length,) = _JSON_LENGTH.unpack_from(record)
        begin = _JSON_LENGTH.size
        values = json.loads(record[begin : begin + length])
        return Batch(
            run=_RUN.validate_python(values["run"]),
            number=int(values["number"]),
            results=tuple(_decoded(values["results"], record, begin + length)),
        )
    except (struct.error, ValueError, LookupError, TypeError, ValidationError) as error:
        raise StorageError(f"a spooled batch cannot be read: {error}") from error


def _decoded(results: Any, record: bytes, offset: int) -> Iterator[Result]:
    for kind, plain, lengths in results:
        item = _RESULTS[kind].validate_python(plain)
        if lengths is not None:
            parts = []
            for length in lengths:
                parts.append(record[offset : offset + length])
                offset += length
            item = replace(item, thumbnails=Thumbnails(*parts))
        yield item
    if offset != len(record):
        raise ValueError(f"{len(record)} bytes, {offset} expected")
