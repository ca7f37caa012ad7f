"""How decoded images are stored: a record of bytes each, and an entry of fixed size that says what the record holds."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nat2.data.depth import QUANTILES, DeepImage, Pixels, Sketch, channels_of
from nat2.data.facts import DIGEST, facts_of

ENTRY = np.dtype(
    [
        ("identity", "<u8"), ("offset", "<u8"), ("checksum", "<u4"), ("kind", "<u4"), ("parity", "<u4"),
        ("digest", "u1", DIGEST), ("sums", "<u8", 3), ("squares", "<u8", 3),
    ]
)  # fmt: skip
"""Version of an image, place and CRC-32 of its record, and the facts about images of 8 bits."""
_PARITY = np.uint32(0x9E3779B9)  # of the 32-bit words of an entry; zeros, as a crash leaves them, have another
_CHANNELS, _DEEP, _CLEAR, _BLANK = 3, 4, 8, 16
_SKETCH = 16 + 4 * QUANTILES  # bytes: two doubles, and the quantiles


def kind_of(image: Pixels | DeepImage) -> int:
    """How an image is stored: its channels (1 or 3), and flags for what images deeper than 8 bits bring."""
    if not isinstance(image, DeepImage):
        return channels_of(image)
    return channels_of(image) | _DEEP | (_CLEAR if image.clear is not None else 0) | (0 if image.sketch else _BLANK)


def is_deep(kinds: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which kinds are those of images deeper than 8 bits."""
    return (kinds & np.uint32(_DEEP)) > 0


def channels_in(kinds: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Channels of images by their kinds."""
    return kinds & np.uint32(_CHANNELS)


def size_of(kind: int, side: int) -> int:
    """Bytes of a record."""
    values = (kind & _CHANNELS) * side**2
    if not kind & _DEEP:
        return values
    return (0 if kind & _BLANK else _SKETCH) + 4 * (values + (side**2 if kind & _CLEAR else 0))


def ends_of(entries: NDArray[Any], side: int) -> NDArray[np.uint64]:
    """Where the records of entries end."""
    sizes = np.zeros(len(entries), np.uint64)
    for kind in np.unique(entries["kind"]):
        sizes[entries["kind"] == kind] = size_of(int(kind), side)
    ends: NDArray[np.uint64] = entries["offset"] + sizes
    return ends


def pack(image: Pixels | DeepImage, identity: int) -> tuple[NDArray[Any], bytes]:
    """An image of shape (side, side, channels) as an entry, which still lacks its place, and a record."""
    entry = np.zeros(1, ENTRY)
    if isinstance(image, DeepImage):
        sketch = image.sketch
        head = b"" if sketch is None else np.array([sketch.low, sketch.high]).tobytes() + sketch.quantiles.tobytes()
        clear = b"" if image.clear is None else image.clear.tobytes()
        content = head + np.ascontiguousarray(image.values.transpose(2, 0, 1)).tobytes() + clear
    else:
        planes = np.ascontiguousarray(image.transpose(2, 0, 1))
        facts, content = facts_of(planes[None]), planes.tobytes()
        entry["digest"] = facts.digests
        entry["sums"][:, : len(planes)], entry["squares"][:, : len(planes)] = facts.sums, facts.squares
    entry["identity"], entry["kind"], entry["checksum"] = identity, kind_of(image), zlib.crc32(content)
    return entry, content


def unpack(content: bytes, kind: int, side: int) -> Pixels | DeepImage:
    """The image of a record, shape (side, side, channels)."""
    channels = kind & _CHANNELS
    if not kind & _DEEP:
        return np.frombuffer(content, np.uint8).reshape(channels, side, side).transpose(1, 2, 0)
    values = np.frombuffer(content, np.float32, offset=0 if kind & _BLANK else _SKETCH)
    planes = values[: channels * side**2].reshape(channels, side, side).transpose(1, 2, 0)
    clear = values[channels * side**2 :].reshape(side, side, 1) if kind & _CLEAR else None
    return DeepImage(planes, sketch_in(content, kind), clear)


def sketch_in(content: bytes, kind: int) -> Sketch | None:
    """The sketch in the record of an image that is deeper than 8 bits; None if all of it is transparent."""
    if kind & _BLANK:
        return None
    low, high = np.frombuffer(content[:16], np.float64).tolist()
    return Sketch(low, high, np.frombuffer(content[16:_SKETCH], np.float32))


def seal(entries: NDArray[Any]) -> NDArray[Any]:
    """Entries that `sound` recognises."""
    entries["parity"] = 0
    entries["parity"] = _parity(entries) ^ _PARITY
    return entries


def sound(entries: NDArray[Any]) -> NDArray[np.bool_]:
    """Which entries are as they were written."""
    found: NDArray[np.bool_] = _parity(entries) == _PARITY
    return found


def _parity(entries: NDArray[Any]) -> NDArray[np.uint32]:
    words = np.frombuffer(entries.tobytes(), "<u4").reshape(len(entries), ENTRY.itemsize // 4)
    parity: NDArray[np.uint32] = np.bitwise_xor.reduce(words, axis=1)
    return parity
