"""The `MultiScaleDeformableAttention` extension of Deformable DETR and Mask2Former as a backend, where installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EXTENSION = "MultiScaleDeformableAttention"
# The extension handles this many images in one launch and wants the batch to be a multiple.
MAX_IMAGES_PER_LAUNCH = 64


def is_installed() -> bool:
    """Whether the extension of Deformable DETR or Mask2Former is there."""
    return importlib.util.find_spec(EXTENSION) is not None


@lru_cache(maxsize=1)
def _extension():
    return importlib.import_module(EXTENSION)


class _Upstream(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, shapes, starts, locations, weights, step):
        ctx.step = step
        ctx.save_for_backward(value, shapes, starts, locations, weights)
        return _extension().ms_deform_attn_forward(value, shapes, starts, locations, weights, step)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        arguments = (*ctx.saved_tensors, grad_output.contiguous(), ctx.step)
        value, locations, weights = _extension().ms_deform_attn_backward(*arguments)
        return value, None, None, locations, weights, None


def ms_deform_attn_upstream(
    value: Tensor, shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Same arguments and result as `ms_deform_attn_reference`; half types are computed in float32."""
    batch = value.shape[0]
    step = next(size for size in range(min(batch, MAX_IMAGES_PER_LAUNCH), 0, -1) if batch % size == 0)
    levels = torch.tensor(shapes, dtype=torch.int64, device=value.device)
    starts = torch.cat([levels.new_zeros(1), levels.prod(1).cumsum(0)[:-1]])
    dtype = sampling_locations.dtype
    output = _Upstream.apply(
        value.to(dtype).contiguous(), levels, starts, sampling_locations, attention_weights.to(dtype), step
    )
    return output.to(value.dtype)
