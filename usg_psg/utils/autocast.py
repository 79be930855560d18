"""What mixed precision leaves to the code that runs under it."""

from __future__ import annotations

import torch
from torch import Tensor


def to_autocast_dtype(x: Tensor) -> Tensor:
    """What enters several matrix products, cast once instead of by autocast for each of them.

    Args:
        x: of any shape, float32 or of 16 bits.

    Returns:
        x in the type that autocast gives to products on its device; x itself if it is off.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
