"""Points at which masks are compared, and annotated masks at points.

Points are (x, y) in [0, 1] of the padded batch, (0, 0) the outer corner of the top-left pixel.
Letters: M masks, N points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mask2former_ops import least_certain

from ..structures import SegmentMasks


def sample_labels(masks: Tensor | SegmentMasks, points: Tensor) -> Tensor:
    """Labels of the pixels that the points fall into.

    Args:
        masks: (M, H, W), bool if a tensor.
        points: (M, N, 2).

    Returns:
        (M, N) bool.
    """
    height, width = masks.shape[-2:]
    x = (points[..., 0] * width).long().clamp_(0, width - 1)
    y = (points[..., 1] * height).long().clamp_(0, height - 1)
    pixels = y * width + x
    return masks.at(pixels) if isinstance(masks, SegmentMasks) else masks.flatten(1).gather(1, pixels)


def grid_points(height: int, width: int, *, device: torch.device) -> Tensor:
    """(height * width, 2) centres of all pixels of a map, row by row."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


@torch.no_grad()
def mask_points(logits: Tensor, num_points: int, oversample_ratio: float, importance_ratio: float) -> Tensor:
    """Points where masks are least decided, filled up with uniform ones; or every pixel.

    Args:
        logits: (M, h, w) mask logits.
        num_points: N; 0 for the h * w pixel centres of the logits, the same for every mask.
        oversample_ratio: candidates per point, >= 1.
        importance_ratio: part of the N points that are the least decided candidates, in [0, 1].

    Returns:
        (M, N, 2).

    Source: PointRend (Kirillov et al. 2020), section 3.1, training.
    """
    num_masks = len(logits)
    if num_points == 0:
        return grid_points(*logits.shape[-2:], device=logits.device).expand(num_masks, -1, -1)
    num_candidates = int(num_points * oversample_ratio)
    num_uncertain = int(num_points * importance_ratio)
    if num_uncertain == 0 or num_masks == 0:
        return torch.rand(num_masks, num_points, 2, device=logits.device)
    candidates = torch.rand(num_masks, num_candidates, 2, device=logits.device)
    uncertain = least_certain(logits, candidates, num_uncertain)
    uniform = torch.rand(num_masks, num_points - num_uncertain, 2, device=logits.device)
    return torch.cat([uncertain, uniform], dim=1)
