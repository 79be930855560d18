"""Query masks to a panoptic map without overlaps.

Letters: Q queries, H W pixels of the original image.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


def is_at_hand(tensor: Tensor) -> bool:
    """Whether the host can look at values without waiting for a device."""
    return tensor.device.type == "cpu"


def assign_pixels(mask_logits: Iterable[Tensor], scores: Tensor, is_candidate: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of all queries, and the query that each pixel goes to: the highest score times mask probability.

    Args:
        mask_logits: (q, H, W), the queries in order, some at a time, so that those of a large image need not all be
            in memory; overwritten.
        scores: (Q,) object scores.
        is_candidate: (Q,) bool, queries that may own pixels.

    Returns:
        masks: (Q, H, W) bool, where logits are not negative.
        owner: (H, W) int64 candidate; Q outside of the mask of the best one. Where no query is a candidate, any.
    """
    count = len(scores)
    if is_at_hand(scores):
        candidates = is_candidate.nonzero()[:, 0]
        numbers: Sequence[int] = candidates.tolist()
    else:  # a GPU would make the host wait for their number, so all take part, and the others lose
        candidates, numbers = torch.arange(count, device=scores.device), range(count)
    weight, best = scores.masked_fill(~is_candidate, -1)[candidates, None, None], None
    masks, owner, first, done = torch.empty(0), torch.empty(0), 0, 0
    for logits in mask_logits:
        if not first:
            masks = torch.empty((count, *logits.shape[1:]), dtype=torch.bool, device=logits.device)
        last = first + len(logits)
        torch.ge(logits, 0, out=masks[first:last])
        end = bisect_left(numbers, last)
        if end > done:
            chosen = logits if end - done == len(logits) else logits[candidates[done:end] - first]
            value, place = chosen.sigmoid_().mul_(weight[done:end]).max(dim=0)
            owner = place if best is None else torch.where(value > best, place.add_(done), owner)
            best = value if best is None else torch.maximum(best, value)
        first, done = last, end
    if not first:
        raise ValueError("mask_logits: expected at least one query, got none")
    if best is None:
        return masks, torch.full(masks.shape[1:], count, device=masks.device)
    owner = candidates[owner]
    return masks, owner.masked_fill_(~masks.gather(0, owner[None])[0], count)


def mask_areas(masks: Tensor) -> Tensor:
    """(N,) int64 pixels of bool masks (N, H, W)."""
    if not is_at_hand(masks):
        return masks.flatten(1).sum(dim=1)
    # `sum` would turn all of them into int64 first.
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int64)


def owned_areas(owner: Tensor, num_queries: int, at_once: int) -> Tensor:
    """(Q,) int64 pixels of each owner of `assign_pixels`; on a GPU counted for `at_once` queries at a time."""
    if is_at_hand(owner):
        return owner.flatten().bincount(minlength=num_queries + 1)[:num_queries]
    # A GPU would make the host wait for `bincount`.
    queries = torch.arange(num_queries, device=owner.device)[:, None, None]
    return torch.cat([mask_areas(owner == some) for some in queries.split(at_once)])


def number_segments(
    kept_area: Tensor,
    area: Tensor,
    is_candidate: Tensor,
    classes: Tensor,
    are_things: Tensor,
    overlap_threshold: float,
) -> Tensor:
    """Which queries become segments of the panoptic map: (Q,) int64 numbers from 1, in order; 0 for none.

    Args:
        kept_area, area: (Q,) int64 pixels that each query owns, and that its mask has.
        is_candidate: (Q,) bool, queries that may own pixels.
        classes, are_things: (Q,) int64 and bool; candidates of one class that is no thing share a segment.
        overlap_threshold: least fraction of its mask that a query must keep.

    Source: MaskFormer (Cheng et al. 2021), section 3.4, and the filtering of Panoptic FPN.
    """
    keep = is_candidate & (kept_area > 0) & (kept_area >= overlap_threshold * area)
    merges = keep & ~are_things
    together = merges[:, None] & merges & (classes[:, None] == classes)
    opens = keep & ~together.tril(-1).any(dim=1)  # the first of those that share a segment
    number = opens.cumsum(0) * opens
    return torch.maximum(number, (together * number).amax(dim=1))


def panoptic_map(owner: Tensor, segment_ids: Tensor) -> Tensor:
    """(H, W) int32 segments of `number_segments`, 0 where none is, of the owners of `assign_pixels`."""
    return torch.cat([segment_ids, segment_ids.new_zeros(1)]).to(torch.int32)[owner]  # the last is no query's


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
