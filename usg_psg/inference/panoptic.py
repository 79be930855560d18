"""Query masks to a panoptic map without overlaps.

Letters: Q queries, H W pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

SUMMED_PIXELS = 2**26  # half a gigabyte as int64


def assign_pixels(mask_prob: Iterable[Tensor], scores: Tensor, object_threshold: float) -> tuple[Tensor, Tensor]:
    """Masks of all queries, and the query that each pixel goes to: the highest score times mask probability.

    Args:
        mask_prob: (q, H, W) in [0, 1], the queries in order, some at a time, so that the probabilities of a large
            image need not all be in memory; they are overwritten.
        scores: (Q,) object scores.
        object_threshold: least score of a query that may own pixels.

    Returns:
        masks: (Q, H, W) bool, probability of one half or more.
        owner: (H, W) int64 query; means nothing if no query reaches the threshold.
    """
    weight = torch.where(scores >= object_threshold, scores, -1.0)[:, None, None]
    masks, best, owner, first = [], None, None, 0
    for prob in mask_prob:
        masks.append(prob >= 0.5)
        value, query = prob.mul_(weight[first : first + len(prob)]).max(dim=0)
        if best is None or owner is None:
            best, owner = value, query
        else:
            owner = torch.where(value > best, query + first, owner)
            best = torch.maximum(best, value)
        first += len(prob)
    if owner is None:
        raise ValueError("mask_prob: expected at least one query, got none")
    return masks[0] if len(masks) == 1 else torch.cat(masks), owner


def _areas(masks: Tensor) -> Tensor:
    """(N,) int64 pixels of bool masks (N, H, W), some at a time: a CPU turns what it sums into int64 first."""
    chunk_size = max(SUMMED_PIXELS // max(masks[0].numel(), 1), 1)
    return torch.cat([chunk.flatten(1).sum(dim=1) for chunk in masks.split(chunk_size)])


def panoptic_inference(
    masks: Tensor,
    owner: Tensor,
    scores: Tensor,
    classes: Tensor,
    is_thing: Tensor,
    object_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict], Tensor]:
    """Panoptic map of the queries' masks where they own the pixels.

    Args:
        masks, owner: (Q, H, W) bool and (H, W) int64 of `assign_pixels`, with the same threshold.
        scores, classes: (Q,) object scores; int64.
        is_thing: (C,) bool.
        object_threshold: least score of a query that may own pixels.
        overlap_threshold: least fraction of its mask that a query must keep.

    Returns:
        map: (H, W) int32 segment ids, 0 where no segment is.
        segments_info: dicts with id (from 1), category_id, isthing, score.
        segment_ids: (Q,) int64 segment of each query, 0 for none.

    Source: MaskFormer (Cheng et al. 2021), section 3.4, and the filtering of Panoptic FPN.
    """
    panoptic = torch.zeros(owner.shape, dtype=torch.int32, device=owner.device)
    segment_ids = torch.zeros(len(scores), dtype=torch.int64, device=owner.device)
    candidates = (scores >= object_threshold).nonzero()[:, 0]
    if len(candidates) == 0:
        return panoptic, [], segment_ids
    inside, weight, category = masks[candidates], scores[candidates], classes[candidates]
    own = inside & (owner == candidates[:, None, None])
    kept_area, own_area = _areas(own), _areas(inside)
    keep = (kept_area > 0) & (kept_area >= overlap_threshold * own_area)

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
    segment_ids[candidates] = torch.tensor(lookup).to(panoptic.device, non_blocking=True)
    panoptic = torch.where(own.any(dim=0), segment_ids[owner].to(torch.int32), panoptic)
    return panoptic, segments_info, segment_ids
