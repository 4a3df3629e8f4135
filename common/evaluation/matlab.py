"""Reads the arrays of MATLAB 5 files (`save` up to `-v7`). Imports without PyTorch.

SciPy's reader crashes the process on some damaged files; here every byte is checked before it is used.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

HEADER = 128  # bytes, of which the last two name the order of bytes
COMPRESSED, MATRIX, UINT32, INT32, INT8 = 15, 14, 6, 5, 1
# types of stored numbers; 16 to 18 are UTF-8, 16, 32
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CODES = {2: "u1", 4: "u2", 16: "u1", 17: "u2", 18: "u4"}
CELL, CHAR, FIRST_NUMERIC, LAST_NUMERIC = 1, 4, 6, 15  # classes of arrays
COMPLEX = 0x0800
DEEPEST = 3  # cells in cells


@dataclass(frozen=True)
class Element:
    """A typed piece of a file."""

    kind: int
    content: memoryview


def read_matlab(content: bytes, most: int) -> dict[str, np.ndarray]:
    """Returns the real arrays, texts and cells of texts in a file, by name; passes over structs and others.

    Cells are arrays of objects. Raises `ValueError` for a damaged file and for one that unpacks to more than
    `most` bytes.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[HEADER - 2 : HEADER])
    if order is None or len(content) <= HEADER:
        raise ValueError("no header of MATLAB 5")
    arrays = {}
    for element in _elements(memoryview(content)[HEADER:], order):
        if element.kind == COMPRESSED:
            (element,) = _elements(memoryview(_unpack(element.content, most)), order)
        if element.kind == MATRIX and len(element.content):
            name, array = _matrix(element.content, order)
            if array is not None:
                arrays[name] = array
    return arrays


def _unpack(content: memoryview, most: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(content, most)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if unpacker.unconsumed_tail:
        raise ValueError(f"{len(content):,} bytes unpack to more than {most:,}")
    return unpacked


def _elements(content: memoryview, order: str) -> Iterator[Element]:
    """Yields the elements of a file or of an array, whose sizes must add up."""
    place = 0
    while place < len(content):
        if place + 8 > len(content):
            raise ValueError("ends in the middle of a tag")
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start = place + 8
        if kind >> 16:  # up to four bytes in the tag itself
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            if size > 4:
                raise ValueError(f"{size} bytes in a tag of 4")
            place += 8
        else:
            place = start + size + (0 if kind == COMPRESSED else -size % 8)
        if start + size > len(content):
            raise ValueError(f"an element of {size:,} bytes, {len(content) - start:,} left")
        yield Element(kind, content[start : start + size])


def _matrix(content: memoryview, order: str, depth: int = 0) -> tuple[str, np.ndarray | None]:
    """Returns name and values of an array; None for a kind that is passed over."""
    parts = _elements(content, order)
    flags, sizes, name = (next(parts, None) for _ in range(3))
    if flags is None or sizes is None or name is None or (flags.kind, sizes.kind) != (UINT32, INT32):
        raise ValueError("an array without flags, sizes and name")
    if len(flags.content) < 4 or len(sizes.content) % 4:
        raise ValueError("flags or sizes of another length")
    (flag,) = struct.unpack_from(f"{order}I", flags.content)
    shape = tuple(np.frombuffer(sizes.content, f"{order}i4").tolist())
    text, kind = bytes(name.content).decode("latin-1"), flag & 0xFF
    if min(shape, default=-1) < 0:
        raise ValueError(f"{text}: an array of shape {shape}")
    if kind == CELL and depth < DEEPEST:
        return text, _cell(parts, shape, order, depth)
    numeric = FIRST_NUMERIC <= kind <= LAST_NUMERIC and not flag & COMPLEX
    if not numeric and kind != CHAR:
        return text, None
    values = next(parts, None) or Element(INT8, memoryview(b""))
    stored = (CODES if kind == CHAR else NUMBERS).get(values.kind)
    if stored is None or len(values.content) % np.dtype(stored).itemsize:
        raise ValueError(f"{text}: values of an unknown kind {values.kind}")
    numbers = np.frombuffer(values.content, order + stored)
    if kind == CHAR:
        return text, _text(numbers, values.kind, shape)
    if len(numbers) != math.prod(shape):
        raise ValueError(f"{text}: {len(numbers):,} values for shape {shape}")
    return text, numbers.reshape(shape, order="F").astype(numbers.dtype.newbyteorder("="))


def _cell(parts: Iterator[Element], shape: tuple[int, ...], order: str, depth: int) -> np.ndarray:
    values = [_matrix(part.content, order, depth + 1)[1] for part in parts if part.kind == MATRIX]
    if len(values) != math.prod(shape):
        raise ValueError(f"{len(values):,} cells for shape {shape}")
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape, order="F")


def _text(codes: np.ndarray, kind: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns one text of an array of characters, row after row."""
    try:
        if kind == 16:
            return np.array(codes.tobytes().decode("utf-8"))
        if kind in (4, 17) and (len(shape) != 2 or shape[0] <= 1):
            return np.array(codes.astype("<u2").tobytes().decode("utf-16-le"))
        rows = codes.reshape(shape, order="F") if len(codes) == math.prod(shape) else codes
        return np.array("".join(map(chr, rows.ravel().tolist())))
    except (UnicodeDecodeError, ValueError, OverflowError):
        raise ValueError("characters that are none") from None
