"""Query masks to a panoptic map without overlaps.

Letters: Q queries, H W pixels of the original image.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def assign_pixels(mask_logits: Iterable[Tensor], scores: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of all queries, and the query that each pixel goes to: the highest score times mask probability.

    Args:
        mask_logits: (q, H, W), the queries in order, some at a time, so that those of a large image need not all be
            in memory.
        scores: (Q,) object scores.
        candidates: (N,) int64 queries that may own pixels, in order.

    Returns:
        masks: (Q, H, W) bool, where logits are not negative.
        owner: (H, W) int64 query; Q where no candidate is, and outside of the mask of the best one.
    """
    numbers, best = candidates.tolist(), None
    masks, owner, first, done = torch.empty(0), torch.empty(0), 0, 0
    for logits in mask_logits:
        if not first:
            masks = torch.empty((len(scores), *logits.shape[1:]), dtype=torch.bool, device=logits.device)
        last = first + len(logits)
        torch.ge(logits, 0, out=masks[first:last])
        chosen = candidates[done : bisect_left(numbers, last)]
        if len(chosen):
            value, place = logits[chosen - first].sigmoid_().mul_(scores[chosen, None, None]).max(dim=0)
            owner = place if best is None else torch.where(value > best, place.add_(done), owner)
            best = value if best is None else torch.maximum(best, value)
        first, done = last, done + len(chosen)
    if not first:
        raise ValueError("mask_logits: expected at least one query, got none")
    if best is None:
        return masks, torch.full(masks.shape[1:], len(scores), device=masks.device)
    owner = candidates[owner]
    return masks, torch.where(masks.gather(0, owner[None])[0], owner, len(scores))


def mask_areas(masks: Tensor) -> Tensor:
    """(N,) int64 pixels of bool masks (N, H, W)."""
    if masks.device.type != "cpu":
        return masks.flatten(1).sum(dim=1)
    # `sum` would turn all of them into int64 first.
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int64)


def panoptic_inference(
    owner: Tensor,
    area: Tensor,
    candidates: Tensor,
    scores: Tensor,
    classes: Tensor,
    is_thing: Tensor,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict], Tensor]:
    """Panoptic map of the queries' masks where they own the pixels.

    Args:
        owner: (H, W) int64 of `assign_pixels`.
        area: (Q,) int64 pixels of each mask.
        candidates: (N,) int64 queries that may own pixels, in order.
        scores, classes: (Q,) object scores; int64.
        is_thing: (C,) bool.
        overlap_threshold: least fraction of its mask that a query must keep.

    Returns:
        map: (H, W) int32 segment ids, 0 where no segment is.
        segments_info: dicts with id (from 1), category_id, isthing, score.
        segment_ids: (Q,) int64 segment of each query, 0 for none.

    Source: MaskFormer (Cheng et al. 2021), section 3.4, and the filtering of Panoptic FPN.
    """
    weight, category = scores[candidates], classes[candidates]
    if owner.device.type == "cpu":
        kept_area = owner.flatten().bincount(minlength=len(scores))[candidates]
    else:  # a GPU would make the host wait for `bincount`
        kept_area = mask_areas(owner == candidates[:, None, None])
    keep = (kept_area > 0) & (kept_area >= overlap_threshold * area[candidates])

    segments_info: list[dict] = []
    stuff_segment: dict[int, int] = {}
    lookup = [0] * len(candidates)
    # One copy to the host: double precision holds them all as they are.
    columns = torch.stack([x.double() for x in (keep, category, is_thing[category], weight)])
    rows = zip(*columns.tolist(), strict=True)
    for position, (kept, category_id, isthing, score) in enumerate(rows):
        if not kept:
            continue
        if category_id in stuff_segment:
            info = segments_info[stuff_segment[category_id] - 1]
            info["score"] = max(info["score"], score)
        else:
            new_id = len(segments_info) + 1
            info = {"id": new_id, "category_id": int(category_id), "isthing": bool(isthing), "score": score}
            segments_info.append(info)
            if not isthing:
                stuff_segment[category_id] = new_id
        lookup[position] = info["id"]
    segment_ids = torch.zeros(len(scores) + 1, dtype=torch.int64, device=owner.device)  # the last is no query's
    segment_ids[candidates] = torch.tensor(lookup, dtype=torch.int64).to(owner.device, non_blocking=True)
    return segment_ids.to(torch.int32)[owner], segments_info, segment_ids[:-1]
