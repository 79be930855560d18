"""What a loader hands over: a list of samples whose tensors travel between processes together."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes


class Batch(list):
    """A list of samples that a loader's pinning thread can pin.

    Between processes all its tensors travel in one block of shared memory; torch would make a file for each of them.

    Attributes:
        skipped: entries of `SkippedSamples`.
    """

    skipped: Sequence[tuple[str, str, str]] = ()

    def pin_memory(self) -> Batch:
        """Move images and masks to page-locked memory, which copies to a GPU without waiting."""
        for sample in self:
            sample["image"] = sample["image"].pin_memory()
            if "instances" in sample and hasattr(sample["instances"].gt_masks, "pin_memory"):
                sample["instances"].gt_masks = sample["instances"].gt_masks.pin_memory()
        return self

    def __reduce__(self) -> tuple:
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump((list(self), self.skipped))
        block = torch.empty(pickler.size, dtype=torch.uint8)
        for place, tensor in zip(pickler.places, pickler.tensors, strict=True):
            _view(block, *place).copy_(tensor)
        return _unpickle, (file.getvalue(), block, pickler.places)


class _Pickler(pickle.Pickler):
    """Leaves tensors out, and gives each a place in a block of bytes: start, dtype, shape."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.places: list[tuple[int, torch.dtype, torch.Size]] = []
        self.tensors: list[Tensor] = []
        self.size = 0

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) is not Tensor:
            return None
        self.places.append((self.size, obj.dtype, obj.shape))
        self.tensors.append(obj)
        self.size += -(-obj.nbytes // _ALIGNMENT) * _ALIGNMENT
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, tensors: list[Tensor]):
        super().__init__(io.BytesIO(content))
        self.tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        return self.tensors[pid]


def _unpickle(content: bytes, block: Tensor, places: list[tuple[int, torch.dtype, torch.Size]]) -> Batch:
    samples, skipped = _Unpickler(content, [_view(block, *place) for place in places]).load()
    batch = Batch(samples)
    batch.skipped = skipped
    return batch


def _view(block: Tensor, start: int, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    return block[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
