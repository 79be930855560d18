"""Counts that losses are divided by, agreed between processes and accumulated batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from detectron2.utils import comm
from torch import Tensor

from ..utils.allowed import one_of

REDUCTIONS = one_of("per_target", "mean")


class LossCounts(NamedTuple):
    """Counts of one optimizer step, float32 scalars on the device, each the mean over processes.

    Attributes:
        objects: annotated objects.
        pairs: ordered pairs of objects with at least one relation.
        images: images.
        annotated_images: images with at least one object.
    """

    objects: Tensor
    pairs: Tensor
    images: Tensor
    annotated_images: Tensor


def count_annotations(batched_inputs: Iterable[dict]) -> list[int]:
    """The four counts of `LossCounts` in the mapper's output."""
    objects = pairs = images = annotated = 0
    for inputs in batched_inputs:
        number = len(inputs["instances"])
        objects += number
        pairs += len(torch.unique(inputs["relations"].reshape(-1, 3)[:, :2], dim=0))
        images += 1
        annotated += number > 0
    return [objects, pairs, images, annotated]


class Counting:
    """The counts of a step on their way between processes, while the device has other work.

    Args:
        counts: (4,) float32 of this process, on the device.
    """

    def __init__(self, counts: Tensor):
        self._counts = counts
        self._processes = comm.get_world_size()
        self._work = torch.distributed.all_reduce(counts, async_op=True) if self._processes > 1 else None

    def result(self) -> LossCounts:
        """Their means over processes; on a GPU, the device waits for them and not the host."""
        if self._work is None:
            return LossCounts(*self._counts.unbind())
        self._work.wait()
        return LossCounts(*(self._counts / self._processes).unbind())


def loss_normalizers(batches: Sequence[list[dict]], device: torch.device) -> Counting:
    """What the losses of one optimizer step are divided by.

    Gradients are averaged over processes, and accumulation adds those of the batches of a step; so dividing every loss
    by the mean over processes of the step's count gives the gradients that one process would have computed on
    everything at once. A count below 1 is therefore right where a step has fewer pairs than processes.

    Args:
        batches: the inputs of the model of each forward pass of the step, in this process.
        device: of the result; with several processes, one that their process group can reduce on.
    """
    counts = [count_annotations(batch) for batch in batches]
    return Counting(torch.tensor(counts, dtype=torch.float32).sum(dim=0).to(device, non_blocking=True))


def target_divisor(annotated: Tensor, most: Tensor) -> Tensor:
    """Divisor of a sum over predictions that is reported per annotated object or pair.

    A step without a single annotation, on all GPUs together, has nothing to report per annotation. Its sum still says
    that nothing is there, and is divided by the most that could have been annotated: every query, or every ordered
    pair of queries. So it is the mean over the predictions and never weighs more than a step with annotations; divided
    by 1, it would weigh as much as all annotations of a usual step together.

    Args:
        annotated: scalar, a count of `LossCounts`.
        most: scalar, number of queries or of pairs of queries in the step's images.
    """
    return torch.where(annotated > 0, annotated, most)
