"""Masks as arrays, as COCO run lengths ("rle": size [H, W] and counts, down the columns) and as label maps.

Letters: N masks, H W pixels. A label map (H, W) has n + 1 inside mask n and 0 elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pycocotools import mask as coco_mask

MAX_PIXELS = 2**32 - 1  # what pycocotools counts with

Masks = np.ndarray | Sequence[dict]
Objects = tuple[Masks, Sequence[str] | Sequence[int]]  # with a label for each


def encode_masks(masks: np.ndarray) -> list[dict]:
    """Run lengths of bool masks (N, H, W), ready for JSON."""
    rles = coco_mask.encode(np.asfortranarray(np.moveaxis(masks, 0, -1).astype(np.uint8)))
    return [_for_json(rle) for rle in rles]


def encode_mask(mask: np.ndarray) -> dict:
    """Run lengths of a bool mask (H, W)."""
    return encode_masks(mask[None])[0]


def encode_segments(panoptic: np.ndarray, ids: Iterable[int]) -> list[dict]:
    """Run lengths of the segments with these ids in a map (H, W), in one pass: its runs are the segments' runs."""
    columns = panoptic.ravel(order="F")  # as COCO counts; no copy if the map lies so already
    starts, _ = runs(columns)
    return encode_runs(starts, columns[starts], panoptic.shape, ids)


def encode_runs(starts: np.ndarray, values: np.ndarray, size: tuple[int, ...], ids: Iterable[int]) -> list[dict]:
    """`encode_segments` of a map of size (H, W) by the n runs down its columns.

    Args:
        starts, values: (n,) first pixel of each run, ascending from 0; its id, which its neighbours do not have.
    """
    pixels, order = size[0] * size[1], np.argsort(values, kind="stable")  # segment after segment
    if not pixels:
        return encode_masks(np.zeros((len(list(ids)), *size), dtype=bool))
    ends = np.append(starts[1:], pixels)[order]
    starts, values = starts[order], values[order]
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)  # of each segment
    gaps, first = starts.copy(), last[:-1] + 1
    gaps[1:] -= ends[:-1]
    gaps[first] = starts[first]
    counts = np.empty(2 * len(values) + len(last), dtype=np.uint32)
    behind = 2 * last + 2 + np.arange(len(last))  # places of the pixels after a segment's last run
    is_run = np.ones(len(counts), dtype=bool)
    is_run[behind] = False
    counts[is_run] = np.column_stack((gaps, ends - starts)).ravel()
    counts[behind] = pixels - ends[last]
    counts_of = dict(zip(values[last].tolist(), np.split(counts, behind[:-1] + 1), strict=True))
    nowhere, rles = np.array([pixels], dtype=np.uint32), []
    for i in ids:
        own = counts_of.get(i, nowhere)
        rles.append({"size": size, "counts": own if own[-1] else own[:-1]})
    return [_for_json(rle) for rle in coco_mask.frPyObjects(rles, *size)] if rles else []


def decode_masks(masks: Masks, name: str = "masks", size: tuple[int, ...] | None = None) -> np.ndarray:
    """Bool masks (N, H, W) of either form.

    Args:
        masks: (N, H, W) bool or 0/1 array, or N run lengths.
        name: what an error calls them.
        size: (H, W) that they must have; None for any that all of them have.

    Raises:
        ValueError: for another shape, values other than 0 and 1, sizes that differ, or as `check_rles`.
    """
    if isinstance(masks, np.ndarray):
        if masks.ndim != 3:
            raise ValueError(f"{name}: expected shape (N, H, W), got {masks.shape}")
        if masks.dtype != bool and masks.size and not ((masks == 0) | (masks == 1)).all():
            raise ValueError(f"{name}: expected bool or 0/1 values, got {masks.dtype} with other values")
        sizes = {masks.shape[1:]}
    else:
        masks = check_rles(masks, name)
        sizes = {tuple(int(x) for x in rle["size"]) for rle in masks}
    if not len(masks) and (size or not sizes):
        return np.zeros((0, *(size or (0, 0))), dtype=bool)
    # Run lengths may say up to 2^32 pixels, so before they are decoded.
    wrong = sizes - {size} if size else sizes
    if len(wrong) > (size is None):
        wanted = f"height and width {size}" if size else "masks of one size"
        raise ValueError(f"{name}: expected {wanted}, got {', '.join(map(str, sorted(wrong)[:4]))}")
    if isinstance(masks, np.ndarray):
        return masks.astype(bool, copy=False)
    return np.ascontiguousarray(np.moveaxis(coco_mask.decode(masks), -1, 0)).view(bool)


def label_map_from_masks(masks: Masks, name: str = "masks", size: tuple[int, ...] | None = None) -> np.ndarray:
    """Label map (H, W) int32 of masks without overlaps; arguments as of `decode_masks`.

    Raises:
        ValueError: if two masks share a pixel, or as `decode_masks`.
    """
    masks = decode_masks(masks, name, size)
    if (masks.sum(axis=0) > 1).any():
        raise ValueError(f"{name}: expected masks without overlaps, got a pixel inside more than one")
    label_map = np.zeros(masks.shape[1:], dtype=np.int32)
    for position, mask in enumerate(masks):
        label_map[mask] = position + 1
    return label_map


def stack_masks(masks: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Label map (H, W) int64 of bool masks (H, W) that may overlap: the smaller one is on top."""
    label_map = np.zeros(size, dtype=np.int64)
    for i in sorted(range(len(masks)), key=lambda i: -masks[i].sum()):
        label_map[masks[i]] = i + 1
    return label_map


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask (H, W) that is not empty, ends exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def runs(*arrays: np.ndarray, at_most: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of the runs in which arrays (n,) all stay as they are; at_most cuts them at its multiples.

    A label map has thousands of runs, but hundreds of thousands of pixels.
    """
    is_start = np.zeros(arrays[0].size, dtype=bool)
    is_start[:1] = True
    for values in arrays:
        is_start[1:] |= values[1:] != values[:-1]
    if at_most:
        is_start[::at_most] = True
    starts = np.flatnonzero(is_start)
    return starts, np.diff(starts, append=is_start.size)


def present_in(label_map: np.ndarray, count: int) -> np.ndarray:
    """(count,) bool: the label map (H, W) has a pixel of mask n, whose number is n + 1."""
    flat = label_map.ravel()
    return np.bincount(flat[runs(flat)[0]], minlength=count + 1)[1:] > 0


def resize_nearest(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale (H, W) to a size: each pixel takes the one that its middle falls into; in integers, so exactly."""
    if pixels.shape == size:
        return pixels
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, pixels.shape, strict=True))
    return pixels[rows].take(columns, axis=1)


def resize_rle(rle: dict, size: tuple[int, int]) -> dict:
    """Run lengths with compressed counts of a mask scaled to (H, W)."""
    if tuple(rle["size"]) == size:
        return check_rles([rle])[0]
    return encode_mask(resize_nearest(decode_masks([rle])[0], size))


def area(rle: dict) -> int:
    """Pixels inside a mask with compressed counts."""
    return int(coco_mask.area(rle))


def check_rles(rles: Sequence[dict], name: str = "masks") -> list[dict]:
    """Refuse run lengths that do not fill their mask, and compress those that are lists of numbers.

    pycocotools does not look: it takes what lies in memory for missing runs. `name` is what an error calls them.

    Raises:
        ValueError: for a size or counts of another form, a negative run, or runs that do not add up to H * W.
    """
    return [_check_rle(rle, f"{name}[{n}]") for n, rle in enumerate(rles)]


def _check_rle(rle: dict, name: str) -> dict:
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
        return _compress(size, counts)
    return {**rle, "counts": counts.decode("ascii")} if isinstance(counts, bytes) else rle


def _whole_numbers(values: Sequence) -> bool:
    return all(isinstance(x, int | np.integer) for x in values)


def _compress(size: Sequence[int], counts: list[int]) -> dict:
    return _for_json(coco_mask.frPyObjects({"size": size, "counts": counts}, *size))


def _for_json(rle: dict) -> dict:
    return {"size": [int(x) for x in rle["size"]], "counts": rle["counts"].decode("ascii")}


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
