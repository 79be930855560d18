"""Back to the size of the original image."""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = ["sem_seg_postprocess"]


def sem_seg_postprocess(
    result: torch.Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> torch.Tensor:
    """Cut the padding off per-class maps and resize them bilinearly.

    Args:
        result: (C, H, W) at the size of the padded model input.
        img_size: (height, width) of the model input without padding.

    Returns:
        (C, output_height, output_width).
    """
    height, width = img_size
    inside = result[None, :, :height, :width]
    return F.interpolate(inside, size=(output_height, output_width), mode="bilinear", align_corners=False)[0]
