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
    prob, weight, category = mask_prob[candidates], scores[candidates], classes[candidates]
    owner = (prob * weight[:, None, None]).argmax(dim=0)
    inside = prob >= 0.5
    own = inside & (owner == torch.arange(len(candidates), device=owner.device)[:, None, None])
    kept_area, own_area = own.flatten(1).sum(dim=1), inside.flatten(1).sum(dim=1)
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
    table = torch.tensor(lookup, dtype=torch.int32).to(panoptic.device, non_blocking=True)
    panoptic = torch.where(own.any(dim=0), table[owner], panoptic)
    segment_ids[candidates] = table.long()
    return panoptic, segments_info, segment_ids
