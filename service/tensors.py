"""Tensors as the Open Inference Protocol sends them raw: little-endian, row by row, nothing in between. An element of a
BYTES tensor comes after its length, which takes 4 bytes."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regraft.errors import MalformedRequest

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Tensor:
    """`values`, all dimensions in one row, are texts where `datatype` is BYTES, and numbers where it is FP32."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[str] | Sequence[float]

    def raw(self) -> bytes:
        if self.datatype == "FP32":
            return np.asarray(self.values, dtype="<f4").tobytes()
        return pack([str(value).encode() for value in self.values])


def pack(elements: Sequence[bytes]) -> bytes:
    """
    >>> pack([b"ab", b""])
    b'\\x02\\x00\\x00\\x00ab\\x00\\x00\\x00\\x00'
    """
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def unpack(raw: bytes, count: int) -> list[bytes]:
    """The `count` elements of a BYTES tensor. Raises MalformedRequest where `raw` does not hold just these."""
    elements, place = [], 0
    for index in range(count):
        start = place + _LENGTH.size
        if start > len(raw):
            raise MalformedRequest(f"input: the raw tensor ends after {index} of {count} elements")
        (length,) = _LENGTH.unpack_from(raw, place)
        place = start + length
        if place > len(raw):
            raise MalformedRequest(
                f"input[{index}]: should have {length} bytes, {len(raw) - start} are left of the raw tensor"
            )
        elements.append(raw[start:place])
    if place < len(raw):
        raise MalformedRequest(f"input: the raw tensor has {len(raw) - place} bytes after its {count} elements")
    return elements
