"""Counts that losses are divided by, agreed between processes and accumulated batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from detectron2.utils import comm
from torch import Tensor


def count_annotations(batched_inputs: Iterable[dict]) -> tuple[int, int]:
    """Objects, and ordered pairs of objects with at least one relation, of the mapper's output."""
    objects = pairs = 0
    for inputs in batched_inputs:
        objects += len(inputs["instances"])
        pairs += len(torch.unique(inputs["relations"].reshape(-1, 3)[:, :2], dim=0))
    return objects, pairs


def loss_normalizers(batches: Sequence[list[dict]], device: torch.device) -> Tensor:
    """What object losses and relation losses of one optimizer step are divided by.

    DistributedDataParallel averages gradients over processes and accumulation adds those of the batches of a step; so
    dividing every loss by the mean over processes of the step's count gives the gradients that one process would have
    computed on everything at once.

    Args:
        batches: the inputs of the model of each forward pass of the step, in this process.
        device: of the result; with several processes, one that their process group can reduce on.

    Returns:
        (2,) float32, number of objects and number of related pairs, each at least 1.
    """
    counts = [count_annotations(batch) for batch in batches]
    total = torch.tensor(counts, dtype=torch.float32).sum(dim=0).to(device, non_blocking=True)
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(total)
        total = total / comm.get_world_size()
    return total.clamp(min=1.0)
