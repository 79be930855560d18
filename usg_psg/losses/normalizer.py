"""Counts that losses are divided by, agreed between GPUs."""

from __future__ import annotations

import torch
from detectron2.utils import comm
from torch import Tensor


def average_count(count: int | Tensor, device: torch.device) -> Tensor:
    """Mean of a count over all processes, at least 1.

    DistributedDataParallel averages gradients over processes, so dividing by the mean count gives the gradients that
    one process would have computed on the whole batch.
    """
    total = torch.as_tensor(count, dtype=torch.float32, device=device)
    if comm.get_world_size() > 1:
        total = total.clone()
        torch.distributed.all_reduce(total)
        total = total / comm.get_world_size()
    return total.clamp(min=1.0)
