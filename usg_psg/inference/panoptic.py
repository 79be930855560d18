"""Query masks to a panoptic map without overlaps.

Letters: Q queries, H W pixels of the original image.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former_ops import query_masks, resize_masks

CPU_MASK_PIXELS = 2**22  # pixels of query masks in float32 at once: faster where they stay in the cache


def is_at_hand(tensor: Tensor) -> bool:
    """Whether the host can look at values without waiting for a device."""
    return tensor.device.type == "cpu"


def assign_pixels(
    mask_logits: Tensor,
    scores: Tensor,
    is_candidate: Tensor,
    sizes: tuple[Sequence[int], Sequence[int], Sequence[int]],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Masks of all queries, and the query that each pixel goes to: the highest score times mask probability.

    Args:
        mask_logits: (Q, h, w), which cover the padded batch.
        scores: (Q,) object scores.
        is_candidate: (Q,) bool, queries that may own pixels.
        sizes: (H, W) of the batch, of the image in it, and of the original.

    Returns:
        masks: (Q, H, W) bool, where logits are not negative.
        owner: (H, W) int64 candidate; Q outside of the mask of the best one.
        area, owned_area: (Q,) int64 pixels of each mask, and those that the query owns.
    """
    count, (height, width) = len(scores), sizes[2]
    if not count:
        raise ValueError("mask_logits: expected at least one query, got none")
    if not is_at_hand(scores):
        masks, owner, (area, owned_area) = query_masks(mask_logits, scores.masked_fill(~is_candidate, 0), *sizes)
        return masks, owner, area, owned_area
    candidates = is_candidate.nonzero()[:, 0]
    numbers, weight, best = candidates.tolist(), scores[candidates, None, None], None
    masks, owner, first, done = torch.empty((count, height, width), dtype=torch.bool), torch.empty(0), 0, 0
    for some in mask_logits.split(max(CPU_MASK_PIXELS // max(height * width, 1), 1)):
        logits = resize_masks(some, *sizes)
        last = first + len(logits)
        torch.ge(logits, 0, out=masks[first:last])
        end = bisect_left(numbers, last)
        if end > done:
            chosen = logits if end - done == len(logits) else logits[candidates[done:end] - first]
            value, place = chosen.sigmoid_().mul_(weight[done:end]).max(dim=0)
            owner = place if best is None else torch.where(value > best, place.add_(done), owner)
            best = value if best is None else torch.maximum(best, value)
        first, done = last, end
    if best is None:
        owner = torch.full((height, width), count)
    else:
        owner = candidates[owner]
        owner.masked_fill_(~masks.gather(0, owner[None])[0], count)
    # `sum` would turn the masks into int64 first.
    area = torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int64)
    return masks, owner, area, owner.flatten().bincount(minlength=count + 1)[:count]


def number_segments(
    kept_area: Tensor,
    area: Tensor,
    is_candidate: Tensor,
    classes: Tensor,
    are_things: Tensor,
    overlap_threshold: float,
) -> Tensor:
    """Which queries become segments of the panoptic map: (..., Q) int64 numbers from 1, in order; 0 for none.

    Args:
        kept_area, area: (..., Q) int64 pixels that each query owns, and that its mask has.
        is_candidate: (..., Q) bool, queries that may own pixels.
        classes, are_things: (..., Q) int64 and bool; candidates of one class that is no thing share a segment.
        overlap_threshold: least fraction of its mask that a query must keep.

    Source: MaskFormer (Cheng et al. 2021), section 3.4, and the filtering of Panoptic FPN.
    """
    keep = is_candidate & (kept_area > 0) & (kept_area >= overlap_threshold * area)
    merges = keep & ~are_things
    together = merges[..., None] & merges[..., None, :] & (classes[..., None] == classes[..., None, :])
    opens = keep & ~together.tril(-1).any(dim=-1)  # the first of those that share a segment
    number = opens.cumsum(-1) * opens
    return torch.maximum(number, (together * number[..., None, :]).amax(dim=-1))


def panoptic_map(owner: Tensor, segment_ids: Tensor) -> Tensor:
    """(H, W) int32 segments of `number_segments`, 0 where none is, of the owners of `assign_pixels`."""
    return torch.cat([segment_ids, segment_ids.new_zeros(1)]).to(torch.int32)[owner]  # the last is no query's


def map_runs(panoptic: Tensor, most: int) -> Tensor:
    """Runs of a map (H, W) int32 down its columns, as COCO counts, in a size that depends on no value.

    Returns:
        (2, most) int32 first pixels and values of the first runs; first pixels are H * W where there is no run left.
    """
    pixels = panoptic.t().flatten()
    number = F.pad(pixels[1:] != pixels[:-1], (1, 0), value=True).cumsum(0, dtype=torch.int32)  # of the pixel's run
    wanted = torch.arange(1, most + 1, dtype=torch.int32, device=pixels.device)
    starts = torch.searchsorted(number, wanted, out_int32=True)
    return torch.stack([starts, pixels[starts.clamp(max=len(pixels) - 1)]])


def segments_info(columns: np.ndarray) -> list[dict]:
    """Dicts with id, category_id, isthing and the best score of each segment, from `ImageObjects.columns`."""
    found: list[dict] = []
    for _, category_id, isthing, score, segment_id in columns[:, columns[4] > 0].T.tolist():
        if segment_id > len(found):
            info = {"id": int(segment_id), "category_id": int(category_id), "isthing": bool(isthing), "score": score}
            found.append(info)
        else:
            info = found[int(segment_id) - 1]
            info["score"] = max(info["score"], score)
    return found
