"""Query masks to a panoptic map without overlaps.

Letters: Q queries, H W pixels of the original image.
"""

from __future__ import annotations

import torch
from torch import Tensor


def merge_panoptic(
    mask_prob: Tensor,
    scores: Tensor,
    classes: Tensor,
    is_thing: Tensor,
    object_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict], Tensor]:
    """Give each pixel to the confident query with the highest score times mask probability.

    A query whose mask loses too many pixels to others is left out; segments of one stuff class are one segment.

    Args:
        mask_prob: (Q, H, W) in [0, 1].
        scores: (Q,) object scores.
        classes: (Q,) int64.
        is_thing: (C,) bool.
        object_threshold: least score of a query that may own pixels.
        overlap_threshold: least part of its mask (probability of one half or more) that a query must keep.

    Returns:
        map: (H, W) int32 segment ids, 0 where no segment is.
        segments_info: dicts with id (from 1), category_id, isthing, score.
        segment_ids: (Q,) int64 segment of each query, 0 for none.

    Source: MaskFormer (Cheng et al. 2021), section 3.4, and the filtering of Panoptic FPN.
    """
    panoptic = torch.zeros(mask_prob.shape[-2:], dtype=torch.int32, device=mask_prob.device)
    segment_ids = torch.zeros(len(scores), dtype=torch.int64, device=mask_prob.device)
    candidates = (scores >= object_threshold).nonzero()[:, 0]
    if len(candidates) == 0:
        return panoptic, [], segment_ids
    prob = mask_prob[candidates]
    owner = (prob * scores[candidates][:, None, None]).argmax(dim=0)
    inside = prob.gather(0, owner[None])[0] >= 0.5
    kept_area = torch.bincount(owner[inside], minlength=len(candidates))
    own_area = (prob >= 0.5).flatten(1).sum(dim=1)
    keep = (kept_area > 0) & (kept_area >= overlap_threshold * own_area)

    segments_info: list[dict] = []
    stuff_segment: dict[int, int] = {}
    lookup = [0] * len(candidates)
    rows = zip(keep.tolist(), classes[candidates].tolist(), scores[candidates].tolist(), strict=True)
    things = is_thing.tolist()
    for position, (kept, category, score) in enumerate(rows):
        if not kept:
            continue
        if category in stuff_segment:
            info = segments_info[stuff_segment[category] - 1]
            info["score"] = max(info["score"], score)
        else:
            info = {
                "id": len(segments_info) + 1,
                "category_id": category,
                "isthing": bool(things[category]),
                "score": score,
            }
            segments_info.append(info)
            if not info["isthing"]:
                stuff_segment[category] = info["id"]
        lookup[position] = info["id"]
    table = torch.tensor(lookup, dtype=torch.int32, device=panoptic.device)
    panoptic = torch.where(inside, table[owner], panoptic)
    segment_ids[candidates] = table.long()
    return panoptic, segments_info, segment_ids
