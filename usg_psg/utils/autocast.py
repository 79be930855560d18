"""Helpers for mixed precision."""

from __future__ import annotations

import torch
from torch import Tensor

from .allowed import one_of

DTYPES = one_of("float32", "bfloat16", "float16")  # of the arithmetic on a GPU


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Cast once here; autocast would cast again for every matrix product.

    Args:
        x: of any shape, float32 or of 16 bits.

    Returns:
        x in the type that autocast gives to products on its device; x itself if it is off.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
