"""Run lengths of Label Studio's brush: a mask as a bit stream of its RGBA image, row by row.

The stream (thi.ng/rle-pack, Apache-2.0, packages/rle-pack/src/index.ts, format only): 32 bits how
many values, 5 bits their width less 1, four times 4 bits the widths of lengths less 1. Then blocks:
1 bit whether one value is repeated, 2 bits which width, the length less 1, and the value or values.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daemon.labels.mask import MAX_MASK_BYTES, Mask, check_size
from zsad.image_files import DataError

CHANNELS = 4
OPAQUE = 128
"""From this alpha on a pixel is painted: the brush has soft edges."""
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)  # as Label Studio writes them
_HEADER_BITS = 32 + 5 + 4 * 4


def from_brush(stream: Sequence[int], width: int, height: int) -> Mask:
    """What is painted.

    Args:
        stream: Bytes, as numbers.

    Raises:
        DataError: Over MAX_MASK_BYTES, damaged, or of an image of another size.
    """
    check_size(width, height)
    if len(stream) > MAX_MASK_BYTES:
        raise DataError(f"brush of {len(stream)} bytes, limit {MAX_MASK_BYTES}: draw a polygon")
    if any(not 0 <= value <= 255 for value in stream):
        raise DataError("brush with a number that is no byte: export it again")
    reader = _BitReader(bytes(stream))
    n_values = CHANNELS * width * height
    found = reader.number(32)
    value_bits = reader.number(5) + 1
    if found != n_values or value_bits != _VALUE_BITS:
        raise DataError(
            f"brush of {found} values of {value_bits} bits, {width} x {height} pixels need "
            f"{n_values} of {_VALUE_BITS}: export it again"
        )
    length_bits = [reader.number(4) + 1 for _ in range(4)]
    values = np.empty(n_values, dtype=np.uint8)
    at = 0
    while at < n_values:
        is_repeated = reader.number(1)
        end = at + 1 + reader.number(length_bits[reader.number(2)])
        if end > n_values:
            raise DataError(f"brush of more than {n_values} values: export it again")
        values[at:end] = reader.values(1 if is_repeated else end - at)
        at = end
    alpha = values.reshape(height, width, CHANNELS)[:, :, CHANNELS - 1]
    return np.asarray(alpha >= OPAQUE, dtype=np.bool_)


def to_brush(mask: Mask) -> list[int]:
    """The inverse of `from_brush`, in white."""
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], changes, [flat.size]])
    parts = [f"{CHANNELS * mask.size:032b}", f"{_VALUE_BITS - 1:05b}"]
    parts += [f"{bits - 1:04b}" for bits in _LENGTH_BITS]
    longest = 1 << _LENGTH_BITS[-1]
    for begin, length in zip(bounds[:-1].tolist(), np.diff(bounds).tolist(), strict=True):
        value = "11111111" if flat[begin] else "00000000"
        rest = CHANNELS * length
        while rest:
            block = min(rest, longest)
            which = next(i for i, bits in enumerate(_LENGTH_BITS) if block <= 1 << bits)
            parts.append(f"1{which:02b}{block - 1:0{_LENGTH_BITS[which]}b}{value}")
            rest -= block
    bits = np.frombuffer("".join(parts).encode(), dtype=np.uint8) - ord("0")
    return [int(byte) for byte in np.packbits(bits)]


class _BitReader:
    """Numbers out of a stream, the highest bit first."""

    def __init__(self, stream: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8))
        self._at = 0

    def number(self, n_bits: int) -> int:
        value = 0
        for bit in self._take(n_bits).tolist():
            value = value << 1 | bit
        return value

    def values(self, count: int) -> NDArray[np.uint8]:
        """Bytes, as they follow each other."""
        return np.packbits(self._take(_VALUE_BITS * count))

    def _take(self, n_bits: int) -> NDArray[np.uint8]:
        found = self._bits[self._at : self._at + n_bits]
        if len(found) < n_bits:
            raise DataError(f"brush ends after {len(self._bits) // 8} bytes: export it again")
        self._at += n_bits
        return found
