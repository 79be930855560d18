"""Label Studio's run lengths of brush masks: a stream of bits over the RGBA values of an image, row by row.

32 bits number of values, 5 bits word size - 1, four times 4 bits size - 1 of a run's length; then blocks of 1 bit that
says whether one value repeats, 2 bits that choose a size, the length - 1, and one value or as many as the length.
Written here since label_studio_sdk takes seconds to import and holds numpy back; a test compares the two.
"""

from __future__ import annotations

import numpy as np

_SIZES = (3, 4, 8, 16)
_LONGEST = 2**16
_HEAD = 32 + 5 + 4 * len(_SIZES)


def encode_brush(mask: np.ndarray) -> list[int]:
    """Bytes of a bool mask (H, W)."""
    values = np.repeat(mask.ravel(), 4)
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: values.size])
    lengths = np.diff(starts, append=values.size)
    parts = -(-lengths // _LONGEST)  # a longer run is several
    last = np.cumsum(parts) - 1
    blocks = np.full(parts.sum(), _LONGEST)
    blocks[last] = lengths - (parts - 1) * _LONGEST
    value = np.repeat(values[starts], parts) * 255
    codes = 1 << 26 | 3 << 24 | (blocks - 1) << 8 | value
    head = [values.size >> shift & 1 for shift in range(31, -1, -1)] + [0, 0, 1, 1, 1]
    head += [size - 1 >> shift & 1 for size in _SIZES for shift in range(3, -1, -1)]
    bits = (codes[:, None] >> np.arange(26, -1, -1) & 1).ravel()
    return np.packbits(np.append(head, bits).astype(np.uint8)).tolist()


def decode_brush(rle: object, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of such bytes: pixels that are at least half opaque.

    Raises:
        ValueError: if they are no bytes, end early, or are those of another size.
    """
    if not isinstance(rle, list) or not all(type(byte) is int and 0 <= byte <= 255 for byte in rle):
        raise ValueError(f"expected a list of bytes, got {str(rle)[:60]}")
    bits, at = bin(int.from_bytes(b"\1" + bytes(rle), "big"))[3:], _HEAD
    count = int(bits[:32] or "0", 2)
    if count != 4 * size[0] * size[1]:
        raise ValueError(f"expected a mask of {size[0]} x {size[1]} pixels, got {count / 4:g} pixels")
    word = int(bits[32:37] or "0", 2) + 1
    sizes = [int(bits[i : i + 4] or "0", 2) + 1 for i in range(37, _HEAD, 4)]
    values, done = np.zeros(count, dtype=np.uint8), 0
    while done < count:
        repeats, width = bits[at : at + 1] == "1", sizes[int(bits[at + 1 : at + 3] or "0", 2)]
        end = done + int(bits[at + 3 : at + 3 + width] or "0", 2) + 1
        at += 3 + width
        words = 1 if repeats else end - done
        if end > count or at + words * word > len(bits):
            raise ValueError(f"the run lengths end early, or do not fit {count} values")
        values[done:end] = [int(bits[i : i + word], 2) for i in range(at, at + words * word, word)]
        at, done = at + words * word, end
    return values.reshape(*size, 4)[..., 3] >= 128
