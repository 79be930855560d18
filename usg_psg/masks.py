"""COCO's run lengths, checked before they are decoded: pycocotools takes what lies in memory for missing runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

MAX_PIXELS = 2**32 - 1  # what pycocotools counts with


def compressed_masks(masks: Sequence[dict], name: str = "masks") -> list[dict]:
    """COCO run lengths with compressed counts, each of which fills its mask: pycocotools does not look.

    Args:
        masks: dicts of "size" [H, W] and "counts", compressed or a list of numbers.
        name: what an error calls them.

    Raises:
        ValueError: for a size or counts of another form, a negative run, or runs that do not add up to H * W.
    """
    return [_compressed(rle, f"{name}[{n}]") for n, rle in enumerate(masks)]


def _compressed(rle: dict, name: str) -> dict:
    if not (isinstance(rle, dict) and {"size", "counts"} <= rle.keys()):
        raise ValueError(f"{name}: expected run lengths with size and counts, got {str(rle)[:80]}")
    size, counts = rle["size"], rle["counts"]
    if not (isinstance(size, list | tuple) and len(size) == 2 and _whole_numbers(size) and min(size) >= 0):
        raise ValueError(f"{name}: expected a size of height and width, got {size!r}")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{name}: expected at most {MAX_PIXELS} pixels, got {size[0]} x {size[1]}")
    if isinstance(counts, str | bytes):
        runs = _run_lengths(counts.encode() if isinstance(counts, str) else counts, name)
    elif isinstance(counts, list) and _whole_numbers(counts):
        runs = np.array(counts, dtype=object)  # no number is too large to be compared
    else:
        raise ValueError(f"{name}: expected counts as text or a list of whole numbers, got {str(counts)[:80]}")
    if runs.min(initial=0) < 0:
        raise ValueError(f"{name}: expected no negative run length, got {runs.min()}")
    if runs.sum() != size[0] * size[1]:
        raise ValueError(f"{name}: expected run lengths that add up to {size[0]} x {size[1]} pixels, got {runs.sum()}")
    if isinstance(counts, list):
        return {"size": size, "counts": coco_mask.frPyObjects(rle, *size)["counts"].decode("ascii")}
    return rle


def _whole_numbers(values: Sequence) -> bool:
    return all(isinstance(x, int | np.integer) for x in values)


def _run_lengths(counts: bytes, name: str) -> np.ndarray:
    """Numbers of COCO's compressed text: digits of 32, the lowest first, from the third on as steps from two before."""
    if not counts:
        return np.zeros(0, dtype=np.int64)
    code = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(code & 32 == 0)  # the other digits have one that follows
    starts = np.concatenate([[0], ends + 1])[:-1]
    place = np.arange(ends.max(initial=-1) + 1) - np.repeat(starts, ends - starts + 1)
    if code.min() < 0 or code.max() > 63 or len(place) < len(code) or place.max() > 6:
        raise ValueError(f"{name}: counts are no compressed run lengths")
    numbers = np.add.reduceat((code & 31) << 5 * place, starts)
    numbers -= (code[ends] & 16) << 5 * place[ends] + 1  # the sign
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers
