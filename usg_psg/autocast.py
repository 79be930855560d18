"""What mixed precision leaves to the code that runs under it."""

from __future__ import annotations

import torch
from torch import Tensor


def for_products(x: Tensor) -> Tensor:
    """x in the type that autocast would give it in each matrix product, if it is on.

    What enters several products is cast once like this, instead of once for each.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
